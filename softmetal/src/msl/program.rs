//! A library's text taken apart: kernels, function constants, built-in values of program scope, and the rest.

use super::CompileError;
use super::attributes;
use super::items::{self, Item, Sort};
use super::kernels::{self, Export, Function, Head};
use super::statements;
use super::storage;
use super::token::{Place, Text, Token, text};
use super::values;
use std::collections::{HashMap, HashSet};

/// A piece of the text, in order.
#[derive(Debug)]
pub enum Segment {
    Text(Vec<Token>),
    /// A kernel function, by its index.
    Kernel(usize, Vec<Token>),
    /// A function constant, by its index.
    Constant(usize),
}

/// `constant T name [[function_constant(n)]];`
#[derive(Debug)]
pub struct FunctionConstant {
    pub name: String,
    pub index: u32,
    pub kind: String,
    pub place: Place,
}

/// A library.
#[derive(Debug, Default)]
pub struct Program {
    pub files: Vec<String>,
    pub segments: Vec<Segment>,
    pub functions: Vec<Function>,
    pub exports: Vec<Export>,
    pub constants: Vec<FunctionConstant>,
    /// Of each function, whether another part of the text names it.
    pub used: Vec<bool>,
}

/// Takes a text apart and rewrites it as C++.
pub fn read(source: Text) -> Result<Program, CompileError> {
    let types = values::type_names(&source.tokens);
    let mut walk = Walk {
        source: &source,
        program: Program::default(),
        path: Vec::new(),
        text: Vec::new(),
        built_ins: HashMap::new(),
        signatures: HashMap::new(),
        instantiations: Vec::new(),
        variables: 0,
    };
    walk.declarations(0, source.tokens.len(), &Scope::Namespace)?;
    walk.flush();
    walk.name_exports()?;
    let Walk { mut program, built_ins, .. } = walk;
    let rewrite = values::Values { source: &source, types: &types, built_ins: &built_ins };
    for segment in &mut program.segments {
        if let Segment::Text(tokens) | Segment::Kernel(_, tokens) = segment {
            *tokens = rewrite.rewrite(std::mem::take(tokens))?;
        }
    }
    program.used = used(&program);
    program.files = source.files;
    Ok(program)
}

enum Scope {
    Namespace,
    Class(String),
}

struct Walk<'s> {
    source: &'s Text,
    program: Program,
    /// The namespaces around.
    path: Vec<String>,
    text: Vec<Token>,
    built_ins: HashMap<String, &'static str>,
    /// What has been defined, by namespace or class.
    signatures: HashMap<String, HashSet<String>>,
    /// Name, function, template arguments.
    instantiations: Vec<(String, String, String, Place)>,
    /// Threadgroup variables so far.
    variables: usize,
}

/// A function without its body: Metal's attributes are gone from it.
struct Parts<'s> {
    /// What stands before the parameters.
    prefix: Vec<Token>,
    name: &'s Token,
    /// The parentheses.
    parameters: (usize, usize),
    /// What stands between the parameters and the body.
    suffix: Vec<Token>,
}

