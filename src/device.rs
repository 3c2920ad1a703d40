//! Devices: the CPU, an NVIDIA GPU, an Apple GPU.

use candle_core::{Device, Result, bail};

/// A device by its name: `cpu`, `cuda`, `cuda:1`, `metal`, or `auto` for a GPU if this build and machine have one.
///
/// # Errors
///
/// When the name is none of these, this build lacks the device's feature, or the machine lacks the device.
pub fn named(name: &str) -> Result<Device> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let Ok(index) = index.parse() else { bail!("device: wants a number after `:`, got {name:?}") };
    match kind {
        "cpu" => Ok(Device::Cpu),
        "cuda" => cuda(index),
        "metal" => metal(index),
        "auto" if cfg!(feature = "cuda") => Ok(cuda(index).unwrap_or(Device::Cpu)),
        "auto" if cfg!(feature = "metal") => Ok(metal(index).unwrap_or(Device::Cpu)),
        "auto" => Ok(Device::Cpu),
        _ => bail!("device: wants auto, cpu, cuda, cuda:N or metal, got {name:?}"),
    }
}

/// The NVIDIA GPU number `index`, made ready for training.
///
/// Beside what `Device::new_cuda` does:
///
/// - All work goes through one stream. Candle's default is a stream for each CPU thread, which makes it record two
///   events for every tensor; with one stream, work is in order by itself, and the events are turned off.
/// - Freed memory stays in the process's pool. By default the driver takes it back at every synchronisation, and maps
///   it again at the next use.
///
/// # Errors
///
/// When there is no driver or no such GPU, or this build has no `cuda` feature.
#[cfg(feature = "cuda")]
pub fn cuda(index: usize) -> Result<Device> {
    use candle_core::Error;
    use candle_core::cuda_backend::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};

    let failed = |e| Error::Msg(format!("cuda: wants an NVIDIA GPU number {index} and its driver, got {e}"));
    // SAFETY: the pointer is that of a live integer.
    let count = unsafe {
        let mut count = 0;
        match sys::cuInit(0) {
            sys::CUresult::CUDA_SUCCESS => sys::cuDeviceGetCount(&mut count).result().map(|()| count),
            failed => failed.result().map(|()| 0),
        }
    };
    let count = count.map_err(|e| failed(format!("{:?}", e.0)))?;
    if index >= count as usize {
        return Err(failed(format!("{count} GPUs")));
    }
    let device = CudaDevice::new_with_stream(index).map_err(|e| failed(e.to_string()))?;
    // SAFETY: the device has one stream, which everything it allocates is used on.
    unsafe { device.disable_event_tracking() };
    let keep = u64::MAX;
    // SAFETY: the attribute takes a 64-bit number of bytes; the pool is the device's own.
    let kept = unsafe {
        result::device::get(index as i32).and_then(|device| {
            let mut pool = std::ptr::null_mut();
            sys::cuDeviceGetDefaultMemPool(&mut pool, device).result()?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_ref(&keep).cast_mut().cast()).result()
        })
    };
    kept.map_err(|e| failed(format!("{:?}", e.0)))?;
    Ok(Device::Cuda(device))
}

/// As with the `cuda` feature, of which this build has none.
///
/// # Errors
///
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn cuda(_: usize) -> Result<Device> {
    bail!("cuda: wants a build with `--features cuda`, got one without")
}

/// The Apple GPU number `index`.
///
/// # Errors
///
/// When there is none, or this build has no `metal` feature.
pub fn metal(index: usize) -> Result<Device> {
    match cfg!(feature = "metal") {
        true => Device::new_metal(index),
        false => bail!("metal: wants a build with `--features metal` on a Mac, got one without"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_checked() {
        assert!(super::named("cpu").unwrap().is_cpu());
        assert!(super::named("auto").is_ok());
        for (name, wants) in [("gpu", "wants auto, cpu"), ("cuda:x", "a number"), ("", "wants auto, cpu")] {
            assert!(super::named(name).unwrap_err().to_string().contains(wants), "{name}");
        }
        #[cfg(not(feature = "cuda"))]
        assert!(super::named("cuda").unwrap_err().to_string().contains("--features cuda"));
    }
}
