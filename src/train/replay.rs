//! A training step on a CUDA GPU as one launch: forward and backward over batches of one shape, captured and replayed.
//!
//! What changes from step to step is in the GPU's memory: ids, targets, the loss's weight, the variables. A graph leaves
//! the loss and all gradients in one tensor. What it leaves when it is new is compared with what the same step gave
//! without it: only what is equal is used.

use super::data::Batch;
use super::memory::MemoryPlan;
use super::step::{GradCheckpoint, Gradients, Inputs, StepOptions, Stepper};
use crate::device;
use crate::error::Result;
use crate::kernels::cpu::in_pool;
use crate::kernels::cuda::{ahead, graph::Graph};
use crate::kernels::gather::gather;
use crate::kernels::gpu::Gpu;
use crate::models::Model;
use crate::ops::{IGNORE, Keys};
use candle_core::{DType, Device, Tensor, Var};

/// Steps of a shape that run without a graph: data of few lengths has them, and a graph costs more than two steps.
const RUNS: usize = 2;
/// Graphs that are kept.
const GRAPHS: usize = 4;
/// Shapes that are remembered.
const SHAPES: usize = 64;
/// What a tensor's place in a graph's results is a multiple of.
const ALIGN: usize = 64;

/// What a graph is for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: usize,
    len: usize,
    grad_checkpoint: GradCheckpoint,
}

/// The graphs of a [`Stepper`], those used last at the end.
pub(super) struct Replays {
    possible: bool,
    seen: Vec<(Shape, usize)>,
    graphs: Vec<Replay>,
}

struct Replay {
    shape: Shape,
    inputs: Inputs,
    /// The loss, and from `ALIGN` on the gradients.
    results: Tensor,
    graph: Graph,
}

impl Replays {
    pub fn new(model: &Model) -> Result<Self> {
        Ok(Replays { possible: model.is_step_replayable()?, seen: Vec::new(), graphs: Vec::new() })
    }

    pub fn count(&self) -> usize {
        self.graphs.len()
    }

    /// How often a shape was seen, this time included.
    fn see(&mut self, shape: Shape) -> usize {
        let at = self.seen.iter().position(|(seen, _)| *seen == shape);
        let (_, before) = at.map_or((shape, 0), |at| self.seen.remove(at));
        if self.seen.len() == SHAPES {
            self.seen.remove(0);
        }
        self.seen.push((shape, before + 1));
        before + 1
    }
}

