//! Descriptors of command buffers, queues, passes and pipelines.

use super::device::too_many_threads;
use super::library::Function;
use crate::foundation::{Label, NSObject, NSString};
use crate::objc::{Allocated, Class, Instance, Strong, class};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// `MTLCommandBufferDescriptor`.
pub struct CommandBufferDescriptor {
    retained: AtomicBool,
    error_options: AtomicUsize,
}

class! {
    CommandBufferDescriptor: linked "._OBJC_CLASS_MTLCommandBufferDescriptor" "MTLCommandBufferDescriptor", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => CommandBufferDescriptor::init;
    - "retainedReferences" => CommandBufferDescriptor::retains;
    - "setRetainedReferences:" => CommandBufferDescriptor::set_retained;
    - "errorOptions" => CommandBufferDescriptor::error_options;
    - "setErrorOptions:" => CommandBufferDescriptor::set_error_options;
}

impl CommandBufferDescriptor {
    fn init(_: Allocated) -> Strong<Self> {
        Strong::new(Self { retained: AtomicBool::new(true), error_options: AtomicUsize::new(0) })
    }

    /// Whether the command buffer keeps alive what it uses.
    pub(super) fn retains(&self) -> bool {
        self.retained.load(Relaxed)
    }

    fn set_retained(&self, retained: bool) {
        self.retained.store(retained, Relaxed);
    }

    fn error_options(&self) -> usize {
        self.error_options.load(Relaxed)
    }

    fn set_error_options(&self, options: usize) {
        self.error_options.store(options, Relaxed);
    }
}

/// `MTLCommandQueueDescriptor`.
pub struct CommandQueueDescriptor {
    count: AtomicUsize,
}

class! {
    CommandQueueDescriptor: linked "._OBJC_CLASS_MTLCommandQueueDescriptor" "MTLCommandQueueDescriptor", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => CommandQueueDescriptor::init;
    - "maxCommandBufferCount" => CommandQueueDescriptor::count;
    - "setMaxCommandBufferCount:" => CommandQueueDescriptor::set_count;
}

impl CommandQueueDescriptor {
    fn init(_: Allocated) -> Strong<Self> {
        Strong::new(Self { count: AtomicUsize::new(64) })
    }

    /// Command buffers that have not completed, at most.
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn set_count(&self, count: usize) {
        self.count.store(count, Relaxed);
    }
}

/// `MTLComputePassDescriptor`.
pub struct ComputePassDescriptor {
    dispatch_type: AtomicUsize,
}

class! {
    ComputePassDescriptor: linked "._OBJC_CLASS_MTLComputePassDescriptor" "MTLComputePassDescriptor", superclass NSObject, protocols ["NSCopying"], Short;
    + "computePassDescriptor" => ComputePassDescriptor::shared;
    - "init" => ComputePassDescriptor::init;
    - "dispatchType" => ComputePassDescriptor::dispatch_type;
    - "setDispatchType:" => ComputePassDescriptor::set_dispatch_type;
}

impl ComputePassDescriptor {
    fn shared(_: &'static Class) -> Strong<Self> {
        Strong::new(Self { dispatch_type: AtomicUsize::new(0) })
    }

    fn init(_: Allocated) -> Strong<Self> {
        Strong::new(Self { dispatch_type: AtomicUsize::new(0) })
    }

    /// `MTLDispatchType`.
    pub(super) fn dispatch_type(&self) -> usize {
        self.dispatch_type.load(Relaxed)
    }

    fn set_dispatch_type(&self, dispatch_type: usize) {
        self.dispatch_type.store(dispatch_type, Relaxed);
    }
}

/// `MTLComputePipelineDescriptor`.
#[derive(Default)]
pub struct ComputePipelineDescriptor {
    label: Label,
    function: Mutex<Option<Strong<Function>>>,
    max_threads: AtomicUsize,
    whole_simdgroups: AtomicBool,
}

class! {
    ComputePipelineDescriptor: linked "._OBJC_CLASS_MTLComputePipelineDescriptor" "MTLComputePipelineDescriptor", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => ComputePipelineDescriptor::init;
    - "label" => ComputePipelineDescriptor::label;
    - "setLabel:" => ComputePipelineDescriptor::set_label;
    - "computeFunction" => ComputePipelineDescriptor::function;
    - "setComputeFunction:" => ComputePipelineDescriptor::set_function;
    - "maxTotalThreadsPerThreadgroup" => ComputePipelineDescriptor::max_total_threads;
    - "setMaxTotalThreadsPerThreadgroup:" => ComputePipelineDescriptor::set_max_threads;
    - "threadGroupSizeIsMultipleOfThreadExecutionWidth" => ComputePipelineDescriptor::whole_simdgroups;
    - "setThreadGroupSizeIsMultipleOfThreadExecutionWidth:" => ComputePipelineDescriptor::set_whole_simdgroups;
}

impl ComputePipelineDescriptor {
    fn init(_: Allocated) -> Strong<Self> {
        Strong::new(Self::default())
    }

    /// The function.
    pub(super) fn function(&self) -> Option<Strong<Function>> {
        self.function.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set_function(&self, function: Option<&Instance<Function>>) {
        *self.function.lock().unwrap_or_else(|e| e.into_inner()) = function.map(Instance::retain);
    }

    /// The label.
    pub(super) fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }

    fn max_total_threads(&self) -> usize {
        self.max_threads.load(Relaxed)
    }

    /// Threads of a threadgroup, if a limit is set.
    pub(super) fn max_threads(&self) -> Option<usize> {
        Some(self.max_total_threads()).filter(|&threads| threads != 0)
    }

    fn set_max_threads(&self, threads: usize) {
        too_many_threads("-[MTLComputePipelineDescriptor setMaxTotalThreadsPerThreadgroup:]", threads);
        self.max_threads.store(threads, Relaxed);
    }

    /// Whether its dispatches are said to have threadgroups of whole simdgroups.
    pub(super) fn whole_simdgroups(&self) -> bool {
        self.whole_simdgroups.load(Relaxed)
    }

    fn set_whole_simdgroups(&self, whole: bool) {
        self.whole_simdgroups.store(whole, Relaxed);
    }
}
