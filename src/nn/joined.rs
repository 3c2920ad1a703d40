//! Linear layers of one input as one product, on a CUDA GPU.

use candle_core::{Result, Tensor, TensorId};

use super::{Activation, Linear, Pass, RmsNorm};
use crate::ops;
use crate::ops::joined_linear::{Part, joined_linear};

/// The weights of several layers, one after the other in one tensor, of which the layers' own are views.
#[derive(Debug, Clone)]
pub struct Joined {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The layers' own weights and biases.
    of: Vec<TensorId>,
}

impl Joined {
    /// Puts the weights of these layers into one tensor; none where they are trained, or only some have a bias.
    pub(crate) fn new(linears: &mut [&mut Linear]) -> Result<Option<Self>> {
        let biases = linears.iter().filter(|linear| linear.bias.is_some()).count();
        let trained = |linear: &&mut Linear| {
            linear.weight.track_op() || linear.bias.as_ref().is_some_and(Tensor::track_op)
        };
        if linears.iter().any(trained) || (biases != 0 && biases != linears.len()) {
            return Ok(None);
        }
        let weight = Tensor::cat(&linears.iter().map(|linear| &linear.weight).collect::<Vec<_>>(), 0)?;
        let all: Vec<&Tensor> = linears.iter().filter_map(|linear| linear.bias.as_ref()).collect();
        let bias = if all.is_empty() { None } else { Some(Tensor::cat(&all, 0)?) };
        let mut at = 0;
        for linear in linears.iter_mut() {
            let outputs = linear.out_features();
            linear.weight = weight.narrow(0, at, outputs)?;
            linear.bias = bias.as_ref().map(|bias| bias.narrow(0, at, outputs)).transpose()?;
            at += outputs;
        }
        let of = ids(linears.iter().map(|linear| &**linear));
        Ok(Some(Joined { weight, bias, of }))
    }

    /// Whether these are the layers, with the weights that they had.
    pub(crate) fn is_of(&self, linears: &[&Linear]) -> bool {
        self.of == ids(linears.iter().copied())
    }

    /// What [`Linear::forward`] of each gives, one after the other along the last dimension; none where each alone is to
    /// be taken.
    pub(crate) fn forward(&self, linears: &[&Linear], x: &Tensor, pass: Pass) -> Result<Option<Tensor>> {
        match self.is_of(linears) {
            true => product(linears, &self.weight, self.bias.as_ref(), x, pass, None),
            false => Ok(None),
        }
    }
}

/// `norm(x)` through layers of one input, and the gate if there is one, in one kernel: none where there is no such one, for more
/// than a few rows, with gradients, or with updates of the layers.
pub(super) fn of_few(
    linears: &[&Linear],
    joined: Option<&Joined>,
    x: &Tensor,
    norm: &RmsNorm,
    gate: Option<Activation>,
    pass: Pass,
) -> Result<Option<Tensor>> {
    let updated = |linear: &&Linear| linear.lora.as_ref().is_some_and(|lora| lora.enabled);
    if pass.gradients || !x.device().is_cuda() || linears.iter().any(updated) {
        return Ok(None);
    }
    let (weight, bias) = match (linears, joined) {
        (_, Some(joined)) if joined.is_of(linears) => (&joined.weight, &joined.bias),
        ([linear], None) => (&linear.weight, &linear.bias),
        _ => return Ok(None),
    };
    let (factor, eps) = norm.plain()?;
    let gate = gate.map(|gate| match gate {
        Activation::Silu => ops::Activation::Silu,
        Activation::GeluTanh => ops::Activation::Gelu,
    });
    let bias = bias.as_ref().map(Tensor::detach);
    ops::norm_linear(&x.detach(), (&factor, eps), &weight.detach(), bias.as_ref(), gate)
}

fn ids<'a>(linears: impl Iterator<Item = &'a Linear>) -> Vec<TensorId> {
    linears
        .flat_map(|linear| [Some(linear.weight.id()), linear.bias.as_ref().map(Tensor::id)])
        .flatten()
        .collect()
}

/// Layers in one product, with what is added to it.
pub(super) fn product(
    linears: &[&Linear],
    weight: &Tensor,
    bias: Option<&Tensor>,
    x: &Tensor,
    pass: Pass,
    onto: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let loras = || linears.iter().filter_map(|linear| linear.lora.as_ref().filter(|lora| lora.enabled));
    let drops = pass.dropout_seed.is_some() && loras().any(|lora| lora.dropout > 0.);
    if drops || loras().any(|lora| lora.magnitude.is_some()) {
        return Ok(None);
    }
    let factors: Vec<_> = linears
        .iter()
        .map(|linear| {
            let lora = linear.lora.as_ref().filter(|lora| lora.enabled)?;
            Some((pass.tensor(&lora.a), pass.tensor(&lora.b), lora.scale))
        })
        .collect();
    let parts: Vec<Part<'_>> = linears
        .iter()
        .zip(&factors)
        .map(|(linear, lora)| Part {
            outputs: linear.out_features(),
            lora: lora.as_ref().map(|(a, b, scale)| (a, b, *scale)),
        })
        .collect();
    let bias = bias.map(|bias| pass.tensor(bias));
    joined_linear(x, &pass.tensor(weight), bias.as_ref(), &parts, onto)
}
