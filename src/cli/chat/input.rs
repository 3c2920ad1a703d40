//! Lines from a terminal, edited and with a history, or from a pipe.

use super::command;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::borrow::Cow;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

/// Lines of the history that are kept.
const HISTORY: usize = 1000;

/// What was read.
pub enum Line {
    /// What the user says.
    Text(String),
    /// Ctrl-C: what was typed is dropped.
    Dropped,
    /// What cannot be read: why.
    Bad(String),
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Where lines come from.
pub enum Input {
    Terminal {
        editor: Box<Editor<Assistant, DefaultHistory>>,
        history: Option<PathBuf>,
    },
    /// stdin, and how many of its lines were read.
    Pipe(usize),
}

impl Input {
    /// The terminal if stdin and stdout are one, else stdin as it is.
    pub fn open(adapters: Vec<String>) -> Self {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Input::Pipe(0);
        }
        let config = Config::builder()
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY)
            .map(|builder| builder.build());
        let Some(mut editor) = config.and_then(Editor::with_config).ok() else { return Input::Pipe(0) };
        editor.set_helper(Some(Assistant { adapters }));
        let history = history();
        if let Some(path) = &history {
            // There is none before the first chat.
            editor.load_history(path).ok();
        }
        Input::Terminal { editor: Box::new(editor), history }
    }

    /// Whether a user sits there.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next line that is not empty, several if the first goes on.
    pub fn read(&mut self) -> anyhow::Result<Line> {
        loop {
            let text = match self {
                Input::Pipe(lines) => match piped(&mut std::io::stdin().lock(), lines)? {
                    Some(Err(line)) => {
                        return Ok(Line::Bad(format!("stdin: line {line}: wants UTF-8, got other bytes")));
                    }
                    other => other.and_then(Result::ok),
                },
                Input::Terminal { editor, history } => match editor.readline("> ") {
                    Ok(text) => {
                        editor.add_history_entry(text.as_str())?;
                        if let Some(path) = history {
                            // A history that cannot be kept is no reason to end a chat.
                            keep(editor, path).ok();
                        }
                        Some(text)
                    }
                    Err(ReadlineError::Interrupted) => return Ok(Line::Dropped),
                    Err(ReadlineError::Eof) => None,
                    Err(error) => return Err(error.into()),
                },
            };
            let Some(text) = text else { return Ok(Line::End) };
            let text = joined(&text);
            if !text.trim().is_empty() {
                return Ok(Line::Text(text));
            }
        }
    }
}

fn keep(editor: &mut Editor<Assistant, DefaultHistory>, path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    Ok(editor.append_history(path)?)
}

/// The next line, with those it goes on in; none at the end. `lines` were read before. Text that is not UTF-8 is the
/// number of its line.
fn piped(input: &mut impl BufRead, lines: &mut usize) -> std::io::Result<Option<Result<String, usize>>> {
    let (first, mut bytes) = (*lines + 1, Vec::new());
    while input.read_until(b'\n', &mut bytes)? > 0 {
        *lines += 1;
        let whole = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |at| at + 1);
        if !goes_on(&String::from_utf8_lossy(&bytes[..whole])) {
            bytes.truncate(whole);
            return Ok(Some(utf8(bytes, first)));
        }
    }
    Ok((!bytes.is_empty()).then(|| utf8(bytes, first)))
}

/// The text, or the number of the line that is none, the first being `first`.
fn utf8(bytes: Vec<u8>, first: usize) -> Result<String, usize> {
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        first + good.iter().filter(|&&byte| byte == b'\n').count()
    })
}

/// Whether more lines belong to this text.
fn goes_on(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(rest) => !rest.contains(QUOTES),
        None => text.ends_with('\\'),
    }
}

/// The text that lines are: without the marks that made them one.
fn joined(text: &str) -> String {
    if let Some(rest) = text.trim_start().strip_prefix(QUOTES) {
        let (inside, after) = rest.split_once(QUOTES).unwrap_or((rest, ""));
        let inside = inside.strip_prefix('\n').unwrap_or(inside);
        return format!("{}{after}", inside.strip_suffix('\n').unwrap_or(inside));
    }
    text.replace("\\\r\n", "\n").replace("\\\n", "\n")
}

const QUOTES: &str = "\"\"\"";

/// Where the history is: the user's state directory.
fn history() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = var("XDG_STATE_HOME")
        .or_else(|| var("LOCALAPPDATA"))
        .or_else(|| Some(var("HOME")?.join(".local").join("state")))?;
    Some(state.join("metal-candle").join("chat_history"))
}

/// What the editor asks while a line is typed.
pub struct Assistant {
    adapters: Vec<String>,
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if goes_on(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        if let Some(start) = typed.strip_prefix("/adapter ") {
            let names = self.adapters.iter().map(String::as_str).chain(["off"]);
            let names = names.filter(|name| name.starts_with(start)).map(str::to_string);
            return Ok((pos - start.len(), names.collect()));
        }
        Ok((0, if typed.starts_with('/') { command::completions(typed) } else { Vec::new() }))
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m"))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_text_is_told_by_its_number() {
        let mut input = &b"one\ntwo\\\n\xff\nthree\n\xfe"[..];
        let mut read = 0;
        let mut next = || piped(&mut input, &mut read).unwrap();
        assert_eq!(next(), Some(Ok("one".into())));
        assert_eq!(next(), Some(Err(3)));
        assert_eq!((next(), next(), next()), (Some(Ok("three".into())), Some(Err(5)), None));
    }

    #[test]
    fn lines_that_go_on_become_one() {
        let mut input = "one\n\ntwo \\\nmore\n\"\"\"a\n  b\\\n\"\"\" c\n\"\"\"x\"\"\"\r\nlast".as_bytes();
        let (mut lines, mut read) = (Vec::new(), 0);
        while let Some(text) = piped(&mut input, &mut read).unwrap() {
            lines.push(joined(&text.unwrap()));
        }
        assert_eq!(lines, ["one", "", "two \nmore", "a\n  b\\ c", "x", "last"]);
    }
}
