//! Kernels in C++, compiled with the options that shaders are, and memory for them.

use softmetal::exec::abi::{KernelEntry, Runtime};
use softmetal::exec::{Argument, Context, Dispatch, Fault, Memory, memory, run};
use softmetal::msl::{Constants, Kernel, Library, Options};
use softmetal::report::{self, Kind, Report};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

/// The kernels of `kernels.cpp` and of `planted.metal`, by name.
static KERNELS: LazyLock<HashMap<String, Arc<Kernel>>> = LazyLock::new(compile);

/// `MTLDataTypeBool`.
const DATA_TYPE_BOOL: u32 = 53;

const OPTIONS: &str = "-std=c++17 -O1 -fPIC -fno-omit-frame-pointer -fmax-type-align=8 -fno-exceptions -fno-rtti \
    -fno-threadsafe-statics -fno-strict-aliasing -fwrapv -ffp-contract=off -fno-math-errno -fvisibility=hidden \
    -gline-tables-only -fsanitize=thread -mllvm -tsan-instrument-func-entry-exit=0 -shared --rtlib=compiler-rt \
    -Wl,-z,defs -Wl,-Bsymbolic -lm";

fn compile() -> HashMap<String, Arc<Kernel>> {
    let root = env!("CARGO_MANIFEST_DIR");
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("kernels.so");
    let status = Command::new("clang++-19")
        .args(OPTIONS.split_whitespace())
        .arg(format!("-I{root}/shim"))
        .arg(format!("{root}/tests/checker/kernels.cpp"))
        .arg("-o")
        .arg(&image)
        .status();
    assert!(status.expect("clang++-19").success());
    let path = CString::new(image.to_str().unwrap()).unwrap();
    let mut kernels = HashMap::new();
    // SAFETY: an image that has what the contract says, and is never unloaded.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!handle.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
        let runtime = libc::dlsym(handle, c"softmetal_runtime".as_ptr()).cast::<*const Runtime>();
        let mut entry = libc::dlsym(handle, c"softmetal_kernels".as_ptr()).cast::<KernelEntry>().cast_const();
        while !(*entry).name.is_null() {
            let name = CStr::from_ptr((*entry).name).to_str().unwrap().to_owned();
            kernels.insert(name, Arc::new(Kernel::new(&*entry, runtime, image.clone())));
            entry = entry.add(1);
        }
    }
    let library = Library::new(super::SHADERS, &Options::default()).unwrap();
    let mut constants = Constants::default();
    constants.by_index.insert(0, (DATA_TYPE_BOOL, vec![0]));
    for name in library.kernels() {
        let kernel = library.kernel(name, &constants).unwrap_or_else(|error| panic!("{name}: {error}"));
        kernels.insert(name.to_owned(), kernel);
    }
    // Reports read line numbers from it.
    std::mem::forget(directory);
    kernels
}

/// Memory that ends at a page that is not mapped, and begins as nobody has written it.
pub fn memory(length: usize, name: &str) -> Arc<Memory> {
    let space = 1 << 24;
    // SAFETY: a new mapping, that stays.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = libc::mmap(std::ptr::null_mut(), space, libc::PROT_NONE, flags, -1, 0).cast::<u8>();
        memory::add_arena(start as usize..start as usize + space);
        let pages = length.next_multiple_of(4096);
        let first = start.add(1 << 20);
        assert_eq!(libc::mprotect(first.cast(), pages, libc::PROT_READ | libc::PROT_WRITE), 0);
        let first = first.add(pages - length.next_multiple_of(16));
        for (i, byte) in std::slice::from_raw_parts_mut(first, length).iter_mut().enumerate() {
            *byte = memory::poison(i & !7).to_le_bytes()[i & 7];
        }
        Arc::new(Memory::new(first, length, name.into()))
    }
}

