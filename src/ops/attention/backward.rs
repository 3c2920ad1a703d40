//! The backward pass: tiles recomputed from each row's maximum and sum.

use super::forward::{KEYS, QUERIES, cap_scores};
use super::{Attention, Dims, Heads, RowStats};
use crate::kernels::blocks::{Blocks, Factor, product};
use crate::kernels::cpu::{self, simd};
use crate::kernels::element::{Element, exp};
use crate::kernels::gemm::Mat;
use rayon::prelude::*;

simd! {
    fn dot_rows<>(a: &[f32], b: &[f32]) -> f32 {
        let b = &b[..a.len()];
        cpu::sum_by(a.len(), |i| a[i] * b[i])
    }

    /// Scores to probabilities, and `dp` to `ds`, over the keys seen; zero elsewhere.
    fn score_grads<>(s: &mut [f32], dp: &mut [f32], from: u32, to: u32, max: f32, inverse_sum: f32, delta: f32, cap: f32) {
        for (i, (s, dp)) in (0u32..).zip(s.iter_mut().zip(dp)) {
            let seen = i >= from && i < to;
            let p = exp(*s - max) * inverse_sum;
            // d tanh(x / c) c / dx = 1 - (capped / c)²; without a cap, 1 / cap is 0.
            let bend = 1.0 - (*s * cap) * (*s * cap);
            *dp = if seen { p * (*dp - delta) * bend } else { 0.0 };
            *s = if seen { p } else { 0.0 };
        }
    }

    fn add_row<>(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// `(dq, dk, dv)` in `f32`, one head after the other. `heads` are q, k, v, y and g.
pub(super) fn gradients<T: Element>(
    options: &Attention,
    dims: &Dims,
    heads: &[Heads<'_, T>],
    stats: &[RowStats],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let Dims { b, h, hkv, tq, tk, d } = *dims;
    let group = dims.group();
    let [q, k, v, y, g] = [0, 1, 2, 3, 4].map(|i| &heads[i]);
    let mut delta = vec![0f32; b * h * tq];
    delta.par_chunks_mut(tq.max(1)).enumerate().for_each(|(head, delta)| {
        let (mut y_row, mut g_row) = (vec![0f32; d], vec![0f32; d]);
        for (i, delta) in delta.iter_mut().enumerate() {
            cpu::widen(y.row(head / h, head % h, i), &mut y_row);
            cpu::widen(g.row(head / h, head % h, i), &mut g_row);
            *delta = dot_rows(&y_row, &g_row);
        }
    });

    // A task is a head of keys, or a share of its tiles when there are fewer heads than threads; each share has its
    // own dq, and they are added up in order.
    let shares = rayon::current_num_threads().div_ceil((b * hkv).max(1)).min(tk.div_ceil(KEYS));
    let (mut dk, mut dv) = (vec![0f32; b * hkv * tk * d], vec![0f32; b * hkv * tk * d]);
    let run = tk.div_ceil(KEYS).div_ceil(shares) * KEYS;
    let tasks: Vec<_> = dk
        .chunks_mut(tk * d)
        .zip(dv.chunks_mut(tk * d))
        .enumerate()
        .flat_map(|(head, (dk, dv))| {
            let shares = dk.chunks_mut(run * d).zip(dv.chunks_mut(run * d)).enumerate();
            shares.map(move |(share, (dk, dv))| (head, share * run, dk, dv))
        })
        .collect();
    let blocks = Blocks::of::<T>();
    let parts: Vec<(usize, Vec<f32>)> = tasks
        .into_par_iter()
        .map(|(head, first, dk, dv)| {
            let mut dq = vec![0f32; group * tq * d];
            let (batch, kv, count) = (head / hkv, head % hkv, dk.len() / d);
            let (k, v) = (k.rows(batch, kv, first), v.rows(batch, kv, first));
            let keys = Keys {
                options,
                dims,
                blocks,
                batch,
                first,
                k: blocks.right(k, count, d),
                k_t: blocks.right(k.t(), d, count),
                v_t: blocks.right(v.t(), d, count),
            };
            for (i, dq) in dq.chunks_mut(tq * d).enumerate() {
                let (query, row) = (kv * group + i, (head * group + i) * tq);
                let (q, g) = (q.rows(batch, query, 0), g.rows(batch, query, 0));
                let queries = Queries {
                    q: blocks.left(q, tq, d),
                    q_right: blocks.right(q, tq, d),
                    g: blocks.left(g, tq, d),
                    g_right: blocks.right(g, tq, d),
                    stats: &stats[row..][..tq],
                    delta: &delta[row..][..tq],
                };
                keys.with(&queries, dq, dk, dv);
            }
            (head, dq)
        })
        .collect();
    let mut dq = vec![0f32; b * h * tq * d];
    for (head, part) in parts {
        add_row(&mut dq[head * group * tq * d..][..group * tq * d], &part);
    }
    (dq, dk, dv)
}

/// A run of one head's keys, from position `first` on.
struct Keys<'a> {
    options: &'a Attention,
    dims: &'a Dims,
    blocks: Blocks,
    batch: usize,
    first: usize,
    k: Factor<'a>,
    k_t: Factor<'a>,
    v_t: Factor<'a>,
}

/// One head's queries.
struct Queries<'a> {
    q: Factor<'a>,
    q_right: Factor<'a>,
    g: Factor<'a>,
    g_right: Factor<'a>,
    stats: &'a [RowStats],
    delta: &'a [f32],
}

impl Keys<'_> {
    /// Adds what the queries of a head give, to as many keys as `dk` has rows.
    fn with(&self, queries: &Queries<'_>, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let Dims { tq, d, .. } = *self.dims;
        let scale = self.options.scale;
        let inverse_cap = self.options.softcap.map_or(0.0, |c| 1.0 / c);
        let mut s: Vec<f32> = cpu::uninit(QUERIES * KEYS);
        let mut dp: Vec<f32> = cpu::uninit(QUERIES * KEYS);
        for (tile, (dk, dv)) in dk.chunks_mut(KEYS * d).zip(dv.chunks_mut(KEYS * d)).enumerate() {
            let cols = dk.len() / d;
            let (at, j) = (tile * KEYS, self.first + tile * KEYS);
            for i in (0..tq).step_by(QUERIES) {
                let rows = QUERIES.min(tq - i);
                let seen: Vec<_> =
                    (i..i + rows).map(|i| self.options.visible(self.dims, self.batch, i)).collect();
                if seen.iter().all(|(from, to)| *to <= j || *from >= j + cols || from >= to) {
                    continue;
                }
                let (here, keys) = (i..i + rows, at..at + cols);
                product(
                    (&queries.q, here.clone(), 0),
                    (&self.k_t, keys.clone(), 0),
                    d,
                    scale,
                    false,
                    &mut s,
                    KEYS,
                );
                product((&queries.g, here, 0), (&self.v_t, keys, 0), d, 1.0, false, &mut dp, KEYS);
                for (r, (from, to)) in seen.iter().enumerate() {
                    let (s, dp) = (&mut s[r * KEYS..][..cols], &mut dp[r * KEYS..][..cols]);
                    if let Some(cap) = self.options.softcap {
                        cap_scores(s, cap);
                    }
                    let (from, to) = (from.clamp(&j, &(j + cols)) - j, to.clamp(&j, &(j + cols)) - j);
                    let (RowStats { max, inverse_sum }, delta) = (queries.stats[i + r], queries.delta[i + r]);
                    score_grads(s, dp, from as u32, to as u32, max, inverse_sum, delta, inverse_cap);
                }
                let (p, ds) = (Mat::rows(&s, KEYS), Mat::rows(&dp, KEYS));
                let (p_t, ds_t) = (self.blocks.left(p.t(), cols, rows), self.blocks.left(ds.t(), cols, rows));
                let ds = self.blocks.left(ds, rows, cols);
                product((&p_t, 0..cols, 0), (&queries.g_right, 0..d, i), rows, 1.0, true, dv, d);
                product((&ds_t, 0..cols, 0), (&queries.q_right, 0..d, i), rows, scale, true, dk, d);
                product((&ds, 0..rows, 0), (&self.k, 0..d, at), cols, scale, true, &mut dq[i * d..], d);
            }
        }
    }
}
