// The gradients, in two kernels that each recompute the scores: dk and dv by tiles of keys, dq by tiles of queries.
// Nothing is added up by atomics, so that the result is the same every time.
//
//   p = 2^(score - maximum) / sum      dv = pᵀ g      ds = p (g vᵀ - delta)      dq = scale ds k      dk = scale dsᵀ q
//
// A head of keys that many heads of queries share is few blocks: SPLITS of them each take a part of those heads, leave
// their sums in `parts`, and attention_total adds them up.
//
// Prepended: MI, WARPS (a block owns 16 MI WARPS rows), BN rows in a tile of the others, HELD (bit 0: the first own
// operand in registers, bit 1: the second), BLOCKS in a multiprocessor, COLUMNS (of warps, for attention_dkdv), BQ (the
// BN of attention_dkdv).

#ifndef COLUMNS
#define COLUMNS 1
#endif
constexpr int BR = 16 * MI * WARPS / COLUMNS;
constexpr int THREADS = 32 * WARPS;
constexpr bool HELD1 = HELD & 1, HELD2 = HELD & 2;
// Operands in registers lend their shared memory to the tiles that stream by.
constexpr int OWN = HELD == 3 && BR <= 2 * BN ? 0 : 2 * BR * LD;
constexpr int STAGE = 2 * BN * LD;

#ifdef DELTA
// What backward wants to know of a query: maximum, 1 / sum, delta = sum(g y), in `rows`; the keys that it sees, in
// `seen`; and for each tile of BQ queries in `bounds`. A block is such a tile of one head; 256 threads.
constexpr int LANES = DP <= 64 ? 8 : DP <= 128 ? 16 : 32;

