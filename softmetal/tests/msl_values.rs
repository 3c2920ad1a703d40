//! What the rewritten text computes: each kernel of `values.metal`, on one thread.

use softmetal::exec::abi::{Runtime, Site, Thread};
use softmetal::msl::{Constants, Library, Options};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::LazyLock;

static THREAD: Thread = Thread {
    position_in_grid: [1, 2, 3],
    position_in_threadgroup: [1, 2, 0],
    threadgroup_in_grid: [4, 5, 6],
    threads_per_threadgroup: [8, 4, 1],
    dispatch_threads_per_threadgroup: [8, 4, 1],
    threads_per_grid: [64, 64, 1],
    threadgroups_per_grid: [8, 16, 1],
    index_in_threadgroup: 17,
    lane: 17,
    simdgroup: 0,
    simdgroups_per_threadgroup: 1,
};

thread_local! {
    static VARIABLES: RefCell<HashMap<usize, Vec<u128>>> = RefCell::default();
}

unsafe extern "C" fn thread() -> *const Thread {
    &THREAD
}
unsafe extern "C" fn barrier(_: c_int, _: c_int, _: Site) {}
unsafe extern "C" fn exchange(_: *const c_void, _: u32, _: *mut u32, _: Site) -> *const c_void {
    unreachable!("one thread has nobody to exchange values with")
}
unsafe extern "C" fn variable(
    key: *const c_void,
    size: usize,
    align: usize,
    _: *const c_char,
    _: Site,
) -> *mut c_void {
    VARIABLES.with_borrow_mut(|variables| {
        let memory = variables.entry(key as usize).or_insert_with(|| vec![0; (size + align) / 16 + 1]);
        let start = memory.as_mut_ptr().cast::<u8>();
        start.wrapping_add(start.align_offset(align)).cast()
    })
}
unsafe extern "C" fn complain(_: c_int, _: *const c_char, _: Site) {}
unsafe extern "C" fn access(_: *const c_void, _: usize, _: c_int, _: *const c_void) {}

static RUNTIME: Runtime =
    Runtime { thread, barrier, exchange, threadgroup_variable: variable, complain, access };

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let mut options = Options::default();
    options.macros.insert("LIMIT".to_owned(), "(1 + 2)".to_owned());
    Library::new(include_str!("msl/values.metal"), &options).unwrap()
});

/// What a kernel writes to its first buffer.
fn run<const N: usize>(name: &str) -> [f32; N] {
    let kernel = LIBRARY.kernel(name, &Constants::default()).unwrap();
    // SAFETY: no other thread runs this kernel.
    unsafe { kernel.set_runtime(&RUNTIME) };
    let mut y = [-1.0f32; N];
    let mut others = [[1.0f32, 2.0, 3.0], [10.0, 20.0, 30.0]];
    let mut buffers: Vec<*mut c_void> = vec![y.as_mut_ptr().cast()];
    buffers.extend(others.iter_mut().map(|other| other.as_mut_ptr().cast::<c_void>()));
    // SAFETY: the kernel writes as many floats as the test says.
    unsafe { (kernel.entry().run)(buffers.as_ptr(), std::ptr::null()) };
    y
}

#[test]
fn literals() {
    let third = half::bf16::from_f32(1.0) / half::bf16::from_f32(3.0);
    let wanted =
        [half::f16::from_f32(0.1).to_f32(), third.to_f32(), 1.0, 8.0 + 10.0 + 30.0 + 2.0, 3.0, 1000.0];
    assert_eq!(run("literals"), wanted);
}

#[test]
fn constructors() {
    let b = [1.0f32, 2.0, 3.0, 4.0];
    let c = [5.0f32, 6.0, 7.0, 8.0];
    let d = [3.0, 4.0, 1.0, 2.0];
    let f = [1.0, 2.0, 3.0, 0.0];
    let g = [3.5, 4.0, 0.0, 0.0];
    let sum = |k: usize| b[k] + c[k] + d[k] + 9.0 + b[k] + (b[k] + 1.0) + c[k] / 2.0 + f[k] + g[k];
    assert_eq!(run("constructors"), [sum(0), sum(1), sum(2), sum(3), 6.0, 255.0 - 128.0, 3.0]);
}

#[test]
fn casts() {
    let y: [f32; 22] = run("casts");
    let converted = [2.5, 4.5, 5.0, 7.0];
    assert_eq!(y[..12], [converted, converted, converted].concat());
    let third = half::bf16::from_f32(3.3333).to_f32();
    assert_eq!(y[12..16], [1.0, third, 1.0, 2.0]);
    assert_eq!(y[16..], [1.25, 4.0, 4.0, -5.75, 9.0, 4.0]);
}

#[test]
fn spaces() {
    assert_eq!(run("spaces"), [2.0, 6.0 + 30.0 + 3.0, 8.5, 2.0, 12.0, 0.0, 1.0]);
}

#[test]
fn instantiations() {
    assert_eq!(run("instantiations"), [6.0, 12.0, 10.0]);
    // Three instantiations have three variables.
    let sizes: Vec<usize> = VARIABLES.with_borrow(|variables| variables.values().map(Vec::len).collect());
    assert_eq!(sizes.len(), 3);
}

#[test]
fn built_ins() {
    assert_eq!(run("built_ins"), [35.0, 9.0, 2.0, 13.0, 321.0 + 17.0, 64.0, 72.0]);
}

#[test]
fn classes() {
    assert_eq!(run("classes"), [1.0, 11.0, 5.0, 2.0 + 3.0 + 2.0, f32::INFINITY, 3.0]);
}
