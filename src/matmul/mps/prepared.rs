//! Work that is ready to be encoded, with all memory that it reads and writes.

use super::super::{Product, View};
use super::commands::{Commands, On, Step};
use super::kernels::{Key, PLAIN, queue};
use super::stored::Stored;
use crate::kernels::Input;
use crate::kernels::gpu::Buffer;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{DType, Layout, MetalDevice, MetalStorage, Result, Shape, Storage, bail};
use std::fmt;

/// Steps that write one result.
pub(super) struct Prepared {
    pub steps: Vec<Step>,
    /// What they read: held until they are done, or candle's allocator would give it to others.
    _read: Vec<Stored>,
    result: MetalStorage,
    /// The result's, of `dtype`, into which it is still to be narrowed.
    pub shape: Shape,
    dtype: DType,
    what: What,
}

/// What fails when it does.
#[derive(Clone, Copy)]
enum What {
    Product([usize; 4]),
    Vector([usize; 2]),
    SoftMax([usize; 2]),
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = self.dtype;
        match self.what {
            What::Product([1, m, n, k]) => write!(f, "the product of {m}x{k} by {k}x{n} in {dtype:?}"),
            What::Product([b, m, n, k]) => write!(f, "{b} products of {m}x{k} by {k}x{n} in {dtype:?}"),
            What::Vector([m, k]) => write!(f, "the product of {m}x{k} by a vector in {dtype:?}"),
            What::SoftMax([rows, n]) => write!(f, "the softmax of {rows} rows of {n} in {dtype:?}"),
        }
    }
}

/// What a contiguous input's elements are in its memory.
fn layout(input: &Input<'_>) -> Layout {
    Layout::contiguous_with_offset(input.shape(), input.start_offset())
}

/// What MPS computes in: its kernels take no bf16.
fn wide(dtype: DType) -> DType {
    if dtype == DType::BF16 { DType::F32 } else { dtype }
}

/// Memory of the device that candle's kernel, or nobody, writes.
fn uninit(device: &MetalDevice, shape: &Shape, dtype: DType) -> Result<MetalStorage> {
    // SAFETY: the caller writes every element, or there is none.
    unsafe { device.alloc_uninit(shape, dtype) }
}

fn same_device(device: &MetalDevice, input: &Input<'_>) -> Result<()> {
    match input.metal()?.device().same_device(device) {
        true => Ok(()),
        false => bail!("mps: wants tensors of one Metal device, got two"),
    }
}

impl Prepared {
    /// `alpha a b + beta c`; the result has the shape `(batch, m, n)`. With `by_vector`, one row or one column is by
    /// `MPSMatrixVectorMultiplication`, where it lies in one piece.
    pub fn product(device: &MetalDevice, product: &Product<'_>, by_vector: bool) -> Result<Self> {
        let sizes @ [batch, m, n, k] = product.sizes();
        let (dtype, shape, what) = (product.dtype(), Shape::from((batch, m, n)), What::Product(sizes));
        let c = product.c.filter(|(beta, _)| *beta != 0.0);
        for input in [Some(product.a.input), Some(product.b.input), c.map(|(_, c)| c)].iter().flatten() {
            same_device(device, input)?;
        }
        if batch * m * n * k == 0 {
            let result = match c {
                _ if batch * m * n == 0 => uninit(device, &shape, dtype)?,
                Some((beta, c)) => c.metal()?.affine(&layout(&c), beta.into(), 0.0)?,
                None => device.zeros_impl(&shape, dtype)?,
            };
            return Ok(Prepared { steps: vec![], _read: vec![], result, shape, dtype, what });
        }
        let (a, b) = (Stored::of(&product.a)?, Stored::of(&product.b)?);
        let result = match c {
            None => uninit(device, &shape, wide(dtype))?,
            Some((_, c)) if dtype == DType::BF16 => c.metal()?.to_dtype(&layout(&c), DType::F32)?,
            Some((_, c)) => {
                let mut copy = uninit(device, &shape, dtype)?;
                c.metal()?.copy_strided_src(&mut copy, 0, &layout(&c))?;
                copy
            }
        };
        let into = Stored::contiguous(result.clone(), [batch, m, n]);
        let beta = c.map_or(0.0, |(beta, _)| beta);
        let factors = [product.alpha.to_bits(), beta.to_bits()];
        let transposed = [product.a.transposed, product.b.transposed];
        // One row, as in decoding, or one column: a matrix by a vector. The row is Bᵀ by the row of A.
        let by_vector = match (m, n) {
            _ if !by_vector => None,
            (1, _) => Some((&b, !transposed[1], &a)),
            (_, 1) => Some((&a, transposed[0], &b)),
            _ => None,
        };
        let by_vector = by_vector.filter(|(.., x)| batch == 1 && x.is_line());
        let key = |m| Key::Product { dtype: wide(dtype), sizes: [m, n, k], transposed, factors };
        let step = |m, [a, b, c]: [&Stored; 3]| {
            Ok(Step { key: key(m), on: On::Matrices([a.matrix()?, b.matrix()?, c.matrix()?]) })
        };
        let all = a.matrices == batch;
        let steps = if let Some((matrix, transposed, x)) = by_vector {
            let key = Key::Vector { dtype: wide(dtype), sizes: [m * n, k], transposed, factors };
            vec![Step { key, on: On::Vector(matrix.matrix()?, [x.vector()?, into.vector()?]) }]
        } else if all && b.matrices == 1 && !product.a.transposed && a.is_tall() {
            // Many matrices by one: their rows are those of one tall matrix.
            vec![step(batch * m, [&a.tall(), &b, &into.tall()])?]
        } else if all && b.matrices == batch && a.in_one() && b.in_one() {
            vec![step(m, [&a, &b, &into])?]
        } else {
            (0..batch).map(|i| step(m, [&a.one(i), &b.one(i), &into.one(i)])).collect::<Result<_>>()?
        };
        Ok(Prepared { steps, _read: vec![a, b], result, shape, dtype, what })
    }

