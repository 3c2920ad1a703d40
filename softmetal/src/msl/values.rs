//! Expressions: literals, casts, constructors of vectors, uses of built-in values; and the words of address spaces,
//! which go last because until then they say what a declaration is.

use super::CompileError;
use super::storage::is_address_space;
use super::token::{Kind, Text, Token, close, close_angle, tokens as made};
use std::collections::{HashMap, HashSet};

const SCALARS: [&str; 12] =
    ["bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "float", "bfloat"];

/// Whether it is the name of a vector type.
pub fn is_vector(name: &str) -> bool {
    name.strip_suffix(['2', '3', '4']).is_some_and(|scalar| SCALARS.contains(&scalar))
}

/// Types whose conversions clang knows from C++.
const PLAIN: [&str; 20] = [
    "bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "float", "unsigned",
    "signed", "size_t", "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "const",
];

/// Names of types that may be vectors or 16-bit floats: parameters of templates, and other names of types.
pub fn type_names(tokens: &[Token]) -> HashSet<String> {
    let mut names = HashSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = |by: usize| tokens.get(at + by).filter(|token| token.is_identifier());
        let parameter = at > 0 && tokens[at - 1].is_any(&["<", ","]);
        if token.is_any(&["typename", "class"]) && parameter {
            // `typename X::type` is no parameter.
            let names_type = !tokens.get(at + 2).is_some_and(|after| after.is("::"));
            names.extend(next(1).filter(|_| names_type).map(|name| name.text.clone()));
        } else if token.is("using") && tokens.get(at + 2).is_some_and(|after| after.is("=")) {
            names.extend(next(1).map(|name| name.text.clone()));
        } else if token.is("typedef") {
            let end =
                (at..tokens.len()).find(|&at| tokens[at].is_any(&[";", "{", "("])).unwrap_or(tokens.len());
            let last = tokens[at..end].iter().rev().find(|token| token.is_identifier());
            names.extend(
                last.filter(|_| end < tokens.len() && tokens[end].is(";")).map(|name| name.text.clone()),
            );
        }
    }
    names
}

/// Operators before a cast become part of it: written out, they would bind to the cast and not to what is cast.
fn chain_prefixes(rest: &mut Vec<Token>) {
    let operators = [("-", "Minus"), ("+", "Plus"), ("!", "Not"), ("~", "Complement")];
    let mut start = rest.len();
    while start > 0 && operators.iter().any(|(mark, _)| rest[start - 1].is(mark)) {
        let operand = start.checked_sub(2).map(|at| &rest[at]).is_some_and(|before| match before.kind {
            Kind::Identifier => !before.is_any(&OPERATORS),
            Kind::Number | Kind::Literal => true,
            _ => before.is_any(&[")", "]"]),
        });
        if operand {
            break;
        }
        start -= 1;
    }
    for token in rest.split_off(start) {
        let name = operators.iter().find(|(mark, _)| token.is(mark)).map_or("", |(_, name)| *name);
        rest.extend(made(&format!("softmetal::Prefix<softmetal::{name}>()->*"), token.place));
    }
}

/// Rewrites expressions.
pub struct Values<'a> {
    pub source: &'a Text,
    pub types: &'a HashSet<String>,
    /// Variables of program scope that have a built-in value.
    pub built_ins: &'a HashMap<String, &'static str>,
}

/// Words before an operand, as opposed to the names that stand before parameters.
const OPERATORS: [&str; 6] = ["return", "case", "else", "and", "or", "not"];

