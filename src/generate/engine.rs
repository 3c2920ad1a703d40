//! The generation loop: prefill, then one token for each row and step, until every row has an end.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Tensor;

use super::generation::{Event, Generation};
use super::logits::Logits;
use super::model::CausalLm;
use super::options::GenerateOptions;
use super::row::Row;
use crate::Result;
use crate::load::Tokenizer;

/// A prompt and how it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What the model reads.
    pub prompt: &'a [u32],
    /// How it is answered.
    pub options: &'a GenerateOptions,
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
    on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let each: Vec<GenerateOptions> = (0..prompts.len() as u64).map(|i| options.with_seed_after(i)).collect();
    let requests: Vec<Request> =
        prompts.iter().zip(&each).map(|(prompt, options)| Request { prompt, options }).collect();
    generate_each(model, tokenizer, &requests, on_event)
}

/// As [`generate_batch`], each prompt with its own options. The longest part of the prompts that is read at a time
/// is the least that one of them asks for.
pub fn generate_each<M: CausalLm>(
    model: &M,
    tokenizer: &Tokenizer,
    requests: &[Request],
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let chunk = requests.iter().map(|request| request.options.prefill_chunk).min().unwrap_or(1);
    let mut rows = (requests.iter().enumerate())
        .map(|(i, &request)| Row::new(model, tokenizer, i, request))
        .collect::<Result<Vec<_>>>()?;
    let together = if model.rows_are_independent() { rows.len().max(1) } else { 1 };
    for batch in rows.chunks_mut(together) {
        if run(model, batch, chunk, &mut on_event)?.is_break() {
            break;
        }
    }
    Ok(rows.into_iter().map(Row::end).collect())
}

/// Answers the prompts of one batch; a break if the callback asked for it.
fn run<M: CausalLm>(
    model: &M,
    rows: &mut [Row],
    chunk: usize,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let started = Instant::now();
    let prefill = prefill(model, rows, chunk, on_event)?;
    let prefill_seconds = started.elapsed().as_secs_f64();
    rows.iter_mut().for_each(|row| row.prefill_seconds = prefill_seconds);
    let Some((mut logits, mut cache)) = prefill else { return Ok(ControlFlow::Break(())) };
    // The tokens that the cache holds, and the logits of a pass over the next one that a GPU began by itself.
    let (mut held, mut ahead) = (rows.iter().map(|row| row.prompt_len).max().unwrap_or(0), None);

    let started = Instant::now();
    let mut live: Vec<usize> = (0..rows.len()).collect();
    loop {
        for (place, &i) in live.iter().enumerate() {
            let row = &mut rows[i];
            let text = logits.step(place, row)?;
            row.decode_seconds = started.elapsed().as_secs_f64();
            if on_event(row.event(&text)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let going: Vec<usize> = (0..live.len()).filter(|&i| rows[live[i]].finish.is_none()).collect();
        if going.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let whole = going.len() == live.len() && logits.chosen();
        let next = match ahead.take() {
            Some(next) if whole => next,
            none => {
                if none.is_some() {
                    held -= 1;
                    model.truncate(&mut cache, held);
                }
                if going.len() < live.len() {
                    model.keep_rows(&mut cache, &going)?;
                    live = going.into_iter().map(|i| live[i]).collect();
                }
                let next = live.iter().map(|&i| rows[i].last().id).collect();
                let ids = Tensor::from_vec(next, (live.len(), 1), model.device())?;
                held += 1;
                model.forward(&ids, &mut cache)?
            }
        };
        // A row that ends with this token has no room for another.
        let more = live.iter().all(|&i| rows[i].left() > 1);
        let mut going: Vec<&mut Row> = rows
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| live.binary_search(i).is_ok())
            .map(|(_, row)| row)
            .collect();
        let reading = Logits::begin(&next, &mut going)?;
        if let Some(ids) = reading.ids()?.filter(|_| more) {
            ahead = Some(model.forward(&ids, &mut cache)?);
            held += 1;
        }
        logits = reading.wait()?;
    }
}

/// The logits of each row after its prompt, and the cache.
type Prefilled<C> = (Logits, C);

/// Reads the prompts, padded on the left, a chunk at a time; none if cancelled.
fn prefill<M: CausalLm>(
    model: &M,
    rows: &mut [Row],
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
        let logits = match done == width {
            true => Some(Logits::read(&logits, &mut rows.iter_mut().collect::<Vec<_>>())?),
            false => None,
        };
        if on_event(Event::Prefill { done, total: width }).is_break() {
            return Ok(None);
        }
        if let Some(logits) = logits {
            return Ok(Some((logits, cache)));
        }
    }
}

#[cfg(test)]
mod tests;
