//! `MTLEvent` and `MTLSharedEvent`: values that order command buffers, and for a shared one the host.

use super::device::{Device, device};
use super::invalid;
use super::memory::{Allocation, Token};
use super::order::Knowledge;
use crate::exec::Fault;
use crate::foundation::{Label, NSObject, NSString};
use crate::objc::{Allocated, Block, Class, Instance, Object, Strong, class, with_pool};
use std::ffi::c_void;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// A signal that a command buffer encodes.
pub(super) struct Signal {
    value: u64,
    /// Memory that the host may use again when it sees the value.
    pub uses: Vec<(Weak<Allocation>, Token)>,
}

impl Signal {
    pub fn new(value: u64) -> Self {
        Self { value, uses: Vec::new() }
    }
}

#[derive(Default)]
struct State {
    value: u64,
    /// What is done when a value is reached, by value.
    done: Vec<(u64, Knowledge)>,
    /// What the host has not seen yet.
    unseen: Vec<Signal>,
    listeners: Vec<(u64, Block)>,
}

/// What both classes are.
#[derive(Default)]
pub(super) struct Core {
    label: Label,
    state: Mutex<State>,
    changed: Condvar,
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A command buffer waits for a value, and learns what was done before it.
    pub fn wait_on_device(&self, value: u64, known: &mut Knowledge, timeout: Duration) -> Result<(), Fault> {
        let below = |state: &mut State| state.value < value;
        let waited = self.changed.wait_timeout_while(self.state(), timeout, below);
        let (state, result) = waited.unwrap_or_else(|e| e.into_inner());
        if result.timed_out() {
            let has = state.value;
            return Err(Fault(format!("encodeWaitForEvent: wants value {value} in {timeout:?}, got {has}")));
        }
        state
            .done
            .iter()
            .filter(|(signalled, _)| *signalled <= value)
            .for_each(|(_, done)| known.learn(done));
        Ok(())
    }

    /// A command buffer has come to a signal, this being done.
    pub fn signal_on_device(&self, signal: Signal, done: Knowledge) {
        let value = signal.value;
        let mut state = self.state();
        state.done.push((value, done));
        state.unseen.push(signal);
        drop(state);
        self.set(value);
    }

    fn set(&self, value: u64) {
        let mut state = self.state();
        state.value = value;
        self.changed.notify_all();
    }

    /// The host has seen the value, and so that what was signalled up to it is done.
    fn seen(&self) -> u64 {
        let (value, done, seen) = {
            let mut state = self.state();
            let value = state.value;
            let (seen, unseen) =
                std::mem::take(&mut state.unseen).into_iter().partition(|one| one.value <= value);
            state.unseen = unseen;
            let mut done = Knowledge::default();
            state
                .done
                .iter()
                .filter(|(signalled, _)| *signalled <= value)
                .for_each(|(_, one)| done.learn(one));
            let seen: Vec<Signal> = seen;
            (value, done, seen)
        };
        done.observed_by_host();
        for (allocation, token) in seen.into_iter().flat_map(|signal| signal.uses) {
            if let Some(allocation) = allocation.upgrade() {
                allocation.observed(&token);
            }
        }
        value
    }
}

/// An event of either class, kept alive.
pub(super) enum EventRef {
    Device(Strong<Event>),
    Shared(Strong<SharedEvent>),
}

impl EventRef {
    /// The event that an object is; otherwise the call is reported.
    pub fn new(place: &str, object: &Object) -> Option<Self> {
        let event = object.downcast::<Event>().map(|event| Self::Device(event.retain()));
        let event =
            event.or_else(|| object.downcast::<SharedEvent>().map(|event| Self::Shared(event.retain())));
        if event.is_none() {
            invalid(place, format!("wants an event, got a {}", object.class().name()));
        }
        event
    }

    fn core(&self) -> &Core {
        match self {
            Self::Device(event) => &event.core,
            Self::Shared(event) => &event.core,
        }
    }

    pub fn wait_on_device(&self, value: u64, known: &mut Knowledge, timeout: Duration) -> Result<(), Fault> {
        self.core().wait_on_device(value, known, timeout)
    }

