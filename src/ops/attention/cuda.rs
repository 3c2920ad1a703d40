//! Attention on a CUDA GPU: which kernels run, and with what.

mod backward;
mod tiles;

use self::tiles::Tiles;
use super::{Attention, Dims, Keys};
use crate::kernels::gpu::{Arg, Buffer, Gpu, Launch, Unit};
use crate::kernels::{Held, Input};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

pub(in crate::ops) use self::backward::backward;
#[cfg(feature = "cuda")]
pub(in crate::ops) use self::backward::backward_into;

/// A unit of the shared part, maybe the tiles, and the kernels.
macro_rules! unit {
    ($name:literal $(, $part:literal)*) => {
        Unit {
            name: $name,
            text: concat!(
                include_str!("../attention.cuda.h"),
                $("\n#line 1 \"", $part, "\"\n", include_str!($part),)*
                "\n#line 1 \"", $name, "\"\n",
                include_str!($name)
            ),
            fast_math: false,
        }
    };
}
static FORWARD: Unit = unit!("forward.cuda.h", "tiles.cuda.h");
static FEW: Unit = unit!("few.cuda.h", "tiles.cuda.h");
static BACKWARD: Unit = unit!("backward.cuda.h", "tiles.cuda.h");
static COMBINE: Unit =
    Unit { name: "attention.cuda.h", text: include_str!("../attention.cuda.h"), fast_math: false };
static SINGLE: Unit = unit!("single.cuda.h");

/// `Attention` of `attention.cuda.h`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    q: [u64; 3],
    k: [u64; 3],
    v: [u64; 3],
    y: [u64; 3],
    dq: [u64; 3],
    dk: [u64; 3],
    batch: i32,
    heads: i32,
    kv_heads: i32,
    tq: i32,
    tk: i32,
    scale: f32,
    softcap: f32,
    causal: i32,
    window: i32,
    mask: i32,
    splits: i32,
    pad: i32,
}

/// What backward needs of forward: statistics of each query, `(B, H, Tq, 2)`, and the mask.
pub(in super::super) struct Saved {
    stats: Buffer,
    mask: Option<Tensor>,
}

const OP: &str = "attention";

/// One attention on one GPU.
struct Call<'a> {
    gpu: Gpu<'a>,
    dims: Dims,
    dtype: DType,
    /// Whether rows lie at multiples of 16 bytes.
    aligned: bool,
    params: Params,
}

/// Strides of batch row, head and position.
fn strides(x: Input<'_>, thd: bool) -> [u64; 3] {
    let s = x.stride();
    let [b, h, t] = if thd { [s[0], s[2], s[1]] } else { [s[0], s[1], s[2]] };
    [b as u64, h as u64, t as u64]
}

/// Whether every row of `x` begins at a multiple of 16 bytes and is whole in them.
fn aligned(x: Input<'_>) -> bool {
    let whole = |n: usize| (n * x.dtype().size_in_bytes()).is_multiple_of(16);
    let (dims, strides) = (x.dims(), x.stride());
    x.first_byte().is_multiple_of(16) && whole(dims[3]) && (0..3).all(|i| dims[i] == 1 || whole(strides[i]))
}

