//! Scaled dot-product attention, `softmax(s q kᵀ + mask) v`, in memory linear in the length.
//!
//! Keys are visited in tiles with a running maximum and sum (Dao et al., [FlashAttention](https://arxiv.org/abs/2205.14135));
//! backward recomputes each tile from the row's maximum and sum: `dv = pᵀ g`, `dp = g vᵀ`, `ds = p (dp - sum(g y))`,
//! `dq = s ds k`, `dk = s dsᵀ q`. Every mask here is a range of keys for each query, so that tiles outside it are
//! skipped. A query that sees no key gives zeros. Computed in `f32`. With a soft cap `c`, scores are
//! `c tanh(s q kᵀ / c)`.

mod backward;
#[cfg(any(feature = "cuda", all(test, feature = "host")))]
pub(super) mod cuda;
mod forward;
#[cfg(any(feature = "metal", feature = "host"))]
mod metal;

use super::Spec;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::group_memory;
use crate::kernels::element::Element;
use crate::kernels::gemm::Mat;
#[cfg(any(feature = "cuda", feature = "metal", feature = "host"))]
use crate::kernels::gpu::{Buffer, Gpu};
#[cfg(any(feature = "metal", feature = "host"))]
use crate::kernels::tape::tracked;
use crate::kernels::tape::{apply3_strided, contiguous};
use crate::kernels::{FusedOp, Input, cpu, for_dtype, with_inputs};
#[cfg(any(feature = "cuda", feature = "metal", feature = "host"))]
use candle_core::Error;
use candle_core::{CpuStorage, D, DType, Result, Shape, Tensor, bail};

use std::sync::{Arc, OnceLock};

/// Which keys a query may see, beside causality and the window.
#[derive(Clone, Debug, Default)]
pub enum Keys {
    /// All of them.
    #[default]
    All,
    /// For each batch row, the first valid key and the one after the last: padding on either side.
    Rows(Arc<[(u32, u32)]>),
    /// Packed documents: for each batch row and key position, `B * Tk` in all, the first position of its document.
    Documents(Arc<[u32]>),
    /// [`Keys::Rows`] that are in the device's memory, (B, 2) of `u32`, for one query a row: it stands at the last of
    /// its keys, which causality and the window count from. What is beyond `Tk` is not seen.
    OnDevice(Tensor),
}

/// Options of [`attention`].
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// The factor `s` of the scores, commonly `1 / sqrt(D)`.
    pub scale: f32,
    /// A query sees no key after its own position.
    pub causal: bool,
    /// A query sees this many keys at most, its own the last of them.
    pub window: Option<usize>,
    /// The soft cap `c` of the scores.
    pub softcap: Option<f32>,
    /// Padding or packing.
    pub keys: Keys,
}

/// Attention of `q` `(B, H, Tq, D)` over `k` and `v` `(B, Hkv, Tk, D)`, `H` a multiple of `Hkv`: `(B, H, Tq, D)`.
///
/// Query `i` stands at key position `Tk - Tq + i`, as with a cache.
///
/// # Errors
///
/// When the shapes or dtypes do not fit, or a mask has the wrong length.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
    apply(q, k, v, options, false)
}

/// [`attention`] over `(B, T, H, D)` tensors, as projections make them.
///
/// # Errors
///
/// As [`attention`].
pub fn attention_thd(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
    apply(q, k, v, options, true)
}

