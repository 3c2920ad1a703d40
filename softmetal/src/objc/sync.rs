//! `@synchronized`: a recursive lock for any object.

use super::object::Object;
use std::collections::HashMap;
use std::sync::{Condvar, LazyLock, Mutex};
use std::thread::{self, ThreadId};

struct Locks {
    held: Mutex<HashMap<usize, (ThreadId, usize)>>,
    changed: Condvar,
}

static LOCKS: LazyLock<Locks> = LazyLock::new(|| Locks { held: Mutex::default(), changed: Condvar::new() });

/// Waits until no other thread has the object locked, and locks it.
pub(super) fn enter(object: *mut Object) {
    let me = thread::current().id();
    let held = LOCKS.held.lock().unwrap_or_else(|e| e.into_inner());
    let others = |held: &mut HashMap<usize, (ThreadId, usize)>| {
        held.get(&(object as usize)).is_some_and(|(owner, _)| *owner != me)
    };
    let mut held = LOCKS.changed.wait_while(held, others).unwrap_or_else(|e| e.into_inner());
    held.entry(object as usize).or_insert((me, 0)).1 += 1;
}

/// Unlocks it; false where this thread had it not locked.
pub(super) fn exit(object: *mut Object) -> bool {
    let mut held = LOCKS.held.lock().unwrap_or_else(|e| e.into_inner());
    let Some((owner, depth)) = held.get_mut(&(object as usize)) else { return false };
    if *owner != thread::current().id() {
        return false;
    }
    *depth -= 1;
    if *depth == 0 {
        held.remove(&(object as usize));
        LOCKS.changed.notify_all();
    }
    true
}
