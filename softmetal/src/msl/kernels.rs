//! Kernel functions: their parameters, and the names they are found by.

use super::CompileError;
use super::attributes::{self, Attribute};
use super::token::{Kind, Place, Text, Token, close, close_angle, split_commas, text};
use std::collections::BTreeSet;

/// What a parameter is bound to.
#[derive(Clone, Debug)]
pub enum Binding {
    /// `[[buffer(n)]]`: the index, as it is written.
    Buffer(String),
    /// `[[threadgroup(n)]]`.
    Threadgroup(String),
    /// `[[thread_position_in_grid]]` and the like, by Metal's name.
    BuiltIn(&'static str),
}

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub name: String,
    pub binding: Binding,
    /// In the constant address space.
    pub constant: bool,
    /// The condition that it is there at all.
    pub condition: Option<String>,
}

/// A kernel function, or a template of them.
#[derive(Clone, Debug)]
pub struct Function {
    /// With its namespaces, as C++ calls it from anywhere.
    pub path: String,
    pub name: String,
    /// What `template < >` holds.
    pub template: Option<String>,
    pub parameters: Vec<Parameter>,
    /// `max_total_threads_per_threadgroup`, which may depend on the template's parameters.
    pub max_threads: Option<String>,
    pub place: Place,
}

/// A kernel that can be asked for.
#[derive(Clone, Debug)]
pub struct Export {
    pub name: String,
    /// An index into the functions.
    pub function: usize,
    /// `<...>`, or nothing.
    pub arguments: String,
}

/// The values that a thread is given, by the name of the attribute.
pub const BUILT_INS: [&str; 20] = [
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup",
    "threads_per_grid",
    "threadgroups_per_grid",
    "grid_size",
    "grid_origin",
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup",
    "threads_per_simdgroup",
    "thread_execution_width",
    "thread_index_in_quadgroup",
    "quadgroup_index_in_threadgroup",
    "quadgroups_per_threadgroup",
    "dispatch_quadgroups_per_threadgroup",
];

/// Metal's name of a built-in value, if the attribute is one.
pub fn built_in(attribute: &Attribute) -> Option<&'static str> {
    BUILT_INS.iter().find(|name| **name == attribute.name).copied()
}

/// What the attributes in front of a kernel say.
#[derive(Default)]
pub struct Head {
    pub kernel: bool,
    pub host_name: Option<String>,
    pub max_threads: Option<String>,
}

/// Reads the attributes of a function or of an instantiation.
pub fn head(source: &Text, taken: Vec<Attribute>) -> Result<Head, CompileError> {
    let mut head = Head::default();
    for attribute in taken {
        match attribute.name.as_str() {
            "kernel" => head.kernel = true,
            "host_name" => head.host_name = Some(string(source, &attribute)?),
            "max_total_threads_per_threadgroup" => head.max_threads = Some(text(&attribute.arguments)),
            _ => attributes::refuse(source, &[attribute])?,
        }
    }
    Ok(head)
}

/// String literals beside each other are one.
fn string(source: &Text, attribute: &Attribute) -> Result<String, CompileError> {
    let mut string = String::new();
    for token in attribute.arguments.iter().filter(|token| token.kind != Kind::Directive) {
        let inner = token.text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        match inner.filter(|inner| token.kind == Kind::Literal && !inner.contains('\\')) {
            Some(inner) => string.push_str(inner),
            None => {
                return Err(source
                    .error(token.place, format_args!("host_name: wants a string, got `{}`", token.text)));
            }
        }
    }
    Ok(string)
}

/// The indices that parameters have. One without gets the next: where "next" could be taken in two ways, that after
/// the highest or the lowest that is free, it is refused.
#[derive(Default)]
struct Indices {
    used: BTreeSet<u32>,
    /// An index that is no number was given.
    unknown: bool,
}

impl Indices {
    fn explicit(&mut self, source: &Text, attribute: &Attribute) -> Result<String, CompileError> {
        let index = text(&attribute.arguments);
        match index.parse() {
            Ok(number) if !self.used.insert(number) => {
                let what = format_args!(
                    "`{}({index})`: wants an index of its own, got another parameter's",
                    attribute.name
                );
                return Err(source.error(attribute.place, what));
            }
            parsed => self.unknown |= parsed.is_err(),
        }
        Ok(index)
    }

    fn implicit(&mut self, source: &Text, name: &Token) -> Result<String, CompileError> {
        let highest = self.used.last().map_or(0, |last| last + 1);
        if self.unknown || highest as usize != self.used.len() {
            let what = format_args!(
                "parameter `{}`: wants an index, as parameters before it have theirs",
                name.text
            );
            return Err(source.error(name.place, what));
        }
        self.used.insert(highest);
        Ok(highest.to_string())
    }
}

/// Takes the attributes out of the parameters of what is no kernel: they mean nothing there.
pub fn function_parameters(source: &Text, tokens: &[Token]) -> Result<Vec<Token>, CompileError> {
    let (rest, taken) = attributes::take(source, tokens)?;
    let unknown = |attribute: &&Attribute| {
        !matches!(attribute.name.as_str(), "buffer" | "threadgroup" | "function_constant")
            && built_in(attribute).is_none()
    };
    attributes::refuse(source, taken.iter().find(unknown).map_or(&[], std::slice::from_ref))?;
    Ok(rest)
}

