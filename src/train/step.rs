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
use std::fmt;

/// Which layers keep their input only, and are run again in backward: less memory, more time, the same gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GradCheckpoint {
    /// None.
    #[default]
    None,
    /// So many, from the first that backward reaches.
    First(usize),
    /// All.
    All,
}

impl GradCheckpoint {
    /// Whether layer `i` is one, counted from the first that backward reaches.
    pub fn covers(self, i: usize) -> bool {
        match self {
            GradCheckpoint::None => false,
            GradCheckpoint::First(count) => i < count,
            GradCheckpoint::All => true,
        }
    }
}

impl From<bool> for GradCheckpoint {
    fn from(all: bool) -> Self {
        if all { GradCheckpoint::All } else { GradCheckpoint::None }
    }
}

impl fmt::Display for GradCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GradCheckpoint::None => f.write_str("no layers"),
            GradCheckpoint::First(count) => write!(f, "the first {count} layers"),
            GradCheckpoint::All => f.write_str("all layers"),
        }
    }
}

/// How a step runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOptions {
    /// Which layers keep their input only.
    pub grad_checkpoint: GradCheckpoint,
    /// What LoRA dropout is drawn from; none for no dropout.
    pub dropout_seed: Option<u64>,
}

/// The mean loss over the batch's targets, without gradients.
///
/// # Errors
///
/// When a token is outside the vocabulary.
pub fn loss(model: &Model, batch: &Batch) -> Result<f32> {
    let inputs = Inputs::new(model, batch, 1.0, StepOptions::default(), &Device::Cpu)?;
    let Inputs { ids, targets, mut context, .. } = inputs;
    context.pass = Pass::default();
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

/// As [`loss_and_gradients`], without waiting for a GPU to have the loss. A loop of steps has a [`Stepper`].
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
    Stepper::new(model, vars)?.eager(batch, weight, options, gradients)
}

/// Steps of one model. What is the same in all of them is made once: on a CUDA GPU, a graph for batches of a shape that
/// comes again.
pub struct Stepper<'a> {
    pub(super) model: &'a Model,
    pub(super) vars: Vec<(String, Var)>,
    pub(super) casts: Option<casts::Table>,
    #[cfg(feature = "cuda")]
    pub(super) replays: super::replay::Replays,
    /// Whether kernels have been compiled.
    #[cfg(feature = "cuda")]
    pub(super) compiled: bool,
}

impl<'a> Stepper<'a> {
    /// For steps that change `vars` in place only.
    ///
    /// # Errors
    ///
    /// When a GPU has no room.
    pub fn new(model: &'a Model, vars: &[(String, Var)]) -> Result<Self> {
        let factors: Vec<&Tensor> = model.layers().iter().flat_map(|layer| layer.factors()).collect();
        Ok(Stepper {
            model,
            vars: vars.to_vec(),
            casts: casts::Table::new(&factors, model.dtype())?,
            #[cfg(feature = "cuda")]
            replays: super::replay::Replays::new(model)?,
            #[cfg(feature = "cuda")]
            compiled: false,
        })
    }

    /// As [`backward`].
    ///
    /// # Errors
    ///
    /// As [`backward`].
    pub fn backward(
        &mut self,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        return self.by_graph(batch, weight, options, gradients);
        #[cfg(not(feature = "cuda"))]
        self.eager(batch, weight, options, gradients)
    }

    /// How many shapes of batches have a graph.
    pub fn graphs(&self) -> usize {
        #[cfg(feature = "cuda")]
        return self.replays.count();
        #[cfg(not(feature = "cuda"))]
        0
    }

    pub(super) fn eager(
        &self,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let inputs = Inputs::new(self.model, batch, weight, options, &Device::Cpu)?;
        in_pool(|| self.step(&inputs, options.grad_checkpoint, gradients))
    }

    pub(super) fn step(
        &self,
        inputs: &Inputs,
        grad_checkpoint: GradCheckpoint,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let run = || Ok(step(self.model, &self.vars, inputs, grad_checkpoint, gradients));
        casts::during(self.casts.as_ref(), run)?
    }
}

/// What differs from step to step.
pub(super) struct Inputs {
    /// (B, T), `u32`.
    pub ids: Tensor,
    /// (B T), `i64`.
    pub targets: Tensor,
    /// The gradient of the loss: a number on the model's device.
    pub seed: Tensor,
    pub context: Context,
}

impl Inputs {
    /// Ids and targets are best on the CPU, where ops check them before they move them to the model's device.
    pub fn new(
        model: &Model,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        device: &Device,
    ) -> Result<Self> {
        let pass = Pass { gradients: true, dropout_seed: options.dropout_seed };
        Ok(Inputs {
            ids: Tensor::from_slice(&batch.input_ids, (batch.batch, batch.seq_len), device)?,
            targets: Tensor::from_slice(&batch.targets, batch.batch * batch.seq_len, device)?,
            seed: Tensor::new(weight as f32, model.device())?,
            context: model.context(batch.batch, batch.seq_len, batch.keys(), pass)?,
        })
    }
}

fn step(
    model: &Model,
    vars: &[(String, Var)],
    inputs: &Inputs,
    grad_checkpoint: GradCheckpoint,
    gradients: &mut Gradients,
) -> Result<Tensor> {
    let Inputs { ids, targets, seed, context } = inputs;
    let pass = context.pass;
    let mut silent: Context = context.clone();
    silent.pass.gradients = false;

    // Forward. `saved` holds the input of each layer that backward reaches, and its tape unless it is to be run again.
    let (mut x, embedding) = Tape::record(&[], || model.embed(ids, pass))?;
    let embedded = x.clone();
    let mut reached = embedding.tracks(&x);
    let mut saved = Vec::new();
    for layer in model.layers() {
        if !reached && !layer.is_trained() {
            x = layer.forward(&x, &silent)?;
            continue;
        }
        let leaves: &[&Tensor] = if reached { &[&x] } else { &[] };
        let (y, tape) = match grad_checkpoint.covers(saved.len()) {
            true => (layer.forward(&x, &silent)?, None),
            false => {
                let (y, tape) = Tape::record(leaves, || layer.forward(&x, context))?;
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
        linear_cross_entropy(&hidden, model.head(), targets, &CrossEntropy::default())
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
    let mut g = collect(tape.backward(&loss, seed.clone())?, &x)?;
    drop(x);
    while let Some((layer, x, reached, recorded)) = saved.pop() {
        let upstream = g.take().ok_or_else(cut)?;
        let (y, tape) = match recorded {
            Some(recorded) => recorded,
            None => {
                let leaves: &[&Tensor] = if reached { &[&x] } else { &[] };
                Tape::record(leaves, || layer.forward(&x, context))?
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
