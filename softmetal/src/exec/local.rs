//! Memory of the executor that kernels see: threadgroup memory, bytes of arguments, built-ins of threads.

use super::abi::{SLOT, Thread};
use super::memory::poison;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

/// Threads of a threadgroup at most.
pub(super) const MAX_THREADS: usize = 1024;
/// Bytes of threadgroup memory at most.
pub(super) const MAX_THREADGROUP_MEMORY: usize = 32 << 10;
/// Indices of buffers, and of threadgroup memory.
pub(super) const INDICES: usize = 32;

/// What kernels get pointers to and the checker lets them use.
#[repr(C)]
pub(super) struct Visible {
    pub threads: [Thread; MAX_THREADS],
    /// Values of lanes, by simdgroup.
    pub slots: [[[u8; SLOT]; 32]; MAX_THREADS / 32],
    pub buffers: [*mut c_void; INDICES],
    pub threadgroup: [*mut c_void; INDICES],
}

impl Visible {
    pub fn new() -> Box<Self> {
        let mut all = Box::<Self>::new_uninit();
        // SAFETY: numbers and pointers, which may be zero.
        unsafe {
            all.as_mut_ptr().write_bytes(0, 1);
            all.assume_init()
        }
    }
}

/// What an argument that is not bound points at: zeros that cannot be written.
const ZEROS: usize = 1 << 20;
const BYTES: usize = 1 << 20;
const THREADGROUP: usize = 8 << 20;
/// Between two things that are not one.
const GAP: usize = 1 << 10;

/// Mapped memory for arguments and threadgroup variables, with gaps between them.
pub(super) struct Local {
    base: *mut u8,
    bytes: usize,
    threadgroup: usize,
    variables: Vec<Variable>,
    poison: Vec<u64>,
}

/// A threadgroup variable.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    key: *const c_void,
    pub addresses: Range<usize>,
    pub name: String,
}

impl Local {
    pub fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let size = ZEROS + BYTES + THREADGROUP;
        // SAFETY: a new mapping.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert!(base != libc::MAP_FAILED, "threadgroup memory: {}", std::io::Error::last_os_error());
        // SAFETY: inside of the mapping.
        let set = unsafe { libc::mprotect(base, ZEROS, libc::PROT_READ) };
        assert!(set == 0, "threadgroup memory: {}", std::io::Error::last_os_error());
        Self { base: base.cast(), bytes: 0, threadgroup: 0, variables: Vec::new(), poison: Vec::new() }
    }

    /// Forgets what the last dispatch had.
    pub fn clear(&mut self) {
        self.bytes = GAP;
        self.threadgroup = GAP;
        self.variables.clear();
    }

    pub fn addresses(&self) -> Range<usize> {
        self.base as usize..self.base as usize + ZEROS + BYTES + THREADGROUP
    }

    pub fn zeros(&self) -> Range<usize> {
        self.base as usize..self.base as usize + ZEROS
    }

    /// As many zeros for each argument, to tell them apart.
    pub fn zeros_of(&self, index: usize) -> Range<usize> {
        let length = ZEROS / (2 * INDICES);
        let start = self.base as usize + (index + 1) * length;
        start..start + length
    }

    /// A copy of bytes, at an address that 256 divides.
    pub fn bytes(&mut self, bytes: &[u8]) -> Option<Range<usize>> {
        let start = self.bytes.next_multiple_of(256);
        self.bytes = start + bytes.len() + GAP;
        if self.bytes > BYTES {
            return None;
        }
        // SAFETY: inside of the mapping.
        let address = unsafe { self.base.add(ZEROS + start) };
        // SAFETY: as above, and nothing else is there.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address, bytes.len()) };
        Some(address as usize..address as usize + bytes.len())
    }

    /// The variable of a key.
    pub fn variable(&self, key: *const c_void) -> Option<&Variable> {
        self.variables.iter().find(|variable| variable.key == key)
    }

    /// Makes the variable of a key.
    pub fn make(&mut self, key: *const c_void, size: usize, align: usize, name: String) -> Option<Variable> {
        let start = self.threadgroup.next_multiple_of(align.max(16));
        if size > THREADGROUP || start + size + GAP > THREADGROUP {
            return None;
        }
        self.threadgroup = start + size + GAP;
        let start = self.base as usize + ZEROS + BYTES + start;
        let variable = Variable { key, addresses: start..start + size, name };
        self.poison(&variable);
        self.variables.push(variable.clone());
        Some(variable)
    }

    /// Bytes of all threadgroup variables.
    pub fn used(&self) -> usize {
        self.variables.iter().map(|variable| variable.addresses.len().next_multiple_of(16)).sum()
    }

    fn poison(&mut self, variable: &Variable) {
        let size = variable.addresses.len();
        let words = self.poison.len()..size.div_ceil(8);
        self.poison.extend(words.map(|i| poison(8 * i)));
        // SAFETY: the variable is inside of the mapping, the poison is at least as long.
        unsafe {
            ptr::copy_nonoverlapping(self.poison.as_ptr().cast(), variable.addresses.start as *mut u8, size)
        };
    }

    /// A threadgroup finds nothing of the one before it.
    pub fn poison_all(&mut self) {
        let variables = std::mem::take(&mut self.variables);
        variables.iter().for_each(|variable| self.poison(variable));
        self.variables = variables;
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no kernel runs.
        unsafe { libc::munmap(self.base.cast(), ZEROS + BYTES + THREADGROUP) };
    }
}
