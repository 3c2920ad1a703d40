//! Matrix products in packed tiles on CPUs with AVX-512: `f32` by FMA, `bf16` by `vdpbf16ps`, accumulated in `f32`.
//!
//! `C = A₁ B₁ + A₂ B₂ + ...`: the parts share one pass over the tiles of C, so that a low-rank update costs no second
//! read or write of it. A is packed in panels of 14 rows, B in panels of 16 or 32 columns, in 32-bit words along k: a
//! float, or two `bf16` that follow each other, as the instruction wants them. A thread takes a panel of B after the
//! other, so that the packed panel stays in its core's cache, and fetches what the next is made of while it computes.

mod ahead;
mod kernel;
mod pack;
mod panels;

use super::cpu::{Simd, simd, simd_level, uninit};
use super::element::Element;
use super::gemm::Mat;
use ahead::Ahead;
use candle_core::{DType, WithDType};
use half::{bf16, f16};
use kernel::Left;
pub(super) use kernel::{dots, dots_of_halves};
use pack::pack;
pub(super) use panels::{COLUMNS, Panels, ROWS, product};
use rayon::prelude::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const MR: usize = 14;
/// Words of packed A that all columns pass over before the next rows are packed: what stays in a shared cache.
const A_WORDS: usize = 1 << 20;

/// What a product is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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

    /// The kind that elements of `dtype` are packed for.
    pub fn packed(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F16 if super::halves::available() => Kind::of(DType::F32),
            dtype => Kind::of(dtype),
        }
    }

    /// Words along k.
    fn words(self, k: usize) -> usize {
        if self == Kind::F32 { k } else { k.div_ceil(2) }
    }
}

/// A factor. An `f32` factor of a `bf16` product is rounded when it is packed, one of `f16` is widened.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    F32(Mat<'a, f32>),
    F16(Mat<'a, f16>),
    Bf16(Mat<'a, bf16>),
}

impl<'a> Operand<'a> {
    /// The matrix.
    pub fn new<T: WithDType>(x: Mat<'a, T>) -> Self {
        match T::DTYPE {
            DType::BF16 => Operand::Bf16(super::gemm::cast(x)),
            DType::F16 => Operand::F16(super::gemm::cast(x)),
            _ => Operand::F32(super::gemm::cast(x)),
        }
    }

    /// The panel of rows from `first` on, where the loops read it as it lies: whole rows of the kind's own elements.
    fn in_place(self, kind: Kind, first: usize, m: usize, k: usize) -> Option<Left<'a>> {
        /// Rows so far apart share few sets of a cache.
        const PAGE: usize = 4096;
        fn rows<'a, T>(x: Mat<'a, T>, first: usize, k: usize) -> (Left<'a>, usize) {
            let stride = x.rs * size_of::<T>();
            let rows = &x.data[first * x.rs..];
            assert!((MR - 1) * x.rs + k <= rows.len());
            (Left::Rows { first: rows.as_ptr().cast(), stride }, stride)
        }
        let (rows, stride) = match (kind, self) {
            _ if first + MR > m => return None,
            (Kind::F32, Operand::F32(x)) if x.cs == 1 => rows(x, first, k),
            (Kind::Bf16, Operand::Bf16(x)) if x.cs == 1 && k.is_multiple_of(2) => rows(x, first, k),
            _ => return None,
        };
        (!stride.is_multiple_of(PAGE)).then_some(rows)
    }

    fn t(self) -> Self {
        match self {
            Operand::F32(x) => Operand::F32(x.t()),
            Operand::F16(x) => Operand::F16(x.t()),
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
            if a.in_place(kind, p * MR, m, *k).is_none() {
                pack(kind, *a, p * MR, m, *k, MR, part);
            }
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
    let tile =
        |p: usize, q: usize, a: &[u32], b: &[u32], acc: &mut [[[f32; 16]; NV]; MR], ahead: &mut Ahead| {
            let mut from = 0;
            for (left, _, k) in parts {
                let words = kind.words(*k);
                let left = left.in_place(kind, p * MR, m, *k).unwrap_or(Left::Packed(&a[from * MR..]));
                kernel::tile(kind, words, left, &b[from * nr..], from > 0, acc, ahead);
                from += words;
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
                let (mut b, mut acc) = (uninit::<u32>(words * nr), [[[0f32; 16]; NV]; MR]);
                let mut panel = take();
                while let Some(q) = panel {
                    pack_b(q, &mut b);
                    panel = take();
                    // Low-rank parts are small, and in the cache.
                    let mut ahead =
                        panel.map_or(Ahead::default(), |q| Ahead::new(parts[0].1, parts[0].2, q * nr, nr, n));
                    for (a, p) in a.chunks_exact((words * MR).max(1)).zip(here.clone()) {
                        tile(p, q, a, &b, &mut acc, &mut ahead);
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
                let mut acc = [[[0f32; 16]; NV]; MR];
                for q in 0..col_panels {
                    tile(p, q, a, &b[q * words * nr..], &mut acc, &mut Ahead::default());
                }
            },
        );
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
        let count = MR.min(self.m - p * MR);
        let mut rows: [&mut [C]; MR] = std::array::from_fn(|i| match i < count {
            // SAFETY: row `p * MR + i` and columns `q * nr..` lie inside the m x n output, and no other task
            // writes this tile.
            true => unsafe {
                std::slice::from_raw_parts_mut(self.c.add((p * MR + i) * self.n + q * nr), cols)
            },
            false => &mut [],
        });
        narrow_rows(acc, nr, &mut rows[..count]);
    }
}

simd! {
    /// Rows of `width` sums, as elements.
    fn narrow_rows<T>(sums: &[f32], width: usize, rows: &mut [&mut [T]]) {
        for (sums, row) in sums.chunks_exact(width).zip(rows) {
            for (o, v) in row.iter_mut().zip(sums) {
                *o = T::from_f32(*v);
            }
        }
    }
}
