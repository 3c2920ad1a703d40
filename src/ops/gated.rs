//! Gated linear units: `swiglu = silu(a) b` with `silu(a) = a / (1 + e^-a)`, and `geglu = gelu(a) b` with the
//! tanh approximation `gelu(a) = a/2 (1 + tanh(√(2/π) (a + 0.044715 a³)))`.
//!
//! Shazeer, [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202). [`swiglu`] and [`geglu`] take
//! both halves in one tensor, as a fused gate-and-up projection makes them; [`silu_mul`] and [`gelu_mul`] take
//! two. With `f' = d f(a)/da`: `da = g b f'`, `db = g f`. Computed in `f32`, rounded once.

use super::{Case, Spec};
use crate::kernels::cpu::{par_rows, par_rows2, simd, uninit};
use crate::kernels::element::{exp, sigmoid};
use crate::kernels::gpu::{Arg, Buffer, Gpu, Unit, unit};
use crate::kernels::pieces::{self, Pieces};
use crate::kernels::tape::{apply1, apply2};
use crate::kernels::{FusedOp, Input, for_dtype, same_dtype, with_inputs};
use bytemuck::NoUninit;
use candle_core::{CpuStorage, D, Result, Shape, Tensor, bail};

/// `silu(a) * b`, `a` and `b` the halves of the last dimension. Takes the place of `candle_nn::ops::swiglu`.
///
/// # Errors
///
/// When the last dimension is odd, or the dtype is not a float's.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    halves(x, Activation::Silu)
}

/// `gelu(a) * b`, `a` and `b` the halves of the last dimension.
///
/// # Errors
///
/// As [`swiglu`].
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    halves(x, Activation::Gelu)
}

/// `silu(gate) * up`.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    pair(gate, up, Activation::Silu)
}

/// `gelu(gate) * up`, with the tanh approximation.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub fn gelu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    pair(gate, up, Activation::Gelu)
}

fn halves(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let cols = x.dim(D::Minus1)?;
    if cols % 2 != 0 {
        bail!("{}: wants an even last dimension, got {:?}", activation.name(), x.dims())
    }
    apply1(Gated(activation), x)
}

fn pair(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!(
            "{}: wants two tensors of one shape, got {:?} and {:?}",
            activation.name(),
            gate.dims(),
            up.dims()
        )
    }
    same_dtype(activation.name(), &[gate, up])?;
    apply2(Gated(activation), gate, up)
}

fn reference(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => gate.silu()? * up,
        Activation::Gelu => gate.gelu()? * up,
    }
}

fn reference_halves(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let x = x.chunk(2, D::Minus1)?;
    reference(&x[0].contiguous()?, &x[1].contiguous()?, activation)
}

/// The function that gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    Silu,
    Gelu,
}

impl Activation {
    fn name(self) -> &'static str {
        match self {
            Activation::Silu => "swiglu",
            Activation::Gelu => "geglu",
        }
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// `gelu(a)` and its derivative.
#[inline(always)]
fn gelu(a: f32) -> (f32, f32) {
    let u = SQRT_2_OVER_PI * a * (0.044_715 * a).mul_add(a, 1.0);
    // (1 - tanh |u|) / 2, to full relative precision: neither 1 + tanh nor 1 - tanh² is taken by difference.
    let tail = 1.0 / (exp(2.0 * u.abs()) + 1.0);
    let phi = if u < 0.0 { tail } else { 1.0 - tail };
    let slope = SQRT_2_OVER_PI * (3.0 * 0.044_715 * a).mul_add(a, 1.0);
    // Where the tail is 0, a * slope may be infinite.
    let bend = if tail == 0.0 { 0.0 } else { 2.0 * a * slope * (tail * (1.0 - tail)) };
    (if phi == 0.0 { 0.0 } else { a * phi }, phi + bend)
}

/// `silu(a)` and its derivative.
#[inline(always)]
fn silu(a: f32) -> (f32, f32) {
    let s = sigmoid(a);
    let y = if s == 0.0 { 0.0 } else { a * s };
    (y, s + y * (1.0 - s))
}

simd! {
    fn silu_mul_row<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = T::from_f32(silu(a.to_f32()).0 * b.to_f32());
        }
    }

    fn gelu_mul_row<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = T::from_f32(gelu(a.to_f32()).0 * b.to_f32());
        }
    }

    fn silu_grad_row<T>(a: &[T], b: &[T], g: &[T], da: &mut [T], db: &mut [T]) {
        for ((((da, db), a), b), g) in da.iter_mut().zip(db.iter_mut()).zip(a).zip(b).zip(g) {
            let (f, slope) = silu(a.to_f32());
            *da = T::from_f32(g.to_f32() * b.to_f32() * slope);
            *db = T::from_f32(g.to_f32() * f);
        }
    }

    fn gelu_grad_row<T>(a: &[T], b: &[T], g: &[T], da: &mut [T], db: &mut [T]) {
        for ((((da, db), a), b), g) in da.iter_mut().zip(db.iter_mut()).zip(a).zip(b).zip(g) {
            let (f, slope) = gelu(a.to_f32());
            *da = T::from_f32(g.to_f32() * b.to_f32() * slope);
            *db = T::from_f32(g.to_f32() * f);
        }
    }
}

