//! Cross-entropy from logits, `l_i = logsumexp(x_i) - x_i[t_i]`, over the rows whose target is not ignored.
//!
//! With label smoothing `e` over `V` classes, `l_i = logsumexp(x_i) - (1 - e) x_i[t_i] - e mean(x_i)`, as PyTorch
//! defines it. The gradient is `softmax(x_i) - (1 - e) onehot(t_i) - e / V`, times the reduction's factor; the
//! row's logsumexp is all that backward needs beside the logits. The loss is `f32`.

mod gpu;

use super::Spec;
use crate::kernels::cpu::{self, par_rows, simd, uninit};
use crate::kernels::element::{Element, exp};
use crate::kernels::gpu::{Buffer, Gpu, Unit, unit};
use crate::kernels::tape::apply1;
use crate::kernels::{FusedOp, Input, for_dtype, with_inputs};
use candle_core::{CpuStorage, D, DType, Result, Shape, Tensor, bail};

pub(super) use gpu::scaled;
use std::sync::OnceLock;

/// The target of a row that does not count, as in PyTorch and Hugging Face.
pub const IGNORE: i64 = -100;

/// How the losses of the rows become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean over the rows that count; 0 when none does.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// Options of [`cross_entropy_with`] and [`super::linear_cross_entropy`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// The weight moved from the target to all classes, in `[0, 1]`.
    pub label_smoothing: f32,
    /// Mean or sum.
    pub reduction: Reduction,
}

/// Mean cross-entropy of `logits` `(N, V)` and `targets` `(N)`, a scalar of `f32`. Takes the place of
/// `candle_nn::loss::cross_entropy`. Targets of `i64` may be [`IGNORE`].
///
/// # Errors
///
/// As [`cross_entropy_with`].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    cross_entropy_with(logits, targets, &CrossEntropy::default())
}

/// Cross-entropy of `logits` `(N, V)` and `targets` `(N)`, a scalar of `f32`.
///
/// Targets on the GPU are not read back to be checked: one that is neither below `V` nor [`IGNORE`] makes the loss NaN.
///
/// # Errors
///
/// When the shapes do not fit, or a target on the CPU is neither below `V` nor [`IGNORE`].
pub fn cross_entropy_with(logits: &Tensor, targets: &Tensor, options: &CrossEntropy) -> Result<Tensor> {
    let (_, classes) = logits.dims2()?;
    let targets = placed("cross_entropy", targets, logits, classes)?;
    let op = FromLogits { targets, options: *options, lse: OnceLock::new(), on_gpu: OnceLock::new() };
    apply1(op, logits)
}

/// The targets as `i64` beside `rows`, one a row; checked when they have been on the CPU.
pub(super) fn placed(op: &str, targets: &Tensor, rows: &Tensor, classes: usize) -> Result<Tensor> {
    let n = rows.dim(0)?;
    if targets.dims() != [n] {
        bail!("{op}: wants {n} targets, one a row, got shape {:?}", targets.dims())
    }
    if !matches!(targets.dtype(), DType::I64 | DType::U32 | DType::U8) {
        bail!("{op}: wants targets of i64, u32 or u8, got {:?}", targets.dtype())
    }
    let on_gpu = !targets.device().is_cpu() && !rows.device().is_cpu();
    let targets = targets.to_dtype(DType::I64)?;
    if !on_gpu {
        let wrong = |t: &&i64| **t != IGNORE && !(0..classes as i64).contains(*t);
        if let Some(t) = targets.to_vec1::<i64>()?.iter().find(wrong) {
            bail!("{op}: wants targets below {classes}, or {IGNORE} to ignore a row, got {t}")
        }
    }
    targets.to_device(rows.device())?.contiguous()
}

impl CrossEntropy {
    /// What each row's loss is multiplied by, when `count` rows count.
    pub(super) fn factor(&self, count: usize) -> f32 {
        match self.reduction {
            Reduction::Mean => 1.0 / count.max(1) as f32,
            Reduction::Sum => 1.0,
        }
    }
}

simd! {
    /// Loss of one row, and its logsumexp.
    fn row_loss<T>(x: &[T], target: usize, smoothing: f32, scratch: &mut [f32]) -> (f32, f32) {
        let max = cpu::max(x);
        let lse = cpu::exp_sum(x, max, scratch).ln() + max;
        let mut loss = lse - (1.0 - smoothing) * x[target].to_f32();
        if smoothing > 0.0 {
            loss -= smoothing * cpu::sum_by(x.len(), |i| x[i].to_f32()) / x.len() as f32;
        }
        (loss, lse)
    }

    /// Gradient of one row, times `factor`.
    fn row_grad<T>(x: &[T], lse: f32, target: usize, smoothing: f32, factor: f32, dx: &mut [T]) {
        let even = smoothing / x.len() as f32;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = T::from_f32((exp(x.to_f32() - lse) - even) * factor);
        }
        dx[target] = T::from_f32((exp(x[target].to_f32() - lse) - even - (1.0 - smoothing)) * factor);
    }

    /// Loss of one row of `f32` logits, which become their gradient times `factor`.
    fn row_loss_and_grad<T>(x: &mut [f32], dx: &mut [T], target: usize, smoothing: f32, factor: f32) -> f32 {
        let max = cpu::max(&*x);
        let at_target = x[target];
        let mean = if smoothing > 0.0 { cpu::sum_by(x.len(), |i| x[i]) / x.len() as f32 } else { 0.0 };
        for x in x.iter_mut() {
            *x = exp(*x - max);
        }
        let x = &*x;
        let sum = cpu::sum_by(x.len(), |i| x[i]);
        let (scale, even) = (factor / sum, factor * smoothing / x.len() as f32);
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = T::from_f32(x * scale - even);
        }
        dx[target] = T::from_f32(x[target] * scale - even - factor * (1.0 - smoothing));
        (sum.ln() + max) - (1.0 - smoothing) * at_target - smoothing * mean
    }
}

