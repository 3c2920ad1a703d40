//! Counts of references: leaks, releases too many, uses after the last.

use crate::metal::*;
use crate::{Abort, Case, Clean, Report};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::AnyObject;
use objc2_foundation::{NSArray, NSString};
use objc2_metal::*;
use std::ffi::{CStr, c_char};

unsafe extern "C" {
    fn softmetal_live(class: *const c_char) -> isize;
    fn softmetal_reports() -> usize;
}

pub fn cases() -> Vec<Case> {
    vec![
        ("objects_are_freed", objects_are_freed, Clean),
        ("strings_and_arrays", strings_and_arrays, Clean),
        ("autoreleased_in_a_pool", autoreleased_in_a_pool, Clean),
        (
            "leaked_command_buffer",
            leaked_command_buffer,
            Report(&["Lifetime", "SoftmetalCommandBuffer", "1 alive"]),
        ),
        ("held_command_buffer", held_command_buffer, Clean),
        ("leaked_string", leaked_string, Report(&["Lifetime", "NSString", "1 alive"])),
        (
            "released_too_often",
            released_too_often,
            Report(&["Lifetime", "-[SoftmetalBuffer release]", "once too often"]),
        ),
        (
            "used_after_release",
            used_after_release,
            Abort(&["Lifetime", "-[SoftmetalBuffer length]", "deallocated"]),
        ),
        (
            "autoreleased_without_a_pool",
            autoreleased_without_a_pool,
            Report(&["Lifetime", "no autorelease pool"]),
        ),
        ("buffer_outlives_its_command_buffer", buffer_outlives_its_command_buffer, Clean),
        ("unretained_and_alive", || unretained(true), Clean),
        (
            "unretained_and_released",
            || unretained(false),
            Report(&["Lifetime", "was released", "unretained references"]),
        ),
    ]
}

fn live(class: &CStr) -> isize {
    // SAFETY: a C string.
    unsafe { softmetal_live(class.as_ptr()) }
}

fn objects_are_freed() {
    let metal = Metal::new();
    let buffer = metal.buffer(SHARED);
    assert_eq!(live(c"SoftmetalBuffer"), 1);
    {
        let commands = metal.commands();
        let encoder = blit(&commands);
        zero(&encoder, &buffer);
        encoder.endEncoding();
        finish(&commands);
    }
    drop(buffer);
    for class in [c"SoftmetalBuffer", c"SoftmetalBlitCommandEncoder"] {
        assert_eq!(live(class), 0, "{class:?}");
    }
    assert_eq!(live(c"Unknown"), -1);
    // SAFETY: asks for a number.
    assert_eq!(unsafe { softmetal_reports() }, 0);
}

fn strings_and_arrays() {
    let (one, other) = (NSString::from_str("one, ω"), NSString::from_str("other"));
    assert_eq!((one.len(), one.length(), one.to_string()), (7, 6, "one, ω".to_owned()));
    assert_ne!(one, other);
    assert_eq!(one, NSString::from_str("one, ω"));
    let array = NSArray::from_slice(&[&*one, &*other]);
    assert_eq!(array.len(), 2);
    assert_eq!(array.iter().map(|string| string.to_string()).collect::<String>(), "one, ωother");
    assert_eq!(array.objectAtIndex(1), other);
}

fn autoreleased_in_a_pool() {
    let metal = Metal::new();
    autoreleasepool(|_| {
        // SAFETY: the result is given to the pool.
        let _: *mut AnyObject = unsafe { objc2::msg_send![&*metal.queue, commandBuffer] };
        // SAFETY: as above.
        let _: *mut AnyObject = unsafe { objc2::msg_send![&*metal.queue, commandBuffer] };
        assert_eq!(live(c"SoftmetalCommandBuffer"), 2);
    });
    assert_eq!(live(c"SoftmetalCommandBuffer"), 0);
}

fn leaked_command_buffer() {
    std::mem::forget(Metal::new().commands());
}

/// A program may keep its queue, and what it encodes into, in a static variable.
fn held_command_buffer() {
    let metal = Metal::new();
    let commands = metal.commands();
    std::mem::forget((serial(&commands), commands, metal));
}

fn leaked_string() {
    // The report is the device's to make: a program that never asks for one is none of Metal's.
    let _metal = Metal::new();
    std::mem::forget(NSString::from_str("leaked"));
}

fn released_too_often() {
    let buffer = Metal::new().buffer(SHARED);
    let raw = Retained::as_ptr(&buffer).cast_mut();
    drop(buffer);
    // SAFETY: not safe: this is what is tested.
    drop(unsafe { Retained::from_raw(raw) });
}

fn used_after_release() {
    let buffer = Metal::new().buffer(SHARED);
    let raw = Retained::as_ptr(&buffer);
    drop(buffer);
    // SAFETY: not safe: this is what is tested.
    unsafe { &*raw }.length();
}

fn autoreleased_without_a_pool() {
    let metal = Metal::new();
    // To join a thread is to wait for its end, and with it its pools'.
    let thread = std::thread::spawn(move || {
        // SAFETY: the result is given to a pool that is not there.
        let _: *mut AnyObject = unsafe { objc2::msg_send![&*metal.queue, commandBuffer] };
        drop(NSString::from_str("the next message"));
    });
    thread.join().expect("the thread");
}

fn buffer_outlives_its_command_buffer() {
    let metal = Metal::new();
    let commands = metal.commands();
    let encoder = blit(&commands);
    // The command buffer keeps what it uses: the program's last reference goes before it runs.
    zero(&encoder, &metal.buffer(SHARED));
    encoder.endEncoding();
    finish(&commands);
    assert_eq!(commands.status(), MTLCommandBufferStatus::Completed);
}

fn unretained(kept: bool) {
    let metal = Metal::new();
    let commands = metal.queue.commandBufferWithUnretainedReferences().expect("a command buffer");
    let buffer = metal.buffer(SHARED);
    let encoder = blit(&commands);
    zero(&encoder, &buffer);
    encoder.endEncoding();
    let kept = kept.then_some(buffer);
    finish(&commands);
    assert_eq!(commands.status() == MTLCommandBufferStatus::Completed, kept.is_some());
    assert_eq!(commands.error().is_none(), kept.is_some());
}
