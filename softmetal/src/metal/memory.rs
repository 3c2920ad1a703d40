//! The memory of buffers. Each is mapped twice, once for the GPU and once for the host's `contents`, so that the host's
//! mapping can be taken away while a command buffer uses the memory: a host access that nothing orders after the
//! command buffer faults, is reported as a hazard, and goes on.
//!
//! The two mappings are two views of one sparse file, reserved whole and inaccessible (`arena`); a buffer is a run of
//! its pages made accessible, with inaccessible ones behind it, and it ends where they begin. So an access in the arena
//! outside of every buffer faults too. What is found is as fine as a page: no two buffers share one.
//!
//! A system call that is given protected memory, such as `write`, fails with `EFAULT` and is not reported.

mod arena;
mod fault;
mod line;

use crate::config::CONFIG;
use crate::exec::{Memory, memory::poison};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use fault::{Running, drain, running};

/// Who may use a buffer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMode {
    /// GPU and host.
    Shared,
    /// The GPU alone: there are no contents.
    Private,
}

/// A command buffer, as memory knows it: made at commit.
#[derive(Clone, Debug)]
pub struct Token {
    id: u64,
    name: Arc<str>,
}

impl Token {
    /// A new one; reports call it `name`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), name: name.into() }
    }
}

/// The memory of a buffer, freed when dropped.
pub struct Allocation {
    start: usize,
    contents: Option<NonNull<u8>>,
    memory: Arc<Memory>,
}

// SAFETY: what the addresses lead to is used as the program orders it, which is what is checked.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Memory that holds [poison], or zeros by the setting; none if there is not so much. Reports call it `label` and
    /// its length.
    pub fn new(length: usize, mode: StorageMode, label: impl Into<Arc<str>>) -> Option<Self> {
        Self::fresh(length, mode, label, CONFIG.zeros)
    }

    /// Memory that holds [poison] or zeros.
    pub fn fresh(length: usize, mode: StorageMode, label: impl Into<Arc<str>>, zeros: bool) -> Option<Self> {
        let allocation = Self::reserve(length, mode, label.into())?;
        if zeros {
            // Its pages are new to the file, or were punched out of it when they were given back.
            return Some(allocation);
        }
        let words = length / 8;
        let address = allocation.memory.address().cast::<u64>();
        for word in 0..words {
            // SAFETY: within the length, and aligned, since every allocation is to 16 bytes.
            unsafe { address.add(word).write(poison(word * 8)) };
        }
        let rest = &poison(words * 8).to_ne_bytes()[..length % 8];
        // SAFETY: the bytes after the last whole word.
        unsafe { rest.as_ptr().copy_to_nonoverlapping(address.add(words).cast(), rest.len()) };
        Some(allocation)
    }

    /// Memory that holds a copy of `bytes`.
    pub fn with_bytes(bytes: &[u8], mode: StorageMode, label: impl Into<Arc<str>>) -> Option<Self> {
        let allocation = Self::reserve(bytes.len(), mode, label.into())?;
        // SAFETY: as many bytes as were reserved, seen by nobody else yet.
        unsafe { bytes.as_ptr().copy_to_nonoverlapping(allocation.memory.address(), bytes.len()) };
        Some(allocation)
    }

    fn reserve(length: usize, mode: StorageMode, label: Arc<str>) -> Option<Self> {
        let arena = arena::get();
        let place = arena.allocate(length, mode, label.clone())?;
        // SAFETY: just mapped at the end of its pages; behind them nothing is, and before them only the first's rest.
        let memory = Arc::new(unsafe { Memory::new(place.gpu, length, label.to_string()) });
        let contents = (mode == StorageMode::Shared).then(|| NonNull::new(place.host)).flatten();
        Some(Self { start: place.start, contents, memory })
    }

    /// Where the host finds it; none if it is private. Aligned to 16 bytes, and to 256 if the length is a multiple.
    pub fn contents(&self) -> Option<NonNull<u8>> {
        self.contents
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.memory.length()
    }

    /// What kernels are given.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// What reports call it from now on.
    pub fn set_label(&self, label: impl Into<Arc<str>>) {
        let label = label.into();
        self.memory.rename(&label);
        arena::get().with(self.start, |entry| entry.label = label);
    }

    /// A command buffer that was committed reads it, or writes it too: until that is known to have completed, the host
    /// must not write it, or not use it at all. Uses nest.
    pub fn in_use(&self, write: bool, by: &Token) {
        arena::get().protect(self.start, |uses| uses.push((by.clone(), write)));
    }

    /// The host knows the command buffer to have completed.
    pub fn observed(&self, by: &Token) {
        arena::get().protect(self.start, |uses| uses.retain(|(token, _)| token.id != by.id));
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        arena::get().free(self.start);
    }
}
