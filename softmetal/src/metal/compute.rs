//! `MTLComputeCommandEncoder`.

use super::buffer::{Buffer, buffers};
use super::command_buffer::CommandBuffer;
use super::device::MAX_THREADGROUP_MEMORY;
use super::encoder::{
    Binding, Bound, Command, Encoder, Grid, Step, Use, Work, encoder_methods, extent, threadgroup,
};
use super::pipeline::ComputePipelineState;
use crate::exec::abi::{PARAM_BUFFER, PARAM_UNUSED, PARAM_WRITES};
use crate::foundation::{NSObject, NSString};
use crate::objc::{Instance, Object, Range, Size, Strong, class};
use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

/// Buffer arguments, and threadgroup memory arguments, of a kernel.
const INDICES: usize = 31;
/// Bytes that `setBytes` takes.
const MAX_BYTES: usize = 4096;

/// What the next dispatch is given.
#[derive(Default)]
struct Arguments {
    pipeline: Option<Strong<ComputePipelineState>>,
    buffers: [Option<Binding>; INDICES],
    threadgroup_memory: [usize; INDICES],
    /// Buffers that kernels reach through others, and whether they write them: `useResource`.
    resident: Vec<(Strong<Buffer>, bool)>,
}

/// A compute encoder.
pub struct ComputeCommandEncoder {
    encoder: Encoder,
    arguments: Mutex<Arguments>,
}

class! {
    ComputeCommandEncoder: class "SoftmetalComputeCommandEncoder", superclass NSObject, protocols ["MTLComputeCommandEncoder", "MTLCommandEncoder"], Short;
    - "device" => ComputeCommandEncoder::device;
    - "label" => ComputeCommandEncoder::label;
    - "setLabel:" => ComputeCommandEncoder::set_label;
    - "endEncoding" => ComputeCommandEncoder::end_encoding;
    - "waitForFence:" => ComputeCommandEncoder::wait_for_fence;
    - "updateFence:" => ComputeCommandEncoder::update_fence;
    - "pushDebugGroup:" => ComputeCommandEncoder::push_debug_group;
    - "popDebugGroup" => ComputeCommandEncoder::pop_debug_group;
    - "insertDebugSignpost:" => ComputeCommandEncoder::insert_debug_signpost;
    - "dispatchType" => ComputeCommandEncoder::dispatch_type;
    - "setComputePipelineState:" => ComputeCommandEncoder::set_pipeline;
    - "setBuffer:offset:atIndex:" => ComputeCommandEncoder::set_buffer;
    - "setBufferOffset:atIndex:" => ComputeCommandEncoder::set_buffer_offset;
    - "setBuffers:offsets:withRange:" => ComputeCommandEncoder::set_buffers;
    - "setBytes:length:atIndex:" => ComputeCommandEncoder::set_bytes;
    - "setThreadgroupMemoryLength:atIndex:" => ComputeCommandEncoder::set_threadgroup_memory;
    - "dispatchThreadgroups:threadsPerThreadgroup:" => ComputeCommandEncoder::dispatch_threadgroups;
    - "dispatchThreads:threadsPerThreadgroup:" => ComputeCommandEncoder::dispatch_threads;
    - "dispatchThreadgroupsWithIndirectBuffer:indirectBufferOffset:threadsPerThreadgroup:" => ComputeCommandEncoder::dispatch_indirect;
    - "memoryBarrierWithScope:" => ComputeCommandEncoder::barrier;
    - "memoryBarrierWithResources:count:" => ComputeCommandEncoder::barrier_for;
    - "useResource:usage:" => ComputeCommandEncoder::use_resource;
    - "useResources:count:usage:" => ComputeCommandEncoder::use_resources;
}

encoder_methods!(ComputeCommandEncoder);

impl ComputeCommandEncoder {
    /// An encoder for a command buffer that has no other.
    pub(super) fn new(command_buffer: Strong<CommandBuffer>, concurrent: bool) -> Strong<Self> {
        let encoder = Encoder::new(command_buffer, "MTLComputeCommandEncoder", concurrent);
        Strong::new(Self { encoder, arguments: Mutex::default() })
    }

    fn arguments(&self) -> MutexGuard<'_, Arguments> {
        self.arguments.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn dispatch_type(&self) -> usize {
        usize::from(self.encoder.is_concurrent())
    }

    fn set_pipeline(&self, pipeline: &Instance<ComputePipelineState>) {
        if self.encoder.is_open("setComputePipelineState:") {
            self.arguments().pipeline = Some(pipeline.retain());
        }
    }

    /// Whether an argument index is one; if not, the call is reported.
    fn is_index(&self, selector: &str, index: usize) -> bool {
        if index >= INDICES {
            self.encoder.invalid(selector, format!("wants an index of at most {}, got {index}", INDICES - 1));
        }
        self.encoder.is_open(selector) && index < INDICES
    }

