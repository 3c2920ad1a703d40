//! Linear layer with a low-rank update, `y = x Wᵀ + b + s (dropout(x) Aᵀ) Bᵀ`, whose base weight is frozen.
//!
//! Hu et al., [LoRA](https://arxiv.org/abs/2106.09685), as PEFT computes it. `t = dropout(x) Aᵀ` is formed once
//! and kept for backward; the update is accumulated into the base product's output. With `u = s g B`:
//! `dx = g W + mask(u A)`, `dA = uᵀ dropout(x)`, `dB = s gᵀ t`. No `dW` is formed or stored.

#[cfg(any(feature = "cuda", all(test, feature = "host")))]
mod cuda;
mod gpu;
#[cfg(feature = "cuda")]
pub(super) use self::cuda::Up;

#[cfg(feature = "cuda")]
pub(crate) use gpu::Wide;

use super::linear::{Weight, add_bias, wide};
use super::{Dropout, Spec};
use crate::kernels::gemm::{Mat, gemm_f32, matmul, narrow_owned, tall_product, thin_product};
use crate::kernels::gpu::{Buffer, Gpu};
use crate::kernels::tape::{apply3, tracked};
use crate::kernels::{FusedOp, Input, cpu, for_dtype, with_inputs};
use candle_core::{CpuStorage, D, Result, Shape, Tensor, bail};
use std::sync::OnceLock;

/// The frozen side of a [`lora_linear`].
#[derive(Clone, Debug)]
pub struct LoraLinear {
    /// The base weight, `(out, in)`.
    pub weight: Tensor,
    /// The base bias, `(out)`.
    pub bias: Option<Tensor>,
    /// The factor `s` of the update: `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f64,
    /// Dropout on what the update sees of `x`.
    pub dropout: Option<Dropout>,
}

/// `x Wᵀ + b + s (dropout(x) aᵀ) bᵀ`: `x` `(.., in)`, `a` `(r, in)`, `b` `(out, r)`; the result is `(.., out)`.
///
/// `a` and `b` may be `f32` beside a half-precision `x`; their gradients have their own dtype.
///
/// # Errors
///
/// When the shapes do not fit, or a variable reaches the base weight or bias: train those with [`super::linear`].
pub fn lora_linear(x: &Tensor, a: &Tensor, b: &Tensor, base: &LoraLinear) -> Result<Tensor> {
    let (n, k) = base.weight.dims2()?;
    let r = a.dim(0)?;
    if x.dim(D::Minus1)? != k || a.dims() != [r, k] || b.dims() != [n, r] {
        bail!(
            "lora_linear: wants x (.., {k}), A (r, {k}) and B ({n}, r) for a weight ({n}, {k}), got {:?}, {:?} and {:?}",
            x.dims(),
            a.dims(),
            b.dims()
        )
    }
    if let Some(bias) = &base.bias
        && bias.dims() != [n]
    {
        bail!("lora_linear: wants a bias ({n}) for a weight ({n}, {k}), got {:?}", bias.dims())
    }
    if tracked(&base.weight) || base.bias.as_ref().is_some_and(tracked) {
        bail!("lora_linear: wants a frozen weight and bias, got one that a variable reaches")
    }
    if let Some(Dropout { p, .. }) = base.dropout
        && !(0.0..1.0).contains(&p)
    {
        bail!("lora_linear: wants a dropout probability in [0, 1), got {p}")
    }
    let mut base = base.clone();
    base.weight = base.weight.contiguous()?;
    base.bias = base.bias.map(|bias| bias.contiguous()).transpose()?;
    let op = Lora { base, low: OnceLock::new(), on_gpu: OnceLock::new() };
    apply3(op, x, a, b)
}

