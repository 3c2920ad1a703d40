//! `MTLCommandBuffer`: what is encoded, and how far it has come.

use super::blit::BlitCommandEncoder;
use super::buffer::Buffer;
use super::compute::ComputeCommandEncoder;
use super::descriptors::ComputePassDescriptor;
use super::device::{Device, device};
use super::encoder::{Command, Operation, Recorded, Step, Use, Work};
use super::event::{EventRef, Signal};
use super::invalid;
use super::memory::Token;
use super::order::Knowledge;
use super::queue::CommandQueue;
use super::residency::ResidencySet;
use super::run::now;
use crate::foundation::{Label, NSError, NSObject, NSString};
use crate::objc::{Block, Instance, Object, Strong, class, with_pool};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// `MTLCommandBufferStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    #[default]
    NotEnqueued,
    Enqueued,
    Committed,
    Scheduled,
    Completed,
    Error,
}

/// What a command buffer does, in order.
pub(super) enum Item {
    Pass(Recorded),
    Signal(EventRef, Signal),
    Wait(EventRef, u64),
}

#[derive(Default)]
struct State {
    status: Status,
    place: Option<u64>,
    encoding: bool,
    items: Vec<Item>,
    host: Knowledge,
    on_scheduled: Vec<Block>,
    on_completed: Vec<Block>,
    error: Option<Strong<NSError>>,
    started: f64,
    ended: f64,
    groups: usize,
    /// Completed, and its handlers have returned.
    finished: bool,
}

/// A command buffer.
pub struct CommandBuffer {
    queue: Strong<CommandQueue>,
    retained: bool,
    label: Label,
    state: Mutex<State>,
    changed: Condvar,
}

class! {
    CommandBuffer: class "SoftmetalCommandBuffer", superclass NSObject, protocols ["MTLCommandBuffer"], Short;
    - "device" => CommandBuffer::device;
    - "commandQueue" => CommandBuffer::command_queue;
    - "label" => CommandBuffer::label;
    - "setLabel:" => CommandBuffer::set_label;
    - "retainedReferences" => CommandBuffer::retains;
    - "errorOptions" => CommandBuffer::error_options;
    - "status" => CommandBuffer::status;
    - "error" => CommandBuffer::error;
    - "enqueue" => CommandBuffer::enqueue;
    - "commit" => CommandBuffer::commit;
    - "waitUntilScheduled" => CommandBuffer::wait_until_scheduled;
    - "waitUntilCompleted" => CommandBuffer::wait_until_completed;
    - "addScheduledHandler:" => CommandBuffer::add_scheduled_handler;
    - "addCompletedHandler:" => CommandBuffer::add_completed_handler;
    - "kernelStartTime" => CommandBuffer::start_time;
    - "kernelEndTime" => CommandBuffer::end_time;
    - "GPUStartTime" => CommandBuffer::start_time;
    - "GPUEndTime" => CommandBuffer::end_time;
    - "computeCommandEncoder" => CommandBuffer::compute_encoder;
    - "computeCommandEncoderWithDispatchType:" => CommandBuffer::compute_encoder_of_type;
    - "computeCommandEncoderWithDescriptor:" => CommandBuffer::compute_encoder_with;
    - "blitCommandEncoder" => CommandBuffer::blit_encoder;
    - "encodeSignalEvent:value:" => CommandBuffer::encode_signal;
    - "encodeWaitForEvent:value:" => CommandBuffer::encode_wait;
    - "pushDebugGroup:" => CommandBuffer::push_debug_group;
    - "popDebugGroup" => CommandBuffer::pop_debug_group;
    - "useResidencySet:" => CommandBuffer::use_residency_set;
    - "useResidencySets:count:" => CommandBuffer::use_residency_sets;
}

fn place(selector: &str) -> String {
    format!("-[MTLCommandBuffer {selector}]")
}

