//! Address spaces. Here there is one memory: the words are erased, and what differs by them alone is one.

use super::CompileError;
use super::kernels::parameter_name;
use super::token::{Kind, Text, Token, close, split_commas};

/// The words of Metal's address spaces.
pub const ADDRESS_SPACES: [&str; 4] = ["device", "constant", "thread", "threadgroup"];

/// Address spaces that kernels have no use for here.
pub const REFUSED_SPACES: [&str; 3] = ["threadgroup_imageblock", "object_data", "ray_data"];

pub fn is_address_space(token: &Token) -> bool {
    token.is_identifier() && token.is_any(&ADDRESS_SPACES)
}

/// What a definition is told by once address spaces are gone: equal signatures are the same function or class.
pub fn signature(declaration: &[Token], class: Option<&str>) -> String {
    let mut signature = String::new();
    let mut at = 0;
    let mut specifiers = Vec::new();
    let end = special(declaration, class).unwrap_or(declaration.len());
    while at < end {
        let token = &declaration[at];
        if token.is("(") {
            let end = close(declaration, at);
            finish(&mut specifiers, &mut signature);
            signature.push('(');
            for parameter in split_commas(&declaration[at + 1..end]) {
                let name = parameter_name(parameter);
                let value = parameter.iter().position(|token| token.is("=")).unwrap_or(parameter.len());
                for (index, token) in parameter[..value].iter().enumerate() {
                    if Some(index) != name {
                        word(token, &mut specifiers, &mut signature);
                    }
                }
                finish(&mut specifiers, &mut signature);
                signature.push(',');
            }
            signature.push(')');
            at = end + 1;
            continue;
        }
        // `Name<T>(` in a class is its constructor, as `Name(` is.
        let arguments = class.is_some_and(|class| token.is("<") && at > 0 && declaration[at - 1].is(class));
        if arguments && let Some(end) = super::token::close_angle(declaration, at) {
            at = end + 1;
            continue;
        }
        if !token.is_any(&["inline", "static", "constexpr", "METAL_FUNC", ";"])
            && token.kind != Kind::Directive
        {
            word(token, &mut specifiers, &mut signature);
        }
        at += 1;
    }
    finish(&mut specifiers, &mut signature);
    signature
}

/// Takes one more token; words between marks are put in order, so that `const T` and `T const` are the same.
fn word(token: &Token, specifiers: &mut Vec<String>, signature: &mut String) {
    if token.is("constant") {
        specifiers.push("const".to_owned());
    } else if is_address_space(token) || token.kind == Kind::Directive {
    } else if token.is_any(&["const", "volatile"]) {
        specifiers.push(token.text.clone());
    } else if token.is_any(&["*", "&", "&&", "<", ">", ",", "("]) {
        finish(specifiers, signature);
        signature.push_str(&token.text);
    } else {
        signature.push_str(&token.text);
        signature.push(' ');
    }
}

fn finish(specifiers: &mut Vec<String>, signature: &mut String) {
    specifiers.sort();
    specifiers.dedup();
    for word in specifiers.drain(..) {
        signature.push_str(&word);
        signature.push(' ');
    }
}

/// Where the parameters end of a constructor, or of a member that is defaulted.
fn special(declaration: &[Token], class: Option<&str>) -> Option<usize> {
    let class = class?;
    let end = declaration.iter().rposition(|token| token.is(")"))? + 1;
    let defaulted = declaration[end..].iter().any(|token| token.is_any(&["default", "delete"]));
    let open = declaration.iter().position(|token| token.is("("))?;
    let constructor = (0..open).any(|at| declaration[at].is(class) && !declaration[at].is("::"));
    let end = if constructor { close(declaration, open) + 1 } else { end };
    (defaulted || constructor).then_some(end)
}

/// `X() threadgroup`: what `this` points to is of no concern here, but that `constant` is as good as `const`.
pub fn drop_member_qualifiers(declaration: &mut Vec<Token>, class: Option<&str>) {
    let Some(parameters) = declaration.iter().rposition(|token| token.is(")")) else { return };
    let special = special(declaration, class);
    let parameters = special.unwrap_or(parameters);
    let mut at = 0;
    declaration.retain(|token| {
        at += 1;
        at <= parameters || !is_address_space(token) || token.is("constant") && special.is_none()
    });
}

/// Refuses variables of program scope that a threadgroup would share.
pub fn refuse_program_scope(source: &Text, tokens: &[Token]) -> Result<(), CompileError> {
    if tokens.first().is_some_and(|first| first.is_any(&["using", "typedef"])) {
        return Ok(());
    }
    let value = tokens.iter().position(|token| token.is("=")).unwrap_or(tokens.len());
    let points = tokens[..value].iter().any(|token| token.is_any(&["*", "&", "<"]));
    match tokens.iter().find(|token| token.is("threadgroup")) {
        Some(token) if !points => Err(source
            .error(token.place, "a threadgroup variable: wants a function around it, got program scope")),
        _ => Ok(()),
    }
}
