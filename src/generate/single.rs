//! One prompt with a cache that is kept.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{DType, Tensor};

use super::engine::Request;
use super::generation::{Event, Generation};
use super::logits::Logits;
use super::model::CausalLm;
use super::options::GenerateOptions;
use super::prompt_cache::PromptCache;
use super::row::Row;
use crate::load::Tokenizer;
use crate::{Error, Result};

/// As [`generate`](super::generate), reading only the tokens of the prompt that `cache` does not hold.
///
/// The prompt may be any: what `cache` holds beyond their common beginning is forgotten. Afterwards it holds the
/// prompt and the answer but for its last token, and so it does when an answer is cut short.
pub fn generate_cached<M: CausalLm>(
    model: &M,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    cache: &mut PromptCache<M>,
    options: &GenerateOptions,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut row = Row::new(model, tokenizer, 0, Request { prompt, options })?;
    let read = |logits: &Tensor, row: &mut Row| Logits::read(logits, &mut [row]);
    let Some(mut logits) = prefill(model, &mut row, cache, options.prefill_chunk, &mut on_event, read)?
    else {
        return Ok(row.end());
    };
    let started = Instant::now();
    // The logits of a pass over the next token that a GPU began by itself.
    let mut ahead = None;
    loop {
        let text = logits.step(0, &mut row)?;
        row.decode_seconds = started.elapsed().as_secs_f64();
        let done = on_event(row.event(&text)).is_break() || row.finish.is_some();
        let next = match ahead.take() {
            Some(next) if !done && logits.chosen() => {
                cache.tokens.push(row.last().id);
                Some(next)
            }
            Some(_) => {
                let held = cache.tokens.len();
                cache.cache.iter_mut().for_each(|keys| model.truncate(keys, held));
                None
            }
            None => None,
        };
        if done {
            return Ok(row.end());
        }
        let next = match next {
            Some(next) => next,
            None => fed(model, cache, &[row.last().id], M::forward)?,
        };
        let more = row.left() > 1;
        let reading = Logits::begin(&next, &mut [&mut row])?;
        if let (Some(ids), Some(keys)) = (reading.ids()?.filter(|_| more), &mut cache.cache) {
            ahead = Some(model.forward(&ids, keys)?);
        }
        logits = reading.wait()?;
    }
}

/// Reads a prompt into `cache`, for answers to come; a break if `on_event` asked for it.
pub fn read_prompt<M: CausalLm>(
    model: &M,
    prompt: &[u32],
    cache: &mut PromptCache<M>,
    chunk: usize,
    on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let (vocab, context) = (model.vocab_size(), model.max_positions());
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        let wants = format!("token ids below the model's vocabulary of {vocab}");
        return Err(Error::wants("prompt", wants, id.to_string()));
    }
    if prompt.is_empty() || prompt.len() >= context {
        let wants =
            format!("fewer tokens than the model's max_position_embeddings, {context}, and at least one");
        return Err(Error::wants("prompt", wants, prompt.len().to_string()));
    }
    let read = read_rest(model, cache, prompt, chunk, on_event)?;
    model.device().synchronize()?;
    Ok(if read.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
}

/// What `read` makes of the logits that follow a row's prompt; none if cancelled. The row keeps what it took.
pub(super) fn prefill<M: CausalLm, R>(
    model: &M,
    row: &mut Row,
    cache: &mut PromptCache<M>,
    chunk: usize,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
    read: impl FnOnce(&Tensor, &mut Row) -> Result<R>,
) -> Result<Option<R>> {
    let started = Instant::now();
    row.cached = cache.keep_prefix(model, &row.tokens[..row.prompt_len - 1]);
    let logits = read_rest(model, cache, &row.tokens, chunk, on_event)?;
    // Reading the logits waits for the device: that is the prefill's time.
    let logits = logits.map(|logits| read(&logits, row)).transpose()?;
    row.prefill_seconds = started.elapsed().as_secs_f64();
    Ok(logits)
}

/// Reads what `cache` lacks of `tokens`, at least the last of them; the logits (1, vocabulary) that follow.
pub(super) fn read_rest<M: CausalLm>(
    model: &M,
    cache: &mut PromptCache<M>,
    tokens: &[u32],
    chunk: usize,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Option<Tensor>> {
    let total = tokens.len();
    let mut done = cache.keep_prefix(model, &tokens[..total - 1]);
    loop {
        let n = chunk.max(1).min(total - done);
        let logits = fed(model, cache, &tokens[done..done + n], M::forward)?;
        done += n;
        if on_event(Event::Prefill { done, total }).is_break() {
            return Ok(None);
        }
        if done == total {
            return Ok(Some(logits));
        }
    }
}

/// The logits (1, vocabulary) of one row as numbers.
pub(super) fn numbers(logits: &Tensor) -> Result<Vec<f32>> {
    match logits.dims() {
        &[1, vocab] if vocab > 0 => Ok(logits.to_dtype(DType::F32)?.squeeze(0)?.to_vec1()?),
        got => Err(Error::wants("logits", "shape [1, vocabulary]", format!("{got:?}"))),
    }
}

/// Reads tokens that follow those of the cache; the logits of each.
pub(super) fn read_all<M: CausalLm>(
    model: &M,
    cache: &mut PromptCache<M>,
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>> {
    let logits = fed(model, cache, tokens, M::forward_all)?;
    match logits.dims() {
        &[1, n, vocab] if n == tokens.len() && vocab > 0 => {
            Ok(logits.to_dtype(DType::F32)?.squeeze(0)?.to_vec2()?)
        }
        got => Err(Error::wants(
            "logits",
            format!("shape [1, {}, vocabulary]", tokens.len()),
            format!("{got:?}"),
        )),
    }
}

fn fed<M: CausalLm>(
    model: &M,
    cache: &mut PromptCache<M>,
    tokens: &[u32],
    forward: impl Fn(&M, &Tensor, &mut M::Cache) -> Result<Tensor>,
) -> Result<Tensor> {
    let ids = Tensor::from_slice(tokens, (1, tokens.len()), model.device())?;
    let keys = match &mut cache.cache {
        Some(keys) => keys,
        none => none.insert(model.new_cache(&[0])?),
    };
    let logits = forward(model, &ids, keys)?;
    cache.tokens.extend_from_slice(tokens);
    Ok(logits)
}
