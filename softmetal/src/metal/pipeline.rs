//! `MTLComputePipelineState`.

use super::device::{Device, MAX_THREADS, device};
use super::invalid;
use super::library::Function;
use crate::exec::abi::Param;
use crate::foundation::{NSError, NSObject, NSString};
use crate::msl::Kernel;
use crate::objc::{ErrorOut, Strong, class};
use std::sync::Arc;

/// A kernel, compiled.
pub struct ComputePipelineState {
    kernel: Arc<Kernel>,
    name: String,
    label: Option<Strong<NSString>>,
    max_threads: usize,
    whole_simdgroups: bool,
}

class! {
    ComputePipelineState: class "SoftmetalComputePipelineState", superclass NSObject, protocols ["MTLComputePipelineState"], Long;
    - "device" => ComputePipelineState::device;
    - "label" => ComputePipelineState::label;
    - "maxTotalThreadsPerThreadgroup" => ComputePipelineState::max_threads;
    - "threadExecutionWidth" => ComputePipelineState::execution_width;
    - "staticThreadgroupMemoryLength" => ComputePipelineState::static_memory;
    - "supportIndirectCommandBuffers" => ComputePipelineState::no;
}

impl ComputePipelineState {
    /// The pipeline of a function.
    pub(super) fn new(
        function: &Function,
        label: Option<Strong<NSString>>,
        max_threads: Option<usize>,
        whole_simdgroups: bool,
        error: ErrorOut,
    ) -> Option<Strong<ComputePipelineState>> {
        match function.kernel() {
            Ok(kernel) => {
                // What is said nearest to the kernel counts.
                let of_kernel = Some(kernel.entry().max_threads as usize).filter(|&threads| threads != 0);
                let max_threads = of_kernel.or(max_threads).or(function.max_threads()).unwrap_or(MAX_THREADS);
                let name = function.text().to_owned();
                Some(Strong::new(ComputePipelineState {
                    kernel,
                    name,
                    label,
                    max_threads: max_threads.min(MAX_THREADS),
                    whole_simdgroups,
                }))
            }
            // CompilerError of the device's compiler.
            Err(text) => error.fail(NSError::new("AGXMetalG13X", 2, text)),
        }
    }

    /// The kernel.
    pub(super) fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// The kernel's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's parameters.
    pub(super) fn params(&self) -> &[Param] {
        let entry = self.kernel.entry();
        // SAFETY: the kernel's image has as many.
        unsafe { std::slice::from_raw_parts(entry.params, entry.param_count as usize) }
    }

    /// Threads of a threadgroup, at most.
    pub(super) fn max_threads(&self) -> usize {
        self.max_threads
    }

    /// Whether each threadgroup has whole simdgroups.
    pub(super) fn whole_simdgroups(&self) -> bool {
        self.whole_simdgroups
    }

    fn execution_width(&self) -> usize {
        32
    }

    /// Variables in threadgroup memory are counted when a threadgroup makes them, so that the question is refused.
    fn static_memory(&self) -> usize {
        let text = format!("{}: is not known to softmetal before the kernel runs, gives 0", self.name);
        invalid("-[MTLComputePipelineState staticThreadgroupMemoryLength]", text);
        0
    }

    fn no(&self) -> bool {
        false
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.clone()
    }
}
