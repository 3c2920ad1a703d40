//! `metal-candle cache-prompt`: reads the beginning of a prompt once, named as in `mlx_lm.cache_prompt`.

use super::compute::Compute;
use super::generate::prompt;
use super::interrupt;
use super::source::{self, AdapterArgs, ModelArgs};
use crate::generate::{PromptCache, read_prompt};
use crate::models::Config;
use crate::train::metrics::peak_memory_gb;
use std::path::PathBuf;
use std::time::Instant;

/// Read a long prompt once, for many answers.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle cache-prompt --model ./Qwen3-0.6B --prompt-cache-file book --prompt \"$(cat book.txt)\"
  metal-candle generate --model ./Qwen3-0.6B --prompt-cache-file book --prompt \"Who is the thief?\"

The prompt of generate goes on where this one ends: it is answered as both together, and only what
is new is read. The file is of this model, adapter and --dtype; generate refuses it for others.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// What to read; - reads it from stdin. The two characters \n are a new line, \t is a tab, as in mlx-lm
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Where to save it
    #[arg(long, value_name = "FILE")]
    prompt_cache_file: PathBuf,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    system_prompt: Option<String>,
    /// Read the prompt as it is, without the model's chat template
    #[arg(long)]
    ignore_chat_template: bool,
    /// Variables of the chat template, as a JSON object: {"enable_thinking": false}
    #[arg(long, value_name = "JSON")]
    chat_template_config: Option<String>,
    /// Tokens of the prompt that are read at a time: fewer need less memory
    #[arg(long, value_name = "N", default_value_t = 512)]
    prefill_step_size: usize,
    #[command(flatten)]
    compute: Compute,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.prefill_step_size > 0, "--prefill-step-size: wants at least 1, got 0");
    let text = prompt::read(&args.prompt)?;
    let dir = args.model.resolve()?;
    let config = Config::open(&dir)?;
    let (tokenizer, template) = (dir.tokenizer()?, dir.chat_template()?);
    let template = template.filter(|_| !args.ignore_chat_template);
    let parts = prompt::Parts {
        prompt: &text,
        system: args.system_prompt.as_deref(),
        prefill: None,
        variables: args.chat_template_config.as_deref().map_or(Ok(Default::default()), prompt::variables)?,
        tools: None,
    };
    let ids = parts.beginning(&tokenizer, template.as_ref())?;
    let model = source::model_with(&dir, &config, args.compute, &args.adapters)?;

    let started = Instant::now();
    let mut cache = PromptCache::new();
    if read_prompt(&model, &ids, &mut cache, args.prefill_step_size, |_| interrupt::flow())?.is_break() {
        return Ok(());
    }
    let rate = ids.len() as f64 / started.elapsed().as_secs_f64();
    let mut notes = vec![("prompt", text.as_str())];
    notes.extend(args.system_prompt.as_deref().map(|system| ("system", system)));
    cache.save(&args.prompt_cache_file, &model, &notes)?;
    let size = std::fs::metadata(&args.prompt_cache_file).map_or(0, |file| file.len());
    eprintln!("Prompt: {} tokens, {rate:.3} tokens-per-sec", ids.len());
    eprintln!("Peak memory: {:.3} GB", peak_memory_gb(model.device()));
    eprintln!("Saved {} ({:.3} GB)", args.prompt_cache_file.display(), size as f64 / 1e9);
    Ok(())
}
