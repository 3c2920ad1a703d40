//! The Metal classes.
//!
//! ```text
//! device, buffer, library, pipeline     what programs make
//! queue, command_buffer                 a thread per queue runs command buffers in the order of their commits
//! encoder, compute, blit                what is written into them
//! order, fence, event                   what is ordered after what: the rules stand in `order`
//! memory                                where buffers lie, and what the host may touch
//! ```

mod blit;
mod buffer;
mod capture;
mod command_buffer;
mod compute;
mod descriptors;
mod device;
mod encoder;
mod event;
mod fence;
mod library;
pub mod memory;
mod order;
mod pipeline;
mod queue;
mod residency;
mod run;

pub use buffer::Buffer;
pub use command_buffer::CommandBuffer;
pub use device::{Device, device};
pub use queue::CommandQueue;
pub(crate) use queue::wait_until_idle;

/// How many instances of a class live at the end of the process without being a leak.
pub(crate) fn held_at_exit(class: &Class) -> usize {
    let (buffers, encoders) = queue::held_at_exit();
    let is = |other: &Class| std::ptr::eq(class, other);
    if is(CommandBuffer::class()) {
        buffers
    } else if is(compute::ComputeCommandEncoder::class()) || is(blit::BlitCommandEncoder::class()) {
        encoders
    } else {
        0
    }
}

use crate::objc::{Class, IsClass};
use crate::report::{self, Kind, Report};

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[
    device::Device::class,
    device::Architecture::class,
    buffer::Buffer::class,
    queue::CommandQueue::class,
    command_buffer::CommandBuffer::class,
    compute::ComputeCommandEncoder::class,
    blit::BlitCommandEncoder::class,
    library::Library::class,
    library::Function::class,
    library::CompileOptions::class,
    library::FunctionConstantValues::class,
    pipeline::ComputePipelineState::class,
    descriptors::CommandBufferDescriptor::class,
    descriptors::CommandQueueDescriptor::class,
    descriptors::ComputePassDescriptor::class,
    descriptors::ComputePipelineDescriptor::class,
    fence::Fence::class,
    event::Event::class,
    event::SharedEvent::class,
    event::SharedEventListener::class,
    residency::ResidencySet::class,
    residency::ResidencySetDescriptor::class,
    capture::CaptureManager::class,
    capture::CaptureDescriptor::class,
];

/// Reports a call that Metal's documentation does not allow.
pub(crate) fn invalid(place: &str, text: impl Into<String>) {
    report::add(Report { kind: Kind::Validation, place: place.into(), line: None, text: text.into() });
}
