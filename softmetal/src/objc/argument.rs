//! What messages carry: Rust types, their shape in a register, and their Objective-C type encodings.

use super::class::{Class, IsClass};
use super::object::{AnyStrong, Instance, Object, Strong};
use super::selector::Selector;
use super::{pool, refuse};
use std::ffi::{c_char, c_void};

/// A type that has an Objective-C encoding and is passed as it is.
///
/// # Safety
/// The encoding is that of the type, and its layout is C's.
pub unsafe trait Encode: Copy {
    /// The encoding.
    const ENCODING: &'static str;
}

/// What a method takes.
pub trait Argument: Sized {
    /// As the caller passes it.
    type Raw: Encode;
    /// The argument.
    ///
    /// # Safety
    /// The value is what a caller passed to a method that is declared so: pointers are valid during the call.
    unsafe fn from_raw(raw: Self::Raw) -> Self;
}

/// What a method returns.
pub trait Returned {
    /// As the caller gets it.
    type Raw;
    /// The encoding of that.
    const ENCODING: &'static str;
    /// The value; an object's count goes to the caller, or into the autorelease pool.
    fn into_raw(self, to_caller: bool) -> Self::Raw;
}

/// `MTLSize`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Size {
    /// In x.
    pub width: usize,
    /// In y.
    pub height: usize,
    /// In z.
    pub depth: usize,
}

/// `NSRange`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// The first.
    pub location: usize,
    /// How many.
    pub length: usize,
}

impl Range {
    /// The end, if it is a number.
    pub fn end(self) -> Option<usize> {
        self.location.checked_add(self.length)
    }
}

impl Size {
    /// The product.
    pub fn volume(self) -> Option<usize> {
        self.width.checked_mul(self.height)?.checked_mul(self.depth)
    }
}

macro_rules! encode {
    ($($type:ty => $encoding:literal),* $(,)?) => { $(
        // SAFETY: the encodings of clang for the platform's C types.
        unsafe impl Encode for $type {
            const ENCODING: &'static str = $encoding;
        }
    )* };
}

/// Passed and returned as they are.
macro_rules! plain {
    ($($type:ty => $encoding:literal),* $(,)?) => {
        encode! { $($type => $encoding),* }
        $(
            impl Argument for $type {
                type Raw = Self;
                unsafe fn from_raw(raw: Self) -> Self {
                    raw
                }
            }
            impl Returned for $type {
                type Raw = Self;
                const ENCODING: &'static str = $encoding;
                fn into_raw(self, _: bool) -> Self {
                    self
                }
            }
        )*
    };
}

plain! {
    u8 => "C", i8 => "c", u16 => "S", i16 => "s", u32 => "I", i32 => "i", u64 => "Q", i64 => "q",
    usize => "Q", isize => "q", f32 => "f", f64 => "d",
    Size => "{?=QQQ}", Range => "{_NSRange=QQ}",
    *const c_void => "^v", *mut c_void => "^v", *const c_char => "*",
    *mut u64 => "^Q", *const *mut Object => "^@", *mut *mut Object => "^@", *const usize => "^Q", *const Range => "^{_NSRange=QQ}",
}
plain! { Selector => ":" }
encode! { *mut Object => "@", *const Class => "#" }

/// `BOOL`.
impl Argument for bool {
    type Raw = u8;
    unsafe fn from_raw(raw: u8) -> Self {
        raw != 0
    }
}

impl Returned for bool {
    type Raw = u8;
    const ENCODING: &'static str = "C";
    fn into_raw(self, _: bool) -> u8 {
        u8::from(self)
    }
}

impl Returned for () {
    type Raw = ();
    const ENCODING: &'static str = "v";
    fn into_raw(self, _: bool) {}
}

/// An object of that class or nil.
impl<T: IsClass> Argument for Option<&Instance<T>> {
    type Raw = *mut Object;
    unsafe fn from_raw(raw: *mut Object) -> Self {
        // SAFETY: nil, or an object, by contract.
        let object = unsafe { raw.as_ref() }?;
        let wants = T::class().name();
        object.check_alive("use as an argument");
        match object.downcast::<T>() {
            // SAFETY: the caller keeps it alive during the call; the lifetime is the call's, not longer.
            Some(_) => Some(unsafe { &*raw.cast() }),
            None => refuse(&format!("an argument wants {wants}, got {}", object.class().name())),
        }
    }
}

