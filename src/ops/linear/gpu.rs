//! Linear layers on a GPU: the products are the library's, what stands around them is ours.

use super::{Few, UNIT};
#[cfg(feature = "cuda")]
use crate::kernels::Held;
use crate::kernels::casts::{self, Copied};
#[cfg(feature = "cuda")]
use crate::kernels::gpu::{self, Arg};
use crate::kernels::gpu::{Buffer, Gpu, Launch, Operand};
use crate::kernels::rows::Rows;
#[cfg(feature = "cuda")]
use crate::kernels::tape::in_order;
use crate::kernels::{Input, with_inputs};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor};

const OP: &str = "linear";

/// A matrix in the dtype that a product wants.
pub(in super::super) enum Cast<'a> {
    Same(Input<'a>),
    New(Buffer),
    Copied(Copied),
}

impl<'a> Cast<'a> {
    pub fn to(gpu: Gpu<'_>, x: Input<'a>, dtype: DType) -> Result<Self> {
        if x.dtype() == dtype {
            return Ok(Cast::Same(x));
        }
        if let Some(copied) = casts::find(&[x], dtype, x.shape()) {
            return Ok(Cast::Copied(copied));
        }
        let cols = x.dims().last().copied().unwrap_or(1);
        let rows = Rows::new(x.shape().elem_count() / cols.max(1), cols, dtype, &[x]).at_most(256);
        let mut y = Buffer::new(gpu, x.shape(), dtype)?;
        let (types, defines) = ([("T", dtype), ("W", x.dtype())], rows.defines());
        let launch = rows.launch(&UNIT, "linear_cast", &types, &defines);
        gpu.launch(&launch, &mut [x.into(), (&mut y).into()], &rows.params())?;
        Ok(Cast::New(y))
    }

    pub fn input(&self) -> Input<'_> {
        match self {
            Cast::Same(x) => *x,
            Cast::New(buffer) => buffer.input(OP),
            Cast::Copied(copied) => copied.input(OP),
        }
    }
}

/// Writes `x` into `to`, of its shape and any dtype, which must be contiguous.
#[cfg(feature = "cuda")]
pub(crate) fn cast_into(x: &Tensor, to: &Tensor) -> Result<()> {
    let (x, held) = (in_order(x)?, Held::new(to));
    let to = held.input(OP);
    let cols = x.dims().last().copied().unwrap_or(1);
    let done = gpu::on(&x, |gpu| {
        with_inputs(OP, [&x], |[x]| {
            to.contiguous()?;
            let rows = Rows::new(x.shape().elem_count() / cols.max(1), cols, to.dtype(), &[x]).at_most(256);
            let (types, defines) = ([("T", to.dtype()), ("W", x.dtype())], rows.defines());
            let launch = rows.launch(&UNIT, "linear_cast", &types, &defines);
            gpu.launch(&launch, &mut [x.into(), Arg::Update(to)], &rows.params())
        })
    });
    done.unwrap_or_else(|| candle_core::bail!("{OP}: wants a GPU"))
}

/// The dims of `x` with another last one.
pub(super) fn with_last(x: Input<'_>, n: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    dims
}

/// Memory for rows of `n`, in which each begins as the bias, and the `beta` that a product into it takes.
pub(in super::super) fn begun(
    gpu: Gpu<'_>,
    x: Input<'_>,
    n: usize,
    bias: Option<Input<'_>>,
) -> Result<(Buffer, f32)> {
    let mut y = Buffer::new(gpu, with_last(x, n), x.dtype())?;
    let Some(bias) = bias else { return Ok((y, 0.0)) };
    bias.contiguous()?;
    let rows = Rows::new(
        x.shape().elem_count() / x.dims().last().copied().unwrap_or(1).max(1),
        n,
        x.dtype(),
        &[bias],
    );
    let rows = rows.at_most(256);
    let (types, defines) = ([("T", x.dtype()), ("W", bias.dtype())], rows.defines());
    let launch = rows.launch(&UNIT, "linear_bias", &types, &defines);
    gpu.launch(&launch, &mut [bias.into(), (&mut y).into()], &rows.params())?;
    Ok((y, 1.0))
}

