//! `MTLCommandQueue`: command buffers in the order in which they were enqueued, run by a thread.

use super::command_buffer::CommandBuffer;
use super::descriptors::CommandBufferDescriptor;
use super::device::{Device, device};
use super::invalid;
use super::memory::{Allocation, Token};
use super::order::Knowledge;
use super::residency::ResidencySet;
use super::run;
use crate::foundation::{Label, NSObject, NSString};
use crate::objc::{Instance, Object, Strong, class, with_pool};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// What the host may not touch before it knows a command buffer to be done.
struct Unobserved {
    commit: u64,
    uses: Vec<(Weak<Allocation>, Token)>,
}

/// How many command buffers the queues' threads still hold.
struct Busy {
    count: Mutex<usize>,
    changed: Condvar,
}

static BUSY: Busy = Busy { count: Mutex::new(0), changed: Condvar::new() };

impl Busy {
    fn begin(&self) {
        *self.count.lock().unwrap_or_else(|e| e.into_inner()) += 1;
    }

    fn end(&self) {
        *self.count.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        self.changed.notify_all();
    }
}

/// Waits until the queues' threads have let go of all command buffers, or for as long.
pub(crate) fn wait_until_idle(timeout: Duration) {
    let count = BUSY.count.lock().unwrap_or_else(|e| e.into_inner());
    drop(BUSY.changed.wait_timeout_while(count, timeout, |count| *count > 0));
}

/// The addresses of the queues that live.
static QUEUES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Command buffers that a queue has at once, at most: Metal's default.
pub(super) const MAX_COMMAND_BUFFERS: usize = 64;

