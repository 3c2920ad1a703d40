//! The CPU's loops: one Rust body compiled for each SIMD level, reductions in lanes, and rows in parallel.
//!
//! A body is written as plain loops that LLVM turns into SIMD code; [`simd!`] compiles it for AVX-512,
//! for AVX2 and for the build's own target, and picks one when it is called.

use super::element::{Element, exp};
use candle_core::WithDType;
use rayon::prelude::*;
use std::sync::OnceLock;

/// What the CPU can do, beyond what the build assumes.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // other CPUs have one level
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Simd {
    /// The build's target alone.
    Base,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

/// The level of this CPU, found once. `METAL_CANDLE_SIMD=base` or `avx2` stays below it, for tests of the others.
#[inline]
pub(crate) fn simd_level() -> Simd {
    static LEVEL: OnceLock<Simd> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let limit = std::env::var("METAL_CANDLE_SIMD").unwrap_or_default();
            if limit == "base" {
                return Simd::Base;
            }
            if limit != "avx2"
                && has!("avx512f")
                && has!("avx512bw")
                && has!("avx512dq")
                && has!("avx512vl")
                && has!("fma")
                && has!("bmi2")
            {
                return Simd::Avx512;
            }
            if has!("avx2") && has!("fma") && has!("bmi2") {
                return Simd::Avx2;
            }
        }
        Simd::Base
    })
}

/// The instructions the ops' loops use on this CPU: `"AVX-512"`, `"AVX2"`, or the name of the build's own target.
pub fn simd_name() -> &'static str {
    match simd_level() {
        Simd::Avx512 => "AVX-512",
        Simd::Avx2 => "AVX2",
        Simd::Base if cfg!(target_arch = "aarch64") => "NEON",
        Simd::Base => "SSE2",
    }
}

