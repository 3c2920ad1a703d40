//! Rotary position embedding: each pair of a head's features is turned by an angle that grows with the position.
//!
//! `y1 = x1 cos - x2 sin`, `y2 = x1 sin + x2 cos`, where a pair is `(x[i], x[i + R/2])` (half-rotated, as Hugging
//! Face's Llama) or `(x[2i], x[2i + 1])` (interleaved). `R`, twice the last dimension of `cos`, may be less than
//! the head's size: features from `R` on pass through. The gradient is the turn back. The tables are not trained.
//!
//! Su et al., [RoFormer](https://arxiv.org/abs/2104.09864).

use super::Spec;
#[cfg(feature = "cuda")]
use crate::kernels::Held;
use crate::kernels::cpu::{self, par_rows, simd, uninit};
use crate::kernels::gpu::{self, Arg, Buffer, Gpu, Launch, Unit, unit};
use crate::kernels::tape::{apply1, apply1_strided, tracked};
use crate::kernels::{Fused, FusedOp, Input, for_dtype, same_dtype, vec, with_inputs};
use bytemuck::NoUninit;
use candle_core::{CpuStorage, D, Result, Shape, Tensor, bail};

/// Half-rotated, `x` `(B, H, T, D)`. Takes the place of `candle_nn::rotary_emb::rope`.
///
/// `cos` and `sin` are `(T, R/2)`, or `(B, T, R/2)` for positions that differ by row; longer tables are read from
/// their start. For an offset, narrow the tables.
///
/// # Errors
///
/// When a table is too short or too wide, or is itself trainable.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    apply(x, cos, sin, Order { interleaved: false, thd: false })
}

/// Interleaved, `x` `(B, H, T, D)`. Takes the place of `candle_nn::rotary_emb::rope_i`.
///
/// # Errors
///
/// As [`rope`].
pub fn rope_i(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    apply(x, cos, sin, Order { interleaved: true, thd: false })
}

/// Half-rotated, `x` `(B, T, H, D)`. Takes the place of `candle_nn::rotary_emb::rope_thd`.
///
/// # Errors
///
/// As [`rope`].
pub fn rope_thd(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    apply(x, cos, sin, Order { interleaved: false, thd: true })
}

#[derive(Clone, Copy)]
struct Order {
    interleaved: bool,
    thd: bool,
}

fn apply(x: &Tensor, cos: &Tensor, sin: &Tensor, order: Order) -> Result<Tensor> {
    let (b, mut h, mut t, d) = x.dims4()?;
    if order.thd {
        std::mem::swap(&mut h, &mut t);
    }
    check(b, t, d, [cos, sin])?;
    if tracked(cos) || tracked(sin) {
        bail!("rope: wants tables that are not trained, got one that a variable reaches")
    }
    let [cos, sin] = [cos.contiguous()?, sin.contiguous()?];
    let rope = Rope { cos, sin, order, back: false };
    match gpu::on(x, |_| Ok(x.stride()[3] == 1)) {
        Some(Ok(true)) => apply1_strided(rope, x),
        _ => apply1(rope, x),
    }
}

/// Refuses tables that do not fit `b` rows of `t` positions and heads of `d`.
pub(super) fn check(b: usize, t: usize, d: usize, [cos, sin]: [&Tensor; 2]) -> Result<()> {
    let fits = |table: &Tensor| match *table.dims() {
        [rows, half] => rows >= t && 2 * half <= d,
        [batch, rows, half] => batch == b && rows == t && 2 * half <= d,
        _ => false,
    };
    if !fits(cos) || !fits(sin) || cos.dims() != sin.dims() {
        bail!(
            "rope: wants cos and sin of shape ({t}, at most {}) or ({b}, {t}, ..) for {b} x {t} heads of {d}, got {:?} and {:?}",
            d / 2,
            cos.dims(),
            sin.dims()
        )
    }
    same_dtype("rope", &[cos, sin])?;
    Ok(())
}

fn reference(x: &Tensor, cos: &Tensor, sin: &Tensor, order: Order) -> Result<Tensor> {
    let x = if order.thd { x.transpose(1, 2)? } else { x.clone() };
    let (b, h, t, d) = x.dims4()?;
    let (cos, sin) = (cos.narrow(0, 0, t)?, sin.narrow(0, 0, t)?);
    let (x1, x2) = match order.interleaved {
        true => {
            let x = x.reshape((b, h, t, d / 2, 2))?;
            (x.narrow(4, 0, 1)?.squeeze(4)?, x.narrow(4, 1, 1)?.squeeze(4)?)
        }
        false => (x.narrow(3, 0, d / 2)?, x.narrow(3, d / 2, d / 2)?),
    };
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x1.broadcast_mul(&sin)? + x2.broadcast_mul(&cos)?)?;
    let y = match order.interleaved {
        true => Tensor::stack(&[y1, y2], D::Minus1)?.reshape((b, h, t, d))?,
        false => Tensor::cat(&[y1, y2], D::Minus1)?,
    };
    if order.thd { y.transpose(1, 2) } else { Ok(y) }
}

