//! The Foundation classes that Metal's callers use.

mod object;

pub use object::NSObject;

use crate::objc::{Class, IsClass};

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[NSObject::class];
