//! Linear layer with a low-rank update and a magnitude for each output, `y = (m / n) (x Wᵀ + s (x Aᵀ) Bᵀ) + b`.
//!
//! Liu et al., [DoRA](https://arxiv.org/abs/2402.09353), as PEFT computes it: `n` is the norm of each row of
//! `W + s B A`, and a constant for the gradient (section 4.3). With `z = x Wᵀ + s (x Aᵀ) Bᵀ`, of which
//! [`lora_linear`] has the gradient, `dz = g m / n` and `dm = sum(g z) / n`. The norms are made a few rows at a
//! time: `B A` is never a whole matrix in memory.

mod gpu;

use super::linear::wide;
use super::{LoraLinear, Spec, add, affine, dropout, linear, lora_linear};
use crate::kernels::gemm::{Mat, gemm_f32};
use crate::kernels::gpu::{self as kernels, Buffer, Gpu, Unit, unit};
use crate::kernels::tape::apply2;
use crate::kernels::{FusedOp, Input, cpu, for_dtype, with_inputs};
use candle_core::{CpuStorage, D, DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `(magnitude / norms) (x Wᵀ + s (x aᵀ) bᵀ) + bias`: shapes as in [`lora_linear`], and `magnitude` and `norms`
/// `(out)`. `norms` are those of [`dora_norms`].
///
/// Dropout is on what the update and the change of magnitude see, as in PEFT: with `d = dropout(x)` the result is
/// `(x - d) Wᵀ + (magnitude / norms) (d Wᵀ + s (d aᵀ) bᵀ) + bias`.
///
/// A row of the adapted weight that is zero gives zero.
///
/// # Errors
///
/// As [`lora_linear`].
pub fn dora_linear(
    x: &Tensor,
    a: &Tensor,
    b: &Tensor,
    magnitude: &Tensor,
    norms: &Tensor,
    base: &LoraLinear,
) -> Result<Tensor> {
    let n = base.weight.dim(0)?;
    if magnitude.dims() != [n] || norms.dims() != [n] || base.bias.as_ref().is_some_and(|b| b.dims() != [n]) {
        bail!(
            "dora_linear: wants magnitude, norms and bias ({n}) for a weight {:?}, got {:?}, {:?} and {:?}",
            base.weight.dims(),
            magnitude.dims(),
            norms.dims(),
            base.bias.as_ref().map(|b| b.dims())
        )
    }
    let low = LoraLinear { bias: None, dropout: None, ..base.clone() };
    let bias = base.bias.as_ref().map(|bias| bias.contiguous()).transpose()?;
    let scale = Scale { norms: norms.to_dtype(DType::F32)?.contiguous()?, bias };
    let Some(dropped) = base.dropout else {
        return apply2(scale, &lora_linear(x, a, b, &low)?, magnitude);
    };
    let dropped = dropout(x, dropped)?;
    let y = apply2(scale, &lora_linear(&dropped, a, b, &low)?, magnitude)?;
    add(&y, &linear(&add(x, &affine(&dropped, -1., 0.)?)?, &base.weight, None)?)
}

/// The norm of each row of `weight + scale b a`, `(out)`, in `f32` and without a graph.
///
/// # Errors
///
/// When the shapes do not fit.
pub fn dora_norms(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    const OP: &str = "dora_norms";
    /// Few enough that they stay in the cache.
    const ROWS: usize = 16;
    let (n, k) = weight.dims2()?;
    let r = a.dim(0)?;
    if a.dims() != [r, k] || b.dims() != [n, r] {
        bail!("{OP}: wants A (r, {k}) and B ({n}, r), got {:?} and {:?}", a.dims(), b.dims())
    }
    with_inputs(OP, [&weight.contiguous()?, &a.contiguous()?, &b.contiguous()?], |[w, a, b]| {
        if let Some(norms) = kernels::on(weight, |gpu| gpu::norms(gpu, [w, a, b], scale)) {
            return norms;
        }
        let (a, b) = (wide(OP, a)?, wide(OP, b)?);
        for_dtype!(OP, w.dtype(), T => {
            let w = w.slice::<T>()?;
            let mut norms = vec![0f32; n];
            cpu::in_pool(|| norms.par_chunks_mut(ROWS).enumerate().for_each(|(i, norms)| {
                let (from, rows) = (i * ROWS, norms.len());
                let mut v = cpu::to_f32(&w[from * k..(from + rows) * k]);
                let b = Mat::rows(&b[from * r..(from + rows) * r], r);
                gemm_f32((rows, k, r), scale as f32, b, Mat::rows(&a, k), true, &mut v, k, 1);
                for (norm, v) in norms.iter_mut().zip(v.chunks_exact(k.max(1))) {
                    *norm = sum_squares(v).sqrt();
                }
            }));
            super::tensor(norms, &n.into(), weight.device())
        })
    })
}

static UNIT: Unit = unit!("dora_linear.h");

/// `y = z m / n + b` by column.
struct Scale {
    norms: Tensor,
    bias: Option<Tensor>,
}

impl Scale {
    /// `m / n`.
    fn factors(&self, m: Input<'_>) -> Result<Vec<f32>> {
        let mut c = wide(Self::NAME, m)?;
        with_inputs(Self::NAME, [&self.norms], |[norms]| {
            c.iter_mut().zip(wide(Self::NAME, norms)?).for_each(|(c, n)| *c *= inverse(n));
            Ok(c)
        })
    }
}

/// `1 / norm`; a row without a direction has no magnitude.
fn inverse(norm: f32) -> f32 {
    if norm == 0. { 0. } else { 1. / norm }
}

impl FusedOp<2> for Scale {
    const NAME: &'static str = "dora_linear";
    const IN_POOL: bool = true;

    fn cpu(&self, [z, m]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let (n, c) = (m.dims()[0], self.factors(m)?);
        let bias = match &self.bias {
            Some(bias) => with_inputs(Self::NAME, [bias], |[b]| wide(Self::NAME, b))?,
            None => vec![0.; n],
        };
        for_dtype!(Self::NAME, z.dtype(), T => {
            let zs = z.slice::<T>()?;
            let mut y = cpu::uninit::<T>(zs.len());
            cpu::par_rows(&mut y, n, |row, y| {
                for (y, z) in y.chunks_exact_mut(n).zip(zs[row * n..].chunks_exact(n)) {
                    scale_row(z, &c, &bias, y);
                }
            });
            Ok((super::storage(y), z.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [z, m]: [Input<'_>; 2]) -> Result<Buffer> {
        self.gpu_scale(gpu, z, m, true)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        inputs: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        self.gpu_backward(gpu, inputs, g, needs)
    }

    fn cpu_grad(
        &self,
        [z, m]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let n = m.dim(0)?;
        let rows = z.elem_count() / n.max(1);
        with_inputs(Self::NAME, [z, m, g, &self.norms], |[zs, ms, gs, norms]| {
            for_dtype!(Self::NAME, zs.dtype(), T => {
                let (zs, gs) = (zs.slice::<T>()?, gs.slice::<T>()?);
                let dz = needs[0].then(|| {
                    let (c, zero) = (self.factors(ms)?, vec![0.; n]);
                    let mut dz = cpu::uninit::<T>(gs.len());
                    cpu::par_rows(&mut dz, n, |row, dz| {
                        for (dz, g) in dz.chunks_exact_mut(n).zip(gs[row * n..].chunks_exact(n)) {
                            scale_row(g, &c, &zero, dz);
                        }
                    });
                    super::tensor(dz, z.shape(), z.device())
                });
                let dm = needs[1].then(|| {
                    let mut dm = cpu::par_sum_rows(rows, n, n, |from, to, sum| {
                        let rows = from * n..to * n;
                        for (g, z) in gs[rows.clone()].chunks_exact(n).zip(zs[rows].chunks_exact(n)) {
                            add_product(sum, g, z);
                        }
                    });
                    dm.iter_mut().zip(wide(Self::NAME, norms)?).for_each(|(dm, n)| *dm *= inverse(n));
                    super::tensor(dm, m.shape(), m.device())?.to_dtype(m.dtype())
                });
                Ok([dz.transpose()?, dm.transpose()?])
            })
        })
    }
}

cpu::simd! {
    fn scale_row<T>(z: &[T], c: &[f32], bias: &[f32], y: &mut [T]) {
        for (((y, z), c), b) in y.iter_mut().zip(z).zip(c).zip(bias) {
            *y = T::from_f32(z.to_f32() * c + b);
        }
    }

    fn add_product<T>(sum: &mut [f32], g: &[T], z: &[T]) {
        for ((s, g), z) in sum.iter_mut().zip(g).zip(z) {
            *s += g.to_f32() * z.to_f32();
        }
    }

    fn sum_squares<>(x: &[f32]) -> f32 {
        cpu::sum_by(x.len(), |i| x[i] * x[i])
    }
}

fn reference(t: &[Tensor], scale: f64) -> Result<Tensor> {
    let [x, a, b, m, w, bias] = t else { bail!("dora_linear: wants six inputs, got {}", t.len()) };
    let weight = (w.detach() + (b.matmul(a)? * scale)?)?;
    let factor = (m / weight.detach().sqr()?.sum(D::Minus1)?.sqrt()?)?;
    let mut dims = x.dims().to_vec();
    let k = dims.pop().unwrap_or_default();
    dims.push(w.dim(0)?);
    let z = x.reshape(((), k))?.matmul(&weight.t()?)?;
    z.broadcast_mul(&factor)?.broadcast_add(&bias.detach())?.reshape(dims)
}

pub(super) const SPEC: Spec = Spec {
    name: "dora_linear",
    reference: |t| reference(t, 2.0),
    fused: |t| {
        let base = LoraLinear { weight: t[4].detach(), bias: Some(t[5].detach()), scale: 2.0, dropout: None };
        let norms = dora_norms(&t[4], &t[1], &t[2], 2.0)?;
        dora_linear(&t[0], &t[1], &t[2], &t[3], &norms, &base)
    },
    trainable: &[0, 1, 2, 3],
    cases: &[
        &[&[1, 1], &[1, 1], &[1, 1], &[1], &[1, 1], &[1]],
        &[&[2, 3, 31], &[4, 31], &[33, 4], &[33], &[33, 31], &[33]],
        &[&[1, 64], &[8, 64], &[96, 8], &[96], &[96, 64], &[96]],
        &[&[40, 257], &[8, 257], &[129, 8], &[129], &[129, 257], &[129]],
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{self, Dropout};
    use candle_core::{Device, Var};

    const CASE: ops::Case = &[&[5, 31], &[4, 31], &[33, 4], &[33], &[33, 31], &[33]];

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        let apart = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
        apart.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn norms_of_a_weight_that_the_update_all_but_cancels_are_exact() {
        let inputs = ops::inputs(CASE, DType::F32, &Device::Cpu).unwrap();
        let (a, b) = (&inputs[1], &inputs[2]);
        let rest = (&inputs[4] * 1e-3).unwrap();
        let weight = (&rest - (b.matmul(a).unwrap() * 2.).unwrap()).unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let exact = (wide(&weight) + (wide(b).matmul(&wide(a)).unwrap() * 2.).unwrap()).unwrap();
        let exact = exact.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
        let norms = dora_norms(&weight, a, b, 2.).unwrap();
        // What is left has lost as many digits as the weight had before: the sum is rounded at the weight's size.
        let size = weight.sqr().unwrap().sum(1).unwrap().sqrt().unwrap().max_all().unwrap();
        assert!(distance(&norms, &exact) < 2e-7 * size.to_scalar::<f32>().unwrap() as f64);
        let zero = dora_norms(
            &(b.matmul(a).unwrap() * -2.).unwrap().zeros_like().unwrap(),
            a,
            &b.zeros_like().unwrap(),
            2.,
        );
        assert_eq!(zero.unwrap().to_vec1::<f32>().unwrap(), [0.; 33]);
    }

    #[test]
    fn dropout_acts_on_the_update_and_on_the_change_of_magnitude() {
        let inputs = ops::inputs(CASE, DType::F32, &Device::Cpu).unwrap();
        let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
        let [x, a, b, m, w, bias] = vars.as_slice() else { unreachable!() };
        let (w, bias) = (w.as_detached_tensor(), bias.as_detached_tensor());
        let p = Dropout { p: 0.5, seed: 3 };
        let norms = dora_norms(&w, a, b, 2.).unwrap();
        let base = LoraLinear { weight: w.clone(), bias: Some(bias.clone()), scale: 2., dropout: Some(p) };
        let ours = dora_linear(x, a, b, m, &norms, &base).unwrap();

        // As PEFT writes it: result + (m / n - 1) F.linear(d, W) + (m / n) B(A(d)) s.
        let d = (x.as_tensor() * dropout(&x.ones_like().unwrap(), p).unwrap()).unwrap();
        let c = (m.as_tensor() / &norms).unwrap();
        let low = (d.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap() * 2.).unwrap();
        let changed = d.matmul(&w.t().unwrap()).unwrap().broadcast_mul(&(&c - 1.).unwrap()).unwrap();
        let result = x.matmul(&w.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let peft = ((result + changed).unwrap() + low.broadcast_mul(&c).unwrap()).unwrap();

        assert!(distance(&ours, &peft) < 2e-5, "{}", distance(&ours, &peft));
        let gradients = |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let (ours, peft) = (gradients(&ours), gradients(&peft));
        for var in [x, a, b, m] {
            let (ours, peft) = (ours.get(var).unwrap(), peft.get(var).unwrap());
            let size = distance(peft, &peft.zeros_like().unwrap());
            assert!(distance(ours, peft) < 1e-5 * size, "{} of {size}", distance(ours, peft));
        }
    }
}
