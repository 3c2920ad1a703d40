//! Detokenising as tokens arrive.

use tokenizers::decoders::DecoderWrapper;

use super::Tokenizer;
use crate::Result;

/// Turns tokens into text piece by piece.
///
/// A piece never ends inside a character, and all pieces together are what [`Tokenizer::decode`] gives for
/// all tokens. Decoding a token alone would lose the space before a word (SentencePiece) and split characters
/// (bytes), so a window of tokens is decoded and only what it adds to the text so far is handed out.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    window: Vec<u32>,
    /// How many tokens of the window have been handed out as text.
    done: usize,
    /// The text of those tokens.
    text: String,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        DecodeStream { tokenizer, skip_special, window: Vec::new(), done: 0, text: String::new() }
    }

    /// Adds a token; the text that is certain now, if any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        // A replacement character at the end may be the first bytes of a character still to come.
        if text.ends_with('\u{FFFD}') || self.inside_bytes() || !text.starts_with(&self.text) {
            return Ok(None);
        }
        let piece = text[self.text.len()..].to_string();
        self.advance(text, &piece)?;
        Ok(if piece.is_empty() { None } else { Some(piece) })
    }

    /// The text still held back; what is left of an unfinished character is a replacement character.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(text.strip_prefix(&self.text).unwrap_or_default().to_string())
    }

    /// A run of byte tokens is decoded as one: as text if all of it is UTF-8, else each byte is replaced.
    /// Until the run ends, nothing in it is certain. Tokens without text do not end it.
    fn inside_bytes(&self) -> bool {
        let hidden = |id: &u32| self.skip_special && self.tokenizer.special_ids.contains(id);
        let mut visible = self.window.iter().rev().filter(|id| !hidden(id));
        self.tokenizer.byte_fallback
            && visible.find_map(|id| self.tokenizer.token(*id)).is_some_and(|token| {
                let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
            })
    }

    /// Drops tokens that later text cannot depend on.
    fn advance(&mut self, text: String, piece: &str) -> Result<()> {
        let rest = self.tokenizer.decode(&self.window[self.done..], self.skip_special)?;
        // The first visible token of a text may lose its leading space, so the window must keep one.
        if self.done > 0 && !rest.is_empty() && piece.ends_with(&rest) {
            self.window.drain(..self.done);
            self.text = rest;
        } else {
            self.text = text;
        }
        self.done = self.window.len();
        Ok(())
    }
}

/// Whether a decoder assembles byte tokens such as `<0xE4>`.
pub(super) fn joins_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(joins_bytes),
        _ => false,
    }
}
