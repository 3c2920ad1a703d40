//! Matrix products in packed tiles on CPUs with AVX-512: `f32` by FMA, `bf16` by `vdpbf16ps`, accumulated in `f32`.
//!
//! `C = A₁ B₁ + A₂ B₂ + ...`: the parts share one pass over the tiles of C, so that a low-rank update costs no second
//! read or write of it. A is packed in panels of 14 rows, B in panels of 16 or 32 columns, in 32-bit words along k: a
//! float, or two `bf16` that follow each other, as the instruction wants them. A thread takes a panel of B after the
//! other, so that the packed panel stays in its core's cache, and fetches what the next is made of while it computes.

use super::cpu::{Simd, narrow, simd_level, uninit};
use super::element::Element;
use super::gemm::Mat;
use candle_core::{DType, WithDType};
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const MR: usize = 14;
/// Words of packed A that all columns pass over before the next rows are packed: what stays in a shared cache.
const A_WORDS: usize = 1 << 20;

/// What a product is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    Bf16,
}

impl Kind {
    /// The kind for elements of `dtype`, if this CPU has the instructions.
    pub fn of(dtype: DType) -> Option<Self> {
        static BF16: OnceLock<bool> = OnceLock::new();
        match dtype {
            DType::F32 if simd_level() == Simd::Avx512 => Some(Kind::F32),
            DType::BF16 if simd_level() == Simd::Avx512 => {
                BF16.get_or_init(|| is_x86_feature_detected!("avx512bf16")).then_some(Kind::Bf16)
            }
            _ => None,
        }
    }

    /// Words along k.
    fn words(self, k: usize) -> usize {
        if self == Kind::F32 { k } else { k.div_ceil(2) }
    }
}

/// A factor. An `f32` factor of a `bf16` product is rounded when it is packed.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    F32(Mat<'a, f32>),
    Bf16(Mat<'a, bf16>),
}

impl<'a> Operand<'a> {
    /// The matrix, when its elements are `f32` or `bf16`.
    pub fn new<T: WithDType>(x: Mat<'a, T>) -> Self {
        match T::DTYPE {
            DType::BF16 => Operand::Bf16(super::gemm::cast(x)),
            _ => Operand::F32(super::gemm::cast(x)),
        }
    }

    fn t(self) -> Self {
        match self {
            Operand::F32(x) => Operand::F32(x.t()),
            Operand::Bf16(x) => Operand::Bf16(x.t()),
        }
    }
}

/// `A`, `B` and the length `k` they share.
pub(super) type Part<'a> = (Operand<'a>, Operand<'a>, usize);

