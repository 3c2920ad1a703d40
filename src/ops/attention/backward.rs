//! The backward pass: tiles recomputed from each row's maximum and sum.

use super::forward::{KEYS, QUERIES, cap_scores};
use super::{Attention, Dims, Heads, RowStats};
use crate::kernels::cpu::{self, simd};
use crate::kernels::element::{Element, exp};
use crate::kernels::gemm::{Mat, gemm_f32};
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
    let (q, k, v) = (heads[0].widen(b, h, tq), heads[1].widen(b, hkv, tk), heads[2].widen(b, hkv, tk));
    let g = heads[4].widen(b, h, tq);
    let mut delta = vec![0f32; b * h * tq];
    delta.par_chunks_mut(tq.max(1)).enumerate().for_each(|(head, delta)| {
        let mut y = vec![0f32; d];
        for (i, delta) in delta.iter_mut().enumerate() {
            cpu::widen(heads[3].row(head / h, head % h, i), &mut y);
            *delta = dot_rows(&y, &g[(head * tq + i) * d..][..d]);
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
    let parts: Vec<(usize, Vec<f32>)> = tasks
        .into_par_iter()
        .map(|(head, first, dk, dv)| {
            let mut dq = vec![0f32; group * tq * d];
            let batch = head / hkv;
            let at = head * group * tq;
            let task = Task {
                options,
                dims,
                batch,
                q: &q[at * d..][..group * tq * d],
                g: &g[at * d..][..group * tq * d],
                stats: &stats[at..][..group * tq],
                delta: &delta[at..][..group * tq],
                k: &k[(head * tk + first) * d..],
                v: &v[(head * tk + first) * d..],
            };
            task.run(first, &mut dq, dk, dv);
            (head, dq)
        })
        .collect();
    let mut dq = vec![0f32; b * h * tq * d];
    for (head, part) in parts {
        add_row(&mut dq[head * group * tq * d..][..group * tq * d], &part);
    }
    (dq, dk, dv)
}

/// A run of one head's keys, against all the queries of its group.
struct Task<'a> {
    options: &'a Attention,
    dims: &'a Dims,
    batch: usize,
    q: &'a [f32],
    g: &'a [f32],
    stats: &'a [RowStats],
    delta: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Task<'_> {
    /// Keys from position `first` on, as many as `dk` has rows.
    fn run(&self, first: usize, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let Dims { tq, d, .. } = *self.dims;
        let scale = self.options.scale;
        let inverse_cap = self.options.softcap.map_or(0.0, |c| 1.0 / c);
        let mut s = vec![0f32; QUERIES * KEYS];
        let mut dp = vec![0f32; QUERIES * KEYS];
        for (tile, (dk, dv)) in dk.chunks_mut(KEYS * d).zip(dv.chunks_mut(KEYS * d)).enumerate() {
            let cols = dk.len() / d;
            let (at, j) = (tile * KEYS * d, first + tile * KEYS);
            let (k, v) = (Mat::rows(&self.k[at..][..cols * d], d), Mat::rows(&self.v[at..][..cols * d], d));
            // Rows of `q` run over the heads of the group, and in each over the queries.
            for head in 0..self.dims.group() {
                for i in (0..tq).step_by(QUERIES) {
                    let rows = QUERIES.min(tq - i);
                    let seen: Vec<_> =
                        (i..i + rows).map(|i| self.options.visible(self.dims, self.batch, i)).collect();
                    if seen.iter().all(|(from, to)| *to <= j || *from >= j + cols || from >= to) {
                        continue;
                    }
                    let row = head * tq + i;
                    let (q, g) = (
                        Mat::rows(&self.q[row * d..][..rows * d], d),
                        Mat::rows(&self.g[row * d..][..rows * d], d),
                    );
                    gemm_f32((rows, cols, d), scale, q, k.t(), false, &mut s, KEYS, 1);
                    gemm_f32((rows, cols, d), 1.0, g, v.t(), false, &mut dp, KEYS, 1);
                    for (r, (from, to)) in seen.iter().enumerate() {
                        let (s, dp) = (&mut s[r * KEYS..][..cols], &mut dp[r * KEYS..][..cols]);
                        if let Some(cap) = self.options.softcap {
                            cap_scores(s, cap);
                        }
                        let (from, to) = (from.clamp(&j, &(j + cols)) - j, to.clamp(&j, &(j + cols)) - j);
                        let (RowStats { max, inverse_sum }, delta) =
                            (self.stats[row + r], self.delta[row + r]);
                        score_grads(s, dp, from as u32, to as u32, max, inverse_sum, delta, inverse_cap);
                    }
                    let (p, ds) = (Mat::rows(&s, KEYS), Mat::rows(&dp, KEYS));
                    gemm_f32((cols, d, rows), 1.0, p.t(), g, true, dv, d, 1);
                    gemm_f32((cols, d, rows), scale, ds.t(), q, true, dk, d, 1);
                    gemm_f32((rows, d, cols), scale, ds, k, true, &mut dq[row * d..], d, 1);
                }
            }
        }
    }
}
