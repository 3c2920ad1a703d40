//! Candle's products: the `gemm` crate on a CPU, cuBLAS on CUDA, MLX's kernels on Metal.
//!
//! On a CPU candle has none of bf16: operands are widened to f32, as its users do.

use super::backend::Compute;
use super::{Backend, Product, Site, View};
use crate::kernels::gpu::Buffer;
use crate::kernels::{Input, Memory};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op::Add;
use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, bail};

/// Calls `$f` with what an input's memory is, and makes a [`Storage`] of its result.
macro_rules! on_storage {
    ($memory:expr, $storage:ident => $f:expr) => {
        match $memory {
            Memory::Cpu($storage) => Storage::Cpu($f),
            Memory::Cuda($storage) => Storage::Cuda($f),
            Memory::Metal($storage) => Storage::Metal($f),
        }
    };
}

/// A device's memory, which the device makes.
trait Memories: BackendStorage<Device: BackendDevice<Storage = Self>> {}

impl<S: BackendStorage<Device: BackendDevice<Storage = S>>> Memories for S {}

/// Memory of one kind.
trait Of<'a>: Sized {
    fn of(input: Input<'a>) -> Result<&'a Self>;
}

macro_rules! of {
    ($Storage:ident, $Memory:ident) => {
        impl<'a> Of<'a> for candle_core::$Storage {
            fn of(input: Input<'a>) -> Result<&'a Self> {
                match input.memory() {
                    Memory::$Memory(storage) => Ok(storage),
                    _ => candle_core::bail!("matmul: wants tensors on one device"),
                }
            }
        }
    };
}
of!(CpuStorage, Cpu);
of!(CudaStorage, Cuda);
of!(MetalStorage, Metal);

/// The elements of an input, in order.
pub(super) fn copy(x: Input<'_>) -> Result<Storage> {
    Ok(on_storage!(x.memory(), storage => in_order(storage, x.layout())?))
}

fn in_order<S: Memories>(x: &S, layout: &Layout) -> Result<S> {
    // SAFETY: every element is written before one is read.
    let mut y = unsafe { x.device().alloc_uninit(layout.shape(), x.dtype())? };
    x.copy_strided_src(&mut y, 0, layout)?;
    Ok(y)
}

/// Matrices as candle's products take them, each dense or the transpose of a dense one: as they lie, or a copy.
fn operand<S: Memories>(x: &View<'_>, storage: &S, in_rows: bool) -> Result<(Option<S>, Layout)> {
    let dense = if x.transposed { x.rows } else { x.cols };
    let fits = x.stride == dense && !(in_rows && x.transposed);
    let strides = if x.transposed { [x.batch_stride, 1, x.stride] } else { [x.batch_stride, x.stride, 1] };
    let layout = Layout::new((x.batch, x.rows, x.cols).into(), strides.to_vec(), x.input.start_offset());
    match fits {
        true => Ok((None, layout)),
        false => Ok((Some(in_order(storage, &layout)?), Layout::contiguous(layout.shape()))),
    }
}

/// [`Backend::Candle`].
pub(super) struct Candle;

impl Compute for Candle {
    fn key(&self) -> Backend {
        Backend::Candle
    }

    fn on(&self, _: Site<'_>) -> bool {
        true
    }

    fn product(&self, _: Site<'_>, product: &Product<'_>) -> Result<Buffer> {
        self::product(product)
    }
}

pub(super) fn product(product: &Product<'_>) -> Result<Buffer> {
    fn run<'a, S: Memories + Of<'a> + 'a>(a: &S, product: &Product<'a>) -> Result<S> {
        let [batch, m, n, k] = product.sizes();
        let b = S::of(product.b.input)?;
        // On a CPU candle takes one `b` for all as a product of all rows of `a`, also where `a` is not in rows.
        let folds =
            matches!(product.a.input.memory(), Memory::Cpu(_)) && batch > 1 && product.b.batch_stride == 0;
        let (a_copy, a_layout) = operand(&product.a, a, folds)?;
        let (b_copy, b_layout) = operand(&product.b, b, false)?;
        let (a, b) = (a_copy.as_ref().unwrap_or(a), b_copy.as_ref().unwrap_or(b));
        let mut y = a.matmul(b, (batch, m, n, k), &a_layout, &b_layout)?;
        let whole = Layout::contiguous((batch, m, n));
        if product.alpha != 1.0 {
            y = y.affine(&whole, product.alpha as f64, 0.0)?;
        }
        let Some((beta, c)) = product.c else { return Ok(y) };
        let (c, at) = (S::of(c)?, Layout::contiguous_with_offset((batch, m, n), c.start_offset()));
        match beta == 1.0 {
            true => y.binary_impl::<Add>(c, &whole, &at),
            false => y.binary_impl::<Add>(&c.affine(&at, beta as f64, 0.0)?, &whole, &whole),
        }
    }
    let [batch, m, n, _] = product.sizes();
    let storage = match product.a.input.memory() {
        Memory::Cpu(_) if product.dtype() == DType::BF16 => Storage::Cpu(through_f32(product)?),
        memory => on_storage!(memory, a => run(a, product)?),
    };
    Ok(Buffer::from_parts(storage, (batch, m, n), product.dtype()))
}

/// A product of bf16 on a CPU.
fn through_f32(product: &Product<'_>) -> Result<CpuStorage> {
    let wide = |x: Input<'_>| Result::Ok((CpuStorage::of(x)?.to_dtype(x.layout(), DType::F32)?, x.shape()));
    let [(a, a_shape), (b, b_shape)] = [wide(product.a.input)?, wide(product.b.input)?];
    let c = product.c.map(|(beta, c)| Result::Ok((beta, wide(c)?))).transpose()?;
    // Casts put elements in order: views of what they make.
    let (a, b) = (Storage::Cpu(a), Storage::Cpu(b));
    let [a_layout, b_layout] = [a_shape, b_shape].map(Layout::contiguous);
    let c = c.map(|(beta, (c, shape))| (beta, Storage::Cpu(c), Layout::contiguous(shape)));
    let view = |storage, layout| View::of(Input::new("matmul", storage, layout));
    let (Some(a), Some(b)) = (view(&a, &a_layout), view(&b, &b_layout)) else {
        bail!("matmul: wants matrices")
    };
    let c = c.as_ref().map(|(beta, c, layout)| (*beta, Input::new("matmul", c, layout)));
    let (y, shape) = self::product(&Product::new(product.alpha, a, b, c)?)?.into_parts();
    match y {
        Storage::Cpu(y) => y.to_dtype(&Layout::contiguous(shape), DType::BF16),
        _ => bail!("matmul: wants memory of the CPU"),
    }
}

/// A product of no terms, which is `beta c`.
pub(super) fn without_terms(product: &Product<'_>) -> Result<Buffer> {
    fn run<'a, S: Memories + Of<'a> + 'a>(a: &S, product: &Product<'a>) -> Result<S> {
        let [batch, m, n, _] = product.sizes();
        let shape = Shape::from((batch, m, n));
        match product.c {
            Some((beta, c)) if shape.elem_count() > 0 => {
                let at = Layout::contiguous_with_offset(shape, c.start_offset());
                S::of(c)?.affine(&at, beta as f64, 0.0)
            }
            _ => a.device().zeros_impl(&shape, a.dtype()),
        }
    }
    let [batch, m, n, _] = product.sizes();
    let storage = on_storage!(product.a.input.memory(), a => run(a, product)?);
    Ok(Buffer::from_parts(storage, (batch, m, n), product.dtype()))
}
