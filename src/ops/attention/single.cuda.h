// Attention in f32, with plain multiply-adds: forward, and the gradients as in backward.cuda.h.
// The queries of a group of heads are one run of rows, head by head, so that a key is read once for all of them.
//
// Prepended: TS, the rows of a tile (16, 32 or 64). A block has 128 threads: 16 of rows by 8 of columns.

constexpr int THREADS = 128;
constexpr int DP = (D + 31) / 32 * 32;
constexpr int LD = DP + 4;
constexpr int LS = TS + 4;  // the length of a row of scores in shared memory
constexpr int RM = TS / 16, CN = TS / 8, DN = DP / 32;

// TS rows to shared memory, zeros beyond the head and where `row(i)` is null.
template <class Row>
DEVICE void load_rows(float* to, Row row) {
#if ALIGNED
    for (int i = threadIdx.x; i < TS * (DP / 4); i += THREADS) {
        const int r = i / (DP / 4), d = i % (DP / 4) * 4;
        const float* from = row(r);
        *(float4*)(to + r * LD + d) = from && d < D ? *(const float4*)(from + d) : float4{0, 0, 0, 0};
    }
#else
    for (int i = threadIdx.x; i < TS * DP; i += THREADS) {
        const int r = i / DP, d = i % DP;
        const float* from = row(r);
        to[r * LD + d] = from && d < D ? from[d] : 0;
    }
#endif
}

// s = a bᵀ: a thread has rows ty RM.. of `a` by columns tx + 8 n, rows of `b`.
DEVICE void scores(float (&s)[RM][CN], const float* a, const float* b) {
    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
#pragma unroll
    for (int m = 0; m < RM; m++)
#pragma unroll
        for (int n = 0; n < CN; n++) s[m][n] = 0;
#pragma unroll 4
    for (int d = 0; d < DP; d += 4) {
        float4 x[RM], z[CN];
#pragma unroll
        for (int m = 0; m < RM; m++) x[m] = *(const float4*)(a + (ty * RM + m) * LD + d);
#pragma unroll
        for (int n = 0; n < CN; n++) z[n] = *(const float4*)(b + (tx + 8 * n) * LD + d);
#pragma unroll
        for (int m = 0; m < RM; m++)
#pragma unroll
            for (int n = 0; n < CN; n++)
                s[m][n] = fmaf(x[m].w, z[n].w,
                               fmaf(x[m].z, z[n].z, fmaf(x[m].y, z[n].y, fmaf(x[m].x, z[n].x, s[m][n]))));
    }
}

DEVICE void put(float* to, const float (&s)[RM][CN]) {
    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
#pragma unroll
    for (int m = 0; m < RM; m++)
#pragma unroll
        for (int n = 0; n < CN; n++) to[(ty * RM + m) * LS + tx + 8 * n] = s[m][n];
}

// c += a b: a thread has rows ty RM.. by columns tx 4 + 32 n.. .
DEVICE void accumulate(float4 (&c)[RM][DN], const float* a, const float* b) {
    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
#pragma unroll 4
    for (int k = 0; k < TS; k++) {
        float x[RM];
#pragma unroll
        for (int m = 0; m < RM; m++) x[m] = a[(ty * RM + m) * LS + k];
#pragma unroll
        for (int n = 0; n < DN; n++) {
            const float4 z = *(const float4*)(b + k * LD + tx * 4 + 32 * n);
#pragma unroll
            for (int m = 0; m < RM; m++) {
                c[m][n].x = fmaf(x[m], z.x, c[m][n].x);
                c[m][n].y = fmaf(x[m], z.y, c[m][n].y);
                c[m][n].z = fmaf(x[m], z.z, c[m][n].z);
                c[m][n].w = fmaf(x[m], z.w, c[m][n].w);
            }
        }
    }
}

DEVICE void clear(float4 (&c)[RM][DN]) {
#pragma unroll
    for (int m = 0; m < RM; m++)
#pragma unroll
        for (int n = 0; n < DN; n++) c[m][n] = float4{0, 0, 0, 0};
}

DEVICE void store(float* to, float4 x, int d, float factor) {
    if (d < D) to[d] = x.x * factor;
    if (d + 1 < D) to[d + 1] = x.y * factor;
    if (d + 2 < D) to[d + 2] = x.z * factor;
    if (d + 3 < D) to[d + 3] = x.w * factor;
}

