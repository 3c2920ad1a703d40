//! What clang takes as C++ for OpenCL and Apple's compiler does not, or the dialect does not: read off clang's tree.

use super::Problem;
use super::clang::metal_words;
use super::kernels::BuiltIn;
use super::translate::{Translation, is_vector};
use super::tree::{Location, Node};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of threadgroup memory that every Apple GPU has.
const THREADGROUP_MEMORY: u64 = 32 << 10;

/// Bytes that `setBytes` takes.
const SET_BYTES: u64 = 4 << 10;

/// The spaces that types name, in clang's words.
const SPACES: [&str; 4] = ["__global_device ", "__global ", "__local ", "__private "];

/// Reads declarations in clang's order, as a place says its file only where it differs from the place before.
pub(super) struct Rules<'t> {
    translation: &'t Translation,
    /// Whether the place read last is in the text.
    ours: bool,
    /// Inside of so many members that the compiler has made.
    implicit: usize,
    /// At the object of a member function: one of device memory has OpenCL's larger space there.
    object: bool,
    /// The namespaces and classes that this is in.
    scope: Vec<String>,
    /// The types of kernels' parameters and of variables at program scope that are built-ins: by function and name.
    built_ins: BTreeMap<(&'t str, &'t str), (&'t str, BuiltIn)>,
    /// By a function's name and its type without address spaces: the type.
    overloads: BTreeMap<String, String>,
    calls: Calls,
    problems: Vec<Problem>,
}

/// Which function calls which, by the identity of the first declaration.
#[derive(Default)]
struct Calls {
    first: BTreeMap<String, String>,
    from: BTreeMap<String, BTreeSet<String>>,
    names: BTreeMap<String, (String, usize)>,
}

/// The function that is being read.
#[derive(Default)]
struct Function {
    id: String,
    name: String,
    /// Bytes of threadgroup memory that the scope has, and the most of any scope.
    threadgroup_memory: (u64, u64),
    /// Neither a template nor a member of one: what has no instances yet has no sizes.
    is_concrete: bool,
}

impl<'t> Rules<'t> {
    pub fn new(translation: &'t Translation) -> Self {
        let mut built_ins = BTreeMap::new();
        let kernels = translation.kernels.iter().map(|kernel| (kernel.name.as_str(), &kernel.parameters));
        for (function, parameters) in kernels.chain([("", &translation.globals)]) {
            for parameter in parameters {
                if let Some(built_in) = parameter.built_in() {
                    built_ins.insert((function, parameter.name.as_str()), built_in);
                }
            }
        }
        Self {
            translation,
            ours: false,
            implicit: 0,
            object: false,
            scope: Vec::new(),
            built_ins,
            overloads: BTreeMap::new(),
            calls: Calls::default(),
            problems: Vec::new(),
        }
    }

    /// Reads a declaration at the outermost level.
    pub fn read(&mut self, node: Node) {
        self.node(&node, None, false);
    }

    /// What was found.
    pub fn finish(mut self) -> Vec<Problem> {
        for (id, (name, offset)) in &self.calls.names {
            if self.calls.reaches(id) {
                let text = format!("wants no recursion, got {name}");
                let place = self.translation.place(*offset);
                self.problems.push(Problem::new(&self.translation.source, place, "recursion", text));
            }
        }
        self.problems
    }

