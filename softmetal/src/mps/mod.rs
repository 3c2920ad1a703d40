//! The Metal Performance Shaders classes for matrices, to Apple's documented contract.
//!
//! ```text
//! element, layout              what elements are, and where they lie
//! descriptor, matrix           what programs make a kernel's arguments of
//! kernel                       what all kernels have
//! product, multiplication      products: what is computed by which rules, and the classes
//! softmax                      likewise
//! ```
//!
//! A call that breaks a rule is reported and encodes nothing, where Apple's framework ends the process. `MPSDataTypeInt8`
//! and `MPSDataTypeInt16`, which Apple multiplies too, are refused.

mod descriptor;
mod element;
mod kernel;
mod layout;
mod matrix;
mod multiplication;
mod product;
mod softmax;
#[cfg(test)]
mod tests;

use crate::metal::device;
use crate::objc::{Class, IsClass, Object};

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[
    descriptor::MatrixDescriptor::class,
    descriptor::VectorDescriptor::class,
    matrix::Matrix::class,
    matrix::Vector::class,
    kernel::Kernel::class,
    kernel::UnaryKernel::class,
    kernel::BinaryKernel::class,
    multiplication::MatrixMultiplication::class,
    multiplication::MatrixVectorMultiplication::class,
    softmax::MatrixSoftMax::class,
    softmax::MatrixLogSoftMax::class,
];

/// `MPSSupportsMTLDevice`.
#[unsafe(no_mangle)]
pub extern "C" fn MPSSupportsMTLDevice(device_or_nil: *mut Object) -> u8 {
    u8::from(device_or_nil == device().as_ptr())
}
