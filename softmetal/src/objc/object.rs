//! Objects: a class, a reference count, a state.

use super::class::{Class, IsClass};
use super::{block, leaks, refuse, weak};
use crate::report::{self, Kind, Report};
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count of an object that is deallocated; everything from half of it on is one that was released too often.
const DEAD: usize = usize::MAX / 2;

/// The count of what `alloc` gives, before `init` puts an object in its place.
const PLACEHOLDER: usize = usize::MAX;

/// How many deallocated objects are kept, so that a message to one is recognised.
const QUARANTINE: usize = 1 << 14;

/// What every object begins with. Of a class, only the first field is there.
#[repr(C)]
pub struct Object {
    class: *const Class,
    count: AtomicUsize,
}

/// An object with its class's state, which it dereferences to.
#[repr(C)]
pub struct Instance<T> {
    object: Object,
    state: T,
}

// SAFETY: the count is atomic, the class a static, and the state as shareable as it says itself.
unsafe impl<T: Sync> Sync for Instance<T> {}

impl Object {
    /// The object's class; of a class, its metaclass.
    pub fn class(&self) -> &'static Class {
        // SAFETY: set when the object was made, to a static.
        unsafe { &*self.class }
    }

    /// Its address, as messages carry it.
    pub fn as_ptr(&self) -> *mut Object {
        std::ptr::from_ref(self).cast_mut()
    }

    /// What stands for an object of a class until `init` is called.
    pub(crate) fn placeholder(class: &'static Class) -> Self {
        Self { class, count: AtomicUsize::new(PLACEHOLDER) }
    }

    /// Whether it is what `alloc` gave.
    pub(crate) fn is_placeholder(&self) -> bool {
        !self.is_class_or_block() && self.count.load(Ordering::Relaxed) == PLACEHOLDER
    }

    fn is_class_or_block(&self) -> bool {
        block::is_block_class(self.class) || self.class().is_meta()
    }

    /// Whether it has no count: classes, blocks, and what `alloc` gave.
    fn is_uncounted(&self) -> bool {
        self.is_class_or_block() || self.is_placeholder()
    }

    /// Whether it was deallocated.
    pub(crate) fn is_dead(&self) -> bool {
        !self.is_uncounted() && self.count.load(Ordering::Relaxed) >= DEAD / 2
    }

    /// Reports what is done to an object that was deallocated, and ends the process: nothing of it is left to use.
    pub(crate) fn check_alive(&self, selector: &str) {
        if self.is_dead() {
            dead(self, selector);
            refuse("a deallocated object is used");
        }
    }

    /// How many references are owned.
    pub fn retain_count(&self) -> usize {
        if self.is_uncounted() { usize::MAX } else { self.count.load(Ordering::Relaxed) }
    }

    /// The object as one of a class that it is an instance of.
    pub fn downcast<T: IsClass>(&self) -> Option<&Instance<T>> {
        let initialised = !self.is_class_or_block() && !self.is_placeholder();
        if !initialised || !self.class().is_kind_of(T::class()) {
            return None;
        }
        // SAFETY: an instance of the class, or of a subclass whose state begins with this one.
        Some(unsafe { &*self.as_ptr().cast() })
    }
}

impl<T: IsClass> Instance<T> {
    /// One reference more.
    pub fn retain(&self) -> Strong<T> {
        // SAFETY: a live object.
        unsafe { retain(self.object.as_ptr()) };
        Strong(std::ptr::from_ref(self))
    }

    /// The object without its state's type.
    pub fn as_object(&self) -> &Object {
        &self.object
    }

    /// Its address.
    pub fn as_ptr(&self) -> *mut Object {
        self.object.as_ptr()
    }
}

impl<T> Deref for Instance<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

/// An owned reference to an object.
pub struct Strong<T: IsClass>(*const Instance<T>);

// SAFETY: a state is `Sync` and `Send` (`IsClass`), and counts are atomic.
unsafe impl<T: IsClass> Send for Strong<T> {}
// SAFETY: as above.
unsafe impl<T: IsClass> Sync for Strong<T> {}

impl<T: IsClass> Strong<T> {
    /// A new object of the state's class.
    pub fn new(state: T) -> Self {
        Self::of_class(T::class(), state)
    }

    /// A new object of a class that has this state.
    pub(crate) fn of_class(class: &'static Class, state: T) -> Self {
        leaks::born(class);
        let object = Object { class, count: AtomicUsize::new(1) };
        Self(Box::into_raw(Box::new(Instance { object, state })))
    }

    /// Takes over a count that the caller owns.
    ///
    /// # Safety
    /// The address is that of a live object of the class, and a count of it is given up.
    pub unsafe fn from_raw(object: *mut Object) -> Self {
        Self(object.cast())
    }

    /// Gives the count away with the address.
    pub fn into_raw(self) -> *mut Object {
        let object = self.as_ptr();
        std::mem::forget(self);
        object
    }
}

impl<T: IsClass> Clone for Strong<T> {
    fn clone(&self) -> Self {
        self.retain()
    }
}

impl<T: IsClass> Deref for Strong<T> {
    type Target = Instance<T>;

    fn deref(&self) -> &Instance<T> {
        // SAFETY: alive as long as this owns a count.
        unsafe { &*self.0 }
    }
}

