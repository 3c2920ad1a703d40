//! A Metal text as C++ for OpenCL: the few words and constructs that clang has no name for are rewritten token by
//! token, and each byte of the result knows the place that it comes from.

use super::kernels::{Kernel, Parameter};
use super::{Problem, restrictions};
use crate::msl::attributes;
use crate::msl::token::{Kind, Place, Text, Token, close_angle};
use std::collections::{BTreeMap, BTreeSet};

/// What clang reads, and what the text says of its kernels.
pub(super) struct Translation {
    pub text: String,
    pub source: Text,
    /// Where in `text` each token begins.
    marks: Vec<(usize, usize)>,
    pub kernels: Vec<Kernel>,
    /// Built-ins and function constants at program scope.
    pub globals: Vec<Parameter>,
    /// Variables of `softmetal::bytes` that say the sizes of parameters, and whose.
    pub sizes: BTreeMap<String, (String, Place)>,
    pub problems: Vec<Problem>,
}

impl Translation {
    /// The token that a byte of the translated text belongs to.
    pub fn token(&self, offset: usize) -> usize {
        let after = self.marks.partition_point(|(start, _)| *start <= offset);
        self.marks.get(after.saturating_sub(1)).map_or(0, |(_, token)| *token)
    }

    /// Where a byte of the translated text comes from.
    pub fn place(&self, offset: usize) -> Place {
        self.source.tokens.get(self.token(offset)).map(|token| token.place).unwrap_or_default()
    }

    /// As `place`, of a line and a column from one.
    pub fn place_at(&self, line: usize, column: usize) -> Place {
        let start = match line.checked_sub(2) {
            Some(nth) => self.text.match_indices('\n').nth(nth).map_or(self.text.len(), |(at, _)| at + 1),
            None => 0,
        };
        self.place(start + column - 1)
    }
}

/// Translates a preprocessed text.
pub(super) fn translate(source: Text) -> Translation {
    let mut translator = Translator {
        edits: vec![Edit::default(); source.tokens.len()],
        source: &source,
        kernels: Vec::new(),
        globals: Vec::new(),
        methods: BTreeSet::new(),
        read_only: BTreeSet::new(),
        host_names: BTreeSet::new(),
        sizes: BTreeMap::new(),
        problems: Vec::new(),
    };
    translator.tokens();
    translator.scope(0, source.tokens.len(), None);
    let (text, marks) = translator.write();
    let Translator { kernels, globals, sizes, mut problems, .. } = translator;
    problems.extend(restrictions::check(&source));
    Translation { text, marks, kernels, globals, sizes, problems, source }
}

/// What the names of variables begin with whose types say a parameter's size.
pub(super) const BYTES: &str = "softmetal_bytes_";

/// What becomes of one token.
#[derive(Clone, Default)]
pub(super) struct Edit {
    pub before: String,
    /// The token's text, if it changes.
    pub text: Option<String>,
    pub after: String,
}

pub(super) struct Translator<'a> {
    pub source: &'a Text,
    pub edits: Vec<Edit>,
    pub kernels: Vec<Kernel>,
    pub globals: Vec<Parameter>,
    /// Member functions of thread memory, by class and name.
    pub methods: BTreeSet<(String, String)>,
    /// Member functions of read-only device or constant memory, by class and declaration.
    pub read_only: BTreeSet<(String, String)>,
    /// As written, with their quotes.
    pub host_names: BTreeSet<String>,
    pub sizes: BTreeMap<String, (String, Place)>,
    pub problems: Vec<Problem>,
}

/// Metal's address spaces in OpenCL's words, as `strict/metal.h` explains them: before a type, and behind a member
/// function.
pub(super) const SPACES: [(&str, &str, &str); 4] = [
    ("device", "__attribute__((opencl_global_device))", "__global"),
    ("constant", "const __global", "const __global"),
    ("threadgroup", "__local", "__local"),
    ("thread", "__private", "__private"),
];

/// Words that OpenCL has and Metal has not, or has for something else.
const OPENCL: [&str; 16] = [
    "atomic_int",
    "atomic_uint",
    "atomic_long",
    "atomic_ulong",
    "atomic_float",
    "event_t",
    "queue_t",
    "sampler_t",
    "global",
    "local",
    "generic",
    "pipe",
    "read_only",
    "write_only",
    "read_write",
    "vec_step",
];

/// Whether a word names a vector type.
pub(super) fn is_vector(word: &str) -> bool {
    const ELEMENTS: [&str; 12] = [
        "bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "bfloat", "float",
    ];
    let Some(element) = word.strip_suffix(['2', '3', '4']) else { return false };
    ELEMENTS.contains(&element)
}

