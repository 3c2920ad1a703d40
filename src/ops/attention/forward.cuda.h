// y = softmax(scale q kᵀ) v over tiles of keys, with a running maximum and sum.
//
// Prepended: MI, WARPS (a block has 16 MI WARPS queries), BN keys in a tile, HELD (queries in registers), BLOCKS in a
// multiprocessor. Shared memory: (16 MI WARPS + 2 BN) LD elements.

constexpr int BR = 16 * MI * WARPS;
constexpr int THREADS = 32 * WARPS;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    attention_forward(const Half* q, const Half* k, const Half* v, const int* keys, Half* y, float2* stats,
                      const Attention p) {
    const int block = blockIdx.x;
    extern __shared__ uint4 shared[];
    Half* const q_tile = (Half*)shared;
    Half* const k_tile = q_tile + BR * LD;
    Half* const v_tile = k_tile + BN * LD;

    // The tiles with the most keys, the last ones, start first.
    const int heads = p.batch * p.heads;
    const int first = ((p.tq + BR - 1) / BR - 1 - block / heads) * BR;
    const int b = block % heads / p.heads, h = block % p.heads;
    const int kv = h / (p.heads / p.kv_heads);
    q += b * p.q[0] + h * p.q[1];
    k += b * p.k[0] + kv * p.k[1];
    v += b * p.v[0] + kv * p.v[1];
    y += b * p.y[0] + h * p.y[1];
    stats += (u64)(b * p.heads + h) * p.tq;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = first + warp * 16 * MI + lane / 4;
    Bounds all = no_bounds();
#pragma unroll
    for (int m = 0; m < MI; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = row + m * 16 + r * 8;
            if (i < p.tq) widen(all, visible(p, keys, b, i));
        }
    all = block_bounds<WARPS>(all);

    load_rows<BR, THREADS>(q_tile, q, p.q[2], first, p.tq, threadIdx.x);
    if (all.lo < all.hi) load_rows<BN, THREADS>(k_tile, k, p.k[2], all.lo, p.tk, threadIdx.x);
    commit();
    Left<MI, HELD> query;
    if constexpr (HELD) {
        wait_for<0>();
        __syncthreads();
    }
    query.take(q_tile + warp * 16 * MI * LD);

    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float maximum[MI][2], sum[MI][2];
    float out[MI][DP / 8][4];
    clear(out);
#pragma unroll
    for (int m = 0; m < MI; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) maximum[m][r] = -INFINITY, sum[m][r] = 0;

    for (int j = all.lo; j < all.hi; j += BN) {
        wait_for<0>();
        __syncthreads();
        load_rows<BN, THREADS>(v_tile, v, p.v[2], j, p.tk, threadIdx.x);
        commit();

        float s[MI][BN / 8][4];
        scores<MI, BN>(s, query, k_tile);
#if CAPPED
#pragma unroll
        for (int m = 0; m < MI; m++)
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float bend;
                    s[m][n][e] = cap_score(p, s[m][n][e], bend);
                }
#endif
        if (j < all.all_lo || j + BN > all.all_hi) {
#pragma unroll
            for (int m = 0; m < MI; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const Range seen = visible(p, keys, b, min(row + m * 16 + r * 8, p.tq - 1));
#pragma unroll
                    for (int n = 0; n < BN / 8; n++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            const int at = j + n * 8 + lane % 4 * 2 + e;
                            if (at < seen.from || at >= seen.to) s[m][n][2 * r + e] = -INFINITY;
                        }
                }
        }

        wait_for<0>();
        __syncthreads();
        if (j + BN < all.hi) {
            load_rows<BN, THREADS>(k_tile, k, p.k[2], j + BN, p.tk, threadIdx.x);
            commit();
        }

#pragma unroll
        for (int m = 0; m < MI; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float top = s[m][0][2 * r];
#pragma unroll
                for (int n = 0; n < BN / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
                top = fmaxf(maximum[m][r], top);
                // A row that has seen nothing but -inf keeps a finite shift: no NaN arises of inf - inf.
                const float shift = top == -INFINITY ? 0.0f : top * c;
                const float shrink = exp2_fast(maximum[m][r] * c - shift);
                maximum[m][r] = top;
                float part = 0;
#pragma unroll
                for (int n = 0; n < BN / 8; n++)
#pragma unroll
                    for (int e = 2 * r; e < 2 * r + 2; e++) {
                        s[m][n][e] = exp2_fast(fmaf(s[m][n][e], c, -shift));
                        part += s[m][n][e];
                    }
                sum[m][r] = sum[m][r] * shrink + part;
#pragma unroll
                for (int n = 0; n < DP / 8; n++) {
                    out[m][n][2 * r] *= shrink;
                    out[m][n][2 * r + 1] *= shrink;
                }
            }
        unsigned weights[MI][BN / 16][4];
        as_left<MI, BN>(weights, s);
        accumulate<MI, BN, DP>(out, weights, v_tile);
    }
    wait_for<0>();

    float inverse[MI][2];
#pragma unroll
    for (int m = 0; m < MI; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = sum[m][r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float2 found = row_stats(maximum[m][r] * c, total);
            inverse[m][r] = found.y;
            const int i = row + m * 16 + r * 8;
            if (lane % 4 == 0 && i < p.tq) stats[i] = found;
        }
    // Nothing reads the queries any more, once every copy into them has arrived.
    __syncthreads();
    const int at = warp * 16 * MI;
    store_rows<MI, DP>(out, inverse, q_tile + at * LD, y, p.y[2], first + at, p.tq);
}
