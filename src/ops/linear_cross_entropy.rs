//! Cross-entropy of `hidden Wᵀ`, a chunk of rows at a time: the `(tokens, vocabulary)` logits never exist whole.
//!
//! The forward pass also computes the gradient, while a chunk's logits are at hand: `dh = (softmax - onehot) W`,
//! and for a trained head `dW = (softmax - onehot)ᵀ h`; backward only scales it. Rows whose target is ignored
//! cost nothing on the CPU. Logits and loss are `f32`; on a GPU logits are stored in the dtype of hidden. After Hsu et al., [Liger Kernel](https://arxiv.org/abs/2410.10989).

mod gpu;

pub(crate) use gpu::CHUNK as GPU_CHUNK;

use super::cross_entropy::{
    CrossEntropy, IGNORE, placed, reference, row_loss_and_grad, sum_losses, test_targets,
};
use super::linear::Weight;
use super::{Spec, storage, tensor};
use crate::kernels::cpu::{par_rows2, uninit};
use crate::kernels::element::Element;
use crate::kernels::gemm::{Mat, matmul, matmul_f32, outer_product};
use crate::kernels::gpu::{Buffer, Gpu};
use crate::kernels::tape::{apply1, apply2, contiguous, tracked};
use crate::kernels::{FusedOp, Input, for_dtype, with_inputs};
use candle_core::{CpuStorage, DType, Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Mutex, OnceLock};

/// Cross-entropy of the rows of `hidden` `(N, H)` through `head` `(V, H)` against `targets` `(N)`: a scalar of `f32`.
///
/// # Errors
///
/// When the shapes do not fit, or a target on the CPU is neither below `V` nor [`IGNORE`].
pub fn linear_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    options: &CrossEntropy,
) -> Result<Tensor> {
    let ((_, width), (classes, k)) = (hidden.dims2()?, head.dims2()?);
    if width != k {
        bail!(
            "linear_cross_entropy: wants hidden (N, {k}) for a head ({classes}, {k}), got {:?}",
            hidden.dims()
        )
    }
    let targets = placed("linear_cross_entropy", targets, hidden, classes)?;
    let (hidden, head) = (contiguous(hidden)?, contiguous(head)?);
    let op = FromHidden {
        targets,
        options: *options,
        tracked: [tracked(&hidden), tracked(&head)],
        head: (!tracked(&head)).then(|| head.clone()),
        grads: Mutex::new([None, None]),
        factor: OnceLock::new(),
    };
    match tracked(&head) {
        true => apply2(op, &hidden, &head),
        false => apply1(op, &hidden),
    }
}

/// Logits held at a time: 64 MiB of `f32`.
const CHUNK: usize = 1 << 24;

struct FromHidden {
    targets: Tensor,
    options: CrossEntropy,
    /// Whether a variable reaches hidden, head.
    tracked: [bool; 2],
    /// The head, when it is frozen.
    head: Option<Tensor>,
    /// Gradients of hidden and head for a loss gradient of one, but for `factor`.
    grads: Mutex<[Option<Tensor>; 2]>,
    /// What is left of the reduction's factor, a number on the device of the gradients.
    factor: OnceLock<Tensor>,
}

impl FromHidden {
    fn forward(&self, hidden: Input<'_>, head: Input<'_>) -> Result<(CpuStorage, Shape)> {
        with_inputs("linear_cross_entropy", [&self.targets], |[targets]| {
            self.forward_of(hidden, head, targets.slice::<i64>()?)
        })
    }