fn apply(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention, thd: bool) -> Result<Tensor> {
    let shape = Dims::new(q.dims(), k.dims(), thd)?;
    if v.dims() != k.dims() || q.dtype() != k.dtype() || k.dtype() != v.dtype() {
        bail!(
            "attention: wants q, k, v of one dtype, and v of k's shape {:?}, got {:?}, {:?} {:?}, {:?} {:?}",
            k.dims(),
            q.dtype(),
            k.dims(),
            k.dtype(),
            v.dims(),
            v.dtype()
        )
    }
    options.check_keys(&shape)?;
    if let Keys::OnDevice(ranges) = &options.keys
        && !q.device().is_cuda()
    {
        return apply(q, k, v, &options.read_back(ranges)?, thd);
    }
    if (options.causal || options.window.is_some()) && shape.tq > shape.tk {
        bail!(
            "attention: wants no more queries than keys with a causal mask, got {} and {}",
            shape.tq,
            shape.tk
        )
    }
    let rows = |t: &Tensor| {
        if t.stride().last() == Some(&1) || t.dim(D::Minus1)? == 1 { Ok(t.clone()) } else { contiguous(t) }
    };
    let op = Op {
        options: options.clone(),
        thd,
        stats: OnceLock::new(),
        #[cfg(any(feature = "metal", feature = "host"))]
        trained: [q, k, v].into_iter().any(tracked),
        #[cfg(any(feature = "metal", feature = "host"))]
        gpu_stats: OnceLock::new(),
        #[cfg(feature = "cuda")]
        saved: OnceLock::new(),
    };
    apply3_strided(op, &rows(q)?, &rows(k)?, &rows(v)?)
}

/// The sizes of one attention.
#[derive(Clone, Copy, Debug)]
struct Dims {
    b: usize,
    h: usize,
    hkv: usize,
    tq: usize,
    tk: usize,
    d: usize,
}

impl Dims {
    fn new(q: &[usize], k: &[usize], thd: bool) -> Result<Self> {
        if let ([b, q1, q2, d], [bk, k1, k2, dk]) = (q, k) {
            let ((h, tq), (hkv, tk)) = if thd { ((*q2, *q1), (*k2, *k1)) } else { ((*q1, *q2), (*k1, *k2)) };
            if b == bk && d == dk && hkv > 0 && h % hkv == 0 && tk > 0 && *d > 0 {
                return Ok(Dims { b: *b, h, hkv, tq, tk, d: *d });
            }
        }
        let layout = if thd { "(B, T, H, D)" } else { "(B, H, T, D)" };
        bail!("attention: wants q and k {layout} with heads of q a multiple of k's, got {q:?} and {k:?}")
    }

    /// Heads of `q` for each head of `k`.
    fn group(&self) -> usize {
        self.h / self.hkv
    }
}

impl Attention {
    /// Refuses heads (B, T, H, D) and keys that do not fit.
    #[cfg(feature = "cuda")]
    pub(super) fn check(&self, q: &Tensor, k: &Tensor) -> Result<()> {
        self.check_keys(&Dims::new(q.dims(), k.dims(), true)?)
    }

    /// Refuses keys that do not fit.
    fn check_keys(&self, shape: &Dims) -> Result<()> {
        match &self.keys {
            Keys::Rows(rows) if rows.len() != shape.b => {
                bail!("attention: wants a range of keys for each of {} rows, got {}", shape.b, rows.len())
            }
            Keys::Documents(starts) if starts.len() != shape.b * shape.tk || !self.causal => {
                bail!(
                    "attention: wants causal attention and {} document starts, got {}",
                    shape.b * shape.tk,
                    starts.len()
                )
            }
            Keys::OnDevice(ranges)
                if ranges.dims() != [shape.b, 2] || ranges.dtype() != DType::U32 || shape.tq != 1 =>
            {
                bail!(
                    "attention: wants one query and ({}, 2) ranges of u32 on the device, got {} and {:?}",
                    shape.b,
                    shape.tq,
                    ranges.dims()
                )
            }
            _ => {}
        }
        Ok(())
    }

    /// The same with ranges of keys on the host, for one query a row.
    fn read_back(&self, ranges: &Tensor) -> Result<Self> {
        let row = |range: &Vec<u32>| {
            let from = self.window.map_or(0, |window| range[1].saturating_sub(window as u32));
            (range[0].max(from), range[1])
        };
        let keys = Keys::Rows(ranges.to_vec2::<u32>()?.iter().map(row).collect());
        Ok(Attention { causal: false, window: None, keys, ..self.clone() })
    }

