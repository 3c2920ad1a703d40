//! Sums 1 to 1000 on a Metal device: `softmetal cargo run`, or `cargo run` on a Mac.

use std::error::Error;
use std::ffi::c_void;
use std::ptr::NonNull;

use objc2_foundation::NSString;
use objc2_metal::{
    MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLCommandQueue, MTLComputeCommandEncoder,
    MTLCreateSystemDefaultDevice, MTLDevice, MTLLibrary, MTLResourceOptions, MTLSize,
};

#[cfg(target_vendor = "apple")]
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

const THREADS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let device = MTLCreateSystemDefaultDevice().ok_or("no Metal device")?;
    let source = std::env::args().nth(1).map_or(Ok(include_str!("sum.metal").to_owned()), std::fs::read_to_string)?;
    let library = device.newLibraryWithSource_options_error(&NSString::from_str(&source), None)?;
    let function = library.newFunctionWithName(&NSString::from_str("sum")).ok_or("no kernel `sum`")?;
    let pipeline = device.newComputePipelineStateWithFunction_error(&function)?;

    let x: Vec<f32> = (1..=1000u16).map(f32::from).collect();
    let n = x.len() as u32;
    let groups = x.len().div_ceil(THREADS);
    let shared = MTLResourceOptions::StorageModeShared;
    // SAFETY: the pointer is to that many bytes, which are copied.
    let x = unsafe { device.newBufferWithBytes_length_options(NonNull::from(&x[..]).cast(), 4 * x.len(), shared) };
    let x = x.ok_or("no memory")?;
    let sums = device.newBufferWithLength_options(4 * groups, shared).ok_or("no memory")?;

    let queue = device.newCommandQueue().ok_or("no command queue")?;
    let commands = queue.commandBuffer().ok_or("no command buffer")?;
    let encoder = commands.computeCommandEncoder().ok_or("no encoder")?;
    encoder.setComputePipelineState(&pipeline);
    let size = |width| MTLSize { width, height: 1, depth: 1 };
    // SAFETY: the arguments are those of the kernel.
    unsafe {
        encoder.setBuffer_offset_atIndex(Some(&x), 0, 0);
        encoder.setBuffer_offset_atIndex(Some(&sums), 0, 1);
        encoder.setBytes_length_atIndex(NonNull::from(&n).cast::<c_void>(), 4, 2);
    }
    encoder.dispatchThreadgroups_threadsPerThreadgroup(size(groups), size(THREADS));
    encoder.endEncoding();
    commands.commit();
    commands.waitUntilCompleted();

    // SAFETY: the buffer is of that many floats, and nothing writes it any more.
    let sums = unsafe { std::slice::from_raw_parts(sums.contents().cast::<f32>().as_ptr(), groups) };
    println!("{} on {}", sums.iter().sum::<f32>(), device.name());
    Ok(())
}
