//! What a caller decides about an answer, and what the model's `generation_config.json` proposes.

use serde::{Deserialize, Serialize};

use super::sampler::SamplerConfig;
use crate::load::{GenerationConfig, Tokenizer};
use crate::{Error, Result};

/// How an answer is generated. The default is greedy, 100 tokens at most, without any stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// The largest number of tokens to generate; none goes on to the end of the model's context.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampler: SamplerConfig,
    /// Tokens that end the answer: the model's EOS tokens.
    pub stop_tokens: Vec<u32>,
    /// Strings that end the answer.
    pub stop_strings: Vec<String>,
    /// Whether the stop string that was reached is part of the text.
    pub include_stop: bool,
    /// How many tokens of the prompt are read at a time: more is faster, fewer need less memory.
    pub prefill_chunk: usize,
    /// How many of the likeliest tokens to report in the place of each; 0 is off.
    pub top_logprobs: usize,
    /// Whether special tokens give no text. A tool call of some models is only told by them.
    pub skip_special_tokens: bool,
    /// What an empty prompt begins with.
    pub bos_token: Option<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: Some(100),
            sampler: SamplerConfig::default(),
            stop_tokens: Vec::new(),
            stop_strings: Vec::new(),
            include_stop: false,
            prefill_chunk: 512,
            top_logprobs: 0,
            skip_special_tokens: true,
            bos_token: None,
        }
    }
}

impl GenerateOptions {
    /// What a model proposes: its way of sampling, its length and stop strings, and its EOS and BOS tokens.
    pub fn for_model(config: &GenerationConfig, tokenizer: &Tokenizer) -> Self {
        let defaults = Self::default();
        let mut stop_tokens = config.eos_token_id.clone();
        stop_tokens.extend(tokenizer.eos_ids().iter().filter(|id| !config.eos_token_id.contains(id)));
        Self {
            max_tokens: config.max_new_tokens.or(defaults.max_tokens),
            sampler: SamplerConfig::from(config),
            stop_tokens,
            stop_strings: config.stop_strings.clone(),
            bos_token: tokenizer.bos_id(),
            ..defaults
        }
    }

    /// The options of the answer number `i` of several: equal prompts get different answers.
    pub fn with_seed_after(&self, i: u64) -> Self {
        let mut options = self.clone();
        options.sampler.seed = options.sampler.seed.map(|seed| seed.wrapping_add(i));
        options
    }

    /// Refuses values that have no meaning, naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.max_tokens == Some(0) {
            return Err(Error::wants("max_tokens", "at least 1", "0"));
        }
        if self.prefill_chunk == 0 {
            return Err(Error::wants("prefill_chunk", "at least 1", "0"));
        }
        self.sampler.validate()
    }

    /// How many tokens may follow a prompt of `prompt` tokens in a context of `context`.
    pub(super) fn room(&self, prompt: usize, context: usize) -> Result<usize> {
        let wants = format!("at most {context} tokens, the model's max_position_embeddings");
        if prompt >= context {
            return Err(Error::wants(
                "prompt",
                wants,
                format!("{prompt} tokens, which leave none for an answer"),
            ));
        }
        match self.max_tokens {
            Some(n) if n > context - prompt => {
                let got = format!("{} tokens ({prompt} + {n})", prompt.saturating_add(n));
                Err(Error::wants("prompt + max_tokens", wants, got))
            }
            Some(n) => Ok(n),
            None => Ok(context - prompt),
        }
    }
}

/// Greedy unless `do_sample` is true; what is then left out is as in `transformers` (temperature 1, top-k 50).
impl From<&GenerationConfig> for SamplerConfig {
    fn from(config: &GenerationConfig) -> Self {
        let penalty = config.repetition_penalty.map_or(1.0, |x| x as f32);
        let greedy = Self { repetition_penalty: penalty, ..Self::default() };
        if config.do_sample != Some(true) {
            return greedy;
        }
        Self {
            temperature: config.temperature.map_or(1.0, |x| x as f32),
            top_k: config.top_k.unwrap_or(50),
            top_p: config.top_p.map_or(1.0, |x| x as f32),
            min_p: config.min_p.map_or(0.0, |x| x as f32),
            ..greedy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_do_sample_is_greedy_and_one_with_it_is_as_in_transformers() {
        let mut config = GenerationConfig {
            temperature: Some(0.6),
            top_p: Some(0.9),
            repetition_penalty: Some(1.05),
            ..Default::default()
        };
        let greedy = SamplerConfig::from(&config);
        assert_eq!((greedy.temperature, greedy.top_p, greedy.repetition_penalty), (0.0, 1.0, 1.05));
        config.do_sample = Some(true);
        let sampled = SamplerConfig::from(&config);
        assert_eq!((sampled.temperature, sampled.top_p, sampled.top_k), (0.6, 0.9, 50));
    }
}