    fn bind(&self, selector: &str, buffer: Option<&Instance<Buffer>>, offset: usize, index: usize) {
        if !self.is_index(selector, index) {
            return;
        }
        if let Some(buffer) = buffer
            && offset > 0
            && offset >= buffer.length()
        {
            let (name, length) = (buffer.name(), buffer.length());
            let text = format!(
                "{name}: wants an offset less than its {length} bytes, got {offset} at index {index}"
            );
            self.encoder.invalid(selector, text);
        }
        self.arguments().buffers[index] = buffer.map(|buffer| Binding::Buffer(buffer.retain(), offset));
    }

    fn set_buffer(&self, buffer: Option<&Instance<Buffer>>, offset: usize, index: usize) {
        self.bind("setBuffer:offset:atIndex:", buffer, offset, index);
    }

    fn set_buffer_offset(&self, offset: usize, index: usize) {
        let selector = "setBufferOffset:atIndex:";
        let bound = self.arguments().buffers.get(index).cloned().flatten();
        match bound {
            Some(Binding::Buffer(buffer, _)) => self.bind(selector, Some(&buffer), offset, index),
            _ => self.encoder.invalid(selector, format!("wants a buffer at index {index}, got none")),
        }
    }

    fn set_buffers(&self, buffers: *const *mut Object, offsets: *const usize, range: Range) {
        for nth in 0..range.length {
            // SAFETY: the caller's arrays are as long as the range.
            let (buffer, offset) = unsafe { ((*buffers.add(nth)).as_ref(), *offsets.add(nth)) };
            let buffer = buffer.and_then(|buffer| buffer.downcast::<Buffer>());
            self.bind("setBuffers:offsets:withRange:", buffer, offset, range.location.saturating_add(nth));
        }
    }

    fn set_bytes(&self, bytes: *const c_void, length: usize, index: usize) {
        let selector = "setBytes:length:atIndex:";
        if !self.is_index(selector, index) {
            return;
        }
        if bytes.is_null() {
            self.encoder.invalid(selector, format!("wants bytes, got nil at index {index}"));
        }
        if length > MAX_BYTES {
            let text = format!(
                "wants at most {MAX_BYTES} bytes, got {length} at index {index}: a buffer holds more"
            );
            self.encoder.invalid(selector, text);
        }
        let nothing = length == 0 || bytes.is_null();
        // SAFETY: the caller's bytes.
        let bytes = if nothing { &[] } else { unsafe { std::slice::from_raw_parts(bytes.cast(), length) } };
        self.arguments().buffers[index] = Some(Binding::Bytes(Arc::from(bytes)));
    }

    fn set_threadgroup_memory(&self, length: usize, index: usize) {
        let selector = "setThreadgroupMemoryLength:atIndex:";
        if !self.is_index(selector, index) {
            return;
        }
        if !length.is_multiple_of(16) {
            self.encoder
                .invalid(selector, format!("wants a multiple of 16 bytes, got {length} at index {index}"));
        }
        let mut arguments = self.arguments();
        arguments.threadgroup_memory[index] = length;
        let total: usize = arguments.threadgroup_memory.iter().sum();
        if total > MAX_THREADGROUP_MEMORY {
            let text =
                format!("wants at most {MAX_THREADGROUP_MEMORY} bytes of threadgroup memory, got {total}");
            self.encoder.invalid(selector, text);
        }
    }

    fn dispatch_threadgroups(&self, groups: Size, threads: Size) {
        let selector = "dispatchThreadgroups:threadsPerThreadgroup:";
        let in_each = |groups: usize, threads: usize| groups.saturating_mul(threads);
        let grid = Size {
            width: in_each(groups.width, threads.width),
            height: in_each(groups.height, threads.height),
            depth: in_each(groups.depth, threads.depth),
        };
        self.dispatch_over(selector, grid, threads);
    }

    fn dispatch_threads(&self, grid: Size, threads: Size) {
        self.dispatch_over("dispatchThreads:threadsPerThreadgroup:", grid, threads);
    }

    fn dispatch_over(&self, selector: &str, grid: Size, threads: Size) {
        match extent(grid, 0) {
            Some(grid) => self.dispatch(selector, |_, _| Grid::Threads(grid), threads),
            None => self
                .encoder
                .invalid(selector, format!("wants at most 2^32 - 1 threads in a direction, got {grid:?}")),
        }
    }

    fn dispatch_indirect(&self, buffer: &Instance<Buffer>, offset: usize, threads: Size) {
        let selector = "dispatchThreadgroupsWithIndirectBuffer:indirectBufferOffset:threadsPerThreadgroup:";
        if !offset.is_multiple_of(4) || offset.checked_add(12).is_none_or(|end| end > buffer.length()) {
            let length = buffer.length();
            let text =
                format!("wants 12 bytes in a buffer of {length} at a multiple of 4, got offset {offset}");
            return self.encoder.invalid(selector, text);
        }
        let grid = |uses: &mut Vec<Use>, retained| {
            uses.push(Use::new(buffer, false, retained));
            Grid::Indirect(uses.len() - 1, offset)
        };
        self.dispatch(selector, grid, threads);
    }

