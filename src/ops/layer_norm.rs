//! Layer norm, `y = (x - mean(x)) r w + b` with `r = 1 / sqrt(var(x) + eps)` over the last dimension.
//!
//! Ba, Kiros and Hinton, [Layer Normalization](https://arxiv.org/abs/1607.06450). With `n = (x - mean) r` and
//! `h = g w`: `dx = r (h - mean(h) - n mean(h n))`, `dw = sum g n`, `db = sum g`. Computed in `f32`.

use super::Spec;
use crate::kernels::cpu::{self, par_rows, par_rows2, par_sum_rows, simd, uninit};
use crate::kernels::gpu::{Arg, Buffer, Gpu, Unit, unit};
use crate::kernels::rows::Rows;
use crate::kernels::tape::apply3;
use crate::kernels::{FusedOp, Input, for_dtype, partials, same_dtype, with_inputs};
use candle_core::{CpuStorage, D, DType, Result, Shape, Tensor, bail};

/// Normalizes `x` over its last dimension, scales it by `weight` and adds `bias`. Takes the place of
/// `candle_nn::ops::layer_norm`.
///
/// # Errors
///
/// When `weight` or `bias` is not one value for each column of `x`, or their dtypes differ.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let cols = x.dim(D::Minus1)?;
    if weight.dims() != [cols] || bias.dims() != [cols] {
        bail!(
            "layer_norm: wants a weight and a bias of shape [{cols}] for x {:?}, got {:?} and {:?}",
            x.dims(),
            weight.dims(),
            bias.dims()
        )
    }
    same_dtype("layer_norm", &[x, weight, bias])?;
    apply3(LayerNorm { eps }, x, weight, bias)
}

fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let n = x.dim(D::Minus1)? as f64;
    let f = super::wide(x)?;
    let f = f.broadcast_sub(&(f.sum_keepdim(D::Minus1)? / n)?)?;
    let var = (f.sqr()?.sum_keepdim(D::Minus1)? / n)?;
    let y = f.broadcast_div(&(var + eps as f64)?.sqrt()?)?;
    let y = y.broadcast_mul(&super::wide(weight)?)?.broadcast_add(&super::wide(bias)?)?;
    y.to_dtype(x.dtype())
}

/// Mean, and `1 / sqrt(variance + eps)`.
#[inline(always)]
fn moments<T: crate::kernels::element::Element>(x: &[T], eps: f32) -> (f32, f32) {
    let cols = x.len() as f32;
    let mean = cpu::sum_by(x.len(), |i| x[i].to_f32()) / cols;
    let var = cpu::sum_by(x.len(), |i| (x[i].to_f32() - mean) * (x[i].to_f32() - mean)) / cols;
    (mean, 1.0 / (var + eps).sqrt())
}