/// Takes the attributes out of a kernel's parameters and says what each is bound to.
pub fn parameters(source: &Text, tokens: &[Token]) -> Result<(Vec<Token>, Vec<Parameter>), CompileError> {
    let (mut rest, mut parameters) = (Vec::new(), Vec::new());
    let (mut buffers, mut threadgroups) = (Indices::default(), Indices::default());
    for part in split_commas(tokens) {
        let (declaration, taken) = attributes::take(source, part)?;
        let name = parameter_name(&declaration);
        let Some(name) = name.map(|at| declaration[at].clone()) else {
            if text(&declaration).is_empty() || text(&declaration) == "void" {
                continue;
            }
            let place = declaration[0].place;
            return Err(source.error(place, "a kernel's parameter: wants a name"));
        };
        let mut binding = None;
        let mut condition = None;
        for attribute in &taken {
            match attribute.name.as_str() {
                "buffer" => binding = Some(Binding::Buffer(buffers.explicit(source, attribute)?)),
                "threadgroup" => {
                    binding = Some(Binding::Threadgroup(threadgroups.explicit(source, attribute)?))
                }
                "function_constant" => condition = Some(text(&attribute.arguments)),
                _ => match built_in(attribute) {
                    Some(name) => binding = Some(Binding::BuiltIn(name)),
                    None => attributes::refuse(source, std::slice::from_ref(attribute))?,
                },
            }
        }
        let points = declaration.iter().any(|token| token.is_any(&["*", "&", "["]));
        let has = |space: &str| declaration.iter().any(|token| token.is(space));
        let binding = match binding {
            Some(binding) => binding,
            None if points && has("threadgroup") => {
                Binding::Threadgroup(threadgroups.implicit(source, &name)?)
            }
            None if points && (has("device") || has("constant")) => {
                Binding::Buffer(buffers.implicit(source, &name)?)
            }
            None => {
                let what = "wants an address space (device, constant or threadgroup), or the attribute of a built-in value";
                return Err(source.error(name.place, format_args!("parameter `{}`: {what}", name.text)));
            }
        };
        let constant = has("constant");
        parameters.push(Parameter { name: name.text, binding, constant, condition });
        if !rest.is_empty() {
            rest.push(Token {
                kind: Kind::Punctuation,
                text: ",".to_owned(),
                place: part[0].place,
                spaced: false,
            });
        }
        rest.extend(declaration);
    }
    Ok((rest, parameters))
}

const NO_NAMES: [&str; 20] = [
    "const",
    "volatile",
    "device",
    "constant",
    "thread",
    "threadgroup",
    "unsigned",
    "signed",
    "int",
    "uint",
    "float",
    "half",
    "bfloat",
    "char",
    "short",
    "long",
    "bool",
    "void",
    "auto",
    "typename",
];

/// The index of a parameter's name, if it has one.
pub fn parameter_name(parameter: &[Token]) -> Option<usize> {
    let end = parameter.iter().position(|token| token.is("=")).unwrap_or(parameter.len());
    // `T (&name)[N]`
    let inner = (0..end)
        .find(|&at| parameter[at].is("(") && parameter.get(at + 1).is_some_and(|t| t.is_any(&["&", "*"])));
    if let Some(open) = inner {
        return (open..close(parameter, open)).rev().find(|&at| parameter[at].is_identifier());
    }
    let mut at = 0;
    let mut last = None;
    let mut words = 0;
    while at < end {
        let token = &parameter[at];
        if token.is_any(&["[", "("]) {
            at = close(parameter, at);
        } else if token.is("<") {
            at = close_angle(parameter, at).unwrap_or(at);
            last = None;
        } else if token.is("::") {
            words = 0;
            last = None;
        } else if token.is_identifier() {
            let word = !token.is_any(&NO_NAMES);
            last = word.then_some(at);
            words += usize::from(!token.is_any(&[
                "const",
                "volatile",
                "device",
                "constant",
                "thread",
                "threadgroup",
            ]));
        } else if token.is_any(&["*", "&", "&&", "..."]) {
            last = None;
            words += 1;
        }
        at += 1;
    }
    last.filter(|_| words > 1)
}

/// `template [[host_name("n")]] kernel T f<...>(...)`: the name, and the function with its template arguments.
pub fn instantiation(
    source: &Text,
    tokens: &[Token],
) -> Result<Option<(String, String, String)>, CompileError> {
    // Parameters repeat what the template's say: only what stands before them counts.
    let mut end = tokens.len() - usize::from(tokens.last().is_some_and(|last| last.is(";")));
    if end > 0 && tokens[end - 1].is(")") {
        end = (0..end).rev().find(|&at| tokens[at].is("(") && close(tokens, at) == end - 1).unwrap_or(end);
    }
    let (rest, taken) = attributes::take(source, &tokens[..end])?;
    let head = head(source, taken)?;
    let Some(host_name) = head.host_name else { return Ok(None) };
    let word = |token: &Token| token.kind != Kind::Directive && !token.is_any(&["template", "kernel"]);
    let rest: Vec<Token> = rest.into_iter().filter(word).collect();
    let Some(last) = rest.last() else {
        return Err(source.error(tokens[0].place, "an instantiation: wants a function"));
    };
    let (name, arguments) = if last.is(">") {
        let end = rest.len() - 1;
        let open =
            (0..end).rev().filter(|&at| rest[at].is("<")).find(|&at| close_angle(&rest, at) == Some(end));
        let open =
            open.filter(|&at| at > 0).ok_or_else(|| source.error(last.place, "`>` without its `<`"))?;
        (open - 1, text(&rest[open..]))
    } else {
        (rest.len() - 1, String::new())
    };
    Ok(Some((host_name, rest[name].text.clone(), arguments)))
}
