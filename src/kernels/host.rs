//! The GPU kernels as C++ on the CPU: `METAL_CANDLE_KERNELS=host` makes every op on a CPU tensor take its GPU path.
//!
//! For tests on machines without a GPU. A unit is compiled by `c++` when it is first used.

use super::gpu::{Arg, Buffer, Key, Launch, Operand, source};
use super::{Input, Memory, cache, cpu, for_dtype};
use crate::kernels::gemm::{Mat, gemm_f32};
use candle_core::{CpuStorage, Error, Result, Storage, bail};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::{env, fs, process};

/// Whether kernels take the place of the CPU's code.
pub(crate) fn on() -> bool {
    static ON: LazyLock<bool> =
        LazyLock::new(|| env::var("METAL_CANDLE_KERNELS").is_ok_and(|value| value == "host"));
    *ON
}

/// Addresses of a kernel and of the function that runs it in threads.
#[derive(Clone, Copy)]
struct Loaded {
    kernel: usize,
    run: usize,
}

static LOADED: LazyLock<Mutex<HashMap<Key, Loaded>>> = LazyLock::new(Default::default);

fn load(launch: &Launch<'_>) -> Result<Loaded> {
    show(launch)?;
    let text = source(include_str!("host.h"), launch)?;
    let key = format!("c++ {}\n{text}", env::var("CXXFLAGS").unwrap_or_default());
    let code = match cache::get(&key, "so") {
        Some(code) => code,
        None => {
            let code = compile(launch, &text)?;
            cache::put(&key, "so", &code);
            code
        }
    };
    // A library is loaded by its path, which no other may have had.
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = env::temp_dir().join(format!("metal-candle-{}-{count}.so", process::id()));
    fs::write(&path, code).map_err(Error::wrap)?;
    let file = CString::new(path.as_os_str().as_encoded_bytes()).map_err(Error::wrap)?;
    let entry = CString::new(launch.entry).map_err(Error::wrap)?;
    // SAFETY: the library is our own; it runs no code when it is loaded, and is never unloaded.
    let loaded = unsafe {
        let library = libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        fs::remove_file(&path).ok();
        if library.is_null() {
            bail!("{}: cannot load what c++ made of it", launch.unit.name)
        }
        let kernel = libc::dlsym(library, entry.as_ptr()) as usize;
        Loaded { kernel, run: libc::dlsym(library, c"host_launch".as_ptr()) as usize }
    };
    match loaded.kernel != 0 && loaded.run != 0 {
        true => Ok(loaded),
        false => bail!("{}: has no kernel {}", launch.unit.name, launch.entry),
    }
}

/// Writes the texts that Metal and CUDA would compile to files, for `scripts/metal.sh` and `scripts/nvrtc.sh`.
fn show(launch: &Launch<'_>) -> Result<()> {
    let Some(directory) = env::var_os("METAL_CANDLE_SHADERS") else { return Ok(()) };
    let directory = Path::new(&directory);
    let unit = launch.unit.name.replace(['/', '\\'], "-");
    let write = |dialect, extension| {
        let text = source(dialect, launch)?;
        let file = format!("{unit}-{:08x}.{extension}", crc32fast::hash(text.as_bytes()));
        fs::write(directory.join(file), text).map_err(Error::wrap)
    };
    if !unit.ends_with(".metal.h") {
        write(include_str!("cuda.h"), "cu")?;
    }
    if !unit.ends_with(".cuda.h") {
        write(include_str!("metal.h"), "metal")?;
    }
    Ok(())
}

fn compile(launch: &Launch<'_>, text: &str) -> Result<Vec<u8>> {
    let path = env::temp_dir().join(format!("metal-candle-{}-compile.so", process::id()));
    let source = path.with_extension("cpp");
    fs::write(&source, text).map_err(Error::wrap)?;
    let out = Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"])
        .args(env::var("CXXFLAGS").unwrap_or_default().split_whitespace())
        .arg("-o")
        .args([&path, &source])
        .output()
        .map_err(Error::wrap)?;
    fs::remove_file(&source).ok();
    if !out.status.success() {
        bail!("{}: {}", launch.unit.name, String::from_utf8_lossy(&out.stderr))
    }
    let code = fs::read(&path).map_err(Error::wrap);
    fs::remove_file(path).ok();
    code
}