/// Memory with values that the host has written.
pub fn values<T: Copy>(values: &[T], name: &str) -> Arc<Memory> {
    let memory = memory(size_of_val(values), name);
    // SAFETY: as many bytes as it has.
    unsafe {
        std::ptr::copy_nonoverlapping(values.as_ptr(), memory.address().cast(), values.len());
    }
    memory
}

/// What a memory holds.
pub fn contents<T: Copy>(memory: &Memory) -> Vec<T> {
    // SAFETY: plain numbers, and nothing runs.
    unsafe { std::slice::from_raw_parts(memory.address().cast(), memory.length() / size_of::<T>()) }.to_vec()
}

/// A kernel and how it is run.
#[derive(Clone)]
pub struct Launch {
    pub kernel: &'static str,
    pub arguments: Vec<Option<Argument>>,
    pub threadgroup_memory: Vec<usize>,
    pub grid: [u32; 3],
    pub threadgroup: [u32; 3],
    pub check: bool,
}

/// A kernel on one threadgroup of 64 threads.
pub fn launch(kernel: &'static str, buffers: &[&Arc<Memory>]) -> Launch {
    let arguments = buffers.iter().map(|buffer| Some(Argument::Buffer((*buffer).clone(), 0))).collect();
    let (threadgroup_memory, grid, threadgroup) = (Vec::new(), [64, 1, 1], [64, 1, 1]);
    Launch { kernel, arguments, threadgroup_memory, grid, threadgroup, check: true }
}

impl Launch {
    pub fn grid(mut self, grid: u32, threadgroup: u32) -> Self {
        (self.grid, self.threadgroup) = ([grid, 1, 1], [threadgroup, 1, 1]);
        self
    }

    pub fn bytes<T>(mut self, value: T) -> Self {
        // SAFETY: a number.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
        self.arguments.push(Some(Argument::Bytes(bytes.into())));
        self
    }

    /// Runs it after commands that are ordered before it, or are not.
    pub fn run_after(&self, seed: u64, ordered: bool) -> (u64, Result<(), Fault>) {
        self.run_where(seed, &|_| ordered)
    }

    /// Runs it after commands of which some are ordered before it.
    pub fn run_where(&self, seed: u64, ordered: &dyn Fn(u64) -> bool) -> (u64, Result<(), Fault>) {
        let kernel = KERNELS.get(self.kernel).unwrap_or_else(|| panic!("no kernel {}", self.kernel)).clone();
        let command = command();
        let ordered = |command: u64, _: &Memory| ordered(command);
        let dispatch = Dispatch {
            kernel,
            arguments: self.arguments.clone(),
            threadgroup_memory: self.threadgroup_memory.clone(),
            grid: self.grid,
            threadgroup: self.threadgroup,
        };
        (command, run(&dispatch, &Context { command, seed, check: self.check, ordered: &ordered }))
    }

    pub fn run(&self, seed: u64) -> Result<(), Fault> {
        self.run_after(seed, true).1
    }

    /// Runs it with several seeds; nothing is wrong.
    pub fn is_clean(&self) {
        for seed in 0..4 {
            self.run(seed).unwrap();
            assert_eq!(report::take(), [], "{} with seed {seed}", self.kernel);
        }
    }

    /// Runs it with several seeds on fresh memory; each gives one report of that kind with all of these texts.
    pub fn reports(make: impl Fn() -> Self, kind: Kind, texts: &[&str]) {
        for seed in 0..4 {
            let launch = make();
            let result = launch.run(seed);
            let found = report::take();
            let all = |report: &Report| texts.iter().all(|text| report.to_string().contains(text));
            assert!(
                found.iter().all(|report| report.kind == kind) && found.iter().any(all),
                "{} with seed {seed}: wants {kind:?} with {texts:?}, got {found:#?}",
                launch.kernel
            );
            assert!(found.iter().all(|report| report.place == launch.kernel));
            assert_eq!(result.is_err(), kind == Kind::OutOfBounds);
        }
    }
}

/// A number for a command.
pub fn command() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Reports are the process's, so one test at a time has them.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    report::take();
    guard
}
