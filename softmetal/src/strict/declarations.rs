//! The declarations of a Metal text: kernels and their parameters, threadgroup variables, what Metal fills in at
//! program scope, and the address spaces of member functions.

use super::Problem;
use super::kernels::{Binding, Kernel, Parameter};
use super::translate::{BYTES, SPACES, Translator};
use crate::msl::attributes::{self, Attribute};
use crate::msl::items::{self, Item, Sort};
use crate::msl::token::{Kind, Token, close, close_angle, split_commas, text};
use std::collections::BTreeSet;

impl Translator<'_> {
    /// The declarations between two tokens, of a class or of a namespace.
    pub fn scope(&mut self, start: usize, end: usize, class: Option<&str>) {
        let tokens = &self.source.tokens;
        let mut at = start;
        while at < end {
            let item = items::next(tokens, at, end);
            let range = item.range.clone();
            match item.sort {
                Sort::Namespace { open, .. } => self.scope(open + 1, close(tokens, open), None),
                Sort::Record { ref name, open, close } => self.scope(open + 1, close, Some(name)),
                Sort::Function { name, open, close, body } => {
                    if self.qualified(&item, name, close, body.map(|(open, _)| open), class) {
                        self.function(range.start, name, open, close, body);
                    }
                }
                Sort::Other if class.is_none() => self.global(range.start, range.end),
                Sort::Instantiation => self.instantiation(range.start, range.end),
                Sort::Other | Sort::Mark => {}
            }
            at = range.end.max(at + 1);
        }
    }

    /// Address spaces behind a member function, which are of thread memory if nothing is said. Constructors have none
    /// in OpenCL: the one for thread memory is read, and false is returned for the others, which are left out.
    fn qualified(
        &mut self,
        item: &Item,
        name: usize,
        close: usize,
        body: Option<usize>,
        class: Option<&str>,
    ) -> bool {
        let tokens = &self.source.tokens;
        let stop = |token: &Token| token.is_any(&["=", ":", ";", "{", "(", "->"]);
        let after = body.unwrap_or(item.range.end);
        let behind = (close + 1..after).take_while(|at| !stop(&tokens[*at]));
        let qualifier = behind
            .filter_map(|at| Some((at, SPACES.iter().find(|(space, ..)| tokens[at].is(space))?)))
            .next();
        let constructor = class.is_some_and(|class| tokens[name].is(class));
        match qualifier {
            Some((_, (space, ..))) if constructor && *space != "thread" => {
                self.erase(item.range.start, item.range.end);
                return false;
            }
            Some((at, _)) if constructor => self.erase(at, at + 1),
            Some((at, (space, _, word))) => {
                // Of a constant object and of a const one in device memory, OpenCL's space is the same: one is read.
                let is_const = tokens[close..at + 2].iter().any(|token| token.is("const"));
                let read_only = *space == "constant" || (*space == "device" && is_const);
                let method = (class.unwrap_or_default().to_owned(), text(&tokens[name..=close]));
                if read_only && class.is_some() && !self.read_only.insert(method) {
                    self.erase(item.range.start, item.range.end);
                    return false;
                }
                self.edits[at].text = Some((*word).to_owned());
                if *space != "thread" {
                    let text =
                        format!("wants member functions in thread memory only, got one of {space} memory");
                    self.refuse(at, "member-function", text);
                }
            }
            None if constructor => {}
            None => {
                let free = |token: &Token| token.is_any(&["static", "friend", "typedef", "~", "using"]);
                let free = tokens[item.range.start..name].iter().any(free);
                let declared = class.map(|class| (class.to_owned(), tokens[name].text.clone()));
                let defined =
                    (name > 1 && tokens[name - 1].is("::")).then(|| self.class_before(name - 1)).flatten();
                let defined = defined.map(|class| (class, tokens[name].text.clone()));
                if declared.is_some() && !free {
                    self.edits[close].after += " __private";
                    self.methods.extend(declared);
                } else if defined.is_some_and(|method| self.methods.contains(&method)) {
                    self.edits[close].after += " __private";
                }
            }
        }
        true
    }

    /// The class in `Class::` or `Class<..>::`, by where its `::` stands.
    fn class_before(&self, colons: usize) -> Option<String> {
        let tokens = &self.source.tokens;
        let mut at = colons.checked_sub(1)?;
        if tokens[at].is(">") {
            let open =
                (0..at).rev().find(|open| tokens[*open].is("<") && close_angle(tokens, *open) == Some(at))?;
            at = open.checked_sub(1)?;
        }
        Some(tokens[at].text.clone())
    }

    fn function(
        &mut self,
        start: usize,
        name: usize,
        open: usize,
        close: usize,
        body: Option<(usize, usize)>,
    ) {
        let tokens = &self.source.tokens;
        let mut is_kernel = false;
        let mut head = Vec::new();
        let mut at = start;
        while at < name {
            is_kernel |= tokens[at].is("kernel");
            if attributes::begins(tokens, at) {
                let (found, end) = attributes::parse(tokens, at);
                head.extend(found);
                at = end;
            } else {
                at += 1;
            }
        }
        is_kernel |= head.iter().any(|attribute| attribute.name == "kernel");
        self.unknown(&head);
        let parameters: Vec<_> = split_commas(&tokens[open + 1..close]).into_iter().map(parameter).collect();
        for parameter in &parameters {
            self.unknown(&parameter.attributes);
            // Of templates, clang asks for the space of an instance's pointers only.
            if parameter.points && parameter.spaces.is_empty() && parameter.ty.ends_with(['*', '&']) {
                let Parameter { name, ty, place, .. } = parameter;
                let text =
                    format!("wants an address space on each pointer and reference, got {name} of type {ty}");
                self.problems.push(Problem::new(self.source, *place, "address-space", text));
            }
        }
        if is_kernel {
            let is_template = tokens[start].is("template");
            if name == 0 || !tokens[name - 1].is("void") {
                self.refuse(
                    name,
                    "kernel",
                    format!("wants a kernel to return void, got {}", tokens[name].text),
                );
            }
            if let Some((_, end)) = body.filter(|_| !is_template) {
                self.measure(end, &parameters);
            }
            let kernel = Kernel::new(&tokens[name], is_template, head, parameters, body.is_some());
            self.kernels.push(kernel);
        }
        if let Some((open, close)) = body {
            self.body(open, close, is_kernel);
        }
    }

    /// Has clang say the sizes of a kernel's parameters, behind its body.
    fn measure(&mut self, end: usize, parameters: &[Parameter]) {
        let structures = parameters.iter().filter(|parameter| parameter.spaces.contains("constant"));
        for (nth, parameter) in structures.enumerate() {
            let Some(ty) = parameter.ty.strip_suffix('&') else { continue };
            let ty: Vec<_> =
                ty.split_whitespace().filter(|word| !matches!(*word, "constant" | "const")).collect();
            let (kernel, ty) = (self.kernels.len(), ty.join(" "));
            self.edits[end].after +=
                &format!(" extern softmetal::bytes<sizeof({ty})> {BYTES}{kernel}_{nth};");
            self.sizes.insert(format!("{BYTES}{kernel}_{nth}"), (parameter.name.clone(), parameter.place));
        }
    }

    /// An explicit instantiation, whose name on the host is its own.
    fn instantiation(&mut self, start: usize, end: usize) {
        let named = parameter(&self.source.tokens[start..end]);
        self.unknown(&named.attributes);
        for attribute in named.attributes.iter().filter(|attribute| attribute.name == "host_name") {
            let name = text(&attribute.arguments);
            if !self.host_names.insert(name.clone()) {
                let text = format!("wants each host_name once, got {name} again");
                self.problems.push(Problem::new(self.source, attribute.place, "host-name", text));
            }
        }
    }

    fn unknown(&mut self, attributes: &[Attribute]) {
        for attribute in attributes {
            if Binding::of(attribute).is_none() {
                let text = format!("wants an attribute of Metal's, got {}", attribute.name);
                self.problems.push(Problem::new(self.source, attribute.place, "attribute", text));
            }
        }
    }

    /// A variable at program scope: Metal gives function constants and built-ins their values.
    fn global(&mut self, start: usize, end: usize) {
        let variable = parameter(&self.source.tokens[start..end]);
        self.unknown(&variable.attributes);
        let bound = variable.attributes.iter().filter_map(Binding::of);
        if !bound.clone().any(|binding| matches!(binding, Binding::FunctionConstant | Binding::BuiltIn(_))) {
            return;
        }
        for at in start..end {
            if self.is(at, "static") {
                self.erase(at, at + 1);
            }
        }
        self.edits[start].before.insert_str(0, "extern ");
        self.globals.push(variable);
    }

    /// Threadgroup variables and static ones in a function's body.
    fn body(&mut self, open: usize, close: usize, is_kernel: bool) {
        let tokens = &self.source.tokens;
        let mut depth = 0;
        let mut begins = true;
        for at in open + 1..close {
            let token = &tokens[at];
            let after_alignas = at > open + 3 && token.is("threadgroup") && self.alignas_before(at).is_some();
            if token.is("threadgroup") && (begins || after_alignas) {
                self.threadgroup_variables(at, is_kernel, depth);
            }
            if token.is("static") && begins {
                let statement = tokens[at..close].iter().take_while(|token| !token.is_any(&[";", "="]));
                if !statement.clone().any(|token| token.is("constant")) {
                    let name = statement.filter(|token| token.is_identifier()).last();
                    let name = name.map_or(String::new(), |token| token.text.clone());
                    self.refuse(at, "static", format!("wants no static variable, got {name}"));
                }
            }
            depth += token.is("{") as usize;
            depth = depth.saturating_sub(token.is("}") as usize);
            begins = token.is_any(&[";", "{", "}", ":", ")"]) || token.kind == Kind::Directive;
        }
    }

    /// The `alignas` that ends before a token.
    fn alignas_before(&self, at: usize) -> Option<usize> {
        let tokens = &self.source.tokens;
        let from = at.saturating_sub(8);
        (from..at).rev().find(|&from| tokens[from].is("alignas") && close(tokens, from + 1) + 1 == at)
    }

    /// `threadgroup T a[n], b;`: each a reference to memory that the checker counts.
    fn threadgroup_variables(&mut self, at: usize, is_kernel: bool, depth: usize) {
        let tokens = &self.source.tokens;
        let end = (at..tokens.len()).find(|&at| tokens[at].is(";")).unwrap_or(tokens.len());
        let declaration = &tokens[at + 1..end];
        let initialised = declaration.iter().position(|token| token.is_any(&["=", "{"]));
        let declared = &declaration[..initialised.unwrap_or(declaration.len())];
        let dimensions = declared.iter().position(|token| token.is("[")).unwrap_or(declared.len());
        if declared[..dimensions].iter().any(|token| token.is_any(&["*", "&", "("])) {
            return;
        }
        let parts = split_commas(declared);
        let Some(first) = parts.first() else { return };
        let Some(split) = declarator(first) else { return };
        let (ty, mut result) = (text(&first[..split]), String::new());
        for (nth, part) in parts.iter().enumerate() {
            let part = if nth == 0 { &part[split..] } else { part };
            let Some(name) = part.first().map(|token| &token.text) else { continue };
            let dimensions = text(&part[1..]);
            result += &format!(
                "typedef {ty} softmetal_{name}{dimensions}; __local softmetal_{name}& {name} = \
                 softmetal::threadgroup_variable<softmetal_{name}>(); "
            );
        }
        let name = first[split].text.clone();
        if initialised.is_some() {
            let text = format!("wants threadgroup variables without an initialiser, got {name}");
            self.refuse(at, "threadgroup-variable", text);
        }
        if !is_kernel {
            let text = format!("wants threadgroup variables in kernels only, got {name}");
            self.refuse(at, "threadgroup-variable", text);
        } else if depth > 0 {
            let text = format!("wants threadgroup variables in the outermost scope of a kernel, got {name}");
            self.refuse(at, "nested-threadgroup-variable", text);
        }
        let begin = self.alignas_before(at).unwrap_or(at);
        self.erase(begin, (end + 1).min(tokens.len()));
        // The name's own token carries the text, as that is where problems are.
        self.edits[at + 1 + split].text = Some(result);
    }
}

