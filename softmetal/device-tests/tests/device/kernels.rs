//! Dispatches: arguments, limits, order in an encoder, faults.

use crate::metal::*;
use crate::{Case, Clean, Report};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSString;
use objc2_metal::*;
use std::ffi::c_void;
use std::ptr::NonNull;

pub fn cases() -> Vec<Case> {
    vec![
        ("dispatch_computes", dispatch_computes, Clean),
        ("dispatch_with_constants", dispatch_with_constants, Clean),
        ("dispatch_indirect", dispatch_indirect, Clean),
        ("concurrent_with_barrier", || in_one_encoder(true, true), Clean),
        ("concurrent_without_barrier", || in_one_encoder(true, false), Report(&["Hazard", "twice"])),
        ("serial_without_barrier", || in_one_encoder(false, false), Clean),
        ("concurrent_with_barrier_for_the_buffer", concurrent_with_resource_barrier, Clean),
        ("compute_passes_with_a_fence", || compute_passes(true), Clean),
        ("compute_passes_without_a_fence", || compute_passes(false), Report(&["Hazard", "twice"])),
        ("no_pipeline", no_pipeline, Report(&["Validation", "dispatchThreads", "pipeline state"])),
        (
            "argument_missing",
            argument_missing,
            Report(&["Validation", "buffer 1 `value`: wants a buffer or bytes"]),
        ),
        ("index_too_great", index_too_great, Report(&["Validation", "setBuffer", "at most 30"])),
        ("bytes_too_long", bytes_too_long, Report(&["Validation", "setBytes", "4096"])),
        ("bytes_of_nil", bytes_of_nil, Report(&["Validation", "setBytes", "nil"])),
        ("no_bytes", no_bytes, Clean),
        ("bytes_long_enough", bytes_long_enough, Clean),
        ("buffer_too_short", buffer_too_short, Report(&["Validation", "wants 4 bytes at index 1", "got 2"])),
        ("too_many_threads", || threads("fill", 2048), Report(&["Validation", "at most 1024 threads"])),
        (
            "too_many_threads_for_the_kernel",
            || threads("small", 128),
            Report(&["Validation", "at most 64 threads"]),
        ),
        ("threads_that_the_library_is_compiled_for", threads_of_the_library, Clean),
        (
            "more_threads_than_there_are",
            more_threads_than_there_are,
            Report(&["Validation", "MTLCompileOptions", "at most 1024 threads"]),
        ),
        ("whole_simdgroups", || simdgroups(64), Clean),
        ("part_of_a_simdgroup", || simdgroups(48), Report(&["Validation", "whole simdgroups", "[48, 1, 1]"])),
        (
            "threadgroup_memory_asked_for",
            threadgroup_memory_asked_for,
            Report(&["Validation", "staticThreadgroupMemoryLength", "is not known"]),
        ),
        ("as_many_threads_as_the_kernel_takes", || threads("small", 64), Clean),
        (
            "threadgroup_memory_not_of_16",
            threadgroup_memory_not_of_16,
            Report(&["Validation", "multiple of 16"]),
        ),
        ("threadgroup_memory_too_great", threadgroup_memory_too_great, Report(&["Validation", "32768"])),
        ("read_past_the_end", read_past_the_end, Report(&["OutOfBounds", "fill"])),
    ]
}

fn dispatch_computes() {
    let metal = Metal::new();
    let (x, y) = (metal.filled(1.5, SHARED), metal.buffer(SHARED));
    let pipeline = metal.pipeline("twice");
    assert_eq!((pipeline.maxTotalThreadsPerThreadgroup(), pipeline.threadExecutionWidth()), (1024, 32));
    let commands = metal.commands();
    let encoder = serial(&commands);
    twice(&encoder, &pipeline, &x, &y);
    encoder.endEncoding();
    finish(&commands);
    assert_all(&y, 3.0);
}