// The queries of one head of keys.
struct Queries {
    int b, kv, group, count;
    DEVICE Queries(const Attention& p, int head) {
        b = head / p.kv_heads, kv = head % p.kv_heads, group = p.heads / p.kv_heads, count = group * p.tq;
    }
    DEVICE u64 at(const Attention& p, const u64 (&strides)[3], int row) const {
        return b * strides[0] + (kv * group + row / p.tq) * strides[1] + row % p.tq * strides[2];
    }
    DEVICE u64 first(const Attention& p) const { return (u64)(b * p.kv_heads + kv) * count; }
};

DEVICE Bounds tile_bounds(const Attention& p, const int* keys, const Queries& queries, int first) {
    Bounds all = no_bounds();
    const int row = first + threadIdx.x;
    if (threadIdx.x < TS && row < queries.count) widen(all, visible(p, keys, queries.b, row % p.tq));
    all = block_bounds<THREADS / 32>(all);
    __syncthreads();
    return all;
}

#ifdef FORWARD
// A block for each tile of queries, head of keys, batch row and, running fastest, split; with more than one split,
// attention_combine follows. Shared memory: 2 TS LD + TS LS floats.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_forward(const float* q, const float* k, const float* v, const int* keys, float* y, float2* stats,
                      float* parts, float2* part_stats, const Attention p) {
    extern __shared__ uint4 shared[];
    float* const q_tile = (float*)shared;
    float* const other = q_tile + TS * LD;  // keys, then values
    float* const weights = other + TS * LD;

    const int heads = p.batch * p.kv_heads, split = blockIdx.x % p.splits;
    const Queries queries(p, blockIdx.x / p.splits % heads);
    const int tiles = (queries.count + TS - 1) / TS;
    const int first = (tiles - 1 - (int)(blockIdx.x / p.splits / heads)) * TS;
    k += queries.b * p.k[0] + queries.kv * p.k[1];
    v += queries.b * p.v[0] + queries.kv * p.v[1];
    load_rows(q_tile, [&](int r) { return first + r < queries.count ? q + queries.at(p, p.q, first + r) : nullptr; });
    Bounds all = tile_bounds(p, keys, queries, first);
    const int share = (max(all.hi - all.lo, 0) + p.splits - 1) / p.splits;
    const int from = all.lo < all.hi ? all.lo + split * share : 0;
    const int end = all.lo < all.hi ? min(from + share, all.hi) : 0;

    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float maximum[RM], sum[RM];
    Range seen[RM];
    float4 out[RM][DN];
    clear(out);
#pragma unroll
    for (int m = 0; m < RM; m++) {
        maximum[m] = -INFINITY, sum[m] = 0;
        seen[m] = visible(p, keys, queries.b, min(first + ty * RM + m, queries.count - 1) % p.tq);
    }
    for (int j = from; j < end; j += TS) {
        load_rows(other, [&](int r) { return j + r < p.tk ? k + (j + r) * p.k[2] : nullptr; });
        __syncthreads();
        float s[RM][CN];
        scores(s, q_tile, other);
#pragma unroll
        for (int m = 0; m < RM; m++) {
            float top = maximum[m];
#pragma unroll
            for (int n = 0; n < CN; n++) {
                float bend;
                if (CAPPED) s[m][n] = cap_score(p, s[m][n], bend);
                const int at = j + tx + 8 * n;
                if (at < seen[m].from || at >= min(seen[m].to, end)) s[m][n] = -INFINITY;
                top = fmaxf(top, s[m][n]);
            }
#pragma unroll
            for (int o = 1; o < 8; o *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
            const float shift = top == -INFINITY ? 0 : top * c;
            const float shrink = exp2_fast(maximum[m] * c - shift);
            maximum[m] = top;
            float part = 0;
#pragma unroll
            for (int n = 0; n < CN; n++) {
                s[m][n] = exp2_fast(fmaf(s[m][n], c, -shift));
                part += s[m][n];
            }
            sum[m] = sum[m] * shrink + part;
#pragma unroll
            for (int n = 0; n < DN; n++)
                out[m][n] = float4{out[m][n].x * shrink, out[m][n].y * shrink, out[m][n].z * shrink,
                                   out[m][n].w * shrink};
        }
        put(weights, s);
        __syncthreads();
        load_rows(other, [&](int r) { return j + r < p.tk ? v + (j + r) * p.v[2] : nullptr; });
        __syncthreads();
        accumulate(out, weights, other);
        __syncthreads();
    }

#pragma unroll
    for (int m = 0; m < RM; m++) {
        float total = sum[m];
#pragma unroll
        for (int o = 1; o < 8; o *= 2) total += __shfl_xor_sync(0xffffffffu, total, o);
        const int row = first + ty * RM + m;
        if (row >= queries.count) continue;
        const u64 at = queries.first(p) + row, part = at * p.splits + split;
        const float2 found = row_stats(maximum[m] * c, total);
        const bool whole = p.splits == 1;
        float* const to = whole ? y + queries.at(p, p.y, row) : parts + part * D;
#pragma unroll
        for (int n = 0; n < DN; n++) store(to, out[m][n], tx * 4 + 32 * n, whole ? found.y : 1);
        if (tx == 0) {
            if (whole) {
                stats[at] = found;
            } else {
                part_stats[part] = float2{maximum[m] * c, total};
            }
        }
    }
}
#endif

#ifdef DELTA
// delta = sum(g y), with the other statistics of a query: a warp a query.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_delta(const float* y, const float* g, const float2* stats, float4* rows, const Attention p) {
    const int at = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (at >= p.batch * p.heads * p.tq) return;
    const u64 from = at / p.tq / p.heads * p.y[0] + at / p.tq % p.heads * p.y[1] + at % p.tq * p.y[2];
    float sum = 0;
    for (int d = threadIdx.x % 32; d < D; d += 32) sum = fmaf(y[from + d], g[from + d], sum);
#pragma unroll
    for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (threadIdx.x % 32 == 0) rows[at] = float4{stats[at].x, stats[at].y, sum, 0};
}
#endif

