//! The flags of an answer, shared by the verbs that generate.

use super::terminal::note;
use crate::generate::GenerateOptions;
use crate::load::{ModelDir, Tokenizer};
use anyhow::ensure;

/// How an answer is generated, named as in mlx-lm.
#[derive(Clone, Debug, clap::Args)]
pub struct Sampling {
    /// The most tokens to generate [default: the model's, else 100; in a chat, all there is room for]
    #[arg(short, long, value_name = "N")]
    pub max_tokens: Option<usize>,
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
    pub seed: Option<u64>,
    /// Text that ends the answer; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Token that ends the answer; may be repeated
    #[arg(long, value_name = "TOKEN", num_args = 1.., allow_hyphen_values = false)]
    extra_eos_token: Vec<String>,
    /// Tokens of the prompt that are read at a time: fewer need less memory
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub prefill_step_size: usize,
}

impl Sampling {
    /// The flags over what the model proposes.
    pub fn options(&self, dir: &ModelDir, tokenizer: &Tokenizer) -> anyhow::Result<GenerateOptions> {
        let mut options = GenerateOptions::for_model(&dir.generation_config()?, tokenizer);
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
        options.validate()?;
        Ok(options)
    }
}

/// Cuts the length of an answer to what a prompt of `prompt` tokens leaves of `context`, and says so.
pub fn fit(options: &mut GenerateOptions, prompt: usize, context: usize) {
    let room = context.saturating_sub(prompt);
    if let Some(wanted) = options.max_tokens.filter(|wanted| *wanted > room && room > 0) {
        note(format!(
            "at most {room} tokens instead of {wanted}: the model reads {context} and the prompt has {prompt}"
        ));
        options.max_tokens = Some(room);
    }
}