/// How many command buffers, and how many encoders, are no leak although they live at the end of the process: those of a
/// queue that the program holds itself, as in a static variable, unless they are more than a queue can have.
pub(crate) fn held_at_exit() -> (usize, usize) {
    let queues = QUEUES.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: a queue takes its address away before it goes.
    let queues = queues.iter().map(|&queue| unsafe { &*(queue as *const Instance<CommandQueue>) });
    let held = queues.filter_map(|queue| {
        let buffers = queue.shared.buffers.load(Ordering::Relaxed);
        // Each command buffer holds the queue once.
        let by_program = queue.as_object().retain_count() > buffers;
        let encoders = queue.shared.encoders.load(Ordering::Relaxed);
        (by_program && buffers <= queue.shared.max).then_some((buffers, encoders))
    });
    held.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

#[derive(Default)]
struct Line {
    /// By place in the queue; without command buffer, one that is enqueued and not committed.
    waiting: VecDeque<(u64, Option<Strong<CommandBuffer>>)>,
    next: u64,
    unobserved: Vec<Unobserved>,
    closed: bool,
}

/// Command buffers that have not completed.
#[derive(Default)]
struct Open {
    all: usize,
    committed: usize,
}

/// What the queue and its thread share.
pub(super) struct Shared {
    id: u64,
    /// Command buffers that have not completed, at most.
    max: usize,
    line: Mutex<Line>,
    changed: Condvar,
    open: Mutex<Open>,
    room: Condvar,
    /// Command buffers that live.
    pub buffers: AtomicUsize,
    /// Encoders that live.
    pub encoders: AtomicUsize,
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Another command buffer: waits, as Metal does, until so few have not completed that there may be one more.
    fn make_room(&self) {
        let full = |open: &mut Open| open.all >= self.max && open.committed > 0;
        let mut open = self.room.wait_while(self.open(), full).unwrap_or_else(|e| e.into_inner());
        if open.all >= self.max {
            let max = self.max;
            let text = format!(
                "wants at most {max} command buffers of a queue that have not completed, got {max} before it and none \
                 of them committed: Metal waits for ever"
            );
            invalid("-[MTLCommandQueue commandBuffer]", text);
        }
        open.all += 1;
    }

    /// A command buffer has completed, or will never be committed.
    pub fn close(&self, committed: bool) {
        let mut open = self.open();
        open.all -= 1;
        open.committed -= usize::from(committed);
        self.room.notify_all();
    }

    /// The queue's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A place behind all others.
    pub fn enqueue(&self) -> u64 {
        let mut line = self.line();
        line.next += 1;
        let place = line.next;
        line.waiting.push_back((place, None));
        place
    }

    /// The command buffer at a place may run.
    pub fn commit(&self, place: u64, buffer: Strong<CommandBuffer>, uses: Vec<(Weak<Allocation>, Token)>) {
        BUSY.begin();
        self.open().committed += 1;
        let mut line = self.line();
        line.unobserved.push(Unobserved { commit: place, uses });
        if let Some(waiting) = line.waiting.iter_mut().find(|(at, _)| *at == place) {
            waiting.1 = Some(buffer);
        }
        self.changed.notify_all();
    }

    /// The command buffer at a place will never be committed.
    pub fn abandon(&self, place: u64) {
        self.line().waiting.retain(|(at, _)| *at != place);
        self.changed.notify_all();
    }

    /// The host knows what was committed up to a place to be done.
    pub fn observed(&self, place: u64) {
        let done: Vec<Unobserved> = {
            let mut line = self.line();
            let (done, rest) =
                std::mem::take(&mut line.unobserved).into_iter().partition(|one| one.commit <= place);
            line.unobserved = rest;
            done
        };
        for (allocation, token) in done.into_iter().flat_map(|one| one.uses) {
            if let Some(allocation) = allocation.upgrade() {
                allocation.observed(&token);
            }
        }
        Knowledge::of_commit(self.id, place).observed_by_host();
    }

    /// Waits for the next command buffer; none when the queue has gone.
    fn next(&self) -> Option<(u64, Strong<CommandBuffer>)> {
        let blocked = |line: &mut Line| !line.closed && !matches!(line.waiting.front(), Some((_, Some(_))));
        let line = self.line();
        let mut line = self.changed.wait_while(line, blocked).unwrap_or_else(|e| e.into_inner());
        match line.waiting.pop_front() {
            Some((place, Some(buffer))) => Some((place, buffer)),
            _ => None,
        }
    }
}

/// A queue.
pub struct CommandQueue {
    shared: Arc<Shared>,
    label: Label,
}

class! {
    CommandQueue: class "SoftmetalCommandQueue", superclass NSObject, protocols ["MTLCommandQueue"], Long;
    - "device" => CommandQueue::device;
    - "label" => CommandQueue::label;
    - "setLabel:" => CommandQueue::set_label;
    - "commandBuffer" => CommandQueue::command_buffer;
    - "commandBufferWithUnretainedReferences" => CommandQueue::command_buffer_unretained;
    - "commandBufferWithDescriptor:" => CommandQueue::command_buffer_with;
    - "addResidencySet:" => CommandQueue::set_of;
    - "removeResidencySet:" => CommandQueue::set_of;
    - "addResidencySets:count:" => CommandQueue::sets_of;
    - "removeResidencySets:count:" => CommandQueue::sets_of;
    - "insertDebugCaptureBoundary" => CommandQueue::boundary;
}

impl CommandQueue {
    /// A queue with a thread, and with so many command buffers that have not completed, at most.
    pub(super) fn new(place: &str, max: usize) -> Strong<CommandQueue> {
        if max == 0 {
            invalid(place, "wants at least one command buffer, got 0");
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (buffers, encoders) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared {
            id,
            max: max.max(1),
            line: Mutex::default(),
            changed: Condvar::new(),
            open: Mutex::default(),
            room: Condvar::new(),
            buffers,
            encoders,
        });
        let worker = shared.clone();
        let thread = std::thread::Builder::new().name(format!("queue {id}")).spawn(move || {
            while let Some((place, buffer)) = worker.next() {
                with_pool(|| run::run(&worker, place, buffer));
                BUSY.end();
            }
        });
        thread.expect("a thread for a command queue");
        let queue = Strong::new(CommandQueue { shared, label: Label::default() });
        QUEUES.lock().unwrap_or_else(|e| e.into_inner()).push(queue.as_ptr() as usize);
        queue
    }

    /// What its thread sees of it.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What reports call it.
    pub(super) fn name(&self) -> String {
        self.label.text().unwrap_or_else(|| format!("queue {}", self.shared.id))
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }

    fn command_buffer(this: &Instance<CommandQueue>) -> Strong<CommandBuffer> {
        this.shared.make_room();
        CommandBuffer::new(this.retain(), true)
    }

    fn command_buffer_unretained(this: &Instance<CommandQueue>) -> Strong<CommandBuffer> {
        this.shared.make_room();
        CommandBuffer::new(this.retain(), false)
    }

    fn command_buffer_with(
        this: &Instance<CommandQueue>,
        descriptor: &Instance<CommandBufferDescriptor>,
    ) -> Strong<CommandBuffer> {
        this.shared.make_room();
        CommandBuffer::new(this.retain(), descriptor.retains())
    }

    /// Residency: all memory is resident.
    fn set_of(&self, _set: &Instance<ResidencySet>) {}

    fn sets_of(&self, _sets: *const *mut Object, _count: usize) {}

    fn boundary(&self) {}
}

impl Drop for CommandQueue {
    fn drop(&mut self) {
        let mut queues = QUEUES.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: as in `held_at_exit`; the state is compared by its own address.
        queues.retain(|&queue| unsafe { !std::ptr::eq(&**(queue as *const Instance<CommandQueue>), self) });
        drop(queues);
        self.shared.line().closed = true;
        self.shared.changed.notify_all();
    }
}
