//! `metal-candle quickstart`: fine-tunes the small model in this binary, with nothing to download.

use super::compute::{DeviceArg, Precision};
use super::finetune::{FineTune, Prompt};
use super::interrupt;
use super::terminal::{self, Lines, program, quoted, wrapped};
use crate::load::{ModelDir, PeftConfig, TargetModules, atomic};
use crate::models::{Config, Model};
use crate::train::checkpoint::Checkpoint;
use crate::train::data::{self, Dataset, Mask, ModelEncoder, Splits};
use crate::train::report::Sample;
use crate::train::run_dir::{RunDir, Start};
use crate::train::schedule::{Schedule, Shape};
use crate::train::trainer::{Outcome, TrainOptions};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};

macro_rules! assets {
    ($dir:literal: $($name:literal),*) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/", $dir, "/", $name)) as &[u8])),*]
    };
}

/// A Hugging Face directory: a Qwen3 of four million parameters, pre-trained by this project.
const MODEL: &[(&str, &[u8])] = assets!("model":
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors");

/// Conversations in which every answer is a pirate's.
const DATA: &[(&str, &[u8])] = assets!("quickstart": "train.jsonl", "valid.jsonl");

/// Questions that are not in the data.
const PROMPTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/prompts.json"));

/// Tokens of an answer.
const SAMPLE_TOKENS: usize = 72;

/// See it work: fine-tune the small model in this binary, in under a minute
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle quickstart
  metal-candle quickstart --out pirate --iters 100")]
pub struct Args {
    /// Where the model, the adapter and the report go
    #[arg(long, value_name = "DIR", default_value = "quickstart-out")]
    out: PathBuf,
    /// Steps
    #[arg(long, value_name = "N", default_value_t = 300)]
    iters: usize,
    /// What LoRA's start and the data's order are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Finished {
    valid_loss_before: Option<f64>,
    valid_loss_after: Option<f64>,
    samples: Vec<Sample>,
    adapter: PathBuf,
    report: PathBuf,
    model: PathBuf,
    device: String,
    steps: usize,
    interrupted: bool,
    seconds: f64,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.iters > 0, "--iters: wants at least 1, got 0");
    let started = std::time::Instant::now();
    let lines = Lines::new(args.json);
    let run = prepare(args)?;
    introduce(&run, lines);
    let prompts = prompts(&run)?;
    let before = run.answers(&prompts, SAMPLE_TOKENS)?;
    let outcome = run.train(lines, true)?;
    let samples = run.samples(prompts, before, SAMPLE_TOKENS)?;
    let report = args.out.join("report.html");
    run.report(&report, "conversations with a pirate", &outcome, &samples, None)?;
    conclude(args, &outcome, &samples, &report, lines);
    if !args.json {
        return Ok(());
    }
    terminal::json(&Finished {
        valid_loss_before: outcome.valid_before,
        valid_loss_after: outcome.valid_after,
        samples,
        device: run.device(),
        adapter: run.options.output,
        report,
        model: run.dir.path,
        steps: outcome.steps,
        interrupted: outcome.interrupted,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Unpacks the model and the data, and sets up the run.
fn prepare(args: &Args) -> anyhow::Result<FineTune> {
    let (path, data_path) = (args.out.join("model"), args.out.join("data"));
    for (dir, files) in [(&path, MODEL), (&data_path, DATA)] {
        std::fs::create_dir_all(dir).map_err(crate::Error::io(dir))?;
        for (name, bytes) in files {
            atomic::write(&dir.join(name), bytes)?;
        }
    }
    let dir = ModelDir::embedded(&path.to_string_lossy(), MODEL);
    let (tokenizer, template) = (dir.tokenizer()?, dir.chat_template()?);
    let encoder = ModelEncoder::new(&tokenizer, template.as_ref());
    let options = data::Options { mask: Mask::AllAssistant, max_seq_length: 512, ..data::Options::default() };
    let read = |(name, bytes): &(&str, &[u8])| -> anyhow::Result<Dataset> {
        Ok(Dataset::parse(&data_path.join(name), std::str::from_utf8(bytes)?, &options, &encoder)?)
    };
    let splits = Splits { train: read(&DATA[0])?, valid: read(&DATA[1])?, test: Dataset::default() };

    let config = Config::open(&dir)?;
    let device = args.device.open()?;
    let dtype = Precision::Auto.dtype(config.dtype, &device);
    let mut model = Model::load(&config, &dir.weights()?, dtype, &device)?;
    let lora = PeftConfig {
        base_model_name_or_path: Some(path.display().to_string()),
        r: 16,
        lora_alpha: 32.0,
        target_modules: TargetModules::AllLinear,
        ..PeftConfig::default()
    };
    model.add_lora(&lora, args.seed)?;
    let options = TrainOptions {
        iters: args.iters,
        batch_size: 8,
        schedule: Schedule::over(Shape::Cosine, 3e-3, 0.0, args.iters.min(20) / 2, args.iters)?,
        steps_per_report: 10,
        steps_per_eval: args.iters.div_ceil(5),
        val_batches: None,
        save_every: 0,
        seed: args.seed,
        output: args.out.join("adapter"),
        start: Start::Overwrite,
        ..TrainOptions::default()
    };
    let run_dir = RunDir::open(&options.output, &options.start)?;
    Ok(FineTune {
        dir,
        run_dir,
        model,
        tokenizer,
        template,
        splits,
        checkpoint: Checkpoint::Lora(lora),
        options,
    })
}

fn prompts(run: &FineTune) -> anyhow::Result<Vec<Prompt>> {
    let texts: Vec<String> = serde_json::from_str(PROMPTS).context("prompts.json")?;
    texts.iter().map(|text| run.prompt(text)).collect()
}

fn introduce(run: &FineTune, lines: Lines) {
    let (total, trained) = run.parameters();
    let text = format!(
        "This binary carries a small language model that answers in plain English. A LoRA of {:.2} M parameters \
         beside its {:.2} M will now learn from {} conversations to answer as a pirate does.",
        trained as f64 / 1e6,
        total as f64 / 1e6,
        run.splits.train.len(),
    );
    lines.say(wrapped(&text, 0));
    lines.say("");
    lines.say(format!("Model: {}, {:?} on {}", run.model.config.model_type, run.model.dtype(), run.device()));
    lines.say(format!("Train: {}", run.splits.train.summary));
    lines.say(format!("Valid: {}", run.splits.valid.summary));
    lines.say(wrapped(&format!("Memory plan: {}", run.memory_plan()), 13));
    lines.say("");
}

fn conclude(args: &Args, outcome: &Outcome, samples: &[Sample], report: &Path, lines: Lines) {
    lines.say("");
    if let (Some(before), Some(after), false) =
        (outcome.valid_before, outcome.valid_after, interrupt::requested())
    {
        let losses = lines.bold(format!("{before:.3} → {after:.3}"));
        lines.say(format!("Held-out loss {losses} in {} steps, {:.0} s", outcome.steps, outcome.seconds));
        lines.say("");
    }
    for Sample { prompt, before, after } in samples {
        lines.say(lines.bold(prompt));
        lines.say(format!("  {} {}", lines.dim("before"), wrapped(before, 9)));
        lines.say(format!("  {} {}", lines.dim("after "), wrapped(after, 9)));
        lines.say("");
    }
    let (program, out) = (program(), |name: &str| quoted(&args.out.join(name)));
    if outcome.interrupted {
        lines.say(format!("Stopped after step {}: the adapter has learned that far.", outcome.steps));
    }
    lines.say(format!("Adapter (PEFT)  {}", out("adapter")));
    lines.say(format!("Report          {}", quoted(report)));
    lines.say("");
    lines.say("Ask it yourself:");
    lines.say(format!("  {program} generate --model {} \\", out("model")));
    lines.say(format!("    --adapter {} --prompt \"Where is my hat?\"", out("adapter")));
    lines.say(format!("Your own model, a Hugging Face directory, on data such as {}:", out("data")));
    lines.say(format!("  {program} train --model path/to/Qwen3-0.6B --data path/to/data --mask-prompt"));
}