simd! {
    fn layer_norm_rows<T>(x: &[T], w: &[T], b: &[T], y: &mut [T], eps: f32) {
        let cols = w.len();
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let (mean, r) = moments(x, eps);
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
                *y = T::from_f32(((x.to_f32() - mean) * r).mul_add(w.to_f32(), b.to_f32()));
            }
        }
    }

    fn layer_norm_grad_rows<T>(x: &[T], w: &[T], g: &[T], dx: &mut [T], stats: &mut [[f32; 2]], eps: f32) {
        let cols = w.len();
        let rows = x.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for (((x, g), dx), stats) in rows.zip(stats) {
            let (mean, r) = moments(x, eps);
            let sum = cpu::sum_by(cols, |i| g[i].to_f32() * w[i].to_f32()) / cols as f32;
            let dot = cpu::sum_by(cols, |i| g[i].to_f32() * w[i].to_f32() * (x[i].to_f32() - mean)) / cols as f32;
            let shrink = dot * r * r;
            for (((dx, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(w) {
                *dx = T::from_f32(r * (g.to_f32() * w.to_f32() - sum - (x.to_f32() - mean) * shrink));
            }
            *stats = [mean, r];
        }
    }

    fn layer_norm_weight_grad<T>(x: &[T], g: &[T], stats: &[[f32; 2]], dw: &mut [f32], db: &mut [f32]) {
        let cols = dw.len();
        for ((x, g), [mean, r]) in x.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(stats) {
            for (((dw, db), x), g) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(g) {
                *dw += g.to_f32() * ((x.to_f32() - mean) * r);
                *db += g.to_f32();
            }
        }
    }
}

static UNIT: Unit = unit!("layer_norm.h");

struct LayerNorm {
    eps: f32,
}

impl LayerNorm {
    /// Groups of a multiprocessor that keep sums over rows.
    fn resident(rows: &Rows) -> usize {
        (1024 / rows.threads()).min(2)
    }

    fn launch(
        gpu: Gpu<'_>,
        rows: &Rows,
        (entry, groups): (&'static str, [usize; 3]),
        (weight, value): (bool, f32),
        args: &mut [Arg<'_>],
    ) -> Result<()> {
        let [a, b, c, d] = rows.defines();
        let resident = ("RESIDENT", Self::resident(rows) as i64);
        let defines = [a, b, c, d, ("WEIGHT", weight as i64), resident];
        let types = [("T", rows.dtype)];
        let mut launch = rows.launch(&UNIT, entry, &types, &defines);
        launch.groups = groups;
        gpu.launch(&launch, args, &rows.params_with(value))
    }
}

impl FusedOp<3> for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn cpu(&self, [x, w, b]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        for_dtype!(Self::NAME, x.dtype(), T => {
            let (data, w, b) = (x.slice::<T>()?, w.slice::<T>()?, b.slice::<T>()?);
            let mut y = uninit::<T>(data.len());
            par_rows(&mut y, w.len(), |row, y| {
                layer_norm_rows(&data[row * w.len()..][..y.len()], w, b, y, self.eps)
            });
            Ok((super::storage(y), x.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x, w, b]: [Input<'_>; 3]) -> Result<Buffer> {
        let rows = Rows::of(Self::NAME, x, &[x, w, b])?;
        let mut y = Buffer::new(gpu, x.shape(), x.dtype())?;
        let entry = if rows.looped { "layer_norm_fwd_looped" } else { "layer_norm_fwd" };
        let at = (entry, [rows.groups(), 1, 1]);
        let args = &mut [x.into(), w.into(), b.into(), (&mut y).into()];
        Self::launch(gpu, &rows, at, (false, self.eps), args)?;
        Ok(y)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x, w, _]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        with_inputs(Self::NAME, [x, w, g], |[x, w, g]| {
            let cols = w.dims()[0];
            let rows = Rows::summed(x.shape().elem_count() / cols.max(1), cols, x.dtype(), &[x, w, g]);
            let weight = needs[1] || needs[2];
            let (groups, parts) = rows.sums(gpu, Self::resident(&rows), weight);
            let mut dx = Buffer::new(gpu, x.shape(), x.dtype())?;
            let mut parts = weight.then(|| Buffer::new(gpu, (parts, 2 * cols), DType::F32)).transpose()?;
            let (entry, mut stats) = match rows.looped {
                true => ("layer_norm_bwd_looped", Some(Buffer::new(gpu, (rows.rows, 2), DType::F32)?)),
                false => ("layer_norm_bwd", None),
            };
            let sums = stats.as_mut().or(parts.as_mut()).map_or(Arg::Null, Arg::from);
            let args = &mut [x.into(), w.into(), g.into(), (&mut dx).into(), sums];
            Self::launch(gpu, &rows, (entry, [groups, 1, 1]), (weight, self.eps), args)?;
            if let (Some(stats), Some(parts)) = (&stats, &mut parts) {
                let n = parts.dims()[0];
                let at = ("layer_norm_bwd_weight", [cols.div_ceil(rows.threads()), n, 1]);
                let args = &mut [x.into(), g.into(), stats.input(Self::NAME).into(), parts.into()];
                Self::launch(gpu, &rows, at, (weight, n as f32), args)?;
            }
            let mut grads = [needs[0].then(|| dx.tensor()), None, None];
            if let Some(parts) = parts {
                let sums = partials::sum(gpu, Self::NAME, &parts, w.dtype())?.tensor();
                for i in [0, 1].into_iter().filter(|i| needs[i + 1]) {
                    grads[i + 1] = Some(sums.narrow(0, i * cols, cols)?);
                }
            }
            Ok(grads)
        })
    }

    fn cpu_grad(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        with_inputs(Self::NAME, [x, w, g], |[xs, ws, gs]| {
            for_dtype!(Self::NAME, xs.dtype(), T => {
                let (xs, ws, gs) = (xs.slice::<T>()?, ws.slice::<T>()?, gs.slice::<T>()?);
                let cols = ws.len();
                let mut dx = uninit::<T>(xs.len());
                let mut stats = vec![[0f32; 2]; xs.len() / cols];
                par_rows2((&mut dx, cols), (&mut stats, 1), |row, dx, stats| {
                    let at = row * cols;
                    layer_norm_grad_rows(&xs[at..][..dx.len()], ws, &gs[at..][..dx.len()], dx, stats, self.eps)
                });
                let mut grads = [None, None, None];
                if needs[1] || needs[2] {
                    let sums = par_sum_rows(stats.len(), cols, 2 * cols, |from, to, sums| {
                        let (dw, db) = sums.split_at_mut(cols);
                        let rows = from * cols..to * cols;
                        layer_norm_weight_grad(&xs[rows.clone()], &gs[rows], &stats[from..to], dw, db)
                    });
                    for (i, t) in [w, b].into_iter().enumerate().filter(|(i, _)| needs[i + 1]) {
                        let part = sums[i * cols..][..cols].to_vec();
                        grads[i + 1] = Some(super::tensor(part, t.shape(), t.device())?.to_dtype(t.dtype())?);
                    }
                }
                if needs[0] {
                    grads[0] = Some(super::tensor(dx, x.shape(), x.device())?);
                }
                Ok(grads)
            })
        })
    }
}

pub(super) const SPEC: Spec = Spec {
    name: "layer_norm",
    reference: |t| reference(&t[0], &t[1], &t[2], 1e-5),
    fused: |t| layer_norm(&t[0], &t[1], &t[2], 1e-5),
    trainable: &[0, 1, 2],
    cases: &[
        &[&[1, 1], &[1], &[1]],
        &[&[2, 3, 31], &[31], &[31]],
        &[&[7, 33], &[33], &[33]],
        &[&[3, 4099], &[4099], &[4099]],
        &[&[512, 1024], &[1024], &[1024]],
        &[&[3, 33000], &[33000], &[33000]],
    ],
};