pub(super) fn launch(launch: &Launch<'_>, args: &mut [Arg<'_>], params: &[u8]) -> Result<()> {
    // What only CUDA runs is shown all the same.
    if launch.unit.name.ends_with(".cuda.h") {
        return show(launch);
    }
    let mut pointers = Vec::with_capacity(args.len() + 1);
    for arg in args {
        pointers.push(match arg {
            Arg::In(input) | Arg::Update(input) => read(input)?,
            Arg::Out(buffer) => write(buffer)?,
            Arg::Null => std::ptr::null_mut(),
        });
    }
    pointers.push(params.as_ptr().cast_mut().cast());
    // Fibers and group memory are the library's own statics: one launch at a time.
    let mut all = LOADED.lock().unwrap_or_else(|e| e.into_inner());
    let key = Key::new(launch);
    let loaded = match all.get(&key) {
        Some(loaded) => *loaded,
        None => {
            let loaded = load(launch)?;
            all.insert(key, loaded);
            loaded
        }
    };
    type Run = extern "C" fn(usize, *const u32, u32, *const *mut c_void, u32);
    // SAFETY: it is `host_launch` of host.h.
    let run: Run = unsafe { std::mem::transmute(loaded.run) };
    let groups = launch.groups.map(|n| n as u32);
    run(loaded.kernel, groups.as_ptr(), launch.threads as u32, pointers.as_ptr(), pointers.len() as u32);
    Ok(())
}

macro_rules! address {
    ($storage:expr, $offset:expr, $as_ptr:ident) => {
        match $storage {
            CpuStorage::F32(data) => data[$offset..].$as_ptr() as *mut c_void,
            CpuStorage::F16(data) => data[$offset..].$as_ptr() as *mut c_void,
            CpuStorage::BF16(data) => data[$offset..].$as_ptr() as *mut c_void,
            CpuStorage::U32(data) => data[$offset..].$as_ptr() as *mut c_void,
            CpuStorage::U8(data) => data[$offset..].$as_ptr() as *mut c_void,
            CpuStorage::I64(data) => data[$offset..].$as_ptr() as *mut c_void,
            _ => bail!("host kernels: want f32, f16, bf16, u32, u8 or i64"),
        }
    };
}

fn read(input: &Input<'_>) -> Result<*mut c_void> {
    let Memory::Cpu(storage) = input.memory else { bail!("{}: wants its tensors on the CPU", input.op) };
    Ok(address!(storage, input.layout.start_offset(), as_ptr))
}

/// The address of an input's first element.
pub(super) fn address(input: &Input<'_>) -> Result<u64> {
    Ok(read(input)? as u64)
}

fn write(buffer: &mut Buffer) -> Result<*mut c_void> {
    let Storage::Cpu(storage) = &mut buffer.storage else { bail!("host kernels: want memory on the CPU") };
    Ok(address!(storage, 0, as_mut_ptr))
}

/// See `Gpu::product`.
#[allow(clippy::too_many_arguments, reason = "BLAS has them")]
pub(super) fn product(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &Operand<'_>,
    b: &Operand<'_>,
    beta: f32,
    c: &mut Buffer,
    at: usize,
) -> Result<()> {
    let wide = |x: &Operand<'_>| for_dtype!("matmul", x.x.dtype(), T => Ok(cpu::to_f32(x.x.strided::<T>()?)));
    let (a_data, b_data) = (wide(a)?, wide(b)?);
    let mat = |data, x: &Operand<'_>| {
        let rows = Mat::rows(data, x.stride);
        if x.transposed { rows.t() } else { rows }
    };
    let mut sum = vec![0f32; m * n];
    gemm_f32((m, n, k), alpha, mat(&a_data, a), mat(&b_data, b), false, &mut sum, n, 0);
    let Storage::Cpu(storage) = &mut c.storage else { bail!("host kernels: want memory on the CPU") };
    fn store<T: super::element::Element>(c: &mut [T], sum: &[f32], beta: f32) {
        for (c, s) in c.iter_mut().zip(sum) {
            *c = T::from_f32(if beta == 0.0 { *s } else { s + beta * c.to_f32() });
        }
    }
    match storage {
        CpuStorage::F32(c) => store(&mut c[at..at + m * n], &sum, beta),
        CpuStorage::F16(c) => store(&mut c[at..at + m * n], &sum, beta),
        CpuStorage::BF16(c) => store(&mut c[at..at + m * n], &sum, beta),
        _ => bail!("matmul: wants f32, f16 or bf16"),
    }
    Ok(())
}
