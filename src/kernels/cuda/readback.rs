//! Words on their way to the host, while the GPU goes on.

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, DevicePtr, PinnedHostSlice, result};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice};
use candle_core::{Error, Result, Storage, Tensor, bail};
use std::sync::{Arc, Mutex, PoisonError};

/// Memory that copies go to, kept for the next ones.
static FREE: Mutex<Vec<(Arc<CudaContext>, PinnedHostSlice<u32>)>> = Mutex::new(Vec::new());

/// A copy of words that was begun.
pub(crate) struct Readback {
    words: usize,
    context: Arc<CudaContext>,
    pinned: PinnedHostSlice<u32>,
    /// After the copy.
    done: CudaEvent,
}

impl Readback {
    /// Begins to copy a contiguous tensor of `u32`, after what the device's stream has been given before.
    pub fn begin(device: &CudaDevice, x: &Tensor) -> Result<Self> {
        let (stream, words) = (device.cuda_stream(), x.elem_count());
        let context = stream.context().clone();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |(of, pinned): &(Arc<CudaContext>, PinnedHostSlice<u32>)| *of == context && pinned.len() >= words;
        let kept = free.iter().position(fits).map(|i| free.swap_remove(i).1);
        drop(free);
        let mut pinned = match kept {
            Some(pinned) => pinned,
            // SAFETY: nothing of it is read before a copy has written it.
            None => unsafe { context.alloc_pinned_with_flags(words.next_power_of_two().max(64), 0) }
                .map_err(Error::wrap)?,
        };
        let (storage, layout) = x.storage_and_layout();
        let (Storage::Cuda(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
            bail!("readback: wants a contiguous tensor on the GPU")
        };
        let CudaStorageSlice::U32(slice) = &storage.slice else { bail!("readback: wants u32") };
        let part = slice.slice(from..to);
        let (address, _read) = part.device_ptr(&stream);
        let into = &mut pinned.as_mut_slice().map_err(Error::wrap)?[..words];
        // SAFETY: `into` is pinned, as long as what is copied, and not touched until the event after the copy.
        unsafe { result::memcpy_dtoh_async(into, address, stream.cu_stream()) }.map_err(Error::wrap)?;
        let done = stream.record_event(None).map_err(Error::wrap)?;
        Ok(Readback { words, context, pinned, done })
    }

    /// The words, which are waited for.
    pub fn wait(self) -> Result<Vec<u32>> {
        self.done.synchronize().map_err(Error::wrap)?;
        let words = self.pinned.as_slice().map_err(Error::wrap)?[..self.words].to_vec();
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push((self.context, self.pinned));
        Ok(words)
    }
}
