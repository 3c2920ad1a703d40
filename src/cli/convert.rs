//! `metal-candle convert`: an adapter from PEFT's form to mlx-lm's, or the other way round.

use super::interrupt;
use super::source;
use super::terminal::{self, Lines};
use crate::load::adapter::{self, Format};
use crate::load::atomic::NewDirectory;
use crate::load::{Adapter, ModelDir};
use crate::models::Config;
use crate::models::compare::{Difference, prompts};
use anyhow::{Context, bail};
use candle_core::DType;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Write an adapter in PEFT's form or in mlx-lm's.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle convert --adapter ./adapters --to mlx --out ./adapters-mlx
  metal-candle convert --adapter ./from-mlx-lm --to peft --out ./adapters-peft --model ./Qwen3-0.6B

What was written is read again and compared, with --model by the model's logits, too.
Refused is what mlx-lm has no word for: rank and alpha patterns, modules_to_save.")]
pub struct Args {
    /// The adapter: a directory of PEFT or mlx-lm, or a file of tensors in one
    #[arg(long, alias = "adapter-path", value_name = "DIR")]
    adapter: PathBuf,
    /// The form to write
    #[arg(long, value_enum, value_name = "FORM")]
    to: Form,
    /// The directory to write, which must not be there yet or be empty
    #[arg(long, alias = "save-path", value_name = "DIR")]
    out: PathBuf,
    /// The model of the adapter: compare its logits with both
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Replace an adapter directory that is there
    #[arg(long)]
    force: bool,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// The forms of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// adapter_model.safetensors, as PEFT and transformers read
    Peft,
    /// adapters.safetensors, as mlx-lm reads
    Mlx,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Written<'a> {
    adapter: &'a Path,
    path: &'a Path,
    format: &'static str,
    modules: usize,
    logit_difference: Option<f32>,
    allowed_difference: Option<f32>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let lines = Lines::new(args.json);
    let adapter = source::adapter(&args.adapter, None)?;
    let model = args.model.as_deref().map(|given| source::model(given, None)).transpose()?;
    let config = model.as_ref().map(Config::open).transpose()?;
    let input = if args.adapter.is_file() { args.adapter.parent() } else { Some(args.adapter.as_path()) };
    let replaces = args.force.then_some("adapter_config.json");
    let directory = NewDirectory::begin(&args.out, replaces, &[input.unwrap_or(Path::new("."))])?;
    let (format, name) = match args.to {
        Form::Peft => (Format::Peft, "PEFT"),
        Form::Mlx => (Format::Mlx, "mlx-lm"),
    };
    let layers = config.as_ref().map(|config| config.layers.len());
    adapter::write_as(directory.temporary(), &adapter, format, layers)
        .map_err(|error| directory.named(error))?;
    let again = adapter::read(directory.temporary())?;
    adapter.check_same(&again, &args.out)?;
    let compared = match (&model, &config) {
        (Some(dir), Some(config)) => Some(
            compare(dir, config, &adapter, &again)
                .with_context(|| format!("{} on {}", args.adapter.display(), dir.path.display()))?,
        ),
        _ => None,
    };
    directory.commit()?;
    let modules = adapter.tensors.len() + adapter.saved.len();
    lines.say(format!(
        "Saved {} in {name}'s form: {modules} modules, read again the same",
        args.out.display()
    ));
    if let Some((difference, allowed)) = compared {
        lines.say(format!(
            "Largest logit difference {:.3e}, allowed {allowed:.3e} (largest logit {:.3e})",
            difference.largest, difference.logit
        ));
    }
    if !args.json {
        return Ok(());
    }
    terminal::json(&Written {
        adapter: &args.adapter,
        path: &args.out,
        format: match args.to {
            Form::Peft => "peft",
            Form::Mlx => "mlx",
        },
        modules,
        logit_difference: compared.map(|(difference, _)| difference.largest),
        allowed_difference: compared.map(|(_, allowed)| allowed),
    })
}

/// The logits of the model with one adapter and with the other.
fn compare(
    dir: &ModelDir,
    config: &Config,
    one: &Adapter,
    other: &Adapter,
) -> anyhow::Result<(Difference, f32)> {
    let (weights, prompts) = (dir.weights()?, prompts(config, &dir.tokenizer()?)?);
    let logits = |adapter| {
        config.logits_by_layer(&weights, Some(adapter), &prompts, DType::F32, |_| interrupt::check("convert"))
    };
    let difference = Difference::of(&logits(one)?, &logits(other)?)?;
    let allowed = difference.allowed(config, DType::F32);
    if !difference.within(allowed) {
        bail!("logits: wants a difference of at most {allowed:.3e}, got {:.3e}", difference.largest);
    }
    Ok((difference, allowed))
}
