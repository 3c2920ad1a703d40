//! The Metal Performance Shaders classes for matrices, to Apple's documented contract.

use crate::objc::Class;

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[];