    fn dispatch(&self, selector: &str, grid: impl FnOnce(&mut Vec<Use>, bool) -> Grid, threads: Size) {
        if !self.encoder.is_open(selector) {
            return;
        }
        let arguments = self.arguments();
        let Some(pipeline) = &arguments.pipeline else {
            return self.encoder.invalid(selector, "wants a compute pipeline state, got none");
        };
        let threadgroup = match threadgroup(threads, pipeline.max_threads()) {
            Ok(threadgroup) => threadgroup,
            Err(text) => return self.encoder.invalid(selector, format!("{}: {text}", pipeline.name())),
        };
        if pipeline.whole_simdgroups() && !threadgroup.iter().product::<u32>().is_multiple_of(32) {
            let text = "wants threadgroups of whole simdgroups, as the pipeline's descriptor says, got";
            self.encoder.invalid(selector, format!("{}: {text} {threadgroup:?}", pipeline.name()));
        }
        let retained = self.encoder.retains();
        let mut uses = Vec::new();
        let bound = self.bound(selector, pipeline, &arguments, &mut uses);
        for (buffer, write) in &arguments.resident {
            uses.push(Use::new(buffer, *write, retained));
        }
        let grid = grid(&mut uses, retained);
        let work = Work::Dispatch {
            kernel: pipeline.kernel().clone(),
            arguments: bound,
            threadgroup_memory: arguments.threadgroup_memory.to_vec(),
            grid,
            threadgroup,
        };
        self.encoder.push(selector, Step::Command(Command { name: pipeline.name().into(), uses, work }));
    }

    /// The arguments that a kernel has a parameter for, checked against it.
    fn bound(
        &self,
        selector: &str,
        pipeline: &ComputePipelineState,
        arguments: &Arguments,
        uses: &mut Vec<Use>,
    ) -> Vec<Option<Bound>> {
        let mut bound: Vec<Option<Bound>> = (0..INDICES).map(|_| None).collect();
        for param in pipeline.params().iter().filter(|param| param.flags & PARAM_UNUSED == 0) {
            let index = param.index as usize;
            // SAFETY: a name in the kernel's image.
            let name = unsafe { CStr::from_ptr(param.name) }.to_string_lossy();
            if param.kind != PARAM_BUFFER || index >= INDICES {
                continue;
            }
            let size = param.size as usize;
            let room = match &arguments.buffers[index] {
                // Whether the kernel uses it, the executor sees.
                None => continue,
                Some(Binding::Bytes(bytes)) => {
                    bound[index] = Some(Bound::Bytes(bytes.clone()));
                    bytes.len()
                }
                Some(Binding::Buffer(buffer, offset)) => {
                    bound[index] = Some(Bound::Buffer(uses.len(), *offset));
                    uses.push(Use::new(buffer, param.flags & PARAM_WRITES != 0, self.encoder.retains()));
                    buffer.length().saturating_sub(*offset)
                }
            };
            // Of nothing at all, as the sizes of a scalar are, the executor sees each use.
            if (1..size).contains(&room) {
                let text = format!("{selector} wants {size} bytes at index {index} ({name}), got {room}");
                super::invalid(pipeline.name(), text);
            }
        }
        bound
    }

    fn barrier(&self, scope: usize) {
        let selector = "memoryBarrierWithScope:";
        if scope & !7 != 0 || scope == 0 {
            self.encoder.invalid(
                selector,
                format!("wants a set of buffers 1, textures 2, render targets 4, got {scope}"),
            );
        }
        // A barrier for textures alone orders no buffer.
        if scope & 1 != 0 {
            self.encoder.push(selector, Step::Barrier);
        }
    }

    fn barrier_for(&self, resources: *const *mut Object, count: usize) {
        let selector = "memoryBarrierWithResources:count:";
        let buffers = buffers(&self.encoder.place(selector), resources, count);
        let addresses = buffers.iter().map(|buffer| buffer.allocation().memory().address() as usize);
        self.encoder.push(selector, Step::BarrierFor(addresses.collect()));
    }

    fn use_resource(&self, resource: &Object, usage: usize) {
        self.use_resources(&resource.as_ptr(), 1, usage);
    }

    fn use_resources(&self, resources: *const *mut Object, count: usize, usage: usize) {
        let selector = "useResources:count:usage:";
        if usage & !7 != 0 || usage & 3 == 0 {
            self.encoder.invalid(selector, format!("wants a usage of read 1 or write 2, got {usage}"));
        }
        if self.encoder.is_open(selector) {
            let buffers = buffers(&self.encoder.place(selector), resources, count);
            self.arguments().resident.extend(buffers.into_iter().map(|buffer| (buffer, usage & 2 != 0)));
        }
    }
}
