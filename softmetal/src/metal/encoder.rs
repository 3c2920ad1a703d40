//! What all encoders have: a pass that is being written, fences, labels, debug groups.

use super::buffer::Buffer;
use super::command_buffer::CommandBuffer;
use super::device::MAX_THREADS;
use super::fence::Fence;
use super::invalid;
use super::memory::Allocation;
use crate::exec;
use crate::foundation::{Label, NSString};
use crate::objc::{Instance, Size, Strong};
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A buffer that a command uses. A command buffer with unretained references does not keep it alive.
pub(super) struct Use {
    retained: Option<Arc<Allocation>>,
    allocation: Weak<Allocation>,
    pub name: Arc<str>,
    pub write: bool,
    pub tracked: bool,
}

impl Use {
    pub fn new(buffer: &Buffer, write: bool, retained: bool) -> Self {
        Self {
            retained: retained.then(|| buffer.allocation().clone()),
            allocation: Arc::downgrade(buffer.allocation()),
            name: buffer.name(),
            write,
            tracked: buffer.is_tracked(),
        }
    }

    /// Its memory, unless the program let it go.
    pub fn allocation(&self) -> Option<Arc<Allocation>> {
        self.retained.clone().or_else(|| self.allocation.upgrade())
    }

    /// A reference that keeps nothing alive.
    pub fn weak(&self) -> Weak<Allocation> {
        self.allocation.clone()
    }
}

/// What is bound to an index.
#[derive(Clone)]
pub(super) enum Binding {
    Buffer(Strong<Buffer>, usize),
    Bytes(Arc<[u8]>),
}

/// Threads or threadgroups of a dispatch.
pub(super) enum Grid {
    Threads([u32; 3]),
    /// Threadgroups, read when it runs: the index of the buffer's use and the offset of three numbers in it.
    Indirect(usize, usize),
}

/// What a command does, with buffers by their place in its uses.
pub(super) enum Work {
    Dispatch {
        kernel: Arc<crate::msl::Kernel>,
        arguments: Vec<Option<Bound>>,
        threadgroup_memory: Vec<usize>,
        grid: Grid,
        threadgroup: [u32; 3],
    },
    Copy {
        from: (usize, usize),
        to: (usize, usize),
        length: usize,
    },
    Fill {
        at: (usize, usize),
        length: usize,
        value: u8,
    },
    /// An operation of MPS.
    Operation(Operation),
}

/// Runs an operation.
pub(super) type Operation = Box<dyn FnOnce(&exec::Context) -> Result<(), exec::Fault> + Send>;

/// An argument of a dispatch.
pub(super) enum Bound {
    /// The index of a use, and an offset.
    Buffer(usize, usize),
    Bytes(Arc<[u8]>),
}

pub(super) struct Command {
    pub name: Arc<str>,
    pub uses: Vec<Use>,
    pub work: Work,
}

pub(super) enum Step {
    Command(Command),
    Barrier,
    /// A barrier for the memories at these addresses.
    BarrierFor(Vec<usize>),
    Wait(Strong<Fence>),
    Update(Strong<Fence>),
}

/// The steps of one encoder.
pub(super) struct Recorded {
    pub name: String,
    pub concurrent: bool,
    pub steps: Vec<Step>,
}

#[derive(Default)]
struct Recording {
    steps: Vec<Step>,
    updated: HashSet<usize>,
    groups: usize,
    ended: bool,
}

/// The part of an encoder that does not depend on what it encodes.
pub struct Encoder {
    command_buffer: Strong<CommandBuffer>,
    protocol: &'static str,
    concurrent: bool,
    label: Label,
    recording: Mutex<Recording>,
}

impl Encoder {
    /// An encoder for a command buffer that has no other.
    pub(super) fn new(
        command_buffer: Strong<CommandBuffer>,
        protocol: &'static str,
        concurrent: bool,
    ) -> Self {
        command_buffer.queue().shared().encoders.fetch_add(1, Relaxed);
        Self { command_buffer, protocol, concurrent, label: Label::default(), recording: Mutex::default() }
    }

    fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn is_concurrent(&self) -> bool {
        self.concurrent
    }

    /// Whether commands keep their buffers alive.
    pub(super) fn retains(&self) -> bool {
        self.command_buffer.retains()
    }

    /// The name of a method, for reports.
    pub(super) fn place(&self, selector: &str) -> String {
        format!("-[{} {selector}]", self.protocol)
    }

    /// Reports a wrong call.
    pub(super) fn invalid(&self, selector: &str, text: impl Into<String>) {
        let text = text.into();
        match self.label.text() {
            Some(label) => invalid(&self.place(selector), format!("\"{label}\": {text}")),
            None => invalid(&self.place(selector), text),
        }
    }

