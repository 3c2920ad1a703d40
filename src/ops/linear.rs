//! Linear layer, `y = x Wᵀ + b`, whose frozen weight costs no gradient.
//!
//! `dx = g W`; `dW = gᵀ x` and `db = sum g` only for what a variable reaches. Candle's own `matmul` computes and
//! stores `dW` for a frozen `W` too (candle#3773). A weight in `f32` beside a half-precision `x` is rounded to
//! `x`'s dtype for the product, and its gradient is `f32`: full fine-tuning with `f32` master weights.

mod few;
mod gpu;

use super::Spec;
use crate::kernels::element::Element;
use crate::kernels::gemm::{Mat, matmul, outer_product};
use crate::kernels::gpu::{Buffer, Gpu, Unit, unit};
use crate::kernels::tape::{apply1, apply2, apply3, tracked};
use crate::kernels::{FusedOp, Input, cpu, for_dtype, with_inputs};
use candle_core::{CpuStorage, D, DType, Result, Shape, Tensor, bail};
pub(super) use few::Low;
pub(crate) use few::{FEW, Few};
#[cfg(feature = "cuda")]
pub(crate) use gpu::cast_into;
pub(super) use gpu::{Cast, Columns, begun, grad_of};

/// `x Wᵀ + b`: `x` `(.., in)`, `weight` `(out, in)`, `bias` `(out)`; the result is `(.., out)`.
///
/// # Errors
///
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    if x.dim(D::Minus1)? != inputs || bias.is_some_and(|b| b.dims() != [outputs]) {
        bail!(
            "linear: wants x (.., {inputs}) and a bias ({outputs}) for a weight ({outputs}, {inputs}), got {:?} and {:?}",
            x.dims(),
            bias.map(|b| b.dims())
        )
    }
    match bias {
        Some(bias) if tracked(weight) || tracked(bias) => apply3(Trained, x, weight, bias),
        None if tracked(weight) => apply2(Trained, x, weight),
        bias => {
            let bias = bias.map(|b| b.contiguous()).transpose()?;
            apply1(Frozen { weight: weight.contiguous()?, bias }, x)
        }
    }
}

/// The product of the rows of `x` with the rows of `w`, plus the bias.
pub(super) fn forward(
    op: &'static str,
    x: Input<'_>,
    w: Input<'_>,
    b: Option<Input<'_>>,
) -> Result<(CpuStorage, Shape)> {
    let (n, k) = (w.dims()[0], w.dims()[1]);
    let m = x.shape().elem_count() / k.max(1);
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    for_dtype!(op, x.dtype(), T => {
        let weight = Weight::<T>::new(op, w)?;
        let mut y = matmul::<T>((m, n, k), Mat::rows(x.slice::<T>()?, k), Mat::rows(weight.get(), k).t(), None);
        if let Some(b) = b {
            add_bias(&mut y, &wide(op, b)?);
        }
        Ok((super::storage(y), dims.into()))
    })
}

/// A weight in the dtype of the activations: borrowed when it is already, else rounded.
pub(super) enum Weight<'a, T> {
    Same(&'a [T]),
    Cast(Vec<T>),
}

impl<'a, T: Element> Weight<'a, T> {
    pub fn new(op: &'static str, w: Input<'a>) -> Result<Self> {
        if w.dtype() == T::DTYPE {
            return Ok(Weight::Same(w.slice::<T>()?));
        }
        Ok(Weight::Cast(match w.dtype() {
            DType::F32 => cpu::narrow_all(w.slice::<f32>()?),
            _ => cpu::narrow_all(&wide(op, w)?),
        }))
    }

    pub fn get(&self) -> &[T] {
        match self {
            Weight::Same(w) => w,
            Weight::Cast(w) => w,
        }
    }
}

/// An input in `f32`.
pub(super) fn wide(op: &'static str, x: Input<'_>) -> Result<Vec<f32>> {
    for_dtype!(op, x.dtype(), T => Ok(cpu::to_f32(x.slice::<T>()?)))
}

cpu::simd! {
    fn add_row<T>(y: &mut [T], b: &[f32]) {
        for (y, b) in y.iter_mut().zip(b) {
            *y = T::from_f32(y.to_f32() + b);
        }
    }
}

pub(super) fn add_bias<T: Element>(y: &mut [T], b: &[f32]) {
    cpu::par_rows(y, b.len(), |_, rows| rows.chunks_exact_mut(b.len()).for_each(|row| add_row(row, b)));
}

static UNIT: Unit = unit!("linear.h");
static FEW_UNIT: Unit = unit!("linear_few.h", "gate.h");