impl Walk<'_> {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.program.segments.push(Segment::Text(std::mem::take(&mut self.text)));
        }
    }

    fn declarations(&mut self, start: usize, end: usize, scope: &Scope) -> Result<(), CompileError> {
        let mut at = start;
        while at < end {
            let item = items::next(&self.source.tokens, at, end);
            at = item.range.end;
            self.item(item, scope)?;
        }
        Ok(())
    }

    fn item(&mut self, item: Item, scope: &Scope) -> Result<(), CompileError> {
        let source = self.source;
        let tokens = &source.tokens[item.range.clone()];
        let start = item.range.start;
        if tokens[0].is_any(&["typedef", "using"]) {
            // The type of a kernel may repeat its parameters' attributes.
            self.text.extend(kernels::function_parameters(source, tokens)?);
            return Ok(());
        }
        match item.sort {
            Sort::Mark => self.text.extend(statements::directives(source, tokens)?),
            Sort::Namespace { name, open } => {
                self.text.extend_from_slice(&source.tokens[start..=open]);
                self.path.push(name);
                self.declarations(open + 1, item.range.end - 1, scope)?;
                self.path.pop();
                self.text.push(source.tokens[item.range.end - 1].clone());
            }
            Sort::Instantiation => match kernels::instantiation(source, tokens)? {
                Some((name, function, arguments)) => {
                    self.instantiations.push((name, function, arguments, tokens[0].place));
                }
                None if tokens.iter().any(|token| token.is("kernel")) => {}
                None => self.text.extend(attributes::take_none(source, tokens)?),
            },
            Sort::Record { name, open, close } => {
                let head = attributes::take_none(source, &source.tokens[start..=open])?;
                let key = storage::signature(&head, None);
                if self.is_repeated(key, &head, &format!("{name} class")) {
                    return Ok(());
                }
                self.text.extend(head);
                self.path.push(format!("{name}#{start}"));
                self.declarations(open + 1, close, &Scope::Class(name))?;
                self.path.pop();
                self.text.extend(attributes::take_none(source, &source.tokens[close..item.range.end])?);
            }
            Sort::Function { name, open, close, body } => {
                self.function(&item.range, (name, open, close), body, scope)?
            }
            Sort::Other => self.variable(tokens)?,
        }
        Ok(())
    }

    /// Whether it was defined before with other address spaces: such overloads are one function here.
    fn is_repeated(&mut self, key: String, tokens: &[Token], sort: &str) -> bool {
        let seen = self.signatures.entry(format!("{} {sort}", self.path.join("::"))).or_default();
        !seen.insert(key) && tokens.iter().any(storage::is_address_space)
    }

    fn function(
        &mut self,
        range: &std::ops::Range<usize>,
        (name, open, close): (usize, usize, usize),
        body: Option<(usize, usize)>,
        scope: &Scope,
    ) -> Result<(), CompileError> {
        let source = self.source;
        let (prefix, taken) = attributes::take(source, &source.tokens[range.start..open])?;
        let head = kernels::head(source, taken)?;
        let stage = prefix.iter().find(|token| token.is_any(&["vertex", "fragment"]));
        if let Some(stage) = stage {
            return Err(
                source.error(stage.place, format_args!("`{}` functions are not supported", stage.text))
            );
        }
        let is_kernel = head.kernel || prefix.iter().any(|token| token.is("kernel"));
        if !is_kernel && (head.host_name.is_some() || head.max_threads.is_some()) {
            let place = source.tokens[name].place;
            return Err(
                source.error(place, format_args!("`{}`: wants to be a kernel", source.tokens[name].text))
            );
        }
        let suffix_end = body.map_or(range.end, |(open, _)| open);
        let suffix = attributes::take_none(source, &source.tokens[close + 1..suffix_end])?;
        let body = match body {
            Some((open, close)) => {
                Some(statements::body(source, &source.tokens[open..=close], &mut self.variables)?)
            }
            None => None,
        };
        let parts = Parts { prefix, name: &source.tokens[name], parameters: (open, close), suffix };
        match body {
            Some(body) if is_kernel => self.kernel(parts, body, head),
            // What declares a kernel repeats what defines it.
            None if is_kernel => Ok(()),
            body => self.plain_function(parts, body, scope),
        }
    }

    fn plain_function(
        &mut self,
        parts: Parts<'_>,
        body: Option<Vec<Token>>,
        scope: &Scope,
    ) -> Result<(), CompileError> {
        let (open, close) = parts.parameters;
        let parameters = kernels::function_parameters(self.source, &self.source.tokens[open..=close])?;
        let class = match scope {
            Scope::Class(name) => Some(name.as_str()),
            Scope::Namespace => None,
        };
        let mut declaration = [parts.prefix, parameters, parts.suffix].concat();
        let is_definition =
            body.is_some() || declaration.iter().rev().take(3).any(|token| token.is("default"));
        let key = storage::signature(&declaration, class);
        if is_definition && self.is_repeated(key, &declaration, "function") {
            return Ok(());
        }
        storage::drop_member_qualifiers(&mut declaration, class);
        let internal =
            declaration.iter().any(|token| token.is_any(&["static", "inline", "constexpr", "extern"]));
        if class.is_none() && body.is_some() && !internal {
            // Code for it is made if the kernel uses it.
            let at = template_end(&declaration);
            declaration.splice(at..at, super::token::tokens("inline", parts.name.place));
        }
        self.text.extend(declaration);
        self.text.extend(body.unwrap_or_default());
        Ok(())
    }

    fn kernel(&mut self, parts: Parts<'_>, body: Vec<Token>, head: Head) -> Result<(), CompileError> {
        let source = self.source;
        self.flush();
        let Parts { prefix, name, parameters: (open, close), suffix } = parts;
        let (declared, parameters) = kernels::parameters(source, &source.tokens[open + 1..close])?;
        let index = self.program.functions.len();
        let keyword = template_end(&prefix);
        let template = (keyword > 0).then(|| text(&prefix[2..keyword - 1]));
        let mut whole = prefix[..keyword].to_vec();
        whole.extend(super::token::tokens("static", name.place));
        whole.extend(prefix[keyword..].iter().filter(|token| !token.is("kernel")).cloned());
        whole.push(source.tokens[open].clone());
        whole.extend(declared);
        whole.push(source.tokens[close].clone());
        whole.extend(suffix);
        whole.extend(body);
        let namespaces: String =
            self.path.iter().filter(|name| !name.is_empty()).map(|name| format!("{name}::")).collect();
        if template.is_none() {
            let export = head.host_name.unwrap_or_else(|| format!("{namespaces}{}", name.text));
            self.program.exports.push(Export { name: export, function: index, arguments: String::new() });
        }
        self.program.functions.push(Function {
            path: format!("::{namespaces}{}", name.text),
            name: name.text.clone(),
            template,
            parameters,
            max_threads: head.max_threads,
            place: name.place,
        });
        self.program.segments.push(Segment::Kernel(index, whole));
        Ok(())
    }

    fn variable(&mut self, tokens: &[Token]) -> Result<(), CompileError> {
        let source = self.source;
        let (rest, taken) = attributes::take(source, tokens)?;
        let Some(attribute) = taken.first() else {
            storage::refuse_program_scope(source, &rest)?;
            self.text.extend(rest);
            return Ok(());
        };
        let name = rest.iter().rposition(Token::is_identifier);
        let Some(name) = name.filter(|&name| name > 0 && taken.len() == 1) else {
            return attributes::refuse(source, &taken);
        };
        let words = ["constant", "const", "static", "constexpr"];
        let kind: Vec<Token> = rest[..name].iter().filter(|token| !token.is_any(&words)).cloned().collect();
        let name = &rest[name];
        if attribute.name == "function_constant" {
            let index = text(&attribute.arguments);
            let Ok(index) = index.parse() else {
                let what = format_args!("function_constant: wants a number, got `{index}`");
                return Err(source.error(attribute.place, what));
            };
            self.flush();
            self.program.segments.push(Segment::Constant(self.program.constants.len()));
            let constant =
                FunctionConstant { name: name.text.clone(), index, kind: text(&kind), place: name.place };
            self.program.constants.push(constant);
        } else if let Some(built_in) = kernels::built_in(attribute) {
            self.built_ins.insert(name.text.clone(), built_in);
            let kind = text(&kind);
            let (name, place) = (&name.text, name.place);
            let declaration =
                format!("static constexpr softmetal::BuiltIn<{kind}, softmetal::{built_in}> {name}{{}};");
            self.text.extend(super::token::tokens(&declaration, place));
        } else {
            attributes::refuse(source, &taken)?;
        }
        Ok(())
    }

    /// Finds the functions that instantiations name.
    fn name_exports(&mut self) -> Result<(), CompileError> {
        for (name, function, arguments, place) in std::mem::take(&mut self.instantiations) {
            let mut found =
                (0..self.program.functions.len()).filter(|&at| self.program.functions[at].name == function);
            match (found.next(), found.next()) {
                (Some(function), None) => self.program.exports.push(Export { name, function, arguments }),
                (Some(_), Some(_)) => {
                    let what = format_args!(
                        "instantiation of `{function}`: wants one kernel of that name, got several"
                    );
                    return Err(self.source.error(place, what));
                }
                (None, _) => {
                    let what =
                        format_args!("instantiation of `{function}`: wants a kernel, got no such function");
                    return Err(self.source.error(place, what));
                }
            }
        }
        let mut names = HashSet::new();
        for export in &self.program.exports {
            if !names.insert(&export.name) {
                let place = self.program.functions[export.function].place;
                return Err(self
                    .source
                    .error(place, format_args!("two kernels are called `{}`", export.name)));
            }
        }
        Ok(())
    }
}

/// Where `template <...>` ends, in front of a declaration.
fn template_end(declaration: &[Token]) -> usize {
    let close = declaration.first().filter(|first| first.is("template"));
    close.and_then(|_| super::token::close_angle(declaration, 1)).map_or(0, |close| close + 1)
}

/// Whether each kernel function is named by any other part of the text.
fn used(program: &Program) -> Vec<bool> {
    let mut own = vec![0usize; program.functions.len()];
    let mut all: HashMap<&str, usize> =
        program.functions.iter().map(|function| (function.name.as_str(), 0)).collect();
    for segment in &program.segments {
        let (tokens, kernel) = match segment {
            Segment::Text(tokens) => (tokens, None),
            Segment::Kernel(kernel, tokens) => (tokens, Some(*kernel)),
            Segment::Constant(_) => continue,
        };
        for token in tokens.iter().filter(|token| token.is_identifier()) {
            if let Some(count) = all.get_mut(token.text.as_str()) {
                *count += 1;
                if let Some(kernel) = kernel.filter(|kernel| program.functions[*kernel].name == token.text) {
                    own[kernel] += 1;
                }
            }
        }
    }
    program.functions.iter().zip(own).map(|(function, own)| all[function.name.as_str()] > own).collect()
}
