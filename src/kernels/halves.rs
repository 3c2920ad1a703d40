//! `f16` on x86-64 CPUs that widen it by an instruction (F16C): dot products of a row with rows, and sums of rows.

use super::cpu::{Simd, simd_level};
use super::element::Element;
use half::f16;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Whether this CPU has the instructions.
pub(super) fn available() -> bool {
    static F16C: OnceLock<bool> = OnceLock::new();
    *F16C.get_or_init(|| simd_level() >= Simd::Avx2 && is_x86_feature_detected!("f16c"))
}

/// Dot products of `x` with rows of `w`, `stride` apart.
pub(super) fn dots(x: &[f32], w: &[f16], stride: usize, y: &mut [f32]) {
    assert!(available());
    // SAFETY: `available` has seen the features.
    unsafe { dots_of_rows(x, w, stride, y) }
}

/// `y += sum of p[j] v[j]`, the rows of `v` `stride` apart.
pub(super) fn weighted_sum(p: &[f32], v: &[f16], stride: usize, y: &mut [f32]) {
    assert!(available());
    // SAFETY: `available` has seen the features.
    unsafe { sum_of_rows(p, v, stride, y) }
}

/// `x` in `f32`.
pub(super) fn widen(x: &[f16], out: &mut [f32]) {
    assert!(available() && x.len() == out.len());
    // SAFETY: `available` has seen the features.
    unsafe { widen_all(x, out) }
}

/// `x` rounded, ties to even.
pub(super) fn narrow(x: &[f32], out: &mut [f16]) {
    assert!(available() && x.len() == out.len());
    // SAFETY: `available` has seen the features.
    unsafe { narrow_all(x, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn widen_all(x: &[f16], out: &mut [f32]) {
    let (chunks, tail) = x.as_chunks::<8>();
    let (wide, rest) = out.as_chunks_mut::<8>();
    for (x, out) in chunks.iter().zip(wide) {
        // SAFETY: eight of each.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()))) };
    }
    for (x, out) in tail.iter().zip(rest) {
        *out = Element::to_f32(*x);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_all(x: &[f32], out: &mut [f16]) {
    let (chunks, tail) = x.as_chunks::<8>();
    let (short, rest) = out.as_chunks_mut::<8>();
    for (x, out) in chunks.iter().zip(short) {
        // SAFETY: eight of each.
        unsafe {
            let x = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), x);
        }
    }
    for (x, out) in tail.iter().zip(rest) {
        *out = Element::from_f32(*x);
    }
}

/// Four rows at a time, two sums each.
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_of_rows(x: &[f32], w: &[f16], stride: usize, y: &mut [f32]) {
    const ROWS: usize = 4;
    const LANES: usize = 8;
    let k = x.len();
    let whole = k - k % (2 * LANES);
    for (j, y) in y.chunks_mut(ROWS).enumerate() {
        // A last run of fewer rows computes its last row again.
        let row = |r: usize| &w[(j * ROWS + r.min(y.len() - 1)) * stride..][..k];
        let rows: [&[f16]; ROWS] = std::array::from_fn(row);
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for i in (0..whole).step_by(2 * LANES) {
            for half in 0..2 {
                let at = i + half * LANES;
                // SAFETY: `x` and each row have `k` elements, and `at + 8 <= whole <= k`.
                unsafe {
                    let a = _mm256_loadu_ps(x.as_ptr().add(at));
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let b = _mm256_cvtph_ps(_mm_loadu_si128(row.as_ptr().add(at).cast()));
                        sums[half] = _mm256_fmadd_ps(a, b, sums[half]);
                    }
                }
            }
        }
        for ((y, sums), row) in y.iter_mut().zip(&sums).zip(&rows) {
            let mut lanes = [0f32; LANES];
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(sums[0], sums[1])) };
            let rest: f32 = (whole..k).map(|i| x[i] * row[i].to_f32()).sum();
            *y = lanes.iter().sum::<f32>() + rest;
        }
    }
}

/// Columns are added up in registers, as many as there are.
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_of_rows(p: &[f32], v: &[f16], stride: usize, y: &mut [f32]) {
    const LANES: usize = 8;
    const SUMS: usize = 8;
    let (vectors, tail) = y.as_chunks_mut::<LANES>();
    let whole = vectors.len() * LANES;
    for (block, vectors) in vectors.chunks_mut(SUMS).enumerate() {
        let from = block * SUMS * LANES;
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for (sum, y) in sums.iter_mut().zip(&*vectors) {
            // SAFETY: eight floats.
            *sum = unsafe { _mm256_loadu_ps(y.as_ptr()) };
        }
        for (j, p) in p.iter().enumerate() {
            let row = &v[j * stride + from..][..vectors.len() * LANES];
            let p = _mm256_set1_ps(*p);
            for (sum, v) in sums.iter_mut().zip(row.as_chunks::<LANES>().0) {
                // SAFETY: eight of them.
                let v = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().cast())) };
                *sum = _mm256_fmadd_ps(p, v, *sum);
            }
        }
        for (sum, y) in sums.iter().zip(vectors) {
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(y.as_mut_ptr(), *sum) };
        }
    }
    for (i, y) in tail.iter_mut().enumerate() {
        for (j, p) in p.iter().enumerate() {
            *y = p.mul_add(Element::to_f32(v[j * stride + whole + i]), *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_those_of_elements() {
        if !available() {
            return;
        }
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for from in [0, 3] {
            let mut wide = vec![0f32; halves.len() - from];
            widen(&halves[from..], &mut wide);
            for (wide, half) in wide.iter().zip(&halves[from..]) {
                let known = Element::to_f32(*half);
                assert!(
                    wide.to_bits() == known.to_bits() || wide.is_nan() && known.is_nan(),
                    "{half}: {wide}"
                );
            }
        }
        let wide: Vec<f32> = (0..u32::MAX / 9973).map(|i| f32::from_bits(i * 9973)).collect();
        let mut short = vec![f16::ZERO; wide.len()];
        narrow(&wide, &mut short);
        for (wide, short) in wide.iter().zip(&short) {
            let known: f16 = Element::from_f32(*wide);
            assert!(
                short.to_bits() == known.to_bits() || short.is_nan() && known.is_nan(),
                "{wide}: {short}"
            );
        }
    }

    #[test]
    fn products_with_rows_of_all_lengths() {
        if !available() {
            return;
        }
        let value = |i: usize| (i as f32 * 1.7).sin();
        for k in (0..70).chain([127, 128, 137]) {
            for (n, stride) in [(1, k), (2, k + 3), (4, k), (7, k + 8)] {
                let x: Vec<f32> = (0..k).map(value).collect();
                let w: Vec<f16> = (0..n * stride).map(|i| Element::from_f32(value(i + 9))).collect();
                let close = |got: f32, exact: f64| {
                    assert!((got as f64 - exact).abs() < 1e-5, "{k}, {n}: {got}, not {exact}")
                };
                let mut y = vec![f32::NAN; n];
                dots(&x, &w, stride, &mut y);
                for (j, y) in y.iter().enumerate() {
                    close(*y, (0..k).map(|i| x[i] as f64 * w[j * stride + i].to_f64()).sum());
                }
                let p: Vec<f32> = (0..n).map(|j| value(j + 5)).collect();
                let mut sums = x.clone();
                weighted_sum(&p, &w, stride, &mut sums);
                for (i, sum) in sums.iter().enumerate() {
                    let exact =
                        x[i] as f64 + (0..n).map(|j| p[j] as f64 * w[j * stride + i].to_f64()).sum::<f64>();
                    close(*sum, exact);
                }
            }
        }
    }
}
