//! CUDA: the device's clock, its graphs, its memory.

use super::measure::{Call, Make, Replay};
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use candle_core::{CudaDevice, Device, Result, bail};
use std::time::Instant;
use sys::CUmemPool_attribute as Attribute;

/// The time that `f`'s work takes on the device, in µs.
pub fn span(device: &Device, f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let Device::Cuda(cuda) = device else {
        let start = Instant::now();
        f()?;
        return Ok(start.elapsed().as_secs_f64() * 1e6);
    };
    let stream = cuda.cuda_stream();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = driver(stream.record_event(timed))?;
    f()?;
    let end = driver(stream.record_event(timed))?;
    Ok(driver(start.elapsed_ms(&end))? as f64 * 1e3)
}

/// The times of `count` replays, in µs. They are queued at once, so that no launch is between them.
pub fn laps(device: &Device, replay: &Replay, count: usize) -> Result<Vec<f64>> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    replay()?;
    let mut events = vec![driver(stream.record_event(timed))?];
    for _ in 0..count {
        replay()?;
        events.push(driver(stream.record_event(timed))?);
    }
    let laps = events.windows(2).map(|pair| driver(pair[0].elapsed_ms(&pair[1])).map(|ms| ms as f64 * 1e3));
    laps.collect()
}

/// A graph of calls. Results of as many as there are sets live at a time, and all end inside the graph.
pub fn capture(device: &Device, make: &mut Make, calls: Vec<Call>, sets: usize) -> Result<Replay> {
    let Device::Cuda(cuda) = device else { bail!("gpu: wants a GPU, got {device:?}") };
    let stream = cuda.cuda_stream();
    // Candle uploads strides for some kernels: with this it does so once, before the capture.
    let _cache = cuda.enable_cuda_graph_htod_cache();
    for set in 0..sets {
        make(set)?()?;
    }
    device.synchronize()?;
    driver(stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED))?;
    let mut ring: Vec<_> = (0..sets).map(|_| Vec::new()).collect();
    let mut outcome = Ok(());
    for (i, call) in calls.into_iter().enumerate() {
        match call() {
            Ok(results) => ring[i % sets] = results,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    drop(ring);
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
    // A failed capture leaves its error in the context, where the next call would find it.
    while outcome.is_err() && stream.context().check_err().is_err() {}
    outcome?;
    let Some(graph) = driver(graph)? else { bail!("gpu: wants a graph, got an empty one") };
    Ok(Box::new(move || driver(graph.launch())))
}

/// Bytes in use beyond those before, at most, while `f` runs.
pub fn most_bytes<R>(device: &Device, f: impl FnOnce() -> Result<R>) -> Result<(R, Option<u64>)> {
    if !device.is_cuda() {
        return Ok((f()?, None));
    }
    device.synchronize()?;
    pool(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, Some(0))?;
    let before = pool(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, None)?;
    let result = f()?;
    device.synchronize()?;
    let most = pool(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, None)?;
    Ok((result, Some(most.saturating_sub(before))))
}

/// Gives unused memory back: other workers have the same device.
pub fn trim(device: &Device) -> Result<()> {
    if device.is_cuda() {
        device.synchronize()?;
        // SAFETY: the device was opened, and its default pool lives as long as it.
        unsafe {
            let ordinal = driver(result::device::get(0))?;
            driver(result::mem_pool::trim_to(driver(result::device::get_default_mem_pool(ordinal))?, 0))?;
            driver(sys::cuDeviceGraphMemTrim(ordinal).result())?;
        }
    }
    Ok(())
}

/// Sets an attribute of the device's memory pool, or reads it.
fn pool(attribute: Attribute, set: Option<u64>) -> Result<u64> {
    let mut value = set.unwrap_or_default();
    let at = (&raw mut value).cast();
    // SAFETY: the device was opened; these attributes are 64-bit numbers.
    unsafe {
        let pool = driver(result::device::get_default_mem_pool(driver(result::device::get(0))?))?;
        match set {
            Some(_) => driver(result::mem_pool::set_attribute(pool, attribute, at))?,
            None => driver(result::mem_pool::get_attribute(pool, attribute, at))?,
        }
    }
    Ok(value)
}

/// Candle's storage of one zero.
pub fn zero(device: &CudaDevice) -> Result<candle_core::CudaStorage> {
    Ok(candle_core::CudaStorage::wrap_cuda_slice(device.alloc_zeros::<f32>(1)?, device.clone()))
}

fn driver<T>(result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(candle_core::Error::wrap)
}
