//! `metal-candle train`.

mod args;

pub use args::Args;

use super::compute;
use super::finetune::{FineTune, Prompt};
use super::interrupt;
use super::source;
use super::terminal::{self, Lines, program, quoted};
use crate::models::{Config, Model};
use crate::train::checkpoint::Checkpoint;
use crate::train::data::{self, ModelEncoder, Row};
use crate::train::fingerprint::fingerprint;
use crate::train::memory;
use crate::train::metrics;
use crate::train::report::Sample;
use crate::train::resume;
use crate::train::run_dir::RunDir;
use crate::train::trainer::{OnNan, Outcome, TrainOptions, evaluate};
use anyhow::ensure;
use args::{Checkpoints, FineTuneType, NanPolicy};
use candle_core::{DType, Device};
use std::path::Path;

/// Tokens of a sample in the report.
const SAMPLE_TOKENS: usize = 48;

/// Steps in a row that are not finite, with which --on-nan skip ends.
const SKIPPED_IN_A_ROW: usize = 10;

/// What a run ends with, for `--json`.
#[derive(serde::Serialize)]
struct Finished {
    valid_loss_before: Option<f64>,
    valid_loss_after: Option<f64>,
    test_loss: Option<f64>,
    samples: Vec<Sample>,
    adapter: String,
    report: String,
    device: String,
    steps: usize,
    skipped: usize,
    interrupted: bool,
    seconds: f64,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let args = args.merged()?;
    let run = prepare(&args)?;
    let finished = go(&args, &run).map_err(|error| if_full(error, &run))?;
    if args.json { terminal::json(&finished) } else { Ok(()) }
}

/// Adds what to do to the message that a disk is full.
fn if_full(error: anyhow::Error, run: &FineTune) -> anyhow::Error {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.downcast_ref() {
        Some(crate::Error::Io { source, .. })
            if matches!(source.kind(), FileTooLarge | QuotaExceeded | StorageFull) =>
        {
            let next = match resume::checkpoints(&run.options.output) {
                Ok(all) if !all.is_empty() => "what was saved before is whole: make room, then add --resume",
                _ => "make room, or write elsewhere with --adapter-path",
            };
            anyhow::anyhow!("{error}; {next}")
        }
        _ => error,
    }
}

