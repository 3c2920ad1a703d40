//! `metal-candle generate`: answers to one prompt or to a file of them, named as in `mlx_lm.generate`.

mod batch;
pub mod prompt;

use super::compute::Compute;
use super::draft::{self, DraftArgs};
use super::interrupt;
use super::sampling::{self, Sampling};
use super::source::{self, AdapterArgs, ModelArgs};
use super::terminal;
use crate::generate::{
    Event, FinishReason, GenerateOptions, Generation, PromptCache, ToolCall, ToolFormat, cache_notes,
    generate_cached, generate_speculative, tool_calls,
};
use crate::load::{ChatTemplate, ModelDir, Tokenizer};
use crate::models::{Config, Model};
use crate::train::metrics::peak_memory_gb;
use anyhow::bail;
use candle_core::Device;
use serde_json::{Map, Value};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Answer a prompt with a model, fine-tuned or not.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle generate --model ./Qwen3-0.6B --prompt \"Why is the sky blue?\"
  metal-candle generate --model Qwen/Qwen3-0.6B --prompt \"Why is the sky blue?\"
  metal-candle generate --model ./Qwen3-0.6B --adapter ./adapters --prompt \"Why?\"
  metal-candle generate --model ./model --adapter ./a --adapter ./b --adapter-weights 0.7,0.3 -p Why
  cat question.txt | metal-candle generate --model ./Qwen3-0.6B --prompt - --json
  metal-candle generate --model ./Qwen3-8B --draft-model ./Qwen3-0.6B --prompt \"Count to fifty\"
  metal-candle generate --model ./Qwen3-0.6B --tools tools.json --prompt \"Weather in Rome?\" --json
  metal-candle generate --model ./Qwen3-0.6B --prompts in.jsonl --output out.jsonl --batch-size 8

What is not given is as the model's generation_config.json says, or greedy.
The answer goes to stdout, token by token; what it took goes to stderr.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// What to answer; - reads it from stdin. The two characters \n are a new line, \t is a tab, as in mlx-lm
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, required_unless_present = "prompts")]
    prompt: Option<String>,
    /// Answer all rows of a JSONL file: {"prompt": …} or {"messages": […], "tools": […]}, with "id" and "max_tokens" if wanted
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with_all = ["prompt", "json", "prefill_response", "draft_model", "prompt_cache_file"])]
    prompts: Option<PathBuf>,
    /// Where the answers to --prompts go, a line each, in order; what is there already is not computed again
    #[arg(long, value_name = "FILE", requires = "prompts")]
    output: Option<PathBuf>,
    /// Rows of --prompts that are answered at once
    #[arg(long, value_name = "N", default_value_t = 4, requires = "prompts")]
    batch_size: usize,
    /// The prompt goes on what `metal-candle cache-prompt` has read into this file
    #[arg(long, value_name = "FILE")]
    prompt_cache_file: Option<PathBuf>,
    /// Tools the model may call: a JSON file, a list as in OpenAI's API
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_chat_template")]
    tools: Option<PathBuf>,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    system_prompt: Option<String>,
    /// How the answer begins: the model goes on from here
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    prefill_response: Option<String>,
    /// Read the prompt as it is, without the model's chat template
    #[arg(long)]
    ignore_chat_template: bool,
    /// Variables of the chat template, as a JSON object: {"enable_thinking": false}
    #[arg(long, value_name = "JSON")]
    chat_template_config: Option<String>,
    /// With --json: the N likeliest tokens in the place of each
    #[arg(long, value_name = "N", default_value_t = 0, requires = "json")]
    top_logprobs: usize,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON object: text, tokens, logprobs, timings
    #[arg(long)]
    json: bool,
    /// Tell on stderr what the answer took: True or False
    #[arg(long, value_name = "BOOL", default_value = "True", default_missing_value = "True", num_args = 0..=1, value_parser = boolean)]
    verbose: bool,
}

/// Tokens at the end of a cached prompt that may go without a word.
const SEAM: usize = 4;

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Answer<'a> {
    model: &'a str,
    /// The path, or a list of paths.
    adapter: serde_json::Value,
    prompt: &'a str,
    #[serde(flatten)]
    generation: Generation,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall>>,
    peak_mem_gb: f64,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    // Read before the model is, which takes a while.
    let prompt = args.prompt.as_deref().map(prompt::read).transpose()?;
    let opened = Opened::new(&args)?;
    match (&args.prompts, &args.output, prompt) {
        (Some(prompts), Some(output), _) => batch::run(&args, &opened, prompts, output),
        (_, _, Some(prompt)) => one(&args, opened, &prompt),
        _ => bail!("--prompt: wants text to answer, got none"),
    }
}

/// What is known before the weights are read.
struct Opened {
    dir: ModelDir,
    config: Config,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    tools: Option<Value>,
    tool_format: Option<ToolFormat>,
    variables: Map<String, Value>,
    options: GenerateOptions,
}

