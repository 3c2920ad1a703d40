//! Tells a thinking model's thoughts from its answer: what stands between `<think>` and `</think>`.

use super::stop::begins;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of a thinking model's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A part of its thoughts, the marks left out.
    Thought(String),
    /// A part of its answer.
    Answer(String),
}

/// Splits text that arrives in pieces; the result does not depend on how it is cut.
///
/// Thoughts stand at the beginning, or nowhere: a mark later in an answer is text.
#[derive(Debug, Clone)]
pub struct Thinking {
    state: State,
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Inside,
    After,
}

impl Thinking {
    /// A splitter of an answer to this prompt, which may have opened the thoughts already.
    pub fn after(prompt: &str) -> Self {
        let state = if opens(prompt) { State::Inside } else { State::Before };
        Thinking { state, held: String::new() }
    }

    /// Takes the next piece of text; what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut out = Vec::new();
        if self.state == State::Before {
            let text = self.held.trim_start();
            if let Some(rest) = text.strip_prefix(OPEN) {
                self.held = rest.to_string();
                self.state = State::Inside;
            } else if OPEN.starts_with(text) {
                return out;
            } else {
                self.state = State::After;
            }
        }
        if self.state == State::Inside {
            if let Some(at) = self.held.find(CLOSE) {
                let rest = self.held.split_off(at + CLOSE.len());
                self.held.truncate(at);
                out.push(Piece::Thought(std::mem::replace(&mut self.held, rest)));
                self.state = State::After;
            } else {
                let keep = self.held.split_off(self.held.len() - begins(&self.held, &[CLOSE]));
                out.push(Piece::Thought(std::mem::replace(&mut self.held, keep)));
            }
        }
        if self.state == State::After {
            out.push(Piece::Answer(std::mem::take(&mut self.held)));
        }
        out.retain(|piece| !matches!(piece, Piece::Thought(text) | Piece::Answer(text) if text.is_empty()));
        out
    }

    /// What was held back when the text ended.
    pub fn finish(&mut self) -> Option<Piece> {
        let text = std::mem::take(&mut self.held);
        match self.state {
            _ if text.is_empty() => None,
            State::Inside => Some(Piece::Thought(text)),
            _ => Some(Piece::Answer(text)),
        }
    }
}

/// Whether a prompt ends in open thoughts, as some templates begin an answer.
pub fn opens(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// Where the answer begins in a whole text that follows a prompt.
pub(super) fn answer_start(prompt: &str, text: &str) -> usize {
    match opens(prompt) || text.trim_start().starts_with(OPEN) {
        true => text.find(CLOSE).map_or(text.len(), |at| at + CLOSE.len()),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_does_not_depend_on_the_pieces() {
        for (prompt, text, thought, answer) in [
            ("", "\n<think>\na < b</thin\n</think>\n\n42 <think>", "\na < b</thin\n", "\n\n42 <think>"),
            ("", "plain <think>no</think>", "", "plain <think>no</think>"),
            ("<assistant>\n<think>\n", "so</think>yes", "so", "yes"),
            ("", "<think>cut off </thi", "cut off </thi", ""),
            ("", "<thi", "", "<thi"),
        ] {
            for n in 1..=text.len() {
                let mut thinking = Thinking::after(prompt);
                let (mut thoughts, mut answers) = (String::new(), String::new());
                let chars: Vec<char> = text.chars().collect();
                let mut pieces: Vec<Piece> =
                    chars.chunks(n).flat_map(|c| thinking.push(&c.iter().collect::<String>())).collect();
                pieces.extend(thinking.finish());
                for piece in pieces {
                    match piece {
                        Piece::Thought(text) => thoughts += &text,
                        Piece::Answer(text) => answers += &text,
                    }
                }
                assert_eq!((thoughts.as_str(), answers.as_str()), (thought, answer), "{text:?}, {n} a piece");
            }
        }
    }
}
