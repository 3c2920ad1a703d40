//! Autorelease pools, one stack of them per thread.

use super::object::{Object, release};
use crate::report::{self, Kind, Report};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

#[derive(Default)]
struct Pools {
    /// What awaits a release, of all pools of the thread.
    objects: Vec<*mut Object>,
    /// Where each pool begins.
    marks: Vec<usize>,
    /// Errors given through `NSError **` while there was no pool: a caller cannot take those over in any other way.
    errors: Vec<*mut Object>,
}

/// A thread that ends releases what it autoreleased without a pool, as Apple's runtime does.
impl Drop for Pools {
    fn drop(&mut self) {
        for error in self.errors.drain(..) {
            // SAFETY: autorelease was given a count of it.
            unsafe { release(error) };
        }
        let mut classes = BTreeMap::<&str, usize>::new();
        for object in self.objects.drain(..) {
            // SAFETY: autorelease was given a count of it.
            unsafe {
                *classes.entry((*object).class().name()).or_default() += 1;
                release(object);
            }
        }
        for (class, count) in classes {
            report::add(Report {
                kind: Kind::Lifetime,
                place: class.to_owned(),
                line: None,
                text: format!(
                    "{count} autoreleased on a thread with no autorelease pool: alive until the thread ended"
                ),
            });
        }
    }
}

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::default();
    /// A result that was autoreleased last, which the caller may take over without its going into a pool.
    static RETURNED: Cell<*mut Object> = const { Cell::new(std::ptr::null_mut()) };
}

/// Puts a result of a method into the pool, unless the caller's next call is [`take_returned`].
///
/// # Safety
/// A count of the object is given up.
pub(super) unsafe fn autorelease_returned(object: *mut Object) {
    flush_returned();
    RETURNED.set(object);
}

/// Whether the result returned last was that object: its count is now the caller's.
pub(super) fn take_returned(object: *mut Object) -> bool {
    let taken = !object.is_null() && RETURNED.get() == object;
    if taken {
        RETURNED.set(std::ptr::null_mut());
    } else {
        flush_returned();
    }
    taken
}

/// A call that does not take over the result has come in between: it goes into the pool.
pub(super) fn flush_returned() {
    let object = RETURNED.replace(std::ptr::null_mut());
    if !object.is_null() {
        // SAFETY: the count that `autorelease_returned` was given.
        unsafe { autorelease(object) };
    }
}

/// Puts an object into the innermost pool.
///
/// # Safety
/// A count of the object is given up.
pub(super) unsafe fn autorelease(object: *mut Object) {
    // A thread whose variables are gone already can have no pool: the count is a leak, and seen as one.
    let _ = POOLS.try_with(|pools| pools.borrow_mut().objects.push(object));
}

/// Puts an error that a caller is given through a pointer into the innermost pool; without one it is no leak of the caller's.
///
/// # Safety
/// A count of the object is given up.
pub(super) unsafe fn autorelease_error(error: *mut Object) {
    let _ = POOLS.try_with(|pools| {
        let mut pools = pools.borrow_mut();
        let has_pool = !pools.marks.is_empty();
        if has_pool { pools.objects.push(error) } else { pools.errors.push(error) }
    });
}

/// Begins a pool.
pub(super) fn push() -> usize {
    flush_returned();
    POOLS.with_borrow_mut(|pools| {
        pools.marks.push(pools.objects.len());
        pools.marks.len()
    })
}

/// Ends a pool and those inside it.
pub(super) fn pop(pool: usize) {
    flush_returned();
    let objects = POOLS.with_borrow_mut(|pools| {
        let begin = pools.marks.get(pool.wrapping_sub(1)).copied();
        let Some(begin) = begin else {
            super::refuse("objc_autoreleasePoolPop: wants a pool of this thread")
        };
        pools.marks.truncate(pool - 1);
        pools.objects.split_off(begin)
    });
    for object in objects {
        // SAFETY: autorelease was given a count of it.
        unsafe { release(object) };
    }
}

/// Runs something with a pool of its own.
pub fn with_pool<R>(body: impl FnOnce() -> R) -> R {
    let pool = push();
    let result = body();
    pop(pool);
    result
}
