//! The loops over a tile, and over rows for one row.

use super::ahead::Ahead;
use super::{Kind, MR};
use candle_core::{DType, WithDType};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Dot products of `x` with rows of `w`, `stride` apart, both of the kind's element.
pub(in crate::kernels) fn dots<T: WithDType>(kind: Kind, x: &[T], w: &[T], stride: usize, y: &mut [f32]) {
    let Some(last) = y.len().checked_sub(1) else { return };
    assert!(Kind::of(T::DTYPE) == Some(kind) && last * stride + x.len() <= w.len());
    // SAFETY: `Kind::of` has seen the features, and `w` holds a row for each result.
    unsafe {
        match kind {
            Kind::F32 => dots_f32(x.len(), x.as_ptr().cast(), w.as_ptr().cast(), stride, y),
            Kind::Bf16 => dots_bf16(x.len(), x.as_ptr().cast(), w.as_ptr().cast(), stride, y),
        }
    }
}

/// [`dots`] of an `f32` row with rows of `f16`.
pub(in crate::kernels) fn dots_of_halves(x: &[f32], w: &[f16], stride: usize, y: &mut [f32]) {
    let Some(last) = y.len().checked_sub(1) else { return };
    assert!(Kind::packed(DType::F16).is_some() && last * stride + x.len() <= w.len());
    // SAFETY: `Kind::packed` has seen the features, and `w` holds a row for each result.
    unsafe { dots_f16(x.len(), x.as_ptr(), w.as_ptr(), stride, y) }
}

/// How far ahead rows are fetched, in bytes: what memory answers late.
const AHEAD: usize = 16 * 1024;
const LINE: usize = 64;

macro_rules! dots {
    ($name:ident, $feature:literal, $X:ty, $T:ty, $lanes:literal,
     $load_x:expr, $load_x_tail:expr, $load:expr, $load_tail:expr, $fma:expr) => {
        /// A row after the other, as memory is fastest, in four sums.
        #[target_feature(enable = $feature)]
        unsafe fn $name(k: usize, x: *const $X, w: *const $T, stride: usize, y: &mut [f32]) {
            const SUMS: usize = 4;
            const BYTES: usize = $lanes * size_of::<$T>();
            let whole = k - k % (SUMS * $lanes);
            let ahead = (AHEAD / (k * size_of::<$T>()).max(1)).max(1) * stride;
            // SAFETY: whole vectors end before `k`, and masks keep the others inside it.
            unsafe {
                for (j, y) in y.iter_mut().enumerate() {
                    let row = w.add(j * stride);
                    let fetch = |i| _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(ahead + i).cast());
                    let mut sums = [_mm512_setzero_ps(); SUMS];
                    for i in (0..whole).step_by(SUMS * $lanes) {
                        for (s, sum) in sums.iter_mut().enumerate() {
                            let i = i + s * $lanes;
                            if (s * BYTES).is_multiple_of(LINE) {
                                fetch(i);
                            }
                            *sum = $fma(*sum, $load_x(x.add(i)), $load(row.add(i)));
                        }
                    }
                    for (i, sum) in (whole..k).step_by($lanes).zip(&mut sums) {
                        fetch(i);
                        let left = (k - i).min($lanes);
                        *sum = $fma(*sum, $load_x_tail(x.add(i), left), $load_tail(row.add(i), left));
                    }
                    let [a, b, c, d] = sums;
                    *y = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
                }
            }
        }
    };
}

macro_rules! load {
    (f32) => {
        |p: *const f32| _mm512_loadu_ps(p)
    };
    (f16) => {
        |p: *const f16| _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    };
    (bf16) => {
        |p: *const bf16| std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast()))
    };
}
/// The first `n`, and zeros.
macro_rules! load_tail {
    (f32) => {
        |p: *const f32, n: usize| _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, p)
    };
    (f16) => {
        |p: *const f16, n: usize| {
            _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(((1u32 << n) - 1) as u16, p.cast()))
        }
    };
    (bf16) => {
        |p: *const bf16, n: usize| {
            let words = _mm512_maskz_loadu_epi16(((1u64 << n) - 1) as u32, p.cast());
            std::mem::transmute::<__m512i, __m512bh>(words)
        }
    };
}