/// Reads the data and the model, and says what is wrong with them.
fn prepare(args: &Args) -> anyhow::Result<FineTune> {
    let dir = source::model(args.model()?, args.revision.as_deref())?;
    let kind = args.fine_tune_type.unwrap_or_default();
    let full = kind == FineTuneType::Full;
    ensure!(full || !args.from_scratch, "--from-scratch: wants --fine-tune-type full, got {}", kind.name());
    ensure!(
        !full || args.modules_to_save().is_empty(),
        "--modules-to-save: wants --fine-tune-type lora or dora, got full, which trains every module"
    );
    ensure!(
        !full || args.resume_adapter_file.is_none(),
        "--resume-adapter-file: wants --fine-tune-type lora or dora, got full, which trains no adapter"
    );
    let device = compute::open(args.device.unwrap_or_default())?;
    let iters = args.iters.unwrap_or(TrainOptions::default().iters);
    ensure!(iters > 0, "--iters: wants at least 1, got 0");
    args.note_unused()?;
    let config = Config::open(&dir)?;
    let usual = TrainOptions::default();
    let (output, start) = args.start(usual.output.clone())?;
    // What cannot be written is better known before the training than after it.
    let run_dir = RunDir::open(&output, &start)?;
    run_dir.notes().iter().for_each(terminal::note);
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
    ensure!(
        !args.test || !splits.test.is_empty(),
        "--test: wants test.jsonl beside the training data, got none"
    );

    let stored = config.dtype;
    let dtype = args.dtype.unwrap_or_default().dtype(stored, &device);
    if !args.ignore_memory_plan {
        weights_must_fit(&config, if full { DType::F32 } else { dtype }, &device)?;
    }
    let mut model = match args.from_scratch {
        true => Model::init(&config, dtype, &device, seed)?,
        false => Model::load(&config, &dir.weights()?, dtype, &device)?,
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
                    let adapter = source::adapter(path, Some(&model))?;
                    args.check_resumed(&adapter, &model)?;
                    model.load_lora(&adapter)?;
                    lora = adapter.config;
                }
            }
            Checkpoint::Lora(lora)
        }
    };
    let options = TrainOptions {
        iters,
        batch_size: args.batch_size.unwrap_or(usual.batch_size),
        grad_accumulation_steps: args.grad_accumulation_steps.unwrap_or(usual.grad_accumulation_steps),
        schedule: args.schedule(iters)?,
        optimizer: args.adamw(),
        max_grad_norm: args.max_grad_norm.or(usual.max_grad_norm).filter(|norm| *norm > 0.0),
        steps_per_report: args.steps_per_report.unwrap_or(usual.steps_per_report),
        steps_per_eval: args.steps_per_eval.unwrap_or(usual.steps_per_eval),
        val_batches: args::batches(args.val_batches, usual.val_batches, "--val-batches")?,
        save_every: args.save_every.unwrap_or(usual.save_every),
        save_total_limit: args.save_total_limit,
        pack: args.pack,
        on_nan: match args.on_nan.unwrap_or_default() {
            NanPolicy::Stop => OnNan::Stop,
            NanPolicy::Skip => OnNan::Skip(SKIPPED_IN_A_ROW),
        },
        grad_checkpoint: (args.grad_checkpoint == Some(Checkpoints::On)).into(),
        seed,
        output,
        start,
    };
    let made_of = fingerprint(&model, &splits.train, &splits.valid, &checkpoint, &options)?;
    run_dir.check(&made_of, iters)?;
    let mut tune = FineTune { dir, run_dir, model, tokenizer, template, splits, checkpoint, options };
    if args.grad_checkpoint == Some(Checkpoints::Auto) {
        tune.choose_checkpoints();
    }
    Ok(tune)
}

/// Refuses a model that leaves no memory before it takes it.
fn weights_must_fit(config: &Config, dtype: DType, device: &Device) -> anyhow::Result<()> {
    let weights = (config.parameter_count() * dtype.size_in_bytes()) as u64;
    let available = memory::available(device).unwrap_or(u64::MAX);
    ensure!(
        weights <= available,
        "memory plan: wants {:.3} GB for the weights in {dtype:?}, got {:.3} GB available; a smaller model may fit{}; \
         --ignore-memory-plan tries it all the same",
        weights as f64 / 1e9,
        available as f64 / 1e9,
        if dtype == DType::F32 { ", or a LoRA with --dtype bf16" } else { "" },
    );
    Ok(())
}

