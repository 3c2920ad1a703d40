//! A training run: its options, what is seen of it, and how it begins.

use super::checkpoint::Checkpoint;
use super::data::{Batch, Dataset, InOrder, Splits};
use super::metrics::TrainLine;
use super::optim::AdamWConfig;
use super::run::Run;
use super::run_dir::{RunDir, Start};
use super::schedule::Schedule;
use super::step::{self, GradCheckpoint, Gradients, StepOptions, Stepper};
use crate::error::{Error, NotFinite, Result};
use crate::models::Model;
use crate::ops::covered;
use candle_core::Var;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// How a run trains.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Optimiser steps.
    pub iters: usize,
    /// Rows of a batch.
    pub batch_size: usize,
    /// Batches of a step.
    pub grad_accumulation_steps: usize,
    /// The learning rate by step.
    pub schedule: Schedule,
    /// The optimiser's constants.
    pub optimizer: AdamWConfig,
    /// The global norm gradients are clipped to.
    pub max_grad_norm: Option<f64>,
    /// Steps between two lines on the training loss.
    pub steps_per_report: usize,
    /// Steps between two validations.
    pub steps_per_eval: usize,
    /// Batches of a validation; none for all.
    pub val_batches: Option<usize>,
    /// Steps between two checkpoints that the run can go on from; 0 for none at all.
    pub save_every: usize,
    /// How many checkpoints are kept. None keeps all adapters, and what a run goes on from of the newest two.
    pub save_total_limit: Option<usize>,
    /// Put several rows into a sequence of at most `max_seq_length`; a batch is of `batch_size` sequences.
    pub pack: bool,
    /// What happens when a loss or a gradient is not finite.
    pub on_nan: OnNan,
    /// Which layers keep their input only, and are run again in backward.
    pub grad_checkpoint: GradCheckpoint,
    /// What the order of the data and dropout are drawn from.
    pub seed: u64,
    /// The directory of the adapter, its checkpoints and `metrics.jsonl`.
    pub output: PathBuf,
    /// Whether the run begins anew or goes on.
    pub start: Start,
}

/// What happens when a loss or a gradient is not finite; weights and moments never see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNan {
    /// The run ends with [`Error::NotFinite`].
    #[default]
    Stop,
    /// The step is passed over and counted; as many in a row as this end the run.
    Skip(usize),
}

/// As `mlx_lm.lora`: 1000 steps of 4 rows at 1e-5, into `adapters`.
impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            iters: 1000,
            batch_size: 4,
            grad_accumulation_steps: 1,
            schedule: Schedule::default(),
            optimizer: AdamWConfig::default(),
            max_grad_norm: Some(1.0),
            steps_per_report: 10,
            steps_per_eval: 200,
            val_batches: Some(25),
            save_every: 100,
            save_total_limit: None,
            pack: false,
            on_nan: OnNan::Stop,
            grad_checkpoint: GradCheckpoint::None,
            seed: 0,
            output: "adapters".into(),
            start: Start::New,
        }
    }
}

/// What happened, for a progress display.
#[derive(Clone, Debug)]
pub enum Event {
    /// The run goes on from this checkpoint.
    Resumed {
        /// The steps it had done.
        step: usize,
        /// Where the checkpoint is.
        from: PathBuf,
    },
    /// A step was passed over because its loss or its gradient is not finite.
    Skipped(NotFinite),
    /// A step is done.
    Step {
        /// Counted from 1.
        step: usize,
        /// Its mean loss.
        loss: f64,
    },
    /// A line on training.
    Train(TrainLine),
    /// Batches of a validation done, of how many.
    Validating(usize, usize),
    /// A line on validation.
    Valid {
        /// The step it was measured before.
        step: usize,
        /// The mean loss of the validation set's targets.
        loss: f64,
        /// How long it took.
        seconds: f64,
    },
    /// A checkpoint was written there.
    Saved(PathBuf),
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Steps done.
    pub steps: usize,
    /// Whether the watcher stopped it.
    pub interrupted: bool,
    /// The validation loss before step 1.
    pub valid_before: Option<f64>,
    /// The validation loss at the end.
    pub valid_after: Option<f64>,
    /// The lowest validation loss, and the step it was measured after.
    pub best: Option<(usize, f64)>,
    /// Targets trained on.
    pub tokens: u64,
    /// Steps that were passed over because their loss was not finite.
    pub skipped: usize,
    /// How long it took.
    pub seconds: f64,
}

