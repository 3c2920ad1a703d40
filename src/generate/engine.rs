//! The generation loop: prefill, then one token for each row and step, until every row has an end.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::options::GenerateOptions;
use super::sampler::{Sampled, Sampler, top_logprobs};
use super::stop::{FinishReason, StopStrings};
use crate::load::{DecodeStream, Tokenizer};
use crate::models::Model;
use crate::nn::KvCache;
use crate::{Error, Result};

/// What generation needs of a model: the logits that follow a chunk of tokens, with a cache of those before it.
///
/// Rows of a batch are padded on the left: row `i` begins at index `starts[i]` of the batch, what stands before is
/// never attended to, and a token at index `j` has position `j - starts[i]`.
pub trait CausalLm {
    /// The keys and values of the tokens seen so far.
    type Cache;

    /// An empty cache for `starts.len()` rows.
    fn new_cache(&self, starts: &[usize]) -> Result<Self::Cache>;

    /// Reads `ids` (rows, tokens; u32), which follow what `cache` holds, and gives the logits (rows, vocabulary)
    /// of the last position. A chunk may lie wholly in the padding of a row; that row's logits are then not used.
    fn forward(&self, ids: &Tensor, cache: &mut Self::Cache) -> Result<Tensor>;

    /// Drops the rows whose index is not in `rows` (ascending): they have ended.
    fn keep_rows(&self, cache: &mut Self::Cache, rows: &[usize]) -> Result<()>;

    /// Whether a row's logits are the same in any batch. They are not if the rotary frequencies depend on the
    /// longest row.
    fn rows_are_independent(&self) -> bool {
        true
    }

    /// Where `ids` must be.
    fn device(&self) -> &Device;

    /// The number of token ids the model can read.
    fn vocab_size(&self) -> usize;

    /// The largest number of tokens in a row, prompt and answer together.
    fn max_positions(&self) -> usize;
}

impl CausalLm for Model {
    type Cache = KvCache;

    fn new_cache(&self, starts: &[usize]) -> Result<KvCache> {
        Ok(self.cache(starts))
    }

    fn forward(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        Ok(Model::forward(self, ids, cache)?)
    }

    fn keep_rows(&self, cache: &mut KvCache, rows: &[usize]) -> Result<()> {
        Ok(cache.keep_rows(rows)?)
    }

    fn rows_are_independent(&self) -> bool {
        !self.config.ropes.iter().any(|rope| rope.has_regimes())
    }

    fn device(&self) -> &Device {
        Model::device(self)
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.max_position_embeddings
    }
}

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
    /// The answer, without what ended it (unless [`GenerateOptions::include_stop`] shows the stop string).
    pub text: String,
    /// Every token that was chosen, a stop token included.
    pub tokens: Vec<u32>,
    /// The natural log-probability of each token under the model's raw logits, before penalties and temperature.
    pub logprobs: Vec<f32>,
    /// For each token the most likely ones in its place, if [`GenerateOptions::top_logprobs`] asks for them.
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
    /// Seconds until the logits of the first token.
    pub prefill_seconds: f64,
    /// Seconds from there to the last token.
    pub decode_seconds: f64,
    /// Tokens of the prompt a second.
    pub prefill_tokens_per_s: f64,
    /// Tokens after the first a second (the first one comes out of the prefill); 0 if there are none.
    pub decode_tokens_per_s: f64,
}

/// Answers one prompt.
///
/// `on_event` hears of each step; it ends the answer by returning [`ControlFlow::Break`]. An empty prompt becomes
/// the BOS token, if there is one. Prompts or lengths that do not fit the model are errors.
pub fn generate<M: CausalLm>(
    model: &M,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut all = generate_batch(model, tokenizer, &[prompt.to_vec()], options, on_event)?;
    Ok(all.swap_remove(0))
}

/// Answers several prompts at once; each answer is the one that [`generate`] gives.
///
/// Row `i` draws with seed + `i`, so that equal prompts get different answers, each of which can be repeated. A
/// [`ControlFlow::Break`] from `on_event` ends all rows. The prefill time is that of the whole batch. Prompts for a
/// model whose rows are not independent are answered one after the other.
pub fn generate_batch<M: CausalLm>(
    model: &M,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    options.validate()?;
    let mut rows = (prompts.iter().enumerate())
        .map(|(i, prompt)| Row::new(model, tokenizer, i, prompt, options))
        .collect::<Result<Vec<_>>>()?;
    let together = if model.rows_are_independent() { rows.len().max(1) } else { 1 };
    for batch in rows.chunks_mut(together) {
        if run(model, batch, options, &mut on_event)?.is_break() {
            break;
        }
    }
    Ok(rows.into_iter().map(Row::end).collect())
}