    /// The keys `[from, to)` that query `i` of batch row `b` sees.
    fn visible(&self, dims: &Dims, b: usize, i: usize) -> (usize, usize) {
        let position = (dims.tk + i).saturating_sub(dims.tq);
        let (mut from, mut to) = (0, dims.tk);
        if self.causal {
            to = position + 1;
        }
        if let Some(window) = self.window {
            from = (position + 1).saturating_sub(window);
        }
        match &self.keys {
            // On the device means on a GPU, whose kernels read them.
            Keys::All | Keys::OnDevice(_) => {}
            Keys::Rows(rows) => {
                from = from.max(rows[b].0 as usize);
                to = to.min(rows[b].1 as usize);
            }
            Keys::Documents(starts) => from = from.max(starts[b * dims.tk + position] as usize),
        }
        let from = from.min(dims.tk);
        (from, to.max(from))
    }
}

/// A tensor as `(B, H, T)` rows of `D`, wherever they lie.
#[derive(Clone, Copy)]
struct Heads<'a, T> {
    data: &'a [T],
    strides: [usize; 3],
    d: usize,
}

impl<'a, T: Element> Heads<'a, T> {
    fn new(x: Input<'a>, thd: bool) -> Result<Self> {
        let (s, dims) = (x.stride(), x.dims());
        let strides = if thd { [s[0], s[2], s[1]] } else { [s[0], s[1], s[2]] };
        Ok(Heads { data: x.strided::<T>()?, strides, d: dims[3] })
    }

    fn row(&self, b: usize, h: usize, t: usize) -> &'a [T] {
        &self.data[b * self.strides[0] + h * self.strides[1] + t * self.strides[2]..][..self.d]
    }

    /// One head's rows from `t` on, `(T, D)`.
    fn rows(&self, b: usize, h: usize, t: usize) -> Mat<'a, T> {
        let at = b * self.strides[0] + h * self.strides[1] + t * self.strides[2];
        Mat { data: &self.data[at..], rs: self.strides[2], cs: 1 }
    }
}

/// `(B, H, T, D)` in `f32` as a tensor's elements, in its layout.
fn narrow_heads<T: Element>(x: &[f32], b: usize, h: usize, t: usize, d: usize, thd: bool) -> Vec<T> {
    let mut out = cpu::uninit::<T>(b * h * t * d);
    cpu::par_rows(&mut out, d, |first, rows| {
        for (i, out) in rows.chunks_exact_mut(d).enumerate() {
            let row = first + i;
            let from = match thd {
                true => (row / (t * h) * h + row % h) * t + row / h % t,
                false => row,
            };
            cpu::narrow(&x[from * d..][..d], out);
        }
    });
    out
}

/// What makes a query's scores probabilities: `p = e^(s - max) inverse_sum`. Kept apart, as their logsumexp would
/// lose the digits that a large maximum takes.
#[derive(Clone, Copy, Debug, Default)]
struct RowStats {
    max: f32,
    /// 0 where the query sees no key.
    inverse_sum: f32,
}

impl RowStats {
    fn new(max: f32, sum: f32) -> Self {
        if sum == 0.0 { RowStats::default() } else { RowStats { max, inverse_sum: 1.0 / sum } }
    }
}

struct Op {
    options: Attention,
    thd: bool,
    /// Of each query's scores, `(B, H, Tq)`.
    stats: OnceLock<Vec<RowStats>>,
    /// Whether backward will come: it must find the very scores of the forward pass.
    #[cfg(any(feature = "metal", feature = "host"))]
    trained: bool,
    /// The same on a GPU, `(B, H, Tq, 2)`.
    #[cfg(any(feature = "metal", feature = "host"))]
    gpu_stats: OnceLock<Buffer>,
    #[cfg(feature = "cuda")]
    saved: OnceLock<cuda::Saved>,
}