/// The sum of the parts' products, `m x n` in rows, into `c`.
pub(super) fn product_into<C: Element>(kind: Kind, (m, n): (usize, usize), parts: &[Part<'_>], c: &mut [C]) {
    assert_eq!(c.len(), m * n);
    if c.is_empty() {
        return;
    }
    match n <= 16 {
        true => tiled::<C, 1>(kind, (m, n), parts, c),
        false => tiled::<C, 2>(kind, (m, n), parts, c),
    }
}

/// `NV` is the width of a tile in vectors of 16.
fn tiled<C: Element, const NV: usize>(kind: Kind, (m, n): (usize, usize), parts: &[Part<'_>], c: &mut [C]) {
    let nr = 16 * NV;
    let words: usize = parts.iter().map(|p| kind.words(p.2)).sum();
    let (row_panels, col_panels) = (m.div_ceil(MR), n.div_ceil(nr));

    let pack_a = |p: usize, panel: &mut [u32]| {
        let mut rest = panel;
        for (a, _, k) in parts {
            let (part, tail) = rest.split_at_mut(kind.words(*k) * MR);
            pack(kind, *a, p * MR, m, *k, MR, part);
            rest = tail;
        }
    };
    let pack_b = |q: usize, panel: &mut [u32]| {
        let mut rest = panel;
        for (_, b, k) in parts {
            let (part, tail) = rest.split_at_mut(kind.words(*k) * nr);
            pack(kind, b.t(), q * nr, n, *k, nr, part);
            rest = tail;
        }
    };

    let out = Out { c: c.as_mut_ptr(), m, n };
    let tile = |p: usize, q: usize, a: &[u32], b: &[u32], ahead: &mut Ahead| {
        let mut acc = [[[0f32; 16]; NV]; MR];
        let (a, b) = (&a[..words * MR], &b[..words * nr]);
        // SAFETY: `Kind::of` has seen the features; the panels hold `words` words of MR rows and of 16 NV columns.
        unsafe {
            match kind {
                Kind::F32 => kernel_f32::<NV>(words, a.as_ptr(), b.as_ptr(), &mut acc, ahead),
                Kind::Bf16 => kernel_bf16::<NV>(words, a.as_ptr(), b.as_ptr(), &mut acc, ahead),
            }
        }
        out.store(p, q, nr, acc.as_flattened().as_flattened());
    };
    let threads = rayon::current_num_threads();
    if col_panels >= 2 * threads {
        let block = (A_WORDS / (words * MR).max(1)).clamp(8, row_panels.max(8)).min(row_panels);
        let mut a: Vec<u32> = uninit(block * words * MR);
        for first in (0..row_panels).step_by(block) {
            let here = first..row_panels.min(first + block);
            let a = &mut a[..here.len() * words * MR];
            a.par_chunks_mut((words * MR).max(1)).zip(here.clone()).for_each(|(panel, p)| pack_a(p, panel));
            let free = AtomicUsize::new(0);
            let take = || Some(free.fetch_add(1, Ordering::Relaxed)).filter(|q| *q < col_panels);
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
                let mut b: Vec<u32> = uninit(words * nr);
                let mut panel = take();
                while let Some(q) = panel {
                    pack_b(q, &mut b);
                    panel = take();
                    // Low-rank parts are small, and in the cache.
                    let mut ahead =
                        panel.map_or(Ahead::default(), |q| Ahead::new(parts[0].1, parts[0].2, q * nr, nr, n));
                    for (a, p) in a.chunks_exact((words * MR).max(1)).zip(here.clone()) {
                        tile(p, q, a, &b, &mut ahead);
                    }
                }
            });
        }
    } else {
        let mut b: Vec<u32> = uninit(col_panels * words * nr);
        b.par_chunks_mut((words * nr).max(1)).enumerate().for_each(|(q, panel)| pack_b(q, panel));
        // A panel of A is packed where it is used: many rows by few columns would fill new memory with all of them.
        let panels = (0..row_panels).into_par_iter().with_min_len(row_panels.div_ceil(4 * threads));
        panels.for_each_init(
            || uninit(words * MR),
            |a, p| {
                pack_a(p, a);
                (0..col_panels).for_each(|q| tile(p, q, a, &b[q * words * nr..], &mut Ahead::default()));
            },
        );
    }
}

/// Memory that is fetched into the cache a line at a time: `runs` runs of `bytes`, `stride` bytes apart.
#[derive(Default)]
struct Ahead {
    at: usize,
    bytes: usize,
    stride: usize,
    runs: usize,
    done: usize,
}

impl Ahead {
    const LINE: usize = 64;

    /// What columns from `first` on of `b`, `k` rows by `n`, are packed from.
    fn new(b: Operand<'_>, k: usize, first: usize, columns: usize, n: usize) -> Self {
        let (at, rs, cs, size) = match b {
            Operand::F32(b) => (b.data.as_ptr() as usize, b.rs, b.cs, 4),
            Operand::Bf16(b) => (b.data.as_ptr() as usize, b.rs, b.cs, 2),
        };
        let columns = columns.min(n - first);
        let at = at + first * cs * size;
        match rs {
            1 => Ahead { at, bytes: k * size, stride: cs * size, runs: columns, done: 0 },
            _ => Ahead { at, bytes: columns * size, stride: rs * size, runs: k, done: 0 },
        }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        if self.runs == 0 {
            return;
        }
        // SAFETY: a prefetch of any address has no effect that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>((self.at + self.done) as *const i8) };
        self.done += Self::LINE;
        if self.done >= self.bytes {
            (self.at, self.runs, self.done) = (self.at + self.stride, self.runs - 1, 0);
        }
    }
}

