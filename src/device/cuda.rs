//! NVIDIA GPUs through the driver: which there are, and how one is opened.

use super::CudaGpu;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::sys::CUgraphMem_attribute::{self, *};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
use candle_core::cuda_backend::cudarc::nvrtc::sys::nvrtcVersion;
use candle_core::{Device, Error, Result};
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

const NO_GPU: &str = "no GPU";
const NO_DRIVER: &str = "no driver (libcuda.so.1)";

fn failed(what: impl std::fmt::Display) -> Error {
    Error::Msg(format!("cuda: wants an NVIDIA GPU and its driver, got {what}"))
}

/// Whether the error says that there is nothing to compute on, rather than what is wrong with it.
#[cfg(feature = "cli")]
pub(super) fn is_absence(error: &Error) -> bool {
    let error = error.to_string();
    error.ends_with(NO_GPU) || error.ends_with(NO_DRIVER)
}

/// The driver's words for what went wrong.
fn reason(error: result::DriverError) -> Error {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => failed(NO_GPU),
        // What our stand-in for the driver says where there is none.
        sys::CUresult::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED => failed(NO_DRIVER),
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => failed("a stub of the driver in the library path"),
        error => failed(format!("{error:?}")),
    }
}

/// How many GPUs there are, after the driver has been made ready.
fn count() -> Result<usize> {
    let mut count = 0;
    // SAFETY: the pointer is that of a live integer.
    unsafe {
        sys::cuInit(0).result().map_err(reason)?;
        sys::cuDeviceGetCount(&mut count).result().map_err(reason)?;
    }
    match count {
        0 => Err(failed(NO_GPU)),
        _ => Ok(count as usize),
    }
}

/// The newest CUDA that the driver knows.
fn driver_version() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the pointer is that of a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(reason)?;
    Ok((version / 1000, version % 1000 / 10))
}

/// The device of a GPU, the same one each time: every `CudaDevice` has a stream of its own, and with events off nothing
/// orders two of them, while Candle mixes tensors of both, as it compares no more than the GPU's number.
pub(super) fn open(index: usize) -> Result<Device> {
    static OPENED: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&index) {
        return Ok(device.clone());
    }
    let device = open_anew(index)?;
    opened.insert(index, device.clone());
    Ok(device)
}

fn open_anew(index: usize) -> Result<Device> {
    let wants = |what: &str, got: String| Error::Msg(format!("cuda:{index}: wants {what}, got {got}"));
    let count = count()?;
    if index >= count {
        let numbers =
            if count == 1 { "only cuda:0".to_string() } else { format!("cuda:0 to cuda:{}", count - 1) };
        return Err(wants("the number of a GPU of this machine", numbers));
    }
    let driver = driver_version()?;
    if driver < (13, 0) {
        return Err(wants(
            "a driver for CUDA 13.0 or newer",
            format!("one for CUDA {}.{}", driver.0, driver.1),
        ));
    }
    let context = CudaContext::new(index).map_err(reason)?;
    let (major, minor) = context.compute_capability().map_err(reason)?;
    if major < 8 {
        return Err(wants("a GPU of compute capability 8.0 or more", format!("{major}.{minor}")));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are valid for writing.
    unsafe { nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|e| wants("NVRTC of CUDA 13 (CUDA_HOME or the loader's path)", format!("{e:?}")))?;
    // The driver has given a context: what can be missing is a library.
    let device = CudaDevice::new_with_stream(index)
        .map_err(|e| wants("cuBLAS and cuRAND of CUDA 13 (CUDA_HOME or the loader's path)", e.to_string()))?;
    // SAFETY: the device has one stream, which everything it allocates is used on.
    unsafe { device.disable_event_tracking() };
    keep_freed_memory(index).ok();
    Ok(Device::Cuda(device))
}

/// Keeps freed memory in the process's pool. It is no more than faster: a GPU without pools does without.
fn keep_freed_memory(index: usize) -> Result<()> {
    let keep = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute takes a 64-bit number of bytes; the pool is the device's own.
    unsafe {
        sys::cuMemPoolSetAttribute(pool(index)?, attribute, std::ptr::from_ref(&keep).cast_mut().cast())
    }
    .result()
    .map_err(reason)
}

/// What the process allocates from on a GPU.
fn pool(index: usize) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    let device = result::device::get(index as c_int).map_err(reason)?;
    // SAFETY: the pointer is that of a live pool handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device) }.result().map_err(reason)?;
    Ok(pool)
}

