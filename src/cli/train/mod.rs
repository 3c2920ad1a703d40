//! `metal-candle train`.

mod args;
mod watch;

pub use args::Args;

use super::interrupt;
use crate::generate::{GenerateOptions, generate};
use crate::load::{ChatTemplate, ModelDir, Tokenizer, adapter};
use crate::models::{Config, Model};
use crate::train::checkpoint::Checkpoint;
use crate::train::data::{self, ModelEncoder, Row, Splits};
use crate::train::memory::MemoryPlan;
use crate::train::metrics;
use crate::train::report::{self, Report, Sample};
use crate::train::trainer::{Outcome, TrainOptions, evaluate, train};
use anyhow::{Context, ensure};
use args::FineTuneType;
use candle_core::{DType, Device};
use std::ops::ControlFlow;
use std::path::Path;

/// Tokens of a sample in the report.
const SAMPLE_TOKENS: usize = 48;

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let args = args.merged()?;
    let dir = ModelDir::resolve(args.model()?)?;
    let result = Run::new(&args, dir)?.go()?;
    if args.json {
        println!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}

/// What a run has, before it starts.
struct Run<'a> {
    args: &'a Args,
    dir: ModelDir,
    model: Model,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    splits: Splits,
    checkpoint: Checkpoint,
    options: TrainOptions,
}

