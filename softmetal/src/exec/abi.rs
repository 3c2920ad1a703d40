//! What a compiled kernel and the executor know of each other: `shim/abi.h` in Rust.
#![allow(missing_docs)]

use std::ffi::{c_char, c_int, c_void};

/// Bytes that a lane has in what `exchange` returns.
pub const SLOT: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub file: *const c_char,
    pub line: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread {
    pub position_in_grid: [u32; 3],
    pub position_in_threadgroup: [u32; 3],
    pub threadgroup_in_grid: [u32; 3],
    pub threads_per_threadgroup: [u32; 3],
    pub dispatch_threads_per_threadgroup: [u32; 3],
    pub threads_per_grid: [u32; 3],
    pub threadgroups_per_grid: [u32; 3],
    pub index_in_threadgroup: u32,
    pub lane: u32,
    pub simdgroup: u32,
    pub simdgroups_per_threadgroup: u32,
}

pub const PARAM_BUFFER: c_int = 0;
pub const PARAM_THREADGROUP: c_int = 1;
pub const PARAM_BUILTIN: c_int = 2;
pub const PARAM_WRITES: c_int = 1;
pub const PARAM_UNUSED: c_int = 2;
pub const PARAM_CONSTANT: c_int = 4;

#[repr(C)]
#[derive(Debug)]
pub struct Param {
    pub name: *const c_char,
    pub kind: c_int,
    pub index: c_int,
    pub flags: c_int,
    pub size: u32,
    pub align: u32,
}

#[repr(C)]
#[derive(Debug)]
pub struct KernelEntry {
    pub name: *const c_char,
    pub params: *const Param,
    pub param_count: u32,
    pub max_threads: u32,
    pub run: unsafe extern "C" fn(*const *mut c_void, *const *mut c_void),
}

pub const SCOPE_THREADGROUP: c_int = 0;
pub const SCOPE_SIMDGROUP: c_int = 1;
pub const MEM_DEVICE: c_int = 1;
pub const MEM_THREADGROUP: c_int = 2;
pub const ACCESS_READ: c_int = 0;
pub const ACCESS_WRITE: c_int = 1;
pub const ACCESS_ATOMIC: c_int = 2;
pub const ACCESS_ATOMIC_READ: c_int = 3;
pub const ACCESS_ATOMIC_WRITE: c_int = 4;
pub const ACCESS_ALIGNED: c_int = 8;
pub const COMPLAINT_INACTIVE_LANE: c_int = 0;
pub const COMPLAINT_UNDEFINED: c_int = 1;

#[repr(C)]
pub struct Runtime {
    pub thread: unsafe extern "C" fn() -> *const Thread,
    pub barrier: unsafe extern "C" fn(c_int, c_int, Site),
    pub exchange: unsafe extern "C" fn(*const c_void, u32, *mut u32, Site) -> *const c_void,
    pub threadgroup_variable:
        unsafe extern "C" fn(*const c_void, usize, usize, *const c_char, Site) -> *mut c_void,
    pub complain: unsafe extern "C" fn(c_int, *const c_char, Site),
    pub access: unsafe extern "C" fn(*const c_void, usize, c_int, *const c_void),
}