impl Stepper<'_> {
    /// Compiles the kernels of a first step, several at a time.
    pub(super) fn compile_ahead(&mut self, batch: &Batch, weight: f64, options: StepOptions) {
        let Device::Cuda(device) = self.model.device() else { return };
        if std::mem::replace(&mut self.compiled, true) || !self.model.is_compiled_ahead() {
            return;
        }
        let step = || {
            let inputs = Inputs::new(self.model, batch, weight, options, &Device::Cpu)?;
            self.step(&inputs, options.grad_checkpoint, &mut Gradients::default())
        };
        let work = || ahead::compile_ahead(device, || step().map(drop).map_err(candle_core::Error::wrap));
        // What is wrong with the step is told when it is made.
        in_pool(work).ok();
    }

    /// The step by a graph; none where there is none.
    pub(super) fn replayed(
        &mut self,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let Device::Cuda(device) = self.model.device() else { return Ok(None) };
        // What is refused is refused by the ops.
        if !self.replays.possible || !matches!(batch.keys(), Keys::All) || !self.is_sound(batch) {
            return Ok(None);
        }
        let shape = Shape { rows: batch.batch, len: batch.seq_len, grad_checkpoint: options.grad_checkpoint };
        if let Some(at) = self.replays.graphs.iter().position(|replay| replay.shape == shape) {
            let mut replay = self.replays.graphs.remove(at);
            replay.inputs.set(batch, weight)?;
            replay.graph.launch()?;
            let loss = self.take(&replay.results.copy()?, gradients)?;
            self.replays.graphs.push(replay);
            return Ok(Some(loss));
        }
        if self.replays.see(shape) <= RUNS {
            return Ok(None);
        }
        let results = self.results()?;
        let once = {
            let mut found = Gradients::default();
            let loss = self.eager(batch, weight, options, &mut found)?;
            self.leave(Gpu::Cuda(device), &loss, &found, &results)?;
            results.copy()?
        };
        self.replays.possible = match self.capture(shape, batch, weight, options, results) {
            Ok(Some(replay)) => {
                let good = self.is_near(&replay.results, &once)?;
                if good {
                    self.replays.graphs.push(replay);
                }
                good
            }
            Ok(None) => true,
            // The step has been made without.
            Err(_) => false,
        };
        self.take(&once, gradients).map(Some)
    }

    /// A graph that has run once; none where memory has no room for another.
    fn capture(
        &mut self,
        shape: Shape,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        results: Tensor,
    ) -> Result<Option<Replay>> {
        let Device::Cuda(device) = self.model.device() else { return Ok(None) };
        if self.replays.graphs.len() == GRAPHS {
            self.replays.graphs.remove(0);
        }
        device::release_kept(self.model.device())?;
        let plan = MemoryPlan::new(self.model, shape.rows, shape.len, shape.grad_checkpoint);
        let wanted = (plan.to_come() + plan.to_come() / 10) as u64;
        if device::available(self.model.device()).is_some_and(|available| available < wanted) {
            return Ok(None);
        }
        let mut inputs = Inputs::new(self.model, batch, weight, options, self.model.device())?;
        inputs.context.pass.dropout_seed = None;
        // All of it is freed before the capture ends.
        let work = || {
            let mut found = Gradients::default();
            let loss =
                self.step(&inputs, options.grad_checkpoint, &mut found).map_err(candle_core::Error::wrap)?;
            self.leave(Gpu::Cuda(device), &loss, &found, &results).map_err(candle_core::Error::wrap)
        };
        let mut graph = Graph::capture(device, work)?;
        graph.launch()?;
        Ok(Some(Replay { shape, inputs, results, graph }))
    }

    /// Whether all ids and targets are in the vocabulary.
    fn is_sound(&self, batch: &Batch) -> bool {
        let vocabulary = self.model.config.vocab_size;
        let known = |target: &i64| *target == IGNORE || (0..vocabulary as i64).contains(target);
        batch.input_ids.iter().all(|id| (*id as usize) < vocabulary) && batch.targets.iter().all(known)
    }

    /// Each variable and where its gradient begins among the results; where they end.
    fn places(&self) -> (Vec<(&Var, usize)>, usize) {
        let mut end = ALIGN;
        let place = |(_, var): &'_ (String, Var)| {
            let at = end;
            end += var.elem_count().next_multiple_of(ALIGN);
            at
        };
        let starts: Vec<usize> = self.vars.iter().map(place).collect();
        (self.vars.iter().map(|(_, var)| var).zip(starts).collect(), end)
    }

    fn results(&self) -> Result<Tensor> {
        Ok(Tensor::zeros(self.places().1, DType::F32, self.model.device())?)
    }

    /// Puts a loss and gradients in their places.
    fn leave(&self, gpu: Gpu<'_>, loss: &Tensor, found: &Gradients, results: &Tensor) -> Result<()> {
        let gradients = self.places().0.into_iter().filter_map(|(var, at)| Some((found.get(var)?, at)));
        let all: Vec<_> = std::iter::once((loss, 0)).chain(gradients).collect();
        Ok(gather(gpu, &all, results)?)
    }

    /// The loss; gradients are added.
    fn take(&self, results: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        for (var, at) in self.places().0 {
            gradients.add(var, results.narrow(0, at, var.elem_count())?.reshape(var.shape())?)?;
        }
        Ok(results.narrow(0, 0, 1)?.reshape(())?)
    }

    /// Whether results are others within rounding, the loss and the gradient of each variable by itself: work that went
    /// elsewhere leaves none of them right.
    fn is_near(&self, results: &Tensor, wanted: &Tensor) -> Result<bool> {
        let (results, wanted) = (results.to_vec1::<f32>()?, wanted.to_vec1::<f32>()?);
        let near = |at: usize, len: usize| {
            let (a, b) = (&results[at..][..len], &wanted[at..][..len]);
            let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 0.02 * largest || a.is_nan() && b.is_nan())
        };
        Ok(near(0, 1) && self.places().0.into_iter().all(|(var, at)| near(at, var.elem_count())))
    }
}

impl Inputs {
    /// Others of the same shape, in the same memory.
    fn set(&self, batch: &Batch, weight: f64) -> Result<()> {
        let device = self.ids.device();
        self.ids.slice_set(&Tensor::from_slice(&batch.input_ids, self.ids.shape(), device)?, 0, 0)?;
        self.targets.slice_set(&Tensor::from_slice(&batch.targets, self.targets.shape(), device)?, 0, 0)?;
        self.seed.reshape(1)?.slice_set(&Tensor::new(&[weight as f32], device)?, 0, 0)?;
        Ok(())
    }
}