// p and ds of a score and of g vᵀ, 0 where the query does not see the key.
DEVICE void score_gradient(const Attention& p, float c, float& s, float& dp, float4 row, bool sees) {
    float bend = 1;
    if (CAPPED) s = cap_score(p, s, bend);
    s = sees ? exp2_fast(fmaf(s, c, -row.x)) * row.y : 0;
    dp = sees ? s * (dp - row.z) * bend : 0;
}

#ifdef DKDV
// A block for each tile of keys, batch row and head of keys. Shared memory: 4 TS LD + 2 TS LS floats.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_dkdv(const float* q, const float* k, const float* v, const float* g, const float4* rows, const int* keys,
                   float* dk, float* dv, const Attention p) {
    extern __shared__ uint4 shared[];
    float* const k_tile = (float*)shared;
    float* const v_tile = k_tile + TS * LD;
    float* const q_tile = v_tile + TS * LD;
    float* const g_tile = q_tile + TS * LD;
    float* const weights = g_tile + TS * LD;
    float* const slopes = weights + TS * LS;

    const int heads = p.batch * p.kv_heads, first = blockIdx.x / heads * TS;
    const Queries queries(p, blockIdx.x % heads);
    k += queries.b * p.k[0] + queries.kv * p.k[1];
    v += queries.b * p.v[0] + queries.kv * p.v[1];
    rows += queries.first(p);
    load_rows(k_tile, [&](int r) { return first + r < p.tk ? k + (first + r) * p.k[2] : nullptr; });
    load_rows(v_tile, [&](int r) { return first + r < p.tk ? v + (first + r) * p.v[2] : nullptr; });

    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float4 key_sum[RM][DN], value_sum[RM][DN];
    clear(key_sum);
    clear(value_sum);
    for (int i = 0; i < queries.count; i += TS) {
        const Bounds all = tile_bounds(p, keys, queries, i);
        if (all.lo >= first + TS || all.hi <= first) continue;
        load_rows(q_tile, [&](int r) { return i + r < queries.count ? q + queries.at(p, p.q, i + r) : nullptr; });
        load_rows(g_tile, [&](int r) { return i + r < queries.count ? g + queries.at(p, p.y, i + r) : nullptr; });
        __syncthreads();
        float s[RM][CN], ds[RM][CN];
        scores(s, k_tile, q_tile);
        scores(ds, v_tile, g_tile);
#pragma unroll
        for (int n = 0; n < CN; n++) {
            const int at = i + tx + 8 * n;
            const bool valid = at < queries.count;
            const float4 row = valid ? rows[at] : float4{0, 0, 0, 0};
            const Range seen = valid ? visible(p, keys, queries.b, at % p.tq) : Range{0, 0};
#pragma unroll
            for (int m = 0; m < RM; m++) {
                const int j = first + ty * RM + m;
                score_gradient(p, c, s[m][n], ds[m][n], row, j >= seen.from && j < seen.to);
            }
        }
        put(weights, s);
        put(slopes, ds);
        __syncthreads();
        accumulate(value_sum, weights, g_tile);
        accumulate(key_sum, slopes, q_tile);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < RM; m++) {
        const int j = first + ty * RM + m;
        if (j >= p.tk) continue;
        const u64 to = queries.b * p.dk[0] + queries.kv * p.dk[1] + j * p.dk[2];
#pragma unroll
        for (int n = 0; n < DN; n++) {
            store(dk + to, key_sum[m][n], tx * 4 + 32 * n, p.scale);
            store(dv + to, value_sum[m][n], tx * 4 + 32 * n, 1);
        }
    }
}
#endif

