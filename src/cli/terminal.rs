//! Words on the terminal. None of this fails: a reader who has gone away ends no run.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Columns that prose is broken at.
const WIDTH: usize = 80;

/// Where the lines of a run go: to stdout, or to stderr when stdout is for a JSON object alone.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    json: bool,
    styled: bool,
}

impl Lines {
    /// Lines of a run whose stdout is for a JSON object alone if `json`.
    pub fn new(json: bool) -> Self {
        let terminal = if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Lines { json, styled: terminal && !refused && !is_dumb() }
    }

    /// Whether the terminal can show text in styles, and is wanted to.
    pub fn styled(&self) -> bool {
        self.styled
    }

    /// Writes a line.
    pub fn say(&self, line: impl Display) {
        match self.json {
            true => writeln!(std::io::stderr(), "{line}").ok(),
            false => writeln!(std::io::stdout(), "{line}").ok(),
        };
    }

    /// What matters most, in bold where the terminal can.
    pub fn bold(&self, text: impl Display) -> String {
        if self.styled { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() }
    }

    /// What matters less.
    pub fn dim(&self, text: impl Display) -> String {
        if self.styled { format!("\x1b[2m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Whether the terminal, if it is one, knows no escape codes.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Tells on stderr what was done otherwise than asked.
pub fn note(text: impl Display) {
    writeln!(std::io::stderr(), "note: {text}").ok();
}

/// Writes the object that `--json` promises.
pub fn json(object: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(object)?;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// How this program was called, for commands to be typed next.
pub fn program() -> String {
    let called = std::env::args().next().filter(|name| !name.is_empty());
    quoted(Path::new(called.as_deref().unwrap_or("metal-candle")))
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// `text` broken between words, each line but the first behind `indent` spaces.
pub fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    for (i, paragraph) in text.trim_end().split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
        }
        let mut column = indent;
        for (j, word) in paragraph.split(' ').enumerate() {
            let len = word.chars().count();
            if j > 0 && column + 1 + len > WIDTH {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else if j > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += len;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_between_words_and_keeps_its_own_lines() {
        let text = format!("{} end\nnext", "word ".repeat(20).trim_end());
        let lines: Vec<String> = wrapped(&text, 10).lines().map(str::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines.iter().skip(1).all(|line| line.starts_with("          ") && line.len() <= WIDTH),
            "{lines:?}"
        );
        assert_eq!(lines[2].trim(), "next");
    }

    #[test]
    fn a_path_with_a_space_is_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("out/model")), "out/model");
        assert_eq!(quoted(Path::new("it's mine")), r"'it'\''s mine'");
    }
}
