//! One training step's loss and gradients, a layer at a time.
//!
//! Each layer runs on a leaf of its own, so that backward goes from the last layer to the first with one layer's
//! graph alive: activations are freed as it passes, layers below the first trained one keep none, and with
//! checkpointing a layer keeps only its input and is run again. Everything inside a layer is Candle's autograd
//! over the fused ops.

use super::data::Batch;
use crate::error::Result;
use crate::kernels::{Fused, FusedOp, Input};
use crate::models::{Context, Model};
use crate::nn::Pass;
use crate::ops::{CrossEntropy, Keys, linear_cross_entropy};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, Shape, Tensor, TensorId, Var};
use std::collections::HashMap;

/// How a step runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOptions {
    /// Keep each layer's input only, and run the layer again in backward.
    pub grad_checkpoint: bool,
    /// What LoRA dropout is drawn from; none for no dropout.
    pub dropout_seed: Option<u64>,
}

/// Gradients of variables.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient of a variable.
    pub fn get(&self, var: &Tensor) -> Option<&Tensor> {
        self.0.get(&var.id())
    }

    /// Takes what `store` holds for `vars`, and adds it to what is here.
    fn collect(&mut self, store: &mut GradStore, vars: &[(String, Var)]) -> candle_core::Result<()> {
        for (_, var) in vars {
            if let Some(new) = store.remove(var) {
                self.add(var, new)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, var: &Tensor, new: Tensor) -> candle_core::Result<()> {
        let sum = match self.0.remove(&var.id()) {
            Some(old) => (old + new)?,
            None => new,
        };
        self.0.insert(var.id(), sum);
        Ok(())
    }
}

/// The mean loss over the batch's targets, without gradients.
///
/// # Errors
///
/// When a token is outside the vocabulary.
pub fn loss(model: &Model, batch: &Batch) -> Result<f32> {
    let (ids, targets) = tensors(batch, model.device())?;
    let context = model.context(batch.batch, batch.seq_len, Keys::All, Pass::default())?;
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
    let (ids, targets) = tensors(batch, model.device())?;
    let pass = Pass { gradients: true, dropout_seed: options.dropout_seed };
    let context = model.context(batch.batch, batch.seq_len, Keys::All, pass)?;
    let mut silent: Context = context.clone();
    silent.pass.gradients = false;
    let first = first_trained_layer(model);

    // Forward. `saved` holds, for each layer from `first` on, its leaf and, unless it is to be run again, its output.
    let embedded = model.embed(&ids, pass)?;
    let trained_below = embedded.track_op();
    let mut x = embedded.detach();
    let mut saved = Vec::new();
    for (i, layer) in model.layers().iter().enumerate() {
        if i < first && !trained_below {
            x = layer.forward(&x, &silent)?;
            continue;
        }
        let leaf = match trained_below || i > first {
            true => Var::from_tensor(&x)?.into_inner(),
            false => x,
        };
        let y = match options.grad_checkpoint {
            true => layer.forward(&leaf.detach(), &silent)?,
            false => layer.forward(&leaf, &context)?,
        };
        x = y.detach();
        saved.push((layer, leaf, (!options.grad_checkpoint).then_some(y)));
    }
    let leaf = match trained_below || first < model.layers().len() {
        true => Var::from_tensor(&x)?.into_inner(),
        false => x,
    };
    let hidden = model.final_norm(&leaf, pass)?.flatten_to(1)?;
    let loss = linear_cross_entropy(&hidden, model.head(), &targets, &CrossEntropy::default())?;
    let value = loss.to_scalar::<f32>()?;

    // Backward.
    let mut store = (loss * weight)?.backward()?;
    drop(hidden);
    gradients.collect(&mut store, vars)?;
    let mut g = store.remove(&leaf);
    drop(store);
    while let Some((layer, leaf, y)) = saved.pop() {
        let upstream = g.take().ok_or_else(cut)?;
        let y = match y {
            Some(y) => y,
            None => layer.forward(&leaf, &context)?,
        };
        let mut store = seed(&y, upstream)?.backward()?;
        drop(y);
        gradients.collect(&mut store, vars)?;
        g = store.remove(&leaf);
    }
    if trained_below {
        let upstream = g.ok_or_else(cut)?;
        gradients.collect(&mut seed(&embedded, upstream)?.backward()?, vars)?;
    }
    Ok(value)
}

fn cut() -> candle_core::Error {
    candle_core::Error::Msg("backward: wants a gradient at every layer's input, got none: an op cut the graph".into())
}

/// The first layer with something to train; the number of layers if there is none.
fn first_trained_layer(model: &Model) -> usize {
    model.layers().iter().position(|layer| layer.is_trained()).unwrap_or(model.layers().len())
}

fn tensors(batch: &Batch, device: &Device) -> Result<(Tensor, Tensor)> {
    let ids = Tensor::from_slice(&batch.input_ids, (batch.batch, batch.seq_len), device)?;
    let targets = Tensor::from_slice(&batch.targets, batch.batch * batch.seq_len, device)?;
    Ok((ids, targets))
}

/// A scalar whose gradient at `y` is `g`: where a vector-Jacobian product starts.
fn seed(y: &Tensor, g: Tensor) -> candle_core::Result<Tensor> {
    y.apply_op1(Fused(Seed(g)))
}

struct Seed(Tensor);

impl FusedOp<1> for Seed {
    const NAME: &'static str = "seed";

    fn cpu(&self, _: [Input<'_>; 1]) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn grad(&self, _: [&Tensor; 1], _: &Tensor, _: &Tensor) -> candle_core::Result<[Option<Tensor>; 1]> {
        Ok([Some(self.0.clone())])
    }
}
