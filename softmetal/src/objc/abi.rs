//! The runtime's C functions that sending a message and counting references need.
//!
//! Their names and signatures are those of `libobjc2` of GNUstep, which `objc2` declares.

use super::class::{Class, class_named};
use super::object::{Object, release, retain};
use super::selector::Selector;
use super::{Implementation, pool, refuse, sync, weak};
use std::ffi::{CStr, c_char, c_int, c_void};

type Id = *mut Object;

/// A message to `super`.
#[repr(C)]
pub struct Super {
    receiver: Id,
    class: *const Class,
}

/// Functions of C with one contract: pointers are nil or what their types say, objects are alive.
macro_rules! c_functions {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// Pointers are nil or of what their types say; objects are alive.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: the contract of all these functions.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )* };
}
pub(super) use c_functions;

fn lookup(class: &'static Class, selector: Selector) -> Implementation {
    if let Some(method) = class.method(selector) {
        return method.implementation();
    }
    let sign = if class.is_meta() { '+' } else { '-' };
    refuse(&format!("{sign}[{} {}]: not offered by softmetal", class.name(), selector.name()))
}

/// What a message to nil calls: its result is zero.
unsafe extern "C" fn nil() -> usize {
    0
}

c_functions! {
    /// The selector of a name.
    fn sel_registerName(name: *const c_char) -> Selector {
        Selector::named(CStr::from_ptr(name))
    }

    /// As [`sel_registerName`].
    fn sel_getUid(name: *const c_char) -> Selector {
        Selector::named(CStr::from_ptr(name))
    }

    /// The name of a selector.
    fn sel_getName(selector: Selector) -> *const c_char {
        selector.as_ptr()
    }

    /// Whether two selectors are the same.
    fn sel_isEqual(one: Selector, other: Selector) -> u8 {
        u8::from(one == other)
    }

    /// Whether a selector is one of this runtime's.
    fn sel_isMapped(selector: Selector) -> u8 {
        u8::from(Selector::known(CStr::from_ptr(selector.as_ptr())) == Some(selector))
    }

    /// The function that a message calls.
    fn objc_msg_lookup(receiver: Id, selector: Selector) -> Implementation {
        pool::flush_returned();
        let Some(object) = receiver.as_ref() else { return std::mem::transmute::<*const (), Implementation>(nil as *const ()) };
        object.check_alive(selector.name());
        lookup(object.class(), selector)
    }

    /// As [`objc_msg_lookup`]: where a structure is returned makes no difference to the search.
    fn objc_msg_lookup_stret(receiver: Id, selector: Selector) -> Implementation {
        objc_msg_lookup(receiver, selector)
    }

    /// The function that a message to `super` calls.
    fn objc_msg_lookup_super(message: *const Super, selector: Selector) -> Implementation {
        pool::flush_returned();
        (*(*message).receiver).check_alive(selector.name());
        lookup(&*(*message).class, selector)
    }

    /// As [`objc_msg_lookup_super`].
    fn objc_msg_lookup_super_stret(message: *const Super, selector: Selector) -> Implementation {
        objc_msg_lookup_super(message, selector)
    }

    /// The class of that name, or nil.
    fn objc_getClass(name: *const c_char) -> *const Class {
        CStr::from_ptr(name).to_str().ok().and_then(class_named).map_or(std::ptr::null(), std::ptr::from_ref)
    }

    /// As [`objc_getClass`].
    fn objc_lookUpClass(name: *const c_char) -> *const Class {
        objc_getClass(name)
    }

    /// The class of that name, which the program cannot do without.
    fn objc_getRequiredClass(name: *const c_char) -> *const Class {
        let class = objc_getClass(name);
        if class.is_null() {
            refuse(&format!("class {}: not offered by softmetal", CStr::from_ptr(name).to_string_lossy()));
        }
        class
    }

    /// The metaclass of the class of that name, or nil.
    fn objc_getMetaClass(name: *const c_char) -> *const Class {
        objc_getClass(name).as_ref().map_or(std::ptr::null(), |class| class.meta())
    }

    /// What `init` is then sent to.
    fn objc_alloc(class: *const Class) -> Id {
        (*class).alloc()
    }

    /// As [`objc_alloc`].
    fn objc_allocWithZone(class: *const Class) -> Id {
        (*class).alloc()
    }

    /// A count more.
    fn objc_retain(object: Id) -> Id {
        pool::flush_returned();
        retain(object);
        object
    }

    /// A count less.
    fn objc_release(object: Id) {
        pool::flush_returned();
        release(object);
    }

    /// A count less when the pool ends.
    fn objc_autorelease(object: Id) -> Id {
        pool::flush_returned();
        if !object.is_null() {
            pool::autorelease(object);
        }
        object
    }

    /// As [`objc_autorelease`], and the caller may take the count over.
    fn objc_autoreleaseReturnValue(object: Id) -> Id {
        if !object.is_null() {
            pool::autorelease_returned(object);
        }
        object
    }

    /// [`objc_retain`], [`objc_autorelease`].
    fn objc_retainAutorelease(object: Id) -> Id {
        objc_autorelease(objc_retain(object))
    }

    /// [`objc_retain`], [`objc_autoreleaseReturnValue`].
    fn objc_retainAutoreleaseReturnValue(object: Id) -> Id {
        objc_autoreleaseReturnValue(objc_retain(object))
    }

    /// A count of a result: the one that its method was about to give to the pool, or one more.
    fn objc_retainAutoreleasedReturnValue(object: Id) -> Id {
        if !pool::take_returned(object) {
            retain(object);
        }
        object
    }

    /// Begins an autorelease pool.
    fn objc_autoreleasePoolPush() -> *mut c_void {
        pool::push() as *mut c_void
    }

    /// Ends an autorelease pool.
    fn objc_autoreleasePoolPop(pool: *mut c_void) {
        pool::pop(pool as usize)
    }

    /// Has a variable own another object.
    fn objc_storeStrong(variable: *mut Id, object: Id) {
        retain(object);
        release(std::mem::replace(&mut *variable, object));
    }

    /// A weak variable's beginning.
    fn objc_initWeak(variable: *mut Id, object: Id) -> Id {
        weak::init(variable, object);
        object
    }

    /// A weak variable's end.
    fn objc_destroyWeak(variable: *mut Id) {
        weak::destroy(variable)
    }

    /// Has a weak variable refer to another object.
    fn objc_storeWeak(variable: *mut Id, object: Id) -> Id {
        weak::destroy(variable);
        weak::init(variable, object);
        object
    }

    /// The object of a weak variable, with a count more.
    fn objc_loadWeakRetained(variable: *mut Id) -> Id {
        weak::load(variable)
    }

    /// The object of a weak variable, autoreleased.
    fn objc_loadWeak(variable: *mut Id) -> Id {
        objc_autorelease(weak::load(variable))
    }

    /// A second weak variable.
    fn objc_copyWeak(to: *mut Id, from: *mut Id) {
        let object = weak::load(from);
        weak::init(to, object);
        release(object);
    }

    /// A weak variable at another place.
    fn objc_moveWeak(to: *mut Id, from: *mut Id) {
        objc_copyWeak(to, from);
        weak::destroy(from);
    }

    /// The beginning of `@synchronized`.
    fn objc_sync_enter(object: Id) -> c_int {
        if !object.is_null() {
            sync::enter(object);
        }
        0
    }

    /// The end of `@synchronized`.
    fn objc_sync_exit(object: Id) -> c_int {
        if object.is_null() || sync::exit(object) { 0 } else { -1 }
    }

    /// How many instances of a class are alive; -1 for a name that is no class's. A test's view of leaks.
    fn softmetal_live(class: *const c_char) -> isize {
        let live = CStr::from_ptr(class).to_str().ok().and_then(super::live);
        live.map_or(-1, |count| count as isize)
    }
}