extern "C" __global__ void __launch_bounds__(256)
    attention_delta(const Half* y, const Half* g, const float2* stats, const int* keys, float4* rows, Range* seen,
                    Bounds* bounds, const Attention p) {
    const int block = blockIdx.x, tiles = (p.tq + BQ - 1) / BQ;
    const int tile = block % tiles, h = block / tiles % p.heads, b = block / tiles / p.heads;
    const int first = tile * BQ;
    y += b * p.y[0] + h * p.y[1];
    g += b * p.y[0] + h * p.y[1];
    const u64 at = (u64)(b * p.heads + h) * p.tq;
    const int lane = threadIdx.x % LANES;
    for (int i = first + threadIdx.x / LANES; i < first + BQ; i += 256 / LANES) {
        float sum = 0;
        if (i < p.tq) {
#if ALIGNED
            for (int d = lane * 8; d < D; d += LANES * 8) {
                const uint4 a4 = *(const uint4*)(y + i * p.y[2] + d), b4 = *(const uint4*)(g + i * p.y[2] + d);
                const unsigned a[4] = {a4.x, a4.y, a4.z, a4.w}, c[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    sum += to_float((Half)a[e]) * to_float((Half)c[e]);
                    sum += to_float((Half)(a[e] >> 16)) * to_float((Half)(c[e] >> 16));
                }
            }
#else
            for (int d = lane; d < D; d += LANES) sum += to_float(y[i * p.y[2] + d]) * to_float(g[i * p.y[2] + d]);
#endif
        }
#pragma unroll
        for (int o = LANES / 2; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
        if (lane == 0 && i < p.tq) {
            const float2 s = stats[at + i];
            rows[at + i] = float4{s.x, s.y, sum, 0};
        }
    }
    if (h == 0) {
        Bounds all = no_bounds();
        for (int i = first + threadIdx.x; i < min(first + BQ, (int)p.tq); i += 256) {
            const Range r = visible(p, keys, b, i);
            seen[(u64)b * p.tq + i] = r;
            widen(all, r);
        }
        all = block_bounds<8>(all);
        if (threadIdx.x == 0) bounds[b * tiles + tile] = all;
    }
}
#endif

// Scores and g vᵀ of one element to p and ds.
DEVICE void score_gradient(const Attention& p, float c, float& s, float& dp, float4 row) {
    float bend = 1;
    if (CAPPED) s = cap_score(p, s, bend);
    s = exp2_fast(fmaf(s, c, -row.x)) * row.y;
    dp = s * (dp - row.z);
    if (CAPPED) dp *= bend;
}

#ifdef DKDV
// The next tile of queries from `t` on of which one sees a key of [lo, hi).
DEVICE int next_tile(const Bounds* bounds, int t, int tiles, int lo, int hi) {
    while (t < tiles) {
        const int mine = t + threadIdx.x % 32;
        bool sees = false;
        if (mine < tiles) {
            const Bounds o = bounds[mine];
            sees = o.lo < hi && o.hi > lo;
        }
        const unsigned found = __ballot_sync(0xffffffffu, sees);
        if (found) return t + __ffs(found) - 1;
        t += 32;
    }
    return tiles;
}

// Long heads leave registers for one sum: then one block is for dv, the next for dk of the same keys.
constexpr bool ONE_SUM = COLUMNS == 1 && DP > 160;

// Warps of the same keys, COLUMNS of them: each has its share of the queries of a tile for the scores, and its share of
// the head for the sums, and they hand the weights to each other through shared memory. Fragments of queries and
// gradients then serve two rows of products where one warp could not hold the sums.
constexpr int SHARE = BN / COLUMNS;
constexpr int DC = DP / COLUMNS;
static_assert(SHARE % 16 == 0 && DC % 16 == 0, "a warp's share is whole tiles");
constexpr int LW = BN + 8;
constexpr int WEIGHTS = COLUMNS > 1 ? 2 * BR * LW : 0;

// A warp's C columns of 16 M rows, as store_rows, in float.
template <int M, int C>
DEVICE void store_part(const float (&c)[M][C / 8][4], const float (&factor)[M][2], float* to, int first, int end,
                       int column) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = first + m * 16 + r * 8 + lane / 4;
#pragma unroll
            for (int n = 0; n < C / 8; n++) {
                const int d = column + n * 8 + lane % 4 * 2;
                const float2 v = {c[m][n][2 * r] * factor[m][r], c[m][n][2 * r + 1] * factor[m][r]};
                float* const at = to + (u64)row * D + d;
                if (row >= end) continue;
                if constexpr (D % 2 == 0) {
                    if (d < D) *(float2*)at = v;
                } else {
                    if (d < D) at[0] = v.x;
                    if (d + 1 < D) at[1] = v.y;
                }
            }
        }
}

