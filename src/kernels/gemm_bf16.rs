//! `bf16` matrix products on CPUs with AVX-512 BF16: `vdpbf16ps` over packed tiles, accumulated in `f32`.
//!
//! `C = A₁ B₁ + A₂ B₂ + ...`: the parts share one pass over the tiles of C, so that a low-rank update costs
//! no second read or write of it. A is packed in panels of 14 rows, B in panels of 32 columns, both in pairs
//! along k, as the instruction wants them.

use super::cpu::uninit;
use super::element::Element;
use super::gemm::Mat;
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::sync::OnceLock;

const MR: usize = 14;
const NR: usize = 32;

/// Whether this CPU has the instruction.
pub(super) fn available() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512bf16") && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq")
    })
}

/// A factor; `f32` ones are rounded to `bf16` when they are packed.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    Bf16(Mat<'a, bf16>),
    F32(Mat<'a, f32>),
}

/// `A`, `B` and the length `k` they share.
pub(super) type Part<'a> = (Operand<'a>, Operand<'a>, usize);

/// The sum of the parts' products, an `m x n` matrix in rows.
pub(super) fn product<C: Element>((m, n): (usize, usize), parts: &[Part<'_>]) -> Vec<C> {
    let mut c = uninit(m * n);
    product_into((m, n), parts, &mut c);
    c
}

/// [`product`] into `c`.
pub(super) fn product_into<C: Element>((m, n): (usize, usize), parts: &[Part<'_>], c: &mut [C]) {
    assert_eq!(c.len(), m * n);
    if c.is_empty() {
        return;
    }
    let pairs: usize = parts.iter().map(|p| p.2.div_ceil(2)).sum();
    let (row_panels, col_panels) = (m.div_ceil(MR), n.div_ceil(NR));

    let mut a: Vec<u32> = uninit(row_panels * pairs * MR);
    a.par_chunks_mut(pairs * MR).enumerate().for_each(|(p, panel)| {
        let mut rest = panel;
        for (a, _, k) in parts {
            let (part, tail) = rest.split_at_mut(k.div_ceil(2) * MR);
            pack::<MR>(*a, p * MR, m, *k, part);
            rest = tail;
        }
    });
    let pack_b = |q: usize, panel: &mut [u32]| {
        let mut rest = panel;
        for (_, b, k) in parts {
            let (part, tail) = rest.split_at_mut(k.div_ceil(2) * NR);
            let transposed = match *b {
                Operand::Bf16(b) => Operand::Bf16(b.t()),
                Operand::F32(b) => Operand::F32(b.t()),
            };
            pack::<NR>(transposed, q * NR, n, *k, part);
            rest = tail;
        }
    };

    let out = Out { c: c.as_mut_ptr(), m, n };
    let tile = |p: usize, q: usize, b: &[u32]| {
        let mut acc = [0f32; MR * NR];
        // SAFETY: `available` was asked by the caller; the panels hold `pairs` pairs of MR rows, NR columns.
        unsafe { micro_kernel(pairs, a[p * pairs * MR..].as_ptr(), b.as_ptr(), acc.as_mut_ptr()) };
        out.store(p, q, &acc);
    };
    if col_panels >= 2 * rayon::current_num_threads() {
        // A task owns a run of columns: its packed B panel stays in its core's cache.
        let run = col_panels.div_ceil(4 * rayon::current_num_threads());
        (0..col_panels.div_ceil(run)).into_par_iter().for_each(|task| {
            let mut b: Vec<u32> = uninit(pairs * NR);
            for q in task * run..col_panels.min((task + 1) * run) {
                pack_b(q, &mut b);
                (0..row_panels).for_each(|p| tile(p, q, &b));
            }
        });
    } else {
        let mut b: Vec<u32> = uninit(col_panels * pairs * NR);
        b.par_chunks_mut(pairs * NR).enumerate().for_each(|(q, panel)| pack_b(q, panel));
        (0..row_panels).into_par_iter().with_min_len(4).for_each(|p| {
            b.chunks_exact(pairs * NR).enumerate().for_each(|(q, b)| tile(p, q, b));
        });
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
    fn store(&self, p: usize, q: usize, acc: &[f32; MR * NR]) {
        let cols = NR.min(self.n - q * NR);
        for i in 0..MR.min(self.m - p * MR) {
            // SAFETY: row `p * MR + i` and columns `q * NR..` lie inside the m x n output, and no other task
            // writes this tile.
            let row =
                unsafe { std::slice::from_raw_parts_mut(self.c.add((p * MR + i) * self.n + q * NR), cols) };
            super::cpu::narrow(&acc[i * NR..][..cols], row);
        }
    }
}

/// `out[pair * W + i] = (x[first + i][2 pair], x[first + i][2 pair + 1])` for `W` rows; zero outside `rows`, `k`.
fn pack<const W: usize>(x: Operand<'_>, first: usize, rows: usize, k: usize, out: &mut [u32]) {
    let rows = W.min(rows - first);
    match x {
        Operand::Bf16(x) if x.cs == 1 => {
            if rows < W || k % 2 == 1 {
                out.fill(0);
            }
            for i in 0..rows {
                let row = &x.data[(first + i) * x.rs..][..k];
                for (pair, v) in row.chunks_exact(2).enumerate() {
                    out[pair * W + i] = v[0].to_bits() as u32 | (v[1].to_bits() as u32) << 16;
                }
                if k % 2 == 1 {
                    out[k / 2 * W + i] = row[k - 1].to_bits() as u32;
                }
            }
        }
        Operand::Bf16(x) if x.rs == 1 => {
            let zero = [bf16::ZERO; W];
            for (pair, out) in out.chunks_exact_mut(W).enumerate() {
                let low = &x.data[2 * pair * x.cs + first..][..rows];
                let high = if 2 * pair + 1 < k {
                    &x.data[(2 * pair + 1) * x.cs + first..][..rows]
                } else {
                    &zero[..rows]
                };
                out[rows..].fill(0);
                for (o, (l, h)) in out.iter_mut().zip(low.iter().zip(high)) {
                    *o = l.to_bits() as u32 | (h.to_bits() as u32) << 16;
                }
            }
        }
        Operand::Bf16(x) => pack_any::<W>(|i, j| x.data[i * x.rs + j * x.cs], first, rows, k, out),
        Operand::F32(x) => {
            pack_any::<W>(|i, j| Element::from_f32(x.data[i * x.rs + j * x.cs]), first, rows, k, out)
        }
    }
}

fn pack_any<const W: usize>(
    x: impl Fn(usize, usize) -> bf16,
    first: usize,
    rows: usize,
    k: usize,
    out: &mut [u32],
) {
    for (pair, out) in out.chunks_exact_mut(W).enumerate() {
        for (i, o) in out.iter_mut().enumerate() {
            let at = |j: usize| if i < rows && j < k { x(first + i, j).to_bits() as u32 } else { 0 };
            *o = at(2 * pair) | at(2 * pair + 1) << 16;
        }
    }
}

/// One `MR x NR` tile: `acc = sum over pairs of a[pair][i] . b[pair][j]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn micro_kernel(pairs: usize, mut a: *const u32, mut b: *const u32, acc: *mut f32) {
    // SAFETY: the caller hands `pairs` packed pairs of MR rows and NR columns, and MR x NR floats for `acc`.
    unsafe {
        let mut left = [_mm512_setzero_ps(); MR];
        let mut right = [_mm512_setzero_ps(); MR];
        for _ in 0..pairs {
            let b0: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.cast()));
            let b1: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.add(16).cast()));
            for i in 0..MR {
                let av: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a.add(i) as i32));
                left[i] = _mm512_dpbf16_ps(left[i], av, b0);
                right[i] = _mm512_dpbf16_ps(right[i], av, b1);
            }
            a = a.add(MR);
            b = b.add(NR);
        }
        for i in 0..MR {
            _mm512_storeu_ps(acc.add(i * NR), left[i]);
            _mm512_storeu_ps(acc.add(i * NR + 16), right[i]);
        }
    }
}