simd! {
    fn rope_row<T>(x: &[T], cos: &[f32], sin: &[f32], y: &mut [T], sign: f32) {
        let half = cos.len();
        let sin = &sin[..half];
        let (x1, rest) = x.split_at(half);
        let (x2, tail) = rest.split_at(half);
        let (y1, rest) = y.split_at_mut(half);
        let (y2, y_tail) = rest.split_at_mut(half);
        for i in 0..half {
            let (a, b, s) = (x1[i].to_f32(), x2[i].to_f32(), sign * sin[i]);
            y1[i] = T::from_f32(a * cos[i] - b * s);
            y2[i] = T::from_f32(a * s + b * cos[i]);
        }
        y_tail.copy_from_slice(tail);
    }

    fn rope_i_row<T>(x: &[T], cos: &[f32], sin: &[f32], y: &mut [T], sign: f32) {
        let turned = 2 * cos.len();
        let pairs = x[..turned].chunks_exact(2).zip(y[..turned].chunks_exact_mut(2));
        for ((x, y), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
            let (a, b, s) = (x[0].to_f32(), x[1].to_f32(), sign * sin);
            y[0] = T::from_f32(a * cos - b * s);
            y[1] = T::from_f32(a * s + b * cos);
        }
        y[turned..].copy_from_slice(&x[turned..]);
    }
}

static UNIT: Unit = unit!("rope.h");

/// `Rope` of rope.h.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    positions: u32,
    heads: u32,
    half: u32,
    rest: u32,
    table: u64,
    x: [u64; 3],
    y: [u64; 3],
    sign: f32,
    unused: u32,
}

const THREADS: usize = 128;
#[derive(Clone)]
struct Rope {
    cos: Tensor,
    sin: Tensor,
    order: Order,
    /// Turn the other way: the gradient.
    back: bool,
}

impl FusedOp<1> for Rope {
    const NAME: &'static str = "rope";

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let [cos, sin] = with_inputs(
            Self::NAME,
            [&self.cos, &self.sin],
            |[c, s]| for_dtype!(Self::NAME, c.dtype(), T => Ok([cpu::to_f32(c.slice::<T>()?), cpu::to_f32(s.slice::<T>()?)])),
        )?;
        let (half, by_row) = (self.cos.dim(D::Minus1)?, self.cos.rank() == 3);
        let [_, n1, n2, d] = *x.dims() else { bail!("rope: wants 4 dimensions, got {:?}", x.dims()) };
        let sign = if self.back { -1.0 } else { 1.0 };
        for_dtype!(Self::NAME, x.dtype(), T => {
            let data = x.slice::<T>()?;
            let mut y = uninit::<T>(data.len());
            par_rows(&mut y, d, |first, y| {
                for (i, y) in y.chunks_exact_mut(d).enumerate() {
                    let row = first + i;
                    let (batch, position) = match self.order.thd {
                        true => (row / (n1 * n2), row / n2 % n1),
                        false => (row / (n1 * n2), row % n2),
                    };
                    let seq = if self.order.thd { n1 } else { n2 };
                    let at = (if by_row { batch * seq + position } else { position }) * half;
                    let (x, cos, sin) = (&data[row * d..][..d], &cos[at..][..half], &sin[at..][..half]);
                    match self.order.interleaved {
                        true => rope_i_row(x, cos, sin, y, sign),
                        false => rope_row(x, cos, sin, y, sign),
                    }
                }
            });
            Ok((super::storage(y), x.shape()))
        })
    }

    fn gpu(&self, gpu: Gpu<'_>, [x]: [Input<'_>; 1]) -> Result<Buffer> {
        let mut y = Buffer::new(gpu, x.shape(), x.dtype())?;
        let [_, n1, n2, d] = *x.dims() else { bail!("rope: wants 4 dimensions, got {:?}", x.dims()) };
        self.launch(gpu, x, (&mut y).into(), [n1 * n2 * d, n2 * d, d])?;
        Ok(y)
    }

    fn grad(&self, _: [&Tensor; 1], _: &Tensor, g: &Tensor, _: [bool; 1]) -> Result<[Option<Tensor>; 1]> {
        // `g` is detached, so that no graph is cut here.
        let back = Rope { back: !self.back, ..self.clone() };
        Ok([Some(g.apply_op1_no_bwd(&Fused(back))?)])
    }
}