    fn node(&mut self, node: &Node, function: Option<&mut Function>, template: bool) {
        let implicit = (node.is_implicit && node.kind.starts_with("CXX")) as usize;
        self.implicit += implicit;
        let place = self.follow(&node.loc);
        let begin = self.follow(&node.range.begin);
        let ours = self.ours;
        self.follow(&node.range.end);
        let begin = begin.or(place);
        let mut function = function;
        if ours
            && self.implicit == 0
            && let Some(begin) = begin
        {
            self.rules(node, begin, place.unwrap_or(begin), function.as_deref_mut());
        }
        self.object = false;
        match &*node.kind {
            "FunctionDecl" | "CXXMethodDecl" | "CXXConstructorDecl" | "CXXConversionDecl" => {
                self.function(node, place.unwrap_or_default(), ours, template);
            }
            "NamespaceDecl" | "CXXRecordDecl" | "ClassTemplateSpecializationDecl" => {
                self.scope.push(node.name.clone().into_owned());
                node.inner.iter().for_each(|inner| self.node(inner, None, template));
                self.scope.pop();
            }
            _ => {
                let template = template || node.kind == "FunctionTemplateDecl";
                let outer = function.as_ref().map_or(0, |function| function.threadgroup_memory.0);
                let object = match &*node.kind {
                    "MemberExpr" => Some(0),
                    "CXXOperatorCallExpr" if calls_member(node) => Some(1),
                    _ => None,
                };
                for (nth, inner) in node.inner.iter().enumerate() {
                    self.object = object == Some(nth);
                    self.node(inner, function.as_deref_mut(), template);
                }
                // Variables of scopes beside each other share memory.
                if let Some(function) = function.filter(|_| node.kind == "CompoundStmt") {
                    function.threadgroup_memory.0 = outer;
                }
            }
        }
        self.implicit -= implicit;
    }

    fn function(&mut self, node: &Node, place: usize, ours: bool, template: bool) {
        let is_instance = node.inner.iter().any(|inner| inner.kind == "TemplateArgument");
        let id = node.id.clone().into_owned();
        if !node.previous_decl.is_empty() {
            let first = self.calls.first(&node.previous_decl).to_owned();
            self.calls.first.insert(id.clone(), first);
        }
        let id = self.calls.first(&id).to_owned();
        if ours {
            self.calls.names.insert(id.clone(), (node.name.clone().into_owned(), place));
        }
        let mut own = Function {
            id,
            name: node.name.clone().into_owned(),
            is_concrete: is_instance || !template,
            ..Function::default()
        };
        node.inner.iter().for_each(|inner| self.node(inner, Some(&mut own), template));
        let (_, most) = own.threadgroup_memory;
        if most > THREADGROUP_MEMORY {
            let name = own.name + &template_arguments(node);
            let text = format!(
                "wants at most {THREADGROUP_MEMORY} bytes of threadgroup memory, got {most} in {name}"
            );
            self.refuse(place, "threadgroup-memory", text);
        }
    }

    /// Every file on the way; the byte of the text that the place is, or that its macro was used at.
    fn follow(&mut self, location: &Location) -> Option<usize> {
        if let Some(file) = &location.file {
            self.ours = *file == super::clang::STDIN;
        }
        let spelled = location.spelling_loc.as_ref().and_then(|location| self.follow(location));
        let expanded = location.expansion_loc.as_ref().and_then(|location| self.follow(location));
        location.offset.or(expanded).or(spelled)
    }

    fn rules(&mut self, node: &Node, begin: usize, place: usize, function: Option<&mut Function>) {
        let kind = &*node.kind;
        let ty = &*node.ty.qual_type;
        let cast = kind.ends_with("CastExpr") && kind != "ImplicitCastExpr";
        self.generic(node, cast, place);
        self.function_pointer(node, place);
        self.conversions(node, begin, cast);
        match kind {
            "VarDecl" => self.variable(node, begin, place, function),
            "ParmVarDecl" => {
                let name = function.as_ref().map_or("", |function| function.name.as_str());
                let concrete = function.as_ref().is_some_and(|function| function.is_concrete);
                if concrete {
                    self.built_in(name, node, place);
                }
            }
            "DeclRefExpr" => {
                if let (Some(function), Some(declared)) = (function, &node.referenced_decl)
                    && matches!(&*declared.kind, "FunctionDecl" | "CXXMethodDecl")
                {
                    self.calls.add(&function.id, &declared.id);
                }
            }
            "MemberExpr" => {
                if let Some(function) = function.filter(|_| !node.referenced_member_decl.is_empty()) {
                    self.calls.add(&function.id, &node.referenced_member_decl);
                }
            }
            "LambdaExpr" => self.refuse(begin, "lambda", "wants no lambda".to_owned()),
            "CXXRecordDecl" if !node.bases.is_empty() => {
                self.refuse(place, "derived-class", format!("wants no derived class, got {}", node.name));
            }
            "FunctionDecl" => self.overload(&node.name, ty, place),
            _ => {}
        }
    }

