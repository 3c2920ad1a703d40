//! Root mean square norm, `y = x r w` with `r = 1 / sqrt(mean(x²) + eps)` over the last dimension.
//!
//! Zhang and Sennrich, [Root Mean Square Layer Normalization](https://arxiv.org/abs/1910.07467). With
//! `h = g w`: `dx = r (h - x r² mean(h x))` and `dw = sum over rows of g x r`. Computed in `f32` and rounded
//! once, where Hugging Face's Llama rounds `x r` before it multiplies by `w`. The weight may be `f32` beside a
//! half-precision `x`.

use super::{Case, Spec};
use crate::kernels::cpu::{self, par_rows, par_rows2, par_sum_rows, simd, uninit};
use crate::kernels::gpu::{Arg, Buffer, Gpu, Unit, unit};
use crate::kernels::rows::Rows;
use crate::kernels::tape::apply2;
use crate::kernels::{FusedOp, Input, for_dtype, partials, with_inputs};
use candle_core::{CpuStorage, D, DType, Result, Shape, Tensor, bail};
use std::sync::{Arc, Mutex};

/// Normalizes `x` over its last dimension and scales it by `weight`. Takes the place of
/// `candle_nn::ops::rms_norm`.
///
/// # Errors
///
/// When `weight` is not one value for each column of `x`, or a dtype is not a float's.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    apply2(RmsNorm { eps, ready: None }, x, weight)
}

/// `(x + residual, rms_norm(x + residual))` in one pass over memory.
///
/// # Errors
///
/// As [`rms_norm`], and when `x` and `residual` differ in shape or dtype.
pub fn add_rms_norm(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    if x.shape() != residual.shape() || x.dtype() != residual.dtype() {
        bail!(
            "add_rms_norm: wants a residual of x's shape and dtype {:?} {:?}, got {:?} {:?}",
            x.dims(),
            x.dtype(),
            residual.dims(),
            residual.dtype()
        )
    }
    // An op writes one tensor: the sum's op leaves the norm for the op that follows it.
    let ready = Arc::new(Mutex::new(Ready::Nothing));
    let add = AddRmsNorm { eps, weight: weight.detach().contiguous()?, ready: ready.clone() };
    let sum = apply2(add, x, residual)?;
    let normed = apply2(RmsNorm { eps, ready: Some(ready) }, &sum, weight)?;
    Ok((sum, normed))
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    let cols = x.dim(D::Minus1)?;
    if weight.dims() != [cols] {
        bail!("rms_norm: wants a weight of shape [{cols}] for x {:?}, got {:?}", x.dims(), weight.dims())
    }
    Ok(())
}

