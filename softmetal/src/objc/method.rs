//! Methods: Rust functions behind the calling convention of messages.

use super::argument::{Argument, Encode, Returned};
use super::class::{Class, IsClass};
use super::object::{Instance, Object};
use super::refuse;
use super::selector::Selector;
use std::ffi::{CStr, CString};

/// A function that a message calls.
pub type Implementation = unsafe extern "C" fn();

/// A selector and what it calls.
pub struct Method {
    selector: Selector,
    encoding: CString,
    implementation: Implementation,
}

impl Method {
    /// A method of that name, with encodings and shim made from the function's signature.
    pub fn new<F: Callable<Shape>, Shape>(name: &str, function: F) -> Self {
        let arguments = name.bytes().filter(|&byte| byte == b':').count();
        assert_eq!(arguments, F::ARGUMENTS, "{name}: the function has another number of arguments");
        let c_string = |text: &str| CString::new(text).unwrap_or_else(|_| refuse("a name has a NUL in it"));
        Self {
            selector: Selector::named(&c_string(name)),
            encoding: c_string(&F::encoding()),
            implementation: function.implementation(gives_count(name)),
        }
    }

    /// Its name.
    pub fn selector(&self) -> Selector {
        self.selector
    }

    /// What it returns and takes.
    pub fn encoding(&self) -> &CStr {
        &self.encoding
    }

    /// What a message calls.
    pub fn implementation(&self) -> Implementation {
        self.implementation
    }
}

/// Whether the caller owns what a method of that name returns: ARC's method families.
fn gives_count(name: &str) -> bool {
    let name = name.trim_start_matches('_');
    ["alloc", "new", "copy", "mutableCopy", "init"].into_iter().any(|family| {
        name.strip_prefix(family).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase()))
    })
}

/// What `alloc` gave, in an `init`: there is nothing to do with it.
pub struct Allocated(());

/// Who gets a message.
pub trait Receiver: Sized {
    /// The receiver.
    ///
    /// # Safety
    /// The address is that of an object, alive during the call.
    unsafe fn from_receiver(object: *mut Object) -> Self;
}

impl<T: IsClass> Receiver for &Instance<T> {
    unsafe fn from_receiver(object: *mut Object) -> Self {
        // SAFETY: by contract.
        let receiver = unsafe { &*object };
        match receiver.downcast::<T>() {
            // SAFETY: as above; the reference is used during the call.
            Some(_) => unsafe { &*object.cast() },
            None => refuse(&format!(
                "a {} that was allocated gets a message before init",
                receiver.class().name()
            )),
        }
    }
}

impl<T: IsClass> Receiver for &T {
    unsafe fn from_receiver(object: *mut Object) -> Self {
        // SAFETY: by contract.
        unsafe { <&Instance<T>>::from_receiver(object) }
    }
}

impl Receiver for &Object {
    unsafe fn from_receiver(object: *mut Object) -> Self {
        // SAFETY: by contract.
        unsafe { &*object }
    }
}

impl Receiver for &'static Class {
    unsafe fn from_receiver(object: *mut Object) -> Self {
        // SAFETY: a class method is found by the class's metaclass alone.
        unsafe { &*object.cast() }
    }
}

impl Receiver for Allocated {
    unsafe fn from_receiver(object: *mut Object) -> Self {
        // SAFETY: by contract.
        let receiver = unsafe { &*object };
        if !receiver.is_placeholder() {
            refuse(&format!("a {} is initialised a second time", receiver.class().name()));
        }
        Self(())
    }
}

/// A function that can be a method; `Shape` tells functions of different signatures apart.
pub trait Callable<Shape>: Copy {
    /// Arguments after receiver and selector.
    const ARGUMENTS: usize;
    /// Result, receiver, selector and arguments, encoded.
    fn encoding() -> String;
    /// The shim that a message calls.
    fn implementation(self, to_caller: bool) -> Implementation;
}

/// The only value of a function item's type.
///
/// # Safety
/// A value of the type exists.
unsafe fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "a method is a function's name") };
    // SAFETY: a type without size has no bits that could be wrong.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

macro_rules! callable {
    ($count:literal $($argument:ident $value:ident),*) => {
        impl<F, S, $($argument,)* R> Callable<(S, $($argument,)* R)> for F
        where
            F: Fn(S, $($argument),*) -> R + Copy,
            S: Receiver,
            R: Returned,
            $($argument: Argument,)*
        {
            const ARGUMENTS: usize = $count;

            fn encoding() -> String {
                [R::ENCODING, "@:", $(<$argument::Raw as Encode>::ENCODING),*].concat()
            }

            fn implementation(self, to_caller: bool) -> Implementation {
                unsafe extern "C" fn shim<F, S, $($argument,)* R, const TO_CALLER: bool>(
                    receiver: *mut Object,
                    _: Selector,
                    $($value: $argument::Raw),*
                ) -> R::Raw
                where
                    F: Fn(S, $($argument),*) -> R + Copy,
                    S: Receiver,
                    R: Returned,
                    $($argument: Argument,)*
                {
                    // SAFETY: the caller sends what the method's encoding says, and `F` is a function's type, as
                    // `implementation` was called with it.
                    unsafe {
                        conjure::<F>()(S::from_receiver(receiver), $($argument::from_raw($value)),*)
                    }
                    .into_raw(TO_CALLER)
                }
                let shim = if to_caller {
                    shim::<F, S, $($argument,)* R, true> as *const ()
                } else {
                    shim::<F, S, $($argument,)* R, false> as *const ()
                };
                // SAFETY: a function's address; who calls it casts it back to the type that the encoding says.
                unsafe { std::mem::transmute::<*const (), Implementation>(shim) }
            }
        }
    };
}

callable!(0);
callable!(1 A a);
callable!(2 A a, B b);
callable!(3 A a, B b, C c);
callable!(4 A a, B b, C c, D d);
callable!(5 A a, B b, C c, D d, E e);
callable!(6 A a, B b, C c, D d, E e, G g);
callable!(7 A a, B b, C c, D d, E e, G g, H h);
callable!(8 A a, B b, C c, D d, E e, G g, H h, I i);
callable!(9 A a, B b, C c, D d, E e, G g, H h, I i, J j);
