//! What generation reports: events while it runs, and the answer.

use serde::Serialize;

use super::sampler::Sampled;
use super::stop::FinishReason;

/// What happens while text is generated.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A part of the prompts was read.
    Prefill {
        /// Tokens read, in each row.
        done: usize,
        /// Tokens to read, in the longest row.
        total: usize,
    },
    /// A token was chosen.
    Token {
        /// The prompt that is answered.
        row: usize,
        /// The token and its log-probability.
        token: Sampled,
        /// Text that became certain with it, often empty; the pieces of a row make up [`Generation::text`].
        text: &'a str,
        /// Why this is the row's last token, if it is.
        finish: Option<FinishReason>,
    },
}

/// What reached an answer's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// A stop token.
    Token(u32),
    /// A stop string.
    String(String),
}

/// An answer, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// The answer, without what ended it (unless [`include_stop`](super::GenerateOptions::include_stop) shows the stop
    /// string).
    pub text: String,
    /// Every token that was chosen, a stop token included.
    pub tokens: Vec<u32>,
    /// The natural log-probability of each token under the model's raw logits, before penalties and temperature.
    pub logprobs: Vec<f32>,
    /// For each token the most likely ones in its place, if [`top_logprobs`](super::GenerateOptions::top_logprobs) asks
    /// for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Vec<Sampled>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The stop token or stop string that ended it.
    pub stopped_by: Option<StoppedBy>,
    /// The seed that repeats it.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them a cache already held: they were not read again.
    pub cached_tokens: usize,
    /// What a draft model contributed, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<Drafted>,
    /// Seconds until the logits of the first token.
    pub prefill_seconds: f64,
    /// Seconds from there to the last token.
    pub decode_seconds: f64,
    /// Tokens of the prompt that were read a second.
    pub prefill_tokens_per_s: f64,
    /// Tokens after the first a second (the first one comes out of the prefill); 0 if there are none.
    pub decode_tokens_per_s: f64,
}

/// What a draft model contributed to an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Drafted {
    /// Tokens it proposed.
    pub proposed: usize,
    /// Those of them that the model agreed with.
    pub accepted: usize,
}