    pub fn signal_on_device(&self, signal: Signal, done: Knowledge) {
        self.core().signal_on_device(signal, done);
        if let Self::Shared(event) = self {
            SharedEvent::notify(event);
        }
    }
}

/// `MTLEvent`.
#[derive(Default)]
pub struct Event {
    core: Core,
}

class! {
    Event: class "SoftmetalEvent", superclass NSObject, protocols ["MTLEvent"], Long;
    - "device" => Event::device;
    - "label" => Event::label;
    - "setLabel:" => Event::set_label;
}

impl Event {
    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.core.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.core.label.set(label);
    }
}

/// `MTLSharedEvent`.
#[derive(Default)]
pub struct SharedEvent {
    core: Core,
}

class! {
    SharedEvent: class "SoftmetalSharedEvent", superclass NSObject, protocols ["MTLSharedEvent", "MTLEvent"], Long;
    - "device" => SharedEvent::device;
    - "label" => SharedEvent::label;
    - "setLabel:" => SharedEvent::set_label;
    - "signaledValue" => SharedEvent::signaled_value;
    - "setSignaledValue:" => SharedEvent::set_signaled_value;
    - "waitUntilSignaledValue:timeoutMS:" => SharedEvent::wait_until;
    - "notifyListener:atValue:block:" => SharedEvent::notify_listener;
}

impl SharedEvent {
    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.core.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.core.label.set(label);
    }

    fn signaled_value(&self) -> u64 {
        self.core.seen()
    }

    fn set_signaled_value(this: &Instance<SharedEvent>, value: u64) {
        this.core.state().done.push((value, Knowledge::of_host()));
        this.core.set(value);
        Self::notify(this);
    }

    fn wait_until(&self, value: u64, milliseconds: u64) -> bool {
        let below = |state: &mut State| state.value < value;
        let timeout = Duration::from_millis(milliseconds);
        let reached = {
            let waited = self.core.changed.wait_timeout_while(self.core.state(), timeout, below);
            !waited.unwrap_or_else(|e| e.into_inner()).1.timed_out()
        };
        if reached {
            self.core.seen();
        }
        reached
    }

    fn notify_listener(
        this: &Instance<SharedEvent>,
        _listener: &Instance<SharedEventListener>,
        value: u64,
        block: Block,
    ) {
        this.core.state().listeners.push((value, block));
        Self::notify(this);
    }

    /// Calls the listeners of values that are reached.
    fn notify(this: &Instance<SharedEvent>) {
        let (value, ready) = {
            let mut state = this.core.state();
            let value = state.value;
            let (ready, rest) =
                std::mem::take(&mut state.listeners).into_iter().partition(|(at, _)| *at <= value);
            state.listeners = rest;
            let ready: Vec<(u64, Block)> = ready;
            (value, ready)
        };
        if ready.is_empty() {
            return;
        }
        this.core.seen();
        for (_, block) in ready {
            // SAFETY: a listener's block takes the event and the value.
            with_pool(|| unsafe { block.call_with(this.as_ptr(), value) });
        }
    }
}

/// `MTLSharedEventListener`: where listeners are called makes no difference here.
pub struct SharedEventListener;

class! {
    SharedEventListener: linked "._OBJC_CLASS_MTLSharedEventListener" "MTLSharedEventListener", superclass NSObject, protocols [], Long;
    + "sharedListener" => SharedEventListener::shared;
    - "init" => SharedEventListener::init;
    - "initWithDispatchQueue:" => SharedEventListener::init_with_queue;
}

impl SharedEventListener {
    fn shared(_: &'static Class) -> Strong<SharedEventListener> {
        static SHARED: LazyLock<Strong<SharedEventListener>> =
            LazyLock::new(|| Strong::new(SharedEventListener));
        SHARED.clone()
    }

    fn init(_: Allocated) -> Strong<SharedEventListener> {
        Strong::new(SharedEventListener)
    }

    fn init_with_queue(_: Allocated, _queue: *mut c_void) -> Strong<SharedEventListener> {
        Strong::new(SharedEventListener)
    }
}
