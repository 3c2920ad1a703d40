//! Runs kernels: threads as fibers, threadgroups in random order, each use of memory checked.

pub mod abi;

use crate::msl::Kernel;
use std::sync::Arc;

/// Memory that kernels use: a buffer's, as the GPU sees it.
pub struct Memory {
    address: *mut u8,
    length: usize,
    name: String,
}

// SAFETY: kernels use the memory as the program orders them to, which is what is checked.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// The memory at an address of the GPU's, which is mapped as long as this lives; reports call it `name`.
    ///
    /// # Safety
    /// `length` bytes at `address` are mapped, and what lies before and after them on the pages beside is not.
    pub unsafe fn new(address: *mut u8, length: usize, name: String) -> Self {
        Self { address, length, name }
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// What reports call it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What is bound to an index.
#[derive(Clone)]
pub enum Argument {
    /// A buffer, from a byte offset on.
    Buffer(Arc<Memory>, usize),
    /// A copy of bytes that the program set.
    Bytes(Arc<[u8]>),
}

/// A kernel over a grid.
pub struct Dispatch {
    /// What runs.
    pub kernel: Arc<Kernel>,
    /// What is bound, by buffer index.
    pub arguments: Vec<Option<Argument>>,
    /// Bytes of threadgroup memory, by index.
    pub threadgroup_memory: Vec<usize>,
    /// Threads in each direction.
    pub grid: [u32; 3],
    /// Threads of a threadgroup in each direction.
    pub threadgroup: [u32; 3],
}

/// Why a dispatch could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);
