//! From a kernel's source to a loaded module: from disk, else through NVRTC.

use super::super::cache;
use super::super::gpu::Launch;
use candle_core::cuda_backend::cudarc::driver::sys::cuDriverGetVersion;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaModule};
use candle_core::cuda_backend::cudarc::nvrtc::{Ptx, result as nvrtc, sys};
use candle_core::{Error, Result, bail};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Code that was compiled ahead and not yet loaded, by its source's key.
static AHEAD: LazyLock<Mutex<HashMap<String, Vec<u8>>>> = LazyLock::new(Default::default);

/// A unit's text, and how it is compiled.
pub(super) struct Source {
    name: &'static str,
    text: String,
    options: Vec<String>,
}

impl Source {
    pub fn new(context: &Arc<CudaContext>, text: String, launch: &Launch<'_>) -> Result<Self> {
        let (major, minor) = context.compute_capability().map_err(Error::wrap)?;
        // `device::cuda` refuses such a GPU; `Device::new_cuda` does not.
        if major < 8 {
            bail!("cuda: wants a GPU of compute capability 8.0 or more, got {major}.{minor}")
        }
        let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".into()];
        if launch.unit.fast_math {
            options.push("--use_fast_math".into());
        }
        Ok(Source { name: launch.unit.name, text, options })
    }

    /// What its code depends on.
    fn key(&self) -> String {
        format!("{}\n{:?} {}\n{}", self.name, self.options, versions(), self.text)
    }
}

/// Compiles a source that is not on disk, for [`module`] to find.
pub(super) fn keep(source: Source) {
    let key = source.key();
    if cache::get(&key, "cubin").is_none()
        && let Ok(code) = compile(&source)
    {
        cache::put(&key, "cubin", &code);
        AHEAD.lock().unwrap_or_else(PoisonError::into_inner).insert(key, code);
    }
}

pub(super) fn module(context: &Arc<CudaContext>, source: &Source) -> Result<Arc<CudaModule>> {
    let key = source.key();
    let load = |code: Vec<u8>| context.load_module(Ptx::from_binary(code));
    let ahead = AHEAD.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    if let Some(module) = ahead.or_else(|| cache::get(&key, "cubin")).and_then(|code| load(code).ok()) {
        return Ok(module);
    }
    let code = compile(source)?;
    let module = load(code.clone()).map_err(|e| Error::Msg(format!("{}: {e:?}", source.name)))?;
    cache::put(&key, "cubin", &code);
    Ok(module)
}

/// Of NVRTC and the driver.
fn versions() -> String {
    let (mut major, mut minor, mut driver) = (0, 0, 0);
    // SAFETY: all three are valid for writing.
    let known = unsafe { (sys::nvrtcVersion(&mut major, &mut minor), cuDriverGetVersion(&mut driver)) };
    format!("nvrtc {major}.{minor} driver {driver} {known:?}")
}

fn compile(Source { name, text, options }: &Source) -> Result<Vec<u8>> {
    let failed = |e| Error::Msg(format!("{name}: {e:?}"));
    let (text, file) =
        (CString::new(text.as_str()).map_err(Error::wrap)?, CString::new(*name).map_err(Error::wrap)?);
    let program = Program(nvrtc::create_program(&text, Some(&file)).map_err(failed)?);
    // SAFETY: the program is alive.
    let mut compiled = unsafe { nvrtc::compile_program(program.0, options) };
    if compiled.as_ref().is_err_and(|e| e.0 == sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION) {
        // A GPU newer than this NVRTC: the driver finishes the work.
        let mut options = options.clone();
        options[0] = "--gpu-architecture=compute_80".into();
        // SAFETY: as above.
        compiled = unsafe { nvrtc::compile_program(program.0, &options) };
        if compiled.is_ok() {
            // SAFETY: the program has been compiled.
            let ptx = unsafe { nvrtc::get_ptx(program.0) }.map_err(failed)?;
            return Ok(bytemuck::cast_slice(&ptx).to_vec());
        }
    }
    if let Err(e) = compiled {
        // SAFETY: the program is alive, and the log ends with a zero.
        let log = unsafe { nvrtc::get_program_log(program.0) }.map_err(failed)?;
        // SAFETY: as above.
        let log = unsafe { CStr::from_ptr(log.as_ptr()) };
        bail!("{name}: {e:?}: {}", log.to_string_lossy())
    }
    let mut size = 0;
    // SAFETY: the program has been compiled for a real architecture, and `code` has the size it says.
    unsafe {
        sys::nvrtcGetCUBINSize(program.0, &mut size).result().map_err(failed)?;
        let mut code = vec![0u8; size];
        sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()).result().map_err(failed)?;
        Ok(code)
    }
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once.
        unsafe { nvrtc::destroy_program(self.0) }.ok();
    }
}
