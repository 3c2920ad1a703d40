//! `MTLDevice`: one, which lives as long as the process.

use super::buffer::{Buffer, Options};
use super::descriptors::{CommandQueueDescriptor, ComputePipelineDescriptor};
use super::event::{Event, SharedEvent};
use super::fence::Fence;
use super::invalid;
use super::library::{CompileOptions, Function, Library};
use super::pipeline::ComputePipelineState;
use super::queue::{CommandQueue, MAX_COMMAND_BUFFERS};
use super::residency::{ResidencySet, ResidencySetDescriptor};
use crate::foundation::{NSArray, NSError, NSObject, NSString};
use crate::objc::{ErrorOut, Instance, Object, Size, Strong, check_at_exit, class};
use std::ffi::c_void;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads of a threadgroup, at most.
pub(super) const MAX_THREADS: usize = 1024;
/// Bytes of threadgroup memory, at most.
pub(super) const MAX_THREADGROUP_MEMORY: usize = 32 * 1024;
/// Bytes of a buffer, at most.
pub(super) const MAX_BUFFER_LENGTH: usize = 8 << 30;

/// `MTLGPUFamily` values that the device says to be of: Apple 1 to 7, Mac 2, Common 1 to 3, Metal 3.
const FAMILIES: [isize; 12] = [1001, 1002, 1003, 1004, 1005, 1006, 1007, 2002, 3001, 3002, 3003, 5001];

/// The device.
pub struct Device {
    architecture: Strong<Architecture>,
    allocated: AtomicUsize,
}

class! {
    Device: class "SoftmetalDevice", superclass NSObject, protocols ["MTLDevice"], Forever;
    - "name" => Device::name;
    - "registryID" => Device::registry_id;
    - "architecture" => Device::architecture;
    - "maxThreadsPerThreadgroup" => Device::max_threads;
    - "maxThreadgroupMemoryLength" => Device::max_threadgroup_memory;
    - "maxBufferLength" => Device::max_buffer_length;
    - "recommendedMaxWorkingSetSize" => Device::recommended_working_set;
    - "currentAllocatedSize" => Device::current_allocated;
    - "hasUnifiedMemory" => Device::yes;
    - "isLowPower" => Device::no;
    - "isHeadless" => Device::no;
    - "isRemovable" => Device::no;
    - "location" => Device::zero;
    - "locationNumber" => Device::zero;
    - "peerGroupID" => Device::zero_u64;
    - "maxTransferRate" => Device::zero_u64;
    - "argumentBuffersSupport" => Device::argument_buffers;
    - "supportsFamily:" => Device::supports_family;
    - "supportsRaytracing" => Device::no;
    - "supportsDynamicLibraries" => Device::no;
    - "supportsFunctionPointers" => Device::no;
    - "newCommandQueue" => Device::new_queue;
    - "newCommandQueueWithMaxCommandBufferCount:" => Device::new_queue_with_count;
    - "newCommandQueueWithDescriptor:" => Device::new_queue_with_descriptor;
    - "newBufferWithLength:options:" => Device::new_buffer;
    - "newBufferWithBytes:length:options:" => Device::new_buffer_with_bytes;
    - "newLibraryWithSource:options:error:" => Device::new_library;
    - "newComputePipelineStateWithFunction:error:" => Device::new_pipeline;
    - "newComputePipelineStateWithFunction:options:reflection:error:" => Device::new_pipeline_with_options;
    - "newComputePipelineStateWithDescriptor:options:reflection:error:" => Device::new_pipeline_with_descriptor;
    - "newFence" => Device::new_fence;
    - "newEvent" => Device::new_event;
    - "newSharedEvent" => Device::new_shared_event;
    - "newResidencySetWithDescriptor:error:" => Device::new_residency_set;
    - "sampleTimestamps:gpuTimestamp:" => Device::sample_timestamps;
}

/// The device of the process.
pub fn device() -> &'static Instance<Device> {
    static DEVICE: LazyLock<Strong<Device>> = LazyLock::new(|| {
        check_at_exit();
        let architecture = Strong::new(Architecture { name: "applegpu_g13g" });
        Strong::new(Device { architecture, allocated: AtomicUsize::new(0) })
    });
    &DEVICE
}

/// `MTLCreateSystemDefaultDevice`: with a count for the caller.
#[unsafe(no_mangle)]
pub extern "C" fn MTLCreateSystemDefaultDevice() -> *mut Object {
    device().retain().into_raw()
}

/// `MTLCopyAllDevices`: with a count for the caller.
#[unsafe(no_mangle)]
pub extern "C" fn MTLCopyAllDevices() -> *mut Object {
    NSArray::new(vec![device().retain().into()]).into_raw()
}