/// An object of that class.
impl<T: IsClass> Argument for &Instance<T> {
    type Raw = *mut Object;
    unsafe fn from_raw(raw: *mut Object) -> Self {
        // SAFETY: by contract.
        unsafe { Option::<Self>::from_raw(raw) }
            .unwrap_or_else(|| refuse(&format!("an argument wants {}, got nil", T::class().name())))
    }
}

/// An object or nil.
impl Argument for Option<&Object> {
    type Raw = *mut Object;
    unsafe fn from_raw(raw: *mut Object) -> Self {
        // SAFETY: nil, or an object, by contract.
        unsafe { raw.as_ref() }
    }
}

/// An object.
impl Argument for &Object {
    type Raw = *mut Object;
    unsafe fn from_raw(raw: *mut Object) -> Self {
        // SAFETY: nil, or an object, by contract.
        unsafe { raw.as_ref() }.unwrap_or_else(|| refuse("an argument wants an object, got nil"))
    }
}

/// A class.
impl Argument for &'static Class {
    type Raw = *const Class;
    unsafe fn from_raw(raw: *const Class) -> Self {
        // SAFETY: nil, or a class, by contract.
        unsafe { raw.as_ref() }.unwrap_or_else(|| refuse("an argument wants a class, got nil"))
    }
}

impl Returned for &'static Class {
    type Raw = *const Class;
    const ENCODING: &'static str = "#";
    fn into_raw(self, _: bool) -> *const Class {
        self
    }
}

impl Returned for Option<&'static Class> {
    type Raw = *const Class;
    const ENCODING: &'static str = "#";
    fn into_raw(self, _: bool) -> *const Class {
        self.map_or(std::ptr::null(), std::ptr::from_ref)
    }
}

/// An object whose count, if any, is not the method's to give: `self`, or what `alloc` gives.
impl Returned for *mut Object {
    type Raw = Self;
    const ENCODING: &'static str = "@";
    fn into_raw(self, _: bool) -> Self {
        self
    }
}

impl<T: IsClass> Returned for Strong<T> {
    type Raw = *mut Object;
    const ENCODING: &'static str = "@";
    fn into_raw(self, to_caller: bool) -> *mut Object {
        let object = Strong::into_raw(self);
        if !to_caller {
            // SAFETY: the count that was given up.
            unsafe { pool::autorelease_returned(object) };
        }
        object
    }
}

impl Returned for AnyStrong {
    type Raw = *mut Object;
    const ENCODING: &'static str = "@";
    fn into_raw(self, to_caller: bool) -> *mut Object {
        let object = AnyStrong::into_raw(self);
        if !to_caller {
            // SAFETY: the count that was given up.
            unsafe { pool::autorelease_returned(object) };
        }
        object
    }
}

impl Returned for Option<AnyStrong> {
    type Raw = *mut Object;
    const ENCODING: &'static str = "@";
    fn into_raw(self, to_caller: bool) -> *mut Object {
        self.map_or(std::ptr::null_mut(), |object| Returned::into_raw(object, to_caller))
    }
}

impl<T: IsClass> Returned for Option<Strong<T>> {
    type Raw = *mut Object;
    const ENCODING: &'static str = "@";
    fn into_raw(self, to_caller: bool) -> *mut Object {
        self.map_or(std::ptr::null_mut(), |object| Returned::into_raw(object, to_caller))
    }
}

/// Where a caller wants to have an error: `NSError **`.
#[derive(Clone, Copy)]
pub struct ErrorOut(*mut *mut Object);

impl Argument for ErrorOut {
    type Raw = *mut *mut Object;
    unsafe fn from_raw(raw: *mut *mut Object) -> Self {
        Self(raw)
    }
}

impl ErrorOut {
    /// Gives the error to the caller, autoreleased; the method then returns the `None` that this is.
    pub fn fail<T: IsClass, E: IsClass>(self, error: Strong<E>) -> Option<Strong<T>> {
        if !self.0.is_null() {
            let error = error.into_raw();
            // SAFETY: the caller's variable; and a count that this had.
            unsafe {
                *self.0 = error;
                pool::autorelease_error(error);
            }
        }
        None
    }
}