/// Gives memory that the pool and graphs keep and do not use back to the GPU.
pub(super) fn release_kept(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().synchronize().map_err(reason)?;
    let gpu = result::device::get(index(device) as c_int).map_err(reason)?;
    // SAFETY: the pool is the device's own.
    unsafe {
        sys::cuMemPoolTrimTo(pool(index(device))?, 0).result().map_err(reason)?;
        sys::cuDeviceGraphMemTrim(gpu).result().map_err(reason)
    }
}

pub(super) fn gpus() -> Result<Vec<CudaGpu>> {
    let (count, driver) = (count()?, driver_version()?);
    let gpu = |index: usize| {
        let device = result::device::get(index as c_int)?;
        use sys::CUdevice_attribute as Attribute;
        // SAFETY: the device is one that the driver has just named.
        let (memory, major, minor) = unsafe {
            (
                result::device::total_mem(device)?,
                result::device::get_attribute(
                    device,
                    Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                )?,
                result::device::get_attribute(
                    device,
                    Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                )?,
            )
        };
        Ok(CudaGpu {
            index,
            name: result::device::get_name(device)?,
            memory_bytes: memory as u64,
            compute_capability: (major, minor),
            driver,
        })
    };
    (0..count).map(gpu).collect::<std::result::Result<_, _>>().map_err(reason)
}

fn index(device: &CudaDevice) -> usize {
    device.cuda_stream().context().ordinal()
}

pub(super) fn name(device: &CudaDevice) -> String {
    let index = index(device);
    let name = device.cuda_stream().context().name().unwrap_or_else(|_| "NVIDIA GPU".to_string());
    format!("{name} (cuda:{index})")
}

/// A number of the device's pool, in bytes.
fn held(device: &CudaDevice, attribute: sys::CUmemPool_attribute) -> Option<u64> {
    let (pool, mut bytes) = (pool(index(device)).ok()?, 0u64);
    // SAFETY: the attribute is a 64-bit number of bytes.
    unsafe { sys::cuMemPoolGetAttribute(pool, attribute, std::ptr::from_mut(&mut bytes).cast()) }
        .result()
        .ok()?;
    Some(bytes)
}

pub(super) fn available(device: &CudaDevice) -> Option<u64> {
    device.cuda_stream().context().bind_to_thread().ok()?;
    let (free, _) = result::mem_get_info().ok()?;
    // What the pool and graphs keep and do not use can be taken again, by their like.
    let reserved = held(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = held(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    let reserved_by_graphs = by_graphs(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0);
    let used_by_graphs = by_graphs(device, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT).unwrap_or(0);
    Some(free as u64 + reserved.saturating_sub(used) + reserved_by_graphs.saturating_sub(used_by_graphs))
}

pub(super) fn peak(device: &CudaDevice) -> Option<u64> {
    let pool = held(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
    Some(pool + by_graphs(device, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH).unwrap_or(0))
}

/// A number of what graphs hold, which is not the pool's, in bytes.
fn by_graphs(device: &CudaDevice, attribute: CUgraphMem_attribute) -> Option<u64> {
    let (gpu, mut bytes) = (result::device::get(index(device) as c_int).ok()?, 0u64);
    // SAFETY: the attribute is a 64-bit number of bytes.
    unsafe { sys::cuDeviceGetGraphMemAttribute(gpu, attribute, std::ptr::from_mut(&mut bytes).cast()) }
        .result()
        .ok()?;
    Some(bytes)
}

/// Starts a new peak at what is held now.
#[cfg(feature = "cli")]
pub(super) fn reset_peak(device: &CudaDevice) -> bool {
    let Ok(pool) = pool(index(device)) else { return false };
    let mut zero = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let at = std::ptr::from_mut(&mut zero).cast();
    // SAFETY: both attributes are 64-bit numbers of bytes, which may be set to zero.
    unsafe {
        if let Ok(gpu) = result::device::get(index(device) as c_int) {
            let _ = sys::cuDeviceSetGraphMemAttribute(gpu, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, at).result();
        }
        sys::cuMemPoolSetAttribute(pool, attribute, at).result().is_ok()
    }
}