impl<'a> Call<'a> {
    /// `others` lie in memory as `y`, the shape of `q`, does.
    fn new(
        gpu: Gpu<'a>,
        options: &Attention,
        [q, k, v]: [Input<'_>; 3],
        others: &[Input<'_>],
        thd: bool,
    ) -> Result<Self> {
        let dims = Dims::new(q.dims(), k.dims(), thd)?;
        let (dtype, d) = (q.dtype(), dims.d);
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) || d > 256 {
            bail!(
                "attention: wants f32, f16 or bf16 and heads of at most 256 on a GPU, got {dtype:?} and {d}"
            )
        }
        // Of a contiguous tensor, in either layout.
        let dense = |h: usize, t: usize| match thd {
            true => [t * h * d, d, h * d].map(|n| n as u64),
            false => [h * t * d, t * d, d].map(|n| n as u64),
        };
        let params = Params {
            q: strides(q, thd),
            k: strides(k, thd),
            v: strides(v, thd),
            y: dense(dims.h, dims.tq),
            dq: dense(dims.h, dims.tq),
            dk: dense(dims.hkv, dims.tk),
            batch: dims.b as i32,
            heads: dims.h as i32,
            kv_heads: dims.hkv as i32,
            tq: dims.tq as i32,
            tk: dims.tk as i32,
            scale: options.scale,
            softcap: options.softcap.unwrap_or(0.0),
            causal: options.causal as i32,
            window: options.window.map_or(-1, |w| w.min(dims.tk) as i32),
            mask: match options.keys {
                Keys::All => 0,
                Keys::Rows(_) => 1,
                Keys::Documents(_) => 2,
                Keys::OnDevice(_) => 3,
            },
            splits: 1,
            pad: 0,
        };
        let aligned = [q, k, v].iter().chain(others).all(|x| aligned(*x));
        Ok(Call { gpu, dims, dtype, aligned, params })
    }

    /// The head size in shared memory of the kernels for half precision.
    fn padded(&self) -> usize {
        self.dims.d.next_multiple_of(16)
    }

    fn launch(
        &self,
        unit: &'static Unit,
        entry: &'static str,
        constants: &[(&'static str, i64)],
        (groups, threads, shared): (usize, usize, usize),
        args: &mut [Arg<'_>],
    ) -> Result<()> {
        let Params { scale, softcap, .. } = self.params;
        let mut defines = vec![
            ("D", self.dims.d as i64),
            ("BF16", (self.dtype == DType::BF16) as i64),
            ("F16", (self.dtype == DType::F16) as i64),
            ("ALIGNED", self.aligned as i64),
            ("CAPPED", (softcap != 0.0 || scale <= 0.0) as i64),
        ];
        defines.extend_from_slice(constants);
        let groups = [groups, 1, 1];
        let launch = Launch { unit, entry, types: &[], defines: &defines, groups, threads, shared };
        self.gpu.launch(&launch, args, &self.params)
    }

    fn buffer(&self, shape: &[usize], dtype: DType) -> Result<Buffer> {
        Buffer::new(self.gpu, shape, dtype)
    }

    /// Forward by a kernel that may split the keys; `blocks` without.
    #[allow(clippy::too_many_arguments, reason = "a launch")]
    fn split(
        &mut self,
        unit: &'static Unit,
        entry: &'static str,
        constants: &[(&'static str, i64)],
        (blocks, threads, shared): (usize, usize, usize),
        [q, k, v]: [Input<'_>; 3],
        mask: Arg<'_>,
        (y, stats): (&mut Buffer, &mut Buffer),
    ) -> Result<()> {
        let Dims { b, h, tq, tk, d, .. } = self.dims;
        // Enough blocks for two on a multiprocessor, but not so many that their results take longer than their keys.
        let splits = match tq {
            1..=4 if tk > 512 => {
                (2 * self.gpu.multiprocessors() / blocks.max(1)).min((tk / 512).max(16)).min(tk / 128).max(1)
            }
            _ => 1,
        };
        self.params.splits = splits as i32;
        let grid = (blocks * splits, threads, shared);
        if splits == 1 {
            let args =
                &mut [q.into(), k.into(), v.into(), mask, y.into(), stats.into(), Arg::Null, Arg::Null];
            return self.launch(unit, entry, constants, grid, args);
        }
        let mut parts = self.buffer(&[b * h * tq, splits, d], DType::F32)?;
        let mut part_stats = self.buffer(&[b * h * tq, splits, 2], DType::F32)?;
        let args = &mut [
            q.into(),
            k.into(),
            v.into(),
            mask,
            (&mut *y).into(),
            (&mut *stats).into(),
            (&mut parts).into(),
            (&mut part_stats).into(),
        ];
        self.launch(unit, entry, constants, grid, args)?;
        let (parts, part_stats) = (parts.input(OP), part_stats.input(OP));
        let args = &mut [parts.into(), part_stats.into(), y.into(), stats.into()];
        self.launch(&COMBINE, "attention_combine", &[("COMBINE", 1)], (b * h * tq, 256, 0), args)
    }
}

/// Rows of a tile of the f32 kernels, which hold `count` of them. The sums of 64 long ones pass what registers hold.
fn single_rows(d: usize, count: usize, limit: usize) -> usize {
    let fits = |rows: &usize| (*rows < 64 || d <= 128) && single_shared(d, count, 2, *rows) <= limit;
    [64, 32, 16].into_iter().find(fits).unwrap_or(16)
}

/// Bytes of `count` tiles and `weights` tiles of scores.
fn single_shared(d: usize, count: usize, weights: usize, rows: usize) -> usize {
    4 * rows * (count * (d.next_multiple_of(32) + 4) + weights * (rows + 4))
}

/// The mask as the kernels read it: positions up to the number of keys.
fn mask(gpu: Gpu<'_>, options: &Attention, tk: usize) -> Result<Option<Tensor>> {
    let mut positions: Vec<u32> = match &options.keys {
        Keys::All => return Ok(None),
        Keys::OnDevice(ranges) => return Ok(Some(ranges.clone())),
        Keys::Rows(rows) => rows.iter().flat_map(|(from, to)| [*from, *to]).collect(),
        Keys::Documents(starts) => starts.to_vec(),
    };
    positions.iter_mut().for_each(|p| *p = (*p).min(tk as u32));
    Ok(Some(Tensor::from_slice(&positions, positions.len(), &gpu.device())?))
}

/// The output, and what backward needs. A group has `limit` bytes of memory.
pub(in super::super) fn forward(
    gpu: Gpu<'_>,
    limit: usize,
    options: &Attention,
    inputs: [Input<'_>; 3],
    thd: bool,
) -> Result<(Buffer, Saved)> {
    let mut call = Call::new(gpu, options, inputs, &[], thd)?;
    let Dims { b, h, hkv, tq, tk, d } = call.dims;
    let mut y = call.buffer(inputs[0].dims(), call.dtype)?;
    let mut stats = call.buffer(&[b, h, tq, 2], DType::F32)?;
    let mask = mask(gpu, options, tk)?;
    let held = mask.as_ref().map(Held::new);
    let mask_arg = || Arg::from(held.as_ref().map(|mask| mask.input(OP)));
    let group = call.dims.group() * tq;
    if call.dtype == DType::F32 {
        let rows = if tq <= 4 { 16 } else { single_rows(d, 2, limit) };
        let shape = (group.div_ceil(rows) * b * hkv, 128, single_shared(d, 2, 1, rows));
        let constants = [("TS", rows as i64), ("FORWARD", 1)];
        let entry = "attention_forward";
        call.split(&SINGLE, entry, &constants, shape, inputs, mask_arg(), (&mut y, &mut stats))?;
    } else if tq <= 4 {
        let padded = call.padded();
        let shared = |warps: usize| (16 + 64 * warps) * (padded + 8) * 2;
        let mut warps = if padded <= 64 { 8 } else { 4 };
        while warps > 1 && shared(warps) > limit {
            warps /= 2;
        }
        let shape = (group.div_ceil(16) * b * hkv, 32 * warps, shared(warps));
        let constants = [("WARPS", warps as i64), ("STAGES", 2)];
        call.split(&FEW, "attention_few", &constants, shape, inputs, mask_arg(), (&mut y, &mut stats))?;
    } else {
        let padded = call.padded();
        let tiles = Tiles::forward(padded, limit);
        let shape = (tq.div_ceil(tiles.rows()) * b * h, 32 * tiles.warps, tiles.forward_shared(padded));
        let [q, k, v] = inputs;
        let args = &mut [q.into(), k.into(), v.into(), mask_arg(), (&mut y).into(), (&mut stats).into()];
        call.launch(&FORWARD, "attention_forward", &tiles.defines(), shape, args)?;
    }
    drop(held);
    Ok((y, Saved { stats, mask }))
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::kernels::with_inputs;
    use candle_core::Device;

    /// Group memory of compute capability 8.0, 8.6 and 9.0.
    const LIMITS: [usize; 3] = [162 << 10, 98 << 10, 226 << 10];

    /// Launches forward's and backward's kernels, which are shown instead of run.
    fn show(limit: usize, dtype: DType, tq: usize, d: usize, options: &Attention) -> Result<()> {
        let x = |h: usize, t: usize| Tensor::zeros((1, h, t, d), dtype, &Device::Cpu);
        let (q, kv) = (x(2, tq)?, x(1, 1024)?);
        with_inputs(OP, [&q, &kv, &kv, &q, &q], |[q, k, v, y, g]| {
            let (_, saved) = forward(Gpu::Host, limit, options, [q, k, v], false)?;
            if tq > 4 {
                backward(Gpu::Host, limit, options, [q, k, v, y, g], &saved, false, [true; 3])?;
            }
            Ok(())
        })
    }

    #[test]
    fn every_kernel_is_shown_to_nvrtc() -> Result<()> {
        let plain = Attention { scale: 0.1, causal: true, ..Default::default() };
        let capped = Attention { softcap: Some(2.0), ..plain.clone() };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // Rows of 60 halves are no multiple of 16 bytes; long heads are what memory limits.
            for d in [60, 64, 80, 96, 128, 256] {
                let limits = if d < 256 { 1 } else { LIMITS.len() };
                for limit in &LIMITS[..limits] {
                    show(*limit, dtype, 64, d, &plain)?;
                    show(*limit, dtype, 1, d, &plain)?;
                }
            }
            for tq in [1, 64] {
                show(LIMITS[0], dtype, tq, 64, &capped)?;
            }
        }
        Ok(())
    }
}