#ifdef DQ
// A block for each tile of queries, batch row and head of keys. Shared memory: 4 TS LD + TS LS floats.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_dq(const float* q, const float* k, const float* v, const float* g, const float4* rows, const int* keys,
                 float* dq, const Attention p) {
    extern __shared__ uint4 shared[];
    float* const q_tile = (float*)shared;
    float* const g_tile = q_tile + TS * LD;
    float* const k_tile = g_tile + TS * LD;
    float* const v_tile = k_tile + TS * LD;
    float* const slopes = v_tile + TS * LD;

    const int heads = p.batch * p.kv_heads;
    const Queries queries(p, blockIdx.x % heads);
    const int tiles = (queries.count + TS - 1) / TS;
    const int first = (tiles - 1 - (int)(blockIdx.x / heads)) * TS;
    k += queries.b * p.k[0] + queries.kv * p.k[1];
    v += queries.b * p.v[0] + queries.kv * p.v[1];
    rows += queries.first(p);
    load_rows(q_tile, [&](int r) { return first + r < queries.count ? q + queries.at(p, p.q, first + r) : nullptr; });
    load_rows(g_tile, [&](int r) { return first + r < queries.count ? g + queries.at(p, p.y, first + r) : nullptr; });
    const Bounds all = tile_bounds(p, keys, queries, first);

    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float4 out[RM][DN], row[RM];
    Range seen[RM];
    clear(out);
#pragma unroll
    for (int m = 0; m < RM; m++) {
        const int i = first + ty * RM + m;
        const bool valid = i < queries.count;
        row[m] = valid ? rows[i] : float4{0, 0, 0, 0};
        seen[m] = valid ? visible(p, keys, queries.b, i % p.tq) : Range{0, 0};
    }
    for (int j = all.lo; j < all.hi; j += TS) {
        load_rows(k_tile, [&](int r) { return j + r < p.tk ? k + (j + r) * p.k[2] : nullptr; });
        load_rows(v_tile, [&](int r) { return j + r < p.tk ? v + (j + r) * p.v[2] : nullptr; });
        __syncthreads();
        float s[RM][CN], ds[RM][CN];
        scores(s, q_tile, k_tile);
        scores(ds, g_tile, v_tile);
#pragma unroll
        for (int m = 0; m < RM; m++)
#pragma unroll
            for (int n = 0; n < CN; n++) {
                const int at = j + tx + 8 * n;
                score_gradient(p, c, s[m][n], ds[m][n], row[m], at >= seen[m].from && at < seen[m].to);
            }
        put(slopes, ds);
        __syncthreads();
        accumulate(out, slopes, k_tile);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < RM; m++) {
        const int i = first + ty * RM + m;
        if (i >= queries.count) continue;
        float* const to = dq + queries.at(p, p.dq, i);
#pragma unroll
        for (int n = 0; n < DN; n++) store(to, out[m][n], tx * 4 + 32 * n, p.scale);
    }
}
#endif
