//! The Metal Performance Shaders classes for matrices, to Apple's documented contract.

mod element;
mod layout;
mod product;
mod softmax;
#[cfg(test)]
mod tests;

use crate::objc::Class;

pub use element::DataType;
pub use layout::{Layout, Operand, recommended_stride};
pub use product::{EncodedProduct, Product};
pub use softmax::{EncodedSoftMax, SoftMax};

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[];