impl FusedOp<3> for Op {
    const NAME: &'static str = "attention";
    const IN_POOL: bool = true;

    fn cpu(&self, [q, k, v]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        let dims = Dims::new(q.dims(), k.dims(), self.thd)?;
        for_dtype!(Self::NAME, q.dtype(), T => {
            let [qh, kh, vh] = [Heads::<T>::new(q, self.thd)?, Heads::new(k, self.thd)?, Heads::new(v, self.thd)?];
            let (y, stats) = match dims.tq {
                1..=4 => forward::few_queries(&self.options, &dims, qh, kh, vh),
                _ => forward::tiled(&self.options, &dims, qh, kh, vh),
            };
            self.stats.set(stats).ok();
            Ok((super::storage(narrow_heads::<T>(&y, dims.b, dims.h, dims.tq, dims.d, self.thd)), q.shape()))
        })
    }

    #[cfg(any(feature = "cuda", feature = "metal", feature = "host"))]
    fn gpu(&self, gpu: Gpu<'_>, inputs: [Input<'_>; 3]) -> Result<Buffer> {
        match gpu {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => {
                let limit = group_memory(device);
                let (y, saved) = cuda::forward(gpu, limit, &self.options, inputs, self.thd)?;
                self.saved.set(saved).ok();
                Ok(y)
            }
            #[cfg(any(feature = "metal", feature = "host"))]
            _ => {
                let dims = Dims::new(inputs[0].dims(), inputs[1].dims(), self.thd)?;
                let (y, stats) =
                    metal::Call::new(gpu, &self.options, dims, self.thd, inputs)?.forward(self.trained)?;
                self.gpu_stats.set(stats).ok();
                Ok(y)
            }
            #[cfg(not(any(feature = "metal", feature = "host")))]
            Gpu::None(never, _) => match never {},
        }
    }

    #[cfg(any(feature = "cuda", feature = "metal", feature = "host"))]
    fn gpu_grad(
        &self,
        gpu: Gpu<'_>,
        [q, k, v]: [&Tensor; 3],
        y: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let early = || Error::Msg("attention: backward before forward".into());
        match gpu {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => {
                let saved = self.saved.get().ok_or_else(early)?;
                with_inputs(Self::NAME, [q, k, v, y, g], |inputs| {
                    let limit = group_memory(device);
                    cuda::backward(gpu, limit, &self.options, inputs, saved, self.thd, needs)
                })
            }
            #[cfg(any(feature = "metal", feature = "host"))]
            _ => {
                let dims = Dims::new(q.dims(), k.dims(), self.thd)?;
                let stats = self.gpu_stats.get().ok_or_else(early)?;
                with_inputs(Self::NAME, [q, k, v, y, g], |[q, k, v, y, g]| {
                    metal::Call::new(gpu, &self.options, dims, self.thd, [q, k, v])?
                        .gradients(y, g, stats, needs)
                })
            }
            #[cfg(not(any(feature = "metal", feature = "host")))]
            Gpu::None(never, _) => match never {},
        }
    }

    fn cpu_grad(
        &self,
        [q, k, v]: [&Tensor; 3],
        y: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let dims = Dims::new(q.dims(), k.dims(), self.thd)?;
        let Some(stats) = self.stats.get() else { bail!("attention: backward before forward") };
        with_inputs(Self::NAME, [q, k, v, y, g], |inputs| {
            for_dtype!(Self::NAME, q.dtype(), T => {
                let mut heads = Vec::with_capacity(5);
                for x in inputs {
                    heads.push(Heads::<T>::new(x, self.thd)?);
                }
                let Dims { b, h, hkv, tq, tk, d } = dims;
                let (dq, dk, dv) = backward::gradients(&self.options, &dims, &heads, stats);
                let grad = |i: usize, data: &[f32], h: usize, len: usize| {
                    let t = [q, k, v][i];
                    let data = needs[i].then(|| narrow_heads::<T>(data, b, h, len, d, self.thd));
                    data.map(|data| super::tensor(data, t.shape(), t.device())).transpose()
                };
                Ok([grad(0, &dq, h, tq)?, grad(1, &dk, hkv, tk)?, grad(2, &dv, hkv, tk)?])
            })
        })
    }
}

