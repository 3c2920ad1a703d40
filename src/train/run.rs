//! The training loop: batches, steps, validation and checkpoints.
//!
//! A run is saved between two steps, with all that the next one depends on: killed at any moment and resumed, it
//! computes what it would have, and `metrics.jsonl` is as if nothing had happened.

use super::checkpoint::Checkpoint;
use super::data::{Batch, Batches, Splits};
use super::fingerprint::fingerprint;
use super::metrics::{Metric, Writer};
use super::optim::AdamW;
use super::progress::Progress;
use super::resume::{self, State};
use super::run_dir::RunDir;
use super::step::{Gradients, StepOptions, Stepper};
use super::trainer::{Event, OnNan, Outcome, TrainOptions, check_gradients, evaluate};
use crate::error::{Error, NotFinite, Result};
use crate::load::atomic;
use crate::models::Model;
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

/// A run in progress.
pub(super) struct Run<'a> {
    dir: &'a RunDir,
    model: &'a Model,
    splits: &'a Splits,
    checkpoint: &'a Checkpoint,
    options: &'a TrainOptions,
    vars: Vec<(String, Var)>,
    made_of: BTreeMap<String, String>,
    batches: Batches<'a>,
    stepper: Stepper<'a>,
    optimizer: AdamW,
    metrics: Writer,
    progress: Progress,
    /// When this process began, and the seconds that those before it took.
    started: (Instant, f64),
}

impl<'a> Run<'a> {
    /// A run at its first step, or at the one where it goes on.
    ///
    /// # Errors
    ///
    /// When a variable gets no gradient, the run that is to go on was another, or a file cannot be read or written.
    pub fn new(
        dir: &'a RunDir,
        model: &'a Model,
        splits: &'a Splits,
        checkpoint: &'a Checkpoint,
        options: &'a TrainOptions,
        vars: Vec<(String, Var)>,
    ) -> Result<Self> {
        let (train, size, seed) = (&splits.train, options.batch_size, options.seed);
        let mut batches = if options.pack { train.packed(size, seed)? } else { train.batches(size, seed)? };
        let made_of = fingerprint(model, train, &splits.valid, checkpoint, options)?;
        dir.check(&made_of, options.iters)?;
        if let Some(batch) = batches.clone().next() {
            check_gradients(model, &vars, &batch)?;
        }
        let mut optimizer = AdamW::new(options.optimizer, &vars)?;
        let lines = dir.path().join("metrics.jsonl");
        let (progress, metrics) = match dir.from() {
            Some((from, state)) => {
                state.restore(from, &vars, &mut optimizer)?;
                batches.seek(state.cursor)?;
                (state.progress.clone(), Writer::resume(&lines, state.metrics_bytes)?)
            }
            None => {
                // An older run's checkpoints are not this one's to go on from.
                resume::drop_states(dir.path(), |_| true)?;
                (Progress::default(), Writer::create(&lines)?)
            }
        };
        let stepper = Stepper::new(model, &vars)?;
        let started = (Instant::now(), progress.seconds);
        Ok(Run {
            dir,
            model,
            splits,
            checkpoint,
            options,
            vars,
            made_of,
            batches,
            stepper,
            optimizer,
            metrics,
            progress,
            started,
        })
    }

    /// Runs to the end, or until `watch` breaks.
    ///
    /// # Errors
    ///
    /// As [`train_in`](super::trainer::train_in).
    pub fn go(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let options = self.options;
        while self.progress.step < options.iters {
            let done = self.progress.step;
            if done.is_multiple_of(options.steps_per_eval.max(1)) && self.validate(watch)?.is_break() {
                // Not measured, so measured by the run that goes on: it begins with this validation.
                return self.interrupt(watch);
            }
            let mut flow = self.step(watch)?;
            let step = self.progress.step;
            if step.is_multiple_of(options.steps_per_report.max(1)) {
                flow = both(flow, self.report(watch)?);
            }
            if flow.is_break() {
                return self.interrupt(watch);
            }
            if options.save_every > 0 && (step.is_multiple_of(options.save_every) || step == options.iters) {
                self.save_state(watch)?;
            }
        }
        // After the state, so that a run that is made longer averages as if it had not ended here.
        let _ = self.report(watch)?;
        let flow = self.validate(watch)?;
        self.save_result(watch)?;
        Ok(flow)
    }

