//! Calls that Metal does not allow, and such that it does.

use crate::metal::*;
use crate::{Case, Clean, Report};
use block2::RcBlock;
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSProcessInfo, NSRange, NSString};
use objc2_metal::*;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        ("device_answers", device_answers, Clean),
        ("blit_copies_and_fills", blit_copies_and_fills, Clean),
        ("handlers_are_called", handlers_are_called, Clean),
        ("command_buffers_run_asynchronously", command_buffers_run_asynchronously, Clean),
        ("queue_keeps_the_order_of_enqueue", queue_keeps_the_order_of_enqueue, Clean),
        ("compile_error_names_the_line", compile_error_names_the_line, Clean),
        ("queue_waits_for_room", queue_waits_for_room, Clean),
        ("handler_asks_for_another", handler_asks_for_another, Clean),
        ("queue_without_room", queue_without_room, Report(&["Validation", "commandBuffer", "at most 1"])),
        ("residency_set_holds_members", residency_set_holds_members, Clean),
        ("labels_and_groups", labels_and_groups, Clean),
        ("commit_twice", commit_twice, Report(&["Validation", "commit", "committed before"])),
        ("commit_while_encoding", commit_while_encoding, Report(&["Validation", "commit]", "endEncoding"])),
        (
            "two_encoders_at_once",
            two_encoders_at_once,
            Report(&["Validation", "blitCommandEncoder", "endEncoding"]),
        ),
        ("encode_after_end", encode_after_end, Report(&["Validation", "fillBuffer", "after endEncoding"])),
        ("encoder_never_ended", encoder_never_ended, Report(&["Validation", "dealloc", "endEncoding"])),
        ("wait_without_commit", wait_without_commit, Report(&["Validation", "waitUntilCompleted", "is not"])),
        ("handler_after_commit", handler_after_commit, Report(&["Validation", "addCompletedHandler:"])),
        ("private_contents", private_contents, Report(&["Validation", "contents", "private"])),
        ("empty_buffer", empty_buffer, Report(&["Validation", "newBufferWithLength", "at least 1"])),
        ("blit_out_of_range", blit_out_of_range, Report(&["Validation", "copyFromBuffer", "destination"])),
        ("blit_onto_itself", blit_onto_itself, Report(&["Validation", "copyFromBuffer", "overlap"])),
        ("wait_after_update", wait_after_update, Report(&["Validation", "waitForFence:", "has not updated"])),
        (
            "debug_group_left_open",
            debug_group_left_open,
            Report(&["Validation", "endEncoding", "debug group"]),
        ),
    ]
}

fn device_answers() {
    let metal = Metal::new();
    assert!(metal.device.name().to_string().contains("softmetal"));
    assert!(metal.device.architecture().name().to_string().starts_with("applegpu"));
    assert_eq!(metal.device.maxThreadsPerThreadgroup().width, 1024);
    assert_eq!(metal.device.maxThreadgroupMemoryLength(), 32768);
    assert!(metal.device.supportsFamily(MTLGPUFamily::Apple7) && metal.device.hasUnifiedMemory());
    assert_eq!(MTLCopyAllDevices().to_vec().len(), 1);
    let before = metal.device.currentAllocatedSize();
    let buffer = metal.buffer(UNTRACKED);
    assert_eq!(metal.device.currentAllocatedSize(), before + 4 * COUNT);
    assert_eq!(buffer.length(), 4 * COUNT);
    assert_eq!(buffer.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
    assert_eq!(metal.buffer(PRIVATE).storageMode(), MTLStorageMode::Private);
    assert_ne!(buffer.gpuAddress(), 0);
    assert!(NSProcessInfo::processInfo().operatingSystemVersion().majorVersion >= 14);
}

fn blit_copies_and_fills() {
    let metal = Metal::new();
    let (from, to) = (metal.filled(3.0, SHARED), metal.buffer(PRIVATE));
    let back = metal.buffer(SHARED);
    let commands = metal.commands();
    let encoder = blit(&commands);
    copy(&encoder, &from, &to);
    copy(&encoder, &to, &back);
    encoder.fillBuffer_range_value(&back, NSRange { location: 0, length: 4 }, 0);
    encoder.endEncoding();
    finish(&commands);
    let values = read(&back);
    assert_eq!((values[0], values[1], values[COUNT - 1]), (0.0, 3.0, 3.0));
    assert_eq!(commands.status(), MTLCommandBufferStatus::Completed);
    assert!(commands.error().is_none());
    assert!(commands.GPUEndTime() >= commands.GPUStartTime() && commands.GPUStartTime() > 0.0);
}

fn handlers_are_called() {
    let metal = Metal::new();
    let count = Arc::new(AtomicUsize::new(0));
    let commands = metal.commands();
    for (add, when) in [(0usize, 1), (1, 10)] {
        let count = count.clone();
        let block = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
            count.fetch_add(when, Ordering::SeqCst);
        });
        // SAFETY: a block that is copied.
        unsafe {
            match add {
                0 => commands.addScheduledHandler(RcBlock::as_ptr(&block)),
                _ => commands.addCompletedHandler(RcBlock::as_ptr(&block)),
            }
        }
    }
    finish(&commands);
    assert_eq!(count.load(Ordering::SeqCst), 11);
    assert_eq!(Arc::strong_count(&count), 1, "the blocks are released after their calls");
}