/// The output, shared by tasks that write different tiles of it.
struct Out<C> {
    c: *mut C,
    m: usize,
    n: usize,
}

// SAFETY: tasks write disjoint tiles.
unsafe impl<C> Sync for Out<C> {}

impl<C: Element> Out<C> {
    fn store(&self, p: usize, q: usize, nr: usize, acc: &[f32]) {
        let cols = nr.min(self.n - q * nr);
        for i in 0..MR.min(self.m - p * MR) {
            // SAFETY: row `p * MR + i` and columns `q * nr..` lie inside the m x n output, and no other task
            // writes this tile.
            let row =
                unsafe { std::slice::from_raw_parts_mut(self.c.add((p * MR + i) * self.n + q * nr), cols) };
            narrow(&acc[i * nr..][..cols], row);
        }
    }
}

/// `out[word * w + i]` is word `word` of row `first + i`, for `w` rows; zero outside `rows` and `k`.
fn pack(kind: Kind, x: Operand<'_>, first: usize, rows: usize, k: usize, w: usize, out: &mut [u32]) {
    let rows = w.min(rows - first);
    match (kind, x) {
        (Kind::F32, Operand::F32(x)) if x.cs == 1 => {
            pack_rows(x.data[first * x.rs..].as_ptr().cast(), x.rs, rows, k, w, out)
        }
        (Kind::Bf16, Operand::Bf16(x)) if x.cs == 1 && k.is_multiple_of(2) && x.rs.is_multiple_of(2) => {
            pack_rows(x.data[first * x.rs..].as_ptr().cast(), x.rs / 2, rows, k / 2, w, out)
        }
        (Kind::F32, Operand::F32(x)) if x.rs == 1 => {
            for (j, out) in out.chunks_exact_mut(w).enumerate() {
                for (o, v) in out.iter_mut().zip(&x.data[j * x.cs + first..][..rows]) {
                    *o = v.to_bits();
                }
                out[rows..].fill(0);
            }
        }
        (Kind::Bf16, Operand::Bf16(x)) if x.rs == 1 => {
            let zero = [bf16::ZERO; 32];
            for (pair, out) in out.chunks_exact_mut(w).enumerate() {
                let low = &x.data[2 * pair * x.cs + first..][..rows];
                let high = match 2 * pair + 1 < k {
                    true => &x.data[(2 * pair + 1) * x.cs + first..][..rows],
                    false => &zero[..rows],
                };
                for (o, (l, h)) in out.iter_mut().zip(low.iter().zip(high)) {
                    *o = l.to_bits() as u32 | (h.to_bits() as u32) << 16;
                }
                out[rows..].fill(0);
            }
        }
        (Kind::F32, Operand::F32(x)) => {
            each_word(rows, w, out, |i, j| x.data[(first + i) * x.rs + j * x.cs].to_bits())
        }
        (Kind::F32, Operand::Bf16(x)) => {
            each_word(rows, w, out, |i, j| x.data[(first + i) * x.rs + j * x.cs].to_f32().to_bits())
        }
        (Kind::Bf16, Operand::F32(x)) => each_word(rows, w, out, |i, j| {
            pair(j, k, |j| Element::from_f32(x.data[(first + i) * x.rs + j * x.cs]))
        }),
        (Kind::Bf16, Operand::Bf16(x)) => {
            each_word(rows, w, out, |i, j| pair(j, k, |j| x.data[(first + i) * x.rs + j * x.cs]))
        }
    }
}

