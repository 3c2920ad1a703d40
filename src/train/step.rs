//! One training step's loss and gradients, a layer at a time.
//!
//! Each layer is recorded on a tape of its own, so that backward goes from the last layer to the first and frees
//! activations as it passes; layers below the first trained one keep none, and with checkpointing a layer keeps
//! only its input and is run again.

use super::data::Batch;
use crate::error::Result;
use crate::kernels::casts;
use crate::kernels::cpu::in_pool;
pub use crate::kernels::tape::Gradients;
use crate::kernels::tape::Tape;
use crate::models::{Context, Model};
use crate::nn::Pass;
use crate::ops::{self, CrossEntropy, linear_cross_entropy};
use candle_core::{Device, Tensor, Var};

/// How a step runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOptions {
    /// Keep each layer's input only, and run the layer again in backward.
    pub grad_checkpoint: bool,
    /// What LoRA dropout is drawn from; none for no dropout.
    pub dropout_seed: Option<u64>,
}

/// The mean loss over the batch's targets, without gradients.
///
/// # Errors
///
/// When a token is outside the vocabulary.
pub fn loss(model: &Model, batch: &Batch) -> Result<f32> {
    let (ids, targets) = tensors(batch)?;
    let context = model.context(batch.batch, batch.seq_len, batch.keys(), Pass::default())?;
    let hidden = model.hidden(&ids, &context)?.flatten_to(1)?;
    let loss = linear_cross_entropy(&hidden, &model.head().detach(), &targets, &CrossEntropy::default())?;
    Ok(loss.to_scalar()?)
}

/// The mean loss over the batch's targets; its gradient, times `weight`, is added to `gradients`.
///
/// # Errors
///
/// When a token is outside the vocabulary, or an op in the model has no gradient.
pub fn loss_and_gradients(
    model: &Model,
    vars: &[(String, Var)],
    batch: &Batch,
    weight: f64,
    options: StepOptions,
    gradients: &mut Gradients,
) -> Result<f32> {
    Ok(backward(model, vars, batch, weight, options, gradients)?.to_scalar()?)
}

/// As [`loss_and_gradients`], without waiting for a GPU to have the loss.
///
/// # Errors
///
/// As [`loss_and_gradients`].
pub fn backward(
    model: &Model,
    vars: &[(String, Var)],
    batch: &Batch,
    weight: f64,
    options: StepOptions,
    gradients: &mut Gradients,
) -> Result<Tensor> {
    let factors: Vec<&Tensor> = model.layers().iter().flat_map(|layer| layer.factors()).collect();
    let run = || Ok(step(model, vars, batch, weight, options, gradients));
    in_pool(|| casts::during(&factors, model.dtype(), run))?
}

fn step(
    model: &Model,
    vars: &[(String, Var)],
    batch: &Batch,
    weight: f64,
    options: StepOptions,
    gradients: &mut Gradients,
) -> Result<Tensor> {
    let (ids, targets) = tensors(batch)?;
    let pass = Pass { gradients: true, dropout_seed: options.dropout_seed };
    let context = model.context(batch.batch, batch.seq_len, batch.keys(), pass)?;
    let mut silent: Context = context.clone();
    silent.pass.gradients = false;

    // Forward. `saved` holds the input of each layer that backward reaches, and its tape unless it is to be run again.
    let (mut x, embedding) = Tape::record(&[], || model.embed(&ids, pass))?;
    let embedded = x.clone();
    let mut reached = embedding.tracks(&x);
    let mut saved = Vec::new();
    for layer in model.layers() {
        if !reached && !layer.is_trained() {
            x = layer.forward(&x, &silent)?;
            continue;
        }
        let leaves: &[&Tensor] = if reached { &[&x] } else { &[] };
        let (y, tape) = match options.grad_checkpoint {
            true => (layer.forward(&x, &silent)?, None),
            false => {
                let (y, tape) = Tape::record(leaves, || layer.forward(&x, &context))?;
                (y.clone(), Some((y, tape)))
            }
        };
        saved.push((layer, x, reached, tape));
        x = y;
        reached = true;
    }
    let leaves: &[&Tensor] = if reached { &[&x] } else { &[] };
    let (loss, tape) = Tape::record(leaves, || {
        let hidden = model.final_norm(&x, pass)?;
        let (rows, len, width) = hidden.dims3()?;
        let hidden = ops::reshape(&hidden, (rows * len, width))?;
        linear_cross_entropy(&hidden, model.head(), &targets, &CrossEntropy::default())
    })?;

    // Backward.
    let mut collect = |mut found: Gradients, leaf: &Tensor| -> Result<Option<Tensor>> {
        for (_, var) in vars {
            if let Some(g) = found.remove(var) {
                gradients.add(var, g)?;
            }
        }
        Ok(found.remove(leaf))
    };
    let seed = Tensor::new(weight as f32, model.device())?;
    let mut g = collect(tape.backward(&loss, seed)?, &x)?;
    drop(x);
    while let Some((layer, x, reached, recorded)) = saved.pop() {
        let upstream = g.take().ok_or_else(cut)?;
        let (y, tape) = match recorded {
            Some(recorded) => recorded,
            None => {
                let leaves: &[&Tensor] = if reached { &[&x] } else { &[] };
                Tape::record(leaves, || layer.forward(&x, &context))?
            }
        };
        g = collect(tape.backward(&y, upstream)?, &x)?;
    }
    if embedding.tracks(&embedded) {
        collect(embedding.backward(&embedded, g.ok_or_else(cut)?)?, &embedded)?;
    }
    Ok(loss)
}

fn cut() -> candle_core::Error {
    candle_core::Error::Msg(
        "backward: wants a gradient at every layer's input, got none: an op cut the graph".into(),
    )
}

/// Token ids and targets. They are on the CPU, where ops check them before they move them to the model's device.
fn tensors(batch: &Batch) -> Result<(Tensor, Tensor)> {
    let ids = Tensor::from_slice(&batch.input_ids, (batch.batch, batch.seq_len), &Device::Cpu)?;
    let targets = Tensor::from_slice(&batch.targets, batch.batch * batch.seq_len, &Device::Cpu)?;
    Ok((ids, targets))
}
