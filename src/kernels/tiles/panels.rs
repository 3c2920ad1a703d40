//! Factors packed once, for products on the caller's thread.

use super::ahead::Ahead;
use super::kernel::{Left, tile};
use super::pack::pack;
use super::{Kind, MR, Operand};
use crate::kernels::cpu::uninit;
use std::arch::x86_64::*;
use std::ops::Range;

/// What the first row of a block of a left factor is a multiple of.
pub(crate) const ROWS: usize = MR;
/// What the first column of a block of a right factor is a multiple of.
pub(crate) const COLUMNS: usize = 32;

/// The panels of a left factor's rows or of a right factor's columns.
pub(crate) struct Panels {
    kind: Kind,
    width: usize,
    words: usize,
    data: Vec<u32>,
}

impl Panels {
    /// A left factor, `rows x k`.
    pub fn left(kind: Kind, x: Operand<'_>, rows: usize, k: usize) -> Self {
        Self::new(kind, x, rows, k, ROWS)
    }

    /// A right factor, `k x columns`.
    pub fn right(kind: Kind, x: Operand<'_>, k: usize, columns: usize) -> Self {
        Self::new(kind, x.t(), columns, k, COLUMNS)
    }

    fn new(kind: Kind, x: Operand<'_>, rows: usize, k: usize, width: usize) -> Self {
        let words = kind.words(k);
        let mut data = uninit(rows.div_ceil(width) * words * width);
        for (i, panel) in data.chunks_exact_mut((words * width).max(1)).enumerate() {
            pack(kind, x, i * width, rows, k, width, panel);
        }
        Panels { kind, width, words, data }
    }

    /// The words `first..` of the panel that begins with a row or column.
    fn panel(&self, at: usize, first: usize) -> &[u32] {
        &self.data[(at / self.width * self.words + first) * self.width..]
    }
}

/// `out = alpha a b`, or `out += alpha a b`: rows of `a` by columns of `b`, over `k` of what they share from `a_k` and
/// `b_k` on, which for `bf16` are even.
#[allow(clippy::too_many_arguments)]
pub(crate) fn product(
    (a, rows, a_k): (&Panels, Range<usize>, usize),
    (b, columns, b_k): (&Panels, Range<usize>, usize),
    k: usize,
    alpha: f32,
    accumulate: bool,
    out: &mut [f32],
    out_rs: usize,
) {
    let kind = a.kind;
    let aligned = |k: usize| kind == Kind::F32 || k.is_multiple_of(2);
    assert!(kind == b.kind && (a.width, b.width) == (ROWS, COLUMNS) && aligned(a_k) && aligned(b_k));
    assert!(rows.start.is_multiple_of(ROWS) && columns.start.is_multiple_of(COLUMNS));
    let (words, a_k, b_k) = (kind.words(k), kind.words(a_k), kind.words(b_k));
    assert!(a_k + words <= a.words && b_k + words <= b.words);
    let mut sums = [[[0f32; 16]; 2]; ROWS];
    for column in columns.clone().step_by(COLUMNS) {
        let right = b.panel(column, b_k);
        let here = COLUMNS.min(columns.end - column);
        for row in rows.clone().step_by(ROWS) {
            let left = Left::Packed(a.panel(row, a_k));
            tile(kind, words, left, right, false, &mut sums, &mut Ahead::default());
            let at = (row - rows.start) * out_rs + column - columns.start;
            let count = ROWS.min(rows.end - row);
            assert!(at + (count - 1) * out_rs + here <= out.len());
            // SAFETY: `Kind::of` has seen the features, and the rows lie inside `out`.
            unsafe { store(&sums[..count], here, alpha, accumulate, out[at..].as_mut_ptr(), out_rs) };
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn store(
    sums: &[[[f32; 16]; 2]],
    columns: usize,
    alpha: f32,
    accumulate: bool,
    out: *mut f32,
    out_rs: usize,
) {
    let masks = [columns.min(16), columns.saturating_sub(16)].map(|n| ((1u32 << n) - 1) as u16);
    let alpha = _mm512_set1_ps(alpha);
    // SAFETY: masks keep what is read and written to `columns` of each row, which the caller has seen to be there.
    unsafe {
        for (i, row) in sums.iter().enumerate() {
            for (v, (sum, mask)) in row.iter().zip(masks).enumerate() {
                let at = out.add(i * out_rs).wrapping_add(16 * v);
                let old = if accumulate { _mm512_maskz_loadu_ps(mask, at) } else { _mm512_setzero_ps() };
                let sum = _mm512_loadu_ps(sum.as_ptr());
                _mm512_mask_storeu_ps(at, mask, _mm512_fmadd_ps(sum, alpha, old));
            }
        }
    }
}
