//! Speculative decoding: a small model proposes tokens, the model checks several of them in one pass.
//!
//! Leviathan et al., [Fast Inference from Transformers via Speculative Decoding](https://arxiv.org/abs/2211.17192).
//! A proposal `x`, drawn from the draft's distribution `q`, is kept with probability `min(1, p(x) / q(x))`; else a
//! token is drawn from `max(0, p - q)`: what comes out is distributed as `p`, the model's own. Greedy decoding keeps
//! a proposal if it is the model's choice. It is checked in passes of as many tokens as the CPU reads with the same
//! rounding as one after the other ([`VERIFIED_TOGETHER`]): there the answer is plain decoding's, token for token. On
//! a GPU two tokens whose logits are equal but for rounding may change places.

use std::ops::ControlFlow;
use std::time::Instant;

use super::engine::Request;
use super::generation::{Drafted, Event, Generation};
use super::model::{CausalLm, VERIFIED_TOGETHER};
use super::options::GenerateOptions;
use super::prompt_cache::PromptCache;
use super::row::Row;
use super::sampler::{Sampled, logprob};
use super::single::{numbers, prefill, read_all, read_rest};
use crate::load::Tokenizer;
use crate::{Error, Result};

/// A small model that proposes tokens, and what it has read.
pub struct Draft<D: CausalLm> {
    model: D,
    tokens: usize,
    cache: PromptCache<D>,
}

/// A token's probability in a distribution, by id.
type Distribution = Vec<(u32, f32)>;

impl<D: CausalLm> Draft<D> {
    /// A draft that proposes `tokens` at a time.
    pub fn new(model: D, tokens: usize) -> Result<Self> {
        match tokens {
            0 => Err(Error::wants("num_draft_tokens", "at least 1", "0")),
            _ => Ok(Draft { model, tokens, cache: PromptCache::new() }),
        }
    }

    /// Refuses a draft whose tokens do not mean to `tokenizer` what they mean to `own`, the draft's.
    pub fn check(own: &Tokenizer, tokenizer: &Tokenizer) -> Result<()> {
        let size = own.vocab_size().max(tokenizer.vocab_size()) as u32;
        let Some(id) = (0..size).find(|&id| own.token(id) != tokenizer.token(id)) else { return Ok(()) };
        let show = |token: Option<String>| token.map_or("none".to_string(), |token| format!("{token:?}"));
        let wants = format!("the model's vocabulary, token {id} being {}", show(tokenizer.token(id)));
        Err(Error::wants("draft model", wants, show(own.token(id))))
    }