impl CommandBuffer {
    /// An empty one.
    pub(super) fn new(queue: Strong<CommandQueue>, retained: bool) -> Strong<CommandBuffer> {
        queue.shared().buffers.fetch_add(1, Relaxed);
        let (state, changed) = (Mutex::default(), Condvar::new());
        Strong::new(CommandBuffer { queue, retained, label: Label::default(), state, changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The queue.
    pub(super) fn queue(&self) -> &CommandQueue {
        &self.queue
    }

    /// Whether what its commands use stays alive until it has completed.
    pub(super) fn retains(&self) -> bool {
        self.retained
    }

    /// What reports call it.
    fn name(&self) -> String {
        let name = self
            .label
            .text()
            .map_or_else(|| "a command buffer".into(), |label| format!("command buffer \"{label}\""));
        format!("{name} of {}", self.queue.name())
    }

    /// Encodes an operation that has no encoder of the program's, as those of MPS are, with the buffers that it uses and
    /// whether it writes them. Reports call it `name`.
    pub fn encode(&self, selector: &str, name: &str, uses: &[(&Buffer, bool)], operation: Operation) {
        if !self.may_encode(selector) {
            return;
        }
        let uses = uses.iter().map(|(buffer, write)| Use::new(buffer, *write, self.retained)).collect();
        let command = Command { name: name.into(), uses, work: Work::Operation(operation) };
        let pass = Recorded { name: name.into(), concurrent: false, steps: vec![Step::Command(command)] };
        self.state().items.push(Item::Pass(pass));
    }

    /// Whether an encoder can be made; if not, the call is reported.
    fn may_encode(&self, selector: &str) -> bool {
        let state = self.state();
        if state.status >= Status::Committed {
            invalid(&place(selector), "wants a command buffer that is not committed, got one that is");
        } else if state.encoding {
            invalid(&place(selector), "wants endEncoding of the encoder before, got one that still encodes");
        }
        state.status < Status::Committed && !state.encoding
    }

    /// An encoder of this has ended.
    pub(super) fn end_encoder(&self, recorded: Recorded) {
        let mut state = self.state();
        state.encoding = false;
        state.items.push(Item::Pass(recorded));
    }

    /// An encoder of this was released before its end.
    pub(super) fn abandon_encoder(&self) {
        self.state().encoding = false;
    }

    fn compute_encoder(this: &Instance<CommandBuffer>) -> Option<Strong<ComputeCommandEncoder>> {
        Self::compute_encoder_of_type(this, 0)
    }

    fn compute_encoder_of_type(
        this: &Instance<CommandBuffer>,
        dispatch_type: usize,
    ) -> Option<Strong<ComputeCommandEncoder>> {
        let selector = "computeCommandEncoderWithDispatchType:";
        if dispatch_type > 1 {
            invalid(&place(selector), format!("wants serial 0 or concurrent 1, got {dispatch_type}"));
        }
        let may = this.may_encode(selector);
        may.then(|| {
            this.state().encoding = true;
            ComputeCommandEncoder::new(this.retain(), dispatch_type == 1)
        })
    }

    fn compute_encoder_with(
        this: &Instance<CommandBuffer>,
        descriptor: &Instance<ComputePassDescriptor>,
    ) -> Option<Strong<ComputeCommandEncoder>> {
        Self::compute_encoder_of_type(this, descriptor.dispatch_type())
    }

    fn blit_encoder(this: &Instance<CommandBuffer>) -> Option<Strong<BlitCommandEncoder>> {
        this.may_encode("blitCommandEncoder").then(|| {
            this.state().encoding = true;
            BlitCommandEncoder::new(this.retain())
        })
    }

    fn encode_signal(&self, event: &Object, value: u64) {
        if self.may_encode("encodeSignalEvent:value:")
            && let Some(event) = EventRef::new(&place("encodeSignalEvent:value:"), event)
        {
            self.state().items.push(Item::Signal(event, Signal::new(value)));
        }
    }

    fn encode_wait(&self, event: &Object, value: u64) {
        if self.may_encode("encodeWaitForEvent:value:")
            && let Some(event) = EventRef::new(&place("encodeWaitForEvent:value:"), event)
        {
            self.state().items.push(Item::Wait(event, value));
        }
    }

    fn enqueue(&self) {
        let mut state = self.state();
        if state.status != Status::NotEnqueued {
            let text = format!("wants a command buffer that is not enqueued, got status {:?}", state.status);
            return invalid(&place("enqueue"), text);
        }
        state.status = Status::Enqueued;
        state.place = Some(self.queue.shared().enqueue());
    }

    fn commit(this: &Instance<CommandBuffer>) {
        let (at, uses) = {
            let mut state = this.state();
            if state.status >= Status::Committed {
                let text = "wants a command buffer that is not committed, got one that was committed before";
                return invalid(&place("commit"), text);
            }
            if state.encoding {
                invalid(
                    &place("commit"),
                    "wants endEncoding of its encoder before, got one that still encodes",
                );
            }
            state.status = Status::Committed;
            state.host = Knowledge::of_host();
            let at = *state.place.get_or_insert_with(|| this.queue.shared().enqueue());
            (at, this.protect(&mut state.items))
        };
        this.queue.shared().commit(at, this.retain(), uses);
    }

    /// Takes the memory that the commands use from the host. A signal gives back what was used before it, so each stretch
    /// between two signals is a user of its own.
    fn protect(&self, items: &mut [Item]) -> Vec<(std::sync::Weak<super::memory::Allocation>, Token)> {
        let name: Arc<str> = self.name().into();
        let mut all = Vec::new();
        let mut token = Token::new(name.clone());
        let mut stretch = HashMap::new();
        let mut close = |stretch: &mut HashMap<usize, (std::sync::Weak<super::memory::Allocation>, bool)>,
                         token: &Token| {
            for (_, (weak, write)) in stretch.drain() {
                if let Some(allocation) = weak.upgrade() {
                    allocation.in_use(write, token);
                    all.push((weak, token.clone()));
                }
            }
            all.clone()
        };
        for item in items {
            match item {
                Item::Pass(pass) => {
                    let commands = pass.steps.iter().filter_map(|step| match step {
                        Step::Command(command) => Some(command),
                        _ => None,
                    });
                    for used in commands.flat_map(|command| &command.uses) {
                        let weak = used.weak();
                        stretch.entry(weak.as_ptr() as usize).or_insert((weak, false)).1 |= used.write;
                    }
                }
                Item::Signal(_, signal) => {
                    signal.uses = close(&mut stretch, &token);
                    token = Token::new(name.clone());
                }
                Item::Wait(..) => {}
            }
        }
        close(&mut stretch, &token)
    }

    /// What is to be run, and what the host knew when it was committed. Handlers are called.
    pub(super) fn begin(this: &Instance<CommandBuffer>) -> (Vec<Item>, Knowledge) {
        let (items, host, handlers) = {
            let mut state = this.state();
            state.status = Status::Scheduled;
            state.started = now();
            let handlers = std::mem::take(&mut state.on_scheduled);
            (std::mem::take(&mut state.items), state.host.clone(), handlers)
        };
        this.changed.notify_all();
        Self::call(this, handlers);
        (items, host)
    }

    /// All has run, or could not go on. Handlers are called, then who waits goes on.
    pub(super) fn finish(this: &Instance<CommandBuffer>, fault: Option<String>) {
        let handlers = {
            let mut state = this.state();
            state.ended = now();
            state.status = if fault.is_some() { Status::Error } else { Status::Completed };
            // MTLCommandBufferErrorInternal.
            state.error = fault.map(|text| NSError::new("MTLCommandBufferErrorDomain", 1, text));
            std::mem::take(&mut state.on_completed)
        };
        // Before the handlers, which may ask for another one.
        this.queue.shared().close(true);
        if !handlers.is_empty() {
            this.observe();
        }
        Self::call(this, handlers);
        this.state().finished = true;
        this.changed.notify_all();
    }

    fn call(this: &Instance<CommandBuffer>, handlers: Vec<Block>) {
        for handler in handlers {
            // SAFETY: a handler takes the command buffer.
            with_pool(|| unsafe { handler.call(this.as_ptr()) });
        }
    }

    /// The host knows that this has completed.
    fn observe(&self) {
        if let Some(at) = self.state().place {
            self.queue.shared().observed(at);
        }
    }

    fn add_scheduled_handler(&self, handler: Block) {
        self.add_handler("addScheduledHandler:", handler, |state| &mut state.on_scheduled);
    }

    fn add_completed_handler(&self, handler: Block) {
        self.add_handler("addCompletedHandler:", handler, |state| &mut state.on_completed);
    }

    fn add_handler(&self, selector: &str, handler: Block, list: impl Fn(&mut State) -> &mut Vec<Block>) {
        let mut state = self.state();
        if state.status >= Status::Committed {
            invalid(&place(selector), "wants a command buffer that is not committed, got one that is");
        } else {
            list(&mut state).push(handler);
        }
    }

    fn wait(&self, selector: &str, until: impl Fn(&State) -> bool) {
        let state = self.state();
        if state.status < Status::Committed {
            drop(state);
            return invalid(
                &place(selector),
                "wants a command buffer that is committed, got one that is not",
            );
        }
        drop(self.changed.wait_while(state, |state| !until(state)).unwrap_or_else(|e| e.into_inner()));
    }

    fn wait_until_scheduled(&self) {
        self.wait("waitUntilScheduled", |state| state.status >= Status::Scheduled);
    }

    fn wait_until_completed(&self) {
        self.wait("waitUntilCompleted", |state| state.finished);
        if self.state().finished {
            self.observe();
        }
    }

    fn status(&self) -> usize {
        let status = self.state().status;
        if status >= Status::Completed {
            self.observe();
        }
        status as usize
    }

    fn error(&self) -> Option<Strong<NSError>> {
        self.state().error.clone()
    }

    fn error_options(&self) -> usize {
        0
    }

    fn start_time(&self) -> f64 {
        let state = self.state();
        if state.status >= Status::Completed { state.started } else { 0.0 }
    }

    fn end_time(&self) -> f64 {
        self.state().ended
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn command_queue(&self) -> Strong<CommandQueue> {
        self.queue.clone()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }

    fn push_debug_group(&self, _name: &Instance<NSString>) {
        self.state().groups += 1;
    }

    fn pop_debug_group(&self) {
        let mut state = self.state();
        match state.groups.checked_sub(1) {
            Some(groups) => state.groups = groups,
            None => invalid(&place("popDebugGroup"), "wants a debug group that was pushed, got none"),
        }
    }

    /// Residency: all memory is resident.
    fn use_residency_set(&self, _set: &Instance<ResidencySet>) {}

    fn use_residency_sets(&self, _sets: *const *mut Object, _count: usize) {}
}

impl Drop for CommandBuffer {
    fn drop(&mut self) {
        self.queue.shared().buffers.fetch_sub(1, Relaxed);
        let (status, place) = {
            let state = self.state();
            (state.status, state.place)
        };
        if status < Status::Committed {
            self.queue.shared().close(false);
        }
        if let (Status::Enqueued, Some(place)) = (status, place) {
            self.queue.shared().abandon(place);
        }
    }
}