fn pair(word: usize, k: usize, x: impl Fn(usize) -> bf16) -> u32 {
    let high = if 2 * word + 1 < k { x(2 * word + 1).to_bits() as u32 } else { 0 };
    x(2 * word).to_bits() as u32 | high << 16
}

fn each_word(rows: usize, w: usize, out: &mut [u32], word: impl Fn(usize, usize) -> u32) {
    for (j, out) in out.chunks_exact_mut(w).enumerate() {
        for (i, o) in out.iter_mut().enumerate() {
            *o = if i < rows { word(i, j) } else { 0 };
        }
    }
}

/// Packs rows of `words` words that lie one after the other, by transposing squares of 16.
fn pack_rows(x: *const u32, stride: usize, rows: usize, words: usize, w: usize, out: &mut [u32]) {
    assert!(w <= 32 && out.len() >= words * w);
    for half in (0..w).step_by(16) {
        let here = 16.min(w - half);
        let rows = rows.saturating_sub(half).min(16);
        for j in (0..words).step_by(16) {
            let cols = 16.min(words - j);
            // SAFETY: AVX-512 is there; rows and words are read inside what the caller's matrix holds, and `cols`
            // columns of `here` words are written inside `out`.
            unsafe {
                transpose(
                    x.add(half * stride + j),
                    stride,
                    rows,
                    cols,
                    here,
                    out[j * w + half..].as_mut_ptr(),
                    w,
                )
            };
        }
    }
}

/// `out[c * w + r] = x[r * stride + c]` for `cols` columns and `here` rows, of which those from `rows` on are zero.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(
    x: *const u32,
    stride: usize,
    rows: usize,
    cols: usize,
    here: usize,
    out: *mut u32,
    w: usize,
) {
    let mask = |n: usize| ((1u32 << n) - 1) as u16;
    // SAFETY: masks keep loads to `rows` rows of `cols` words, stores to `cols` columns of `here` words.
    unsafe {
        let mut r = [_mm512_setzero_si512(); 16];
        for (i, r) in r.iter_mut().enumerate().take(rows) {
            *r = _mm512_maskz_loadu_epi32(mask(cols), x.add(i * stride).cast());
        }
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for g in 0..4 {
            r[4 * g] = _mm512_unpacklo_epi64(t[4 * g], t[4 * g + 2]);
            r[4 * g + 1] = _mm512_unpackhi_epi64(t[4 * g], t[4 * g + 2]);
            r[4 * g + 2] = _mm512_unpacklo_epi64(t[4 * g + 1], t[4 * g + 3]);
            r[4 * g + 3] = _mm512_unpackhi_epi64(t[4 * g + 1], t[4 * g + 3]);
        }
        for i in 0..4 {
            t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[4 + i]);
            t[4 + i] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[4 + i]);
            t[8 + i] = _mm512_shuffle_i32x4::<0x88>(r[8 + i], r[12 + i]);
            t[12 + i] = _mm512_shuffle_i32x4::<0xdd>(r[8 + i], r[12 + i]);
        }
        for i in 0..4 {
            r[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[8 + i]);
            r[8 + i] = _mm512_shuffle_i32x4::<0xdd>(t[i], t[8 + i]);
            r[4 + i] = _mm512_shuffle_i32x4::<0x88>(t[4 + i], t[12 + i]);
            r[12 + i] = _mm512_shuffle_i32x4::<0xdd>(t[4 + i], t[12 + i]);
        }
        for (c, r) in r.iter().enumerate().take(cols) {
            _mm512_mask_storeu_epi32(out.add(c * w).cast(), mask(here), *r);
        }
    }
}

