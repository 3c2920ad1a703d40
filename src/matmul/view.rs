//! Matrices as a backend takes them: rows at a stride, or the transpose of that, one matrix after another.

use crate::kernels::Input;
use candle_core::{DType, Result, bail};

/// `batch` matrices of `rows x cols` in one tensor.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub input: Input<'a>,
    pub batch: usize,
    pub rows: usize,
    pub cols: usize,
    /// Elements from one stored row to the next, at least those of a row.
    pub stride: usize,
    /// Elements from one matrix to the next; 0 where all are one.
    pub batch_stride: usize,
    /// Whether what is stored in rows is the transpose: `cols x rows`.
    pub transposed: bool,
}

impl<'a> View<'a> {
    /// Of a tensor `(.., rows, cols)`; none if its strides are not those of such matrices, and it wants a copy.
    pub fn of(input: Input<'a>) -> Option<Self> {
        let (dims, strides) = (input.dims(), input.stride());
        let (outer, [rows, cols]) = dims.split_last_chunk::<2>()?;
        let (outer_strides, [by_row, by_col]) = strides.split_last_chunk::<2>()?;
        // A dimension of one element may have any stride.
        let in_rows = (*by_col == 1 || *cols == 1) && (*by_row >= *cols || *rows == 1);
        let in_cols = (*by_row == 1 || *rows == 1) && (*by_col >= *rows || *cols == 1);
        let (transposed, stride) = match (in_rows, in_cols) {
            (true, _) => (false, if *rows == 1 { *cols } else { *by_row }),
            (_, true) => (true, if *cols == 1 { *rows } else { *by_col }),
            _ => return None,
        };
        let mut wide = outer.iter().zip(outer_strides).filter(|(n, _)| **n != 1).rev();
        let (mut batch, mut batch_stride) = (1, 0);
        if let Some((n, stride)) = wide.next() {
            (batch, batch_stride) = (*n, *stride);
        }
        for (n, stride) in wide {
            if *stride != batch * batch_stride {
                return None;
            }
            batch *= n;
        }
        Some(View { input, batch, rows: *rows, cols: *cols, stride: stride.max(1), batch_stride, transposed })
    }

    pub fn dtype(&self) -> DType {
        self.input.dtype()
    }

    /// Elements from the first of a matrix to the end of its last.
    pub fn span(&self) -> usize {
        let (rows, cols) = if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        if rows * cols == 0 { 0 } else { (rows - 1) * self.stride + cols }
    }
}

/// `alpha a b + beta c`, for each of `batch` matrices.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub alpha: f32,
    pub a: View<'a>,
    pub b: View<'a>,
    /// `beta` and the contiguous `c`.
    pub c: Option<(f32, Input<'a>)>,
}

impl<'a> Product<'a> {
    /// Of tensors whose shapes fit: `(.., m, k)` by `(.., k, n)`, of one dtype, with as many matrices.
    pub fn new(alpha: f32, a: View<'a>, b: View<'a>, c: Option<(f32, Input<'a>)>) -> Result<Self> {
        let dtypes = [a.dtype(), b.dtype(), c.map_or(a.dtype(), |(_, c)| c.dtype())];
        let fits = a.cols == b.rows && a.batch == b.batch;
        let elements = a.batch * a.rows * b.cols;
        if !fits || c.is_some_and(|(_, c)| c.shape().elem_count() != elements) {
            bail!("matmul: wants (.., m, k) by (.., k, n), got {:?} by {:?}", a.input.dims(), b.input.dims())
        }
        if !matches!(dtypes[0], DType::F32 | DType::F16 | DType::BF16) || dtypes != [dtypes[0]; 3] {
            bail!("matmul: wants tensors of one dtype among f32, f16 and bf16, got {dtypes:?}")
        }
        c.map_or(Ok(()), |(_, c)| c.contiguous())?;
        // As in BLAS, what counts for nothing is not read, be it NaN.
        let c = c.filter(|(beta, _)| *beta != 0.0);
        Ok(Product { alpha, a, b, c })
    }

    /// `(batch, m, n, k)`.
    pub fn sizes(&self) -> [usize; 4] {
        [self.a.batch, self.a.rows, self.b.cols, self.a.cols]
    }

    pub fn dtype(&self) -> DType {
        self.a.dtype()
    }
}
