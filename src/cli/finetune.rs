//! A fine-tuning run as the command line shows it: what `train` and `quickstart` share.

use super::interrupt;
use super::progress::Progress;
use super::terminal::Lines;
use crate::generate::{FinishReason, GenerateOptions, generate_batch};
use crate::load::{ChatTemplate, ModelDir, Tokenizer};
use crate::models::Model;
use crate::train::checkpoint::Checkpoint;
use crate::train::data::{Row, Splits};
use crate::train::memory::{self, MemoryPlan};
use crate::train::metrics;
use crate::train::report::{self, Report, Sample};
use crate::train::run_dir::RunDir;
use crate::train::step::GradCheckpoint;
use crate::train::trainer::{Outcome, TrainOptions, train_in};
use std::path::Path;

/// A model and its data, ready to be trained.
pub struct FineTune {
    /// Where the model comes from.
    pub dir: ModelDir,
    /// Where the run writes; no other run does while this is held.
    pub run_dir: RunDir,
    /// The model, with what is to be trained.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub template: Option<ChatTemplate>,
    /// The data.
    pub splits: Splits,
    /// What is saved.
    pub checkpoint: Checkpoint,
    /// How it is trained.
    pub options: TrainOptions,
}

/// Something to be answered before and after.
pub struct Prompt {
    /// What is shown.
    pub text: String,
    /// What the model reads.
    pub ids: Vec<u32>,
}

impl FineTune {
    /// The parameters of the model, and how many are trained: some of them, or those of a LoRA beside them.
    pub fn parameters(&self) -> (usize, usize) {
        let trained = self.model.trainable().iter().map(|(_, var)| var.elem_count()).sum();
        (self.model.parameter_count(), trained)
    }

    /// What it computes on.
    pub fn device(&self) -> String {
        crate::device::name(self.model.device())
    }

    /// What the run will hold in memory, at its largest batch.
    pub fn memory_plan(&self) -> MemoryPlan {
        let (rows, len) = self.largest_batch();
        MemoryPlan::new(&self.model, rows, len, self.options.grad_checkpoint)
    }

    /// The sequences of the largest batch and the positions of each.
    fn largest_batch(&self) -> (usize, usize) {
        let (train, size) = (&self.splits.train, self.options.batch_size);
        let packed = self.options.pack.then(|| train.packed(size, self.options.seed).ok()).flatten();
        packed.map(|batches| batches.largest()).unwrap_or_else(|| {
            let longest = train.rows.iter().map(Row::positions).max().unwrap_or(0);
            (size, longest.next_multiple_of(8))
        })
    }

    /// How the training rows lie in batches, if they are packed.
    pub fn packing(&self) -> anyhow::Result<Option<String>> {
        if !self.options.pack {
            return Ok(None);
        }
        let (train, size, seed) = (&self.splits.train, self.options.batch_size, self.options.seed);
        let share = |(all, padding): (usize, usize)| 100.0 * padding as f64 / all.max(1) as f64;
        let packed = train.packed(size, seed)?;
        let apart = train.batches(size.min(train.len()), seed)?;
        Ok(Some(format!(
            "Packed: {} rows in {} sequences of at most {}; padding {:.1} % of the positions, {:.1} % unpacked",
            train.len(),
            packed.sequences(),
            train.summary.max_seq_length,
            share(packed.positions()),
            share(apart.positions()),
        )))
    }

    /// Runs as few layers again in backward as the memory plan lets fit.
    pub fn choose_checkpoints(&mut self) {
        let (rows, len) = self.largest_batch();
        let available = memory::available(self.model.device());
        self.options.grad_checkpoint =
            available.map_or(GradCheckpoint::None, |bytes| MemoryPlan::choose(&self.model, rows, len, bytes));
    }

    /// Refuses a run that needs more memory than there is, and says what would fit.
    pub fn must_fit(&self) -> anyhow::Result<()> {
        let Some(available) = memory::available(self.model.device()) else { return Ok(()) };
        let (rows, len) = self.largest_batch();
        let kept = self.options.grad_checkpoint;
        let wanted = |rows: usize, len: usize, checkpoint: GradCheckpoint| {
            MemoryPlan::new(&self.model, rows, len, checkpoint).to_come() as u64
        };
        let all = GradCheckpoint::All;
        if wanted(rows, len, kept) <= available {
            return Ok(());
        }
        let halves = |from| std::iter::successors(Some(from / 2), |n| Some(n / 2)).take_while(|n| *n > 0);
        let mut fits = Vec::new();
        let checkpointed = kept != all && wanted(rows, len, all) <= available;
        if checkpointed {
            fits.push("--grad-checkpoint".to_string());
        }
        let ways = [("", kept), ("--grad-checkpoint with ", all)];
        for (also, checkpoint) in ways.into_iter().take(if kept == all || checkpointed { 1 } else { 2 }) {
            let fewer = halves(rows).find(|rows| wanted(*rows, len, checkpoint) <= available);
            let shorter = halves(len).find(|len| wanted(rows, *len, checkpoint) <= available);
            fits.extend(fewer.map(|rows| format!("{also}--batch-size {rows}")));
            fits.extend(shorter.map(|len| format!("{also}--max-seq-length {}", len + 1)));
        }
        let fits = match fits.is_empty() {
            true => "nothing smaller fits but a smaller model or fewer --num-layers".to_string(),
            false => format!("these fit: {}", fits.join(", ")),
        };
        anyhow::bail!(
            "memory plan: wants {:.3} GB more, got {:.3} GB available; {fits}; --ignore-memory-plan tries it all the same",
            wanted(rows, len, kept) as f64 / 1e9,
            available as f64 / 1e9,
        )
    }