dots!(
    dots_f32,
    "avx512f,fma",
    f32,
    f32,
    16,
    load!(f32),
    load_tail!(f32),
    load!(f32),
    load_tail!(f32),
    |sum, a, b| { _mm512_fmadd_ps(a, b, sum) }
);
dots!(
    dots_f16,
    "avx512f,avx512bw,avx512vl,fma",
    f32,
    f16,
    16,
    load!(f32),
    load_tail!(f32),
    load!(f16),
    load_tail!(f16),
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
);
dots!(
    dots_bf16,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16",
    bf16,
    bf16,
    32,
    load!(bf16),
    load_tail!(bf16),
    load!(bf16),
    load_tail!(bf16),
    |sum, a, b| _mm512_dpbf16_ps(sum, a, b)
);

/// A panel of rows.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Word after word, of each row.
    Packed(&'a [u32]),
    /// As they lie, each `stride` bytes after the one before.
    Rows { first: *const u32, stride: usize },
}

/// One tile: `acc = a b`, or `acc += a b`, of a panel of rows and one of columns, `words` words along what they share.
pub(super) fn tile<const NV: usize>(
    kind: Kind,
    words: usize,
    a: Left<'_>,
    b: &[u32],
    accumulate: bool,
    acc: &mut [[[f32; 16]; NV]; MR],
    ahead: &mut Ahead,
) {
    let b = b[..words * 16 * NV].as_ptr();
    // SAFETY: `Kind::of` has seen the features; the panels hold `words` words of MR rows and of 16 NV columns.
    unsafe {
        match (kind, a) {
            (Kind::F32, Left::Packed(a)) => {
                let a = a[..words * MR].as_ptr();
                kernel_f32::<NV, true>(words, a, 0, b, accumulate, acc, ahead)
            }
            (Kind::Bf16, Left::Packed(a)) => {
                let a = a[..words * MR].as_ptr();
                kernel_bf16::<NV, true>(words, a, 0, b, accumulate, acc, ahead)
            }
            (Kind::F32, Left::Rows { first, stride }) => {
                kernel_f32::<NV, false>(words, first, stride, b, accumulate, acc, ahead)
            }
            (Kind::Bf16, Left::Rows { first, stride }) => {
                kernel_bf16::<NV, false>(words, first, stride, b, accumulate, acc, ahead)
            }
        }
    }
}

macro_rules! kernel {
    ($name:ident, $feature:literal, $b:ident => $load:expr, $a:ident => $broadcast:expr, $fma:expr) => {
        /// `acc = sum over words of a[word][i] b[word][j]`, on top of `acc` or not.
        #[target_feature(enable = $feature)]
        unsafe fn $name<const NV: usize, const PACKED: bool>(
            words: usize,
            mut a: *const u32,
            stride: usize,
            mut b: *const u32,
            accumulate: bool,
            acc: &mut [[[f32; 16]; NV]; MR],
            ahead: &mut Ahead,
        ) {
            // SAFETY: the caller hands `words` words of MR rows, and packed ones of 16 NV columns.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); NV]; MR];
                if accumulate {
                    for (row, sums) in acc.iter().zip(&mut sums) {
                        for (sum, old) in sums.iter_mut().zip(row) {
                            *sum = _mm512_loadu_ps(old.as_ptr());
                        }
                    }
                }
                for _ in 0..words {
                    ahead.fetch();
                    let mut right = [_mm512_setzero_si512(); NV];
                    for (v, right) in right.iter_mut().enumerate() {
                        *right = _mm512_loadu_si512(b.add(16 * v).cast());
                    }
                    for i in 0..MR {
                        let $a = if PACKED { *a.add(i) } else { a.byte_add(i * stride).read_unaligned() };
                        let left = $broadcast;
                        for v in 0..NV {
                            let $b = right[v];
                            sums[i][v] = $fma(sums[i][v], left, $load);
                        }
                    }
                    a = a.add(if PACKED { MR } else { 1 });
                    b = b.add(16 * NV);
                }
                for (row, sums) in acc.iter_mut().zip(&sums) {
                    for (out, sum) in row.iter_mut().zip(sums) {
                        _mm512_storeu_ps(out.as_mut_ptr(), *sum);
                    }
                }
            }
        }
    };
}

kernel!(
    kernel_f32,
    "avx512f,fma",
    b => _mm512_castsi512_ps(b),
    a => _mm512_set1_ps(f32::from_bits(a)),
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
);
kernel!(
    kernel_bf16,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16",
    b => std::mem::transmute::<__m512i, __m512bh>(b),
    a => std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a as i32)),
    |sum, a, b| _mm512_dpbf16_ps(sum, a, b)
);
