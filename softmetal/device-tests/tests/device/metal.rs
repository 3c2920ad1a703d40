//! What the cases have in common: a device, a queue, buffers, kernels.

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSRange, NSString};
use objc2_metal::*;
use std::ffi::c_void;
use std::ptr::NonNull;

pub type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;
pub type Queue = Retained<ProtocolObject<dyn MTLCommandQueue>>;
pub type CommandBuffer = Retained<ProtocolObject<dyn MTLCommandBuffer>>;
pub type Compute = Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>;
pub type Blit = Retained<ProtocolObject<dyn MTLBlitCommandEncoder>>;
pub type Pipeline = Retained<ProtocolObject<dyn MTLComputePipelineState>>;

pub const SHARED: MTLResourceOptions = MTLResourceOptions::StorageModeShared;
pub const PRIVATE: MTLResourceOptions = MTLResourceOptions::StorageModePrivate;
/// Shared, and ordered by the program alone.
pub const UNTRACKED: MTLResourceOptions = MTLResourceOptions(
    MTLResourceOptions::StorageModeShared.0 | MTLResourceOptions::HazardTrackingModeUntracked.0,
);

/// One number to each thread: `fill`, `double`, `add_one`.
pub const SOURCE: &str = "
#include <metal_stdlib>
using namespace metal;
kernel void fill(device float* y [[buffer(0)]], constant float& value [[buffer(1)]], uint i [[thread_position_in_grid]]) {
    y[i] = value;
}
kernel void twice(device const float* x [[buffer(0)]], device float* y [[buffer(1)]], uint i [[thread_position_in_grid]]) {
    y[i] = 2 * x[i];
}
constant float amount [[function_constant(3)]];
kernel void add(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    y[i] += amount;
}
[[max_total_threads_per_threadgroup(64)]]
kernel void small(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    y[i] = 1;
}
";

/// Numbers in the cases' buffers.
pub const COUNT: usize = 256;

pub struct Metal {
    pub device: Retained<ProtocolObject<dyn MTLDevice>>,
    pub queue: Queue,
}

pub fn size(width: usize) -> MTLSize {
    MTLSize { width, height: 1, depth: 1 }
}

impl Metal {
    pub fn new() -> Self {
        let device = MTLCreateSystemDefaultDevice().expect("a device");
        let queue = device.newCommandQueue().expect("a queue");
        Self { device, queue }
    }

    pub fn buffer(&self, options: MTLResourceOptions) -> Buffer {
        self.device.newBufferWithLength_options(4 * COUNT, options).expect("a buffer")
    }

    pub fn filled(&self, value: f32, options: MTLResourceOptions) -> Buffer {
        let values = [value; COUNT];
        // SAFETY: bytes that are copied.
        let buffer = unsafe {
            self.device.newBufferWithBytes_length_options(NonNull::from(&values).cast(), 4 * COUNT, options)
        };
        buffer.expect("a buffer")
    }

    pub fn commands(&self) -> CommandBuffer {
        self.queue.commandBuffer().expect("a command buffer")
    }

    pub fn library(&self) -> Retained<ProtocolObject<dyn MTLLibrary>> {
        let source = NSString::from_str(SOURCE);
        self.device.newLibraryWithSource_options_error(&source, None).expect("a library")
    }

    pub fn pipeline(&self, name: &str) -> Pipeline {
        let function = self.library().newFunctionWithName(&NSString::from_str(name)).expect("a kernel");
        self.device.newComputePipelineStateWithFunction_error(&function).expect("a pipeline")
    }
}

pub fn concurrent(commands: &CommandBuffer) -> Compute {
    commands.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent).expect("an encoder")
}

pub fn serial(commands: &CommandBuffer) -> Compute {
    commands.computeCommandEncoder().expect("an encoder")
}

pub fn blit(commands: &CommandBuffer) -> Blit {
    commands.blitCommandEncoder().expect("an encoder")
}

pub fn zero(encoder: &Blit, buffer: &Buffer) {
    encoder.fillBuffer_range_value(buffer, NSRange { location: 0, length: 4 * COUNT }, 0);
}

pub fn copy(encoder: &Blit, from: &Buffer, to: &Buffer) {
    // SAFETY: ranges in the buffers.
    unsafe { encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(from, 0, to, 0, 4 * COUNT) };
}

/// Binds a buffer.
pub fn set(encoder: &Compute, index: usize, buffer: &Buffer) {
    // SAFETY: the cases bind what their kernels have, or mean not to.
    unsafe { encoder.setBuffer_offset_atIndex(Some(buffer), 0, index) };
}

/// Binds bytes.
pub fn set_bytes<T>(encoder: &Compute, index: usize, value: &T) {
    let bytes = NonNull::from(value).cast::<c_void>();
    // SAFETY: bytes that are copied.
    unsafe { encoder.setBytes_length_atIndex(bytes, size_of::<T>(), index) };
}

/// Dispatches `y = value`.
pub fn fill(encoder: &Compute, pipeline: &Pipeline, y: &Buffer, value: f32) {
    encoder.setComputePipelineState(pipeline);
    set(encoder, 0, y);
    set_bytes(encoder, 1, &value);
    encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT), size(32));
}

/// Dispatches `y = 2 x`.
pub fn twice(encoder: &Compute, pipeline: &Pipeline, x: &Buffer, y: &Buffer) {
    encoder.setComputePipelineState(pipeline);
    set(encoder, 0, x);
    set(encoder, 1, y);
    encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT), size(32));
}

pub fn finish(commands: &CommandBuffer) {
    commands.commit();
    commands.waitUntilCompleted();
}

/// What the host finds in a buffer.
pub fn read(buffer: &Buffer) -> Vec<f32> {
    // SAFETY: a buffer of that many numbers; whether it may be read is what is tested.
    unsafe { std::slice::from_raw_parts(buffer.contents().as_ptr().cast::<f32>(), COUNT) }.to_vec()
}

/// Fails at the first number of a buffer that is another.
#[track_caller]
pub fn assert_all(buffer: &Buffer, wanted: f32) {
    let values = read(buffer);
    let wrong = values.iter().position(|&value| value != wanted);
    assert_eq!(wrong.map(|index| (index, values[index])), None, "wants {wanted}");
}