    /// Whether it may still be written to; if not, the call is reported.
    pub(super) fn is_open(&self, selector: &str) -> bool {
        let ended = self.recording().ended;
        if ended {
            self.invalid(selector, "wants an encoder that is encoding, got one after endEncoding");
        }
        !ended
    }

    pub(super) fn push(&self, selector: &str, step: Step) {
        if self.is_open(selector) {
            self.recording().steps.push(step);
        }
    }

    pub(super) fn wait_for(&self, fence: &Instance<Fence>) {
        if self.recording().updated.contains(&(fence.as_ptr() as usize)) {
            let text =
                "wants a fence that this encoder has not updated: drivers may move the wait to its beginning";
            self.invalid("waitForFence:", text);
        }
        self.push("waitForFence:", Step::Wait(fence.retain()));
    }

    pub(super) fn update(&self, fence: &Instance<Fence>) {
        self.recording().updated.insert(fence.as_ptr() as usize);
        self.push("updateFence:", Step::Update(fence.retain()));
    }

    pub(super) fn end(&self) {
        if !self.is_open("endEncoding") {
            return;
        }
        let mut recording = self.recording();
        recording.ended = true;
        if recording.groups > 0 {
            let text = format!("wants every debug group popped, got {} open", recording.groups);
            self.invalid("endEncoding", text);
        }
        let name = self.label.text().unwrap_or_else(|| self.protocol.to_owned());
        let steps = std::mem::take(&mut recording.steps);
        self.command_buffer.end_encoder(Recorded { name, concurrent: self.concurrent, steps });
    }

    pub(super) fn push_group(&self) {
        self.recording().groups += 1;
    }

    pub(super) fn pop_group(&self) {
        let mut recording = self.recording();
        match recording.groups.checked_sub(1) {
            Some(groups) => recording.groups = groups,
            None => self.invalid("popDebugGroup", "wants a debug group that was pushed, got none"),
        }
    }

    pub(super) fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    pub(super) fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.command_buffer.queue().shared().encoders.fetch_sub(1, Relaxed);
        if !self.recording().ended {
            self.invalid("dealloc", "wants endEncoding before the last release");
            self.command_buffer.abandon_encoder();
        }
    }
}

/// Three numbers of a size as the executor has them, if each is at least `least`.
pub(super) fn extent(size: Size, least: usize) -> Option<[u32; 3]> {
    let numbers = [size.width, size.height, size.depth];
    if numbers.iter().any(|&number| number < least) {
        return None;
    }
    let mut extent = [0; 3];
    for (to, from) in extent.iter_mut().zip(numbers) {
        *to = u32::try_from(from).ok()?;
    }
    Some(extent)
}

/// Whether a threadgroup of that size can be dispatched with a pipeline of that limit; if not, in words.
pub(super) fn threadgroup(size: Size, limit: usize) -> Result<[u32; 3], String> {
    let total = size.volume().unwrap_or(usize::MAX);
    match extent(size, 1) {
        None => Err(format!("wants at least 1 thread in each direction of a threadgroup, got {size:?}")),
        Some(_) if total > limit.min(MAX_THREADS) => Err(format!(
            "wants at most {limit} threads in a threadgroup (maxTotalThreadsPerThreadgroup), got {total}: {size:?}"
        )),
        Some(extent) => Ok(extent),
    }
}

/// The methods of `MTLCommandEncoder` and of fences, for a class whose state has an `encoder`.
macro_rules! encoder_methods {
    ($state:ident) => {
        impl $state {
            fn device(&self) -> Strong<super::device::Device> {
                super::device::device().retain()
            }

            fn label(&self) -> Option<Strong<NSString>> {
                self.encoder.label()
            }

            fn set_label(&self, label: Option<&Instance<NSString>>) {
                self.encoder.set_label(label);
            }

            fn end_encoding(&self) {
                self.encoder.end();
            }

            fn wait_for_fence(&self, fence: &Instance<super::fence::Fence>) {
                self.encoder.wait_for(fence);
            }

            fn update_fence(&self, fence: &Instance<super::fence::Fence>) {
                self.encoder.update(fence);
            }

            fn push_debug_group(&self, _name: &Instance<NSString>) {
                self.encoder.push_group();
            }

            fn pop_debug_group(&self) {
                self.encoder.pop_group();
            }

            fn insert_debug_signpost(&self, _name: &Instance<NSString>) {}
        }
    };
}
pub(super) use encoder_methods;
