//! Matrix products on the CPU: `f32` through the `gemm` crate, `bf16` through packed AVX-512 BF16 tiles
//! where the CPU has them, anything else widened to `f32` a block at a time; one row through dot products.

use super::cpu::{self, simd, uninit};
use super::element::Element;
#[cfg(target_arch = "x86_64")]
use super::tiles::{Kind, Operand, product_into};
use candle_core::{DType, WithDType};
use rayon::prelude::*;

/// A matrix over a slice: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mat<'a, T> {
    pub data: &'a [T],
    pub rs: usize,
    pub cs: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Rows of `cols` elements.
    pub fn rows(data: &'a [T], cols: usize) -> Self {
        Mat { data, rs: cols, cs: 1 }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        Mat { data: self.data, rs: self.cs, cs: self.rs }
    }

    /// Whether an `m x n` matrix lies inside the slice.
    fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rs + (n - 1) * self.cs < self.data.len()
    }
}

/// `c = alpha a b`, or `c += alpha a b`, with `c` `m x n` in rows of `c_rs`; on `threads` threads (0: all).
#[allow(clippy::too_many_arguments)]
pub(crate) fn gemm_f32(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: Mat<'_, f32>,
    b: Mat<'_, f32>,
    accumulate: bool,
    c: &mut [f32],
    c_rs: usize,
    threads: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        a.holds(m, k) && b.holds(k, n) && (m - 1) * c_rs + n <= c.len(),
        "gemm: a matrix leaves its slice"
    );
    let parallelism = match threads {
        1 => gemm::Parallelism::None,
        _ if m * n * k < 48 * 48 * 48 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    // SAFETY: the assertion above keeps every element the product touches inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_rs as isize,
            accumulate,
            a.data.as_ptr(),
            a.cs as isize,
            a.rs as isize,
            b.data.as_ptr(),
            b.cs as isize,
            b.rs as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        )
    }
}

/// `low_rank`: what is added to a product, `t e` with `t` `m x r` and `e` `r x n`, scale included in `t`.
pub(crate) type LowRank<'a> = (Mat<'a, f32>, Mat<'a, f32>, usize);

/// The kind of tiles for a product, where the CPU has them and the product is large enough to pay for packing.
#[cfg(target_arch = "x86_64")]
fn worth_tiles<T: WithDType>(m: usize, n: usize, k: usize) -> Option<Kind> {
    Kind::packed(T::DTYPE).filter(|_| m > FEW && m * n * k >= 16 * 16 * 16)
}