fn command_buffers_run_asynchronously() {
    let metal = Metal::new();
    let gate = Arc::new(Barrier::new(2));
    let commands = metal.commands();
    let waits = gate.clone();
    let block = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
        waits.wait();
    });
    // SAFETY: a block that is copied.
    unsafe { commands.addScheduledHandler(RcBlock::as_ptr(&block)) };
    // Would wait for ever, did commit run the command buffer itself.
    commands.commit();
    gate.wait();
    commands.waitUntilCompleted();
}

fn queue_keeps_the_order_of_enqueue() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, SHARED);
    let back = metal.buffer(SHARED);
    let (first, second) = (metal.commands(), metal.commands());
    first.enqueue();
    second.enqueue();
    for (commands, zeroes) in [(&second, false), (&first, true)] {
        let encoder = blit(commands);
        if zeroes {
            zero(&encoder, &buffer)
        } else {
            copy(&encoder, &buffer, &back)
        }
        encoder.endEncoding();
        commands.commit();
    }
    second.waitUntilCompleted();
    assert_all(&back, 0.0);
}

fn compile_error_names_the_line() {
    let metal = Metal::new();
    let source = NSString::from_str(
        "#include <metal_stdlib>\nkernel void f(device float* x [[buffer(0)]]) {\n  x[0] = unknown;\n}\n",
    );
    // The library's own error, as Metal's is, although nobody has asked for the kernel.
    let error = metal.device.newLibraryWithSource_options_error(&source, None).expect_err("an error");
    let text = error.to_string();
    assert!(text.contains("unknown") && text.contains("program_source:3:"), "{text}");
    assert_eq!((error.domain().to_string().as_str(), error.code()), ("MTLLibraryErrorDomain", 3));
    assert!(metal.library().newFunctionWithName(&NSString::from_str("absent")).is_none());
}

fn queue_waits_for_room() {
    let metal = Metal::new();
    let queue = metal.device.newCommandQueueWithMaxCommandBufferCount(2).expect("a queue");
    let mut committed = Vec::new();
    for _ in 0..5 {
        let commands = queue.commandBuffer().expect("a command buffer");
        let slow = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
            std::thread::sleep(Duration::from_millis(30));
        });
        // SAFETY: a block that is copied.
        unsafe { commands.addScheduledHandler(RcBlock::as_ptr(&slow)) };
        commands.commit();
        committed.push(commands);
        if let Some(before) = committed.len().checked_sub(3) {
            assert_eq!(committed[before].status(), MTLCommandBufferStatus::Completed);
        }
    }
    committed[4].waitUntilCompleted();
}

fn handler_asks_for_another() {
    let queue = Metal::new().device.newCommandQueueWithMaxCommandBufferCount(1).expect("a queue");
    let commands = queue.commandBuffer().expect("a command buffer");
    let again = queue.clone();
    let block = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
        assert!(again.commandBuffer().is_some());
    });
    // SAFETY: a block that is copied.
    unsafe { commands.addCompletedHandler(RcBlock::as_ptr(&block)) };
    commands.commit();
    commands.waitUntilCompleted();
}

fn queue_without_room() {
    let queue = Metal::new().device.newCommandQueueWithMaxCommandBufferCount(1).expect("a queue");
    let first = queue.commandBuffer();
    assert!(first.is_some() && queue.commandBuffer().is_some());
    drop(first);
    // Those two went without a commit, and leave their room.
    assert!(queue.commandBuffer().is_some());
}

