//! The bodies of functions: variables in threadgroup memory, and vectors that are declared with values.

use super::CompileError;
use super::attributes;
use super::storage::REFUSED_SPACES;
use super::token::{Kind, Text, Token, close, close_angle, split_commas, text, tokens as made};
use super::values::is_vector;

/// Pragmas that change nothing here: operations are never contracted, reordered or taken to be finite, which is what
/// the strictest of each asks for and the others allow.
const METAL_PRAGMAS: [&[&str]; 7] = [
    &["fp", "contract", "off"],
    &["fp", "contract", "on"],
    &["fp", "contract", "fast"],
    &["fp", "math_mode", "safe"],
    &["fp", "math_mode", "relaxed"],
    &["fp", "math_mode", "fast"],
    &["internals", "enable"],
];

/// Drops Metal's own pragmas, those that are known.
pub fn directives(source: &Text, tokens: &[Token]) -> Result<Vec<Token>, CompileError> {
    let mut kept = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.kind == Kind::Directive {
            let words: Vec<&str> =
                token.text[1..].split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            match words[..] {
                ["pragma", "METAL", ref what @ ..] if METAL_PRAGMAS.contains(&what) => continue,
                ["pragma", "METAL", ..] => {
                    return Err(source.error(token.place, format_args!("`{}` is not supported", token.text)));
                }
                _ => {}
            }
        }
        kept.push(token.clone());
    }
    Ok(kept)
}

/// Rewrites a body, braces included; `variables` counts the threadgroup variables of the whole text.
pub fn body(source: &Text, tokens: &[Token], variables: &mut usize) -> Result<Vec<Token>, CompileError> {
    let tokens = directives(source, &attributes::take_none(source, tokens)?)?;
    if let Some(token) = tokens.iter().find(|token| token.is_any(&REFUSED_SPACES)) {
        return Err(source.error(token.place, format_args!("`{}` is not supported", token.text)));
    }
    let mut rest = Vec::with_capacity(tokens.len());
    let mut at = 0;
    let mut begins = false;
    while at < tokens.len() {
        if begins && let Some((declaration, end)) = statement(source, &tokens, at, variables)? {
            rest.extend(declaration);
            at = end;
            continue;
        }
        begins = tokens[at].is_any(&[";", "{", "}", ":"]) || begins && tokens[at].kind == Kind::Directive;
        rest.push(tokens[at].clone());
        at += 1;
    }
    Ok(rest)
}

type Rewritten = Option<(Vec<Token>, usize)>;

/// The declaration that begins at `at`, if it is one to be rewritten, and where the text goes on.
fn statement(
    source: &Text,
    tokens: &[Token],
    at: usize,
    variables: &mut usize,
) -> Result<Rewritten, CompileError> {
    let mut kind = at;
    let mut alignment = None;
    let mut shared = None;
    while let Some(token) = tokens.get(kind) {
        if token.is("alignas") {
            let end = close(tokens, kind + 1);
            alignment = Some(text(&tokens[kind + 2..end]));
            kind = end;
        } else if token.is("threadgroup") {
            shared = Some(token.place);
        } else if !token.is_any(&["const", "constexpr", "static", "volatile", "thread"]) {
            break;
        }
        kind += 1;
    }
    let Some(end) = end_of_statement(tokens, kind) else { return Ok(None) };
    let declaration = &tokens[kind..end];
    let value = declaration.iter().position(|token| token.is("=")).unwrap_or(declaration.len());
    let head = &declaration[..value];
    if let Some(pair) = head.windows(2).find(|pair| pair[0].is("*") && pair[1].is("threadgroup")) {
        return Err(
            source.error(pair[1].place, "a pointer that itself is in threadgroup memory is not supported")
        );
    }
    if shared.is_none() {
        // A word that stands behind the type: `float threadgroup x[4]`.
        let late = head.iter().position(|token| token.is("threadgroup"));
        if let Some(late) = late.filter(|&late| head[..late].iter().all(Token::is_identifier)) {
            return Err(source.error(head[late].place, "`threadgroup`: wants to stand before the type"));
        }
        return Ok(vector(&tokens[at..end]).map(|rewritten| (rewritten, end)));
    }
    // `T (&name)[n]` too refers to memory that is somebody else's.
    let grouped = head.windows(2).any(|pair| pair[0].is("(") && pair[1].is_any(&["*", "&", "&&"]));
    if grouped || outside_of_brackets(head).any(|token| token.is_any(&["*", "&", "&&"])) {
        return Ok(None);
    }
    if value < declaration.len() || declaration.iter().any(|token| token.is("{")) {
        let place = declaration[0].place;
        return Err(source.error(place, "a variable in threadgroup memory: wants no value to begin with"));
    }
    let mut rewritten = Vec::new();
    let mut of_type = Vec::new();
    for (number, declarator) in split_commas(declaration).into_iter().enumerate() {
        let bracket = declarator.iter().position(|token| token.is("[")).unwrap_or(declarator.len());
        let Some(name) = declarator[..bracket].iter().rposition(Token::is_identifier) else {
            return Ok(None);
        };
        if number == 0 {
            of_type = declarator[..name].to_vec();
        }
        let place = declarator[name].place;
        let (name, extents) = (&declarator[name].text, &declarator[name + 1..]);
        *variables += 1;
        let alias = format!("softmetal_{variables}_{name}");
        rewritten.extend(made("typedef ", place));
        rewritten.extend(of_type.iter().cloned());
        rewritten.extend(made(&format!(" {alias}"), place));
        rewritten.extend(extents.iter().cloned());
        let alignment = alignment.as_ref().map_or(String::new(), |alignment| format!(", ({alignment})"));
        let call = format!("softmetal::threadgroup_variable<{alias}{alignment}>([] {{}}, \"{name}\")");
        rewritten.extend(made(&format!("; auto& {name} = {call};"), place));
    }
    Ok(Some((rewritten, end + 1)))
}

