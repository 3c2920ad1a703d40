//! Preprocessed text as tokens, each with the place in the shader's text that it comes from.
//!
//! `>` is always a token of its own, so that `vec<vec<T, 2>>` and a shift are told apart by who reads them.

use super::CompileError;

/// Where something stands: an index into [`Text::files`], the line, and the column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Identifier,
    Number,
    /// A string or a character.
    Literal,
    Punctuation,
    /// A line that begins with `#`.
    Directive,
}

#[derive(Clone, Debug)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    pub place: Place,
    /// Whether white space stands before it.
    pub spaced: bool,
}

impl Token {
    /// Whether it is this word or mark.
    pub fn is(&self, text: &str) -> bool {
        self.text == text && self.kind != Kind::Literal
    }

    pub fn is_any(&self, texts: &[&str]) -> bool {
        self.kind != Kind::Literal && texts.contains(&self.text.as_str())
    }

    pub fn is_identifier(&self) -> bool {
        self.kind == Kind::Identifier
    }
}

/// Tokens, and the files they come from.
#[derive(Debug, Default)]
pub struct Text {
    pub files: Vec<String>,
    pub tokens: Vec<Token>,
}

impl Text {
    /// An error at a place of the text.
    pub fn error(&self, place: Place, message: impl std::fmt::Display) -> CompileError {
        CompileError(format!("{}: error: {message}", show(&self.files, place)))
    }
}

/// `file:line:column`.
pub fn show(files: &[String], place: Place) -> String {
    let file = files.get(place.file as usize).map_or("program_source", String::as_str);
    format!("{file}:{}:{}", place.line, place.column)
}

/// Reads what `clang -E` writes.
pub fn read(text: &str) -> Result<Text, CompileError> {
    let mut read = Text::default();
    let mut place = Place { file: read.file("program_source"), line: 1, column: 1 };
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if let Some((number, file)) = line_marker(trimmed) {
            place = Place { file: read.file(&file), line: number, column: 1 };
            continue;
        }
        if trimmed.starts_with('#') {
            let token = Token { kind: Kind::Directive, text: trimmed.to_owned(), place, spaced: true };
            read.tokens.push(token);
        } else {
            read.line(line, place)?;
        }
        place.line += 1;
    }
    Ok(read)
}

/// The number and file of `# 12 "file" flags`.
fn line_marker(line: &str) -> Option<(u32, String)> {
    let (number, rest) = line.strip_prefix("# ")?.split_once(" \"")?;
    let (file, _) = rest.rsplit_once('"')?;
    Some((number.parse().ok()?, file.to_owned()))
}

const MARKS: [&str; 22] = [
    "<<=", "...", "->*", "::", "->", "++", "--", "<<", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=",
    "/=", "%=", "^=", "|=", "&=",
];

impl Text {
    fn file(&mut self, name: &str) -> u32 {
        let at = self.files.iter().position(|file| file == name).unwrap_or_else(|| {
            self.files.push(name.to_owned());
            self.files.len() - 1
        });
        at as u32
    }

    fn line(&mut self, line: &str, at: Place) -> Result<(), CompileError> {
        let mut rest = line;
        loop {
            let trimmed = rest.trim_start();
            let Some(first) = trimmed.chars().next() else { return Ok(()) };
            let place = Place { column: 1 + (line.len() - trimmed.len()) as u32, ..at };
            let spaced = trimmed.len() < rest.len() || rest.len() == line.len();
            let (kind, length) = if first.is_alphabetic() || first == '_' {
                (Kind::Identifier, identifier(trimmed))
            } else if first.is_ascii_digit() || trimmed.starts_with('.') && digit_at(trimmed, 1) {
                (Kind::Number, number(trimmed))
            } else if first == '"' || first == '\'' {
                let length = literal(trimmed).ok_or_else(|| self.error(place, "a literal without an end"))?;
                (Kind::Literal, length)
            } else if first.is_ascii_punctuation() {
                (Kind::Punctuation, mark(trimmed))
            } else {
                return Err(self.error(place, format_args!("`{first}` is no part of the language")));
            };
            self.tokens.push(Token { kind, text: trimmed[..length].to_owned(), place, spaced });
            rest = &trimmed[length..];
        }
    }
}

fn digit_at(text: &str, at: usize) -> bool {
    text.as_bytes().get(at).is_some_and(u8::is_ascii_digit)
}

fn identifier(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    let mut end = 0;
    while let Some(&byte) = bytes.get(end) {
        let exponent = if hexadecimal { b"pP".contains(&byte) } else { b"eE".contains(&byte) };
        if exponent && matches!(bytes.get(end + 1), Some(b'+' | b'-')) {
            end += 2;
        } else if byte.is_ascii_alphanumeric() || b"._'".contains(&byte) {
            end += 1;
        } else {
            break;
        }
    }
    end
}

fn literal(text: &str) -> Option<usize> {
    let quote = text.as_bytes()[0];
    let mut at = 1;
    loop {
        match *text.as_bytes().get(at)? {
            b'\\' => at += 2,
            b'\n' => return None,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn mark(text: &str) -> usize {
    MARKS.iter().find(|mark| text.starts_with(**mark)).map_or(1, |mark| mark.len())
}

/// The index of the bracket that closes the one at `open`, or the end.
pub fn close(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.is_any(&["(", "[", "{"]) {
            depth += 1;
        } else if token.is_any(&[")", "]", "}"]) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at;
            }
        }
    }
    tokens.len()
}

/// The index of the `>` that closes the `<` at `open`, if it is a list of template arguments.
pub fn close_angle(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = open;
    while at < tokens.len() {
        let token = &tokens[at];
        if token.is("<") {
            depth += 1;
        } else if token.is(">") {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        } else if token.is_any(&["(", "[", "{"]) {
            at = close(tokens, at);
        } else if token.is_any(&[";", ")", "]", "}"]) {
            return None;
        }
        at += 1;
    }
    None
}

/// The parts between the commas that stand in no bracket.
pub fn split_commas(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < tokens.len() {
        if tokens[at].is_any(&["(", "[", "{"]) {
            at = close(tokens, at);
        } else if tokens[at].is("<") {
            at = close_angle(tokens, at).unwrap_or(at);
        } else if tokens[at].is(",") {
            parts.push(&tokens[start..at]);
            start = at + 1;
        }
        at += 1;
    }
    if start < tokens.len() {
        parts.push(&tokens[start..]);
    }
    parts
}

/// The tokens of a piece of C++ that stands for something at `place`.
pub fn tokens(text: &str, place: Place) -> Vec<Token> {
    let mut read = Text::default();
    read.line(text, place).expect("own text is well-formed");
    for token in &mut read.tokens {
        token.place = place;
    }
    read.tokens
}

/// Tokens as text of one line.
pub fn text(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens.iter().filter(|token| token.kind != Kind::Directive) {
        if token.spaced && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&token.text);
    }
    text
}
