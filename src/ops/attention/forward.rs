//! The forward pass: tiles of queries by tiles of keys, and a path for a few queries over a long cache.

use super::{Attention, Dims, Heads, RowStats};
use crate::kernels::blocks::{Blocks, COLUMNS, ROWS, product};
use crate::kernels::cpu::{self, simd, uninit};
use crate::kernels::element::{Element, exp, tanh};
use crate::kernels::gemm::{Mat, own_dots, own_weighted_sum};
use candle_core::DType;
use rayon::prelude::*;

/// Queries and keys in a tile.
pub(super) const QUERIES: usize = 4 * ROWS;
pub(super) const KEYS: usize = 4 * COLUMNS;

simd! {
    /// Scores to capped scores.
    fn cap_scores<>(s: &mut [f32], cap: f32) {
        for s in s.iter_mut() {
            *s = cap * tanh(*s / cap);
        }
    }

    /// One row of scores, those outside `from..to` masked, to `e^(s - max)`; the running maximum and sum.
    fn online_softmax<>(s: &mut [f32], from: usize, to: usize, max: f32, sum: f32) -> (f32, f32) {
        // Whole rows have no tails, which cost more than what is masked.
        s[..from].fill(f32::NEG_INFINITY);
        s[to..].fill(f32::NEG_INFINITY);
        let new = cpu::max(s);
        let new = if new > max { new } else { max };
        // A row that has seen nothing but -inf keeps a finite shift, so that no NaN arises of inf - inf.
        let shift = if new == f32::NEG_INFINITY { 0.0 } else { new };
        (new, sum * exp(max - shift) + cpu::exp_sum_in_place(s, shift))
    }

    /// `y *= s`.
    fn scale_row<>(y: &mut [f32], s: f32) {
        for y in y.iter_mut() {
            *y *= s;
        }
    }

    /// Dot products of `q` with the rows of `k`, `stride` apart.
    fn scores<T>(q: &[f32], k: &[T], stride: usize, out: &mut [f32]) {
        let d = q.len();
        // Heads are short: a vector of sums a key, rather than the many that long rows need.
        const L: usize = 16;
        let whole = d - d % L;
        for (j, out) in out.iter_mut().enumerate() {
            let k = &k[j * stride..][..d];
            let mut sums = [0f32; L];
            for (q, k) in q[..whole].chunks_exact(L).zip(k[..whole].chunks_exact(L)) {
                for ((sum, q), k) in sums.iter_mut().zip(q).zip(k) {
                    *sum = q.mul_add(k.to_f32(), *sum);
                }
            }
            for ((sum, q), k) in sums.iter_mut().zip(&q[whole..]).zip(&k[whole..]) {
                *sum = q.mul_add(k.to_f32(), *sum);
            }
            let mut width = L / 2;
            while width > 0 {
                for l in 0..width {
                    sums[l] += sums[l + width];
                }
                width /= 2;
            }
            *out = sums[0];
        }
    }

    /// `y += sum of p[j] v[j]`, the rows of `v` `stride` apart.
    fn weighted_sum<T>(p: &[f32], v: &[T], stride: usize, y: &mut [f32]) {
        let d = y.len();
        for (j, p) in p.iter().enumerate() {
            for (y, v) in y.iter_mut().zip(&v[j * stride..][..d]) {
                *y = v.to_f32().mul_add(*p, *y);
            }
        }
    }
}