/// Frozen weight and bias: state, not inputs, so that no gradient of theirs exists.
struct Frozen {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl FusedOp<1> for Frozen {
    const NAME: &'static str = "linear";
    const IN_POOL: bool = true;

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        with_inputs(Self::NAME, [&self.weight], |[w]| match &self.bias {
            Some(bias) => with_inputs(Self::NAME, [bias], |[b]| forward(Self::NAME, x, w, Some(b))),
            None => forward(Self::NAME, x, w, None),
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x]: [Input<'_>; 1]) -> Result<Buffer> {
        with_inputs(Self::NAME, [&self.weight], |[w]| match &self.bias {
            Some(bias) => with_inputs(Self::NAME, [bias], |[b]| gpu::forward(gpu, x, w, Some(b))),
            None => gpu::forward(gpu, x, w, None),
        })
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let [dx, ..] = gpu::grads(gpu, x, &self.weight, None, g, [true, false, false])?;
        Ok([dx])
    }

    fn cpu_grad(
        &self,
        [x]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(input_grad(x, &self.weight, g)?)])
    }
}

/// `dx = g W`.
fn input_grad(x: &Tensor, weight: &Tensor, g: &Tensor) -> Result<Tensor> {
    let (n, k) = weight.dims2()?;
    let m = x.elem_count() / k.max(1);
    with_inputs("linear", [weight, g], |[w, gs]| {
        for_dtype!("linear", gs.dtype(), T => {
            let w = Weight::<T>::new("linear", w)?;
            let dx = matmul::<T>((m, k, n), Mat::rows(gs.slice::<T>()?, n), Mat::rows(w.get(), k), None);
            super::tensor(dx, x.shape(), x.device())
        })
    })
}

/// Weight, or weight and bias, as inputs.
struct Trained;

impl Trained {
    fn grads(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let (n, k) = weight.dims2()?;
        let m = x.elem_count() / k.max(1);
        let dx = needs[0].then(|| input_grad(x, weight, g)).transpose()?;
        let dw = needs[1].then(|| {
            let dw = with_inputs("linear", [x, g], |[xs, gs]| {
                for_dtype!("linear", xs.dtype(), T => Ok(outer_product((n, k, m), gs.slice::<T>()?, xs.slice::<T>()?)))
            })?;
            super::tensor(dw, weight.shape(), weight.device())?.to_dtype(weight.dtype())
        });
        let db = bias.filter(|_| needs[2]).map(|b| {
            let db = with_inputs("linear", [g], |[gs]| {
                for_dtype!("linear", gs.dtype(), T => {
                    let gs = gs.slice::<T>()?;
                    Ok(cpu::par_sum_rows(m, n, n, |from, to, sum| {
                        gs[from * n..to * n].chunks_exact(n).for_each(|row| add_to(sum, row))
                    }))
                })
            })?;
            super::tensor(db, b.shape(), b.device())?.to_dtype(b.dtype())
        });
        Ok([dx, dw.transpose()?, db.transpose()?])
    }
}

cpu::simd! {
    fn add_to<T>(sum: &mut [f32], row: &[T]) {
        for (s, v) in sum.iter_mut().zip(row) {
            *s += v.to_f32();
        }
    }
}

impl FusedOp<2> for Trained {
    const NAME: &'static str = "linear";
    const IN_POOL: bool = true;

    fn cpu(&self, [x, w]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        forward("linear", x, w, None)
    }

    fn gpu(&self, gpu: Gpu<'_>, [x, w]: [Input<'_>; 2]) -> Result<Buffer> {
        gpu::forward(gpu, x, w, None)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let [dx, dw, _] = gpu::grads(gpu, x, w, None, g, [needs[0], needs[1], false])?;
        Ok([dx, dw])
    }

    fn cpu_grad(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let [dx, dw, _] = Self::grads(x, w, None, g, [needs[0], needs[1], false])?;
        Ok([dx, dw])
    }
}

impl FusedOp<3> for Trained {
    const NAME: &'static str = "linear";
    const IN_POOL: bool = true;

    fn cpu(&self, [x, w, b]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        forward("linear", x, w, Some(b))
    }

    fn gpu(&self, gpu: Gpu<'_>, [x, w, b]: [Input<'_>; 3]) -> Result<Buffer> {
        gpu::forward(gpu, x, w, Some(b))
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        gpu::grads(gpu, x, w, Some(b), g, needs)
    }

    fn cpu_grad(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        Self::grads(x, w, Some(b), g, needs)
    }
}

pub(super) const SPEC: Spec = Spec {
    name: "linear",
    reference: |t| {
        let (n, k) = t[1].dims2()?;
        let mut dims = t[0].dims().to_vec();
        dims.pop();
        dims.push(n);
        t[0].reshape(((), k))?.matmul(&t[1].t()?)?.broadcast_add(&t[2])?.reshape(dims)
    },
    fused: |t| linear(&t[0], &t[1], Some(&t[2])),
    trainable: &[0, 1, 2],
    cases: &[
        &[&[1, 1], &[1, 1], &[1]],
        &[&[2, 3, 31], &[33, 31], &[33]],
        &[&[1, 4099], &[5, 4099], &[5]],
        &[&[3, 64], &[70, 64], &[70]],
        &[&[130, 257], &[129, 257], &[129]],
    ],
};