/// What a run ends with, for `--json`.
#[derive(serde::Serialize)]
struct Finished {
    valid_loss_before: Option<f64>,
    valid_loss_after: Option<f64>,
    test_loss: Option<f64>,
    samples: Vec<Sample>,
    adapter: String,
    report: String,
    steps: usize,
    seconds: f64,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, dir: ModelDir) -> anyhow::Result<Self> {
        let full = args.fine_tune_type.unwrap_or_default() == FineTuneType::Full;
        ensure!(full || !args.from_scratch, "--from-scratch: wants --fine-tune-type full, got lora");
        let iters = args.iters.unwrap_or(1000);
        ensure!(iters > 0, "--iters: wants at least 1, got 0");
        let (tokenizer, template) = (dir.tokenizer()?, dir.chat_template()?);
        let seed = args.seed.unwrap_or(0);
        let encoder = ModelEncoder::new(&tokenizer, template.as_ref());
        let data_options = data::Options {
            features: args.features(),
            mask: args.mask(),
            max_seq_length: args.max_seq_length.unwrap_or(2048),
            valid_fraction: args.valid_fraction.unwrap_or(0.1),
            seed,
        };
        let splits = data::load(args.data()?, &data_options, &encoder)?;

        let config = Config::from_json(&dir.path.join("config.json").display().to_string(), json(&dir)?)?;
        let stored = config.dtype;
        let dtype = args.dtype.unwrap_or_default().dtype(stored);
        let mut model = match args.from_scratch {
            true => Model::init(&config, dtype, &Device::Cpu, seed)?,
            false => Model::load(&config, &dir.weights()?, dtype, &Device::Cpu)?,
        };
        let checkpoint = match full {
            true => {
                model.make_trainable()?;
                Checkpoint::Full { source: dir.clone(), dtype: stored.unwrap_or(DType::F32) }
            }
            false => {
                let mut lora = args.lora(model.layers().len())?;
                match &args.resume_adapter_file {
                    None => {
                        model.add_lora(&lora, seed)?;
                    }
                    Some(path) => {
                        // mlx-lm names the file, PEFT the directory.
                        let dir = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
                        let adapter = adapter::read(dir)?;
                        model.load_lora(&adapter)?;
                        lora = adapter.config;
                    }
                }
                Checkpoint::Lora(lora)
            }
        };
        let options = TrainOptions {
            iters,
            batch_size: args.batch_size.unwrap_or(4),
            grad_accumulation_steps: args.grad_accumulation_steps.unwrap_or(1),
            schedule: args.schedule(iters)?,
            optimizer: args.adamw(),
            max_grad_norm: Some(args.max_grad_norm.unwrap_or(1.0)).filter(|n| *n > 0.0),
            steps_per_report: args.steps_per_report.unwrap_or(10),
            steps_per_eval: args.steps_per_eval.unwrap_or(200),
            val_batches: args::batches(args.val_batches, 25, "--val-batches")?,
            save_every: args.save_every.unwrap_or(100),
            grad_checkpoint: args.grad_checkpoint,
            seed,
            output: args.output(),
        };
        Ok(Run { args, dir, model, tokenizer, template, splits, checkpoint, options })
    }

    fn go(mut self) -> anyhow::Result<Finished> {
        let quiet = self.args.json;
        let say = |line: String| if quiet { eprintln!("{line}") } else { println!("{line}") };
        let vars = self.model.trainable();
        let trained: usize = vars.iter().map(|(_, v)| v.elem_count()).sum();
        let total = self.model.parameter_count();
        say(format!(
            "Model {}: {}, {:.3} M parameters, {:.3} M trained ({:.3} %), {:?}",
            self.dir.path.display(),
            self.model.config.model_type,
            total as f64 / 1e6,
            trained as f64 / 1e6,
            100.0 * trained as f64 / total as f64,
            self.model.dtype(),
        ));
        say(format!("Train: {}", self.splits.train.summary));
        if !self.splits.valid.is_empty() {
            say(format!("Valid: {}", self.splits.valid.summary));
        }
        let longest = self.splits.train.rows.iter().map(Row::positions).max().unwrap_or(0);
        let plan =
            MemoryPlan::new(&self.model, self.options.batch_size, longest.next_multiple_of(8), self.options.grad_checkpoint);
        say(format!("Memory plan: {plan}"));

        let prompts = self.prompts()?;
        let before = self.answers(&prompts)?;
        let mut watch = watch::Watch::new(self.options.iters, quiet);
        let outcome = train(&self.model, &self.splits, &self.checkpoint, &self.options, |event| {
            watch.event(event);
            interrupt::flow()
        });
        watch.close();
        let outcome = outcome?;
        let samples = self.samples(prompts, before)?;
        let test_loss = self.test(&outcome)?;
        if let Some(loss) = test_loss {
            say(metrics::test_line(loss));
        }
        let output = &self.options.output;
        let report_path = output.join("report.html");
        self.write_report(&report_path, &outcome, &samples, test_loss)?;
        say(format!("Saved {} and {}", output.display(), report_path.display()));
        match outcome.interrupted {
            true => say(format!(
                "Stopped after step {}. To go on from its weights: add --resume-adapter-file {}",
                outcome.steps,
                output.display()
            )),
            false => say(self.next()),
        }
        Ok(Finished {
            valid_loss_before: outcome.valid_before,
            valid_loss_after: outcome.valid_after,
            test_loss,
            samples,
            adapter: output.display().to_string(),
            report: report_path.display().to_string(),
            steps: outcome.steps,
            seconds: outcome.seconds,
        })
    }

    /// The command a user would type next.
    fn next(&self) -> String {
        let output = self.options.output.display();
        match self.checkpoint {
            Checkpoint::Lora(_) => {
                format!("Next: metal-candle generate --model {} --adapter {output} --prompt ...", self.dir.path.display())
            }
            Checkpoint::Full { .. } => format!("Next: metal-candle generate --model {output} --prompt ..."),
        }
    }

    /// The prompts of the report's samples: the text that is shown, and its tokens.
    fn prompts(&self) -> anyhow::Result<Vec<(String, Vec<u32>)>> {
        let variables = serde_json::Map::new();
        let given = self.args.sample_prompt.iter().map(|text| {
            let ids = match &self.template {
                Some(template) => {
                    let messages = [serde_json::json!({"role": "user", "content": text})];
                    self.tokenizer.encode(&template.render(&messages, None, true, &variables)?, false)?
                }
                None => self.tokenizer.encode(text, true)?,
            };
            Ok((text.clone(), ids))
        });
        if !self.args.sample_prompt.is_empty() {
            return given.collect();
        }
        let rows = if self.splits.valid.is_empty() { &self.splits.train.rows } else { &self.splits.valid.rows };
        let of = |row: &Row| {
            // What stands before the trained span is the prompt; a row trained whole has a beginning.
            let masked = row.trained.first().map_or(0, |span| span.start);
            let len = if masked > 1 { masked } else { (row.tokens.len() / 3).clamp(1, 24) };
            let ids = row.tokens[..len].to_vec();
            Ok((self.tokenizer.decode(&ids, true)?.trim().to_string(), ids))
        };
        rows.iter().take(3).map(of).collect()
    }

    fn answers(&self, prompts: &[(String, Vec<u32>)]) -> anyhow::Result<Vec<String>> {
        let mut options = GenerateOptions::for_model(&self.dir.generation_config()?, &self.tokenizer);
        options.sampler = Default::default();
        let mut answers = Vec::new();
        for (_, ids) in prompts {
            let room = self.model.config.max_position_embeddings.saturating_sub(ids.len());
            options.max_tokens = Some(SAMPLE_TOKENS.min(room).max(1));
            let answer = generate(&self.model, &self.tokenizer, ids, &options, |_| match interrupt::requested() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })?;
            answers.push(answer.text.trim().to_string());
        }
        Ok(answers)
    }

    fn samples(&mut self, prompts: Vec<(String, Vec<u32>)>, before: Vec<String>) -> anyhow::Result<Vec<Sample>> {
        let after = if interrupt::requested() { vec![String::new(); before.len()] } else { self.answers(&prompts)? };
        let samples = prompts.into_iter().zip(before).zip(after);
        Ok(samples.map(|(((prompt, _), before), after)| Sample { prompt, before, after }).collect())
    }

    fn test(&self, outcome: &Outcome) -> anyhow::Result<Option<f64>> {
        if !self.args.test || outcome.interrupted {
            return Ok(None);
        }
        ensure!(!self.splits.test.is_empty(), "--test: wants test.jsonl beside the training data, got none");
        let limit = args::batches(self.args.test_batches, 500, "--test-batches")?;
        Ok(Some(evaluate(&self.model, &self.splits.test, self.options.batch_size, limit, |_, _| interrupt::flow())?))
    }

    fn write_report(&self, path: &Path, outcome: &Outcome, samples: &[Sample], test: Option<f64>) -> anyhow::Result<()> {
        let metrics = metrics::read(&self.options.output.join("metrics.jsonl"))?;
        let subtitle = format!(
            "{} steps in {:.0} s on {}",
            outcome.steps,
            outcome.seconds,
            self.args.data()?.display()
        );
        let config = self.shown_config().context("report")?;
        let title = format!("{} fine-tuned", self.dir.path.display());
        Ok(report::write(
            path,
            &Report { title: &title, subtitle: &subtitle, config: &config, metrics: &metrics, samples, test_loss: test },
        )?)
    }

    /// The options that were given, and what the others came to.
    fn shown_config(&self) -> anyhow::Result<Vec<(String, String)>> {
        let o = &self.options;
        let mut shown = vec![
            ("model".into(), self.dir.path.display().to_string()),
            ("data".into(), self.args.data()?.display().to_string()),
            ("dtype".into(), format!("{:?}", self.model.dtype())),
            ("iters".into(), o.iters.to_string()),
            ("batch_size".into(), o.batch_size.to_string()),
            ("grad_accumulation_steps".into(), o.grad_accumulation_steps.to_string()),
            ("lr_schedule".into(), serde_json::to_string(&o.schedule)?),
            ("optimizer".into(), serde_json::to_string(&o.optimizer)?),
            ("max_grad_norm".into(), o.max_grad_norm.map_or("none".into(), |n| n.to_string())),
            ("grad_checkpoint".into(), o.grad_checkpoint.to_string()),
            ("seed".into(), o.seed.to_string()),
            ("version".into(), env!("CARGO_PKG_VERSION").into()),
        ];
        if let Checkpoint::Lora(lora) = &self.checkpoint {
            shown.push(("rank".into(), lora.r.to_string()));
            shown.push(("lora_alpha".into(), lora.lora_alpha.to_string()));
            shown.push(("lora_dropout".into(), lora.lora_dropout.to_string()));
        }
        Ok(shown)
    }
}

fn json(dir: &ModelDir) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    match dir.config_json()? {
        serde_json::Value::Object(map) => Ok(map),
        _ => anyhow::bail!("{}: wants an object in config.json", dir.path.display()),
    }
}
