//! `[[...]]`: taken out of a declaration, and what each may be.

use super::token::{Text, Token, close, split_commas, text};
use super::{CompileError, token::Place};

/// One attribute.
#[derive(Clone, Debug)]
pub struct Attribute {
    pub name: String,
    /// What stands in its parentheses.
    pub arguments: Vec<Token>,
    pub place: Place,
}

/// Those that say nothing of what a program does, or that clang knows: they stay where they are.
const KEPT: [&str; 9] = [
    "maybe_unused",
    "nodiscard",
    "fallthrough",
    "likely",
    "unlikely",
    "noreturn",
    "deprecated",
    "clang::",
    "gnu::",
];

/// Hints on how to compile that clang has no such word for.
const DROPPED: [&str; 2] = ["unroll", "user_annotation"];

/// Whether an attribute begins here.
pub fn begins(tokens: &[Token], at: usize) -> bool {
    tokens[at].is("[")
        && tokens.get(at + 1).is_some_and(|next| next.is("[") && !next.spaced)
        && tokens.get(at + 2).is_some_and(Token::is_identifier)
}

/// The attributes between the brackets that open at `at`, and where the text goes on.
pub fn parse(tokens: &[Token], at: usize) -> (Vec<Attribute>, usize) {
    let end = close(tokens, at);
    let inner = &tokens[at + 2..end.saturating_sub(1).max(at + 2)];
    let one = |part: &[Token]| {
        let open = part.iter().position(|token| token.is("(")).unwrap_or(part.len());
        let arguments = part.get(open + 1..part.len().saturating_sub(1)).unwrap_or(&[]);
        let place = part.first().map(|token| token.place).unwrap_or_default();
        Attribute { name: text(&part[..open]).replace(' ', ""), arguments: arguments.to_vec(), place }
    };
    (split_commas(inner).into_iter().map(one).collect(), end + 1)
}

/// Takes Metal's attributes out of a declaration; those of C++ stay.
pub fn take(source: &Text, tokens: &[Token]) -> Result<(Vec<Token>, Vec<Attribute>), CompileError> {
    let (mut rest, mut taken) = (Vec::with_capacity(tokens.len()), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if !begins(tokens, at) {
            rest.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let (attributes, end) = parse(tokens, at);
        if attributes.iter().all(|attribute| KEPT.iter().any(|kept| attribute.name.starts_with(kept))) {
            rest.extend_from_slice(&tokens[at..end.min(tokens.len())]);
        } else {
            let kept = |attribute: &&Attribute| KEPT.iter().any(|kept| attribute.name.starts_with(kept));
            if let Some(mixed) = attributes.iter().find(kept) {
                return Err(source
                    .error(mixed.place, format_args!("attribute `{}`: wants its own [[ ]]", mixed.name)));
            }
            taken.extend(
                attributes.into_iter().filter(|attribute| !DROPPED.contains(&attribute.name.as_str())),
            );
        }
        at = end;
    }
    Ok((rest, taken))
}

/// Takes Metal's attributes out of a text in which there may be none that means something.
pub fn take_none(source: &Text, tokens: &[Token]) -> Result<Vec<Token>, CompileError> {
    let (rest, taken) = take(source, tokens)?;
    refuse(source, &taken)?;
    Ok(rest)
}

/// Refuses what is left of attributes.
pub fn refuse(source: &Text, left: &[Attribute]) -> Result<(), CompileError> {
    match left.first() {
        Some(attribute) => {
            let what = format_args!("attribute `{}` is not supported here", attribute.name);
            Err(source.error(attribute.place, what))
        }
        None => Ok(()),
    }
}