impl Device {
    /// Counts bytes of a buffer that was made.
    pub(super) fn allocated(&self, bytes: usize) {
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a buffer that has gone.
    pub(super) fn freed(&self, bytes: usize) {
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn name(&self) -> Strong<NSString> {
        NSString::new("softmetal")
    }

    fn registry_id(&self) -> u64 {
        0x736f_6674
    }

    /// A property of what lives for ever: no count goes through a pool.
    fn architecture(&self) -> *mut Object {
        self.architecture.as_ptr()
    }

    fn max_threads(&self) -> Size {
        Size { width: MAX_THREADS, height: MAX_THREADS, depth: MAX_THREADS }
    }

    fn max_threadgroup_memory(&self) -> usize {
        MAX_THREADGROUP_MEMORY
    }

    fn max_buffer_length(&self) -> usize {
        MAX_BUFFER_LENGTH
    }

    fn recommended_working_set(&self) -> u64 {
        16 << 30
    }

    fn current_allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    fn yes(&self) -> bool {
        true
    }

    fn no(&self) -> bool {
        false
    }

    fn zero(&self) -> usize {
        0
    }

    fn zero_u64(&self) -> u64 {
        0
    }

    /// `MTLArgumentBuffersTier2`.
    fn argument_buffers(&self) -> usize {
        1
    }

    fn supports_family(&self, family: isize) -> bool {
        FAMILIES.contains(&family)
    }

    fn new_queue(&self) -> Strong<CommandQueue> {
        CommandQueue::new("-[MTLDevice newCommandQueue]", MAX_COMMAND_BUFFERS)
    }

    fn new_queue_with_count(&self, count: usize) -> Strong<CommandQueue> {
        CommandQueue::new("-[MTLDevice newCommandQueueWithMaxCommandBufferCount:]", count)
    }

    fn new_queue_with_descriptor(
        &self,
        descriptor: &Instance<CommandQueueDescriptor>,
    ) -> Strong<CommandQueue> {
        CommandQueue::new("-[MTLDevice newCommandQueueWithDescriptor:]", descriptor.count())
    }

    fn new_buffer(&self, length: usize, options: usize) -> Option<Strong<Buffer>> {
        let place = "-[MTLDevice newBufferWithLength:options:]";
        Buffer::new(place, length, None, Options::read(place, options))
    }

    fn new_buffer_with_bytes(
        &self,
        bytes: *const c_void,
        length: usize,
        options: usize,
    ) -> Option<Strong<Buffer>> {
        let place = "-[MTLDevice newBufferWithBytes:length:options:]";
        if bytes.is_null() && length > 0 {
            invalid(place, "wants bytes, got a null pointer");
            return None;
        }
        // SAFETY: the caller's bytes.
        let bytes =
            if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(bytes.cast(), length) } };
        Buffer::new(place, length, Some(bytes), Options::read(place, options))
    }

    fn new_library(
        &self,
        source: &Instance<NSString>,
        options: Option<&Instance<CompileOptions>>,
        error: ErrorOut,
    ) -> Option<Strong<Library>> {
        match Library::new(source.text(), options) {
            Ok(library) => Some(library),
            // MTLLibraryErrorCompileFailure.
            Err(text) => error.fail(NSError::new("MTLLibraryErrorDomain", 3, text)),
        }
    }

    fn new_pipeline(
        &self,
        function: &Instance<Function>,
        error: ErrorOut,
    ) -> Option<Strong<ComputePipelineState>> {
        ComputePipelineState::new(function, None, None, false, error)
    }

    fn new_pipeline_with_options(
        &self,
        function: &Instance<Function>,
        _options: usize,
        reflection: *mut *mut Object,
        error: ErrorOut,
    ) -> Option<Strong<ComputePipelineState>> {
        no_reflection(reflection);
        ComputePipelineState::new(function, None, None, false, error)
    }

    fn new_pipeline_with_descriptor(
        &self,
        descriptor: &Instance<ComputePipelineDescriptor>,
        _options: usize,
        reflection: *mut *mut Object,
        error: ErrorOut,
    ) -> Option<Strong<ComputePipelineState>> {
        no_reflection(reflection);
        let Some(function) = descriptor.function() else {
            let text = "newComputePipelineStateWithDescriptor: wants a computeFunction, got nil";
            return error.fail(NSError::new("AGXMetal", 3, text));
        };
        let (label, max_threads) = (descriptor.label(), descriptor.max_threads());
        ComputePipelineState::new(&function, label, max_threads, descriptor.whole_simdgroups(), error)
    }

    fn new_fence(&self) -> Strong<Fence> {
        Strong::new(Fence::default())
    }

    fn new_event(&self) -> Strong<Event> {
        Strong::new(Event::default())
    }

    fn new_shared_event(&self) -> Strong<SharedEvent> {
        Strong::new(SharedEvent::default())
    }

    fn new_residency_set(
        &self,
        descriptor: &Instance<ResidencySetDescriptor>,
        _error: ErrorOut,
    ) -> Option<Strong<ResidencySet>> {
        Some(ResidencySet::new(descriptor))
    }

    fn sample_timestamps(&self, cpu: *mut u64, gpu: *mut u64) {
        let now = (super::run::now() * 1e9) as u64;
        // SAFETY: the caller's two numbers.
        unsafe {
            *cpu = now;
            *gpu = now;
        }
    }
}

/// Reports a limit of threads that no device has.
pub(super) fn too_many_threads(place: &str, threads: usize) {
    if threads > MAX_THREADS {
        super::invalid(place, format!("wants at most {MAX_THREADS} threads of a threadgroup, got {threads}"));
    }
}

/// Reflection is not offered: who asks for it gets nil.
fn no_reflection(reflection: *mut *mut Object) {
    // SAFETY: nil, or the caller's variable.
    if let Some(reflection) = unsafe { reflection.as_mut() } {
        *reflection = std::ptr::null_mut();
    }
}

/// `MTLArchitecture`.
pub struct Architecture {
    name: &'static str,
}

class! {
    Architecture: linked "._OBJC_CLASS_MTLArchitecture" "MTLArchitecture", superclass NSObject, protocols ["NSCopying"], Forever;
    - "name" => Architecture::name;
}

impl Architecture {
    fn name(&self) -> Strong<NSString> {
        NSString::new(self.name)
    }
}
