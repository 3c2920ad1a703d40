//! Cross-entropy on a GPU: one read of the logits forward, one read and one write backward.

use super::{CrossEntropy, FromLogits, Reduction, UNIT};
use crate::kernels::gpu::{Buffer, Gpu, Launch};
use crate::kernels::rows::Rows;
use crate::kernels::{FusedOp, Input, with_inputs};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

/// Threads of a row at most where it is read once: several groups share a multiprocessor, so that one reads while
/// another sums up.
const READ_THREADS: usize = 256;
/// Where it is also written: pieces of rows, each a group's.
const PIECE_THREADS: usize = 128;
/// Where it is read twice: as few rows at a time as keep the multiprocessors busy, so that the second read is cached.
const TWICE_THREADS: usize = 1024;

/// `Loss` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Loss {
    rows: u64,
    first: u64,
    cols: u32,
    smoothing: f32,
    pieces: u32,
    unused: u32,
}

/// `Total` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Total {
    rows: u64,
    mean: u32,
    unused: u32,
}

impl CrossEntropy {
    fn loss(&self, rows: &Rows, first: usize) -> Loss {
        Loss {
            rows: rows.rows as u64,
            first: first as u64,
            cols: rows.cols as u32,
            smoothing: self.label_smoothing,
            pieces: rows.flights() as u32,
            unused: 0,
        }
    }

    fn total(&self, rows: usize) -> Total {
        Total { rows: rows as u64, mean: (self.reduction == Reduction::Mean) as u32, unused: 0 }
    }

    /// Makes logits the gradients of their own rows' losses, and writes these from `first` on.
    pub(in super::super) fn in_place(
        &self,
        gpu: Gpu<'_>,
        (m, classes): (usize, usize),
        logits: &mut Buffer,
        targets: Input<'_>,
        losses: &mut Buffer,
        first: usize,
    ) -> Result<()> {
        let rows = Rows::new(m, classes, logits.dtype(), &[]).at_most(TWICE_THREADS);
        let (types, defines) = (types(logits.dtype(), logits.dtype()), self.defines(&rows));
        let launch = rows.launch(&UNIT, "cross_entropy_in_place", &types, &defines);
        let mut args = [logits.into(), targets.into(), losses.into()];
        gpu.launch(&launch, &mut args, &self.loss(&rows, first))
    }

    fn defines(&self, rows: &Rows) -> [(&'static str, i64); 5] {
        let [a, b, c, d] = rows.defines();
        [a, b, c, d, ("SMOOTH", (self.label_smoothing > 0.0) as i64)]
    }

    /// The loss, and what each row's gradient is multiplied by, from the rows' losses.
    pub(in super::super) fn sum(
        &self,
        gpu: Gpu<'_>,
        losses: &Buffer,
        targets: Input<'_>,
    ) -> Result<[Buffer; 2]> {
        let mut loss = Buffer::new(gpu, (), DType::F32)?;
        let mut factor = Buffer::new(gpu, 1, DType::F32)?;
        let mut args =
            [losses.input("cross_entropy").into(), targets.into(), (&mut loss).into(), (&mut factor).into()];
        gpu.launch(&one_group("cross_entropy_total"), &mut args, &self.total(targets.dims()[0]))?;
        Ok([loss, factor])
    }
}

fn types(x: DType, y: DType) -> [(&'static str, DType); 2] {
    [("T", y), ("X", x)]
}

/// A gradient of the sum of losses, times two numbers, in `dtype`.
pub(in super::super) fn scaled(
    gpu: Gpu<'_>,
    x: Input<'_>,
    [g, factor]: [Input<'_>; 2],
    dtype: DType,
) -> Result<Tensor> {
    let rows = Rows::new(x.dims()[0], x.dims()[1], dtype, &[x]).at_most(READ_THREADS);
    let mut y = Buffer::new(gpu, x.shape(), dtype)?;
    let (types, defines) = (types(x.dtype(), dtype), CrossEntropy::default().defines(&rows));
    let launch = rows.launch(&UNIT, "cross_entropy_scale", &types, &defines);
    let params = CrossEntropy::default().loss(&rows, 0);
    gpu.launch(&launch, &mut [x.into(), g.into(), factor.into(), (&mut y).into()], &params)?;
    Ok(y.tensor())
}

fn one_group(entry: &'static str) -> Launch<'static> {
    Launch { unit: &UNIT, entry, types: &[], defines: &[], groups: [1; 3], threads: 1024, shared: 0 }
}

impl FromLogits {
    pub(super) fn gpu_forward(&self, gpu: Gpu<'_>, x: Input<'_>) -> Result<Buffer> {
        let rows = Rows::of(Self::NAME, x, &[x])?.at_most(READ_THREADS);
        let mut losses = Buffer::new(gpu, rows.rows, DType::F32)?;
        let mut lse = Buffer::new(gpu, rows.rows, DType::F32)?;
        with_inputs(Self::NAME, [&self.targets], |[targets]| {
            let mut args = [x.into(), targets.into(), (&mut losses).into(), (&mut lse).into()];
            let (types, defines) = (types(rows.dtype, rows.dtype), self.options.defines(&rows));
            let launch = rows.launch(&UNIT, "cross_entropy_fwd", &types, &defines);
            gpu.launch(&launch, &mut args, &self.options.loss(&rows, 0))?;
            let [loss, factor] = self.options.sum(gpu, &losses, targets)?;
            self.on_gpu.set([lse.tensor(), factor.tensor()]).ok();
            Ok(loss)
        })
    }

    pub(super) fn gpu_backward(&self, gpu: Gpu<'_>, x: &Tensor, g: &Tensor) -> Result<Tensor> {
        let Some([lse, factor]) = self.on_gpu.get() else { bail!("cross_entropy: backward before forward") };
        with_inputs(Self::NAME, [x, &self.targets, lse, factor, g], |[x, targets, lse, factor, g]| {
            let rows = Rows::of(Self::NAME, x, &[x])?.at_most(PIECE_THREADS);
            let mut dx = Buffer::new(gpu, x.shape(), x.dtype())?;
            let mut args = [x.into(), targets.into(), lse.into(), factor.into(), g.into(), (&mut dx).into()];
            let (types, defines) = (types(rows.dtype, rows.dtype), self.options.defines(&rows));
            let mut launch = rows.launch(&UNIT, "cross_entropy_bwd", &types, &defines);
            launch.groups[0] *= rows.flights();
            gpu.launch(&launch, &mut args, &self.options.loss(&rows, 0))?;
            Ok(dx.tensor())
        })
    }
}