/// The output in `f32`, `(B, H, Tq, D)`, and the statistics of each query's scores.
pub(super) fn tiled<T: Element>(
    options: &Attention,
    dims: &Dims,
    q: Heads<'_, T>,
    k: Heads<'_, T>,
    v: Heads<'_, T>,
) -> (Vec<f32>, Vec<RowStats>) {
    let Dims { b, h, hkv, tq, tk, d } = *dims;
    let blocks = Blocks::of::<T>();
    let keys = |i: usize| {
        let (k, v) = (k.rows(i / hkv, i % hkv, 0), v.rows(i / hkv, i % hkv, 0));
        (blocks.right(k.t(), d, tk), blocks.right(v, tk, d))
    };
    let keys: Vec<_> = (0..b * hkv).into_par_iter().map(keys).collect();
    let mut y: Vec<f32> = uninit(b * h * tq * d);
    let mut stats = vec![RowStats::default(); b * h * tq];
    let tiles: Vec<_> = y
        .chunks_mut(tq * d)
        .zip(stats.chunks_mut(tq))
        .enumerate()
        .flat_map(|(head, (y, stats))| {
            let tiles = y.chunks_mut(QUERIES * d).zip(stats.chunks_mut(QUERIES));
            tiles.enumerate().map(move |(tile, (y, stats))| (head, tile * QUERIES, y, stats))
        })
        .collect();
    tiles.into_par_iter().for_each(|(head, first, y, stats)| {
        let (batch, kv) = (head / h, head / h * hkv + head % h / dims.group());
        let (k, v) = &keys[kv];
        let rows = stats.len();
        let seen: Vec<_> = (0..rows).map(|i| options.visible(dims, batch, first + i)).collect();
        let from = seen.iter().map(|s| s.0).min().unwrap_or(0);
        let to = seen.iter().map(|s| s.1).max().unwrap_or(0);
        let queries = q.rows(batch, head % h, first);
        let queries = blocks.left(queries, rows, d);
        let mut scores: Vec<f32> = uninit(rows * KEYS);
        let mut running = vec![(f32::NEG_INFINITY, 0f32); rows];
        y.fill(0.0);
        let pairs = usize::from(T::DTYPE == DType::BF16);
        // Tiles begin where panels do. Values before the first key are left out, as they may be anything; one beside
        // the first and the last is not in `bf16`, whose rows are multiplied in pairs.
        for j in (from / KEYS * KEYS..to).step_by(KEYS).filter(|_| from < to) {
            let (cols, lead) = (KEYS.min(to - j), from.saturating_sub(j) & !pairs);
            let scale = options.scale;
            product((&queries, 0..rows, 0), (k, j..j + cols, 0), d, scale, false, &mut scores, KEYS);
            for (i, (max, sum)) in running.iter_mut().enumerate() {
                let row = &mut scores[i * KEYS..][..KEYS];
                if let Some(cap) = options.softcap {
                    cap_scores(&mut row[..cols], cap);
                }
                let (from, to) = (seen[i].0.clamp(j, j + cols) - j, seen[i].1.clamp(j, j + cols) - j);
                let (new_max, new_sum) = online_softmax(row, from, to.max(from), *max, *sum);
                if new_max > *max && *sum > 0.0 {
                    scale_row(&mut y[i * d..][..d], exp(*max - new_max));
                }
                (*max, *sum) = (new_max, new_sum);
            }
            let p = blocks.left(Mat::rows(&scores, KEYS), rows, cols);
            product((&p, 0..rows, lead), (v, 0..d, j + lead), cols - lead, 1.0, true, y, d);
        }
        for (i, (max, sum)) in running.into_iter().enumerate() {
            stats[i] = RowStats::new(max, sum);
            scale_row(&mut y[i * d..][..d], stats[i].inverse_sum);
        }
    });
    (y, stats)
}

/// [`tiled`] for a few queries: each key and value is read once, in place.
pub(super) fn few_queries<T: Element>(
    options: &Attention,
    dims: &Dims,
    q: Heads<'_, T>,
    k: Heads<'_, T>,
    v: Heads<'_, T>,
) -> (Vec<f32>, Vec<RowStats>) {
    let Dims { b, h, hkv, tq, tk, d } = *dims;
    let group = dims.group();
    let mut y = vec![0f32; b * h * tq * d];
    let mut stats = vec![RowStats::default(); b * h * tq];
    // A task is a head of keys with its group of query heads.
    let body = |head: usize, y: &mut [f32], stats: &mut [RowStats]| {
        let (batch, kv) = (head / hkv, head % hkv);
        let (k, v) = (k.rows(batch, kv, 0), v.rows(batch, kv, 0));
        let mut query = vec![0f32; d];
        let mut row = vec![0f32; tk];
        for i in 0..group * tq {
            let (first, last) = options.visible(dims, batch, i % tq);
            if first >= last {
                continue;
            }
            let row = &mut row[..last - first];
            let (q, y) = (q.row(batch, kv * group + i / tq, i % tq), &mut y[i * d..][..d]);
            cpu::widen(q, &mut query);
            let (k_from, v_from) = (&k.data[first * k.rs..], &v.data[first * v.rs..]);
            if own_dots(q, &query, k_from, k.rs, row) {
                scale_row(row, options.scale);
            } else {
                scale_row(&mut query, options.scale);
                scores(&query, k_from, k.rs, row);
            }
            if let Some(cap) = options.softcap {
                cap_scores(row, cap);
            }
            let (max, sum) = online_softmax(row, 0, last - first, f32::NEG_INFINITY, 0.0);
            if !own_weighted_sum(row, v_from, v.rs, y) {
                weighted_sum(row, v_from, v.rs, y);
            }
            stats[i] = RowStats::new(max, sum);
            scale_row(y, stats[i].inverse_sum);
        }
    };
    let heads = y.chunks_mut(group * tq * d).zip(stats.chunks_mut(group * tq)).enumerate();
    match b * h * tq * tk * d > 32 * 1024 {
        true => heads.collect::<Vec<_>>().into_par_iter().for_each(|(i, (y, stats))| body(i, y, stats)),
        false => heads.for_each(|(i, (y, stats))| body(i, y, stats)),
    }
    (y, stats)
}