fn residency_set_holds_members() {
    let metal = Metal::new();
    let descriptor = MTLResidencySetDescriptor::new();
    let set = metal.device.newResidencySetWithDescriptor_error(&descriptor).expect("a set");
    let buffer = metal.buffer(SHARED);
    let member: &ProtocolObject<dyn MTLAllocation> = ProtocolObject::from_ref(&*buffer);
    set.addAllocation(member);
    set.commit();
    set.requestResidency();
    metal.queue.addResidencySet(&set);
    assert_eq!(set.allocationCount(), 1);
    set.removeAllocation(member);
    set.commit();
    assert_eq!(set.allocationCount(), 0);
}

fn labels_and_groups() {
    let metal = Metal::new();
    let name = NSString::from_str("my buffer");
    let buffer = metal.buffer(SHARED);
    buffer.setLabel(Some(&name));
    assert_eq!(buffer.label().expect("a label").to_string(), "my buffer");
    let commands = metal.commands();
    commands.setLabel(Some(&name));
    let encoder = blit(&commands);
    encoder.setLabel(Some(&name));
    encoder.pushDebugGroup(&name);
    zero(&encoder, &buffer);
    encoder.popDebugGroup();
    encoder.endEncoding();
    finish(&commands);
}

fn commit_twice() {
    let commands = Metal::new().commands();
    commands.commit();
    commands.commit();
    commands.waitUntilCompleted();
}

fn commit_while_encoding() {
    let commands = Metal::new().commands();
    let encoder = blit(&commands);
    commands.commit();
    encoder.endEncoding();
    commands.waitUntilCompleted();
}

fn two_encoders_at_once() {
    let commands = Metal::new().commands();
    let encoder = serial(&commands);
    assert!(commands.blitCommandEncoder().is_none());
    encoder.endEncoding();
    finish(&commands);
}

fn encode_after_end() {
    let metal = Metal::new();
    let commands = metal.commands();
    let encoder = blit(&commands);
    encoder.endEncoding();
    zero(&encoder, &metal.buffer(SHARED));
    finish(&commands);
}

fn encoder_never_ended() {
    let commands = Metal::new().commands();
    drop(blit(&commands));
    finish(&commands);
}

fn wait_without_commit() {
    Metal::new().commands().waitUntilCompleted();
}

fn handler_after_commit() {
    let commands = Metal::new().commands();
    finish(&commands);
    let block = RcBlock::new(|_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {});
    // SAFETY: a block that is copied.
    unsafe { commands.addCompletedHandler(RcBlock::as_ptr(&block)) };
}

fn private_contents() {
    let buffer = Metal::new().buffer(PRIVATE);
    // SAFETY: the result is not used; Metal returns null, which the typed method does not know.
    let contents: *mut std::ffi::c_void = unsafe { objc2::msg_send![&*buffer, contents] };
    assert!(contents.is_null());
}

fn empty_buffer() {
    let buffer = Metal::new().device.newBufferWithLength_options(0, SHARED).expect("a buffer");
    assert_eq!(buffer.length(), 0);
}

fn blit_out_of_range() {
    let metal = Metal::new();
    let (from, to) = (metal.filled(1.0, SHARED), metal.buffer(SHARED));
    let commands = metal.commands();
    let encoder = blit(&commands);
    // SAFETY: the range is wrong by 4 bytes, which is what is tested.
    unsafe {
        encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&from, 0, &to, 4, 4 * COUNT)
    };
    encoder.endEncoding();
    finish(&commands);
}

fn blit_onto_itself() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, SHARED);
    let commands = metal.commands();
    let encoder = blit(&commands);
    // SAFETY: ranges in the buffer, which overlap.
    unsafe { encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&buffer, 0, &buffer, 4, 8) };
    encoder.endEncoding();
    finish(&commands);
}

fn wait_after_update() {
    let metal = Metal::new();
    let fence = metal.device.newFence().expect("a fence");
    let commands = metal.commands();
    let encoder = blit(&commands);
    encoder.updateFence(&fence);
    encoder.waitForFence(&fence);
    encoder.endEncoding();
    finish(&commands);
}

fn debug_group_left_open() {
    let commands = Metal::new().commands();
    let encoder = serial(&commands);
    encoder.pushDebugGroup(&NSString::from_str("open"));
    encoder.endEncoding();
    finish(&commands);
}
