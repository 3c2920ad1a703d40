//! What ends an answer: token ids, strings in the text, or the length.
//!
//! A stop string may begin in one token and end in another. [`StopStrings`] therefore holds back the end of the
//! text for as long as it may be the beginning of a stop string, so that no part of one is ever shown. The result
//! does not depend on how the text is cut into pieces.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token or a stop string.
    Stop,
    /// The largest number of tokens, or the end of the model's context.
    Length,
    /// The model asks for tools to be called.
    ToolCalls,
    /// The callback asked to stop.
    Cancelled,
}

/// A piece of text on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// What may be shown now; it follows what was released before.
    pub text: String,
    /// The stop string that was reached; nothing is released after it.
    pub stop: Option<String>,
}

/// Looks for stop strings in text that arrives in pieces.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    include: bool,
    held: String,
    done: bool,
}

impl StopStrings {
    /// Stops at the first of `stops` to be completed; `include` shows the stop string itself. An empty stop string
    /// is an error.
    pub fn new(stops: &[String], include: bool) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::wants("stop strings", "at least one character in each", "an empty string"));
        }
        Ok(Self { stops: stops.to_vec(), include, held: String::new(), done: false })
    }

    /// Takes the next piece of text and gives back what can no longer be part of a stop string.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.done {
            return Released { text: String::new(), stop: None };
        }
        self.held.push_str(piece);
        if let Some((start, stop)) = self.first_match() {
            let end = if self.include { start + stop.len() } else { start };
            self.held.truncate(end);
            self.done = true;
            return Released { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let keep = self.held.split_off(self.held.len() - self.may_begin_stop());
        Released { text: std::mem::replace(&mut self.held, keep), stop: None }
    }

    /// The text ended: what was held back is no stop string.
    pub fn finish(&mut self) -> String {
        self.done = true;
        std::mem::take(&mut self.held)
    }

    /// The match that is complete first, and of those the longest, as byte offset and string.
    fn first_match(&self) -> Option<(usize, String)> {
        let matches = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at, s)));
        matches.min_by_key(|(at, s)| (at + s.len(), *at)).map(|(at, s)| (at, s.clone()))
    }

    /// The length in bytes of the longest end of the held text that begins a stop string.
    fn may_begin_stop(&self) -> usize {
        begins(&self.held, &self.stops)
    }
}

/// The length in bytes of the longest end of `text` that begins one of `marks` without being all of it.
pub(super) fn begins<S: AsRef<str>>(text: &str, marks: &[S]) -> usize {
    let longest = marks.iter().map(|mark| mark.as_ref().len()).max().unwrap_or(0);
    let ends = text.char_indices().map(|(at, _)| &text[at..]);
    ends.skip_while(|end| end.len() >= longest)
        .find(|end| marks.iter().any(|mark| mark.as_ref().starts_with(end)))
        .map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|s| s.to_string()).collect()
    }

    /// Pushes `text` in pieces of `n` characters; the released pieces and the stop string.
    fn stream(stops: &[&str], include: bool, text: &str, n: usize) -> (Vec<String>, Option<String>) {
        let mut matcher = StopStrings::new(&strings(stops), include).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let mut shown = Vec::new();
        for piece in chars.chunks(n) {
            let out = matcher.push(&piece.iter().collect::<String>());
            shown.push(out.text);
            if out.stop.is_some() {
                return (shown, out.stop);
            }
        }
        shown.push(matcher.finish());
        (shown, None)
    }

    #[test]
    fn the_cut_does_not_depend_on_the_pieces() {
        let text = "eins\n\nUse\nUser: zwei 🦀🦀 done";
        for (stops, include, want, stop) in [
            (&["\nUser:"][..], false, "eins\n\nUse", Some("\nUser:")),
            (&["\nUser:"], true, "eins\n\nUse\nUser:", Some("\nUser:")),
            (&["🦀🦀 d", "🦀🦁"], false, "eins\n\nUse\nUser: zwei ", Some("🦀🦀 d")),
            (&["done", "ne"], false, "eins\n\nUse\nUser: zwei 🦀🦀 ", Some("done")),
            (&["ser: zwei", "r:"], false, "eins\n\nUse\nUse", Some("r:")),
            (&["donexx"], false, text, None),
        ] {
            for n in 1..=text.chars().count() {
                let (shown, got) = stream(stops, include, text, n);
                assert_eq!((shown.concat().as_str(), got.as_deref()), (want, stop), "{stops:?}, {n} a piece");
            }
        }
    }

    #[test]
    fn holds_back_only_what_may_begin_a_stop() {
        let (shown, _) = stream(&["</s>"], false, "a<b</x", 1);
        assert_eq!(shown, ["a", "", "<b", "", "", "</x", ""]);
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopStrings::new(&strings(&["a", ""]), false).unwrap_err();
        assert!(error.to_string().contains("an empty string"), "{error}");
    }
}
