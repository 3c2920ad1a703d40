//! `metal-candle fuse`: an adapter, or several, in the weights of the model, named as in `mlx_lm.fuse`.

use super::interrupt;
use super::source::{AdapterArgs, ModelArgs};
use super::terminal::{self, Lines, note, program, quoted};
use crate::models::fuse::{FuseOptions, FuseStage, Fused, fuse};
use anyhow::Context;
use candle_core::DType;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::PathBuf;

/// Merge adapters into a model: a complete directory that needs no adapter.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle fuse --model ./Qwen3-0.6B --adapter ./adapters --save-path ./fused
  metal-candle fuse --model ./Qwen3-0.6B --adapter ./chat --adapter ./code --adapter-weights 0.7,0.3
  metal-candle fuse --model ./Qwen3-0.6B --adapter ./adapters --dtype f32

Weights are merged in f32 and stored in the type they had, or in --dtype.
The directory takes its name once its logits are those of the model with the adapter.
It is whole: transformers and mlx-lm load it.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// The directory to write, which must not be there yet or be empty
    #[arg(long, value_name = "DIR", default_value = "fused_model", alias = "out")]
    save_path: PathBuf,
    /// What the weights are stored in [default: what they are stored in now]
    #[arg(long, value_enum)]
    dtype: Option<Stored>,
    /// The largest difference of logits that is allowed [default: what rounding to the type may make of them]
    #[arg(long, value_name = "X")]
    tolerance: Option<f32>,
    /// Replace a model directory that is there
    #[arg(long)]
    force: bool,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// What weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stored {
    /// 32-bit floats
    #[value(alias = "float32")]
    F32,
    /// bfloat16
    #[value(alias = "bfloat16")]
    Bf16,
    /// 16-bit floats
    #[value(alias = "float16")]
    F16,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Written<'a> {
    model: &'a str,
    adapters: &'a [PathBuf],
    adapter_weights: Vec<f64>,
    path: &'a PathBuf,
    dtype: String,
    bytes: u64,
    merged: usize,
    replaced: usize,
    logit_difference: f32,
    allowed_difference: f32,
    largest_logit: f32,
    adapter_effect: f32,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let lines = Lines::new(args.json);
    let dir = args.model.resolve()?;
    let weights = args.adapters.weights()?;
    let adapter = args.adapters.read(None)?.context("--adapter: wants an adapter directory, got none")?;
    let options = FuseOptions {
        dtype: args.dtype.map(|dtype| match dtype {
            Stored::F32 => DType::F32,
            Stored::Bf16 => DType::BF16,
            Stored::F16 => DType::F16,
        }),
        tolerance: args.tolerance,
        replace: args.force,
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    if let Ok(style) = ProgressStyle::with_template("{bar:16.cyan/dim} {pos}/{len}  {wide_msg}") {
        bar.set_style(style.progress_chars("━╸─"));
    }
    let result = fuse(&dir, &adapter, &args.save_path, &options, &mut |stage, done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(match stage {
            FuseStage::Reference => "running the model with its adapter",
            FuseStage::Merge => "merging",
            FuseStage::Check => "running what was written",
        });
        interrupt::check("fuse")
    });
    bar.finish_and_clear();
    let fused = result.with_context(|| format!("{} on {}", args.adapters, dir.path.display()))?;
    say(lines, &args, &fused);
    if !args.json {
        return Ok(());
    }
    terminal::json(&Written {
        model: &args.model.model,
        adapters: &args.adapters.adapter,
        adapter_weights: weights,
        path: &args.save_path,
        dtype: format!("{:?}", fused.dtype).to_lowercase(),
        bytes: fused.bytes,
        merged: fused.merged,
        replaced: fused.replaced,
        logit_difference: fused.difference.largest,
        allowed_difference: fused.allowed,
        largest_logit: fused.difference.logit,
        adapter_effect: fused.effect,
    })
}

fn say(lines: Lines, args: &Args, fused: &Fused) {
    let replaced = match fused.replaced {
        0 => String::new(),
        n => format!(", {n} replaced"),
    };
    lines.say(format!("Merged {} weights{replaced}, stored in {:?}", fused.merged, fused.dtype));
    lines.say(format!(
        "Largest logit difference from the model with the adapter {:.3e}, allowed {:.3e} (largest logit {:.3e}; the \
         adapter moves them by up to {:.3e})",
        fused.difference.largest, fused.allowed, fused.difference.logit, fused.effect
    ));
    if fused.difference.largest > 0.5 * fused.effect && fused.effect > 0.0 {
        note("rounding moves the logits about as much as the adapter does; --dtype f32 keeps the adapter");
    }
    lines.say(format!("Saved {}, {:.3} GB", args.save_path.display(), fused.bytes as f64 / 1e9));
    lines.say(format!("Next: {} generate --model {} --prompt \"...\"", program(), quoted(&args.save_path)));
}