// Shared memory: (OWN + 2 STAGE + WEIGHTS) elements, and 2 BN of float4 and Range.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    attention_dkdv(const Half* q, const Half* k, const Half* v, const Half* g, const float4* rows, const Range* seen,
                   const Bounds* bounds, Half* dk, Half* dv, float* parts, const Attention p) {
    const int split = blockIdx.x % SPLITS, block = blockIdx.x / SPLITS / (ONE_SUM ? 2 : 1);
    const bool for_keys = ONE_SUM && blockIdx.x / SPLITS % 2;
    extern __shared__ uint4 shared[];
    Half* const own = (Half*)shared;
    Half* const stages = own + OWN;
    float4* const row_stages = (float4*)(stages + 2 * STAGE + WEIGHTS);
    Range* const seen_stages = (Range*)(row_stages + 2 * BN);

    // Under a causal mask the first keys are seen most: they start first.
    const int heads = p.batch * p.kv_heads, group = p.heads / p.kv_heads;
    const int first = block / heads * BR;
    const int b = block % heads / p.kv_heads, kv = block % p.kv_heads;
    k += b * p.k[0] + kv * p.k[1];
    v += b * p.v[0] + kv * p.v[1];
    const int first_head = group * split / SPLITS, last_head = group * (split + 1) / SPLITS;
    const int tiles = (p.tq + BN - 1) / BN;
    bounds += b * tiles;
    seen += (u64)b * p.tq;

    const int t = threadIdx.x, lane = t % 32;
    const int warp = t / 32 / COLUMNS, column = t / 32 % COLUMNS;
    Half* const weights_tile = stages + 2 * STAGE + warp * 16 * MI * LW;
    Half* const slopes_tile = weights_tile + BR * LW;
    load_rows<BR, THREADS>(own, k, p.k[2], first, p.tk, t);
    load_rows<BR, THREADS>(own + BR * LD, v, p.v[2], first, p.tk, t);
    commit();
    Left<MI, HELD1> key;
    Left<MI, HELD2> value;
    if constexpr (HELD != 0) {
        wait_for<0>();
        __syncthreads();
    }
    key.take(own + warp * 16 * MI * LD);
    value.take(own + (BR + warp * 16 * MI) * LD);
    if constexpr (HELD == 3) __syncthreads();

    auto load = [&](int tile, int head, int stage) {
        const int h = kv * group + head;
        Half* const to = stages + stage * STAGE;
        load_rows<BN, THREADS>(to, q + b * p.q[0] + h * p.q[1], p.q[2], tile * BN, p.tq, t);
        load_rows<BN, THREADS>(to + BN * LD, g + b * p.y[0] + h * p.y[1], p.y[2], tile * BN, p.tq, t);
        for (int i = t; i < BN; i += THREADS) {
            const int at = tile * BN + i;
            const bool valid = at < p.tq;
            const float4* from = valid ? rows + (u64)(b * p.heads + h) * p.tq + at : rows;
            copy_async(shared_address(row_stages + stage * BN + i), from, valid);
            seen_stages[stage * BN + i] = valid ? seen[at] : Range{0, 0};
        }
        commit();
    };

    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float value_sum[MI][DC / 8][4], key_sum[MI][DC / 8][4];
    clear(value_sum);
    clear(key_sum);
    const int start = next_tile(bounds, 0, tiles, first, first + BR);
    int tile = start, head = start < tiles ? first_head : last_head;
    int stage = 0;
    if (head < last_head) load(tile, head, 0);
    while (head < last_head) {
        int next = next_tile(bounds, tile + 1, tiles, first, first + BR), next_head = head;
        if (next == tiles) next = start, next_head++;
        wait_for<0>();
        __syncthreads();
        if (next_head < last_head) load(next, next_head, stage ^ 1);

        const Half* const q_tile = stages + stage * STAGE;
        const Half* const g_tile = q_tile + BN * LD;
        float s[MI][SHARE / 8][4], ds[MI][SHARE / 8][4];
        scores<MI, SHARE>(s, key, q_tile + column * SHARE * LD);
        scores<MI, SHARE>(ds, value, g_tile + column * SHARE * LD);
        const Bounds o = bounds[tile];
        const bool whole = o.all_lo <= first && o.all_hi >= first + BR;
#pragma unroll
        for (int n = 0; n < SHARE / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int at = stage * BN + column * SHARE + n * 8 + lane % 4 * 2 + e;
                const float4 row = row_stages[at];
#pragma unroll
                for (int m = 0; m < MI; m++) {
                    score_gradient(p, c, s[m][n][e], ds[m][n][e], row);
                    score_gradient(p, c, s[m][n][e + 2], ds[m][n][e + 2], row);
                }
            }
        if (!whole) {
#pragma unroll
            for (int n = 0; n < SHARE / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const Range r = seen_stages[stage * BN + column * SHARE + n * 8 + lane % 4 * 2 + e];
#pragma unroll
                    for (int m = 0; m < MI; m++)
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            const int j = first + (warp * MI + m) * 16 + half * 8 + lane / 4;
                            if (j < r.from || j >= r.to) s[m][n][e + 2 * half] = ds[m][n][e + 2 * half] = 0;
                        }
                }
        }
        if constexpr (COLUMNS > 1) {
            put<MI, SHARE>(weights_tile + column * SHARE, LW, s);
            put<MI, SHARE>(slopes_tile + column * SHARE, LW, ds);
            asm volatile("bar.sync %0, %1;" ::"r"(warp + 1), "n"(COLUMNS * 32) : "memory");
            accumulate<MI, BN, DC>(value_sum, weights_tile, LW, g_tile + column * DC);
            accumulate<MI, BN, DC>(key_sum, slopes_tile, LW, q_tile + column * DC);
        } else if constexpr (ONE_SUM) {
            unsigned weights[MI][SHARE / 16][4];
            if (for_keys) {
                as_left<MI, SHARE>(weights, ds);
            } else {
                as_left<MI, SHARE>(weights, s);
            }
            accumulate<MI, SHARE, DC>(value_sum, weights, for_keys ? q_tile : g_tile);
        } else {
            unsigned weights[MI][SHARE / 16][4];
            as_left<MI, SHARE>(weights, s);
            accumulate<MI, SHARE, DC>(value_sum, weights, g_tile);
            as_left<MI, SHARE>(weights, ds);
            accumulate<MI, SHARE, DC>(key_sum, weights, q_tile);
        }
        tile = next;
        head = next_head;
        stage ^= 1;
    }
    wait_for<0>();
    __syncthreads();

    const int at = warp * 16 * MI;
    float scale[MI][2], one[MI][2];