impl<T: IsClass> Drop for Strong<T> {
    fn drop(&mut self) {
        // SAFETY: the count that this owns.
        unsafe { release(self.as_ptr()) }
    }
}

/// An owned reference to an object of any class: what collections hold.
pub struct AnyStrong(*mut Object);

// SAFETY: states are `Send` and `Sync` (`IsClass`), and counts are atomic.
unsafe impl Send for AnyStrong {}
// SAFETY: as above.
unsafe impl Sync for AnyStrong {}

impl AnyStrong {
    /// One reference more to an object.
    pub fn retain(object: &Object) -> Self {
        // SAFETY: a live object.
        unsafe { retain(object.as_ptr()) };
        Self(object.as_ptr())
    }

    /// Gives the count away with the address.
    pub fn into_raw(self) -> *mut Object {
        let object = self.0;
        std::mem::forget(self);
        object
    }
}

impl<T: IsClass> From<Strong<T>> for AnyStrong {
    fn from(object: Strong<T>) -> Self {
        Self(object.into_raw())
    }
}

impl Clone for AnyStrong {
    fn clone(&self) -> Self {
        Self::retain(self)
    }
}

impl Deref for AnyStrong {
    type Target = Object;

    fn deref(&self) -> &Object {
        // SAFETY: alive as long as this owns a count.
        unsafe { &*self.0 }
    }
}

impl Drop for AnyStrong {
    fn drop(&mut self) {
        // SAFETY: the count that this owns.
        unsafe { release(self.0) }
    }
}

/// Drops the state of an instance and keeps its header.
///
/// # Safety
/// The object is an instance with that state, dropped once.
#[doc(hidden)]
pub unsafe fn drop_state<T>(object: *mut Object) {
    // SAFETY: by contract.
    unsafe { std::ptr::drop_in_place(&raw mut (*object.cast::<Instance<T>>()).state) }
}

/// Frees the memory of an instance whose state is dropped.
///
/// # Safety
/// The object was made by [`Strong::new`] with that state, and nothing refers to it.
#[doc(hidden)]
pub unsafe fn free<T>(object: *mut Object) {
    // SAFETY: by contract; a state that is no longer there is not dropped again.
    drop(unsafe { Box::from_raw(object.cast::<Instance<std::mem::ManuallyDrop<T>>>()) });
}

/// Retains; nil, classes and blocks are left as they are.
///
/// # Safety
/// Nil, or the address of an object.
pub(crate) unsafe fn retain(object: *mut Object) {
    // SAFETY: by contract.
    let Some(object) = (unsafe { object.as_ref() }) else { return };
    if object.is_uncounted() {
        return;
    }
    if object.count.fetch_add(1, Ordering::Relaxed) >= DEAD / 2 {
        object.count.store(DEAD, Ordering::Relaxed);
        dead(object, "retain");
    }
}

/// Releases, and deallocates with the last count.
///
/// # Safety
/// Nil, or the address of an object of which the caller owns a count.
pub(crate) unsafe fn release(object: *mut Object) {
    // SAFETY: by contract.
    let Some(header) = (unsafe { object.as_ref() }) else { return };
    if header.is_uncounted() {
        return;
    }
    match header.count.fetch_sub(1, Ordering::AcqRel) {
        1 => deallocate(header),
        before if before == 0 || before >= DEAD / 2 => {
            header.count.store(DEAD, Ordering::Relaxed);
            dead(header, "release");
        }
        _ => {}
    }
}

/// A count more, if the object is alive: what loading a weak reference does.
pub(crate) fn try_retain(object: &Object) -> bool {
    let alive = |count| (0 < count && count < DEAD / 2).then_some(count + 1);
    object.is_uncounted() || object.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, alive).is_ok()
}

/// A message, or a change of the count, that came after the last release.
pub(crate) fn dead(object: &Object, selector: &str) {
    let class = object.class().name();
    report::add(Report {
        kind: Kind::Lifetime,
        place: format!("-[{class} {selector}]"),
        line: None,
        text: format!("sent to a deallocated {class} at {object:p}: released once too often, or used after"),
    });
}

fn deallocate(object: &Object) {
    object.count.store(DEAD, Ordering::Relaxed);
    weak::clear(object);
    let class = object.class();
    leaks::died(class);
    let Some(drop_state) = class.drop_state() else { refuse(&format!("{}: has no instances", class.name())) };
    // SAFETY: the last count is gone, so this happens once.
    unsafe { drop_state(object.as_ptr()) };
    quarantine(object.as_ptr());
}

struct Tombstone(*mut Object);
// SAFETY: only its memory is freed.
unsafe impl Send for Tombstone {}

fn quarantine(object: *mut Object) {
    static TOMBSTONES: Mutex<VecDeque<Tombstone>> = Mutex::new(VecDeque::new());
    let mut tombstones = TOMBSTONES.lock().unwrap_or_else(|e| e.into_inner());
    tombstones.push_back(Tombstone(object));
    if tombstones.len() > QUARANTINE
        && let Some(oldest) = tombstones.pop_front()
    {
        // SAFETY: its header is intact, its state is dropped.
        unsafe {
            if let Some(free) = (*oldest.0).class().free() {
                free(oldest.0);
            }
        }
    }
}
