//! NVIDIA GPUs through the driver: which there are, and how one is opened.

use super::CudaGpu;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{Device, Error, Result};
use std::ffi::c_int;

fn failed(what: impl std::fmt::Display) -> Error {
    Error::Msg(format!("cuda: wants an NVIDIA GPU and its driver, got {what}"))
}

/// The driver's words for what went wrong.
fn reason(error: result::DriverError) -> Error {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => failed("no GPU"),
        // What our stand-in for the driver says where there is none.
        sys::CUresult::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED => failed("no driver (libcuda.so.1)"),
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
    Ok(count as usize)
}

pub(super) fn open(index: usize) -> Result<Device> {
    let count = count()?;
    if index >= count {
        let numbers =
            if count == 1 { "only cuda:0".to_string() } else { format!("cuda:0 to cuda:{}", count - 1) };
        return Err(Error::Msg(format!(
            "cuda:{index}: wants the number of a GPU of this machine, got {numbers}"
        )));
    }
    let device = CudaDevice::new_with_stream(index).map_err(failed)?;
    // SAFETY: the device has one stream, which everything it allocates is used on.
    unsafe { device.disable_event_tracking() };
    let keep = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute takes a 64-bit number of bytes; the pool is the device's own.
    unsafe {
        sys::cuMemPoolSetAttribute(pool(index)?, attribute, std::ptr::from_ref(&keep).cast_mut().cast())
    }
    .result()
    .map_err(reason)?;
    Ok(Device::Cuda(device))
}

/// What the process allocates from on a GPU.
fn pool(index: usize) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    let device = result::device::get(index as c_int).map_err(reason)?;
    // SAFETY: the pointer is that of a live pool handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device) }.result().map_err(reason)?;
    Ok(pool)
}

pub(super) fn gpus() -> Result<Vec<CudaGpu>> {
    let mut version = 0;
    let count = count()?;
    // SAFETY: the pointer is that of a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(reason)?;
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
            driver: (version / 1000, version % 1000 / 10),
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
    // What the pool keeps and does not use can be taken again.
    let reserved = held(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = held(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    Some(free as u64 + reserved.saturating_sub(used))
}

pub(super) fn peak(device: &CudaDevice) -> Option<u64> {
    held(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}