static UNIT: Unit = unit!("gated.h", "gate.h");

/// `Gated` of gated.h.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    pieces: pieces::Params,
    stride: u64,
    other: u64,
}

struct Gated(Activation);

impl Gated {
    /// Launches `entry` over `outputs`, rows of which `cols` hold one half each, or all elements of two tensors.
    fn launch(
        &self,
        gpu: Gpu<'_>,
        entry: &'static str,
        (outputs, half): (usize, Option<usize>),
        inputs: &[Input<'_>],
        args: &mut [Arg<'_>],
    ) -> Result<()> {
        let dtype = inputs[0].dtype();
        for x in inputs {
            x.contiguous()?;
        }
        let pieces = match half {
            Some(cols) => Pieces::new(outputs / cols.max(1), cols, dtype, inputs),
            None => Pieces::flat(outputs, dtype, inputs),
        };
        let cols = half.unwrap_or(outputs);
        let [a, b, c] = pieces.defines();
        let gelu = self.0 == Activation::Gelu;
        let defines = [a, b, c, ("GELU", gelu as i64), ("HALVES", half.is_some() as i64)];
        let params = Params { pieces: pieces.params(), stride: 2 * cols as u64, other: cols as u64 };
        gpu.launch(&pieces.launch(&UNIT, entry, &[("T", dtype)], &defines), args, &params)
    }

    fn row<T: crate::kernels::element::Element>(&self, a: &[T], b: &[T], y: &mut [T]) {
        match self.0 {
            Activation::Silu => silu_mul_row(a, b, y),
            Activation::Gelu => gelu_mul_row(a, b, y),
        }
    }

    fn grad_row<T: crate::kernels::element::Element>(
        &self,
        a: &[T],
        b: &[T],
        g: &[T],
        da: &mut [T],
        db: &mut [T],
    ) {
        match self.0 {
            Activation::Silu => silu_grad_row(a, b, g, da, db),
            Activation::Gelu => gelu_grad_row(a, b, g, da, db),
        }
    }
}

impl FusedOp<1> for Gated {
    const NAME: &'static str = "gated";

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let mut dims = x.dims().to_vec();
        let cols = super::last_dim(self.0.name(), &dims)? / 2;
        *dims.last_mut().expect("last_dim saw one") = cols;
        for_dtype!(self.0.name(), x.dtype(), T => {
            let data = x.slice::<T>()?;
            let mut y = uninit::<T>(data.len() / 2);
            par_rows(&mut y, cols, |row, y| {
                for (x, y) in data[2 * row * cols..].chunks_exact(2 * cols).zip(y.chunks_exact_mut(cols)) {
                    self.row(&x[..cols], &x[cols..], y);
                }
            });
            Ok((super::storage(y), dims.into()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x]: [Input<'_>; 1]) -> Result<Buffer> {
        let mut dims = x.dims().to_vec();
        let cols = super::last_dim(self.0.name(), &dims)? / 2;
        *dims.last_mut().expect("last_dim saw one") = cols;
        let mut y = Buffer::new(gpu, dims, x.dtype())?;
        let over = (x.shape().elem_count() / 2, Some(cols));
        self.launch(gpu, "gated_fwd", over, &[x], &mut [x.into(), Arg::Null, (&mut y).into()])?;
        Ok(y)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [x]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        with_inputs(self.0.name(), [x, g], |[x, g]| {
            let mut dx = Buffer::new(gpu, x.shape(), x.dtype())?;
            let over = (g.shape().elem_count(), g.dims().last().copied());
            let args = &mut [x.into(), Arg::Null, g.into(), (&mut dx).into(), Arg::Null];
            self.launch(gpu, "gated_bwd", over, &[x, g], args)?;
            Ok([Some(dx.tensor())])
        })
    }

    fn cpu_grad(
        &self,
        [x]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
        _: [bool; 1],
    ) -> Result<[Option<Tensor>; 1]> {
        let cols = g.dim(D::Minus1)?;
        with_inputs(self.0.name(), [x, g], |[xs, gs]| {
            for_dtype!(self.0.name(), xs.dtype(), T => {
                let (xs, gs) = (xs.slice::<T>()?, gs.slice::<T>()?);
                let mut dx = uninit::<T>(xs.len());
                par_rows(&mut dx, 2 * cols, |row, dx| {
                    let x = xs[2 * row * cols..].chunks_exact(2 * cols);
                    let g = gs[row * cols..].chunks_exact(cols);
                    for ((x, g), dx) in x.zip(g).zip(dx.chunks_exact_mut(2 * cols)) {
                        let (da, db) = dx.split_at_mut(cols);
                        self.grad_row(&x[..cols], &x[cols..], g, da, db);
                    }
                });
                Ok([Some(super::tensor(dx, x.shape(), x.device())?)])
            })
        })
    }
}

/// Elements a task takes at a time.
const RUN: usize = 2048;

impl FusedOp<2> for Gated {
    const NAME: &'static str = "gated";

    fn cpu(&self, [a, b]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        for_dtype!(self.0.name(), a.dtype(), T => {
            let (xs, bs) = (a.slice::<T>()?, b.slice::<T>()?);
            let mut y = uninit::<T>(xs.len());
            par_rows(&mut y, RUN.min(xs.len()), |row, y| {
                let at = row * RUN.min(xs.len());
                self.row(&xs[at..][..y.len()], &bs[at..][..y.len()], y)
            });
            Ok((super::storage(y), a.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [a, b]: [Input<'_>; 2]) -> Result<Buffer> {
        let mut y = Buffer::new(gpu, a.shape(), a.dtype())?;
        let over = (a.shape().elem_count(), None);
        self.launch(gpu, "gated_fwd", over, &[a, b], &mut [a.into(), b.into(), (&mut y).into()])?;
        Ok(y)
    }

    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [a, b]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        with_inputs(self.0.name(), [a, b, g], |[a, b, g]| {
            let [mut da, mut db] =
                [Buffer::new(gpu, a.shape(), a.dtype())?, Buffer::new(gpu, a.shape(), a.dtype())?];
            let over = (a.shape().elem_count(), None);
            let args = &mut [a.into(), b.into(), g.into(), (&mut da).into(), (&mut db).into()];
            self.launch(gpu, "gated_bwd", over, &[a, b, g], args)?;
            Ok([needs[0].then(|| da.tensor()), needs[1].then(|| db.tensor())])
        })
    }

    fn cpu_grad(
        &self,
        [a, b]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        with_inputs(self.0.name(), [a, b, g], |[xs, bs, gs]| {
            for_dtype!(self.0.name(), xs.dtype(), T => {
                let (xs, bs, gs) = (xs.slice::<T>()?, bs.slice::<T>()?, gs.slice::<T>()?);
                let run = RUN.min(xs.len());
                let (mut da, mut db) = (uninit::<T>(xs.len()), uninit::<T>(xs.len()));
                par_rows2((&mut da, run), (&mut db, run), |row, da, db| {
                    let at = row * run;
                    self.grad_row(&xs[at..][..da.len()], &bs[at..][..da.len()], &gs[at..][..da.len()], da, db)
                });
                let da = needs[0].then(|| super::tensor(da, a.shape(), a.device())).transpose()?;
                let db = needs[1].then(|| super::tensor(db, b.shape(), b.device())).transpose()?;
                Ok([da, db])
            })
        })
    }
}

const ONE: &[Case] = &[&[&[1, 2]], &[&[2, 3, 62]], &[&[3, 66]], &[&[2, 8198]], &[&[512, 1024]]];
const TWO: &[Case] = &[
    &[&[1, 1], &[1, 1]],
    &[&[2, 3, 31], &[2, 3, 31]],
    &[&[2, 4099], &[2, 4099]],
    &[&[512, 1408], &[512, 1408]],
];

pub(super) const SWIGLU: Spec = Spec {
    name: "swiglu",
    reference: |t| reference_halves(&t[0], Activation::Silu),
    fused: |t| swiglu(&t[0]),
    trainable: &[0],
    cases: ONE,
};

pub(super) const GEGLU: Spec = Spec {
    name: "geglu",
    reference: |t| reference_halves(&t[0], Activation::Gelu),
    fused: |t| geglu(&t[0]),
    trainable: &[0],
    cases: ONE,
};

pub(super) const SILU_MUL: Spec = Spec {
    name: "silu_mul",
    reference: |t| reference(&t[0], &t[1], Activation::Silu),
    fused: |t| silu_mul(&t[0], &t[1]),
    trainable: &[0, 1],
    cases: TWO,
};

pub(super) const GELU_MUL: Spec = Spec {
    name: "gelu_mul",
    reference: |t| reference(&t[0], &t[1], Activation::Gelu),
    fused: |t| gelu_mul(&t[0], &t[1]),
    trainable: &[0, 1],
    cases: TWO,
};
