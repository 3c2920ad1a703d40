//! A linear layer with a low-rank update on a GPU.
//!
//! On CUDA the update is written first and the base product is added to it: the library's product reads what it adds
//! to behind its arithmetic, which a second pass over the output could not. On Metal one kernel sums both.

use super::super::linear::{Cast, Few, Low, begun, grad_of};
use super::Lora;
use crate::kernels::gpu::{Beside, Buffer, Gpu, Operand};
use crate::kernels::{FusedOp, Input, with_inputs};
use crate::ops::Dropout;
use candle_core::{Result, Tensor, bail};

/// The product that begins an output: `scale t fᵀ + bias`.
pub(crate) struct Wide<'a> {
    /// `(rows, rank)`.
    pub t: Input<'a>,
    /// `f`, `(cols, rank)`, or its transpose if `rank_first`.
    pub factor: Input<'a>,
    pub rank_first: bool,
    pub bias: Option<Input<'a>>,
    pub rank: usize,
    pub cols: usize,
    pub scale: f32,
}

impl Wide<'_> {
    /// The update, through `dropout`, plus `a b` of `depth`: `rows` rows in the shape of `x` but for its last dimension.
    fn plus(
        &self,
        gpu: Gpu<'_>,
        x: Input<'_>,
        (rows, depth): (usize, usize),
        [a, b]: [Operand<'_>; 2],
        dropout: Option<Dropout>,
    ) -> Result<Buffer> {
        if dropout.is_none() && gpu.sums_products() {
            let (mut y, beta) = begun(gpu, x, self.cols, self.bias)?;
            let factor = Cast::to(gpu, self.factor, self.t.dtype())?;
            let [t, factor] = self.operands(&factor);
            let update = Beside { alpha: self.scale, a: t, b: factor, depth: self.rank };
            gpu.product_beside((rows, self.cols, depth), [a, b], &update, beta, &mut y)?;
            return Ok(y);
        }
        let mut y = self.run(gpu, x, rows)?;
        if let Some(dropout) = dropout {
            y = dropout.gpu(gpu, [y.input(Lora::NAME)])?;
        }
        gpu.product((rows, self.cols, depth), 1.0, a, b, 1.0, &mut y, 0)?;
        Ok(y)
    }

    /// `t`, and `fᵀ` in its dtype.
    fn operands<'a>(&'a self, factor: &'a Cast<'_>) -> [Operand<'a>; 2] {
        let factor = match self.rank_first {
            true => Operand::rows(factor.input(), self.cols),
            false => Operand::rows(factor.input(), self.rank).t(),
        };
        [Operand::rows(self.t, self.rank), factor]
    }

    /// The update alone.
    fn run(&self, gpu: Gpu<'_>, x: Input<'_>, rows: usize) -> Result<Buffer> {
        #[cfg(feature = "cuda")]
        if matches!(gpu, Gpu::Cuda(_)) && self.suits_matrix_units(gpu, rows)? {
            let (mut y, _) = begun(gpu, x, self.cols, None)?;
            self.on_matrix_units(gpu, rows, &mut y)?;
            return Ok(y);
        }
        let (mut y, beta) = begun(gpu, x, self.cols, self.bias)?;
        let factor = Cast::to(gpu, self.factor, self.t.dtype())?;
        let [t, factor] = self.operands(&factor);
        gpu.product((rows, self.cols, self.rank), self.scale, t, factor, beta, &mut y, 0)?;
        Ok(y)
    }
}

impl Lora {
    /// What the update sees of `x`.
    fn dropped<'a>(&self, gpu: Gpu<'_>, x: Input<'a>) -> Result<Cast<'a>> {
        match self.base.dropout {
            None => Ok(Cast::Same(x)),
            Some(dropout) => Ok(Cast::New(dropout.gpu(gpu, [x])?)),
        }
    }

    pub(super) fn gpu_forward(
        &self,
        gpu: Gpu<'_>,
        x: Input<'_>,
        a: Input<'_>,
        b: Input<'_>,
    ) -> Result<Buffer> {
        let (n, k) = self.base.weight.dims2()?;
        let (r, m) = (a.dims()[0], x.shape().elem_count() / k.max(1));
        let scale = self.base.scale as f32;
        let bias = self.base.bias.as_ref().unwrap_or(&self.base.weight);
        with_inputs(Self::NAME, [&self.base.weight, bias], |[w, bias]| {
            let bias = self.base.bias.is_some().then_some(bias);
            if self.base.dropout.is_none() && Few::fits(gpu, x, w)? {
                let t = Few::of(x, a).run(gpu)?.reshape((m, r));
                let low = Some(Low { b, t: t.input(Self::NAME), scale });
                let y = Few { bias, low, ..Few::of(x, w) }.run(gpu)?;
                self.on_gpu.set(t.tensor()).ok();
                return Ok(y);
            }
            let (a, w) = (Cast::to(gpu, a, x.dtype())?, Cast::to(gpu, w, x.dtype())?);
            let dropped = self.dropped(gpu, x)?;
            let mut t = Buffer::new(gpu, (m, r), x.dtype())?;
            let rows = Operand::rows(dropped.input(), k);
            gpu.product((m, r, k), 1.0, rows, Operand::rows(a.input(), k).t(), 0.0, &mut t, 0)?;
            let low = t.input(Self::NAME);
            let wide = Wide { t: low, factor: b, rank_first: false, bias, rank: r, cols: n, scale };
            let base = [Operand::rows(x, k), Operand::rows(w.input(), k).t()];
            let y = wide.plus(gpu, x, (m, k), base, None)?;
            self.on_gpu.set(t.tensor()).ok();
            Ok(y)
        })
    }

    pub(super) fn gpu_backward(
        &self,
        gpu: Gpu<'_>,
        [x, a, b]: [&Tensor; 3],
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let (n, k) = self.base.weight.dims2()?;
        let (r, m) = (a.dim(0)?, x.elem_count() / k.max(1));
        let scale = self.base.scale as f32;
        let Some(t) = self.on_gpu.get() else { bail!("lora_linear: backward before forward") };
        with_inputs(Self::NAME, [x, a, b, &self.base.weight, g, t], |[xs, as_, bs, w, gs, t]| {
            let g = Operand::rows(gs, n);
            let mut u = Buffer::new(gpu, (m, r), gs.dtype())?;
            if needs[0] || needs[1] {
                let b = Cast::to(gpu, bs, gs.dtype())?;
                gpu.product((m, r, n), scale, g, Operand::rows(b.input(), r), 0.0, &mut u, 0)?;
            }
            let db = needs[2].then(|| grad_of(gpu, (n, r, m), scale, g.t(), Operand::rows(t, r), b));
            let u = u.input(Self::NAME);
            let dx = needs[0].then(|| {
                let w = Cast::to(gpu, w, gs.dtype())?;
                let wide =
                    Wide { t: u, factor: as_, rank_first: true, bias: None, rank: r, cols: k, scale: 1.0 };
                let base = [g, Operand::rows(w.input(), k)];
                Result::Ok(wide.plus(gpu, xs, (m, n), base, self.base.dropout)?.tensor())
            });
            let da = needs[1].then(|| {
                let dropped = self.dropped(gpu, xs)?;
                grad_of(gpu, (r, k, m), 1.0, Operand::rows(u, r).t(), Operand::rows(dropped.input(), k), a)
            });
            Ok([dx.transpose()?, da.transpose()?, db.transpose()?])
        })
    }
}