pub(super) fn forward(gpu: Gpu<'_>, x: Input<'_>, w: Input<'_>, bias: Option<Input<'_>>) -> Result<Buffer> {
    if Few::fits(gpu, x, w)? {
        return Few { bias, ..Few::of(x, w) }.run(gpu);
    }
    let (n, k) = (w.dims()[0], w.dims()[1]);
    let m = x.shape().elem_count() / k.max(1);
    let w = Cast::to(gpu, w, x.dtype())?;
    let (mut y, beta) = begun(gpu, x, n, bias)?;
    gpu.product((m, n, k), 1.0, Operand::rows(x, k), Operand::rows(w.input(), k).t(), beta, &mut y, 0)?;
    Ok(y)
}

/// The dtype in which a product writes the gradient of `w`: sums of half precision stay `f32` for an `f32` weight.
pub(in super::super) fn grad_of(
    gpu: Gpu<'_>,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    w: &Tensor,
) -> Result<Tensor> {
    let dtype = if w.dtype() == DType::F32 { DType::F32 } else { a.dtype() };
    let mut dw = Buffer::new(gpu, (m, n), dtype)?;
    gpu.product((m, n, k), alpha, a, b, 0.0, &mut dw, 0)?;
    dw.tensor().to_dtype(w.dtype())
}

pub(super) fn grads(
    gpu: Gpu<'_>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    g: &Tensor,
    needs: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let (n, k) = weight.dims2()?;
    let m = x.elem_count() / k.max(1);
    with_inputs(OP, [x, weight, g], |[xs, ws, gs]| {
        let g = Operand::rows(gs, n);
        let dx = needs[0].then(|| {
            let w = Cast::to(gpu, ws, gs.dtype())?;
            let mut dx = Buffer::new(gpu, x.shape(), x.dtype())?;
            gpu.product((m, k, n), 1.0, g, Operand::rows(w.input(), k), 0.0, &mut dx, 0)?;
            Result::Ok(dx.tensor())
        });
        let dw = needs[1].then(|| grad_of(gpu, (n, k, m), 1.0, g.t(), Operand::rows(xs, k), weight));
        let db = bias.filter(|_| needs[2]).map(|b| {
            let columns = Columns { x: gs, z: None, cols: n };
            columns.sum(gpu, None, b.dtype())
        });
        Ok([dx.transpose()?, dw.transpose()?, db.transpose()?])
    })
}

/// The sums over the rows of `x`, or of `x z`.
pub(in super::super) struct Columns<'a> {
    pub x: Input<'a>,
    pub z: Option<Input<'a>>,
    pub cols: usize,
}

/// `Columns` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ColumnsParams {
    rows: u64,
    step: u64,
    cols: u32,
    parts: u32,
}

impl Columns<'_> {
    /// The sums in `dtype`; over `norms`, `f32`, when there is a `z`.
    pub fn sum(&self, gpu: Gpu<'_>, norms: Option<Input<'_>>, dtype: DType) -> Result<Tensor> {
        const THREADS: usize = 256;
        /// Rows that are worth a part.
        const ROWS: usize = 64;
        let (cols, size) = (self.cols, self.x.dtype().size_in_bytes());
        let rows = self.x.shape().elem_count() / cols.max(1);
        let inputs = [Some(self.x), self.z];
        let at_16 = |x: &Input<'_>| (x.start_offset() * size).is_multiple_of(16);
        let vectors = cols * size % 16 == 0 && inputs.iter().flatten().all(at_16);
        let per = if vectors { 16 / size } else { 1 };
        let across = cols.div_ceil(32 * per);
        let parts = (4 * gpu.multiprocessors()).div_ceil(across.max(1)).clamp(1, rows.div_ceil(ROWS).max(1));
        let step = rows.div_ceil(parts);
        let params =
            ColumnsParams { rows: rows as u64, step: step as u64, cols: cols as u32, parts: parts as u32 };
        let mut partial = Buffer::new(gpu, (parts, cols), DType::F32)?;
        let mut y = Buffer::new(gpu, cols, dtype)?;
        let types = [("T", self.x.dtype()), ("W", dtype)];
        let defines = [("PER", per as i64), ("PRODUCT", self.z.is_some() as i64)];
        let launch = |entry, groups| Launch {
            unit: &UNIT,
            entry,
            types: &types,
            defines: &defines,
            groups,
            threads: THREADS,
            shared: 0,
        };
        let mut args = [self.x.into(), self.z.into(), (&mut partial).into()];
        gpu.launch(&launch("column_sum", [across, parts, 1]), &mut args, &params)?;
        let mut args = [partial.input(OP).into(), norms.into(), (&mut y).into()];
        gpu.launch(&launch("column_total", [cols.div_ceil(THREADS), 1, 1]), &mut args, &params)?;
        Ok(y.tensor())
    }
}