    /// Pointers and references that name no address space.
    fn generic(&mut self, node: &Node, cast: bool, place: usize) {
        let ty = &*node.ty.qual_type;
        let kind = &*node.kind;
        let declared = matches!(kind, "VarDecl" | "ParmVarDecl" | "FieldDecl") && !node.name.is_empty();
        let result = matches!(kind, "FunctionDecl" | "CXXMethodDecl")
            && ty.split('(').next().is_some_and(|result| result.contains("__generic"));
        let function = declared && points_to_function(node.ty.resolved());
        if (declared || cast || result) && ty.contains("__generic") && !function {
            let got = metal_words(ty);
            let name = if node.name.is_empty() { String::new() } else { format!("{} of type ", node.name) };
            self.refuse(
                place,
                "address-space",
                format!("wants an address space on each pointer and reference, got {name}{got}"),
            );
        }
    }

    /// Pointers to functions, other than as arguments of templates.
    fn function_pointer(&mut self, node: &Node, place: usize) {
        let declared =
            matches!(&*node.kind, "VarDecl" | "ParmVarDecl" | "FieldDecl") && !node.name.is_empty();
        let ty = node.ty.resolved();
        if declared && points_to_function(ty) {
            let text =
                format!("wants no pointers to functions, got {} of type {}", node.name, metal_words(ty));
            self.refuse(place, "function-pointer", text);
        }
    }

    /// A pointer to packed elements that becomes one to vectors, which are aligned.
    fn alignment(&mut self, node: &Node, operand: &Node, begin: usize) {
        let (to, from) = (&*node.ty.qual_type, &*operand.ty.qual_type);
        let packed = |ty: &str| ty.contains("packed_");
        let mut words = to.split(|c: char| !c.is_alphanumeric());
        if packed(from) && !packed(to) && to.ends_with('*') && words.any(is_vector) {
            let (to, from) = (metal_words(to), metal_words(from));
            self.refuse(
                begin,
                "alignment",
                format!("wants a pointer to packed elements, got {from} as {to}"),
            );
        }
    }

    /// Conversions between address spaces that are one in OpenCL, and to bfloat.
    fn conversions(&mut self, node: &Node, begin: usize, cast: bool) {
        let Some(operand) = node.inner.first() else { return };
        if cast {
            self.alignment(node, operand, begin);
        }
        let (to, from) = (node.ty.resolved(), operand.ty.resolved());
        if node.cast_kind == "AddressSpaceConversion" && !self.object {
            let both = [("__global_device", "__global "), ("__global ", "__global_device")];
            if both.iter().any(|(a, b)| from.contains(a) && to.contains(b) && !from.contains(b)) {
                let (from, to) = (metal_words(&operand.ty.qual_type), metal_words(&node.ty.qual_type));
                self.refuse(begin, "address-space", format!("wants {to}, got {from}"));
            } else if cast && SPACES.iter().any(|space| to.contains(space) && !from.contains(space)) {
                let (from, to) = (metal_words(&operand.ty.qual_type), metal_words(&node.ty.qual_type));
                self.refuse(
                    begin,
                    "address-space",
                    format!("wants a cast within one address space, got {from} to {to}"),
                );
            }
        }
        let last = |ty: &str| ty.rsplit(' ').next().unwrap_or_default().to_owned();
        if node.kind == "ImplicitCastExpr"
            && node.cast_kind == "FloatingCast"
            && !node.is_part_of_explicit_cast
            && last(to) == "__bf16"
        {
            self.refuse(
                begin,
                "implicit-bfloat",
                format!("wants T(..) where a bfloat is made, got a {}", last(from)),
            );
        }
    }

    fn variable(&mut self, node: &Node, begin: usize, place: usize, function: Option<&mut Function>) {
        if let Some((parameter, place)) = self.translation.sizes.get(&*node.name) {
            if let Some(bytes) = bytes_of(node.ty.resolved()).filter(|bytes| *bytes > SET_BYTES) {
                let text = format!(
                    "wants at most the {SET_BYTES} bytes that setBytes takes, got {bytes} of {parameter}"
                );
                self.problems.push(Problem::new(&self.translation.source, *place, "set-bytes", text));
            }
            return;
        }
        let Some(function) = function else {
            self.built_in("", node, place);
            if node.storage_class != "extern" && !self.says_constant(begin, place) {
                let text = format!("wants variables at program scope in constant memory, got {}", node.name);
                self.refuse(place, "program-scope", text);
            }
            return;
        };
        if let Some(bytes) = threadgroup_bytes(node) {
            let (now, most) = &mut function.threadgroup_memory;
            *now += bytes.next_multiple_of(16);
            *most = (*now).max(*most);
        }
    }

