//! Packing of factors in 32-bit words.

use super::{Kind, Operand};
use crate::kernels::cpu;
use crate::kernels::element::Element;
use half::bf16;
use std::arch::x86_64::*;

/// `out[word * w + i]` is word `word` of row `first + i`, for `w` rows; zero outside `rows` and `k`.
pub(super) fn pack(
    kind: Kind,
    x: Operand<'_>,
    first: usize,
    rows: usize,
    k: usize,
    w: usize,
    out: &mut [u32],
) {
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
            assert!(
                k == 0 || (k - 1) * x.cs + first + rows <= x.data.len() && out.len() >= k.div_ceil(2) * w
            );
            // SAFETY: `Kind::of` has seen the features; `k` columns of `rows` are there, and room for their pairs.
            unsafe { pack_columns(x.data[first..].as_ptr().cast(), x.cs, rows, k, w, out) }
        }
        (Kind::F32, Operand::F16(x)) if x.cs == 1 => {
            const RUN: usize = 128;
            let mut wide = [0f32; 32 * RUN];
            for j in (0..k).step_by(RUN) {
                let here = RUN.min(k - j);
                for (i, wide) in wide.chunks_exact_mut(RUN).enumerate().take(rows) {
                    cpu::widen(&x.data[(first + i) * x.rs + j..][..here], &mut wide[..here]);
                }
                pack_rows(wide.as_ptr().cast(), RUN, rows, here, w, &mut out[j * w..]);
            }
        }
        (Kind::F32, Operand::F16(x)) if x.rs == 1 => {
            for (j, out) in out.chunks_exact_mut(w).enumerate() {
                let (to, rest) = out.split_at_mut(rows);
                cpu::widen(&x.data[j * x.cs + first..][..rows], bytemuck::cast_slice_mut(to));
                rest.fill(0);
            }
        }
        (Kind::F32, Operand::F16(x)) => {
            each_word(rows, w, out, |i, j| x.data[(first + i) * x.rs + j * x.cs].to_f32().to_bits())
        }
        (Kind::Bf16, Operand::F16(_)) => unreachable!("f16 beside bf16"),
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

/// `out[pair * w + i]` is elements `i` of columns `2 pair` and `2 pair + 1`, `stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_columns(x: *const u16, stride: usize, rows: usize, k: usize, w: usize, out: &mut [u32]) {
    let mask = |n: usize| ((1u32 << n.min(16)) - 1) as u16;
    let mut order = [[0u16; 32]; 2];
    for (half, order) in order.iter_mut().enumerate() {
        for (i, at) in order.iter_mut().enumerate() {
            *at = (16 * half + i / 2 + 32 * (i % 2)) as u16;
        }
    }
    // SAFETY: what is read lies in `rows` elements of each column, by masks where they are not 32; there is room for `w`
    // words of each pair.
    unsafe {
        let order = order.map(|order| _mm512_loadu_si512(order.as_ptr().cast()));
        for (pair, out) in out.chunks_exact_mut(w).enumerate().take(k.div_ceil(2)) {
            let low = x.add(2 * pair * stride);
            let high = (2 * pair + 1 < k).then(|| low.add(stride));
            if let Some(high) = high.filter(|_| rows == 32 && w == 32) {
                let (low, high) = (_mm512_loadu_si512(low.cast()), _mm512_loadu_si512(high.cast()));
                for (order, out) in order.iter().zip(out.chunks_exact_mut(16)) {
                    let words = _mm512_permutex2var_epi16(low, *order, high);
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
                }
                continue;
            }
            for (i, out) in out.chunks_mut(16).enumerate() {
                let here = mask(rows.saturating_sub(16 * i));
                let wide = |x: *const u16| {
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, x.wrapping_add(16 * i).cast()))
                };
                let high = high.map_or(_mm512_setzero_si512(), &wide);
                let words = _mm512_or_si512(wide(low), _mm512_slli_epi32::<16>(high));
                _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask(out.len()), words);
            }
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
                    x.wrapping_add(half * stride + j),
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
        // A store with a mask takes several times as long: the words too many are those of the next column, which follows.
        let loose = if here == 16 { cols } else { cols.saturating_sub(16usize.div_ceil(w)) };
        for (c, r) in r.iter().enumerate().take(loose) {
            _mm512_storeu_si512(out.add(c * w).cast(), *r);
        }
        for (c, r) in r.iter().enumerate().take(cols).skip(loose) {
            _mm512_mask_storeu_epi32(out.add(c * w).cast(), mask(here), *r);
        }
    }
}