    /// Reads what the row has so far, that the first proposal need not; a break if `on_event` asked for it.
    fn prefill(
        &mut self,
        row: &mut Row,
        chunk: usize,
        on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if self.room(&row.tokens) == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let started = Instant::now();
        let read = read_rest(&self.model, &mut self.cache, &row.tokens, chunk, |_| {
            // The model has read the prompt: there is no more to tell of.
            on_event(Event::Prefill { done: row.prompt_len, total: row.prompt_len })
        })?;
        row.prefill_seconds += started.elapsed().as_secs_f64();
        Ok(if read.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// How many tokens may follow these.
    fn room(&self, tokens: &[u32]) -> usize {
        match tokens.iter().any(|&id| id as usize >= self.model.vocab_size()) {
            true => 0,
            false => self.model.max_positions().saturating_sub(tokens.len()),
        }
    }

    /// Proposes up to `count` tokens to follow the row's, each with the distribution it was drawn from.
    fn propose(&mut self, row: &mut Row, count: usize, chunk: usize) -> Result<Vec<(u32, Distribution)>> {
        let mut tokens = row.tokens.clone();
        let room = self.room(&tokens);
        let mut proposed = Vec::new();
        for _ in 0..count.min(room) {
            let logits =
                read_rest(&self.model, &mut self.cache, &tokens, chunk, |_| ControlFlow::Continue(()))?;
            // Both models may have more rows in the head than there are tokens.
            let mut logits = logits.as_ref().map_or(Ok(Vec::new()), numbers)?;
            logits.truncate(row.vocab);
            let (id, distribution) = match row.sampler.is_greedy() {
                true => (row.sampler.sample(&logits, &tokens, row.prompt_len)?.id, Vec::new()),
                false => {
                    let distribution = row.sampler.distribution(&logits, &tokens, row.prompt_len)?;
                    let weights: Vec<_> = distribution.iter().map(|&(id, q)| (id, q.into())).collect();
                    let Some(id) = row.sampler.draw_from(&weights) else { break };
                    (id, distribution)
                }
            };
            tokens.push(id);
            proposed.push((id, distribution));
        }
        Ok(proposed)
    }
}

/// As [`generate_cached`](super::generate_cached), with a draft model.
///
/// Greedy answers are those without it; sampled ones have their distribution, but a seed gives other tokens. A model
/// whose rotary frequencies depend on the length cannot be checked in parts, and is an error.
pub fn generate_speculative<M: CausalLm, D: CausalLm>(
    model: &M,
    draft: &mut Draft<D>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    cache: &mut PromptCache<M>,
    options: &GenerateOptions,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Generation> {
    if !model.rows_are_independent() {
        let wants = "a model whose rotary frequencies do not depend on the length";
        return Err(Error::wants("draft model", wants, "one whose do: leave the draft model out"));
    }
    let chunk = options.prefill_chunk;
    let mut row = Row::new(model, tokenizer, 0, Request { prompt, options })?;
    let mut drafted = Drafted::default();
    let Some(logits) = prefill(model, &mut row, cache, chunk, &mut on_event, |logits, _| numbers(logits))?
    else {
        return Ok(row.end());
    };
    if draft.prefill(&mut row, chunk, &mut on_event)?.is_break() {
        return Ok(row.end());
    }
    let started = Instant::now();
    let mut next = row.sampler.sample(&logits, &row.tokens, row.prompt_len)?;
    let mut logits = logits;
    'answer: loop {
        // `next` was chosen by `logits`, and is the first token of a round.
        if show(&mut row, next, &logits, started, &mut on_event)?.is_break() {
            break;
        }
        let count = draft.tokens.min(row.left() - 1);
        let proposed = draft.propose(&mut row, count, chunk)?;
        drafted.proposed += proposed.len();
        let mut fed = vec![next.id];
        fed.extend(proposed.iter().map(|(id, _)| *id));
        let mut proposals = proposed.iter();
        for part in fed.chunks(VERIFIED_TOGETHER) {
            for after in read_all(model, cache, part)? {
                let choice = verify(&mut row, &after, proposals.next())?;
                if let (token, true) = choice {
                    drafted.accepted += 1;
                    if show(&mut row, token, &after, started, &mut on_event)?.is_break() {
                        break 'answer;
                    }
                    continue;
                }
                // What was read beyond the last agreement is forgotten; a new round begins.
                cache.truncate(model, row.tokens.len());
                (next, logits) = (choice.0, after);
                continue 'answer;
            }
        }
    }
    cache.truncate(model, row.tokens.len() - 1);
    row.draft = Some(drafted);
    Ok(row.end())
}

/// Adds a token to the answer and tells of it; a break if it is the last.
fn show(
    row: &mut Row,
    token: Sampled,
    logits: &[f32],
    started: Instant,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let text = row.accept(token, logits)?;
    row.decode_seconds = started.elapsed().as_secs_f64();
    let asked = on_event(row.event(&text));
    Ok(if row.finish.is_some() { ControlFlow::Break(()) } else { asked })
}

/// The token that follows the row, and whether it is the proposed one.
fn verify(row: &mut Row, logits: &[f32], proposed: Option<&(u32, Distribution)>) -> Result<(Sampled, bool)> {
    let Some((id, q)) = proposed.filter(|_| !row.sampler.is_greedy()) else {
        let token = row.sampler.sample(logits, &row.tokens, row.prompt_len)?;
        return Ok((token, proposed.is_some_and(|(id, _)| *id == token.id)));
    };
    let p = row.sampler.distribution(logits, &row.tokens, row.prompt_len)?;
    let of = |distribution: &Distribution, id: u32| {
        distribution
            .binary_search_by_key(&id, |entry| entry.0)
            .map_or(0.0, |at| f64::from(distribution[at].1))
    };
    if row.sampler.uniform() * of(q, *id) < of(&p, *id) {
        return Ok((Sampled { id: *id, logprob: logprob(logits, *id)? }, true));
    }
    let rest: Vec<_> = p.iter().map(|&(id, p)| (id, (f64::from(p) - of(q, id)).max(0.0))).collect();
    // Nothing is left of p only if p and q are equal but for rounding.
    let other = row.sampler.draw_from(&rest).unwrap_or(*id);
    Ok((Sampled { id: other, logprob: logprob(logits, other)? }, false))
}

#[cfg(test)]
mod tests;
