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
use crate::kernels::cuda::{ahead, graph::Graph, profile};
use crate::kernels::gather::gather;
use crate::kernels::gpu::Gpu;
use crate::models::Model;
use crate::ops::{IGNORE, Keys};
use candle_core::{DType, Device, Tensor, Var};

/// Steps of a shape that run without a graph: data of few lengths has them, and a graph costs more than two steps.
const RUNS: usize = 2;
/// Graphs that are kept. Their memory is one: a graph's is free for others once it has run.
const GRAPHS: usize = 16;
/// Shapes that are remembered.
const SHAPES: usize = 256;
/// What a tensor's place in a graph's results is a multiple of.
const ALIGN: usize = 64;

/// What a graph is for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: usize,
    len: usize,
    grad_checkpoint: GradCheckpoint,
}

/// A shape that has come.
struct Seen {
    shape: Shape,
    times: usize,
    /// Memory had no room for its graph.
    refused: bool,
}

/// The graphs of a [`Stepper`].
pub(super) struct Replays {
    device: Device,
    possible: bool,
    /// Those that came last at the end.
    seen: Vec<Seen>,
    graphs: Vec<Replay>,
    /// The loss, and from `ALIGN` on the gradients that a graph leaves.
    results: Option<Tensor>,
    /// The bytes of the largest step that runs without a graph.
    largest: usize,
}

struct Replay {
    shape: Shape,
    inputs: Inputs,
    graph: Graph,
}

impl Replays {
    pub fn new(model: &Model) -> Result<Self> {
        Ok(Replays {
            device: model.device().clone(),
            possible: model.is_step_replayable()?,
            seen: Vec::new(),
            graphs: Vec::new(),
            results: None,
            largest: 0,
        })
    }

    pub fn count(&self) -> usize {
        self.graphs.len()
    }

    /// How often a shape was seen.
    fn times(&self, shape: Shape) -> usize {
        self.seen.iter().find(|seen| seen.shape == shape).map_or(0, |seen| seen.times)
    }

    /// Counts a shape that comes. Whether it should have a graph: what comes often, in the place of what came at most
    /// half as often, so that no two shapes take turns.
    fn wants(&mut self, shape: Shape) -> bool {
        let at = self.seen.iter().position(|seen| seen.shape == shape);
        let mut seen = at.map_or(Seen { shape, times: 0, refused: false }, |at| self.seen.remove(at));
        seen.times += 1;
        let (times, refused) = (seen.times, seen.refused);
        if self.seen.len() == SHAPES {
            self.seen.remove(0);
        }
        self.seen.push(seen);
        let least = self.graphs.iter().map(|replay| self.times(replay.shape)).min().unwrap_or(0);
        times > RUNS && !refused && (self.graphs.len() < GRAPHS || 2 * least <= times)
    }

    /// Has no graph made of a shape.
    fn refuse(&mut self, shape: Shape) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.shape == shape) {
            seen.refused = true;
        }
    }

    /// What the graph of a shape gives, if there is one.
    fn launch(&mut self, shape: Shape, batch: &Batch, weight: f64) -> Result<Option<Tensor>> {
        let replay = self.graphs.iter_mut().find(|replay| replay.shape == shape);
        let (Some(replay), Some(results)) = (replay, &self.results) else { return Ok(None) };
        replay.inputs.set(batch, weight)?;
        replay.graph.launch()?;
        Ok(Some(results.clone()))
    }

    /// Makes a place for one more.
    fn make_place(&mut self) {
        if self.graphs.len() == GRAPHS {
            let rare = (0..GRAPHS).min_by_key(|at| self.times(self.graphs[*at].shape));
            self.graphs.swap_remove(rare.unwrap_or(0));
        }
    }

    /// Drops all graphs and gives their memory back.
    fn give_up(&mut self) {
        self.possible = false;
        self.graphs.clear();
        self.results = None;
        device::release_kept(&self.device).ok();
    }
}

impl Drop for Replays {
    fn drop(&mut self) {
        if !self.graphs.is_empty() {
            self.give_up();
        }
    }
}

