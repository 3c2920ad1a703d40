//! The training loop: batches, steps, validation, checkpoints, and events for whoever watches.

use super::checkpoint::Checkpoint;
use super::data::{Batch, Batches, Dataset, InOrder, Splits};
use super::metrics::{Metric, TrainLine, Writer, peak_memory_gb};
use super::optim::{AdamW, AdamWConfig};
use super::schedule::Schedule;
use super::step::{self, Gradients, StepOptions};
use crate::error::{Error, Result};
use crate::models::Model;
use crate::ops::covered;
use candle_core::Var;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Steps between two checkpoints.
    pub save_every: usize,
    /// Keep layer inputs only, and run layers again in backward.
    pub grad_checkpoint: bool,
    /// What the order of the data and dropout are drawn from.
    pub seed: u64,
    /// The directory of the adapter, its checkpoints and `metrics.jsonl`.
    pub output: PathBuf,
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
            grad_checkpoint: false,
            seed: 0,
            output: "adapters".into(),
        }
    }
}

/// What happened, for a progress display.
#[derive(Clone, Debug)]
pub enum Event {
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
    };
    let mut gradients = Gradients::default();
    step::loss_and_gradients(model, vars, &probe, 1.0, StepOptions::default(), &mut gradients)?;
    covered(vars, |var| gradients.get(var))
}

/// Trains `model`'s variables. `watch` sees every event and may stop the run, which then saves and returns.
///
/// # Errors
///
/// When nothing is trainable, a variable gets no gradient, the loss is not finite, or a file cannot be written.
/// Checkpoints that are already there stay.
pub fn train(
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
    let mut batches = Batches::new(&splits.train, options.batch_size, options.seed)?;
    if let Some(batch) = batches.clone().next() {
        check_gradients(model, &vars, &batch)?;
    }
    std::fs::create_dir_all(&options.output).map_err(Error::io(&options.output))?;
    let mut metrics = Writer::create(&options.output.join("metrics.jsonl"))?;
    let mut optimizer = AdamW::new(options.optimizer, &vars)?;
    let mut run =
        Run { model, splits, options, checkpoint, started: Instant::now(), outcome: Outcome::default() };

    let mut window = Window::default();
    for step in 1..=options.iters {
        if step == 1 || (step - 1) % options.steps_per_eval.max(1) == 0 {
            run.validate(step, &mut metrics, &mut watch)?;
        }
        let lr = options.schedule.at(step - 1);
        let from = Instant::now();
        let micro: Vec<Batch> =
            (0..options.grad_accumulation_steps.max(1)).filter_map(|_| batches.next()).collect();
        let targets: usize = micro.iter().map(|b| b.target_tokens).sum();
        let mut gradients = Gradients::default();
        let mut loss = 0f64;
        for (i, batch) in micro.iter().enumerate() {
            let weight = batch.target_tokens as f64 / targets as f64;
            let step_options = StepOptions {
                grad_checkpoint: options.grad_checkpoint,
                dropout_seed: Some(options.seed ^ ((step as u64) << 24 | i as u64)),
            };
            let part = step::loss_and_gradients(model, &vars, batch, weight, step_options, &mut gradients)?;
            loss += part as f64 * weight;
        }
        let norm = optimizer.step(&vars, &gradients, lr, options.max_grad_norm)?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::NotFinite { step, loss: loss as f32, last_good: step - 1 });
        }
        run.outcome.tokens += targets as u64;
        run.outcome.steps = step;
        window.add(loss, targets, from.elapsed().as_secs_f64());
        let mut stop = watch(&Event::Step { step, loss }).is_break();

        if step % options.steps_per_report.max(1) == 0 || step == options.iters || stop {
            let line = window.line(step, lr, run.outcome.tokens);
            metrics.write(&Metric {
                step,
                loss: Some(line.loss),
                lr: Some(lr),
                grad_norm: Some(norm),
                tokens_per_s: Some(line.tokens_per_s),
                tokens: Some(run.outcome.tokens),
                peak_mem_gb: Some(line.peak_mem_gb),
                seconds: Some(run.seconds()),
                ..Metric::default()
            })?;
            stop |= watch(&Event::Train(line)).is_break();
            window = Window::default();
        }
        if step % options.save_every.max(1) == 0 && step < options.iters {
            run.save(&options.output.join(format!("checkpoint-{step}")), &mut watch)?;
        }
        if stop {
            run.outcome.interrupted = true;
            break;
        }
    }
    if !run.outcome.interrupted {
        run.validate(run.outcome.steps + 1, &mut metrics, &mut watch)?;
    }
    run.save(&options.output, &mut watch)?;
    run.outcome.seconds = run.seconds();
    Ok(run.outcome)
}

/// A run in progress.
struct Run<'a> {
    model: &'a Model,
    splits: &'a Splits,
    options: &'a TrainOptions,
    checkpoint: &'a Checkpoint,
    started: Instant,
    outcome: Outcome,
}

impl Run<'_> {
    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn validate(
        &mut self,
        step: usize,
        metrics: &mut Writer,
        watch: &mut impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<()> {
        if self.splits.valid.is_empty() {
            return Ok(());
        }
        let from = Instant::now();
        let TrainOptions { batch_size, val_batches, .. } = *self.options;
        let mut stopped = false;
        let loss = evaluate(self.model, &self.splits.valid, batch_size, val_batches, |done, total| {
            let flow = watch(&Event::Validating(done, total));
            stopped |= flow.is_break();
            flow
        })?;
        if stopped {
            return Ok(());
        }
        // Measured before this step's update: after the one before it.
        let after = step - 1;
        metrics.write(&Metric {
            step: after,
            valid_loss: Some(loss),
            seconds: Some(self.seconds()),
            ..Metric::default()
        })?;
        let _ = watch(&Event::Valid { step: after.max(1), loss, seconds: from.elapsed().as_secs_f64() });
        if after == 0 {
            self.outcome.valid_before = Some(loss);
        } else if self.outcome.best.is_none_or(|(_, best)| loss < best) {
            self.outcome.best = Some((after, loss));
            self.save(&self.options.output.join("best"), watch)?;
        }
        self.outcome.valid_after = Some(loss);
        Ok(())
    }

    fn save(&self, dir: &Path, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<()> {
        self.checkpoint.save(self.model, dir)?;
        let _ = watch(&Event::Saved(dir.to_path_buf()));
        Ok(())
    }
}

/// What happened since the last line on training.
#[derive(Default)]
struct Window {
    losses: f64,
    steps: usize,
    targets: usize,
    seconds: f64,
}

impl Window {
    fn add(&mut self, loss: f64, targets: usize, seconds: f64) {
        self.losses += loss;
        self.steps += 1;
        self.targets += targets;
        self.seconds += seconds;
    }

    fn line(&self, step: usize, lr: f64, trained_tokens: u64) -> TrainLine {
        let seconds = self.seconds.max(1e-9);
        TrainLine {
            step,
            loss: self.losses / self.steps.max(1) as f64,
            lr,
            it_per_s: self.steps as f64 / seconds,
            tokens_per_s: self.targets as f64 / seconds,
            trained_tokens,
            peak_mem_gb: peak_memory_gb(),
        }
    }
}
