//! Softmax, `y_i = e^(x_i - max x) / sum_j e^(x_j - max x)`, and its logarithm.
//!
//! Computed in `f32` whatever the dtype. The gradient is `dx = y (g - sum(g y))`, and for the logarithm
//! `dx = g - e^y sum(g)`; neither needs `x`. A row of nothing but `-inf` is NaN, as in Candle and PyTorch.

use super::{Case, Spec};
use crate::kernels::cpu::{self, par_rows, simd, uninit};
use crate::kernels::element::exp;
use crate::kernels::gpu::{Arg, Buffer, Gpu, Unit, unit};
use crate::kernels::rows::Rows;
use crate::kernels::tape::apply1;
use crate::kernels::{FusedOp, Input, for_dtype, with_inputs};
use candle_core::shape::Dim;
use candle_core::{CpuStorage, D, Result, Shape, Tensor};

/// Softmax over the last dimension. Takes the place of `candle_nn::ops::softmax_last_dim`.
///
/// # Errors
///
/// When `x` is not `f32`, `f16` or `bf16`, or is a scalar.
pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    apply1(Softmax { log: false }, x)
}

/// Softmax over `dim`. Takes the place of `candle_nn::ops::softmax`.
///
/// # Errors
///
/// When `dim` is out of range, or `x` is not `f32`, `f16` or `bf16`.
pub fn softmax<D: Dim>(x: &Tensor, dim: D) -> Result<Tensor> {
    over(x, dim.to_index(x.shape(), "softmax")?, softmax_last_dim)
}

/// The logarithm of [`softmax`] over `dim`. Takes the place of `candle_nn::ops::log_softmax`.
///
/// # Errors
///
/// When `dim` is out of range, or `x` is not `f32`, `f16` or `bf16`.
pub fn log_softmax<D: Dim>(x: &Tensor, dim: D) -> Result<Tensor> {
    let last = |x: &Tensor| apply1(Softmax { log: true }, x);
    over(x, dim.to_index(x.shape(), "log_softmax")?, last)
}

/// Applies `f`, which works on the last dimension, to `dim`.
fn over(x: &Tensor, dim: usize, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match dim + 1 == x.rank() {
        true => f(x),
        false => f(&x.transpose(dim, D::Minus1)?)?.transpose(dim, D::Minus1),
    }
}

fn reference(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    x.broadcast_div(&x.sum_keepdim(D::Minus1)?)
}

fn log_reference(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

simd! {
    fn softmax_rows<T>(x: &[T], y: &mut [T], cols: usize) {
        let mut e = vec![0f32; cols];
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let scale = 1.0 / cpu::exp_sum(x, cpu::max(x), &mut e);
            for (y, e) in y.iter_mut().zip(&e) {
                *y = T::from_f32(e * scale);
            }
        }
    }

    fn log_softmax_rows<T>(x: &[T], y: &mut [T], cols: usize) {
        let mut e = vec![0f32; cols];
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let max = cpu::max(x);
            let shift = cpu::exp_sum(x, max, &mut e).ln();
            for (y, x) in y.iter_mut().zip(x) {
                *y = T::from_f32((x.to_f32() - max) - shift);
            }
        }
    }

    fn softmax_grad_rows<T>(y: &[T], g: &[T], dx: &mut [T], cols: usize) {
        for ((y, g), dx) in y.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
            let dot = cpu::sum_by(cols, |i| y[i].to_f32() * g[i].to_f32());
            for ((dx, y), g) in dx.iter_mut().zip(y).zip(g) {
                *dx = T::from_f32(y.to_f32() * (g.to_f32() - dot));
            }
        }
    }

    fn log_softmax_grad_rows<T>(y: &[T], g: &[T], dx: &mut [T], cols: usize) {
        for ((y, g), dx) in y.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
            let sum = cpu::sum_by(cols, |i| g[i].to_f32());
            for ((dx, y), g) in dx.iter_mut().zip(y).zip(g) {
                *dx = T::from_f32(g.to_f32() - exp(y.to_f32()) * sum);
            }
        }
    }
}