#pragma unroll
    for (int m = 0; m < MI; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) scale[m][r] = p.scale, one[m][r] = 1;
    const u64 to = b * p.dk[0] + kv * p.dk[1];
    // Of dk, then of dv: (split, batch row and head, key, D).
    const u64 all = (u64)SPLITS * heads * p.tk * D;
    float* const part = parts + ((u64)split * heads + b * p.kv_heads + kv) * p.tk * D;
    if constexpr (ONE_SUM) {
#pragma unroll
        for (int m = 0; m < MI; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) one[m][r] = for_keys ? p.scale : 1;
        if constexpr (SPLITS > 1)
            store_part<MI, DC>(value_sum, one, part + (for_keys ? 0 : all), first + at, p.tk, 0);
        else store_rows<MI, DC>(value_sum, one, own + at * LD, (for_keys ? dk : dv) + to, p.dk[2],
                       first + at, p.tk);
    } else if constexpr (SPLITS > 1) {
        store_part<MI, DC>(key_sum, scale, part, first + at, p.tk, column * DC);
        store_part<MI, DC>(value_sum, one, part + all, first + at, p.tk, column * DC);
    } else {
        store_rows<MI, DC>(key_sum, scale, own + at * LD, dk + to, p.dk[2], first + at, p.tk, column * DC);
        store_rows<MI, DC>(value_sum, one, own + at * LD, dv + to, p.dk[2], first + at, p.tk, column * DC);
    }
}
#endif

#ifdef TOTAL
// dk and dv out of their parts, an element a thread.
extern "C" __global__ void __launch_bounds__(256)
    attention_total(const float* parts, Half* dk, Half* dv, const Attention p) {
    const u64 heads = (u64)p.batch * p.kv_heads, one = heads * p.tk * D, i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= 2 * one) return;
    parts += i / one * SPLITS * one + i % one;
    float sum = 0;
#pragma unroll
    for (int s = 0; s < SPLITS; s++) sum += parts[s * one];
    const u64 d = i % D, row = i % one / D % p.tk, head = i % one / D / p.tk;
    Half* const to = i < one ? dk : dv;
    to[head / p.kv_heads * p.dk[0] + head % p.kv_heads * p.dk[1] + row * p.dk[2] + d] = from_float(sum);
}
#endif

