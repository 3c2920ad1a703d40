//! Matrix products by Metal Performance Shaders: `MPSMatrixMultiplication`, `MPSMatrixVectorMultiplication` and
//! `MPSMatrixSoftMax`, through `objc2-metal-performance-shaders`.
//!
//! # What is computed
//!
//! f32 and f16 are MPS's own; in which type f16 products are summed Apple does not document. Its kernels refuse bf16:
//! operands are widened to f32 by candle's cast, multiplied in f32, and the result is narrowed, so that a bf16 product costs
//! three casts, and its operands twice the memory. Views are described to MPS as they lie (offset, row stride, transpose); a
//! copy is made for bf16, and for rows closer to each other than a row is long, which Apple's contract for `rowBytes`
//! excludes: with the `rowBytes` that MPS recommends. Matrices at a stride are one descriptor where `matrixBytes` may say
//! it, many by one shared matrix are one tall product, and others are encoded one by one.
//!
//! # What is waited for
//!
//! MPS encodes into a command buffer, and candle 0.11.1 gives out neither its command buffer nor its queue (`Commands` and
//! the encoder's `raw` and `command_buffer` are private), so ours is of a queue of our own. Candle's buffers are
//! `HazardTrackingModeUntracked`: Metal orders nothing between the two queues. An event could, but whoever signals it or
//! waits for it must encode that into both command buffers; candle's fences, which are public, order passes of one queue.
//! What is left to the public API is that the host waits:
//!
//! 1. `MetalDevice::flush_and_wait_current` before our commit: candle's work so far is complete, both what writes the
//!    operands and what used the result's memory before. It commits candle's command buffer and waits for it, also when it
//!    is empty: how much is under way is private.
//! 2. `waitUntilCompleted` after our commit: what candle encodes from then on is committed later, and sees the result.
//!
//! The first empties candle's pool of unused memory, too: what candle allocates next is new. Kernels of MPS that take more than
//! one pass over a result are Apple's to order; that they do on untracked memory Apple does not say.
//!
//! A product by itself makes both waits. A [`Batch`] makes the first once for all its products, in [`Batch::commit`], and the
//! second in [`Pending::wait`]. A failure of candle's last command buffer, or of ours, is an error. One of candle's before its last is
//! told by its next `synchronize`: to ask here, `wait_until_completed` is what there is, and it drops the fences that candle's
//! passes on other threads wait for (`docs/candle-bugs.md`), which would be a stale read.
//!
//! Kernel objects are kept by dtype, size, transposes and factors, at most 256, and a command queue for each device. Each call has
//! an autorelease pool of its own: after a million products on softmetal the queue and the kernel object were what was alive.

mod batch;
mod commands;
mod kernels;
mod overhead;
mod prepared;
mod stored;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Handle, Pending};
#[cfg_attr(not(feature = "cli"), allow(unused_imports, reason = "for the command line"))]
pub(crate) use overhead::{Cost, overhead};

use super::backend::Compute;
use super::{Backend, Product, Shape, Site, View};
use crate::kernels::gpu::Buffer;
use crate::kernels::tape::tracked;
use crate::kernels::{Held, same_dtype};
use candle_core::backend::BackendDevice;
use candle_core::{DType, Device, MetalDevice, Result, Tensor, bail};
use objc2::rc::autoreleasepool;
use prepared::Prepared;

/// [`Backend::Mps`], or [`Backend::MpsVector`].
pub(super) struct Mps {
    /// One row or one column, by the kernel for it.
    pub by_vector: bool,
}

impl Compute for Mps {
    fn key(&self) -> Backend {
        if self.by_vector { Backend::MpsVector } else { Backend::Mps }
    }

    fn on(&self, site: Site<'_>) -> bool {
        matches!(site, Site::Metal(_))
    }

    fn computes(&self, _: Site<'_>, _: DType, shape: &Shape) -> bool {
        !self.by_vector || (shape.batch == 1 && (shape.m == 1 || shape.n == 1))
    }

    fn product(&self, site: Site<'_>, product: &Product<'_>) -> Result<Buffer> {
        match site {
            Site::Metal(device) if takes_factors(product) => run(device, product, self.by_vector),
            _ => super::candle::product(product),
        }
    }
}

/// Whether MPS computes with the factors as they are: it converts them to the dtype of the result.
fn takes_factors(product: &Product<'_>) -> bool {
    let beta = product.c.map_or(0.0, |(beta, _)| beta);
    let exact = |factor: f32| half::f16::from_f32(factor).to_f32() == factor;
    product.dtype() != DType::F16 || (exact(product.alpha) && exact(beta))
}