    /// A matrix by the row `x`, to a vector.
    pub fn vector(device: &MetalDevice, matrix: &View<'_>, x: &View<'_>) -> Result<Self> {
        let sizes @ [m, k] = [matrix.rows, matrix.cols];
        let (dtype, shape, what) = (matrix.dtype(), Shape::from(m), What::Vector(sizes));
        if m * k == 0 {
            let result =
                if m == 0 { uninit(device, &shape, dtype)? } else { device.zeros_impl(&shape, dtype)? };
            return Ok(Prepared { steps: vec![], _read: vec![], result, shape, dtype, what });
        }
        let (stored, x) = (Stored::of(matrix)?, Stored::of(x)?);
        let into = Stored::new(&stored.storage, [1, 1, m], wide(dtype))?;
        let key = Key::Vector { dtype: wide(dtype), sizes, transposed: matrix.transposed, factors: PLAIN };
        let steps = vec![Step { key, on: On::Vector(stored.matrix()?, [x.vector()?, into.vector()?]) }];
        Ok(Prepared { steps, _read: vec![stored, x], result: into.storage, shape, dtype, what })
    }

    /// The softmax of each row.
    pub fn softmax(device: &MetalDevice, x: &View<'_>) -> Result<Self> {
        let sizes @ [rows, n] = [x.rows, x.cols];
        let (dtype, shape, what) = (x.dtype(), Shape::from((rows, n)), What::SoftMax(sizes));
        if rows * n == 0 {
            let result = uninit(device, &shape, dtype)?;
            return Ok(Prepared { steps: vec![], _read: vec![], result, shape, dtype, what });
        }
        let x = Stored::of(x)?;
        let into = Stored::new(&x.storage, [1, rows, n], wide(dtype))?;
        let steps = vec![Step {
            key: Key::SoftMax { dtype: wide(dtype) },
            on: On::Rows([x.matrix()?, into.matrix()?]),
        }];
        Ok(Prepared { steps, _read: vec![x], result: into.storage, shape, dtype, what })
    }

    /// The same result in another shape of as many elements.
    pub fn shaped(self, shape: impl Into<Shape>) -> Self {
        Prepared { shape: shape.into(), ..self }
    }

    /// Encodes it, waits for candle, commits, and waits for it.
    pub fn run(self, device: &MetalDevice) -> Result<Buffer> {
        if !self.steps.is_empty() {
            let commands = Commands::new(&queue(device)?)?;
            self.steps.iter().try_for_each(|step| commands.encode(device, step))?;
            commands.commit_after(device)?;
            commands.wait(|| self.to_string())?;
        }
        self.finish()
    }

    /// The result, once the steps are done.
    pub fn finish(self) -> Result<Buffer> {
        let result = match self.result.dtype() == self.dtype {
            true => self.result,
            false => self.result.to_dtype(&Layout::contiguous(self.shape.clone()), self.dtype)?,
        };
        Ok(Buffer::from_parts(Storage::Metal(result), self.shape, self.dtype))
    }
}