/// Dot products of `x` with each row of `w`, `y.len()` rows of `x.len()`, both of the kind's element.
pub(super) fn dots<T: WithDType>(kind: Kind, x: &[T], w: &[T], y: &mut [f32]) {
    assert!(Kind::of(T::DTYPE) == Some(kind) && w.len() == x.len() * y.len());
    // SAFETY: `Kind::of` has seen the features, and `w` holds a row for each result.
    unsafe {
        match kind {
            Kind::F32 => dots_f32(x.len(), x.as_ptr().cast(), w.as_ptr().cast(), y),
            Kind::Bf16 => dots_bf16(x.len(), x.as_ptr().cast(), w.as_ptr().cast(), y),
        }
    }
}

macro_rules! dots {
    ($name:ident, $feature:literal, $T:ty, $lanes:literal, $load:expr, $load_tail:expr, $fma:expr) => {
        /// Four rows at a time, two sums each.
        #[target_feature(enable = $feature)]
        unsafe fn $name(k: usize, x: *const $T, w: *const $T, y: &mut [f32]) {
            const ROWS: usize = 4;
            let whole = k - k % (2 * $lanes);
            // SAFETY: whole vectors end before `k`, and masks keep the others inside it.
            unsafe {
                for (j, y) in y.chunks_mut(ROWS).enumerate() {
                    // A last run of fewer rows computes its last row again.
                    let row = |r: usize| w.add((j * ROWS + r.min(y.len() - 1)) * k);
                    let rows: [*const $T; ROWS] = std::array::from_fn(row);
                    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
                    for i in (0..whole).step_by(2 * $lanes) {
                        let (a, b) = ($load(x.add(i)), $load(x.add(i + $lanes)));
                        for r in 0..ROWS {
                            sums[r][0] = $fma(sums[r][0], a, $load(rows[r].add(i)));
                            sums[r][1] = $fma(sums[r][1], b, $load(rows[r].add(i + $lanes)));
                        }
                    }
                    for i in (whole..k).step_by($lanes) {
                        let left = (k - i).min($lanes);
                        let a = $load_tail(x.add(i), left);
                        for r in 0..ROWS {
                            sums[r][0] = $fma(sums[r][0], a, $load_tail(rows[r].add(i), left));
                        }
                    }
                    for (y, sum) in y.iter_mut().zip(&sums) {
                        *y = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
                    }
                }
            }
        }
    };
}

dots!(
    dots_f32,
    "avx512f,fma",
    f32,
    16,
    |p: *const f32| _mm512_loadu_ps(p),
    |p: *const f32, n: usize| _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, p),
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
);
dots!(
    dots_bf16,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16",
    bf16,
    32,
    |p: *const bf16| std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())),
    |p: *const bf16, n: usize| std::mem::transmute::<__m512i, __m512bh>(_mm512_maskz_loadu_epi16(
        ((1u64 << n) - 1) as u32,
        p.cast()
    )),
    |sum, a, b| _mm512_dpbf16_ps(sum, a, b)
);

macro_rules! kernel {
    ($name:ident, $feature:literal, $b:ident => $load:expr, $a:ident => $broadcast:expr, $fma:expr) => {
        /// One tile: `acc = sum over words of a[word][i] b[word][j]`.
        #[target_feature(enable = $feature)]
        unsafe fn $name<const NV: usize>(
            words: usize,
            mut a: *const u32,
            mut b: *const u32,
            acc: &mut [[[f32; 16]; NV]; MR],
            ahead: &mut Ahead,
        ) {
            // SAFETY: the caller hands `words` packed words of MR rows and of 16 NV columns.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); NV]; MR];
                for _ in 0..words {
                    ahead.fetch();
                    let mut right = [_mm512_setzero_si512(); NV];
                    for (v, right) in right.iter_mut().enumerate() {
                        *right = _mm512_loadu_si512(b.add(16 * v).cast());
                    }
                    for i in 0..MR {
                        let $a = *a.add(i);
                        let left = $broadcast;
                        for v in 0..NV {
                            let $b = right[v];
                            sums[i][v] = $fma(sums[i][v], left, $load);
                        }
                    }
                    a = a.add(MR);
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
