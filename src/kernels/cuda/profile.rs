//! Where a GPU's time goes: an event before and after each kernel, summed by the kernel's name.
//!
//! Events stand between kernels and take about a microsecond each: shares are told, not times of single kernels.

use crate::kernels::gpu::Spent;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, sys};
use candle_core::{Error, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static ON: AtomicBool = AtomicBool::new(false);

type Span = (String, CudaEvent, CudaEvent);

static SPANS: Mutex<Vec<Span>> = Mutex::new(Vec::new());

/// Begins to take times.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the command line asks"))]
pub(in super::super) fn begin() {
    SPANS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    ON.store(true, Ordering::Relaxed);
}

/// Whether times are taken.
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Ends it: what was taken, by name. Waits for the GPU.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the command line asks"))]
pub(in super::super) fn end() -> Result<Vec<Spent>> {
    ON.store(false, Ordering::Relaxed);
    let spans = std::mem::take(&mut *SPANS.lock().unwrap_or_else(PoisonError::into_inner));
    let mut sums: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for (name, from, to) in spans {
        to.synchronize().map_err(Error::wrap)?;
        let sum = sums.entry(name).or_default();
        sum.0 += 1;
        sum.1 += f64::from(from.elapsed_ms(&to).map_err(Error::wrap)?);
    }
    Ok(sums.into_iter().map(|(name, (count, ms))| Spent { name, count, ms }).collect())
}

/// Runs `f`, which launches what `name` tells of.
pub(in super::super) fn span<R>(
    stream: &CudaStream,
    name: impl FnOnce() -> String,
    f: impl FnOnce() -> Result<R>,
) -> Result<R> {
    if !is_on() {
        return f();
    }
    let event = || stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(Error::wrap);
    let from = event()?;
    let result = f()?;
    SPANS.lock().unwrap_or_else(PoisonError::into_inner).push((name(), from, event()?));
    Ok(result)
}