fn go(args: &Args, run: &FineTune) -> anyhow::Result<Finished> {
    let lines = Lines::new(args.json);
    let (total, trained) = run.parameters();
    lines.say(format!(
        "Model {}: {}, {:.3} M parameters, {:.3} M trained ({:.3} %), {:?} on {}",
        run.dir.name(),
        run.model.config.model_type,
        total as f64 / 1e6,
        trained as f64 / 1e6,
        100.0 * trained as f64 / total as f64,
        run.model.dtype(),
        run.device(),
    ));
    lines.say(format!("Train: {}", run.splits.train.summary));
    if !run.splits.valid.is_empty() {
        lines.say(format!("Valid: {}", run.splits.valid.summary));
    }
    if let Some(packing) = run.packing()? {
        lines.say(packing);
    }
    if args.grad_checkpoint == Some(Checkpoints::Auto) {
        lines.say(format!("Checkpointing: {}", run.options.grad_checkpoint));
    }
    lines.say(format!("Memory plan: {}", run.memory_plan()));
    if !args.ignore_memory_plan {
        run.must_fit()?;
    }

    let prompts = prompts(args, run)?;
    let before = run.answers(&prompts, SAMPLE_TOKENS)?;
    let outcome = run.train(lines, false)?;
    let samples = run.samples(prompts, before, SAMPLE_TOKENS)?;
    let test_loss = test(args, run, &outcome)?;
    if let Some(loss) = test_loss {
        lines.say(metrics::test_line(loss));
    }
    let output = &run.options.output;
    let report = output.join("report.html");
    run.report(&report, &args.data()?.display().to_string(), &outcome, &samples, test_loss)?;
    lines.say(format!("Report {}", report.display()));
    lines.say(match outcome.interrupted {
        true if outcome.steps == 0 => "Stopped before step 1: nothing was saved.".to_string(),
        true => format!("Stopped after step {}. {}", outcome.steps, go_on(run)),
        false => format!("Next: {}", next(args, run)?),
    });
    Ok(Finished {
        valid_loss_before: outcome.valid_before,
        valid_loss_after: outcome.valid_after,
        test_loss,
        samples,
        adapter: output.display().to_string(),
        report: report.display().to_string(),
        device: run.device(),
        steps: outcome.steps,
        skipped: outcome.skipped,
        interrupted: outcome.interrupted,
        seconds: outcome.seconds,
    })
}

/// How to go on after a stop.
fn go_on(run: &FineTune) -> String {
    match run.options.save_every {
        0 => "No checkpoint was kept to go on from (--save-every 0).".to_string(),
        _ => "To go on exactly from there, add to the same command: --resume".to_string(),
    }
}

/// The command a user would type next.
fn next(args: &Args, run: &FineTune) -> anyhow::Result<String> {
    let output = quoted(&run.options.output);
    let revision =
        args.revision.as_ref().map(|revision| format!(" --revision {}", quoted(Path::new(revision))));
    let model = match run.checkpoint {
        Checkpoint::Lora(_) => {
            let model = quoted(Path::new(args.model()?));
            format!("{model}{} --adapter {output}", revision.unwrap_or_default())
        }
        Checkpoint::Full { .. } => output,
    };
    Ok(format!("{} generate --model {model} --prompt \"...\"", program()))
}

/// What is answered before and after for the report: what was asked for, or the beginnings of held-out rows.
fn prompts(args: &Args, run: &FineTune) -> anyhow::Result<Vec<Prompt>> {
    if !args.sample_prompt.is_empty() {
        return args.sample_prompt.iter().map(|text| run.prompt(text)).collect();
    }
    let rows = if run.splits.valid.is_empty() { &run.splits.train.rows } else { &run.splits.valid.rows };
    let beginning = |row: &Row| {
        // What stands before the trained span is the prompt; a row trained whole has a beginning.
        let masked = row.trained.first().map_or(0, |span| span.start);
        let len = if masked > 1 { masked } else { (row.tokens.len() / 3).clamp(1, 24) };
        row.tokens[..len].to_vec()
    };
    let context = run.model.config.max_position_embeddings;
    let fitting = rows.iter().map(beginning).filter(|ids| ids.len() + SAMPLE_TOKENS <= context);
    let prompt =
        |ids: Vec<u32>| Ok(Prompt { text: run.tokenizer.decode(&ids, true)?.trim().to_string(), ids });
    fitting.take(3).map(prompt).collect()
}

fn test(args: &Args, run: &FineTune, outcome: &Outcome) -> anyhow::Result<Option<f64>> {
    if !args.test || outcome.interrupted {
        return Ok(None);
    }
    let limit = args::batches(args.test_batches, Some(500), "--test-batches")?;
    let loss =
        evaluate(&run.model, &run.splits.test, run.options.batch_size, limit, |_, _| interrupt::flow())?;
    Ok((!interrupt::requested()).then_some(loss))
}
