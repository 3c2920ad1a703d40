//! Magnitudes on a GPU.

use super::super::linear::Columns;
use super::{Scale, UNIT};
use crate::kernels::gpu::{Buffer, Gpu};
use crate::kernels::rows::Rows;
use crate::kernels::{FusedOp, Input, with_inputs};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor};

/// `Norms` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Norms {
    rows: u64,
    cols: u32,
    rank: u32,
    scale: f32,
    unused: u32,
}

/// The norms of the rows of `w + scale b a`.
pub(super) fn norms(gpu: Gpu<'_>, [w, a, b]: [Input<'_>; 3], scale: f64) -> Result<Tensor> {
    /// Rows of `w` that share a read of `a`, as in the header.
    const TOGETHER: usize = 8;
    let (n, k) = (w.dims()[0], w.dims()[1]);
    // A group works on rows together: the division of one row among its threads, whose groups are ours.
    let rows = Rows::new(n, k, w.dtype(), &[w, a]).in_step().at_most(256);
    let mut norms = Buffer::new(gpu, n, DType::F32)?;
    let types = [("T", w.dtype()), ("M", a.dtype()), ("B", b.dtype())];
    let [c, d, e, f] = rows.defines();
    let defines = [c, d, e, f, ("BIAS", 0)];
    let mut launch = rows.launch(&UNIT, "dora_norms", &types, &defines);
    launch.groups = [n.div_ceil(TOGETHER), 1, 1];
    launch.threads = rows.row_threads();
    let params =
        Norms { rows: n as u64, cols: k as u32, rank: a.dims()[0] as u32, scale: scale as f32, unused: 0 };
    gpu.launch(&launch, &mut [w.into(), a.into(), b.into(), (&mut norms).into()], &params)?;
    Ok(norms.tensor())
}

impl Scale {
    /// `z m / n`, plus the bias when asked for.
    pub(super) fn gpu_scale(&self, gpu: Gpu<'_>, z: Input<'_>, m: Input<'_>, bias: bool) -> Result<Buffer> {
        let held = self.bias.as_ref().unwrap_or(&self.norms);
        with_inputs(Self::NAME, [&self.norms, held], |[norms, held]| {
            let rows = Rows::of(Self::NAME, z, &[z, m, norms, held])?.at_most(256);
            let bias = (bias && self.bias.is_some()).then_some(held);
            let mut y = Buffer::new(gpu, z.shape(), z.dtype())?;
            let types =
                [("T", z.dtype()), ("M", m.dtype()), ("B", bias.map_or(DType::F32, |bias| bias.dtype()))];
            let [c, d, e, f] = rows.defines();
            let defines = [c, d, e, f, ("BIAS", bias.is_some() as i64)];
            let mut args = [z.into(), m.into(), norms.into(), bias.into(), (&mut y).into()];
            gpu.launch(&rows.launch(&UNIT, "dora_scale", &types, &defines), &mut args, &rows.params())?;
            Ok(y)
        })
    }

    pub(super) fn gpu_backward(
        &self,
        gpu: Gpu<'_>,
        [z, m]: [&Tensor; 2],
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        with_inputs(Self::NAME, [z, m, g, &self.norms], |[zs, ms, gs, norms]| {
            let dz = needs[0].then(|| Result::Ok(self.gpu_scale(gpu, gs, ms, false)?.tensor()));
            let dm = needs[1].then(|| {
                let columns = Columns { x: gs, z: Some(zs), cols: m.dims1()? };
                columns.sum(gpu, Some(norms), m.dtype())
            });
            Ok([dz.transpose()?, dm.transpose()?])
        })
    }
}
