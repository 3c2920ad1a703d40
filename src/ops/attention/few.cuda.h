// Attention of a few queries over many keys, as in generation: bound by the reading of keys and values. The queries of
// a group of heads are the rows of one matrix product, so that each key is read once for all of them; the keys are
// split over blocks, and those of a block over its warps.
//
// Prepended: WARPS, STAGES of tiles on their way. Shared memory: (16 + WARPS STAGES 32) LD elements. A block for each 16 queries of a group, head of keys,
// batch row and, running fastest, split. With more than one split, attention_combine follows.

constexpr int THREADS = 32 * WARPS;
constexpr int KEYS = 16;
constexpr bool HELD = DP <= 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_few(const Half* q, const Half* k, const Half* v, const int* keys, Half* y, float2* stats, float* parts,
                  float2* part_stats, const Attention p) {
    extern __shared__ uint4 shared[];
    Half* const q_tile = (Half*)shared;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Half* const stages = q_tile + (16 + warp * STAGES * 2 * KEYS) * LD;

    const int group = p.heads / p.kv_heads, rows = group * p.tq, tiles = (rows + 15) / 16;
    const int split = blockIdx.x % p.splits, tile = blockIdx.x / p.splits % tiles;
    const int kv = blockIdx.x / p.splits / tiles % p.kv_heads, b = blockIdx.x / p.splits / tiles / p.kv_heads;
    const int first = tile * 16;
    q += b * p.q[0] + kv * group * p.q[1];
    k += b * p.k[0] + kv * p.k[1];
    v += b * p.v[0] + kv * p.v[1];
    const u64 query = (u64)(b * p.kv_heads + kv) * rows;  // the first of the group

    for (int r = warp; r < 16; r += WARPS) {
        const int row = first + r;
        const Half* const from = q + row / p.tq * p.q[1] + row % p.tq * p.q[2];
        for (int d = lane; d < DP; d += 32) q_tile[r * LD + d] = row < rows && d < D ? from[d] : (Half)0;
    }
    Range seen[2];
    Bounds all = no_bounds();
    for (int r = 0; r < 2; r++) {
        const int row = first + lane / 4 + r * 8;
        seen[r] = row < rows ? visible(p, keys, b, row % p.tq) : Range{0, 0};
        if (row < rows) widen(all, seen[r]);
    }
    all = warp_bounds(all);
    __syncthreads();
    Left<1, HELD> left;
    left.take(q_tile);

    // This block's keys, and of them every WARPS-th tile from its own on for a warp.
    const int length = max(all.hi - all.lo, 0);
    const int share = ((length + p.splits - 1) / p.splits + KEYS - 1) / KEYS * KEYS;
    const int end = min(all.lo + (split + 1) * share, all.hi);
    auto load = [&](int j, int stage) {
        if (j < end) {
            Half* const to = stages + stage * 2 * KEYS * LD;
            load_rows<KEYS, 32>(to, k, p.k[2], j, p.tk, lane);
            load_rows<KEYS, 32>(to + KEYS * LD, v, p.v[2], j, p.tk, lane);
        }
        commit();
    };
    const float c = CAPPED ? LOG2E : p.scale * LOG2E;
    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    float out[1][DP / 8][4];
    clear(out);
    int j = length > 0 ? all.lo + split * share + warp * KEYS : end, stage = 0;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) load(j + s * WARPS * KEYS, s);
    for (; j < end; j += WARPS * KEYS) {
        load(j + (STAGES - 1) * WARPS * KEYS, (stage + STAGES - 1) % STAGES);
        wait_for<STAGES - 1>();
        __syncwarp();
        const Half* const k_tile = stages + stage * 2 * KEYS * LD;
        float s[1][KEYS / 8][4];
        scores<1, KEYS>(s, left, k_tile);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = maximum[r];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& x = s[0][n][2 * r + e];
                    float bend;
                    if (CAPPED) x = cap_score(p, x, bend);
                    const int at = j + n * 8 + lane % 4 * 2 + e;
                    if (at < seen[r].from || at >= min(seen[r].to, end)) x = -INFINITY;
                    top = fmaxf(top, x);
                }
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            const float shift = top == -INFINITY ? 0 : top * c;
            const float shrink = exp2_fast(maximum[r] * c - shift);
            maximum[r] = top;
            float part = 0;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& x = s[0][n][2 * r + e];
                    x = exp2_fast(fmaf(x, c, -shift));
                    part += x;
                }
            sum[r] = sum[r] * shrink + part;
#pragma unroll
            for (int n = 0; n < DP / 8; n++) {
                out[0][n][2 * r] *= shrink;
                out[0][n][2 * r + 1] *= shrink;
            }
        }
        unsigned weights[1][KEYS / 16][4];
        as_left<1, KEYS>(weights, s);
        accumulate<1, KEYS, DP>(out, weights, k_tile + KEYS * LD);
        stage = (stage + 1) % STAGES;
        __syncwarp();
    }
    wait_for<0>();

    // The warps' results to one, through shared memory.
    __shared__ float2 warp_stats[WARPS][16];
    __syncthreads();
    float* const outs = (float*)shared;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = sum[r];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const int row = lane / 4 + r * 8;
        if (lane % 4 == 0) warp_stats[warp][row] = float2{maximum[r] * c, total};
#pragma unroll
        for (int n = 0; n < DP / 8; n++)
            *(float2*)(outs + (warp * 16 + row) * DP + n * 8 + lane % 4 * 2) =
                float2{out[0][n][2 * r], out[0][n][2 * r + 1]};
    }
    __syncthreads();
    for (int row = warp; row < 16 && first + row < rows; row += WARPS) {
        float top = -INFINITY, total = 0, factor[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, warp_stats[w][row].x);
        const float shift = top == -INFINITY ? 0 : top;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            factor[w] = exp2_fast(warp_stats[w][row].x - shift);
            total += warp_stats[w][row].y * factor[w];
        }
        const float2 all_stats = row_stats(shift, total);
        const u64 at = query + first + row;
        const u64 part = at * p.splits + split;
        const int i = (first + row) % p.tq, h = kv * group + (first + row) / p.tq;
        for (int d = lane; d < D; d += 32) {
            float x = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) x += outs[(w * 16 + row) * DP + d] * factor[w];
            if (p.splits > 1) {
                parts[part * D + d] = x;
            } else {
                y[b * p.y[0] + h * p.y[1] + i * p.y[2] + d] = from_float(x * all_stats.y);
            }
        }
        if (lane == 0) {
            if (p.splits > 1) {
                part_stats[part] = float2{top, total};
            } else {
                stats[at] = all_stats;
            }
        }
    }
}