/// Defines functions whose body is compiled once for each SIMD level.
macro_rules! simd {
    ($($(#[$meta:meta])* fn $name:ident<$($T:ident),*>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $name<$($T: $crate::kernels::element::Element),*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$($T: $crate::kernels::element::Element),*>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,bmi2")]
                fn avx512<$($T: $crate::kernels::element::Element),*>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma,bmi2")]
                fn avx2<$($T: $crate::kernels::element::Element),*>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::kernels::cpu::simd_level() {
                    // SAFETY: `simd_level` saw these features on this CPU.
                    $crate::kernels::cpu::Simd::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::cpu::Simd::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::cpu::Simd::Base => {}
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use simd;

/// Partial results of a reduction: enough to keep two 512-bit units busy.
pub(crate) const LANES: usize = 64;

/// The sum of `LANES` partial sums, in a fixed order.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum(f(i))` for `i` in `0..n`, in lanes.
#[inline(always)]
pub(crate) fn sum_by(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(i + lane);
        }
        i += LANES;
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(n - whole) {
        *sum += f(whole + lane);
    }
    sum_lanes(lanes)
}

/// The largest of `row`, `-inf` when it is empty. NaN elements are passed over.
#[inline(always)]
pub(crate) fn max<T: Element>(row: &[T]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (best, v) in lanes.iter_mut().zip(chunk) {
            let v = v.to_f32();
            *best = if v > *best { v } else { *best };
        }
    }
    for (best, v) in lanes.iter_mut().zip(tail) {
        let v = v.to_f32();
        *best = if v > *best { v } else { *best };
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

/// `out = e^(row - shift)`, and its sum.
#[inline(always)]
pub(crate) fn exp_sum<T: Element>(row: &[T], shift: f32, out: &mut [f32]) -> f32 {
    let out = &mut out[..row.len()];
    let mut lanes = [0f32; LANES];
    let whole = row.len() - row.len() % LANES;
    for (out, row) in out[..whole].chunks_exact_mut(LANES).zip(row[..whole].chunks_exact(LANES)) {
        for l in 0..LANES {
            let e = exp(row[l].to_f32() - shift);
            out[l] = e;
            lanes[l] += e;
        }
    }
    for ((o, v), sum) in out[whole..].iter_mut().zip(&row[whole..]).zip(&mut lanes) {
        *o = exp(v.to_f32() - shift);
        *sum += *o;
    }
    sum_lanes(lanes)
}

/// [`exp_sum`] of a row into itself.
#[inline(always)]
pub(crate) fn exp_sum_in_place(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (v, sum) in chunk.iter_mut().zip(&mut lanes) {
            *v = exp(*v - shift);
            *sum += *v;
        }
    }
    for (v, sum) in chunks.into_remainder().iter_mut().zip(&mut lanes) {
        *v = exp(*v - shift);
        *sum += *v;
    }
    sum_lanes(lanes)
}

/// A vector of `n` elements for a kernel to fill.
///
/// Its content is arbitrary until then: zeroing would cost one more pass over memory that is about to be
/// written whole.
#[allow(clippy::uninit_vec)]
pub(crate) fn uninit<T: WithDType>(n: usize) -> Vec<T> {
    let mut v = Vec::with_capacity(n);
    // SAFETY: the elements are plain numbers, for which every bit pattern is a value, and every caller
    // writes all of them before one is read.
    unsafe { v.set_len(n) };
    v
}

/// Runs `f` on a thread of rayon's pool: from outside, each parallel loop in it would be handed over and waited for.
pub(crate) fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Below this many elements a second thread costs more than it saves.
const PARALLEL: usize = 16 * 1024;

/// How many rows one task takes, so that each thread gets a few tasks.
pub(crate) fn rows_per_task(rows: usize, cost: usize) -> usize {
    if rows.saturating_mul(cost) < PARALLEL {
        return rows.max(1);
    }
    rows.div_ceil(4 * rayon::current_num_threads()).max(1)
}

/// Calls `f(first_row, rows)` for runs of rows of `out`, in parallel when there is enough to do.
pub(crate) fn par_rows<T: Send>(out: &mut [T], cols: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() || cols == 0 {
        return;
    }
    let run = rows_per_task(out.len() / cols, cols);
    if run * cols >= out.len() {
        return f(0, out);
    }
    out.par_chunks_mut(run * cols).enumerate().for_each(|(i, rows)| f(i * run, rows));
}

/// [`par_rows`] over two outputs with as many rows.
pub(crate) fn par_rows2<T: Send, U: Send>(
    (a, a_cols): (&mut [T], usize),
    (b, b_cols): (&mut [U], usize),
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if a.is_empty() {
        return;
    }
    let run = rows_per_task(a.len() / a_cols, a_cols);
    if run * a_cols >= a.len() {
        return f(0, a, b);
    }
    a.par_chunks_mut(run * a_cols)
        .zip(b.par_chunks_mut(run * b_cols))
        .enumerate()
        .for_each(|(i, (a, b))| f(i * run, a, b));
}

/// `f(first_row, end_row)` for runs of rows, its results added up in the order of the rows.
pub(crate) fn par_sum_rows(
    rows: usize,
    cost: usize,
    width: usize,
    f: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let run = rows_per_task(rows, cost);
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(run))
        .into_par_iter()
        .map(|i| {
            let mut sum = vec![0f32; width];
            f(i * run, rows.min((i + 1) * run), &mut sum);
            sum
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_else(|| vec![0f32; width]);
    for part in parts {
        for (t, p) in total.iter_mut().zip(&part) {
            *t += p;
        }
    }
    total
}

simd! {
    fn widen_row<T>(x: &[T], out: &mut [f32]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o = v.to_f32();
        }
    }

    fn narrow_row<T>(x: &[f32], out: &mut [T]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o = T::from_f32(*v);
        }
    }
}

/// Whether this CPU converts elements `T`, which plain loops convert by integer arithmetic, by an instruction.
pub(crate) fn converts<T: Element>() -> bool {
    #[cfg(target_arch = "x86_64")]
    return T::DTYPE == candle_core::DType::F16 && super::halves::available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Widens a row.
pub(crate) fn widen<T: Element>(x: &[T], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if converts::<T>() {
        return super::halves::widen(same(x), out);
    }
    widen_row(x, out)
}

/// Narrows a row.
pub(crate) fn narrow<T: Element>(x: &[f32], out: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if converts::<T>() {
        return super::halves::narrow(x, same_mut(out));
    }
    narrow_row(x, out)
}

/// `f(x, y)` for each row, where `f` is of `f32` and `T` is converted by an instruction.
pub(crate) fn rows_in_f32<T: Element>(x: &[T], y: &mut [T], cols: usize, f: impl Fn(&[f32], &mut [f32])) {
    let (mut wide, mut result) = (uninit(cols), uninit(cols));
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        widen(x, &mut wide);
        f(&wide, &mut result);
        narrow(&result, y);
    }
}

/// The same slice, when `T` and `U` are one type.
pub(super) fn same<T: WithDType, U: WithDType>(x: &[T]) -> &[U] {
    assert_eq!(T::DTYPE, U::DTYPE);
    // SAFETY: equal dtypes are equal types.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// As [`same`].
#[cfg(target_arch = "x86_64")]
fn same_mut<T: WithDType, U: WithDType>(x: &mut [T]) -> &mut [U] {
    assert_eq!(T::DTYPE, U::DTYPE);
    // SAFETY: equal dtypes are equal types.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// `x` in `f32`.
pub(crate) fn to_f32<T: Element>(x: &[T]) -> Vec<f32> {
    let mut out = uninit(x.len());
    widen_all(x, &mut out);
    out
}

/// [`widen`], in parallel.
pub(crate) fn widen_all<T: Element>(x: &[T], out: &mut [f32]) {
    const RUN: usize = 16 * 1024;
    out.par_chunks_mut(RUN).zip(x.par_chunks(RUN)).for_each(|(o, x)| widen(x, o));
}

/// [`narrow`], in parallel.
pub(crate) fn narrow_all<T: Element>(x: &[f32]) -> Vec<T> {
    const RUN: usize = 16 * 1024;
    let mut out = uninit(x.len());
    out.par_chunks_mut(RUN).zip(x.par_chunks(RUN)).for_each(|(o, x)| narrow(x, o));
    out
}