fn dispatch_with_constants() {
    let metal = Metal::new();
    let y = metal.filled(1.0, SHARED);
    let constants = MTLFunctionConstantValues::new();
    let amount = 2.5f32;
    // SAFETY: a number of that type, which is copied.
    unsafe {
        let value = NonNull::from(&amount).cast::<c_void>();
        constants.setConstantValue_type_atIndex(value, MTLDataType::Float, 3);
    }
    let name = NSString::from_str("add");
    let function =
        metal.library().newFunctionWithName_constantValues_error(&name, &constants).expect("a function");
    let pipeline = metal.device.newComputePipelineStateWithFunction_error(&function).expect("a pipeline");
    let commands = metal.commands();
    let encoder = serial(&commands);
    encoder.setComputePipelineState(&pipeline);
    set(&encoder, 0, &y);
    encoder.dispatchThreadgroups_threadsPerThreadgroup(size(COUNT / 32), size(32));
    encoder.endEncoding();
    finish(&commands);
    assert_all(&y, 3.5);
}

fn dispatch_indirect() {
    let metal = Metal::new();
    let y = metal.filled(0.0, SHARED);
    let groups = [COUNT as u32 / 64, 1u32, 1];
    // SAFETY: bytes that are copied.
    let groups =
        unsafe { metal.device.newBufferWithBytes_length_options(NonNull::from(&groups).cast(), 12, SHARED) };
    let commands = metal.commands();
    let encoder = serial(&commands);
    encoder.setComputePipelineState(&metal.pipeline("fill"));
    set(&encoder, 0, &y);
    set_bytes(&encoder, 1, &4.0f32);
    // SAFETY: three numbers in the buffer.
    unsafe {
        encoder.dispatchThreadgroupsWithIndirectBuffer_indirectBufferOffset_threadsPerThreadgroup(
            &groups.expect("a buffer"),
            0,
            size(32),
        );
    }
    encoder.endEncoding();
    finish(&commands);
    let values = read(&y);
    assert_eq!((values[COUNT / 2 - 1], values[COUNT / 2]), (4.0, 0.0));
}

/// A dispatch writes a buffer, the next reads it.
fn in_one_encoder(is_concurrent: bool, barrier: bool) {
    let metal = Metal::new();
    let (x, y) = (metal.filled(1.0, SHARED), metal.buffer(SHARED));
    let (first, second) = (metal.pipeline("fill"), metal.pipeline("twice"));
    let commands = metal.commands();
    let encoder = if is_concurrent { concurrent(&commands) } else { serial(&commands) };
    fill(&encoder, &first, &x, 2.0);
    if barrier {
        encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
    }
    twice(&encoder, &second, &x, &y);
    encoder.endEncoding();
    finish(&commands);
    if barrier || !is_concurrent {
        assert_all(&y, 4.0);
    }
}

fn concurrent_with_resource_barrier() {
    let metal = Metal::new();
    let (x, y) = (metal.filled(1.0, SHARED), metal.buffer(SHARED));
    let (first, second) = (metal.pipeline("fill"), metal.pipeline("twice"));
    let commands = metal.commands();
    let encoder = concurrent(&commands);
    fill(&encoder, &first, &x, 2.0);
    let resource: &ProtocolObject<dyn MTLResource> = ProtocolObject::from_ref(&*x);
    let resource = NonNull::from(resource);
    // SAFETY: an array of one.
    unsafe { encoder.memoryBarrierWithResources_count(NonNull::from(&resource), 1) };
    twice(&encoder, &second, &x, &y);
    encoder.endEncoding();
    finish(&commands);
    assert_all(&y, 4.0);
}

fn compute_passes(fenced: bool) {
    let metal = Metal::new();
    let (x, y) = (metal.filled(1.0, UNTRACKED), metal.buffer(UNTRACKED));
    let (first, second) = (metal.pipeline("fill"), metal.pipeline("twice"));
    let fence = metal.device.newFence().expect("a fence");
    let commands = metal.commands();
    let encoder = concurrent(&commands);
    fill(&encoder, &first, &x, 2.0);
    if fenced {
        encoder.updateFence(&fence);
    }
    encoder.endEncoding();
    let encoder = concurrent(&commands);
    if fenced {
        encoder.waitForFence(&fence);
    }
    twice(&encoder, &second, &x, &y);
    encoder.endEncoding();
    finish(&commands);
    assert_all(&y, 4.0);
}

/// Runs what a case encodes in a serial encoder.
fn encode(body: impl FnOnce(&Metal, &Compute, &Buffer)) {
    let metal = Metal::new();
    let y = metal.filled(0.0, SHARED);
    let commands = metal.commands();
    let encoder = serial(&commands);
    body(&metal, &encoder, &y);
    encoder.endEncoding();
    finish(&commands);
}

