//! Runs kernels: threads as fibers, threadgroups in random order, each use of memory checked.
//!
//! A command (a dispatch, a blit, an operation of MPS) has a number and knows which earlier ones it is ordered after
//! ([`Context`]). The shadow of each [`Memory`] remembers who used which byte last, so that two commands that nothing
//! orders are found by the bytes that they share.

pub mod abi;
mod access;
mod check;
mod executor;
mod fiber;
mod findings;
mod group;
mod launch;
mod local;
pub mod memory;
mod order;
mod random;
mod runtime;
mod shadow;
mod source;
mod watch;

pub use launch::{run, touch};
pub use memory::Memory;
pub use order::Context;
pub use runtime::runtime;

use crate::msl::Kernel;
use std::sync::Arc;

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

/// Why a dispatch could not go on. It has been reported, and the memory holds what was written until then.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);