impl Opened {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let dir = args.model.resolve()?;
        let config = Config::open(&dir)?;
        let (tokenizer, template) = (dir.tokenizer()?, dir.chat_template()?);
        let template = template.filter(|_| !args.ignore_chat_template);
        let tools = args.tools.as_deref().map(prompt::tools).transpose()?;
        let variables = args.chat_template_config.as_deref().map_or(Ok(Map::new()), prompt::variables)?;
        let tool_format = match (&template, &tools) {
            (Some(template), Some(tools)) => prompt::tool_format(template, tools, &variables)?,
            _ => None,
        };
        let mut options = args.sampling.options(&dir, &tokenizer)?;
        options.top_logprobs = args.top_logprobs;
        options.skip_special_tokens = tools.is_none();
        Ok(Opened { dir, config, tokenizer, template, tools, tool_format, variables, options })
    }

    /// The model with the adapter.
    fn model(&self, args: &Args) -> anyhow::Result<Model> {
        source::model_with(&self.dir, &self.config, args.compute, &args.adapters)
    }
}

/// Answers one prompt.
fn one(args: &Args, mut opened: Opened, prompt: &str) -> anyhow::Result<()> {
    let (tools, template) = (opened.tools.take(), opened.template.take());
    let before = args.prompt_cache_file.as_deref().map(cache_notes).transpose()?.unwrap_or_default();
    if let (Some(path), false) = (&args.prompt_cache_file, before.contains_key("prompt")) {
        let path = path.display();
        bail!(
            "{path}: wants what cache-prompt has saved, got a conversation (chat --load {path} goes on with it)"
        );
    }
    let note = |name: &str| before.get(name).map(String::as_str);
    let whole = format!("{}{prompt}", note("prompt").unwrap_or_default());
    let parts = prompt::Parts {
        prompt: &whole,
        system: args.system_prompt.as_deref().or(note("system").filter(|_| template.is_some())),
        prefill: args.prefill_response.as_deref(),
        variables: std::mem::take(&mut opened.variables),
        tools: tools.as_ref(),
    };
    let (text, ids) = parts.encode(&opened.tokenizer, template.as_ref())?;
    sampling::fit(&mut opened.options, ids.len(), opened.config.max_position_embeddings);

    let model = opened.model(args)?;
    let mut cache = match &args.prompt_cache_file {
        Some(path) => PromptCache::load(path, &model)?.0,
        None => PromptCache::new(),
    };
    let held = cache.tokens().len();
    let used = cache.tokens().iter().zip(&ids).take_while(|(held, wanted)| held == wanted).count();
    // The last few may make other tokens with what comes after them.
    if used + SEAM < held {
        terminal::note(format!(
            "only {used} of {held} cached tokens are of use: the prompt differs there (other template or system prompt?)"
        ));
    }
    let Opened { tokenizer, tool_format: format, options, .. } = opened;
    let mut written = Ok(());
    let on_event = |event: Event| {
        if let (Event::Token { text, .. }, false) = (event, args.json) {
            written = show(text);
        }
        if written.is_err() { ControlFlow::Break(()) } else { interrupt::flow() }
    };
    let mut generation = match args.draft.load(&tokenizer, &model)? {
        Some(mut draft) => {
            generate_speculative(&model, &mut draft, &tokenizer, &ids, &mut cache, &options, on_event)?
        }
        None => generate_cached(&model, &tokenizer, &ids, &mut cache, &options, on_event)?,
    };
    written?;
    if args.json {
        let calls = tools.as_ref().map(|tools| {
            let Some(format) = format else { return Vec::new() };
            let (rest, calls) = tool_calls(format, tools, &text, &generation.text, 0);
            if !calls.is_empty() && generation.finish_reason == FinishReason::Stop {
                generation.finish_reason = FinishReason::ToolCalls;
            }
            generation.text = rest;
            calls
        });
        let answer = Answer {
            model: &args.model.model,
            adapter: match args.adapters.adapter.as_slice() {
                [] => Value::Null,
                [one] => serde_json::json!(one),
                several => serde_json::json!(several),
            },
            prompt,
            generation,
            tool_calls: calls,
            peak_mem_gb: peak_memory_gb(model.device()),
        };
        return terminal::json(&answer);
    }
    if !generation.text.ends_with('\n') {
        show("\n")?;
    }
    if args.verbose {
        summary(
            &generation,
            model.device(),
            options.sampler.temperature > 0.0 && args.sampling.seed.is_none(),
        );
    }
    Ok(())
}

/// Writes text where a reader sees it at once.
fn show(text: &str) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// mlx-lm's lines on what an answer took; the seed, if it was drawn.
fn summary(generation: &Generation, device: &Device, drawn: bool) {
    let Generation { prompt_tokens, cached_tokens, prefill_tokens_per_s, decode_tokens_per_s, .. } =
        generation;
    let cached = if *cached_tokens > 0 { format!(", {cached_tokens} of them cached") } else { String::new() };
    let mut lines = format!(
        "==========\nPrompt: {prompt_tokens} tokens{cached}, {prefill_tokens_per_s:.3} tokens-per-sec\n\
         Generation: {} tokens, {decode_tokens_per_s:.3} tokens-per-sec\nPeak memory: {:.3} GB\n",
        generation.tokens.len(),
        peak_memory_gb(device)
    );
    if let Some(draft) = generation.draft {
        lines += &format!("Draft: {}\n", draft::rate(draft));
    }
    if drawn {
        lines += &format!("Seed: {}\n", generation.seed);
    }
    if generation.finish_reason == FinishReason::Length {
        lines += "Cut at the last token allowed; --max-tokens allows more\n";
    }
    std::io::stderr().write_all(lines.as_bytes()).ok();
}

/// mlx-lm's way of saying yes and no.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "t" | "yes" | "1" => Ok(true),
        "false" | "f" | "no" | "0" => Ok(false),
        _ => Err("wants True or False".to_string()),
    }
}
