//! Words of C++ that Metal has no use for: its specification lists them as restrictions.

use super::Problem;
use crate::msl::token::{Text, Token};

/// A word, the rule it breaks, and what to say.
const WORDS: [(&str, &str, &str); 17] = [
    ("goto", "goto", "wants no goto"),
    ("virtual", "virtual", "wants no virtual functions"),
    ("new", "new-delete", "wants no new"),
    ("delete", "new-delete", "wants no delete"),
    ("try", "exceptions", "wants no exceptions, got try"),
    ("catch", "exceptions", "wants no exceptions, got catch"),
    ("throw", "exceptions", "wants no exceptions, got throw"),
    ("thread_local", "storage", "wants no thread_local"),
    ("register", "storage", "wants no register"),
    ("typeid", "type-identification", "wants no typeid"),
    ("dynamic_cast", "type-identification", "wants no dynamic_cast"),
    ("double", "double", "wants no double"),
    ("asm", "asm", "wants no asm"),
    ("__asm__", "asm", "wants no asm"),
    ("co_await", "coroutines", "wants no coroutines"),
    ("co_yield", "coroutines", "wants no coroutines"),
    ("co_return", "coroutines", "wants no coroutines"),
];

/// The words that are refused wherever they stand.
pub(super) fn check(source: &Text) -> Vec<Problem> {
    let tokens = &source.tokens;
    let mut problems = Vec::new();
    let is = |at: Option<usize>, word: &str| {
        at.and_then(|at| tokens.get(at)).is_some_and(|token: &Token| token.is(word))
    };
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.is_identifier()) {
        let before = at.checked_sub(1);
        if let Some((word, rule, text)) = WORDS.iter().find(|(word, ..)| token.is(word)) {
            // `= delete` is a declaration's, `.try` and `->new` are members'.
            let declared = (*word == "delete" && is(before, "=")) || is(before, ".") || is(before, "->");
            if !declared {
                let long = is(before, "long") && *word == "double";
                let text = if long { "wants no long double" } else { text };
                problems.push(Problem::new(source, token.place, rule, text.to_owned()));
            }
        } else if token.is("long") && is(Some(at + 1), "long") {
            problems.push(Problem::new(
                source,
                token.place,
                "long-long",
                "wants long, got long long".to_owned(),
            ));
        }
    }
    problems
}