/// Answers the prompts of one batch; a break if the callback asked for it.
fn run<M: CausalLm>(
    model: &M,
    rows: &mut [Row],
    options: &GenerateOptions,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let started = Instant::now();
    let prefill = prefill(model, rows, options.prefill_chunk, on_event)?;
    let prefill_seconds = started.elapsed().as_secs_f64();
    rows.iter_mut().for_each(|row| row.prefill_seconds = prefill_seconds);
    let Some((mut logits, mut cache)) = prefill else { return Ok(ControlFlow::Break(())) };

    let started = Instant::now();
    let mut live: Vec<usize> = (0..rows.len()).collect();
    loop {
        for (&i, logits) in live.iter().zip(&logits) {
            let row = &mut rows[i];
            let text = row.step(logits, options)?;
            row.decode_seconds = started.elapsed().as_secs_f64();
            let event = Event::Token { row: row.index, token: row.last(), text: &text, finish: row.finish };
            if on_event(event).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let going: Vec<usize> = (0..live.len()).filter(|&i| rows[live[i]].finish.is_none()).collect();
        if going.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if going.len() < live.len() {
            model.keep_rows(&mut cache, &going)?;
            live = going.into_iter().map(|i| live[i]).collect();
        }
        let next = live.iter().map(|&i| rows[i].last().id).collect();
        let ids = Tensor::from_vec(next, (live.len(), 1), model.device())?;
        logits = read_logits(&model.forward(&ids, &mut cache)?, live.len())?;
    }
}

/// The logits of each row after its prompt, and the cache.
type Prefilled<C> = (Vec<Vec<f32>>, C);

/// Reads the prompts, padded on the left, a chunk at a time; none if cancelled.
fn prefill<M: CausalLm>(
    model: &M,
    rows: &[Row],
    chunk: usize,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Option<Prefilled<M::Cache>>> {
    let width = rows.iter().map(|r| r.prompt_len).max().unwrap_or(0);
    let starts: Vec<usize> = rows.iter().map(|r| width - r.prompt_len).collect();
    let mut ids = Vec::with_capacity(rows.len() * width);
    for (row, &start) in rows.iter().zip(&starts) {
        ids.extend(std::iter::repeat_n(0, start));
        ids.extend_from_slice(&row.tokens);
    }
    let ids = Tensor::from_vec(ids, (rows.len(), width), model.device())?;
    let mut cache = model.new_cache(&starts)?;
    let mut done = 0;
    loop {
        let n = chunk.min(width - done);
        let logits = model.forward(&ids.narrow(1, done, n)?.contiguous()?, &mut cache)?;
        done += n;
        // Reading the logits waits for the device: the last read belongs to the prefill's time.
        let logits = if done == width { Some(read_logits(&logits, rows.len())?) } else { None };
        if on_event(Event::Prefill { done, total: width }).is_break() {
            return Ok(None);
        }
        if let Some(logits) = logits {
            return Ok(Some((logits, cache)));
        }
    }
}

/// Logits (rows, vocabulary) as numbers.
fn read_logits(logits: &Tensor, rows: usize) -> Result<Vec<Vec<f32>>> {
    match logits.dims() {
        &[n, vocab] if n == rows && vocab > 0 => Ok(logits.to_dtype(DType::F32)?.to_vec2()?),
        got => Err(Error::wants("logits", format!("shape [{rows}, vocabulary]"), format!("{got:?}"))),
    }
}

/// One prompt and its answer so far.
struct Row<'t> {
    index: usize,
    /// The prompt, then the answer.
    tokens: Vec<u32>,
    prompt_len: usize,
    max_tokens: usize,
    logprobs: Vec<f32>,
    top: Vec<Vec<Sampled>>,
    sampler: Sampler,
    /// None once its end was taken.
    stream: Option<DecodeStream<'t>>,
    stops: StopStrings,
    text: String,
    finish: Option<FinishReason>,
    stopped_by: Option<StoppedBy>,
    prefill_seconds: f64,
    decode_seconds: f64,
}

impl<'t> Row<'t> {
    fn new<M: CausalLm>(
        model: &M,
        tokenizer: &'t Tokenizer,
        index: usize,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Self> {
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
        let mut config = options.sampler.clone();
        config.seed = config.seed.map(|seed| seed.wrapping_add(index as u64));
        Ok(Self {
            index,
            prompt_len: tokens.len(),
            tokens,
            max_tokens,
            logprobs: Vec::new(),
            top: Vec::new(),
            sampler: Sampler::new(config)?,
            stream: Some(tokenizer.stream()),
            stops: StopStrings::new(&options.stop_strings, options.include_stop)?,
            text: String::new(),
            finish: None,
            stopped_by: None,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
        })
    }

    /// Chooses the next token; the text that became certain.
    fn step(&mut self, logits: &[f32], options: &GenerateOptions) -> Result<String> {
        let token = self.sampler.sample(logits, &self.tokens, self.prompt_len)?;
        self.tokens.push(token.id);
        self.logprobs.push(token.logprob);
        if options.top_logprobs > 0 {
            self.top.push(top_logprobs(logits, options.top_logprobs)?);
        }
        let mut text = String::new();
        if options.stop_tokens.contains(&token.id) {
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

    fn last(&self) -> Sampled {
        let logprob = self.logprobs.last().copied().unwrap_or(0.0);
        Sampled { id: self.tokens[self.tokens.len() - 1], logprob }
    }

    fn end(self) -> Generation {
        let rate = |n: usize, s: f64| if n > 0 && s > 0.0 { n as f64 / s } else { 0.0 };
        Generation {
            text: self.text,
            tokens: self.tokens[self.prompt_len..].to_vec(),
            prefill_tokens_per_s: rate(self.prompt_len, self.prefill_seconds),
            decode_tokens_per_s: rate(self.logprobs.len().saturating_sub(1), self.decode_seconds),
            logprobs: self.logprobs,
            top_logprobs: self.top,
            finish_reason: self.finish.unwrap_or(FinishReason::Cancelled),
            stopped_by: self.stopped_by,
            seed: self.sampler.seed(),
            prompt_tokens: self.prompt_len,
            prefill_seconds: self.prefill_seconds,
            decode_seconds: self.decode_seconds,
        }
    }
}

#[cfg(test)]
mod tests;