/// Where the name of a declaration's variable stands: before its dimensions, or last.
fn declarator(tokens: &[Token]) -> Option<usize> {
    let mut at = 0;
    let mut name = None;
    while at < tokens.len() && !tokens[at].is("[") {
        if tokens[at].is("<") {
            at = close_angle(tokens, at)?;
        } else if tokens[at].is_identifier() {
            name = Some(at);
        }
        at += 1;
    }
    name.filter(|name| *name > 0)
}

/// A parameter's name, its attributes, and the words of its type.
fn parameter(tokens: &[Token]) -> Parameter {
    let (mut attributes, mut rest) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if attributes::begins(tokens, at) {
            let (found, end) = attributes::parse(tokens, at);
            attributes.extend(found);
            at = end;
        } else {
            rest.push(tokens[at].clone());
            at += 1;
        }
    }
    let end = rest.iter().position(|token| token.is_any(&["=", ";", "["])).unwrap_or(rest.len());
    let name = rest[..end].iter().rposition(Token::is_identifier).unwrap_or(0);
    let place = rest.get(name).or(tokens.first()).map(|token| token.place).unwrap_or_default();
    let word = rest.get(name).map_or(String::new(), |token| token.text.clone());
    let has = |marks: &[&str]| rest[..end].iter().any(|token| token.is_any(marks));
    let spaces: BTreeSet<_> = SPACES
        .iter()
        .map(|(space, ..)| *space)
        .filter(|space| rest.iter().any(|token| token.is(space)))
        .collect();
    let ty = text(&rest[..name.min(rest.len())]);
    Parameter { name: word, place, attributes, spaces, points: has(&["*", "&", "["]), ty }
}