/// Turns `x` (B, T, H, D) where it is, half-rotated as [`rope_thd`] or back, on a GPU. Whoever holds `x` sees it.
#[cfg(feature = "cuda")]
pub(super) fn turn_in_place(x: &Tensor, cos: &Tensor, sin: &Tensor, back: bool) -> Result<()> {
    let order = Order { interleaved: false, thd: true };
    let rope = Rope { cos: cos.contiguous()?, sin: sin.contiguous()?, order, back };
    let held = Held::new(x);
    let x = held.input(Rope::NAME);
    let s = x.stride();
    let turned = gpu::on(&rope.cos, |gpu| rope.launch(gpu, x, Arg::Update(x), [s[0], s[1], s[2]]));
    turned.unwrap_or_else(|| bail!("rope: wants a GPU to turn in place"))
}

impl Rope {
    /// Turns `x` into `y`, whose first three dimensions have these strides. Both may be one.
    fn launch(&self, gpu: Gpu<'_>, x: Input<'_>, y: Arg<'_>, y_strides: [usize; 3]) -> Result<()> {
        with_inputs(Self::NAME, [&self.cos, &self.sin], |[cos, sin]| {
            let [batch, n1, n2, d] = *x.dims() else { bail!("rope: wants 4 dimensions, got {:?}", x.dims()) };
            let sort = |s: [usize; 3]| if self.order.thd { [s[0], s[2], s[1]] } else { s };
            let [_, heads, positions] = sort([batch, n1, n2]);
            let strides = sort([x.stride()[0], x.stride()[1], x.stride()[2]]);
            let half = cos.dims()[cos.dims().len() - 1];
            let vec = vec(x.dtype(), &[cos]);
            let mut lengths = strides.into_iter().chain(y_strides).chain([half, d]);
            let aligned = [x, cos, sin].iter().all(Input::at_16) && lengths.all(|n| n % vec == 0);
            let units = half.div_ceil(vec) + (d - 2 * half).div_ceil(vec);
            let launch = Launch {
                unit: &UNIT,
                entry: "rope",
                types: &[("T", x.dtype()), ("C", cos.dtype())],
                defines: &[
                    ("VEC", vec as i64),
                    ("ALIGNED", if aligned { 2 } else { 0 }),
                    ("INTERLEAVED", self.order.interleaved as i64),
                ],
                groups: [(positions * units).div_ceil(THREADS), heads, batch],
                threads: THREADS,
                shared: 0,
            };
            let params = Params {
                positions: positions as u32,
                heads: heads as u32,
                half: half as u32,
                rest: (d - 2 * half) as u32,
                table: if cos.dims().len() == 3 { positions as u64 } else { 0 },
                x: strides.map(|n| n as u64),
                y: sort(y_strides).map(|n| n as u64),
                sign: if self.back { -1.0 } else { 1.0 },
                unused: 0,
            };
            gpu.launch(&launch, &mut [x.into(), cos.into(), sin.into(), y], &params)
        })
    }
}

const fn spec(
    name: &'static str,
    reference: fn(&[Tensor]) -> Result<Tensor>,
    fused: fn(&[Tensor]) -> Result<Tensor>,
    cases: &'static [super::Case],
) -> Spec {
    Spec { name, reference, fused, trainable: &[0], cases }
}

pub(super) const ROPE: Spec = spec(
    "rope",
    |t| reference(&t[0], &t[1], &t[2], Order { interleaved: false, thd: false }),
    |t| rope(&t[0], &t[1], &t[2]),
    &[
        &[&[1, 1, 1, 2], &[1, 1], &[1, 1]],
        &[&[2, 3, 5, 66], &[7, 33], &[7, 33]],
        &[&[1, 8, 512, 64], &[512, 32], &[512, 32]],
    ],
);

pub(super) const ROPE_I: Spec = spec(
    "rope_i",
    |t| reference(&t[0], &t[1], &t[2], Order { interleaved: true, thd: false }),
    |t| rope_i(&t[0], &t[1], &t[2]),
    &[&[&[1, 1, 1, 2], &[1, 1], &[1, 1]], &[&[2, 3, 5, 66], &[5, 33], &[5, 33]]],
);

pub(super) const ROPE_THD: Spec = spec(
    "rope_thd",
    |t| reference(&t[0], &t[1], &t[2], Order { interleaved: false, thd: true }),
    |t| rope_thd(&t[0], &t[1], &t[2]),
    &[&[&[2, 5, 3, 66], &[5, 33], &[5, 33]], &[&[2, 256, 8, 64], &[256, 32], &[256, 32]]],
);
