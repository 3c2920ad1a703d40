//! Weak references: variables that become nil when their object goes.

use super::object::{Object, try_retain};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};

/// The addresses of the variables, by the address of the object that they refer to.
type Table = HashMap<usize, Vec<usize>>;

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Sets all weak references to an object to nil.
pub(super) fn clear(object: &Object) {
    for variable in table().remove(&(object.as_ptr() as usize)).into_iter().flatten() {
        // SAFETY: a weak variable is registered as long as it is one.
        unsafe { *(variable as *mut *mut Object) = std::ptr::null_mut() };
    }
}

/// Has a variable, which is not weak yet, refer to an object.
///
/// # Safety
/// The variable is valid until [`destroy`]; the object is nil or alive.
pub(super) unsafe fn init(variable: *mut *mut Object, object: *mut Object) {
    if !object.is_null() {
        table().entry(object as usize).or_default().push(variable as usize);
    }
    // SAFETY: by contract.
    unsafe { *variable = object };
}

/// Ends a weak variable.
///
/// # Safety
/// It was made by [`init`].
pub(super) unsafe fn destroy(variable: *mut *mut Object) {
    let mut table = table();
    // SAFETY: by contract; read under the lock that `clear` writes it under.
    let object = unsafe { *variable };
    if let Some(variables) = table.get_mut(&(object as usize)) {
        variables.retain(|&other| other != variable as usize);
    }
}

/// The object with a count more, or nil when it has gone.
///
/// # Safety
/// It was made by [`init`].
pub(super) unsafe fn load(variable: *mut *mut Object) -> *mut Object {
    let _table = table();
    // SAFETY: by contract; under the lock, an object that has gone has cleared its variables or has a dead count.
    unsafe {
        let object = *variable;
        object.as_ref().filter(|object| try_retain(object)).map_or(std::ptr::null_mut(), Object::as_ptr)
    }
}