    /// A question as the model is asked it: through its chat template, if it has one.
    pub fn prompt(&self, text: &str) -> anyhow::Result<Prompt> {
        let ids = match &self.template {
            Some(template) => {
                let messages = [serde_json::json!({"role": "user", "content": text})];
                let rendered = template.render(&messages, None, true, &serde_json::Map::new())?;
                self.tokenizer.encode(&rendered, false)?
            }
            None => self.tokenizer.encode(text, true)?,
        };
        Ok(Prompt { text: text.to_string(), ids })
    }

    /// What the model says to each prompt, greedily; an answer cut at `max_tokens` ends in an ellipsis.
    pub fn answers(&self, prompts: &[Prompt], max_tokens: usize) -> anyhow::Result<Vec<String>> {
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        let room = self.model.config.max_position_embeddings.saturating_sub(longest);
        let mut options = GenerateOptions::for_model(&self.dir.generation_config()?, &self.tokenizer);
        options.sampler = Default::default();
        options.max_tokens = Some(max_tokens.min(room).max(1));
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let answers = generate_batch(&self.model, &self.tokenizer, &ids, &options, |_| interrupt::flow())?;
        let text = |answer: crate::generate::Generation| match answer.finish_reason {
            FinishReason::Length => format!("{} …", answer.text.trim()),
            _ => answer.text.trim().to_string(),
        };
        Ok(answers.into_iter().map(text).collect())
    }

    /// Trains, showing how it goes, in few lines if `brief`.
    pub fn train(&self, lines: Lines, brief: bool) -> anyhow::Result<Outcome> {
        let mut progress = Progress::new(self.options.iters, lines, brief);
        let watch = |event: &_| {
            progress.event(event);
            interrupt::flow()
        };
        let outcome =
            train_in(&self.run_dir, &self.model, &self.splits, &self.checkpoint, &self.options, watch);
        progress.close();
        Ok(outcome?)
    }

    /// The prompts with what was said `before`, and what is said now; nothing if the run was stopped.
    pub fn samples(
        &self,
        prompts: Vec<Prompt>,
        before: Vec<String>,
        max_tokens: usize,
    ) -> anyhow::Result<Vec<Sample>> {
        let after = self.answers(&prompts, max_tokens)?;
        if interrupt::requested() {
            return Ok(Vec::new());
        }
        let said = prompts.into_iter().zip(before).zip(after);
        Ok(said.map(|((prompt, before), after)| Sample { prompt: prompt.text, before, after }).collect())
    }

    /// Writes the report of a finished run on the data that `data` names.
    pub fn report(
        &self,
        path: &Path,
        data: &str,
        outcome: &Outcome,
        samples: &[Sample],
        test_loss: Option<f64>,
    ) -> anyhow::Result<()> {
        let metrics = metrics::read(&self.options.output.join("metrics.jsonl"))?;
        let title = format!("{} fine-tuned", self.dir.name());
        let subtitle = format!("{} steps in {:.0} s on {data}", outcome.steps, outcome.seconds);
        let config = self.configuration(data)?;
        let (title, subtitle) = (title.as_str(), subtitle.as_str());
        Ok(report::write(
            path,
            &Report { title, subtitle, config: &config, metrics: &metrics, samples, test_loss },
        )?)
    }

    /// What the run was made of.
    fn configuration(&self, data: &str) -> anyhow::Result<Vec<(String, String)>> {
        let o = &self.options;
        let mut shown = vec![
            ("model", self.dir.name()),
            ("data", data.to_string()),
            ("dtype", format!("{:?}", self.model.dtype())),
            ("device", self.device()),
            ("iters", o.iters.to_string()),
            ("batch_size", o.batch_size.to_string()),
            ("grad_accumulation_steps", o.grad_accumulation_steps.to_string()),
            ("lr_schedule", serde_json::to_string(&o.schedule)?),
            ("optimizer", serde_json::to_string(&o.optimizer)?),
            ("max_grad_norm", o.max_grad_norm.map_or("none".into(), |n| n.to_string())),
            ("grad_checkpoint", o.grad_checkpoint.to_string()),
            ("pack", o.pack.to_string()),
            ("seed", o.seed.to_string()),
            ("version", env!("CARGO_PKG_VERSION").into()),
        ];
        if let Checkpoint::Lora(lora) = &self.checkpoint {
            shown.push(("rank", lora.r.to_string()));
            shown.push(("lora_alpha", lora.lora_alpha.to_string()));
            shown.push(("lora_dropout", lora.lora_dropout.to_string()));
            shown.push(("use_dora", lora.use_dora.to_string()));
            shown.push(("modules_to_save", lora.modules_to_save.join(", ")));
        }
        Ok(shown.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }
}