/// The mean loss of a dataset's targets, over at most `limit` batches.
///
/// # Errors
///
/// When the model refuses a batch.
pub fn evaluate(
    model: &Model,
    dataset: &Dataset,
    batch_size: usize,
    limit: Option<usize>,
    mut on_batch: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<f64> {
    let batches = InOrder::new(dataset, batch_size);
    let total = batches.len().min(limit.unwrap_or(usize::MAX));
    let (mut sum, mut count) = (0f64, 0usize);
    for (i, batch) in batches.take(total).enumerate() {
        sum += step::loss(model, &batch)? as f64 * batch.target_tokens as f64;
        count += batch.target_tokens;
        if on_batch(i + 1, total).is_break() {
            break;
        }
    }
    Ok(sum / count.max(1) as f64)
}

/// Checks on a few tokens that every variable gets a finite gradient.
///
/// # Errors
///
/// [`Error::NoGradient`] with the names of those that do not.
pub fn check_gradients(model: &Model, vars: &[(String, Var)], batch: &Batch) -> Result<()> {
    let len = batch.seq_len.min(8);
    let input_ids = batch.input_ids[..len].to_vec();
    let probe = Batch {
        targets: input_ids.iter().map(|id| i64::from(*id)).collect(),
        input_ids,
        lengths: vec![len],
        batch: 1,
        seq_len: len,
        rows: vec![0],
        tokens: len,
        target_tokens: len,
        documents: None,
    };
    let mut gradients = Gradients::default();
    let mut stepper = Stepper::new(model, vars)?;
    let loss = stepper.backward(&probe, 1.0, StepOptions::default(), &mut gradients)?.to_scalar::<f32>()?;
    if !loss.is_finite() {
        // Nothing is to be learned of the variables from it: the step that these tokens are in tells.
        return Ok(());
    }
    covered(vars, |var| gradients.get(var))
}

/// Trains `model`'s variables. `watch` sees every event and may stop the run, which then saves and returns.
///
/// # Errors
///
/// As [`train_in`] and [`RunDir::open`].
pub fn train(
    model: &Model,
    splits: &Splits,
    checkpoint: &Checkpoint,
    options: &TrainOptions,
    watch: impl FnMut(&Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    let dir = RunDir::open(&options.output, &options.start)?;
    train_in(&dir, model, splits, checkpoint, options, watch)
}

/// As [`train`], in a directory that was opened already; `options` names it no more.
///
/// # Errors
///
/// When nothing is trainable, a variable gets no gradient, the run that is to go on was another, the loss is not
/// finite, or a file cannot be written. Checkpoints that are already there stay.
pub fn train_in(
    dir: &RunDir,
    model: &Model,
    splits: &Splits,
    checkpoint: &Checkpoint,
    options: &TrainOptions,
    mut watch: impl FnMut(&Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    let vars = model.trainable();
    if vars.is_empty() {
        return Err(Error::wants("train", "at least one trainable variable", "none"));
    }
    let mut run = Run::new(dir, model, splits, checkpoint, options, vars)?;
    if let Some((from, state)) = dir.from() {
        let _ = watch(&Event::Resumed { step: state.progress.step, from: from.to_path_buf() });
    }
    let interrupted = run.go(&mut watch)?.is_break();
    Ok(run.outcome(interrupted))
}
