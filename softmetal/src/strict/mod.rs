//! Metal text, read with the rules of Apple's compiler that clang can check: C++ for OpenCL has the same address
//! spaces, and most of the same restrictions.
//!
//! A text is preprocessed, translated token by token (`translate`), compiled by clang against declarations of
//! `<metal_stdlib>` (`strict/metal.h`), and the tree that clang makes of it is read for what OpenCL allows and Metal
//! does not (`rules`). Each problem stands at its place in the Metal text. Textures, samplers, vertex and fragment
//! functions, and pointers to functions other than as arguments of templates are not read: they are refused.

mod clang;
mod declarations;
mod kernels;
mod restrictions;
mod rules;
mod translate;
mod tree;

use crate::msl::token::{self, Place, Text};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Version 3.2 of the language, of macOS 15.
const METAL_VERSION: &str = "320";

/// The rules of the dialect alone.
const DIALECT: [&str; 8] = [
    "derived-class",
    "implicit-bfloat",
    "lambda",
    "member-function",
    "nested-threadgroup-variable",
    "overload",
    "recursion",
    "set-bytes",
];

/// What is checked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What problems call the text, where no `#line` says otherwise; `program_source` if empty.
    pub name: String,
    /// Preprocessor macros.
    pub macros: BTreeMap<String, String>,
    /// Directories of `#include "..."`.
    pub include: Vec<PathBuf>,
    /// Also what Metal takes and a text that is to be CUDA's too has not: overloads that differ only in address space,
    /// member functions of other than thread memory, floats that become bfloats without a conversion, `threadgroup`
    /// variables in inner scopes, parameters of more than the 4 KiB that `setBytes` takes, recursion, lambdas, derived
    /// classes.
    pub dialect: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as the text's `#line`s have it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1; macros are expanded before columns are counted.
    pub column: u32,
    /// The rule's name.
    pub rule: &'static str,
    /// What the rule wants, and what it got.
    pub text: String,
}

impl Problem {
    fn new(source: &Text, place: Place, rule: &'static str, text: String) -> Self {
        let file = source.files.get(place.file as usize).cloned().unwrap_or_default();
        Self { file, line: place.line, column: place.column, rule, text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.rule, self.text)
    }
}

/// What is wrong with a text, in the order of its lines.
pub fn check(source: &str, options: &Options) -> Vec<Problem> {
    let named = || if options.name.is_empty() { "program_source".to_owned() } else { options.name.clone() };
    let mut problems = read(source, options).unwrap_or_else(|problems| problems);
    for problem in &mut problems {
        if problem.file.is_empty() || problem.file == clang::STDIN {
            problem.file = named();
        }
    }
    problems.retain(|problem| options.dialect || !DIALECT.contains(&problem.rule));
    problems.sort();
    // One line of a template is read once for each of its instances.
    problems.dedup_by(|a, b| (&a.file, a.line, a.column, a.rule) == (&b.file, b.line, b.column, b.rule));
    problems
}

/// All problems; those that keep the text from being read further are an error.
fn read(source: &str, options: &Options) -> Result<Vec<Problem>, Vec<Problem>> {
    let failed =
        |text: String| vec![Problem { file: String::new(), line: 1, column: 1, rule: "compiler", text }];
    let clang = clang::Clang::get().map_err(|e| failed(e.clone()))?;
    let preprocessed = clang.preprocess(source, options)?;
    let text = token::read(&preprocessed).map_err(|e| failed(e.to_string()))?;
    let translation = translate::translate(text);
    let mut problems = translation.problems.clone();
    problems.extend(kernels::check(&translation.source, &translation.kernels, &translation.globals));
    let (tree, errors) = clang.compile(&translation).map_err(failed)?;
    if !errors.is_empty() {
        problems.extend(errors);
        return Err(problems);
    }
    let mut rules = rules::Rules::new(&translation);
    tree::read(&tree, |node| rules.read(node)).map_err(|e| failed(format!("clang's tree: {e}")))?;
    problems.extend(rules.finish());
    Ok(problems)
}

/// What is wrong with each of many files, by several threads; a file that cannot be read is a problem too.
pub fn check_files(files: &[PathBuf], options: &Options) -> Vec<Problem> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = file.display().to_string();
                    let include =
                        options.include.iter().cloned().chain(file.parent().map(PathBuf::from)).collect();
                    let options = Options { name: name.clone(), include, ..options.clone() };
                    let problems = match std::fs::read_to_string(file) {
                        Ok(text) => check(&text, &options),
                        Err(e) => vec![Problem {
                            file: name,
                            line: 1,
                            column: 1,
                            rule: "file",
                            text: e.to_string(),
                        }],
                    };
                    found.lock().unwrap_or_else(|e| e.into_inner()).extend(problems);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.sort();
    found
}
