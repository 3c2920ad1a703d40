//! The chunks of rows on a GPU: a product, a kernel that makes logits their gradient in place, and its products.

use super::super::cross_entropy::scaled;
use super::super::linear::Cast;
use super::FromHidden;
use crate::kernels::gpu::{Buffer, Gpu, Operand};
use crate::kernels::{Input, with_inputs};
use candle_core::{DType, Result, Tensor, bail};

const OP: &str = "linear_cross_entropy";

/// Bytes of logits held at a time: products of a thousand rows and more of a large vocabulary run at full speed.
pub(crate) const CHUNK: usize = 320 << 20;

/// Rows of a chunk are a multiple of this: what a tile of a product has.
const TILE: usize = 128;

impl FromHidden {
    pub(super) fn gpu_forward(&self, gpu: Gpu<'_>, hidden: Input<'_>, head: Input<'_>) -> Result<Buffer> {
        let ((n, k), v, dtype) = ((hidden.dims()[0], hidden.dims()[1]), head.dims()[0], hidden.dtype());
        with_inputs(OP, [&self.targets], |[targets]| {
            let w = Cast::to(gpu, head, dtype)?;
            let w = Operand::rows(w.input(), k);
            let mut dh = self.tracked[0].then(|| Buffer::new(gpu, (n, k), dtype)).transpose()?;
            // Sums over chunks are not rounded in between.
            let mut dw = self.tracked[1].then(|| Buffer::new(gpu, (v, k), DType::F32)).transpose()?;
            let mut losses = Buffer::new(gpu, n, DType::F32)?;
            let fit = CHUNK / (v * dtype.size_in_bytes()).max(1);
            let chunk = (fit / TILE * TILE).max(TILE).min(n.max(1));
            let mut logits = Buffer::new(gpu, (chunk, v), dtype)?;
            for first in (0..n).step_by(chunk) {
                let m = chunk.min(n - first);
                let mut view = None;
                let h = Operand::rows(hidden.rows(&mut view, first, m)?, k);
                gpu.product((m, v, k), 1.0, h, w.t(), 0.0, &mut logits, 0)?;
                self.options.in_place(gpu, (m, v), &mut logits, targets, &mut losses, first)?;
                let d = Operand::rows(logits.input(OP), v);
                if let Some(dh) = &mut dh {
                    gpu.product((m, k, v), 1.0, d, w, 0.0, dh, first * k)?;
                }
                if let Some(dw) = &mut dw {
                    let beta = if first == 0 { 0.0 } else { 1.0 };
                    gpu.product((v, k, m), 1.0, d.t(), h, beta, dw, 0)?;
                }
            }
            let [loss, factor] = self.options.sum(gpu, &losses, targets)?;
            self.factor.set(factor.tensor()).ok();
            let grads = [dh.map(Buffer::tensor), dw.map(Buffer::tensor)];
            *self.grads.lock().unwrap_or_else(|e| e.into_inner()) = grads;
            Ok(loss)
        })
    }

    /// The gradients times that of the loss and the reduction's factor, in the dtypes of hidden and head.
    pub(super) fn gpu_scaled(
        &self,
        gpu: Gpu<'_>,
        dtypes: [DType; 2],
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let Some(factor) = self.factor.get() else { bail!("{OP}: backward before forward") };
        let grads = self.grads.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let mut out = [None, None];
        for ((out, grad), dtype) in out.iter_mut().zip(grads).zip(dtypes) {
            let scale =
                |d: Tensor| with_inputs(OP, [&d, g, factor], |[d, g, f]| scaled(gpu, d, [g, f], dtype));
            *out = grad.map(scale).transpose()?;
        }
        Ok(out)
    }
}