impl Values<'_> {
    /// Rewrites a piece of the text.
    pub fn rewrite(&self, tokens: Vec<Token>) -> Result<Vec<Token>, CompileError> {
        let mut rest: Vec<Token> = Vec::with_capacity(tokens.len() + tokens.len() / 8);
        let mut at = 0;
        // Braces that become parentheses, and parentheses that close casts.
        let (mut closers, mut casts) = (HashSet::new(), HashSet::new());
        while at < tokens.len() {
            let token = &tokens[at];
            let place = token.place;
            if token.kind == Kind::Number {
                rest.push(self.number(token)?);
            } else if closers.contains(&at) {
                rest.push(Token { text: ")".to_owned(), ..token.clone() });
            } else if token.is("(") && self.is_cast(&tokens, at, &casts) {
                let end = close(&tokens, at);
                casts.insert(end);
                let kind = tokens[at + 1..end].iter().filter(|token| !is_address_space(token)).cloned();
                if tokens[end + 1].is("{") {
                    // `(float4){a, b}`
                    rest.extend(made("softmetal::make<", place));
                    rest.extend(kind);
                    rest.extend(made(">(", place));
                    closers.insert(close(&tokens, end + 1));
                    at = end + 1;
                } else {
                    chain_prefixes(&mut rest);
                    rest.extend(made("softmetal::Cast<", place));
                    rest.extend(kind);
                    rest.extend(made(">()->*", place));
                    at = end;
                }
            } else if let Some(end) = self.constructor(&tokens, at) {
                rest.extend(made("softmetal::make<", place));
                let kind = &tokens[at..end];
                rest.extend(kind.iter().filter(|token| !is_address_space(token)).cloned());
                rest.extend(made(">", place));
                rest.push(Token { text: "(".to_owned(), ..tokens[end].clone() });
                if tokens[end].is("{") {
                    closers.insert(close(&tokens, end));
                }
                at = end;
            } else if token.is("is_function_constant_defined")
                && tokens.get(at + 3).is_some_and(|end| end.is(")"))
            {
                let text = format!("softmetal_is_defined_{}", tokens[at + 2].text);
                rest.push(Token { text, ..token.clone() });
                at += 3;
            } else if token.is_identifier() {
                self.word(&tokens, at, &mut rest)?;
            } else {
                rest.push(token.clone());
            }
            at += 1;
        }
        Ok(rest)
    }

    fn word(&self, tokens: &[Token], at: usize, rest: &mut Vec<Token>) -> Result<(), CompileError> {
        let token = &tokens[at];
        let member = at > 0 && tokens[at - 1].is_any(&[".", "->", "::"]);
        if token.is("double") {
            return Err(self.source.error(token.place, "`double` is not supported in Metal"));
        } else if token.is("constant") && !member {
            rest.push(Token { text: "const".to_owned(), ..token.clone() });
        } else if is_address_space(token) && !member {
        } else if token.is("static_cast") && self.is_conversion(tokens, at + 1) {
            rest.extend(made("softmetal::cast", token.place));
        } else if !member && self.built_ins.contains_key(&token.text) && !self.declares(tokens, at) {
            let mut read = made("softmetal::read(", token.place);
            read[0].spaced = token.spaced;
            rest.extend(read);
            rest.push(Token { spaced: false, ..token.clone() });
            rest.extend(made(")", token.place));
        } else {
            rest.push(token.clone());
        }
        Ok(())
    }

    /// A literal as C++ has it: one without a suffix is a float in Metal.
    fn number(&self, token: &Token) -> Result<Token, CompileError> {
        let number = token.text.to_ascii_lowercase();
        let hexadecimal = number.starts_with("0x");
        let exponent = if hexadecimal { 'p' } else { 'e' };
        let half = !hexadecimal && number.ends_with('h');
        let bfloat = !hexadecimal && number.ends_with("bf");
        let is_float = number.contains(['.', exponent]) && (!hexadecimal || number.contains('p'));
        let digits = number.trim_end_matches(['h', 'b', 'f']);
        let text = if half || bfloat {
            let point = if digits.contains(['.', 'e']) { "" } else { ".0" };
            if half { format!("{digits}{point}f16") } else { format!("__bf16({digits}{point}f)") }
        } else if is_float && number.ends_with('l') {
            return Err(self
                .source
                .error(token.place, format_args!("`{}`: Metal has no such floats", token.text)));
        } else if is_float && !number.ends_with('f') {
            format!("{}f", token.text)
        } else {
            token.text.clone()
        };
        Ok(Token { text, ..token.clone() })
    }

    /// Where the name of a type ends that begins at `at`, if conversions to it are calls here.
    fn type_at(&self, tokens: &[Token], at: usize) -> Option<usize> {
        let metal = tokens.get(at)?.is("metal") && tokens.get(at + 1)?.is("::");
        let at = if metal { at + 2 } else { at };
        let token = tokens.get(at)?;
        if token.is("vec") && tokens.get(at + 1)?.is("<") {
            return Some(close_angle(tokens, at + 1)? + 1);
        }
        let known = token.is_any(&["half", "bfloat"]) || is_vector(&token.text);
        (token.is_identifier() && (known || !metal && self.types.contains(&token.text))).then_some(at + 1)
    }

    /// `(T) x`
    fn is_cast(&self, tokens: &[Token], open: usize, casts: &HashSet<usize>) -> bool {
        let start = open + 1 + usize::from(tokens.get(open + 1).is_some_and(|token| token.is("const")));
        let Some(end) = self.type_at(tokens, start) else {
            // C++'s own casts are left alone, but in front of another.
            let end = close(tokens, open);
            let plain = end > open + 1 && tokens[open + 1..end].iter().all(|token| token.is_any(&PLAIN));
            let next = tokens.get(end + 1).is_some_and(|next| next.is("("));
            return plain && next && self.is_cast(tokens, end + 1, &HashSet::from([end]));
        };
        let Some(next) = tokens.get(end + 1).filter(|_| tokens[end].is(")")) else { return false };
        let operand = match next.kind {
            Kind::Identifier => {
                !next.is_any(&["const", "noexcept", "override", "final", "and", "or"])
                    && !is_address_space(next)
            }
            Kind::Number | Kind::Literal => true,
            Kind::Punctuation => {
                next.is_any(&["(", "*", "-", "+", "!", "~", "&", "++", "--"])
                    || next.is("{") && is_vector(&tokens[start].text)
            }
            Kind::Directive => false,
        };
        let free = match open.checked_sub(1).map(|at| &tokens[at]) {
            None => true,
            Some(before) if before.is_identifier() => before.is_any(&OPERATORS),
            Some(before) if before.is(")") => casts.contains(&(open - 1)),
            Some(before) => before.kind == Kind::Punctuation && !before.is("]"),
        };
        operand && free
    }

    /// `T(...)`, or `T{...}` of a vector: where the name of the type ends.
    fn constructor(&self, tokens: &[Token], at: usize) -> Option<usize> {
        let end = self.type_at(tokens, at)?;
        let open = tokens.get(end)?;
        let vector = end > at + 1 || is_vector(&tokens[at].text);
        if !(open.is("(") || open.is("{") && vector) {
            return None;
        }
        // `T (*f)(...)`, `T (&x)[n]`
        if open.is("(") && tokens.get(end + 1)?.is_any(&["*", "&"]) && tokens.get(end + 3)?.is(")") {
            let after = tokens.get(end + 4)?;
            if after.is_any(&["(", "["]) && !after.spaced {
                return None;
            }
        }
        let free = match at.checked_sub(1).map(|at| &tokens[at]) {
            None => false,
            Some(before) if before.is_identifier() => before.is_any(&OPERATORS),
            Some(before) if before.is_any(&[";", "}"]) => vector,
            Some(before) => {
                before.kind == Kind::Punctuation && !before.is_any(&[")", "]", ".", "->", "::", "~"])
            }
        };
        // A cast stands before it: `(int) T(x)`.
        let cast = at > 0 && tokens[at - 1].is(")");
        (free || cast && open.is("(")).then_some(end)
    }

    /// Whether `<...>` of a cast names something else than a pointer, a reference, or a type of C++'s own.
    fn is_conversion(&self, tokens: &[Token], open: usize) -> bool {
        let Some(end) = close_angle(tokens, open) else { return false };
        let kind = &tokens[open + 1..end];
        let points = kind.last().is_some_and(|last| last.is_any(&["*", "&", "&&", "const"]));
        !points && !kind.iter().all(|token| token.is_any(&PLAIN))
    }

    /// Whether the name at `at` is being declared, so that it hides the one of program scope.
    fn declares(&self, tokens: &[Token], at: usize) -> bool {
        let Some(before) = at.checked_sub(1).map(|at| &tokens[at]) else { return false };
        if before.is_identifier() {
            return !before.is_any(&OPERATORS);
        }
        if before.is(">") {
            // `a > tid`, or `vec<uint, 2> tid`.
            return (0..at - 1)
                .rev()
                .take(32)
                .any(|open| tokens[open].is("<") && close_angle(tokens, open) == Some(at - 1));
        }
        let pointer = before.is_any(&["*", "&", "&&"]);
        let kind = at.checked_sub(2).map(|at| &tokens[at]);
        let of_type = kind.is_some_and(|kind| {
            kind.is_any(&PLAIN)
                || kind.is_any(&SCALARS)
                || is_vector(&kind.text)
                || self.types.contains(&kind.text)
        });
        pointer && of_type
    }
}