impl Translator<'_> {
    pub fn is(&self, at: usize, word: &str) -> bool {
        self.source.tokens.get(at).is_some_and(|token| token.is(word))
    }

    pub fn refuse(&mut self, at: usize, rule: &'static str, text: String) {
        let place = self.source.tokens.get(at).map(|token| token.place).unwrap_or_default();
        self.problems.push(Problem::new(self.source, place, rule, text));
    }

    pub fn erase(&mut self, from: usize, to: usize) {
        for edit in &mut self.edits[from..to] {
            *edit = Edit { text: Some(String::new()), ..Edit::default() };
        }
    }

    /// What is rewritten wherever it stands.
    fn tokens(&mut self) {
        let tokens = &self.source.tokens;
        let mut at = 0;
        while at < tokens.len() {
            let token = &tokens[at];
            if token.kind == Kind::Directive || token.is("kernel") {
                self.erase(at, at + 1);
            } else if attributes::begins(tokens, at) {
                let (_, end) = attributes::parse(tokens, at);
                self.erase(at, end.min(tokens.len()));
                at = end;
                continue;
            } else if let Some((_, space, _)) = SPACES.iter().find(|(word, ..)| token.is(word)) {
                self.edits[at].text = Some((*space).to_owned());
            } else if token.is_any(&OPENCL) && !(at > 0 && tokens[at - 1].is("::")) {
                self.edits[at].text = Some(format!("softmetal_{}", token.text));
            } else if token.is("static_cast") {
                self.static_cast(at);
            } else if token.is("typedef") {
                self.vector_typedef(at + 1);
            } else if token.is("template") && self.is(at + 1, "<") {
                self.function_parameters(at + 1);
            } else if token.is("(") {
                self.vector_cast(at);
            } else if token.kind == Kind::Number {
                let number = token.text.to_lowercase();
                if let Some(number) = number.strip_suffix("bf").filter(|_| !number.starts_with("0x")) {
                    self.edits[at].text = Some(format!("((bfloat){number}f)"));
                }
            } else if let Some(end) = self.vector(at)
                && self.is(end, "(")
                && !(at > 0 && tokens[at - 1].is_any(&["operator", "typename", "::"]))
            {
                self.edits[at].before += "softmetal::make<";
                self.edits[end - 1].after += ">";
            }
            at += 1;
        }
    }

    /// The end of a vector's type that begins here.
    fn vector(&self, at: usize) -> Option<usize> {
        let tokens = &self.source.tokens;
        let name = if self.is(at, "metal") && self.is(at + 1, "::") { at + 2 } else { at };
        let token = tokens.get(name).filter(|token| token.is_identifier())?;
        if is_vector(&token.text) {
            return Some(name + 1);
        }
        let is_template = token.is("vec") && self.is(name + 1, "<");
        is_template.then(|| close_angle(tokens, name + 1)).flatten().map(|end| end + 1)
    }

    /// `typedef vec<T, n> name;`: a vector of bool is none of OpenCL's, and has a class in `strict/metal.h`.
    fn vector_typedef(&mut self, at: usize) {
        let name = if self.is(at, "metal") { at + 2 } else { at };
        if self.is(name, "vec")
            && let Some(end) = self.vector(at)
        {
            self.erase(at, name);
            self.edits[name].text = Some("typename softmetal::any_vector".to_owned());
            self.edits[end - 1].after += "::type";
        }
    }

    /// `static_cast` of a vector goes element by element; of pointers and references it stays.
    fn static_cast(&mut self, at: usize) {
        let Some(end) = close_angle(&self.source.tokens, at + 1) else { return };
        if !self.source.tokens[at..end].iter().any(|token| token.is_any(&["*", "&", "void"])) {
            self.edits[at].text = Some("softmetal::cast".to_owned());
        }
    }

    /// `(float4)operand`, which in OpenCL is no conversion.
    fn vector_cast(&mut self, at: usize) {
        let tokens = &self.source.tokens;
        let is_value = |token: &Token| {
            token.is_any(&[")", "]", ">"])
                || (token.is_identifier() && !token.is_any(&["return", "case", "else", "do"]))
        };
        if at > 0 && is_value(&tokens[at - 1]) {
            return;
        }
        let begin = if self.is(at + 1, "const") { at + 2 } else { at + 1 };
        let Some(end) = self.vector(begin).filter(|end| self.is(*end, ")")) else { return };
        let operand = tokens.get(end + 1).is_some_and(|next| {
            matches!(next.kind, Kind::Identifier | Kind::Number)
                || next.is_any(&["(", "-", "+", "!", "~", "*", "&", "::", "++", "--"])
        });
        if operand {
            self.edits[at].text = Some("softmetal::conversion<".to_owned());
            self.edits[end].text = Some(">() ->* ".to_owned());
        }
    }

    /// `void (*f)(..)` as a parameter of a template: OpenCL's clang takes functions by reference only.
    fn function_parameters(&mut self, open: usize) {
        let tokens = &self.source.tokens;
        let Some(end) = close_angle(tokens, open) else { return };
        for at in open..end {
            if self.is(at, "(") && self.is(at + 1, "*") && self.is(at + 3, ")") && self.is(at + 4, "(") {
                self.edits[at + 1].text = Some("&".to_owned());
            }
        }
    }

    /// The text, and where each token's begins.
    fn write(&self) -> (String, Vec<(usize, usize)>) {
        let mut written = String::new();
        let mut marks = Vec::with_capacity(self.edits.len());
        let mut line = Place::default();
        for (at, (token, edit)) in self.source.tokens.iter().zip(&self.edits).enumerate() {
            if (token.place.file, token.place.line) != (line.file, line.line) {
                written.push('\n');
                line = token.place;
            } else if token.spaced || edit.text.is_some() || !edit.before.is_empty() {
                written.push(' ');
            }
            written += &edit.before;
            marks.push((written.len(), at));
            written += edit.text.as_ref().unwrap_or(&token.text);
            written += &edit.after;
        }
        written.push('\n');
        (written, marks)
    }
}
