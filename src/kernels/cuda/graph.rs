//! Work that is written down once and launched as a whole: a CUDA graph.
//!
//! All threads of a process have one stream of a GPU. What is captured therefore goes to a stream of its own, which only
//! the capturing thread sees: our launches, products and memory follow it there. Candle's own kernels and copies would not:
//! a captured function calls ops of this crate only.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::CudaBlas;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, result, sys};
use candle_core::{Error, Result, bail};
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static CAPTURING: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Places that were made. To give a handle back would wait for the whole device, which ends others' captures: they are kept.
static PLACES: Mutex<Vec<Place>> = Mutex::new(Vec::new());

/// Where work is written down.
#[derive(Clone)]
struct Place {
    stream: Arc<CudaStream>,
    blas: Arc<CudaBlas>,
}

/// The stream that this thread's work on the device goes to.
pub(crate) fn stream(device: &CudaDevice) -> Arc<CudaStream> {
    capturing(device).map_or_else(|| device.cuda_stream(), |place| place.stream)
}

/// The stream, if it is being captured.
pub(crate) fn captured(device: &CudaDevice) -> Option<Arc<CudaStream>> {
    capturing(device).map(|place| place.stream)
}

/// The handle for products on that stream.
pub(super) fn blas(device: &CudaDevice) -> Arc<CudaBlas> {
    capturing(device).map_or_else(|| device.cublas_handle(), |place| place.blas)
}

fn capturing(device: &CudaDevice) -> Option<Place> {
    let same = |place: &&Place| place.stream.context() == device.cuda_stream().context();
    CAPTURING.with_borrow(|place| place.as_ref().filter(same).cloned())
}

/// A capture that failed leaves errors in the context, where the next call would find them: also the one that ends it.
fn forget_errors(stream: &CudaStream) {
    while stream.context().check_err().is_err() {}
}

/// Work that was captured. What it reads and writes must live as long as it is launched.
pub(crate) struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
}

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
        let main = device.cuda_stream();
        // One at a time.
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match places.iter().find(|place| place.stream.context() == main.context()) {
            Some(place) => place.clone(),
            None => {
                let stream = main.context().new_stream().map_err(Error::wrap)?;
                let blas = Arc::new(CudaBlas::new(stream.clone()).map_err(Error::wrap)?);
                places.push(Place { stream, blas });
                places[places.len() - 1].clone()
            }
        };
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        /// Ends what was begun also when the code panics.
        struct Restore(Option<Place>, Arc<CudaStream>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CAPTURING.set(self.0.take());
                if std::thread::panicking() {
                    forget_errors(&self.1);
                    self.1.end_capture(sys::CUgraphInstantiate_flags(0)).ok();
                }
            }
        }
        place.stream.begin_capture(mode).map_err(Error::wrap)?;
        let restore = Restore(CAPTURING.replace(Some(place.clone())), place.stream.clone());
        let outcome = f();
        drop(restore);
        forget_errors(&place.stream);
        let graph = place.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        if outcome.is_err() || graph.is_err() {
            forget_errors(&place.stream);
        }
        outcome?;
        match graph.map_err(Error::wrap)? {
            Some(graph) => Ok(Graph { graph, stream: main }),
            None => bail!("cuda graph: wants work, got none"),
        }
    }

    /// Launches it on the device's stream.
    pub fn launch(&mut self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        // SAFETY: the graph lives, and what it was captured from is launched by one thread at a time.
        unsafe { result::graph::launch(self.graph.cu_graph_exec(), self.stream.cu_stream()) }
            .map_err(|error| Error::Msg(format!("cuda graph: {error:?}")))
    }
}

/// Whether work on the device can be captured: not with a stream that waits for events of others.
pub(crate) fn is_possible(device: &CudaDevice) -> bool {
    !device.cuda_stream().context().is_event_tracking()
}