/// `x w (+ t e)`: `x` is `m x k`, `w` is `k x n`, of one element type, accumulated in `f32`.
pub(crate) fn matmul<T: Element>(
    (m, n, k): (usize, usize, usize),
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    low_rank: Option<LowRank<'_>>,
) -> Vec<T> {
    // A few rows against rows of weights: bound by reading `w` once.
    if m <= FEW && w.rs == 1 && x.cs == 1 {
        return narrow_owned(gemv((m, n, k), x, w, low_rank));
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(kind) = worth_tiles::<T>(m, n, k) {
        let mut parts = vec![(Operand::new(x), Operand::new(w), k)];
        if let Some((t, e, r)) = low_rank {
            parts.push((Operand::F32(t), Operand::F32(e), r));
        }
        let mut y = uninit(m * n);
        product_into(kind, (m, n), &parts, &mut y);
        return y;
    }
    let mut c: Vec<f32> = uninit(m * n);
    matmul_f32((m, n, k), x, w, &mut c);
    if let Some((t, e, r)) = low_rank {
        gemm_f32((m, n, r), 1.0, t, e, true, &mut c, n, 0);
    }
    narrow_owned(c)
}

/// `x w` into `f32`: `x` is `m x k`, `w` is `k x n`.
pub(crate) fn matmul_f32<T: Element>(
    (m, n, k): (usize, usize, usize),
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    c: &mut [f32],
) {
    if m <= FEW && w.rs == 1 && x.cs == 1 {
        return c.copy_from_slice(&gemv((m, n, k), x, w, None));
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(kind) = worth_tiles::<T>(m, n, k) {
        return product_into(kind, (m, n), &[(Operand::new(x), Operand::new(w), k)], c);
    }
    if T::DTYPE == DType::F32 {
        return gemm_f32((m, n, k), 1.0, cast(x), cast(w), false, c, n, 0);
    }
    let wide_x = cpu::to_f32(x.data);
    let x = Mat { data: &wide_x, rs: x.rs, cs: x.cs };
    // Widen `w` a block of columns at a time: the whole of it in f32 could be gigabytes.
    let block = ((1 << 20) / k.max(1)).clamp(64, 4096);
    let mut wide = Vec::new();
    for j in (0..n).step_by(block) {
        let cols = block.min(n - j);
        let w = if w.cs == 1 {
            wide.resize(k * cols, 0.0);
            wide.par_chunks_mut(cols).enumerate().for_each(|(i, row)| {
                cpu::widen(&w.data[i * w.rs + j..][..cols], row);
            });
            Mat::rows(&wide, cols)
        } else {
            wide.resize(k * cols, 0.0);
            wide.par_chunks_mut(k).enumerate().for_each(|(i, col)| {
                let from = &w.data[(j + i) * w.cs..];
                match w.rs {
                    1 => cpu::widen(&from[..k], col),
                    rs => col.iter_mut().enumerate().for_each(|(i, v)| *v = from[i * rs].to_f32()),
                }
            });
            Mat::rows(&wide, k).t()
        };
        gemm_f32((m, cols, k), 1.0, x, w, false, &mut c[j..], n, 0);
    }
}

simd! {
    /// The dot product.
    fn dot<T>(x: &[f32], w: &[T]) -> f32 {
        let x = &x[..w.len()];
        cpu::sum_by(w.len(), |i| x[i] * w[i].to_f32())
    }

    /// Dot products of one row with each row of `w`.
    fn dots<T>(x: &[f32], w: &[T], y: &mut [f32]) {
        let k = x.len();
        let mut rows = w.chunks_exact(k);
        let mut out = y.chunks_exact_mut(4);
        for y in &mut out {
            let (a, b) = (rows.next().unwrap_or(&[]), rows.next().unwrap_or(&[]));
            let (c, d) = (rows.next().unwrap_or(&[]), rows.next().unwrap_or(&[]));
            let (a, b, c, d) = (&a[..k], &b[..k], &c[..k], &d[..k]);
            const L: usize = 32;
            let mut sums = [[0f32; L]; 4];
            let whole = k - k % L;
            let mut i = 0;
            while i < whole {
                for l in 0..L {
                    sums[0][l] = x[i + l].mul_add(a[i + l].to_f32(), sums[0][l]);
                }
                for l in 0..L {
                    sums[1][l] = x[i + l].mul_add(b[i + l].to_f32(), sums[1][l]);
                }
                for l in 0..L {
                    sums[2][l] = x[i + l].mul_add(c[i + l].to_f32(), sums[2][l]);
                }
                for l in 0..L {
                    sums[3][l] = x[i + l].mul_add(d[i + l].to_f32(), sums[3][l]);
                }
                i += L;
            }
            for (y, (sum, row)) in y.iter_mut().zip(sums.iter().zip([a, b, c, d])) {
                let mut total = sum.iter().sum::<f32>();
                for i in whole..k {
                    total += x[i] * row[i].to_f32();
                }
                *y = total;
            }
        }
        for y in out.into_remainder() {
            let row = rows.next().unwrap_or(&[]);
            *y = cpu::sum_by(k, |i| x[i] * row[i].to_f32());
        }
    }
}

/// Dot products of `x`, which is `wide` in `f32`, with rows of `w`, `stride` apart, where this CPU has instructions for their
/// elements.
pub(crate) fn own_dots<T: Element>(x: &[T], wide: &[f32], w: &[T], stride: usize, y: &mut [f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let Some(kind) = Kind::of(T::DTYPE) {
        super::tiles::dots(kind, x, w, stride, y);
        return true;
    }
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == DType::F16 && super::halves::available() {
        match Kind::packed(DType::F16) {
            Some(_) => super::tiles::dots_of_halves(wide, cpu::same(w), stride, y),
            None => super::halves::dots(wide, cpu::same(w), stride, y),
        }
        return true;
    }
    let _ = (x, wide, w, stride, y);
    false
}

/// `y += sum of p[j] v[j]`, the rows of `v` `stride` apart, where plain loops would convert them slowly.
pub(crate) fn own_weighted_sum<T: Element>(p: &[f32], v: &[T], stride: usize, y: &mut [f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == DType::F16 && super::halves::available() {
        super::halves::weighted_sum(p, cpu::same(v), stride, y);
        return true;
    }
    let _ = (p, v, stride, y);
    false
}

/// The most rows that [`matmul`] computes each as if it were alone, to the last bit.
const FEW: usize = 4;

/// [`matmul`] for a few rows: every row of weights is read once. A row's result does not depend on the others:
/// what is decoded one token at a time and a few at a time is the same.
fn gemv<T: Element>(
    (m, n, k): (usize, usize, usize),
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    low_rank: Option<LowRank<'_>>,
) -> Vec<f32> {
    let mut wide = vec![0f32; m * k];
    for (i, row) in wide.chunks_exact_mut(k.max(1)).enumerate() {
        cpu::widen(&x.data[i * x.rs..][..k], row);
    }
    const ROWS: usize = 16;
    // Rows of weights are split over the threads, so the output is built transposed: n x m.
    let mut y: Vec<f32> = uninit(m * n);
    // One row of `x` with some rows of `w`.
    let products = |i: usize, rows: &[T], out: &mut [f32]| {
        let wide = &wide[i * k..][..k];
        if !own_dots(&x.data[i * x.rs..][..k], wide, rows, k, out) {
            dots(wide, rows, out);
        }
    };
    let body = |j0: usize, out: &mut [f32]| {
        if m == 1 && w.cs == k && k > 0 {
            products(0, &w.data[j0 * k..][..out.len() * k], out);
        } else if w.cs == k && k > 0 {
            // A few rows of `w` stay in the cache for all rows of `x`.
            for (j, out) in out.chunks_mut(ROWS * m).enumerate() {
                let mut part = [0f32; ROWS];
                let part = &mut part[..out.len() / m];
                let rows = &w.data[(j0 + j * ROWS) * k..][..part.len() * k];
                for i in 0..m {
                    products(i, rows, part);
                    out.chunks_exact_mut(m).zip(&*part).for_each(|(out, y)| out[i] = *y);
                }
            }
        } else {
            for (j, out) in out.chunks_exact_mut(m).enumerate() {
                let row = &w.data[(j0 + j) * w.cs..][..k];
                for (i, y) in out.iter_mut().enumerate() {
                    *y = dot(&wide[i * k..][..k], row);
                }
            }
        }
        if let Some((t, e, r)) = low_rank {
            for (j, out) in out.chunks_exact_mut(m).enumerate() {
                for (i, y) in out.iter_mut().enumerate() {
                    *y += (0..r)
                        .map(|c| t.data[i * t.rs + c * t.cs] * e.data[c * e.rs + (j0 + j) * e.cs])
                        .sum::<f32>();
                }
            }
        }
    };
    // Few, large tasks: waking a thread costs as much as a row of weights.
    let run =
        if n * k < 64 * 1024 { n } else { n.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(16) };
    match run >= n {
        true => body(0, &mut y),
        false => y.par_chunks_mut(run * m).enumerate().for_each(|(i, out)| body(i * run, out)),
    }
    if m == 1 {
        return y;
    }
    let mut rows = uninit(m * n);
    for (j, col) in y.chunks_exact(m).enumerate() {
        for (i, v) in col.iter().enumerate() {
            rows[i * n + j] = *v;
        }
    }
    rows
}

/// `tᵀ x` in `f32`: `t` is `m x r`, `x` is `m x n`, with few columns in `t`. Gradients of low-rank factors.
pub(crate) fn tall_product<T: Element>((m, r, n): (usize, usize, usize), t: &[f32], x: &[T]) -> Vec<f32> {
    let mut c: Vec<f32> = uninit(r * n);
    #[cfg(target_arch = "x86_64")]
    if let Some(kind) = worth_tiles::<T>(r, n, m) {
        let parts = [(Operand::F32(Mat::rows(t, r).t()), Operand::new(Mat::rows(x, n)), m)];
        product_into(kind, (r, n), &parts, &mut c);
        return c;
    }
    if T::DTYPE == DType::F32 {
        gemm_f32((r, n, m), 1.0, Mat::rows(t, r).t(), cast(Mat::rows(x, n)), false, &mut c, n, 0);
        return c;
    }
    let wide = cpu::to_f32(x);
    gemm_f32((r, n, m), 1.0, Mat::rows(t, r).t(), Mat::rows(&wide, n), false, &mut c, n, 0);
    c
}

/// `gᵀ x` in `f32`: `g` is `k x m`, `x` is `k x n`. Gradients of weights.
pub(crate) fn outer_product<T: Element>((m, n, k): (usize, usize, usize), g: &[T], x: &[T]) -> Vec<f32> {
    let mut c: Vec<f32> = uninit(m * n);
    let wide = |v: &[T]| cpu::to_f32(v);
    #[cfg(target_arch = "x86_64")]
    if let Some(kind) = worth_tiles::<T>(m, n, k) {
        let parts = [(Operand::new(Mat::rows(g, m).t()), Operand::new(Mat::rows(x, n)), k)];
        product_into(kind, (m, n), &parts, &mut c);
        return c;
    }
    if T::DTYPE == DType::F32 {
        gemm_f32((m, n, k), 1.0, cast(Mat::rows(g, m)).t(), cast(Mat::rows(x, n)), false, &mut c, n, 0);
        return c;
    }
    gemm_f32((m, n, k), 1.0, Mat::rows(&wide(g), m).t(), Mat::rows(&wide(x), n), false, &mut c, n, 0);
    c
}

/// `x aᵀ` in `f32`: `x` is `m x k`, `a` is `r x k`, with few rows in `a`.
pub(crate) fn thin_product<T: Element>(
    (m, r, k): (usize, usize, usize),
    x: &[T],
    a: Mat<'_, f32>,
) -> Vec<f32> {
    if m <= FEW && a.cs == 1 {
        return match T::DTYPE {
            DType::F32 => gemv::<f32>((m, r, k), cast(Mat::rows(x, k)), a.t(), None),
            _ => gemv((m, r, k), Mat::rows(&cpu::to_f32(x), k), a.t(), None),
        };
    }
    let mut c: Vec<f32> = uninit(m * r);
    #[cfg(target_arch = "x86_64")]
    if let Some(kind) = worth_tiles::<T>(m, r, k) {
        product_into(kind, (m, r), &[(Operand::new(Mat::rows(x, k)), Operand::F32(a.t()), k)], &mut c);
        return c;
    }
    if T::DTYPE == DType::F32 {
        gemm_f32((m, r, k), 1.0, cast(Mat::rows(x, k)), a.t(), false, &mut c, r, 0);
        return c;
    }
    let wide = cpu::to_f32(x);
    gemm_f32((m, r, k), 1.0, Mat::rows(&wide, k), a.t(), false, &mut c, r, 0);
    c
}

/// The same matrix, when `T` and `U` are one type.
pub(super) fn cast<T: WithDType, U: WithDType>(x: Mat<'_, T>) -> Mat<'_, U> {
    Mat { data: cpu::same(x.data), rs: x.rs, cs: x.cs }
}

/// The same vector, when `T` and `U` are one type.
fn cast_vec<T: WithDType, U: WithDType>(v: Vec<T>) -> Vec<U> {
    assert_eq!(T::DTYPE, U::DTYPE);
    let mut v = std::mem::ManuallyDrop::new(v);
    // SAFETY: equal dtypes are equal types, and `v` is not dropped.
    unsafe { Vec::from_raw_parts(v.as_mut_ptr().cast::<U>(), v.len(), v.capacity()) }
}

/// `f32` results as elements, without a copy when they are `f32`.
pub(crate) fn narrow_owned<T: Element>(v: Vec<f32>) -> Vec<T> {
    match T::DTYPE {
        DType::F32 => cast_vec(v),
        _ => cpu::narrow_all(&v),
    }
}

/// Whether this CPU has instructions for products of `bf16` (AVX-512 BF16). Without them they are widened to `f32`: `bf16`
/// then saves memory, not time.
pub fn fast_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::tiles::Kind::of(DType::BF16).is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// What is scaled or added to is computed as a product by itself is, to the last bit.
    #[test]
    fn a_few_rows_into_f32_are_those_of_the_product() {
        fn of<T: Element>() {
            let (m, n, k) = (4, 37, 130);
            let value = |i: usize| T::from_f32((i as f32 * 1.7).sin());
            let (x, w): (Vec<T>, Vec<T>) = ((0..m * k).map(value).collect(), (0..n * k).map(value).collect());
            let (x, w) = (Mat::rows(&x, k), Mat::rows(&w, k).t());
            let mut c = vec![f32::NAN; m * n];
            matmul_f32((m, n, k), x, w, &mut c);
            assert!(narrow_owned::<T>(c) == matmul((m, n, k), x, w, None), "{:?}", T::DTYPE);
        }
        of::<f32>();
        of::<f16>();
        of::<bf16>();
    }
}
