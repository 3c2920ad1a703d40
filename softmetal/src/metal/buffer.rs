//! `MTLBuffer`.
//!
//! A buffer's length is at least 1: Metal's validation layer asserts it ("Cannot create buffer of zero length."). Without
//! the layer programs run on, and rely on it: an empty tensor's buffer is empty. So it is reported, and made.

use super::device::{Device, MAX_BUFFER_LENGTH, device};
use super::invalid;
use super::memory::{Allocation, StorageMode};
use crate::foundation::{Label, NSObject, NSString};
use crate::objc::{Instance, Object, Range, Strong, class};
use std::ffi::c_void;
use std::sync::Arc;

/// `MTLResourceOptions`, read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    bits: usize,
    storage: StorageMode,
    tracked: bool,
}

impl Options {
    /// Reads the bits, and reports such as are no options of a buffer.
    pub fn read(place: &str, bits: usize) -> Self {
        let storage = match (bits >> 4) & 0xf {
            // On unified memory, managed is shared.
            0 | 1 => StorageMode::Shared,
            2 => StorageMode::Private,
            other => {
                invalid(place, format!("wants storage mode shared, managed or private, got {other}"));
                StorageMode::Private
            }
        };
        if bits & !0x3ff != 0 || (bits >> 8) & 3 == 3 || bits & 0xf > 1 {
            invalid(place, format!("wants resource options, got {bits:#x}"));
        }
        Self { bits, storage, tracked: (bits >> 8) & 3 != 1 }
    }
}

/// A buffer.
pub struct Buffer {
    allocation: Arc<Allocation>,
    options: Options,
    label: Label,
}

class! {
    Buffer: class "SoftmetalBuffer", superclass NSObject, protocols ["MTLBuffer", "MTLResource", "MTLAllocation"], Long;
    - "length" => Buffer::length;
    - "contents" => Buffer::contents;
    - "didModifyRange:" => Buffer::did_modify;
    - "gpuAddress" => Buffer::gpu_address;
    - "allocatedSize" => Buffer::length;
    - "storageMode" => Buffer::storage_mode;
    - "cpuCacheMode" => Buffer::cpu_cache_mode;
    - "hazardTrackingMode" => Buffer::hazard_tracking_mode;
    - "resourceOptions" => Buffer::resource_options;
    - "setPurgeableState:" => Buffer::set_purgeable_state;
    - "heap" => Buffer::heap;
    - "heapOffset" => Buffer::heap_offset;
    - "isAliasable" => Buffer::is_aliasable;
    - "addDebugMarker:range:" => Buffer::add_debug_marker;
    - "removeAllDebugMarkers" => Buffer::remove_debug_markers;
    - "device" => Buffer::device;
    - "label" => Buffer::label;
    - "setLabel:" => Buffer::set_label;
}

impl Buffer {
    /// A buffer; nil if there is no memory.
    pub fn new(place: &str, length: usize, bytes: Option<&[u8]>, options: Options) -> Option<Strong<Buffer>> {
        if length == 0 {
            invalid(place, "wants a length of at least 1, got 0");
        }
        if length > MAX_BUFFER_LENGTH {
            invalid(
                place,
                format!("wants a length of at most {MAX_BUFFER_LENGTH} (maxBufferLength), got {length}"),
            );
            return None;
        }
        let allocation = match bytes {
            Some(bytes) => Allocation::with_bytes(bytes, options.storage, "buffer")?,
            None => Allocation::new(length, options.storage, "buffer")?,
        };
        device().allocated(length);
        Some(Strong::new(Buffer { allocation: Arc::new(allocation), options, label: Label::default() }))
    }

    /// A buffer with the default options that nothing has written; nil if there is no memory.
    pub fn shared(place: &str, length: usize) -> Option<Strong<Buffer>> {
        Self::new(place, length, None, Options::read(place, 0))
    }

    /// Its memory.
    pub fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }

    /// Whether Metal orders the encoders that use it (`MTLHazardTrackingModeTracked`, the default of a buffer).
    pub fn is_tracked(&self) -> bool {
        self.options.tracked
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.allocation.length()
    }

    /// What reports call it.
    pub fn name(&self) -> Arc<str> {
        self.allocation.memory().name()
    }

    fn contents(&self) -> *mut c_void {
        match self.allocation.contents() {
            Some(contents) => contents.as_ptr().cast(),
            None => {
                let text = format!("{}: wants storage mode shared or managed, got private", self.name());
                invalid("-[MTLBuffer contents]", text);
                std::ptr::null_mut()
            }
        }
    }

    fn did_modify(&self, range: Range) {
        let place = "-[MTLBuffer didModifyRange:]";
        // Of a shared buffer there is nothing to flush, and no harm in saying so.
        if range.end().is_none_or(|end| end > self.length()) {
            let length = self.length();
            invalid(place, format!("{}: wants a range in {length} bytes, got {range:?}", self.name()));
        }
    }

    fn gpu_address(&self) -> u64 {
        self.allocation.memory().address() as u64
    }

    fn storage_mode(&self) -> usize {
        (self.options.bits >> 4) & 0xf
    }

    fn cpu_cache_mode(&self) -> usize {
        self.options.bits & 0xf
    }

    /// `MTLHazardTrackingModeUntracked` or `MTLHazardTrackingModeTracked`.
    fn hazard_tracking_mode(&self) -> usize {
        if self.options.tracked { 2 } else { 1 }
    }

    fn resource_options(&self) -> usize {
        self.options.bits
    }

    /// `MTLPurgeableStateNonVolatile`: nothing is ever purged.
    fn set_purgeable_state(&self, _state: usize) -> usize {
        2
    }

    fn heap(&self) -> Option<Strong<Buffer>> {
        None
    }

    fn heap_offset(&self) -> usize {
        0
    }

    fn is_aliasable(&self) -> bool {
        false
    }

    fn add_debug_marker(&self, _marker: &Instance<NSString>, _range: Range) {}

    fn remove_debug_markers(&self) {}

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.allocation.set_label(label.map_or("buffer", |label| label.text()));
        self.label.set(label);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        device().freed(self.allocation.length());
    }
}

/// The buffers of a C array of resources; there are no others.
pub(super) fn buffers(place: &str, resources: *const *mut Object, count: usize) -> Vec<Strong<Buffer>> {
    let resource = |index| {
        // SAFETY: the caller's array of live objects.
        let object: &Object = unsafe { &**resources.add(index) };
        let buffer = object.downcast::<Buffer>();
        if buffer.is_none() {
            invalid(place, format!("wants buffers, got a {}", object.class().name()));
        }
        buffer.map(Instance::retain)
    };
    (0..count).filter_map(resource).collect()
}
