//! Matrix products on a GPU: what is multiplied, and by whose kernels.

use super::{Buffer, Gpu};
use crate::kernels::Input;
use candle_core::{DType, Result, bail};

/// A matrix in rows of `stride` elements, or the transpose of one.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(in crate::kernels) x: Input<'a>,
    /// Elements of `x` before the first.
    pub(in crate::kernels) start: usize,
    pub(in crate::kernels) stride: usize,
    pub(in crate::kernels) transposed: bool,
}

impl<'a> Operand<'a> {
    /// The elements of `x` in rows of `cols`.
    pub fn rows(x: Input<'a>, cols: usize) -> Self {
        Operand { x, start: 0, stride: cols.max(1), transposed: false }
    }

    /// Columns from `first` on of the elements of `x` in rows of `cols`.
    #[cfg(feature = "cuda")]
    pub fn columns(x: Input<'a>, cols: usize, first: usize) -> Self {
        Operand { start: first, ..Operand::rows(x, cols) }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Operand { transposed: !self.transposed, ..self }
    }

    pub fn dtype(&self) -> DType {
        self.x.dtype()
    }

    #[cfg(feature = "metal")]
    pub fn input(&self) -> Input<'a> {
        self.x
    }

    #[cfg(feature = "metal")]
    pub fn stride(&self) -> usize {
        self.stride
    }

    #[cfg(feature = "metal")]
    pub fn transposed(&self) -> bool {
        self.transposed
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let len = self.x.layout.shape().elem_count();
        let fits = self.start + rows.saturating_sub(1) * self.stride + cols <= len.max(1);
        self.x.layout.is_contiguous() && cols <= self.stride && fits
    }
}

/// `alpha a b`, `depth` deep, beside another product.
#[cfg_attr(not(feature = "metal"), allow(dead_code, reason = "Metal multiplies so"))]
pub(crate) struct Beside<'a> {
    pub alpha: f32,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub depth: usize,
}

impl Gpu<'_> {
    /// `c[at..] = alpha a b + beta c[at..]`, of `(m, k)` by `(k, n)`: sums are `f32`. `a` and `b` have one dtype, `c` may
    /// be `f32` beside it. With a `beta` of 0, `c` is not read.
    #[allow(clippy::too_many_arguments, reason = "BLAS has them")]
    pub fn product(
        self,
        (m, n, k): (usize, usize, usize),
        alpha: f32,
        a: Operand<'_>,
        b: Operand<'_>,
        beta: f32,
        c: &mut Buffer,
        at: usize,
    ) -> Result<()> {
        let fits = a.holds(m, k) && b.holds(k, n) && at + m * n <= c.layout.shape().elem_count();
        let dtypes = [a.x.dtype(), b.x.dtype(), c.dtype];
        if !fits || dtypes[0] != dtypes[1] || (dtypes[2] != dtypes[0] && dtypes[2] != DType::F32) {
            bail!(
                "matmul: wants {m}x{k} by {k}x{n} of one dtype, got {:?} and {:?} of {dtypes:?}",
                a.x.dims(),
                b.x.dims()
            )
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => {
                crate::kernels::cuda::product(device, (m, n, k), alpha, &a, &b, beta, c, (at, n))
            }
            #[cfg(feature = "metal")]
            Gpu::Metal(device) => {
                let plain = alpha == 1.0 && beta == 0.0 && at == 0;
                if plain && crate::matmul::by_mps(device, (m, n, k), [&a, &b], c)? {
                    return Ok(());
                }
                match plain && crate::kernels::metal::plain_product(device, (m, n, k), &a, &b, c)? {
                    true => Ok(()),
                    false => {
                        crate::kernels::product::product(self, (m, n, k), alpha, &a, &b, None, beta, c, at)
                    }
                }
            }
            #[cfg(feature = "host")]
            Gpu::Host => crate::kernels::host::product((m, n, k), alpha, &a, &b, beta, c, at),
            Gpu::None(never, _) => {
                let _ = (alpha, beta);
                match never {}
            }
        }
    }

    /// As [`Gpu::product`], into columns of rows of `stride` elements.
    #[cfg(feature = "cuda")]
    #[allow(clippy::too_many_arguments, reason = "BLAS has them")]
    pub fn product_into(
        self,
        (m, n, k): (usize, usize, usize),
        alpha: f32,
        a: Operand<'_>,
        b: Operand<'_>,
        beta: f32,
        c: &mut Buffer,
        (at, stride): (usize, usize),
    ) -> Result<()> {
        let len = c.layout.shape().elem_count();
        if !a.holds(m, k) || !b.holds(k, n) || m == 0 || n > stride || at + (m - 1) * stride + n > len {
            bail!("matmul: wants {m}x{k} by {k}x{n} into rows of {stride} from {at} on, got {len} elements")
        }
        match self {
            Gpu::Cuda(device) => {
                crate::kernels::cuda::product(device, (m, n, k), alpha, &a, &b, beta, c, (at, stride))
            }
            _ => bail!("matmul: wants a CUDA GPU"),
        }
    }

    /// Whether its products take another beside them: [`Self::product_beside`].
    pub fn sums_products(self) -> bool {
        #[cfg(feature = "metal")]
        return matches!(self, Gpu::Metal(_));
        #[cfg(not(feature = "metal"))]
        false
    }

    /// `c = a b + beside + beta c`, of one dtype, rounded once.
    pub fn product_beside(
        self,
        (m, n, k): (usize, usize, usize),
        [a, b]: [Operand<'_>; 2],
        beside: &Beside<'_>,
        beta: f32,
        c: &mut Buffer,
    ) -> Result<()> {
        let Beside { a: e, b: f, depth, .. } = beside;
        let fits = a.holds(m, k) && b.holds(k, n) && e.holds(m, *depth) && f.holds(*depth, n);
        let one = [b.dtype(), e.dtype(), f.dtype(), c.dtype].iter().all(|d| *d == a.dtype());
        if !fits || !one || m * n > c.layout.shape().elem_count() {
            bail!("matmul: wants {m}x{k} by {k}x{n} and {m}x{depth} by {depth}x{n} of one dtype")
        }
        match self {
            #[cfg(feature = "metal")]
            Gpu::Metal(_) if m * n == 0 => Ok(()),
            #[cfg(feature = "metal")]
            Gpu::Metal(_) => {
                crate::kernels::product::product(self, (m, n, k), 1.0, &a, &b, Some(beside), beta, c, 0)
            }
            _ => bail!("matmul: wants a GPU that sums products, got another (beta {beta})"),
        }
    }
}