struct Softmax {
    log: bool,
}

static UNIT: Unit = unit!("softmax.h");

impl Softmax {
    fn launch(&self, gpu: Gpu<'_>, rows: &Rows, entry: &'static str, args: &mut [Arg<'_>]) -> Result<()> {
        let [a, b, c, d] = rows.defines();
        let defines = [a, b, c, d, ("LOG", self.log as i64)];
        gpu.launch(&rows.launch(&UNIT, entry, &[("T", rows.dtype)], &defines), args, &rows.params())
    }
}

impl FusedOp<1> for Softmax {
    const NAME: &'static str = "softmax";

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let cols = super::last_dim(Self::NAME, x.dims())?;
        for_dtype!(Self::NAME, x.dtype(), T => {
            let data = x.slice::<T>()?;
            let mut y = uninit::<T>(data.len());
            par_rows(&mut y, cols, |row, y| {
                let x = &data[row * cols..][..y.len()];
                match (self.log, cpu::converts::<T>()) {
                    (true, true) => cpu::rows_in_f32(x, y, cols, |x, y| log_softmax_rows(x, y, cols)),
                    (true, false) => log_softmax_rows(x, y, cols),
                    (false, true) => cpu::rows_in_f32(x, y, cols, |x, y| softmax_rows(x, y, cols)),
                    (false, false) => softmax_rows(x, y, cols),
                }
            });
            Ok((super::storage(y), x.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x]: [Input<'_>; 1]) -> Result<Buffer> {
        let rows = Rows::of(Self::NAME, x, &[x])?;
        let mut y = Buffer::new(gpu, x.shape(), x.dtype())?;
        let entry = if rows.looped { "softmax_fwd_looped" } else { "softmax_fwd" };
        self.launch(gpu, &rows, entry, &mut [x.into(), (&mut y).into()])?;
        Ok(y)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        _: [&Tensor; 1],
        y: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        with_inputs(Self::NAME, [y, g], |[y, g]| {
            let rows = Rows::of(Self::NAME, y, &[y, g])?;
            let mut dx = Buffer::new(gpu, y.shape(), y.dtype())?;
            let entry = if rows.looped { "softmax_bwd_looped" } else { "softmax_bwd" };
            self.launch(gpu, &rows, entry, &mut [y.into(), g.into(), (&mut dx).into()])?;
            Ok([Some(dx.tensor())])
        })
    }

    fn cpu_grad(&self, _: [&Tensor; 1], y: &Tensor, g: &Tensor, _: [bool; 1]) -> Result<[Option<Tensor>; 1]> {
        let cols = super::last_dim(Self::NAME, y.dims())?;
        with_inputs(Self::NAME, [y, g], |[ys, gs]| {
            for_dtype!(Self::NAME, ys.dtype(), T => {
                let (ys, gs) = (ys.slice::<T>()?, gs.slice::<T>()?);
                let mut dx = uninit::<T>(ys.len());
                par_rows(&mut dx, cols, |row, dx| {
                    let (y, g) = (&ys[row * cols..][..dx.len()], &gs[row * cols..][..dx.len()]);
                    if self.log { log_softmax_grad_rows(y, g, dx, cols) } else { softmax_grad_rows(y, g, dx, cols) }
                });
                Ok([Some(super::tensor(dx, y.shape(), y.device())?)])
            })
        })
    }
}

const CASES: &[Case] =
    &[&[&[1, 1]], &[&[3, 31]], &[&[2, 33]], &[&[5, 4099]], &[&[2, 3, 64]], &[&[512, 512]], &[&[1024, 1024]]];

pub(super) const SOFTMAX: Spec = Spec {
    name: "softmax",
    reference: |t| reference(&t[0]),
    fused: |t| softmax_last_dim(&t[0]),
    trainable: &[0],
    cases: CASES,
};

pub(super) const LOG_SOFTMAX: Spec = Spec {
    name: "log_softmax",
    reference: |t| log_reference(&t[0]),
    fused: |t| log_softmax(&t[0], D::Minus1),
    trainable: &[0],
    cases: CASES,
};