    fn forward_of(&self, hidden: Input<'_>, head: Input<'_>, targets: &[i64]) -> Result<(CpuStorage, Shape)> {
        let ((n, k), v) = ((hidden.dims()[0], hidden.dims()[1]), head.dims()[0]);
        let rows: Vec<usize> = (0..n).filter(|i| targets[*i] != IGNORE).collect();
        let factor = self.options.factor(rows.len());
        let smoothing = self.options.label_smoothing;
        let chunk = (CHUNK / v.max(1)).clamp(32, n.max(32));
        for_dtype!("linear_cross_entropy", hidden.dtype(), T => {
            let h = hidden.slice::<T>()?;
            let w = Weight::<T>::new("linear_cross_entropy", head)?;
            let w = Mat::rows(w.get(), k);
            let zero = <T as Element>::from_f32(0.0);
            // The mean's factor would push a large vocabulary's gradients below what f16 holds: it waits for the sums.
            let (now, later) = if hidden.dtype() == DType::F16 { (1.0, factor) } else { (factor, 1.0) };
            let mut dh = if self.tracked[0] { vec![zero; n * k] } else { Vec::new() };
            let mut dw = if self.tracked[1] { vec![0f32; v * k] } else { Vec::new() };
            let mut losses = vec![0f32; rows.len()];
            for (rows, losses) in rows.chunks(chunk).zip(losses.chunks_mut(chunk)) {
                let m = rows.len();
                let x: Vec<T> = rows.iter().flat_map(|i| h[i * k..][..k].iter().copied()).collect();
                let mut logits: Vec<f32> = uninit(m * v);
                matmul_f32((m, v, k), Mat::rows(&x, k), w.t(), &mut logits);
                let mut d: Vec<T> = uninit(m * v);
                let targets: Vec<usize> = rows.iter().map(|i| targets[*i] as usize).collect();
                let run = m.div_ceil(4 * rayon::current_num_threads());
                losses.par_chunks_mut(run).zip(targets.par_chunks(run)).zip(
                    logits.par_chunks_mut(run * v).zip(d.par_chunks_mut(run * v)),
                ).for_each(|((losses, targets), (logits, d))| {
                    for (i, (loss, target)) in losses.iter_mut().zip(targets).enumerate() {
                        let (x, dx) = (&mut logits[i * v..][..v], &mut d[i * v..][..v]);
                        *loss = row_loss_and_grad(x, dx, *target, smoothing, now);
                    }
                });
                drop(logits);
                if self.tracked[0] {
                    let part = matmul::<T>((m, k, v), Mat::rows(&d, v), w, None);
                    for (i, part) in rows.iter().zip(part.chunks_exact(k.max(1))) {
                        dh[i * k..][..k].copy_from_slice(part);
                    }
                }
                if self.tracked[1] {
                    let mut part = outer_product((v, k, m), &d, &x);
                    par_rows2((&mut dw, k), (&mut part, k), |_, dw, part| {
                        dw.iter_mut().zip(part).for_each(|(d, p)| *d += *p)
                    });
                }
            }
            let dh = self.tracked[0].then(|| tensor(dh, &hidden.shape(), &Device::Cpu)).transpose()?;
            let dw = self.tracked[1].then(|| tensor(dw, &head.shape(), &Device::Cpu)).transpose()?;
            self.factor.set(Tensor::new(later, &Device::Cpu)?).ok();
            *self.grads.lock().unwrap_or_else(|e| e.into_inner()) = [dh, dw];
            Ok((storage(vec![(sum_losses(&losses) * factor as f64) as f32]), Shape::from(())))
        })
    }

    fn scaled(&self, g: &Tensor, dtypes: [DType; 2]) -> Result<[Option<Tensor>; 2]> {
        let Some(factor) = self.factor.get() else { bail!("linear_cross_entropy: backward before forward") };
        let g = g.to_scalar::<f32>()? as f64 * factor.to_scalar::<f32>()? as f64;
        let grads = self.grads.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let mut scaled = [None, None];
        for ((out, grad), dtype) in scaled.iter_mut().zip(grads).zip(dtypes) {
            *out = grad.map(|d| if g == 1.0 { Ok(d) } else { d * g }?.to_dtype(dtype)).transpose()?;
        }
        Ok(scaled)
    }
}

impl FusedOp<1> for FromHidden {
    const NAME: &'static str = "linear_cross_entropy";
    const IN_POOL: bool = true;

    fn cpu(&self, [hidden]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let Some(head) = &self.head else { bail!("linear_cross_entropy: wants a head") };
        with_inputs("linear_cross_entropy", [head], |[head]| self.forward(hidden, head))
    }

    fn gpu(&self, gpu: Gpu<'_>, [hidden]: [Input<'_>; 1]) -> Result<Buffer> {
        let Some(head) = &self.head else { bail!("linear_cross_entropy: wants a head") };
        with_inputs("linear_cross_entropy", [head], |[head]| self.gpu_forward(gpu, hidden, head))
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [hidden]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let [dh, _] = self.gpu_scaled(gpu, [hidden.dtype(); 2], g)?;
        Ok([dh])
    }

    fn cpu_grad(
        &self,
        [hidden]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let [dh, _] = self.scaled(g, [hidden.dtype(); 2])?;
        Ok([dh])
    }
}

impl FusedOp<2> for FromHidden {
    const NAME: &'static str = "linear_cross_entropy";
    const IN_POOL: bool = true;

    fn cpu(&self, [hidden, head]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        self.forward(hidden, head)
    }

    fn gpu(&self, gpu: Gpu<'_>, [hidden, head]: [Input<'_>; 2]) -> Result<Buffer> {
        self.gpu_forward(gpu, hidden, head)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [hidden, head]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        self.gpu_scaled(gpu, [hidden.dtype(), head.dtype()], g)
    }

    fn cpu_grad(
        &self,
        [hidden, head]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        self.scaled(g, [hidden.dtype(), head.dtype()])
    }
}

pub(super) const SPEC: Spec = Spec {
    name: "linear_cross_entropy",
    reference: |t| {
        let logits = t[0].matmul(&t[1].t()?)?;
        reference(&logits, &test_targets(&logits)?, 0.0)
    },
    fused: |t| {
        let targets = test_targets(&t[0].matmul(&t[1].t()?)?)?;
        linear_cross_entropy(&t[0], &t[1], &targets, &CrossEntropy::default())
    },
    trainable: &[0, 1],
    cases: &[
        &[&[1, 1], &[1, 1]],
        &[&[5, 31], &[33, 31]],
        &[&[7, 33], &[4099, 33]],
        &[&[96, 128], &[1000, 128]],
    ],
};
