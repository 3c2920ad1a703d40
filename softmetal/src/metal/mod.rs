//! The Metal classes.

pub mod memory;

use crate::objc::Class;

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[];