/// Whole scores with an additive mask, in plain Candle ops.
fn reference(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
    let dims = Dims::new(q.dims(), k.dims(), false)?;
    let repeat = |t: &Tensor| {
        let (b, h, len, d) = t.dims4()?;
        t.unsqueeze(2)?.expand((b, h, dims.group(), len, d))?.reshape((b, h * dims.group(), len, d))
    };
    let (k, v) = (repeat(k)?, repeat(v)?);
    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? * options.scale as f64)?;
    let mut scores = super::wide(&scores)?;
    if let Some(cap) = options.softcap {
        scores = ((scores / cap as f64)?.tanh()? * cap as f64)?;
    }
    let mask = (0..dims.b).flat_map(|b| {
        (0..dims.tq).flat_map(move |i| {
            let (from, to) = options.visible(&dims, b, i);
            (0..dims.tk).map(move |j| if (from..to).contains(&j) { 0f32 } else { f32::NEG_INFINITY })
        })
    });
    let mask = Tensor::from_iter(mask, q.device())?
        .reshape((dims.b, 1, dims.tq, dims.tk))?
        .to_dtype(scores.dtype())?;
    let scores = scores.broadcast_add(&mask)?;
    let e = scores.broadcast_sub(&scores.max_keepdim(3)?.detach())?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(3)?)?.to_dtype(q.dtype())?;
    p.matmul(&v.contiguous()?)
}

fn causal() -> Attention {
    Attention { scale: 0.3, causal: true, ..Default::default() }
}

fn window() -> Attention {
    Attention { window: Some(7), softcap: Some(2.0), ..causal() }
}

fn full() -> Attention {
    Attention { causal: false, ..causal() }
}

const fn spec(
    name: &'static str,
    reference: fn(&[Tensor]) -> Result<Tensor>,
    fused: fn(&[Tensor]) -> Result<Tensor>,
) -> Spec {
    Spec { name, reference, fused, trainable: &[0, 1, 2], cases: CASES }
}

const CASES: &[super::Case] = &[
    &[&[1, 1, 1, 1], &[1, 1, 1, 1], &[1, 1, 1, 1]],
    &[&[2, 4, 31, 33], &[2, 2, 31, 33], &[2, 2, 31, 33]],
    &[&[1, 2, 3, 64], &[1, 1, 70, 64], &[1, 1, 70, 64]],
    &[&[1, 3, 150, 64], &[1, 3, 200, 64], &[1, 3, 200, 64]],
    // Other tiles on a GPU, and keys split over groups.
    &[&[1, 2, 70, 128], &[1, 1, 70, 128], &[1, 1, 70, 128]],
    &[&[1, 1, 40, 256], &[1, 1, 40, 256], &[1, 1, 40, 256]],
    &[&[1, 2, 1, 80], &[1, 1, 600, 80], &[1, 1, 600, 80]],
];

pub(super) const CAUSAL: Spec = spec(
    "attention_causal",
    |t| reference(&t[0], &t[1], &t[2], &causal()),
    |t| attention(&t[0], &t[1], &t[2], &causal()),
);

pub(super) const WINDOW: Spec = spec(
    "attention_window_softcap",
    |t| reference(&t[0], &t[1], &t[2], &window()),
    |t| attention(&t[0], &t[1], &t[2], &window()),
);

pub(super) const FULL: Spec = spec(
    "attention_full",
    |t| reference(&t[0], &t[1], &t[2], &full()),
    |t| attention(&t[0], &t[1], &t[2], &full()),
);