impl Stepper<'_> {
    /// As `eager`, by a graph where there is one.
    pub(super) fn by_graph(
        &mut self,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        if !std::mem::replace(&mut self.compiled, true) {
            self.compile_ahead(batch, weight, options);
        }
        // What is wrong with a batch is told by the ops, and a profile is of kernels.
        let plain = matches!(batch.keys(), Keys::All) && self.is_sound(batch) && !profile::is_on();
        if !self.replays.possible || !plain {
            return self.eager(batch, weight, options, gradients);
        }
        let shape = Shape { rows: batch.batch, len: batch.seq_len, grad_checkpoint: options.grad_checkpoint };
        let wanted = self.replays.wants(shape);
        match self.replays.launch(shape, batch, weight) {
            Ok(Some(results)) => return self.take(&results, gradients),
            Ok(None) => {}
            Err(_) => self.replays.give_up(),
        }
        self.replays.largest = self.replays.largest.max(self.plan(shape));
        if !wanted || !self.replays.possible {
            return self.eager(batch, weight, options, gradients);
        }
        let mut found = Gradients::default();
        let loss = self.eager(batch, weight, options, &mut found)?;
        match self.capture(shape, batch, weight, options, (&loss, &found)) {
            Ok(true) => {}
            Ok(false) => self.replays.refuse(shape),
            Err(_) => self.replays.give_up(),
        }
        for (_, var) in &self.vars {
            found.remove(var).map_or(Ok(()), |g| gradients.add(var, g))?;
        }
        Ok(loss)
    }

    /// Compiles the kernels of a first step, several at a time.
    fn compile_ahead(&self, batch: &Batch, weight: f64, options: StepOptions) {
        let Device::Cuda(device) = self.model.device() else { return };
        if !self.model.is_compiled_ahead() {
            return;
        }
        let step = || self.eager(batch, weight, options, &mut Gradients::default());
        let work = || ahead::compile_ahead(device, || step().map(drop).map_err(candle_core::Error::wrap));
        // What is wrong with the step is told when it is made.
        in_pool(work).ok();
    }

    /// The bytes that a step over batches of a shape takes and gives back.
    fn plan(&self, shape: Shape) -> usize {
        let plan = MemoryPlan::new(self.model, shape.rows, shape.len, shape.grad_checkpoint);
        plan.activations + plan.transient + plan.gradients
    }

    /// Makes a graph of a step, which left this loss and these gradients, and keeps it if it leaves the same. They must be
    /// finite to tell: a later step of the shape has its turn. False where memory has no room for it beside the largest step without one, or a gradient is missing.
    fn capture(
        &mut self,
        shape: Shape,
        batch: &Batch,
        weight: f64,
        options: StepOptions,
        (loss, found): (&Tensor, &Gradients),
    ) -> Result<bool> {
        let Device::Cuda(device) = self.model.device() else { return Ok(false) };
        if self.vars.iter().any(|(_, var)| found.get(var).is_none()) {
            return Ok(false);
        }
        let wanted = (self.plan(shape) + self.replays.largest) as u64;
        let has_room = |available: u64| available >= wanted + wanted / 10;
        if !device::available(self.model.device()).is_none_or(has_room) {
            return Ok(false);
        }
        self.replays.make_place();
        let (gpu, results) = (Gpu::Cuda(device), self.results()?);
        self.leave(gpu, loss, found, &results)?;
        let once = results.to_vec1::<f32>()?;
        if !self.is_near(&once, &once) {
            return Ok(true);
        }
        // What the graph does not write is not what the step left.
        results.slice_set(&Tensor::full(f32::NAN, once.len(), results.device())?, 0, 0)?;
        // Graphs take nothing of what the pool keeps.
        device::release_kept(self.model.device())?;
        let mut inputs = Inputs::new(self.model, batch, weight, options, self.model.device())?;
        inputs.context.pass.dropout_seed = None;
        // All of it is freed before the capture ends.
        let work = || {
            let mut found = Gradients::default();
            let step = self.step(&inputs, options.grad_checkpoint, &mut found);
            let loss = step.map_err(candle_core::Error::wrap)?;
            self.leave(gpu, &loss, &found, &results).map_err(candle_core::Error::wrap)
        };
        let mut graph = Graph::capture(device, work)?;
        graph.launch()?;
        if !self.is_near(&results.to_vec1()?, &once) {
            let reason = "cuda graph: wants what the step gave, got something else";
            return Err(candle_core::Error::Msg(reason.into()).into());
        }
        self.replays.graphs.push(Replay { shape, inputs, graph });
        Ok(true)
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

    /// Where all graphs leave what they compute.
    fn results(&mut self) -> Result<Tensor> {
        let results = match self.replays.results.take() {
            Some(results) => results,
            None => Tensor::zeros(self.places().1, DType::F32, self.model.device())?,
        };
        Ok(self.replays.results.insert(results).clone())
    }

    /// Puts a loss and gradients in their places.
    fn leave(&self, gpu: Gpu<'_>, loss: &Tensor, found: &Gradients, results: &Tensor) -> Result<()> {
        let mut all = vec![(loss, 0)];
        for (var, at) in self.places().0 {
            let missing =
                || candle_core::Error::Msg("cuda graph: wants every gradient, got none of one".into());
            all.push((found.get(var).ok_or_else(missing)?, at));
        }
        Ok(gather(gpu, &all, results)?)
    }

    /// The loss; gradients are added.
    fn take(&self, results: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        let loss = results.narrow(0, 0, 1)?.copy()?.reshape(())?;
        // What is added to others is read now; what is kept must outlive the next launch.
        let kept = self.vars.iter().any(|(_, var)| gradients.get(var).is_none());
        let results = if kept { results.copy()? } else { results.clone() };
        for (var, at) in self.places().0 {
            gradients.add(var, results.narrow(0, at, var.elem_count())?.reshape(var.shape())?)?;
        }
        Ok(loss)
    }

    /// Whether results are others within rounding, the loss and the gradient of each variable by itself: work that went
    /// elsewhere leaves none of them right.
    fn is_near(&self, results: &[f32], wanted: &[f32]) -> bool {
        let near = |at: usize, len: usize| {
            let (a, b) = (&results[at..][..len], &wanted[at..][..len]);
            let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 0.02 * largest)
        };
        near(0, 1) && self.places().0.into_iter().all(|(var, at)| near(at, var.elem_count()))
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
