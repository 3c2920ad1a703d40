//! One prompt and its answer so far.

use super::engine::Request;
use super::generation::{Drafted, Event, Generation, StoppedBy};
use super::model::CausalLm;
use super::options::GenerateOptions;
use super::sampler::{Sampled, Sampler, top_logprobs};
use super::stop::{FinishReason, StopStrings};
use crate::load::{DecodeStream, Tokenizer};
use crate::ops::sample::Choice;
use crate::{Error, Result};

/// One prompt and its answer so far.
pub(super) struct Row<'t> {
    pub index: usize,
    options: &'t GenerateOptions,
    /// The prompt, then the answer.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Ids below this are the model's.
    pub vocab: usize,
    pub max_tokens: usize,
    logprobs: Vec<f32>,
    top: Vec<Vec<Sampled>>,
    pub sampler: Sampler,
    /// None once its end was taken.
    stream: Option<DecodeStream<'t>>,
    stops: StopStrings,
    text: String,
    pub finish: Option<FinishReason>,
    stopped_by: Option<StoppedBy>,
    pub cached: usize,
    pub draft: Option<Drafted>,
    pub prefill_seconds: f64,
    pub decode_seconds: f64,
}

impl<'t> Row<'t> {
    pub fn new<M: CausalLm>(
        model: &M,
        tokenizer: &'t Tokenizer,
        index: usize,
        request: Request<'t>,
    ) -> Result<Self> {
        let Request { prompt, options } = request;
        options.validate()?;
        let tokens = match (prompt, options.bos_token) {
            ([], Some(bos)) => vec![bos],
            ([], None) => {
                let wants = "at least one token (the model has no BOS token to begin with)";
                return Err(Error::wants("prompt", wants, "none"));
            }
            _ => prompt.to_vec(),
        };
        let vocab = model.vocab_size();
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            let wants = format!("token ids below the model's vocabulary of {vocab}");
            return Err(Error::wants("prompt", wants, id.to_string()));
        }
        let max_tokens = options.room(tokens.len(), model.max_positions())?;
        Ok(Self {
            index,
            options,
            prompt_len: tokens.len(),
            vocab,
            tokens,
            max_tokens,
            logprobs: Vec::new(),
            top: Vec::new(),
            sampler: Sampler::new(options.sampler.clone())?,
            stream: Some(tokenizer.stream_with(options.skip_special_tokens)),
            stops: StopStrings::new(&options.stop_strings, options.include_stop)?,
            text: String::new(),
            finish: None,
            stopped_by: None,
            cached: 0,
            draft: None,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
        })
    }

    /// Chooses the next token; the text that became certain.
    pub fn step(&mut self, logits: &[f32]) -> Result<String> {
        let token = self.sampler.sample(logits, &self.tokens, self.prompt_len)?;
        self.accept(token, logits)
    }

    /// How a GPU is to choose the next token; none where the host has more to do than that.
    pub fn choice(&mut self) -> Option<Choice> {
        if self.options.top_logprobs > 0 { None } else { self.sampler.choice() }
    }

    /// Takes a token that a GPU has chosen; the text that became certain.
    pub fn take(&mut self, token: Sampled) -> Result<String> {
        self.sampler.took();
        self.accept(token, &[])
    }

    /// Takes a token that was chosen by `logits`; the text that became certain.
    pub fn accept(&mut self, token: Sampled, logits: &[f32]) -> Result<String> {
        self.tokens.push(token.id);
        self.logprobs.push(token.logprob);
        if self.options.top_logprobs > 0 {
            self.top.push(top_logprobs(logits, self.options.top_logprobs)?);
        }
        let mut text = String::new();
        if self.options.stop_tokens.contains(&token.id) {
            self.finish = Some(FinishReason::Stop);
            self.stopped_by = Some(StoppedBy::Token(token.id));
        } else {
            let piece = self.stream.as_mut().map_or(Ok(None), |stream| stream.push(token.id))?;
            self.release(&piece.unwrap_or_default(), &mut text);
            if self.finish.is_none() && self.logprobs.len() >= self.max_tokens {
                self.finish = Some(FinishReason::Length);
            }
        }
        if self.finish.is_some() && !matches!(self.stopped_by, Some(StoppedBy::String(_))) {
            let tail = self.stream.take().map_or(Ok(String::new()), DecodeStream::finish)?;
            self.release(&tail, &mut text);
            text.push_str(&self.stops.finish());
        }
        self.text.push_str(&text);
        Ok(text)
    }

    /// Passes decoded text through the stop strings into `text`.
    fn release(&mut self, piece: &str, text: &mut String) {
        let out = self.stops.push(piece);
        text.push_str(&out.text);
        if let Some(stop) = out.stop {
            self.finish = Some(FinishReason::Stop);
            self.stopped_by = Some(StoppedBy::String(stop));
        }
    }

    /// The event of the last token, with the text that became certain.
    pub fn event<'a>(&self, text: &'a str) -> Event<'a> {
        Event::Token { row: self.index, token: self.last(), text, finish: self.finish }
    }

    /// How many tokens may still be chosen.
    pub fn left(&self) -> usize {
        self.max_tokens - self.logprobs.len()
    }

    pub fn last(&self) -> Sampled {
        let logprob = self.logprobs.last().copied().unwrap_or(0.0);
        Sampled { id: self.tokens[self.tokens.len() - 1], logprob }
    }

    pub fn end(self) -> Generation {
        let rate = |n: usize, s: f64| if n > 0 && s > 0.0 { n as f64 / s } else { 0.0 };
        Generation {
            text: self.text,
            tokens: self.tokens[self.prompt_len..].to_vec(),
            prefill_tokens_per_s: rate(self.prompt_len - self.cached, self.prefill_seconds),
            decode_tokens_per_s: rate(self.logprobs.len().saturating_sub(1), self.decode_seconds),
            logprobs: self.logprobs,
            top_logprobs: self.top,
            finish_reason: self.finish.unwrap_or(FinishReason::Cancelled),
            stopped_by: self.stopped_by,
            seed: self.sampler.seed(),
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached,
            draft: self.draft,
            prefill_seconds: self.prefill_seconds,
            decode_seconds: self.decode_seconds,
        }
    }
}
