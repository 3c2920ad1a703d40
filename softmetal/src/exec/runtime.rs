//! The functions that kernels call.

use super::abi::{Runtime, Site, Thread};
use super::executor::Executor;
use super::group::State;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

thread_local! {
    static CURRENT: Cell<*const Executor<'static>> = const { Cell::new(ptr::null()) };
}

/// The functions that a kernel's image is given.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: Runtime = Runtime {
        thread,
        barrier: barrier_trampoline,
        exchange: exchange_trampoline,
        threadgroup_variable,
        complain,
        access,
    };
    &RUNTIME
}

/// Makes an executor the one of this OS thread for as long as `f` runs.
pub(super) fn with_current<R>(executor: &Executor, f: impl FnOnce() -> R) -> R {
    struct Reset(*const Executor<'static>);
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _reset = Reset(CURRENT.replace(ptr::from_ref(executor).cast()));
    f()
}

/// The executor of this OS thread; `None` outside of kernels.
pub(super) fn current<'a>() -> Option<&'a Executor<'a>> {
    // SAFETY: set for as long as the executor is borrowed by `with_current`, which is when kernels run.
    unsafe { CURRENT.get().cast::<Executor<'a>>().as_ref() }
}

fn executor<'a>() -> &'a Executor<'a> {
    current().expect("a kernel is run by an executor")
}

unsafe extern "C" fn thread() -> *const Thread {
    executor().thread()
}

unsafe extern "C" fn threadgroup_variable(
    key: *const c_void,
    bytes: usize,
    align: usize,
    name: *const c_char,
    site: Site,
) -> *mut c_void {
    // SAFETY: a constant of the kernel's.
    let name = || unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    executor().threadgroup_variable(key, bytes, align, name, &site)
}

unsafe extern "C" fn complain(complaint: c_int, what: *const c_char, site: Site) {
    // SAFETY: a constant of the kernel's.
    let what = unsafe { CStr::from_ptr(what) }.to_string_lossy();
    executor().complain(complaint, &what, &site);
}

unsafe extern "C" fn access(address: *const c_void, bytes: usize, kind: c_int, pc: *const c_void) {
    if let Some(executor) = current() {
        executor.access(address as usize, bytes, kind, pc as usize);
    }
}

unsafe extern "C" fn barrier(scope: c_int, flags: c_int, site: Site, frame: usize) {
    let simdgroup = scope == super::abi::SCOPE_SIMDGROUP;
    let state = if simdgroup { State::SimdgroupBarrier } else { State::Barrier };
    executor().wait(state, site, frame, flags, ptr::null(), 0);
}

unsafe extern "C" fn exchange(
    value: *const c_void,
    size: u32,
    active: *mut u32,
    site: Site,
    frame: usize,
) -> *const c_void {
    let (slots, lanes) = executor().exchange(value.cast(), size, site, frame);
    // SAFETY: the kernel's variable.
    unsafe { *active = lanes };
    slots.cast()
}

// Kernels are compiled with frame pointers. These two add the address of a frame record to the arguments, from which
// the calls can be read that lead to a wait.

#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn barrier_trampoline(scope: c_int, flags: c_int, site: Site) {
    core::arch::naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "mov r8, rbp",
        "call {}",
        "pop rbp",
        "ret",
        sym barrier
    )
}

#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn exchange_trampoline(
    value: *const c_void,
    size: u32,
    active: *mut u32,
    site: Site,
) -> *const c_void {
    core::arch::naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "mov r9, rbp",
        "call {}",
        "pop rbp",
        "ret",
        sym exchange
    )
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn barrier_trampoline(scope: c_int, flags: c_int, site: Site) {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "mov x4, x29",
        "bl {}",
        "ldp x29, x30, [sp], #16",
        "ret",
        sym barrier
    )
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn exchange_trampoline(
    value: *const c_void,
    size: u32,
    active: *mut u32,
    site: Site,
) -> *const c_void {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "mov x5, x29",
        "bl {}",
        "ldp x29, x30, [sp], #16",
        "ret",
        sym exchange
    )
}
