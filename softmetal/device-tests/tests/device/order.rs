//! What is ordered after what: fences, barriers, events, hazard tracking, the host.

use crate::metal::*;
use crate::{Case, Clean, Report};
use objc2::runtime::ProtocolObject;
use objc2_metal::*;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        ("passes_with_a_fence", || passes(UNTRACKED, true, false), Clean),
        ("passes_without_a_fence", || passes(UNTRACKED, false, false), Report(&["Hazard"])),
        ("passes_of_a_tracked_buffer", || passes(SHARED, false, false), Clean),
        ("command_buffers_with_a_fence", || passes(UNTRACKED, true, true), Clean),
        ("command_buffers_without_a_fence", || passes(UNTRACKED, false, true), Report(&["Hazard"])),
        ("command_buffers_of_a_tracked_buffer", || passes(SHARED, false, true), Clean),
        ("queues_with_an_event", || queues(true), Clean),
        ("queues_without_an_event", || queues(false), Report(&["Hazard"])),
        ("host_has_waited", host_has_waited, Clean),
        ("host_reads_too_early", host_reads_too_early, Report(&["Hazard", "host"])),
        ("host_writes_too_early", host_writes_too_early, Report(&["Hazard", "host"])),
        ("host_has_polled", host_has_polled, Clean),
        ("host_saw_a_shared_event", host_saw_a_shared_event, Clean),
        ("host_saw_an_earlier_signal", host_saw_an_earlier_signal, Report(&["Hazard", "host", "got a read"])),
        ("host_signals_a_command_buffer", host_signals_a_command_buffer, Clean),
    ]
}

/// One pass writes a buffer, another reads it.
fn passes(options: MTLResourceOptions, fenced: bool, two_command_buffers: bool) {
    let metal = Metal::new();
    let (buffer, back) = (metal.filled(1.0, options), metal.buffer(SHARED));
    let fence = metal.device.newFence().expect("a fence");
    let mut commands = metal.commands();
    let encoder = blit(&commands);
    zero(&encoder, &buffer);
    if fenced {
        encoder.updateFence(&fence);
    }
    encoder.endEncoding();
    if two_command_buffers {
        commands.commit();
        commands = metal.commands();
    }
    let encoder = blit(&commands);
    if fenced {
        encoder.waitForFence(&fence);
    }
    copy(&encoder, &buffer, &back);
    encoder.endEncoding();
    finish(&commands);
    assert_all(&back, 0.0);
}

/// One queue writes a buffer, another reads it: tracking does not reach over queues.
fn queues(with_event: bool) {
    let metal = Metal::new();
    let other = metal.device.newCommandQueue().expect("a queue");
    let event = metal.device.newEvent().expect("an event");
    let (buffer, back) = (metal.filled(1.0, SHARED), metal.buffer(SHARED));
    let first = metal.commands();
    let encoder = blit(&first);
    zero(&encoder, &buffer);
    encoder.endEncoding();
    if with_event {
        first.encodeSignalEvent_value(ProtocolObject::from_ref(&*event), 1);
    }
    first.commit();
    if !with_event {
        // The order in time is not what is tested: the host looks at nothing that would make it known.
        std::thread::sleep(Duration::from_millis(200));
    }
    let second = other.commandBuffer().expect("a command buffer");
    if with_event {
        second.encodeWaitForEvent_value(ProtocolObject::from_ref(&*event), 1);
    }
    let encoder = blit(&second);
    copy(&encoder, &buffer, &back);
    encoder.endEncoding();
    finish(&second);
    assert_all(&back, 0.0);
}

fn zeroed(metal: &Metal, buffer: &Buffer) -> CommandBuffer {
    let commands = metal.commands();
    let encoder = blit(&commands);
    zero(&encoder, buffer);
    encoder.endEncoding();
    commands
}

fn host_has_waited() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, UNTRACKED);
    finish(&zeroed(&metal, &buffer));
    assert_all(&buffer, 0.0);
    // Known to be done, so that the next needs no fence.
    finish(&zeroed(&metal, &buffer));
}

fn host_reads_too_early() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, SHARED);
    let commands = zeroed(&metal, &buffer);
    commands.commit();
    read(&buffer);
    commands.waitUntilCompleted();
}

fn host_writes_too_early() {
    let metal = Metal::new();
    let (from, to) = (metal.filled(1.0, SHARED), metal.buffer(SHARED));
    let commands = metal.commands();
    let encoder = blit(&commands);
    copy(&encoder, &from, &to);
    encoder.endEncoding();
    commands.commit();
    // The device reads it: to read it too is no harm, to write it is.
    read(&from);
    // SAFETY: in the buffer's memory.
    unsafe { from.contents().cast::<f32>().as_ptr().write_volatile(2.0) };
    commands.waitUntilCompleted();
}

fn host_has_polled() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, SHARED);
    let commands = zeroed(&metal, &buffer);
    commands.commit();
    let begin = Instant::now();
    while commands.status() != MTLCommandBufferStatus::Completed {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    assert_all(&buffer, 0.0);
}

fn host_saw_a_shared_event() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, SHARED);
    let event = metal.device.newSharedEvent().expect("an event");
    let commands = zeroed(&metal, &buffer);
    commands.encodeSignalEvent_value(ProtocolObject::from_ref(&*event), 5);
    commands.commit();
    assert!(event.waitUntilSignaledValue_timeoutMS(5, 10_000));
    assert_eq!(event.signaledValue(), 5);
    assert_all(&buffer, 0.0);
    commands.waitUntilCompleted();
}

/// The signal comes before the write that the host relies on.
fn host_saw_an_earlier_signal() {
    let metal = Metal::new();
    let buffer = metal.filled(1.0, SHARED);
    let event = metal.device.newSharedEvent().expect("an event");
    let commands = metal.commands();
    commands.encodeSignalEvent_value(ProtocolObject::from_ref(&*event), 5);
    let encoder = blit(&commands);
    zero(&encoder, &buffer);
    encoder.endEncoding();
    commands.commit();
    assert!(event.waitUntilSignaledValue_timeoutMS(5, 10_000));
    read(&buffer);
    commands.waitUntilCompleted();
}

fn host_signals_a_command_buffer() {
    let metal = Metal::new();
    let event = metal.device.newSharedEvent().expect("an event");
    let buffer = metal.filled(1.0, SHARED);
    let commands = metal.commands();
    commands.encodeWaitForEvent_value(ProtocolObject::from_ref(&*event), 1);
    let encoder = blit(&commands);
    zero(&encoder, &buffer);
    encoder.endEncoding();
    commands.commit();
    std::thread::sleep(Duration::from_millis(20));
    assert_ne!(commands.status(), MTLCommandBufferStatus::Completed);
    event.setSignaledValue(1);
    commands.waitUntilCompleted();
    assert_all(&buffer, 0.0);
}