    /// How it ended.
    pub fn outcome(&self, interrupted: bool) -> Outcome {
        let Progress { step, tokens, valid_before, valid_after, best, best_step, skipped, .. } =
            self.progress;
        Outcome {
            steps: step,
            interrupted,
            valid_before,
            valid_after,
            best: best.map(|loss| (best_step, loss)),
            tokens,
            skipped,
            seconds: self.seconds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.started.1 + self.started.0.elapsed().as_secs_f64()
    }

    /// Saves what was learned, to go on from and to be used.
    fn interrupt(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        if self.progress.step > 0 {
            if self.options.save_every > 0 {
                self.save_state(watch)?;
            }
            self.save_result(watch)?;
        }
        Ok(ControlFlow::Break(()))
    }

    /// Makes one step, or passes it over.
    fn step(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let (options, step) = (self.options, self.progress.step + 1);
        let lr = options.schedule.at(step - 1);
        let from = Instant::now();
        let count = options.grad_accumulation_steps.max(1);
        let micro: Vec<Batch> = self.batches.by_ref().take(count).collect();
        let targets: usize = micro.iter().map(|b| b.target_tokens).sum();
        let mut gradients = Gradients::default();
        let mut losses = Vec::with_capacity(micro.len());
        let weight = |batch: &Batch| batch.target_tokens as f64 / targets as f64;
        for (i, batch) in micro.iter().enumerate() {
            let step_options = StepOptions {
                grad_checkpoint: options.grad_checkpoint,
                dropout_seed: Some(options.seed ^ ((step as u64) << 24 | i as u64)),
            };
            let weight = weight(batch);
            let loss = self.stepper.backward(batch, weight, step_options, &mut gradients)?;
            losses.push(loss);
        }
        // A loss or a norm that is not finite changes nothing. A GPU is waited for here and nowhere else.
        let (norm, losses) =
            self.optimizer.step_after(&losses, &self.vars, &gradients, lr, options.max_grad_norm)?;
        self.progress.step = step;
        let mut loss = 0f64;
        for (i, (part, batch)) in losses.iter().zip(&micro).enumerate() {
            loss += *part as f64 * weight(batch);
            if !loss.is_finite() {
                return self.pass_over("loss", loss, Some(i), &micro, watch);
            }
        }
        if !norm.is_finite() {
            // Every batch is in it.
            let batch = (micro.len() == 1).then_some(0);
            return self.pass_over("gradient norm", norm, batch, &micro, watch);
        }
        self.progress.skipped_in_a_row = 0;
        self.progress.tokens += targets as u64;
        self.progress.window.add(loss, targets, from.elapsed().as_secs_f64());
        (self.progress.window.lr, self.progress.window.norm) = (lr, norm);
        Ok(watch(&Event::Step { step, loss }))
    }

    /// Ends the run, or counts a step whose loss, of a batch, or gradient, of a batch or of all, is not finite.
    fn pass_over(
        &mut self,
        what: &'static str,
        value: f64,
        batch: Option<usize>,
        micro: &[Batch],
        watch: &mut impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        self.progress.skipped += 1;
        self.progress.skipped_in_a_row += 1;
        let train = &self.splits.train;
        let of = batch.map_or(micro, |batch| &micro[batch..=batch]);
        let mut lines: Vec<usize> =
            of.iter().flat_map(|b| &b.rows).map(|&row| train.rows[row].line).collect();
        lines.sort_unstable();
        let step = self.progress.step;
        let path = train.path.clone();
        let found = NotFinite {
            step,
            what,
            value,
            batch: batch.map(|batch| batch + 1),
            batches: micro.len(),
            path,
            lines,
        };
        match self.options.on_nan {
            OnNan::Skip(most) if self.progress.skipped_in_a_row < most => Ok(watch(&Event::Skipped(found))),
            _ => Err(Error::NotFinite { found, in_a_row: self.progress.skipped_in_a_row }),
        }
    }

    /// Writes the line on training, if a step was made since the last one.
    fn report(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        if self.progress.window.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let window = std::mem::take(&mut self.progress.window);
        let line = window.line(self.progress.step, self.progress.tokens, self.model.device());
        self.metrics.write(&Metric {
            step: self.progress.step,
            loss: Some(line.loss),
            lr: Some(window.lr),
            grad_norm: Some(window.norm),
            tokens_per_s: Some(line.tokens_per_s),
            tokens: Some(self.progress.tokens),
            peak_mem_gb: Some(line.peak_mem_gb),
            seconds: Some(self.seconds()),
            skipped: Some(self.progress.skipped).filter(|skipped| *skipped > 0),
            ..Metric::default()
        })?;
        Ok(watch(&Event::Train(line)))
    }

    /// Measures the validation loss, and keeps the best weights.
    fn validate(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        if self.splits.valid.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let from = Instant::now();
        let TrainOptions { batch_size, val_batches, .. } = *self.options;
        let mut flow = ControlFlow::Continue(());
        let loss = evaluate(self.model, &self.splits.valid, batch_size, val_batches, |done, total| {
            flow = both(flow, watch(&Event::Validating(done, total)));
            flow
        })?;
        if flow.is_break() {
            return Ok(flow);
        }
        let step = self.progress.step;
        self.metrics.write(&Metric {
            step,
            valid_loss: Some(loss),
            seconds: Some(self.seconds()),
            ..Metric::default()
        })?;
        let _ = watch(&Event::Valid { step: step.max(1), loss, seconds: from.elapsed().as_secs_f64() });
        if step == 0 {
            self.progress.valid_before = Some(loss);
        } else if loss.is_finite() && self.progress.best.is_none_or(|best| loss < best) {
            (self.progress.best, self.progress.best_step) = (Some(loss), step);
            let best = self.dir.path().join("best");
            atomic::replace_dir(&best, |temporary| self.checkpoint.save(self.model, temporary))?;
            let _ = watch(&Event::Saved(best));
        }
        self.progress.valid_after = Some(loss);
        Ok(ControlFlow::Continue(()))
    }

    /// Saves all that the next step depends on.
    fn save_state(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<()> {
        self.must_be_finite()?;
        let step = self.progress.step;
        let dir = self.dir.path().join(format!("checkpoint-{step}"));
        let progress = Progress { seconds: self.seconds(), ..self.progress.clone() };
        let written = self.metrics.sync()?;
        let state =
            State::new(progress, self.options.iters, self.batches.cursor(), written, self.made_of.clone());
        state.save(&dir, self.checkpoint, self.model, &self.vars, &self.optimizer)?;
        resume::prune(self.dir.path(), step, self.options.save_total_limit)?;
        let _ = watch(&Event::Saved(dir));
        Ok(())
    }

    /// Saves what is used: the adapter, or the model.
    fn save_result(&mut self, watch: &mut impl FnMut(&Event) -> ControlFlow<()>) -> Result<()> {
        self.must_be_finite()?;
        self.checkpoint.save(self.model, self.dir.path())?;
        resume::drop_states(self.dir.path(), |of| of > self.progress.step)?;
        let _ = watch(&Event::Saved(self.dir.path().to_path_buf()));
        Ok(())
    }

    /// An update can be infinite though the loss and the gradient before it were finite.
    fn must_be_finite(&self) -> Result<()> {
        let sums = self.vars.iter().map(|(_, var)| var.as_detached_tensor().sum_all()?.reshape(1));
        let sums = sums.collect::<candle_core::Result<Vec<_>>>()?;
        let sums = Tensor::cat(&sums, 0)?.to_vec1::<f32>()?;
        for ((name, _), sum) in self.vars.iter().zip(sums) {
            if !sum.is_finite() {
                let what = format!("weights after step {}", self.progress.step);
                let got =
                    format!("NaN or infinity in {name}; nothing was saved since: lower the learning rate");
                return Err(Error::wants(what, "finite numbers to be saved", got));
            }
        }
        Ok(())
    }
}

fn both(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}