fn reference(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let f = super::wide(x)?;
    let mean = (f.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
    let y = f.broadcast_div(&(mean + eps as f64)?.sqrt()?)?;
    y.broadcast_mul(&super::wide(weight)?)?.to_dtype(x.dtype())
}

simd! {
    fn rms_norm_rows<T>(x: &[T], w: &[f32], y: &mut [T], eps: f32) {
        let cols = w.len();
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let mean = cpu::sum_by(cols, |i| x[i].to_f32() * x[i].to_f32()) / cols as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = T::from_f32(x.to_f32() * scale * w);
            }
        }
    }

    fn add_rms_norm_rows<T>(a: &[T], b: &[T], w: &[f32], sum: &mut [T], y: &mut [T], eps: f32) {
        let cols = w.len();
        let rows = a.chunks_exact(cols).zip(b.chunks_exact(cols));
        for ((a, b), (sum, y)) in rows.zip(sum.chunks_exact_mut(cols).zip(y.chunks_exact_mut(cols))) {
            for ((s, a), b) in sum.iter_mut().zip(a).zip(b) {
                *s = T::from_f32(a.to_f32() + b.to_f32());
            }
            let sum = &*sum;
            let mean = cpu::sum_by(cols, |i| sum[i].to_f32() * sum[i].to_f32()) / cols as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            for ((y, s), w) in y.iter_mut().zip(sum).zip(w) {
                *y = T::from_f32(s.to_f32() * scale * w);
            }
        }
    }

    fn rms_norm_grad_rows<T>(x: &[T], w: &[f32], g: &[T], dx: &mut [T], r: &mut [f32], eps: f32) {
        let cols = w.len();
        let rows = x.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for (((x, g), dx), r) in rows.zip(r) {
            let mean = cpu::sum_by(cols, |i| x[i].to_f32() * x[i].to_f32()) / cols as f32;
            let dot = cpu::sum_by(cols, |i| g[i].to_f32() * w[i] * x[i].to_f32()) / cols as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            // r² without r's rounding: in short rows the two terms nearly cancel.
            let shrink = dot / (mean + eps);
            for (((dx, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(w) {
                *dx = T::from_f32(scale * x.to_f32().mul_add(-shrink, g.to_f32() * w));
            }
            *r = scale;
        }
    }

    fn rms_norm_weight_grad<T>(x: &[T], g: &[T], r: &[f32], dw: &mut [f32]) {
        let cols = dw.len();
        for ((x, g), r) in x.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(r) {
            for ((dw, x), g) in dw.iter_mut().zip(x).zip(g) {
                *dw = (g.to_f32() * r).mul_add(x.to_f32(), *dw);
            }
        }
    }
}

/// The weight in `f32`, whatever it is stored in.
fn wide_weight(w: &Input<'_>) -> Result<Vec<f32>> {
    for_dtype!("rms_norm", w.dtype(), W => Ok(cpu::to_f32(w.slice::<W>()?)))
}

/// What [`AddRmsNorm`] leaves for [`RmsNorm`].
#[derive(Default)]
enum Ready {
    #[default]
    Nothing,
    Cpu(CpuStorage),
    Gpu(Buffer),
}

struct RmsNorm {
    eps: f32,
    /// The output, when [`AddRmsNorm`] has already computed it.
    ready: Option<Arc<Mutex<Ready>>>,
}

impl RmsNorm {
    fn ready(&self) -> Ready {
        let take =
            |ready: &Arc<Mutex<Ready>>| std::mem::take(&mut *ready.lock().unwrap_or_else(|e| e.into_inner()));
        self.ready.as_ref().map(take).unwrap_or_default()
    }
}

static UNIT: Unit = unit!("rms_norm.h");

/// Threads of a multiprocessor that the gradient has registers for.
const RESIDENT: usize = 1024;

/// Launches `entry` of rms_norm.h with `groups` groups, of which a multiprocessor has `resident` at a time.
fn launch(
    gpu: Gpu<'_>,
    rows: &Rows,
    (entry, groups, resident): (&'static str, [usize; 3], usize),
    types: [DType; 2],
    (weight, value): (bool, f32),
    args: &mut [Arg<'_>],
) -> Result<()> {
    let [a, b, c, d] = rows.defines();
    let defines = [a, b, c, d, ("WEIGHT", weight as i64), ("RESIDENT", resident as i64)];
    let types = [("T", types[0]), ("W", types[1])];
    let mut launch = rows.launch(&UNIT, entry, &types, &defines);
    launch.groups = groups;
    gpu.launch(&launch, args, &rows.params_with(value))
}

impl FusedOp<2> for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn cpu(&self, [x, w]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        if let Ready::Cpu(y) = self.ready() {
            return Ok((y, x.shape()));
        }
        let w = wide_weight(&w)?;
        for_dtype!(Self::NAME, x.dtype(), T => {
            let data = x.slice::<T>()?;
            let mut y = uninit::<T>(data.len());
            par_rows(&mut y, w.len(), |row, y| {
                let x = &data[row * w.len()..][..y.len()];
                match cpu::converts::<T>() {
                    true => cpu::rows_in_f32(x, y, w.len(), |x, y| rms_norm_rows(x, &w, y, self.eps)),
                    false => rms_norm_rows(x, &w, y, self.eps),
                }
            });
            Ok((super::storage(y), x.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x, w]: [Input<'_>; 2]) -> Result<Buffer> {
        if let Ready::Gpu(y) = self.ready() {
            return Ok(y);
        }
        let rows = Rows::of(Self::NAME, x, &[x, w])?;
        let mut y = Buffer::new(gpu, x.shape(), x.dtype())?;
        let entry = if rows.looped { "rms_norm_fwd_looped" } else { "rms_norm_fwd" };
        // Short and narrow rows leave registers for all threads a multiprocessor has.
        let all = rows.held() * x.dtype().size_in_bytes().max(w.dtype().size_in_bytes()) <= 32;
        let at = (entry, [rows.groups(), 1, 1], if all { 2048 / rows.threads() } else { 1 });
        let args = &mut [x.into(), w.into(), (&mut y).into()];
        launch(gpu, &rows, at, [x.dtype(), w.dtype()], (false, self.eps), args)?;
        Ok(y)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        with_inputs(Self::NAME, [x, w, g], |[x, w, g]| {
            let cols = w.dims()[0];
            let inputs = [x, w, g];
            let rows = Rows::summed(x.shape().elem_count() / cols.max(1), cols, x.dtype(), &inputs);
            let types = [x.dtype(), w.dtype()];
            let mut dx = Buffer::new(gpu, x.shape(), x.dtype())?;
            let weight = needs[1];
            let resident = RESIDENT / rows.threads();
            let (groups, parts) = rows.sums(gpu, resident, weight);
            let mut parts = weight.then(|| Buffer::new(gpu, (parts, cols), DType::F32)).transpose()?;
            let (entry, mut rs) = match rows.looped {
                true => ("rms_norm_bwd_looped", Some(Buffer::new(gpu, rows.rows, DType::F32)?)),
                false => ("rms_norm_bwd", None),
            };
            let sums = rs.as_mut().or(parts.as_mut()).map_or(Arg::Null, Arg::from);
            let args = &mut [x.into(), w.into(), g.into(), (&mut dx).into(), sums];
            launch(gpu, &rows, (entry, [groups, 1, 1], resident), types, (weight, self.eps), args)?;
            if let (Some(rs), Some(parts)) = (&rs, &mut parts) {
                let n = parts.dims()[0];
                let at = ("rms_norm_bwd_weight", [cols.div_ceil(rows.threads()), n, 1], 1);
                let args = &mut [x.into(), g.into(), rs.input(Self::NAME).into(), parts.into()];
                launch(gpu, &rows, at, types, (weight, n as f32), args)?;
            }
            let dw = parts.map(|parts| partials::sum(gpu, Self::NAME, &parts, w.dtype())).transpose()?;
            let dw = dw.map(Buffer::tensor);
            Ok([needs[0].then(|| dx.tensor()), dw])
        })
    }

    fn cpu_grad(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        with_inputs(Self::NAME, [x, w, g], |[xs, ws, gs]| {
            let wide = wide_weight(&ws)?;
            let cols = wide.len();
            for_dtype!(Self::NAME, xs.dtype(), T => {
                let (xs, gs) = (xs.slice::<T>()?, gs.slice::<T>()?);
                let mut dx = uninit::<T>(xs.len());
                let mut r = uninit::<f32>(xs.len() / cols);
                par_rows2((&mut dx, cols), (&mut r, 1), |row, dx, r| {
                    let at = row * cols;
                    rms_norm_grad_rows(&xs[at..][..dx.len()], &wide, &gs[at..][..dx.len()], dx, r, self.eps)
                });
                let dw = needs[1].then(|| {
                    par_sum_rows(r.len(), cols, cols, |from, to, dw| {
                        rms_norm_weight_grad(&xs[from * cols..to * cols], &gs[from * cols..to * cols], &r[from..to], dw)
                    })
                });
                let dw = dw.map(|dw| super::tensor(dw, w.shape(), w.device())?.to_dtype(w.dtype())).transpose()?;
                let dx = needs[0].then(|| super::tensor(dx, x.shape(), x.device())).transpose()?;
                Ok([dx, dw])
            })
        })
    }
}

/// `x + residual`, which also computes the norm of the sum and leaves it for [`RmsNorm`].
struct AddRmsNorm {
    eps: f32,
    weight: Tensor,
    ready: Arc<Mutex<Ready>>,
}

impl FusedOp<2> for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";

    fn cpu(&self, [x, residual]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let w = with_inputs(Self::NAME, [&self.weight], |[w]| wide_weight(&w))?;
        let cols = w.len();
        for_dtype!(Self::NAME, x.dtype(), T => {
            let (a, b) = (x.slice::<T>()?, residual.slice::<T>()?);
            let (mut sum, mut y) = (uninit::<T>(a.len()), uninit::<T>(a.len()));
            par_rows2((&mut sum, cols), (&mut y, cols), |row, sum, y| {
                let at = row * cols;
                add_rms_norm_rows(&a[at..][..y.len()], &b[at..][..y.len()], &w, sum, y, self.eps)
            });
            *self.ready.lock().unwrap_or_else(|e| e.into_inner()) = Ready::Cpu(super::storage(y));
            Ok((super::storage(sum), x.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x, residual]: [Input<'_>; 2]) -> Result<Buffer> {
        with_inputs(Self::NAME, [&self.weight], |[w]| {
            let rows = Rows::of(Self::NAME, x, &[x, residual, w])?;
            let [mut sum, mut y] =
                [Buffer::new(gpu, x.shape(), x.dtype())?, Buffer::new(gpu, x.shape(), x.dtype())?];
            let entry = if rows.looped { "add_rms_norm_fwd_looped" } else { "add_rms_norm_fwd" };
            let at = (entry, [rows.groups(), 1, 1], 1);
            let args = &mut [x.into(), residual.into(), w.into(), (&mut sum).into(), (&mut y).into()];
            launch(gpu, &rows, at, [x.dtype(), w.dtype()], (false, self.eps), args)?;
            *self.ready.lock().unwrap_or_else(|e| e.into_inner()) = Ready::Gpu(y);
            Ok(sum)
        })
    }

    fn grad(&self, _: [&Tensor; 2], _: &Tensor, g: &Tensor, needs: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
        Ok(needs.map(|needed| needed.then(|| g.clone())))
    }
}

const EPS: f32 = 1e-5;

pub(super) const RMS_NORM: Spec = Spec {
    name: "rms_norm",
    reference: |t| reference(&t[0], &t[1], EPS),
    fused: |t| rms_norm(&t[0], &t[1], EPS),
    trainable: &[0, 1],
    cases: &[
        &[&[1, 1], &[1]],
        &[&[2, 3, 31], &[31]],
        &[&[7, 33], &[33]],
        &[&[3, 4099], &[4099]],
        &[&[512, 1024], &[1024]],
        &[&[3, 33000], &[33000]],
    ],
};

const PAIRS: &[Case] = &[
    &[&[1, 1], &[1, 1], &[1]],
    &[&[2, 3, 33], &[2, 3, 33], &[33]],
    &[&[64, 512], &[64, 512], &[512]],
    &[&[2, 33000], &[2, 33000], &[33000]],
];

pub(super) const ADD_RMS_NORM: Spec = Spec {
    name: "add_rms_norm",
    reference: |t| {
        let sum = (&t[0] + &t[1])?;
        sum.broadcast_mul(&reference(&sum, &t[2], EPS)?)
    },
    fused: |t| {
        let (sum, y) = add_rms_norm(&t[0], &t[1], &t[2], EPS)?;
        sum.broadcast_mul(&y)
    },
    trainable: &[0, 1, 2],
    cases: PAIRS,
};