static UNIT: Unit = unit!("cross_entropy.h");

struct FromLogits {
    targets: Tensor,
    options: CrossEntropy,
    /// The logsumexp of each row, and what its gradient is multiplied by.
    lse: OnceLock<(Vec<f32>, f32)>,
    /// The same as tensors.
    on_gpu: OnceLock<[Tensor; 2]>,
}

impl FusedOp<1> for FromLogits {
    const NAME: &'static str = "cross_entropy";

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let cols = x.dims()[1];
        let smoothing = self.options.label_smoothing;
        for_dtype!(Self::NAME, x.dtype(), T => with_inputs(Self::NAME, [&self.targets], |[targets]| {
            let (data, targets) = (x.slice::<T>()?, targets.slice::<i64>()?);
            let mut rows = vec![[0f32; 2]; targets.len()];
            par_rows_of(&mut rows, cols, |first, rows| {
                let mut scratch = vec![0f32; cols];
                for (i, out) in rows.iter_mut().enumerate() {
                    let target = targets[first + i];
                    if target != IGNORE {
                        let x = &data[(first + i) * cols..][..cols];
                        *out = row_loss(x, target as usize, smoothing, &mut scratch).into();
                    }
                }
            });
            let total: f64 = rows.iter().map(|r| r[0] as f64).sum();
            let factor = self.options.factor(targets.iter().filter(|t| **t != IGNORE).count());
            self.lse.set((rows.iter().map(|r| r[1]).collect(), factor)).ok();
            Ok((super::storage(vec![(total * factor as f64) as f32]), Shape::from(())))
        }))
    }

    fn gpu(&self, gpu: Gpu<'_>, [x]: [Input<'_>; 1]) -> Result<Buffer> {
        self.gpu_forward(gpu, x)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(self.gpu_backward(gpu, x, g)?)])
    }

    fn cpu_grad(
        &self,
        [x]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let cols = x.dim(D::Minus1)?;
        let Some((lse, factor)) = self.lse.get() else { bail!("cross_entropy: backward before forward") };
        let factor = factor * g.to_scalar::<f32>()?;
        with_inputs(Self::NAME, [x, &self.targets], |[xs, targets]| {
            for_dtype!(Self::NAME, xs.dtype(), T => {
                let (xs, targets) = (xs.slice::<T>()?, targets.slice::<i64>()?);
                let mut dx = uninit::<T>(xs.len());
                par_rows(&mut dx, cols, |first, dx| {
                    for (i, dx) in dx.chunks_exact_mut(cols).enumerate() {
                        let row = first + i;
                        match targets[row] {
                            IGNORE => dx.fill(<T as Element>::from_f32(0.0)),
                            t => {
                                let x = &xs[row * cols..][..cols];
                                row_grad(x, lse[row], t as usize, self.options.label_smoothing, factor, dx)
                            }
                        }
                    }
                });
                Ok([Some(super::tensor(dx, x.shape(), x.device())?)])
            })
        })
    }
}

/// [`par_rows`] over one value a row, each of which costs `cost`.
fn par_rows_of<T: Send>(rows: &mut [T], cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    use rayon::prelude::*;
    let run = cpu::rows_per_task(rows.len(), cost);
    rows.par_chunks_mut(run).enumerate().for_each(|(i, rows)| f(i * run, rows));
}

/// The sum of `f` over rows, in `f64`, in the order of the rows.
pub(super) fn sum_losses(losses: &[f32]) -> f64 {
    losses.iter().map(|l| *l as f64).sum()
}

/// Targets for a test: some ignored.
pub(super) fn test_targets(logits: &Tensor) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    let targets = (0..rows).map(|i| if i % 4 == 3 { IGNORE } else { (i * 7 % classes) as i64 });
    Tensor::from_iter(targets, logits.device())
}

/// The definition, over whole logits.
pub(super) fn reference(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let logits = super::wide(logits)?;
    let (_, classes) = logits.dims2()?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    let targets = targets.to_vec1::<i64>()?;
    let weights = targets.iter().flat_map(|t| {
        (0..classes).map(move |c| match *t {
            IGNORE => 0.0,
            t => (smoothing / classes as f64 + if t == c as i64 { 1.0 - smoothing } else { 0.0 }) as f32,
        })
    });
    let weights =
        Tensor::from_iter(weights, logits.device())?.reshape(logits.shape())?.to_dtype(logits.dtype())?;
    let count = targets.iter().filter(|t| **t != IGNORE).count().max(1);
    (log_p * weights)?.sum_all()?.affine(-1.0 / count as f64, 0.0)
}

pub(super) const SPEC: Spec = Spec {
    name: "cross_entropy",
    reference: |t| reference(&t[0], &test_targets(&t[0])?, 0.1),
    fused: |t| {
        let options = CrossEntropy { label_smoothing: 0.1, reduction: Reduction::Mean };
        cross_entropy_with(&t[0], &test_targets(&t[0])?, &options)
    },
    trainable: &[0],
    cases: &[&[&[1, 1]], &[&[5, 31]], &[&[7, 33]], &[&[4, 4099]], &[&[256, 2000]]],
};