/// Where the `;` of a statement is, if it has no block in it.
fn end_of_statement(tokens: &[Token], from: usize) -> Option<usize> {
    let mut at = from;
    while at < tokens.len() {
        if tokens[at].is(";") {
            return Some(at);
        } else if tokens[at].is_any(&["(", "[", "{"]) {
            at = close(tokens, at);
        } else if tokens[at].is_any(&["}", ")", "]", ":"]) {
            return None;
        }
        at += 1;
    }
    None
}

fn outside_of_brackets(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let token = tokens.get(at)?;
        at = if token.is_any(&["(", "[", "{"]) {
            close(tokens, at)
        } else if token.is("<") {
            close_angle(tokens, at).unwrap_or(at)
        } else {
            at
        } + 1;
        Some(token)
    })
}

/// `float4 v(a, b), w{c}, x = {d};`: each gets its value by a call.
fn vector(declaration: &[Token]) -> Option<Vec<Token>> {
    let kind =
        declaration.iter().position(|token| !token.is_any(&["const", "constexpr", "static", "thread"]))?;
    let end = vector_type(declaration, kind)?;
    if !declaration.get(end)?.is_identifier() {
        return None;
    }
    let name = text(&declaration[kind..end]);
    let mut rewritten = declaration[..end].to_vec();
    let mut at = end;
    let mut array = false;
    while at < declaration.len() {
        let token = &declaration[at];
        array = token.is("[") || array && !token.is(",");
        let place = token.place;
        let before = &declaration[at - 1];
        let names = before.is_identifier() && (at - 1 == end || at >= 2 && declaration[at - 2].is(","));
        if token.is("(") && names || token.is("{") && !array && (names || before.is("=")) {
            let close = close(declaration, at);
            let assign = if before.is("=") { "" } else { " =" };
            rewritten.extend(made(&format!("{assign} softmetal::make<{name}>("), place));
            rewritten.extend_from_slice(&declaration[at + 1..close]);
            rewritten.extend(made(")", place));
            at = close;
        } else if token.is_any(&["(", "[", "{"]) {
            let close = close(declaration, at);
            rewritten.extend_from_slice(&declaration[at..=close]);
            at = close;
        } else {
            rewritten.push(token.clone());
        }
        at += 1;
    }
    Some(rewritten)
}

/// Where the name of a vector type ends that begins at `at`.
fn vector_type(tokens: &[Token], at: usize) -> Option<usize> {
    let at = if tokens.get(at)?.is("metal") && tokens.get(at + 1)?.is("::") { at + 2 } else { at };
    if tokens.get(at)?.is("vec") && tokens.get(at + 1)?.is("<") {
        return Some(close_angle(tokens, at + 1)? + 1);
    }
    is_vector(&tokens.get(at)?.text).then_some(at + 1)
}
