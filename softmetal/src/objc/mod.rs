//! The Objective-C runtime: classes, messages, reference counts, autorelease pools, blocks.
//!
//! `objc2` with its feature `gnustep-2-1` calls the C functions of [`abi`] and finds classes by link symbols. What it
//! reaches is written in Rust: **a class is a Rust type, its state, and a table from selectors to functions**.
//!
//! # How to write a class
//!
//! ```ignore
//! use crate::objc::{Instance, Strong, class};
//!
//! /// `MPSMatrix`.
//! pub struct Matrix {
//!     buffer: Strong<Buffer>,
//!     label: Label,
//! }
//!
//! class! {
//!     // The symbol is what objc2 links to; a class that is only ever returned, as a protocol's, is `class "Name"`.
//!     Matrix: linked "._OBJC_CLASS_MPSMatrix" "MPSMatrix", superclass NSObject, protocols ["NSCopying"], Long;
//!     - "initWithBuffer:descriptor:" => Matrix::init;
//!     - "rows" => Matrix::rows;
//!     - "setLabel:" => Matrix::set_label;
//!     + "matrixNamed:" => Matrix::named;
//! }
//!
//! impl Matrix {
//!     // An `init` takes what `alloc` gave and returns what takes its place.
//!     fn init(_: Allocated, buffer: &Instance<Buffer>, descriptor: &Instance<MatrixDescriptor>) -> Strong<Matrix> {
//!         Strong::new(Matrix { buffer: buffer.retain(), label: Label::default() })
//!     }
//!     // The receiver is the state, or with `this: &Instance<Matrix>` the object.
//!     fn rows(&self) -> usize { .. }
//!     fn set_label(&self, label: Option<&Instance<NSString>>) { .. }
//!     // Of a class method, the receiver is the class.
//!     fn named(_: &Class, name: &Instance<NSString>) -> Option<Strong<Matrix>> { .. }
//! }
//! ```
//!
//! - Arguments are [`Argument`]s: numbers, `bool` for `BOOL`, [`Size`], [`Range`], pointers, `&Instance<T>` for an object
//!   that must be there and of that class, `Option<&Instance<T>>` where nil is allowed, `&Object` for one of any class
//!   ([`Object::downcast`]), [`ErrorOut`], [`Block`]. Each has an Objective-C type encoding; the encoding of a method is made
//!   from its signature, and `objc2` with debug assertions compares it with what the caller sends.
//! - Results are [`Returned`]: numbers, structures, pointers, `Strong<T>`, `Option<Strong<T>>`. Who owns a result follows
//!   from the selector: `alloc`, `new`, `copy`, `mutableCopy` and `init` give the caller a count, others autorelease.
//! - `alloc` and `new` are offered by every linked class; `new` sends `init`. A class whose `init` needs no argument writes
//!   `- "init" => Self::init` with a function that takes [`Allocated`].
//! - A state is shared between threads, so it is `Sync`: what setters change is behind a lock or atomic.
//! - A subclass's state is `#[repr(C)]` with the state of its superclass first, for inherited methods are called on it.
//! - `Short` or `Long` says whether an instance that is alive when the process ends is reported ([`Lives`]).
//! - A class is found by name, and its leaks are counted, when its record stands in the list of its folder's `mod.rs`.

pub mod abi;
mod abi_introspection;
mod abi_refused;
mod argument;
mod block;
mod class;
mod leaks;
mod method;
mod object;
mod pool;
mod protocol;
mod selector;
mod sync;
#[cfg(test)]
mod tests;
mod weak;

pub use argument::{Argument, Encode, ErrorOut, Range, Returned, Size};
pub use block::{Block, BlockLayout};
#[doc(hidden)]
pub use class::Parts;
pub use class::{Class, IsClass, Lives, class, class_named, classes};
pub use leaks::{check_at_exit, live};
pub use method::{Allocated, Implementation, Method, Receiver};
pub use object::{AnyStrong, Instance, Object, Strong};
#[doc(hidden)]
pub use object::{drop_state, free};
pub use pool::with_pool;
pub use selector::Selector;

/// An Objective-C call that has no meaning here ends the process: to go on would be a guess.
pub(crate) fn refuse(what: &str) -> ! {
    eprintln!("softmetal: {what}");
    std::process::abort()
}