/// `alpha a b + beta c` in new memory, of the shape `(batch, m, n)`.
///
/// It returns when the result is complete; what candle has encoded before is complete then, too. With a `beta` of 0, `c` is
/// not read. With `by_vector`, one row or one column is by `MPSMatrixVectorMultiplication`, where it lies in one piece.
///
/// # Errors
///
/// When an operand is not on `device`, or candle's command buffer or this product's fails.
pub(crate) fn run(device: &MetalDevice, product: &Product<'_>, by_vector: bool) -> Result<Buffer> {
    autoreleasepool(|_| Prepared::product(device, product, by_vector)?.run(device))
}

/// The product of a matrix `(m, k)`, also a transposed or a narrowed one, and a vector `(k)`: `(m)`. Both are f32, f16 or
/// bf16, the last through f32. It waits as [the module](self) says.
///
/// # Errors
///
/// When shapes, dtypes or devices do not fit, when a tensor is tracked for gradients (the result has none), or when the GPU
/// fails.
pub fn vector(matrix: &Tensor, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "mps vector";
    let device = metal(OP, &[matrix, x])?;
    let ([_, k], [n]) = (matrix.dims(), x.dims()) else {
        bail!("{OP}: wants (m, k) by (k), got {:?} by {:?}", matrix.dims(), x.dims())
    };
    if k != n {
        bail!("{OP}: wants (m, k) by (k), got {:?} by {:?}", matrix.dims(), x.dims())
    }
    autoreleasepool(|_| {
        let (matrix, x) = (as_view(matrix)?, x.contiguous()?.unsqueeze(0)?);
        let (matrix, x) = (Held::new(&matrix), Held::new(&x));
        match (View::of(matrix.input(OP)), View::of(x.input(OP))) {
            (Some(matrix), Some(x)) => Ok(Prepared::vector(&device, &matrix, &x)?.run(&device)?.tensor()),
            _ => bail!("{OP}: wants a matrix in rows or columns"),
        }
    })
}

/// The softmax along the last dimension, of f32, f16 or bf16, the last through f32: to compare with
/// [`crate::ops::softmax`], which has a gradient. It waits as [the module](self) says.
///
/// # Errors
///
/// When the tensor has no dimension, is not on a Metal device, is tracked for gradients (the result has none), or when the
/// GPU fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "mps softmax";
    let device = metal(OP, &[x])?;
    let Some(n) = x.dims().last() else { bail!("{OP}: wants at least one dimension, got none") };
    autoreleasepool(|_| {
        let rows = x.contiguous()?.reshape((x.elem_count() / (*n).max(1), *n))?;
        let held = Held::new(&rows);
        match View::of(held.input(OP)) {
            Some(view) => Ok(Prepared::softmax(&device, &view)?.shaped(x.dims()).run(&device)?.tensor()),
            None => bail!("{OP}: wants rows"),
        }
    })
}

/// The Metal device of tensors without gradients, all of one of our dtypes.
fn metal(op: &str, tensors: &[&Tensor]) -> Result<MetalDevice> {
    let Device::Metal(device) = tensors[0].device() else {
        bail!("{op}: wants tensors on a Metal device, got {:?}", tensors[0].device().location())
    };
    for tensor in tensors {
        if !matches!(tensor.device(), Device::Metal(other) if device.same_device(other)) {
            bail!("{op}: wants tensors on one device, got one on {:?}", tensor.device().location())
        }
        if tracked(tensor) {
            bail!("{op}: wants tensors without gradients, got one that is tracked: the result has none")
        }
    }
    match same_dtype(op, tensors)? {
        DType::F32 | DType::F16 | DType::BF16 => Ok(device.clone()),
        dtype => bail!("{op}: wants f32, f16 or bf16, got {dtype:?}"),
    }
}

/// The tensor as it is if it is a [`View`]; else a copy that is.
fn as_view(tensor: &Tensor) -> Result<Tensor> {
    match View::of(Held::new(tensor).input("mps")) {
        Some(_) => Ok(tensor.clone()),
        None => tensor.contiguous(),
    }
}

/// The shape of `a b`.
fn same_matrices(op: &str, a: &Tensor, b: &Tensor) -> Result<Vec<usize>> {
    match (a.dims(), b.dims()) {
        ([outer @ .., m, k], [others @ .., l, n]) if outer == others && k == l => {
            Ok([outer, &[*m, *n]].concat())
        }
        (a, b) => {
            bail!("{op}: wants (.., m, k) by (.., k, n) with the same first dimensions, got {a:?} by {b:?}")
        }
    }
}
