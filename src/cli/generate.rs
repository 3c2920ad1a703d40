//! `metal-candle generate`: an answer to one prompt, named as in `mlx_lm.generate`.

mod prompt;

use super::interrupt;
use super::precision::Precision;
use super::source::{AdapterArgs, ModelArgs};
use super::terminal::{self, note};
use crate::generate::{Event, FinishReason, GenerateOptions, Generation, generate};
use crate::load::Tokenizer;
use crate::models::{Config, Model};
use crate::train::metrics::peak_memory_gb;
use anyhow::{Context, ensure};
use candle_core::Device;
use std::io::Write;
use std::ops::ControlFlow;

/// Answer a prompt with a model, fine-tuned or not.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle generate --model ./Qwen3-0.6B --prompt \"Why is the sky blue?\"
  metal-candle generate --model Qwen/Qwen3-0.6B --prompt \"Why is the sky blue?\"
  metal-candle generate --model ./Qwen3-0.6B --adapter ./adapters --prompt \"Why?\"
  metal-candle generate --model ./Qwen3-0.6B --adapter ./chat --adapter ./code --adapter-weights 0.7,0.3 --prompt \"Why?\"
  cat question.txt | metal-candle generate --model ./Qwen3-0.6B --prompt - --json

What is not given is as the model's generation_config.json says, or greedy.
The answer goes to stdout, token by token; what it took goes to stderr.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// What to answer; - reads it from stdin. The two characters \n are a new line, \t is a tab, as in mlx-lm
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    system_prompt: Option<String>,
    /// How the answer begins: the model goes on from here
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    prefill_response: Option<String>,
    /// The most tokens to generate [default: the model's, else 100]
    #[arg(short, long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Temperature; 0 takes the most likely token [default: the model's, else 0]
    #[arg(long, alias = "temperature", value_name = "T")]
    temp: Option<f32>,
    /// Keep the most likely tokens up to this probability; 1 is off
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep this many of the most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Drop tokens less likely than this share of the most likely one; 0 is off
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Divide the scores of tokens that are there already; 1 is off
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Last tokens that the repetition penalty looks at [default: all]
    #[arg(long, value_name = "N")]
    repetition_context_size: Option<usize>,
    /// Subtract from the scores of tokens of the answer, once each
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract from the scores of tokens of the answer, as often as they are there
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// The same seed gives the same answer [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Text that ends the answer; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Token that ends the answer; may be repeated
    #[arg(long, value_name = "TOKEN", num_args = 1.., allow_hyphen_values = false)]
    extra_eos_token: Vec<String>,
    /// Read the prompt as it is, without the model's chat template
    #[arg(long)]
    ignore_chat_template: bool,
    /// Variables of the chat template, as a JSON object: {"enable_thinking": false}
    #[arg(long, value_name = "JSON")]
    chat_template_config: Option<String>,
    /// With --json: the N likeliest tokens in the place of each
    #[arg(long, value_name = "N", default_value_t = 0, requires = "json")]
    top_logprobs: usize,
    /// Tokens of the prompt that are read at a time: fewer need less memory
    #[arg(long, value_name = "N", default_value_t = 512)]
    prefill_step_size: usize,
    /// What is computed in
    #[arg(long, value_enum, default_value_t)]
    dtype: Precision,
    /// Print one JSON object: text, tokens, logprobs, timings
    #[arg(long)]
    json: bool,
    /// Tell on stderr what the answer took: True or False
    #[arg(long, value_name = "BOOL", default_value = "True", default_missing_value = "True", num_args = 0..=1, value_parser = boolean)]
    verbose: bool,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Answer<'a> {
    model: &'a str,
    /// The path, or a list of paths.
    adapter: serde_json::Value,
    prompt: &'a str,
    #[serde(flatten)]
    generation: Generation,
    peak_mem_gb: f64,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let prompt = prompt::read(&args.prompt)?;
    let dir = args.model.resolve()?;
    let config = Config::open(&dir)?;
    let (tokenizer, template) = (dir.tokenizer()?, dir.chat_template()?);
    let template = template.filter(|_| !args.ignore_chat_template);
    let ids = args.parts(&prompt)?.encode(&tokenizer, template.as_ref())?;
    let mut options =
        args.options(GenerateOptions::for_model(&dir.generation_config()?, &tokenizer), &tokenizer)?;
    let room = config.max_position_embeddings.saturating_sub(ids.len());
    if let Some(wanted) = options.max_tokens.filter(|wanted| *wanted > room && room > 0) {
        note(format!(
            "at most {room} tokens instead of {wanted}: the model reads {} and the prompt has {}",
            config.max_position_embeddings,
            ids.len()
        ));
        options.max_tokens = Some(room);
    }
    options.validate()?;

    let mut model = Model::load(&config, &dir.weights()?, args.dtype.dtype(config.dtype), &Device::Cpu)?;
    if let Some(adapter) = args.adapters.read(Some(&model))? {
        let ready = model.prepare_adapter(&adapter);
        let ready = ready.with_context(|| format!("{} on {}", args.adapters, dir.path.display()))?;
        model.attach_adapter(&ready);
    }

    let mut written = Ok(());
    let generation = generate(&model, &tokenizer, &ids, &options, |event| {
        if let (Event::Token { text, .. }, false) = (event, args.json) {
            written = show(text);
        }
        if written.is_err() { ControlFlow::Break(()) } else { interrupt::flow() }
    })?;
    written?;
    if args.json {
        let answer = Answer {
            model: &args.model.model,
            adapter: match args.adapters.adapter.as_slice() {
                [] => serde_json::Value::Null,
                [one] => serde_json::json!(one),
                several => serde_json::json!(several),
            },
            prompt: &prompt,
            generation,
            peak_mem_gb: peak_memory_gb(),
        };
        return terminal::json(&answer);
    }
    if !generation.text.ends_with('\n') {
        show("\n")?;
    }
    if args.verbose {
        summary(&generation, options.sampler.temperature > 0.0 && args.seed.is_none());
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
fn summary(generation: &Generation, drawn: bool) {
    let Generation { prompt_tokens, prefill_tokens_per_s, decode_tokens_per_s, .. } = generation;
    let mut lines = format!(
        "==========\nPrompt: {prompt_tokens} tokens, {prefill_tokens_per_s:.3} tokens-per-sec\n\
         Generation: {} tokens, {decode_tokens_per_s:.3} tokens-per-sec\nPeak memory: {:.3} GB\n",
        generation.tokens.len(),
        peak_memory_gb()
    );
    if drawn {
        lines += &format!("Seed: {}\n", generation.seed);
    }
    if generation.finish_reason == FinishReason::Length {
        lines += "Cut at the last token allowed; --max-tokens allows more\n";
    }
    std::io::stderr().write_all(lines.as_bytes()).ok();
}

impl Args {
    fn parts<'a>(&'a self, prompt: &'a str) -> anyhow::Result<prompt::Parts<'a>> {
        let variables = match &self.chat_template_config {
            None => serde_json::Map::new(),
            Some(text) => prompt::variables(text)?,
        };
        let (system, prefill) = (self.system_prompt.as_deref(), self.prefill_response.as_deref());
        Ok(prompt::Parts { prompt, system, prefill, variables })
    }

    /// The flags over what the model proposes.
    fn options(
        &self,
        mut options: GenerateOptions,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<GenerateOptions> {
        options.max_tokens = self.max_tokens.or(options.max_tokens);
        options.stop_strings.extend(self.stop.iter().cloned());
        for token in &self.extra_eos_token {
            let id = tokenizer.id(token);
            ensure!(
                id.is_some(),
                "--extra-eos-token: wants a token of the model's vocabulary, got {token:?}"
            );
            options.stop_tokens.extend(id);
        }
        options.prefill_chunk = self.prefill_step_size;
        options.top_logprobs = self.top_logprobs;
        let sampler = &mut options.sampler;
        sampler.temperature = self.temp.unwrap_or(sampler.temperature);
        sampler.top_p = self.top_p.unwrap_or(sampler.top_p);
        sampler.top_k = self.top_k.unwrap_or(sampler.top_k);
        sampler.min_p = self.min_p.unwrap_or(sampler.min_p);
        sampler.repetition_penalty = self.repetition_penalty.unwrap_or(sampler.repetition_penalty);
        sampler.repetition_context_size = self.repetition_context_size.or(sampler.repetition_context_size);
        sampler.presence_penalty = self.presence_penalty.unwrap_or(sampler.presence_penalty);
        sampler.frequency_penalty = self.frequency_penalty.unwrap_or(sampler.frequency_penalty);
        sampler.seed = self.seed.or(sampler.seed);
        Ok(options)
    }
}

/// mlx-lm's way of saying yes and no.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "t" | "yes" | "1" => Ok(true),
        "false" | "f" | "no" | "0" => Ok(false),
        _ => Err("wants True or False".to_string()),
    }
}