fn reference(x: &Tensor, a: &Tensor, b: &Tensor, weight: &Tensor, scale: f64) -> Result<Tensor> {
    let (n, k) = weight.dims2()?;
    let flat = x.reshape(((), k))?;
    let update = (flat.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(n);
    (flat.matmul(&weight.t()?)? + update)?.reshape(dims)
}

struct Lora {
    base: LoraLinear,
    /// `s t` of the forward pass, `(rows, r)`.
    low: OnceLock<Vec<f32>>,
    /// `t` of the forward pass.
    on_gpu: OnceLock<Tensor>,
}

impl FusedOp<3> for Lora {
    const NAME: &'static str = "lora_linear";
    const IN_POOL: bool = true;

    fn cpu(&self, [x, a, b]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        let (n, k) = self.base.weight.dims2()?;
        let (r, m) = (a.dims()[0], x.shape().elem_count() / k.max(1));
        let (a, b) = (wide(Self::NAME, a)?, wide(Self::NAME, b)?);
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        for_dtype!(Self::NAME, x.dtype(), T => with_inputs(Self::NAME, [&self.base.weight], |[w]| {
            let x = x.slice::<T>()?;
            let w = Weight::<T>::new(Self::NAME, w)?;
            let dropped = self.base.dropout.map(|d| d.apply(x, k));
            let mut t = thin_product((m, r, k), dropped.as_deref().unwrap_or(x), Mat::rows(&a, k));
            t.iter_mut().for_each(|t| *t *= self.base.scale as f32);
            let low_rank = (Mat::rows(&t, r), Mat::rows(&b, r).t(), r);
            let mut y = matmul::<T>((m, n, k), Mat::rows(x, k), Mat::rows(w.get(), k).t(), Some(low_rank));
            if let Some(bias) = &self.base.bias {
                add_bias(&mut y, &with_inputs(Self::NAME, [bias], |[b]| wide(Self::NAME, b))?);
            }
            self.low.set(t).ok();
            Ok((super::storage(y), dims.into()))
        }))
    }

    fn gpu(&self, gpu: Gpu<'_>, [x, a, b]: [Input<'_>; 3]) -> Result<Buffer> {
        self.gpu_forward(gpu, x, a, b)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        inputs: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        self.gpu_backward(gpu, inputs, g, needs)
    }

    fn cpu_grad(
        &self,
        [x, a, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let (n, k) = self.base.weight.dims2()?;
        let (r, m) = (a.dim(0)?, x.elem_count() / k.max(1));
        let Some(t) = self.low.get() else { bail!("lora_linear: backward before forward") };
        with_inputs(Self::NAME, [x, a, b, &self.base.weight, g], |[xs, as_, bs, w, gs]| {
            let (wide_a, wide_b) = (wide(Self::NAME, as_)?, wide(Self::NAME, bs)?);
            for_dtype!(Self::NAME, xs.dtype(), T => {
                let (xs, gs) = (xs.slice::<T>()?, gs.slice::<T>()?);
                let mut u = thin_product((m, r, n), gs, Mat::rows(&wide_b, r).t());
                u.iter_mut().for_each(|u| *u *= self.base.scale as f32);
                let dropped = match self.base.dropout {
                    Some(d) if needs[1] => Some(d.apply(xs, k)),
                    _ => None,
                };
                let dx = needs[0].then(|| {
                    let w = Weight::<T>::new(Self::NAME, w)?;
                    let (g, w) = (Mat::rows(gs, n), Mat::rows(w.get(), k));
                    let dx = match self.base.dropout {
                        None => {
                            let low_rank = (Mat::rows(&u, r), Mat::rows(&wide_a, k), r);
                            matmul::<T>((m, k, n), g, w, Some(low_rank))
                        }
                        Some(dropout) => {
                            let mut low = cpu::uninit::<f32>(m * k);
                            gemm_f32((m, k, r), 1.0, Mat::rows(&u, r), Mat::rows(&wide_a, k), false, &mut low, k, 0);
                            let mut dx = matmul::<T>((m, k, n), g, w, None);
                            let low: Vec<T> = narrow_owned(dropout.apply(&low, k));
                            cpu::par_rows(&mut dx, k, |row, dx| add_rows(dx, &low[row * k..]));
                            dx
                        }
                    };
                    super::tensor(dx, x.shape(), x.device())
                });
                let da = needs[1].then(|| {
                    let da = tall_product((m, r, k), &u, dropped.as_deref().unwrap_or(xs));
                    super::tensor(da, a.shape(), a.device())?.to_dtype(a.dtype())
                });
                let db = needs[2].then(|| {
                    let transposed = tall_product((m, r, n), t, gs);
                    let db = (0..n * r).map(|i| transposed[i % r * n + i / r]).collect();
                    super::tensor(db, b.shape(), b.device())?.to_dtype(b.dtype())
                });
                Ok([dx.transpose()?, da.transpose()?, db.transpose()?])
            })
        })
    }
}

cpu::simd! {
    fn add_rows<T>(y: &mut [T], x: &[T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::from_f32(y.to_f32() + x.to_f32());
        }
    }
}

pub(super) const SPEC: Spec = Spec {
    name: "lora_linear",
    reference: |t| reference(&t[0], &t[1], &t[2], &t[3], 2.0),
    fused: |t| {
        let base = LoraLinear { weight: t[3].detach(), bias: None, scale: 2.0, dropout: None };
        lora_linear(&t[0], &t[1], &t[2], &base)
    },
    trainable: &[0, 1, 2],
    cases: &[
        &[&[1, 1], &[1, 1], &[1, 1], &[1, 1]],
        &[&[2, 3, 31], &[4, 31], &[33, 4], &[33, 31]],
        &[&[1, 64], &[8, 64], &[96, 8], &[96, 64]],
        &[&[40, 257], &[8, 257], &[129, 8], &[129, 257]],
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn the_update_sees_the_mask_of_dropout() {
        let (rows, n) = (9, 17);
        let data: Vec<f32> = (1..=rows * n).map(|i| i as f32).collect();
        let x = Tensor::from_slice(&data, (rows, n), &Device::Cpu).unwrap();
        let one = Tensor::eye(n, DType::F32, &Device::Cpu).unwrap();
        let dropout = Dropout { p: 0.5, seed: 1 << 40 | 5 };
        let weight = one.zeros_like().unwrap();
        let base = LoraLinear { weight, bias: None, scale: 1.0, dropout: Some(dropout) };
        let y = lora_linear(&x, &one, &one, &base).unwrap().flatten_all().unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), dropout.apply(&data, n));
    }
}
