//! `MTLBlitCommandEncoder`, for buffers.

use super::buffer::Buffer;
use super::command_buffer::CommandBuffer;
use super::encoder::{Command, Encoder, Step, Use, Work, encoder_methods};
use crate::foundation::{NSObject, NSString};
use crate::objc::{Instance, Object, Range, Strong, class};

/// A blit encoder.
pub struct BlitCommandEncoder {
    encoder: Encoder,
}

class! {
    BlitCommandEncoder: class "SoftmetalBlitCommandEncoder", superclass NSObject, protocols ["MTLBlitCommandEncoder", "MTLCommandEncoder"], Short;
    - "device" => BlitCommandEncoder::device;
    - "label" => BlitCommandEncoder::label;
    - "setLabel:" => BlitCommandEncoder::set_label;
    - "endEncoding" => BlitCommandEncoder::end_encoding;
    - "waitForFence:" => BlitCommandEncoder::wait_for_fence;
    - "updateFence:" => BlitCommandEncoder::update_fence;
    - "pushDebugGroup:" => BlitCommandEncoder::push_debug_group;
    - "popDebugGroup" => BlitCommandEncoder::pop_debug_group;
    - "insertDebugSignpost:" => BlitCommandEncoder::insert_debug_signpost;
    - "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:" => BlitCommandEncoder::copy;
    - "fillBuffer:range:value:" => BlitCommandEncoder::fill;
    - "synchronizeResource:" => BlitCommandEncoder::synchronize;
}

encoder_methods!(BlitCommandEncoder);

impl BlitCommandEncoder {
    /// An encoder for a command buffer that has no other.
    pub(super) fn new(command_buffer: Strong<CommandBuffer>) -> Strong<Self> {
        Strong::new(Self { encoder: Encoder::new(command_buffer, "MTLBlitCommandEncoder", false) })
    }

    /// Whether a range lies in a buffer; if not, the call is reported.
    fn is_in(&self, selector: &str, what: &str, buffer: &Buffer, offset: usize, length: usize) -> bool {
        let fits = offset.checked_add(length).is_some_and(|end| end <= buffer.length());
        if !fits {
            let (name, has) = (buffer.name(), buffer.length());
            let text = format!("wants {what} in the {has} bytes of {name}, got {length} bytes at {offset}");
            self.encoder.invalid(selector, text);
        }
        fits
    }

    fn copy(
        &self,
        source: &Instance<Buffer>,
        source_offset: usize,
        destination: &Instance<Buffer>,
        destination_offset: usize,
        size: usize,
    ) {
        let selector = "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:";
        if !self.is_in(selector, "a source", source, source_offset, size)
            || !self.is_in(selector, "a destination", destination, destination_offset, size)
        {
            return;
        }
        let same = source.as_ptr() == destination.as_ptr();
        if same && source_offset.abs_diff(destination_offset) < size {
            let text = format!(
                "wants ranges of {} that do not overlap, got {size} bytes at {source_offset} and at {destination_offset}",
                source.name()
            );
            self.encoder.invalid(selector, text);
        }
        let retained = self.encoder.retains();
        let uses = vec![Use::new(source, false, retained), Use::new(destination, true, retained)];
        let work = Work::Copy { from: (0, source_offset), to: (1, destination_offset), length: size };
        self.encoder.push(selector, Step::Command(Command { name: "copyFromBuffer".into(), uses, work }));
    }

    fn fill(&self, buffer: &Instance<Buffer>, range: Range, value: u8) {
        let selector = "fillBuffer:range:value:";
        if !self.is_in(selector, "a range", buffer, range.location, range.length) {
            return;
        }
        let uses = vec![Use::new(buffer, true, self.encoder.retains())];
        let work = Work::Fill { at: (0, range.location), length: range.length, value };
        self.encoder.push(selector, Step::Command(Command { name: "fillBuffer".into(), uses, work }));
    }

    /// Of a managed resource: the host and the device share its memory here.
    fn synchronize(&self, _resource: &Object) {
        self.encoder.is_open("synchronizeResource:");
    }
}
