//! The declarations of a namespace or a class: where each begins and ends, and of what sort it is.

use super::attributes;
use super::token::{Token, close, close_angle};
use std::ops::Range;

/// A declaration, as indices into its tokens.
#[derive(Debug)]
pub struct Item {
    pub range: Range<usize>,
    pub sort: Sort,
}

#[derive(Debug)]
pub enum Sort {
    /// A line that begins with `#`, an access label, a lone `;`.
    Mark,
    /// `namespace N {`, up to the brace that closes.
    Namespace { name: String, open: usize },
    /// `template ...;` without parameters: an explicit instantiation.
    Instantiation,
    /// A class with its members.
    Record { name: String, open: usize, close: usize },
    /// A function: its parameters' parentheses, and its body's braces if it has one.
    Function { name: usize, open: usize, close: usize, body: Option<(usize, usize)> },
    /// Variables, types, everything else.
    Other,
}

/// The declaration that begins at `start`.
pub fn next(tokens: &[Token], start: usize, end: usize) -> Item {
    let first = &tokens[start];
    if first.kind == super::token::Kind::Directive || first.is(";") {
        return Item { range: start..start + 1, sort: Sort::Mark };
    }
    if first.is_any(&["public", "private", "protected"]) && tokens[start + 1].is(":") {
        return Item { range: start..start + 2, sort: Sort::Mark };
    }
    if let Some(item) = namespace(tokens, start) {
        return item;
    }
    if first.is("template") && !tokens.get(start + 1).is_some_and(|next| next.is("<")) {
        let semicolon = (start..end).find(|&at| tokens[at].is(";")).unwrap_or(end - 1);
        return Item { range: start..semicolon + 1, sort: Sort::Instantiation };
    }
    Scan { tokens, at: start, end, function: None, record: None, value: false, colon: false }.item(start)
}

fn namespace(tokens: &[Token], start: usize) -> Option<Item> {
    let mut at = start;
    if tokens[at].is("inline") {
        at += 1;
    }
    if tokens[at].is("extern") && tokens[at + 1].kind == super::token::Kind::Literal && tokens[at + 2].is("{")
    {
        let range = start..close(tokens, at + 2) + 1;
        return Some(Item { range, sort: Sort::Namespace { name: String::new(), open: at + 2 } });
    }
    if !tokens.get(at)?.is("namespace") {
        return None;
    }
    let open = (at..tokens.len()).find(|&at| tokens[at].is_any(&["{", ";", "="]))?;
    if !tokens[open].is("{") {
        return None;
    }
    let name = tokens[at + 1..open].iter().map(|token| token.text.as_str()).collect();
    Some(Item { range: start..close(tokens, open) + 1, sort: Sort::Namespace { name, open } })
}

/// Words before a `(` that is not a list of parameters.
const NOT_A_NAME: [&str; 8] =
    ["decltype", "alignas", "__attribute__", "noexcept", "explicit", "sizeof", "alignof", "static_assert"];

struct Scan<'t> {
    tokens: &'t [Token],
    at: usize,
    end: usize,
    /// The name and the parentheses of a function.
    function: Option<(usize, usize, usize)>,
    /// The braces of a class.
    record: Option<(usize, usize)>,
    /// Whether a value is being given.
    value: bool,
    /// Whether a constructor's initialisers have begun.
    colon: bool,
}

impl Scan<'_> {
    fn item(mut self, start: usize) -> Item {
        if self.tokens[start].is("template") {
            self.at = close_angle(self.tokens, start + 1).map_or(start + 2, |close| close + 1);
        }
        let head = self.at;
        while self.at < self.end {
            let token = &self.tokens[self.at];
            if token.is(";") {
                return self.finish(start, head, None);
            } else if attributes::begins(self.tokens, self.at) || token.is("[") {
                self.at = close(self.tokens, self.at);
            } else if token.is("(") {
                self.parentheses();
            } else if token.is("=") && self.function.is_none() && !self.tokens[self.at - 1].is("operator") {
                self.value = true;
            } else if token.is(":") && self.function.is_some() {
                self.colon = true;
            } else if token.is("{") {
                let open = self.at;
                self.at = close(self.tokens, open);
                if self.is_body(open) {
                    let body = Some((open, self.at));
                    return self.finish(start, head, body);
                } else if !self.value && self.function.is_none() && self.record.is_none() {
                    self.record = Some((open, self.at));
                }
            }
            self.at += 1;
        }
        self.at = self.end - 1;
        self.finish(start, head, None)
    }

    fn parentheses(&mut self) {
        let open = self.at;
        self.at = close(self.tokens, open);
        if self.function.is_some() || self.value || open == 0 {
            return;
        }
        let Some(operator) = self.operator(open) else {
            let before = &self.tokens[open - 1];
            if before.is_identifier() && !before.is_any(&NOT_A_NAME) {
                self.function = Some((open - 1, open, self.at));
            } else if before.is(">") {
                // `name<T>(`: a constructor, or a specialisation.
                let name = (0..open).rev().find(|&at| close_angle(self.tokens, at) == Some(open - 1));
                if let Some(name) = name.filter(|&at| at > 0 && self.tokens[at].is("<")) {
                    self.function = Some((name - 1, open, self.at));
                }
            }
            return;
        };
        if operator + 1 == open {
            // `operator()(...)`
            let parameters = self.at + 1;
            self.at = close(self.tokens, parameters);
            self.function = Some((operator, parameters, self.at));
        } else {
            self.function = Some((operator, open, self.at));
        }
    }

    /// The `operator` whose symbol or type ends before `open`.
    fn operator(&self, open: usize) -> Option<usize> {
        let from = open.saturating_sub(10);
        let at = (from..open).rev().find(|&at| self.tokens[at].is("operator"))?;
        let between = &self.tokens[at + 1..open];
        between.iter().all(|token| !token.is_any(&[";", "{", "}", "("])).then_some(at)
    }

    fn is_body(&self, open: usize) -> bool {
        let before = &self.tokens[open - 1];
        // In a constructor's initialisers, braces after a name are a member's.
        self.function.is_some() && !(self.colon && (before.is_identifier() || before.is(">")))
    }

    fn finish(self, start: usize, head: usize, body: Option<(usize, usize)>) -> Item {
        let range = start..self.at + 1;
        let sort = match (self.function, self.record) {
            (Some((name, open, close)), None) => Sort::Function { name, open, close, body },
            (None, Some((open, close))) => match record_name(&self.tokens[head..open]) {
                Some(name) => Sort::Record { name, open, close },
                None => Sort::Other,
            },
            _ => Sort::Other,
        };
        Item { range, sort }
    }
}

/// The name of the class whose head this is.
fn record_name(head: &[Token]) -> Option<String> {
    let word = head.iter().position(|token| token.is_any(&["struct", "class", "union"]))?;
    if head[..word].iter().any(|token| token.is("enum")) {
        return None;
    }
    let mut at = word + 1;
    while let Some(token) = head.get(at) {
        if attributes::begins(head, at) {
            at = close(head, at);
        } else if token.is_any(&["alignas", "__attribute__"]) {
            at = close(head, at + 1);
        } else {
            return token.is_identifier().then(|| token.text.clone());
        }
        at += 1;
    }
    Some(String::new())
}
