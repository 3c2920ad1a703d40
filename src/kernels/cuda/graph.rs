//! Work that is written down once and launched as a whole: a CUDA graph.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, sys};
use candle_core::{Error, Result, bail};
use std::fmt;

/// Work that was captured. What it reads and writes must live as long as it is launched.
pub(crate) struct Graph(CudaGraph);

// SAFETY: the driver's graphs may be used from any thread, by one at a time; launching takes `&mut`.
unsafe impl Send for Graph {}
// SAFETY: as above: there is nothing to do with a shared one.
unsafe impl Sync for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    /// Writes down what `f` launches, which does not run. All of it must have run before: what is compiled, kept or sent
    /// to the device when it is first used has no place in a graph.
    pub fn capture(device: &CudaDevice, f: impl FnOnce() -> Result<()>) -> Result<Self> {
        let stream = device.cuda_stream();
        // With it, Candle refuses copies from the host where they would be written down.
        let _guard = device.enable_cuda_graph_htod_cache();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        stream.begin_capture(mode).map_err(Error::wrap)?;
        let outcome = f();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        if let Err(error) = outcome {
            // A capture that failed leaves its error in the context, where the next call would find it.
            while stream.context().check_err().is_err() {}
            return Err(error);
        }
        match graph.map_err(Error::wrap)? {
            Some(graph) => Ok(Graph(graph)),
            None => bail!("cuda graph: wants work, got none"),
        }
    }

    /// Launches it.
    pub fn launch(&mut self) -> Result<()> {
        self.0.launch().map_err(Error::wrap)
    }
}

/// Whether work on the device can be captured: not with a stream that waits for events of others.
pub(crate) fn is_possible(device: &CudaDevice) -> bool {
    !device.cuda_stream().context().is_event_tracking()
}