    /// Whether the declaration between two bytes has the word `constant`.
    fn says_constant(&self, begin: usize, end: usize) -> bool {
        let (begin, end) = (self.translation.token(begin), self.translation.token(end));
        self.translation.source.tokens[begin.min(end)..end].iter().any(|token| token.is("constant"))
    }

    fn built_in(&mut self, function: &str, node: &Node, place: usize) {
        let Some((attribute, built_in)) = self.built_ins.get(&(function, &*node.name)) else { return };
        let resolved = node.ty.resolved();
        let plain =
            SPACES.iter().fold(resolved.to_owned(), |ty, space| ty.replace(space, "")).replace("const ", "");
        if !built_in.takes(plain.trim()) {
            let (wants, got) = (built_in.wants(), metal_words(&node.ty.qual_type));
            self.refuse(place, "built-in", format!("wants {attribute} as {wants}, got {got}"));
        }
    }

    fn overload(&mut self, name: &str, ty: &str, place: usize) {
        let named = format!("{}::{name} {ty}", self.scope.join("::"));
        let without = SPACES.iter().fold(named, |text, space| text.replace(space, ""));
        let first = self.overloads.entry(without).or_insert_with(|| ty.to_owned());
        if first != ty {
            let text = format!("wants no overloads that differ only in address space, got two of {name}");
            self.refuse(place, "overload", text);
        }
    }

    fn refuse(&mut self, offset: usize, rule: &'static str, text: String) {
        let place = self.translation.place(offset);
        self.problems.push(Problem::new(&self.translation.source, place, rule, text));
    }
}

/// Whether an operator is a member of its first operand.
fn calls_member(node: &Node) -> bool {
    let callee = node.inner.first().and_then(|callee| callee.inner.first());
    let declared = callee.and_then(|callee| callee.referenced_decl.as_ref());
    declared.is_some_and(|declared| declared.kind == "CXXMethodDecl")
}

/// The size of a threadgroup variable, which the type of its initialiser's argument says (`strict/metal.h`).
fn threadgroup_bytes(node: &Node) -> Option<u64> {
    let argument = (node.kind == "CXXDefaultArgExpr").then(|| bytes_of(node.ty.resolved())).flatten();
    argument.or_else(|| node.inner.iter().find_map(threadgroup_bytes))
}

/// Whether a type is a pointer or a reference to a function, in clang's words: `void (*__private)(int)`.
fn points_to_function(ty: &str) -> bool {
    ty.contains(")(")
}

/// The arguments of a template's instance: ` <float, 32>` behind its name.
fn template_arguments(node: &Node) -> String {
    let arguments = node.inner.iter().filter(|inner| inner.kind == "TemplateArgument");
    let text = |argument: &Node| match &argument.value {
        Some(value) => value.to_string(),
        None => metal_words(&argument.ty.qual_type),
    };
    let arguments: Vec<_> = arguments.map(text).collect();
    if arguments.is_empty() { String::new() } else { format!("<{}>", arguments.join(", ")) }
}

/// The number in `softmetal::bytes<..>`.
fn bytes_of(ty: &str) -> Option<u64> {
    let (_, size) = ty.split_once("softmetal::bytes<")?;
    size.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Calls {
    fn first<'a>(&'a self, id: &'a str) -> &'a str {
        self.first.get(id).map_or(id, String::as_str)
    }

    fn add(&mut self, from: &str, to: &str) {
        let to = self.first(to).to_owned();
        self.from.entry(from.to_owned()).or_default().insert(to);
    }

    /// Whether a function calls itself, through others too.
    fn reaches(&self, id: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = self.from.get(id).into_iter().flatten().map(String::as_str).collect();
        while let Some(called) = next.pop() {
            if called == id {
                return true;
            }
            if seen.insert(called) {
                next.extend(self.from.get(called).into_iter().flatten().map(String::as_str));
            }
        }
        false
    }
}
