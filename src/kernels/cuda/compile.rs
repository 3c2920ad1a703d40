//! From a kernel's source to a loaded module: from disk, else through NVRTC.

use super::super::cache;
use super::super::gpu::Launch;
use candle_core::cuda_backend::cudarc::driver::sys::cuDriverGetVersion;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaModule};
use candle_core::cuda_backend::cudarc::nvrtc::{Ptx, result as nvrtc, sys};
use candle_core::{Error, Result, bail};
use std::ffi::{CStr, CString};
use std::sync::Arc;

pub(super) fn module(context: &Arc<CudaContext>, text: &str, launch: &Launch<'_>) -> Result<Arc<CudaModule>> {
    let (major, minor) = context.compute_capability().map_err(Error::wrap)?;
    // `device::cuda` refuses such a GPU; `Device::new_cuda` does not.
    if major < 8 {
        bail!("cuda: wants a GPU of compute capability 8.0 or more, got {major}.{minor}")
    }
    let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".into()];
    if launch.unit.fast_math {
        options.push("--use_fast_math".into());
    }
    let key = format!("{}\n{options:?} {}\n{text}", launch.unit.name, versions());
    let load = |code: Vec<u8>| context.load_module(Ptx::from_binary(code));
    if let Some(module) = cache::get(&key, "cubin").and_then(|code| load(code).ok()) {
        return Ok(module);
    }
    let code = compile(text, launch, &options)?;
    let module = load(code.clone()).map_err(|e| Error::Msg(format!("{}: {e:?}", launch.unit.name)))?;
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

fn compile(text: &str, launch: &Launch<'_>, options: &[String]) -> Result<Vec<u8>> {
    let name = launch.unit.name;
    let failed = |e| Error::Msg(format!("{name}: {e:?}"));
    let (text, file) = (CString::new(text).map_err(Error::wrap)?, CString::new(name).map_err(Error::wrap)?);
    let program = Program(nvrtc::create_program(&text, Some(&file)).map_err(failed)?);
    // SAFETY: the program is alive.
    let mut compiled = unsafe { nvrtc::compile_program(program.0, options) };
    if compiled.as_ref().is_err_and(|e| e.0 == sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION) {
        // A GPU newer than this NVRTC: the driver finishes the work.
        let mut options = options.to_vec();
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
