//! Metal Shading Language, from its text to a loaded kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a library is compiled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Fast math: here, which of `fast::` and `precise::` an unqualified function is.
    pub fast_math: bool,
    /// Preprocessor macros.
    pub macros: BTreeMap<String, String>,
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
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// A library's text, read and transformed.
pub struct Library {}

impl Library {
    /// Reads a text; nothing is compiled before a kernel is asked for.
    pub fn new(_source: &str, _options: &Options) -> Result<Self, CompileError> {
        Ok(Self {})
    }

    /// The names that its kernels are found by.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        [].into_iter()
    }

    /// A kernel, compiled and loaded.
    pub fn kernel(&self, name: &str, _constants: &Constants) -> Result<Arc<Kernel>, CompileError> {
        Err(CompileError(format!("no kernel {name}")))
    }
}

/// A compiled kernel.
pub struct Kernel {
    entry: &'static crate::exec::abi::KernelEntry,
}

// SAFETY: the entry is constant data of an image that is never unloaded.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The kernel of an entry.
    ///
    /// # Safety
    /// The entry and the code it points to are of an image that stays loaded, and as `shim/abi.h` says.
    pub unsafe fn new(entry: &'static crate::exec::abi::KernelEntry) -> Self {
        Self { entry }
    }

    /// Its entry in the image.
    pub fn entry(&self) -> &'static crate::exec::abi::KernelEntry {
        self.entry
    }
}
