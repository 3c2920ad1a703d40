//! Metal Shading Language, from its text to a loaded kernel.
//!
//! A text is preprocessed by clang, rewritten token by token as C++ against the headers of `shim/`, and compiled by
//! clang: one kernel at a time, when it is first asked for, since a library can have hundreds. Images are kept on disk.
//! What is not known (textures, vertex functions, an attribute that nobody has heard of) is refused by its name.

pub(crate) mod attributes;
mod emit;
mod image;
pub(crate) mod items;
mod kernels;
mod program;
mod shim;
mod statements;
mod storage;
pub(crate) mod token;
pub(crate) mod toolchain;
mod values;

pub use image::Kernel;

use crate::config::CONFIG;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use toolchain::{Mode, toolchain};

/// What a library is compiled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Fast math: here, which of `fast::` and `precise::` an unqualified function is.
    pub fast_math: bool,
    /// Preprocessor macros.
    pub macros: BTreeMap<String, String>,
    /// `MTLLanguageVersion`, the major version in its upper half; 3.2 where it is not set.
    pub language_version: Option<u32>,
}

/// Values of function constants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Constants {
    /// By index: `MTLDataType` and bytes.
    pub by_index: BTreeMap<u32, (u32, Vec<u8>)>,
    /// By name.
    pub by_name: BTreeMap<String, (u32, Vec<u8>)>,
}

/// Why a text is no library or a kernel no pipeline: what the compiler says, each line with its place in the text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// A library's text, read and transformed.
pub struct Library {
    program: program::Program,
    mode: Mode,
    kernels: Mutex<HashMap<(String, Constants), Arc<Kernel>>>,
}

impl Library {
    /// Reads a text; nothing is compiled before a kernel is asked for.
    pub fn new(source: &str, options: &Options) -> Result<Self, CompileError> {
        let text = toolchain()?.preprocess(source, &options.definitions())?;
        Ok(Self {
            program: program::read(token::read(&text)?)?,
            mode: Mode { fast_math: options.fast_math, check: CONFIG.check },
            kernels: Mutex::default(),
        })
    }

    /// The names that its kernels are found by.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.program.exports.iter().map(|export| export.name.as_str())
    }

    /// Reads the whole text as a compiler does, and says what is wrong with any of its kernels.
    pub fn check(&self) -> Result<(), CompileError> {
        toolchain()?.check(&self.program.emit_all()?, self.mode)
    }

    /// A kernel, compiled and loaded.
    pub fn kernel(&self, name: &str, constants: &Constants) -> Result<Arc<Kernel>, CompileError> {
        let Some(export) = self.program.exports.iter().find(|export| export.name == name) else {
            return Err(CompileError(format!(
                "kernel `{name}`: wants a function of the library, got no such name"
            )));
        };
        let key = (name.to_owned(), constants.clone());
        let mut kernels = self.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(kernel) = kernels.get(&key) {
            return Ok(kernel.clone());
        }
        let source = self.program.emit(export, constants)?;
        let toolchain = toolchain()?;
        let file = toolchain::hash([toolchain.identity(self.mode).as_str(), &source.text]);
        let path = CONFIG.cache.join("kernels").join(format!("{file}.so"));
        let kernel = Arc::new(image::load(&path, || toolchain.compile(&source, self.mode, &path))?);
        kernels.insert(key, kernel.clone());
        Ok(kernel)
    }

    /// The C++ that a kernel becomes, for those who want to see it.
    pub fn text(&self, name: &str, constants: &Constants) -> Result<String, CompileError> {
        match self.program.exports.iter().find(|export| export.name == name) {
            Some(export) => Ok(self.program.emit(export, constants)?.text),
            None => Err(CompileError(format!(
                "kernel `{name}`: wants a function of the library, got no such name"
            ))),
        }
    }
}

impl Options {
    fn definitions(&self) -> Vec<String> {
        let version = self.language_version.unwrap_or(3 << 16 | 2);
        let version = (version >> 16) * 100 + (version & 0xffff) * 10;
        let mut definitions = vec![
            format!("-D__METAL_VERSION__={version}"),
            "-D__METAL__=1".to_owned(),
            "-D__METAL_MACOS__=1".to_owned(),
            "-D__clang__=1".to_owned(),
        ];
        if version >= 310 {
            definitions.push("-D__HAVE_BFLOAT__=1".to_owned());
        }
        if self.fast_math {
            definitions.push("-D__FAST_MATH__=1".to_owned());
        }
        definitions.extend(self.macros.iter().map(|(name, value)| format!("-D{name}={value}")));
        definitions
    }
}
