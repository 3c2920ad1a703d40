//! How a chat looks: answers on stdout; over a pipe, all else on stderr.

use crate::cli::terminal::Lines;
use crate::generate::{Piece, Said, Thinking, ToolParser};
use std::fmt::Display;
use std::io::Write;

/// Where the chat shows what.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    terminal: bool,
    lines: Lines,
}

impl Screen {
    /// A screen on a terminal, or a pipe.
    pub fn new(terminal: bool) -> Self {
        Screen { terminal, lines: Lines::new(false) }
    }

    /// Tells something that is no answer.
    pub fn say(self, text: impl Display) {
        match self.terminal {
            true => self.lines.say(self.lines.dim(text)),
            false => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Tells what went wrong.
    pub fn fail(self, text: impl Display) {
        writeln!(std::io::stderr(), "error: {text}").ok();
    }

    /// A view of one answer. On a pipe the text is shown as it comes; a terminal shows thoughts dimmed, and calls.
    pub fn answer(self, prompt: &str, tools: Option<ToolParser>) -> View {
        View { screen: self, thinking: Thinking::after(prompt), tools, dim: false, fresh: true }
    }
}

/// One answer as it is shown.
pub struct View {
    screen: Screen,
    thinking: Thinking,
    tools: Option<ToolParser>,
    dim: bool,
    /// Whether the cursor is at the beginning of a line.
    fresh: bool,
}

impl View {
    /// Shows the next piece of text.
    pub fn push(&mut self, text: &str) -> std::io::Result<()> {
        if !self.screen.terminal {
            return self.write(text);
        }
        self.thinking.push(text).into_iter().try_for_each(|piece| self.piece(piece))
    }

    /// Shows what was held back, and ends the line.
    pub fn finish(mut self) -> std::io::Result<()> {
        if let Some(piece) = self.thinking.finish() {
            self.piece(piece)?;
        }
        let said = self.tools.as_mut().map(ToolParser::finish).unwrap_or_default();
        self.said(said)?;
        self.style(false)?;
        if !self.fresh {
            self.write("\n")?;
        }
        if self.screen.terminal { self.write("\n") } else { Ok(()) }
    }

    fn piece(&mut self, piece: Piece) -> std::io::Result<()> {
        match piece {
            Piece::Thought(text) => {
                self.style(true)?;
                self.write(&text)
            }
            Piece::Answer(text) => {
                self.style(false)?;
                let said = match &mut self.tools {
                    Some(parser) => parser.push(&text),
                    None => vec![Said::Text(text)],
                };
                self.said(said)
            }
        }
    }

    fn said(&mut self, said: Vec<Said>) -> std::io::Result<()> {
        for said in said {
            match said {
                Said::Text(text) => self.write(&text)?,
                Said::Call(call) => {
                    let arguments = serde_json::Value::Object(call.arguments);
                    let line = format!("[tool call: {} {arguments}]", call.name);
                    let line = self.screen.lines.dim(line);
                    let before = if self.fresh { "" } else { "\n" };
                    self.write(&format!("{before}{line}\n"))?;
                }
            }
        }
        Ok(())
    }

    fn style(&mut self, dim: bool) -> std::io::Result<()> {
        if self.dim != dim && self.screen.lines.styled() {
            print(if dim { "\x1b[2m" } else { "\x1b[0m" })?;
        }
        self.dim = dim;
        Ok(())
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.fresh = text.ends_with('\n');
        print(text)
    }
}

/// Writes text where a reader sees it at once.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