#ifdef DQ
// Shared memory: (OWN + 2 STAGE) elements.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    attention_dq(const Half* q, const Half* k, const Half* v, const Half* g, const float4* rows, const int* keys,
                 Half* dq, const Attention p) {
    const int block = blockIdx.x;
    extern __shared__ uint4 shared[];
    Half* const own = (Half*)shared;
    Half* const stages = own + OWN;

    const int heads = p.batch * p.heads;
    const int first = ((p.tq + BR - 1) / BR - 1 - block / heads) * BR;
    const int b = block % heads / p.heads, h = block % p.heads;
    const int kv = h / (p.heads / p.kv_heads);
    q += b * p.q[0] + h * p.q[1];
    k += b * p.k[0] + kv * p.k[1];
    v += b * p.v[0] + kv * p.v[1];
    g += b * p.y[0] + h * p.y[1];
    dq += b * p.dq[0] + h * p.dq[1];
    rows += (u64)(b * p.heads + h) * p.tq;

    const int t = threadIdx.x, warp = t / 32, lane = t % 32;
    load_rows<BR, THREADS>(own, q, p.q[2], first, p.tq, t);
    load_rows<BR, THREADS>(own + BR * LD, g, p.y[2], first, p.tq, t);
    commit();

    float4 row[MI][2];
    Bounds all = no_bounds();
#pragma unroll
    for (int m = 0; m < MI; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = first + (warp * MI + m) * 16 + r * 8 + lane / 4;
            row[m][r] = i < p.tq ? rows[i] : float4{0, 0, 0, 0};
            if (i < p.tq) widen(all, visible(p, keys, b, i));
        }
    all = block_bounds<WARPS>(all);

    Left<MI, HELD1> query;
    Left<MI, HELD2> gradient;
    if constexpr (HELD != 0) {
        wait_for<0>();
        __syncthreads();
    }
    query.take(own + warp * 16 * MI * LD);
    gradient.take(own + (BR + warp * 16 * MI) * LD);
    if constexpr (HELD == 3) __syncthreads();

    auto load = [&](int j, int stage) {
        Half* const to = stages + stage * STAGE;
        load_rows<BN, THREADS>(to, k, p.k[2], j, p.tk, t);
        load_rows<BN, THREADS>(to + BN * LD, v, p.v[2], j, p.tk, t);
        commit();
    };
    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float out[MI][DP / 8][4];
    clear(out);
    int stage = 0;
    if (all.lo < all.hi) load(all.lo, 0);
    for (int j = all.lo; j < all.hi; j += BN) {
        wait_for<0>();
        __syncthreads();
        if (j + BN < all.hi) load(j + BN, stage ^ 1);
        const Half* const k_tile = stages + stage * STAGE;
        float s[MI][BN / 8][4], ds[MI][BN / 8][4];
        scores<MI, BN>(s, query, k_tile);
        scores<MI, BN>(ds, gradient, k_tile + BN * LD);
#pragma unroll
        for (int m = 0; m < MI; m++)
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) score_gradient(p, c, s[m][n][e], ds[m][n][e], row[m][e / 2]);
        if (j < all.all_lo || j + BN > all.all_hi) {
#pragma unroll
            for (int m = 0; m < MI; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int i = first + (warp * MI + m) * 16 + r * 8 + lane / 4;
                    const Range seen = visible(p, keys, b, min(i, p.tq - 1));
#pragma unroll
                    for (int n = 0; n < BN / 8; n++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            const int at = j + n * 8 + lane % 4 * 2 + e;
                            if (at < seen.from || at >= seen.to) ds[m][n][2 * r + e] = 0;
                        }
                }
        }
        unsigned weights[MI][BN / 16][4];
        as_left<MI, BN>(weights, ds);
        accumulate<MI, BN, DP>(out, weights, k_tile);
        stage ^= 1;
    }
    wait_for<0>();
    __syncthreads();

    float scale[MI][2];
#pragma unroll
    for (int m = 0; m < MI; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) scale[m][r] = p.scale;
    const int at = warp * 16 * MI;
    store_rows<MI, DP>(out, scale, own + at * LD, dq, p.dq[2], first + at, p.tq);
}
#endif