fn no_pipeline() {
    encode(|_, encoder, y| {
        set(encoder, 0, y);
        encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT), size(32));
    });
}

fn argument_missing() {
    encode(|metal, encoder, y| {
        encoder.setComputePipelineState(&metal.pipeline("fill"));
        set(encoder, 0, y);
        encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT), size(32));
    });
}

fn index_too_great() {
    encode(|_, encoder, y| set(encoder, 31, y));
}

fn bytes_too_long() {
    encode(|_, encoder, _| set_bytes(encoder, 0, &[0u8; 4097]));
}

fn bytes_of_nil() {
    encode(|_, encoder, _| {
        // SAFETY: not safe: this is what is tested. The typed method has no nil.
        unsafe {
            objc2::msg_send![&**encoder, setBytes: std::ptr::null::<c_void>(), length: 0usize, atIndex: 0usize]
        }
    });
}

fn no_bytes() {
    encode(|_, encoder, _| set_bytes(encoder, 0, &[0u8; 0]));
}

fn bytes_long_enough() {
    encode(|_, encoder, _| set_bytes(encoder, 0, &[0u8; 4096]));
}

fn buffer_too_short() {
    encode(|metal, encoder, y| {
        encoder.setComputePipelineState(&metal.pipeline("fill"));
        set(encoder, 0, y);
        set_bytes(encoder, 1, &0u16);
        encoder.dispatchThreads_threadsPerThreadgroup(size(0), size(32));
    });
}

fn threads(kernel: &str, threads: usize) {
    encode(|metal, encoder, y| {
        encoder.setComputePipelineState(&metal.pipeline(kernel));
        set(encoder, 0, y);
        set_bytes(encoder, 1, &1.0f32);
        encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT), size(threads));
    });
}

/// The options count where the kernel says nothing.
fn threads_of_the_library() {
    let metal = Metal::new();
    let options = MTLCompileOptions::new();
    options.setMaxTotalThreadsPerThreadgroup(256);
    let source = NSString::from_str(SOURCE);
    let made = metal.device.newLibraryWithSource_options_error(&source, Some(&options));
    let library = made.expect("a library");
    for (name, threads) in [("fill", 256), ("small", 64)] {
        let function = library.newFunctionWithName(&NSString::from_str(name)).expect("a kernel");
        let made = metal.device.newComputePipelineStateWithFunction_error(&function);
        assert_eq!(made.expect("a pipeline").maxTotalThreadsPerThreadgroup(), threads, "{name}");
    }
}

fn more_threads_than_there_are() {
    MTLCompileOptions::new().setMaxTotalThreadsPerThreadgroup(2048);
}

fn simdgroups(threads: usize) {
    encode(|metal, encoder, y| {
        let function = metal.library().newFunctionWithName(&NSString::from_str("small")).expect("a kernel");
        let descriptor = MTLComputePipelineDescriptor::new();
        descriptor.setComputeFunction(Some(&function));
        // SAFETY: what is dispatched may say otherwise, which is what is tested.
        unsafe { descriptor.setThreadGroupSizeIsMultipleOfThreadExecutionWidth(true) };
        let made = metal.device.newComputePipelineStateWithDescriptor_options_reflection_error(
            &descriptor,
            MTLPipelineOption::empty(),
            None,
        );
        encoder.setComputePipelineState(&made.expect("a pipeline"));
        set(encoder, 0, y);
        encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT), size(threads));
    });
}

fn threadgroup_memory_asked_for() {
    assert_eq!(Metal::new().pipeline("fill").staticThreadgroupMemoryLength(), 0);
}

fn threadgroup_memory_not_of_16() {
    // SAFETY: not a multiple of 16, which is what is tested.
    encode(|_, encoder, _| unsafe { encoder.setThreadgroupMemoryLength_atIndex(20, 0) });
}

fn threadgroup_memory_too_great() {
    // SAFETY: more than there is, which is what is tested.
    encode(|_, encoder, _| unsafe { encoder.setThreadgroupMemoryLength_atIndex(32768 + 16, 0) });
}

fn read_past_the_end() {
    encode(|metal, encoder, y| {
        encoder.setComputePipelineState(&metal.pipeline("fill"));
        set(encoder, 0, y);
        set_bytes(encoder, 1, &1.0f32);
        encoder.dispatchThreads_threadsPerThreadgroup(size(COUNT + 1), size(32));
    });
}
