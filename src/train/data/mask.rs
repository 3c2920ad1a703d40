//! Where an assistant turn lies in the tokens of its conversation.
//!
//! Found by comparing tokens, never by adding up lengths: a prompt rendered alone may tokenise differently at its
//! end (a space that merges with the answer's first word), and templates rewrite earlier turns (Qwen3 drops the
//! thinking of all but the last one), so that a shorter conversation is no prefix of the longer one.

use std::ops::Range;

use serde_json::{Value, json};

use super::Encode;
use crate::Result;

/// Two answers that start and end differently, so that any third differs at either end from one of them.
const PROBES: [&str; 2] = ["Quick probe 7", "0 wholly other"];

/// A conversation and its tokens.
pub(super) struct Conversation<'a, E> {
    pub(super) encoder: &'a E,
    pub(super) messages: &'a [Value],
    pub(super) tools: Option<&'a Value>,
    pub(super) tokens: &'a [u32],
}

impl<E: Encode> Conversation<'_, E> {
    /// The tokens that message `i`, an assistant turn, must produce: all after the generation prompt, to its
    /// end-of-turn token and what the template puts behind that.
    pub(super) fn turn(&self, i: usize) -> Result<Range<usize>> {
        let start = match self.start_after_prompt(i) {
            Some(start) => start,
            None => self.changed(self.messages, self.tokens, i)?.start,
        };
        if i + 1 == self.messages.len() {
            return Ok(start..self.tokens.len());
        }
        // A template may refuse a conversation that stops here: then only what follows the answer is unknown.
        let until = self.encoder.encode_chat(&self.messages[..=i], self.tools, false).ok();
        let end = match until {
            Some(until) if self.tokens.starts_with(&until) => until.len(),
            until => {
                let answer = self.changed(self.messages, self.tokens, i)?;
                let closing = match until {
                    Some(until) => {
                        let last = self.changed(&self.messages[..=i], &until, i)?.end;
                        common_prefix(&until[last..], &self.tokens[answer.end..])
                    }
                    None => 1,
                };
                answer.end + closing
            }
        };
        Ok(start.min(end)..end.min(self.tokens.len()))
    }

    /// Where the prompt of turn `i`, generation prompt included, stops being what the tokens start with. None when
    /// they part before the generation prompt: then the template has rewritten what came earlier, or refused it.
    fn start_after_prompt(&self, i: usize) -> Option<usize> {
        let before = &self.messages[..i];
        if before.is_empty() {
            return None;
        }
        let prompt = self.encoder.encode_chat(before, self.tools, true).ok()?;
        let start = common_prefix(&prompt, self.tokens);
        if start == prompt.len() {
            return Some(start);
        }
        let history = self.encoder.encode_chat(before, self.tools, false).ok()?;
        (start >= common_prefix(&history, &prompt)).then_some(start)
    }

    /// The part of `tokens` that depends on what message `i` says: replaces its content, and everything before
    /// the first and after the last difference is not part of it.
    fn changed(&self, messages: &[Value], tokens: &[u32], i: usize) -> Result<Range<usize>> {
        let (mut start, mut behind) = (usize::MAX, usize::MAX);
        for probe in PROBES {
            let mut messages = messages.to_vec();
            messages[i] = json!({"role": messages[i]["role"], "content": probe});
            let probed = self.encoder.encode_chat(&messages, self.tools, false)?;
            start = start.min(common_prefix(&probed, tokens));
            behind = behind.min(common_suffix(&probed, tokens));
        }
        let start = start.min(tokens.len());
        Ok(start..tokens.len().saturating_sub(behind).max(start))
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn common_suffix(a: &[u32], b: &[u32]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}
