// Attention on the matrix units of Apple's GPUs: forward, and backward by a pass over queries (dq) and one over keys
// (dk, dv), which needs no atomics. Each warp owns 8 rows of queries or keys; TILE rows of the other side are staged
// in group memory at a time. D is the head's size, WIDTH that to the next multiple of 8. CAUSAL, CAPPED: 0 or 1;
// KEYS: 0, all; 1, a range for each batch row; 2, the first key for each position.

struct Heads {
    ulong batch, head, row;  // strides
};

struct Attention {
    Heads q, k, v, y, dk;  // g and dq lie as y does, dv as dk
    uint heads, group, tq, tk;
    uint window;  // 0xffffffff for none
    float scale, cap;
};

struct Range {
    uint from, to;
};

constexpr SCOPE uint WARPS = GROUP_SIZE / WARP;
constexpr SCOPE uint ROWS = WARPS * 8;
constexpr SCOPE uint PARTS = WIDTH / 8;
constexpr SCOPE uint PER = 16 / sizeof(T);
constexpr SCOPE uint PITCH = WIDTH + PER;  // of a staged row: rows begin in different banks

struct ALIGNED_16 Pack {
    T e[PER];
};

// The keys that query i sees.
FN Range visible(uint b, uint i, GLOBAL const uint* keys, PARAMS(Attention) p) {
    Range see;
    see.from = 0;
    see.to = i < p.tq ? p.tk : 0;
    if (i >= p.tq) return see;
    const uint position = p.tk + i < p.tq ? 0 : p.tk + i - p.tq;
    if (CAUSAL && position + 1 < see.to) see.to = position + 1;
    if (position + 1 > p.window) see.from = position + 1 - p.window;
    if (KEYS == 1) {
        if (keys[2 * b] > see.from) see.from = keys[2 * b];
        if (keys[2 * b + 1] < see.to) see.to = keys[2 * b + 1];
    }
    if (KEYS == 2) {
        const uint start = keys[b * p.tk + position];
        if (start > see.from) see.from = start;
    }
    if (see.to < see.from) see.to = see.from;
    return see;
}

// From the first to the last key that one of n queries sees.
FN Range any_of(SHARED_PTR(const Range) see, uint n) {
    Range any;
    any.from = 0xffffffff;
    any.to = 0;
    for (uint i = 0; i < n; i++)
        if (see[i].from < see[i].to) {
            if (see[i].from < any.from) any.from = see[i].from;
            if (see[i].to > any.to) any.to = see[i].to;
        }
    return any;
}

// TILE rows from `first` on, of which those in `rows` are read and the others are 0.
FN void stage(GLOBAL const T* x, ulong stride, uint first, Range rows, SHARED_PTR(T) tile) {
#if WIDE  // rows of whole vectors, at multiples of 16 bytes
    for (uint i = thread_id(); i < TILE * (WIDTH / PER); i += GROUP_SIZE) {
        const uint r = i / (WIDTH / PER), c = i % (WIDTH / PER) * PER;
        Pack pack;
        for (uint j = 0; j < PER; j++) pack.e[j] = T(0.0f);
        if (first + r >= rows.from && first + r < rows.to && c < D)
            pack = *(GLOBAL const Pack*)(x + ulong(first + r) * stride + c);
        *(SHARED_PTR(Pack))(tile + r * PITCH + c) = pack;
    }
#else
    for (uint i = thread_id(); i < TILE * WIDTH; i += GROUP_SIZE) {
        const uint r = i / WIDTH, c = i % WIDTH;
        const bool inside = first + r >= rows.from && first + r < rows.to && c < D;
        tile[r * PITCH + c] = T(inside ? float(x[ulong(first + r) * stride + c]) : 0.0f);
    }
#endif
}

// This lane's elements of the row `i` of `rows`.
FN void own_row(GLOBAL const T* x, ulong stride, uint i, uint rows, THREAD_PTR(T) own) {
    for (uint d = 0; d < PARTS; d++)
        for (uint j = 0; j < 2; j++) {
            const uint c = d * 8 + matrix_col() + j;
            own[d * 2 + j] = T(i < rows && c < D ? float(x[ulong(i) * stride + c]) : 0.0f);
        }
}

// s = own tileᵀ: this warp's 8 rows by TILE columns. Four sums in turn: a quarter of the roundings each, and no product
// waits for the one before.
FN void by_rows(THREAD_PTR(const T) own, SHARED_PTR(const T) tile, THREAD_PTR(Matrix) s) {
    for (uint f = 0; f < TILE / 8; f++) {
        Matrix sums[4] = {Matrix(0.0f), Matrix(0.0f), Matrix(0.0f), Matrix(0.0f)};
        for (uint d = 0; d < PARTS; d++) {
            Matrix a, b;
            for (uint j = 0; j < 2; j++) {
                a.thread_elements()[j] = float(own[d * 2 + j]);
                b.thread_elements()[j] = float(tile[(f * 8 + matrix_col() + j) * PITCH + d * 8 + matrix_row()]);
            }
            simdgroup_multiply_accumulate(sums[d % 4], a, b, sums[d % 4]);
        }
        for (uint j = 0; j < 2; j++)
            s[f].thread_elements()[j] = (sums[0].thread_elements()[j] + sums[1].thread_elements()[j]) +
                                        (sums[2].thread_elements()[j] + sums[3].thread_elements()[j]);
    }
}

// out += s tile: 8 rows by WIDTH columns.
FN void add_rows(THREAD_PTR(Matrix) s, SHARED_PTR(const T) tile, THREAD_PTR(Matrix) out) {
    for (uint f = 0; f < TILE / 8; f++)
        for (uint d = 0; d < PARTS; d++) {
            Matrix b;
            for (uint j = 0; j < 2; j++)
                b.thread_elements()[j] = float(tile[(f * 8 + matrix_row()) * PITCH + d * 8 + matrix_col() + j]);
            simdgroup_multiply_accumulate(out[d], s[f], b, out[d]);
        }
}

FN void write_row(THREAD_PTR(Matrix) out, float scale, GLOBAL T* y, ulong stride, uint i, uint rows) {
    for (uint d = 0; d < PARTS; d++)
        for (uint j = 0; j < 2; j++) {
            const uint c = d * 8 + matrix_col() + j;
            if (i < rows && c < D) y[ulong(i) * stride + c] = T(out[d].thread_elements()[j] * scale);
        }
}

FN float score(float product, PARAMS(Attention) p) {
    return CAPPED ? p.cap * tanh32(product * p.scale / p.cap) : product * p.scale;
}

// The gradient of the product before scale and cap, of which p.scale is left out.
FN float score_grad(float weight, float s, float dp, float delta, PARAMS(Attention) p) {
    const float ds = weight * (dp - delta);
    return CAPPED ? ds * (1.0f - s / p.cap * (s / p.cap)) : ds;
}

// y = softmax(s) v, and for each query the maximum of its scores and one over the sum of their exponentials.
KERNEL void attention_fwd(GLOBAL const T* q, GLOBAL const T* k, GLOBAL const T* v, GLOBAL const uint* keys,
                          GLOBAL T* y, GLOBAL float* stats, PARAMS(Attention) p) {
    SHARED Pack k_pack[TILE * PITCH / PER], v_pack[TILE * PITCH / PER];
    SHARED Range ranges[ROWS];
    SHARED_PTR(T) k_tile = (SHARED_PTR(T))k_pack;
    SHARED_PTR(T) v_tile = (SHARED_PTR(T))v_pack;
    const uint head = group_id_y(), b = group_id_z(), first = (group_count() - 1 - group_id()) * ROWS;
    const uint mine = thread_id() / WARP * 8 + matrix_row(), i = first + mine;
    q += b * p.q.batch + head * p.q.head;
    k += b * p.k.batch + head / p.group * p.k.head;
    v += b * p.v.batch + head / p.group * p.v.head;
    y += b * p.y.batch + head * p.y.head;

    if (thread_id() < ROWS) ranges[thread_id()] = visible(b, first + thread_id(), keys, p);
    barrier();
    const Range any = any_of(ranges, ROWS), see = ranges[mine];
    T own[2 * PARTS];
    own_row(q, p.q.row, i, p.tq, own);

    Matrix out[PARTS], s[TILE / 8];
    for (uint d = 0; d < PARTS; d++) out[d] = Matrix(0.0f);
    float top = -inf32(), sum = 0.0f;
    for (uint at = any.from / TILE * TILE; at < any.to; at += TILE) {
        barrier();
        stage(k, p.k.row, at, any, k_tile);
        stage(v, p.v.row, at, any, v_tile);
        barrier();
        by_rows(own, k_tile, s);
        float most = top;
        for (uint f = 0; f < TILE / 8; f++)
            for (uint j = 0; j < 2; j++) {
                const uint key = at + f * 8 + matrix_col() + j;
                const float x = score(s[f].thread_elements()[j], p);
                s[f].thread_elements()[j] = key >= see.from && key < see.to ? x : -inf32();
                most = max32(most, s[f].thread_elements()[j]);
            }
        most = matrix_row_max(most);
        const float base = most == -inf32() ? 0.0f : most, shrink = exp32(top - base);
        top = most;
        sum *= shrink;
        for (uint f = 0; f < TILE / 8; f++)
            for (uint j = 0; j < 2; j++) {
                const float e = exp32(s[f].thread_elements()[j] - base);
                s[f].thread_elements()[j] = e;
                sum += e;
            }
        for (uint d = 0; d < PARTS; d++)
            for (uint j = 0; j < 2; j++) out[d].thread_elements()[j] *= shrink;
        add_rows(s, v_tile, out);
    }
    sum = matrix_row_sum(sum);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    write_row(out, inverse, y, p.y.row, i, p.tq);
    if (i < p.tq && matrix_col() == 0) {
        stats += ((ulong(b) * p.heads + head) * p.tq + i) * 2;
        stats[0] = sum == 0.0f ? 0.0f : top;
        stats[1] = inverse;
    }
}

// Few queries: a group for one, whose warps take every WARPS-th key.
KERNEL void attention_few(GLOBAL const T* q, GLOBAL const T* k, GLOBAL const T* v, GLOBAL const uint* keys,
                          GLOBAL T* y, GLOBAL float* stats, PARAMS(Attention) p) {
    SHARED float tops[WARPS], sums[WARPS], parts[WARPS * D];
    const uint i = group_id(), head = group_id_y(), b = group_id_z();
    const uint warp = thread_id() / WARP, lane = thread_id() % WARP;
    constexpr uint MINE = (D + WARP - 1) / WARP;
    q += b * p.q.batch + head * p.q.head + i * p.q.row;
    k += b * p.k.batch + head / p.group * p.k.head;
    v += b * p.v.batch + head / p.group * p.v.head;
    y += b * p.y.batch + head * p.y.head + i * p.y.row;
    const Range see = visible(b, i, keys, p);

    float own[MINE], out[MINE];
    for (uint d = 0; d < MINE; d++) {
        own[d] = lane + d * WARP < D ? float(q[lane + d * WARP]) : 0.0f;
        out[d] = 0.0f;
    }
    float top = -inf32(), sum = 0.0f;
    for (uint key = see.from + warp; key < see.to; key += WARPS) {
        float x = 0.0f;
        for (uint d = 0; d < MINE; d++)
            if (lane + d * WARP < D) x += own[d] * float(k[key * p.k.row + lane + d * WARP]);
        x = score(warp_sum(x), p);
        const float most = max32(top, x), base = most == -inf32() ? 0.0f : most;
        const float shrink = exp32(top - base), e = exp32(x - base);
        top = most;
        sum = sum * shrink + e;
        for (uint d = 0; d < MINE; d++)
            if (lane + d * WARP < D) out[d] = out[d] * shrink + e * float(v[key * p.v.row + lane + d * WARP]);
    }
    for (uint d = 0; d < MINE; d++)
        if (lane + d * WARP < D) parts[warp * D + lane + d * WARP] = out[d];
    if (lane == 0) {
        tops[warp] = top;
        sums[warp] = sum;
    }
    barrier();
    for (uint w = 0; w < WARPS; w++) top = max32(top, tops[w]);
    const float base = top == -inf32() ? 0.0f : top;
    sum = 0.0f;
    for (uint w = 0; w < WARPS; w++) sum += sums[w] * exp32(tops[w] - base);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (uint d = thread_id(); d < D; d += GROUP_SIZE) {
        float all = 0.0f;
        for (uint w = 0; w < WARPS; w++) all += parts[w * D + d] * exp32(tops[w] - base);
        y[d] = T(all * inverse);
    }
    if (thread_id() == 0) {
        stats += ((ulong(b) * p.heads + head) * p.tq + i) * 2;
        stats[0] = sum == 0.0f ? 0.0f : top;
        stats[1] = inverse;
    }
}

// delta = sum(g y) of each query: a warp for one.
KERNEL void attention_delta(GLOBAL const T* y, GLOBAL const T* g, GLOBAL float* delta, PARAMS(Attention) p) {
    const uint i = group_id() * WARPS + thread_id() / WARP, head = group_id_y(), b = group_id_z();
    if (i >= p.tq) return;
    const ulong at = b * p.y.batch + head * p.y.head + i * p.y.row;
    float sum = 0.0f;
    for (uint d = thread_id() % WARP; d < D; d += WARP) sum += float(y[at + d]) * float(g[at + d]);
    sum = warp_sum(sum);
    if (thread_id() % WARP == 0) delta[(ulong(b) * p.heads + head) * p.tq + i] = sum;
}

// dq = scale ds k, ds = p (g vᵀ - delta).
KERNEL void attention_dq(GLOBAL const T* q, GLOBAL const T* k, GLOBAL const T* v, GLOBAL const uint* keys,
                         GLOBAL const T* g, GLOBAL const float* stats, GLOBAL const float* delta, GLOBAL T* dq,
                         PARAMS(Attention) p) {
    SHARED Pack k_pack[TILE * PITCH / PER], v_pack[TILE * PITCH / PER];
    SHARED Range ranges[ROWS];
    SHARED_PTR(T) k_tile = (SHARED_PTR(T))k_pack;
    SHARED_PTR(T) v_tile = (SHARED_PTR(T))v_pack;
    const uint head = group_id_y(), b = group_id_z(), first = (group_count() - 1 - group_id()) * ROWS;
    const uint mine = thread_id() / WARP * 8 + matrix_row(), i = first + mine;
    q += b * p.q.batch + head * p.q.head;
    k += b * p.k.batch + head / p.group * p.k.head;
    v += b * p.v.batch + head / p.group * p.v.head;
    g += b * p.y.batch + head * p.y.head;
    dq += b * p.y.batch + head * p.y.head;

    if (thread_id() < ROWS) ranges[thread_id()] = visible(b, first + thread_id(), keys, p);
    barrier();
    const Range any = any_of(ranges, ROWS), see = ranges[mine];
    T own_q[2 * PARTS], own_g[2 * PARTS];
    own_row(q, p.q.row, i, p.tq, own_q);
    own_row(g, p.y.row, i, p.tq, own_g);
    const ulong query = (ulong(b) * p.heads + head) * p.tq + i;
    const float top = i < p.tq ? stats[query * 2] : 0.0f, inverse = i < p.tq ? stats[query * 2 + 1] : 0.0f;
    const float sum = i < p.tq ? delta[query] : 0.0f;

    Matrix out[PARTS], s[TILE / 8], dp[TILE / 8];
    for (uint d = 0; d < PARTS; d++) out[d] = Matrix(0.0f);
    for (uint at = any.from / TILE * TILE; at < any.to; at += TILE) {
        barrier();
        stage(k, p.k.row, at, any, k_tile);
        stage(v, p.v.row, at, any, v_tile);
        barrier();
        by_rows(own_q, k_tile, s);
        by_rows(own_g, v_tile, dp);
        for (uint f = 0; f < TILE / 8; f++)
            for (uint j = 0; j < 2; j++) {
                const uint key = at + f * 8 + matrix_col() + j;
                const float x = score(s[f].thread_elements()[j], p), weight = exp32(x - top) * inverse;
                const float ds = score_grad(weight, x, dp[f].thread_elements()[j], sum, p);
                s[f].thread_elements()[j] = key >= see.from && key < see.to ? ds : 0.0f;
            }
        add_rows(s, k_tile, out);
    }
    write_row(out, p.scale, dq, p.y.row, i, p.tq);
}

// dk = scale dsᵀ q, dv = pᵀ g: a group for ROWS keys, over all queries of all heads that share them.
KERNEL void attention_dkv(GLOBAL const T* q, GLOBAL const T* k, GLOBAL const T* v, GLOBAL const uint* keys,
                          GLOBAL const T* g, GLOBAL const float* stats, GLOBAL const float* delta, GLOBAL T* dk,
                          GLOBAL T* dv, PARAMS(Attention) p) {
    SHARED Pack q_pack[TILE * PITCH / PER], g_pack[TILE * PITCH / PER];
    SHARED Range ranges[TILE];
    SHARED float tops[TILE], inverses[TILE], sums[TILE];
    SHARED_PTR(T) q_tile = (SHARED_PTR(T))q_pack;
    SHARED_PTR(T) g_tile = (SHARED_PTR(T))g_pack;
    const uint kv = group_id_y(), b = group_id_z(), first = group_id() * ROWS;
    const uint key = first + thread_id() / WARP * 8 + matrix_row();
    k += b * p.k.batch + kv * p.k.head;
    v += b * p.v.batch + kv * p.v.head;
    dk += b * p.dk.batch + kv * p.dk.head;
    dv += b * p.dk.batch + kv * p.dk.head;

    T own_k[2 * PARTS], own_v[2 * PARTS];
    own_row(k, p.k.row, key, p.tk, own_k);
    own_row(v, p.v.row, key, p.tk, own_v);
    Matrix k_out[PARTS], v_out[PARTS], s[TILE / 8], dp[TILE / 8];
    for (uint d = 0; d < PARTS; d++) {
        k_out[d] = Matrix(0.0f);
        v_out[d] = Matrix(0.0f);
    }
    Range queries;
    queries.from = CAUSAL && first + p.tq > p.tk ? first + p.tq - p.tk : 0;
    queries.to = p.tq;
    for (uint head = kv * p.group; head < (kv + 1) * p.group; head++) {
        GLOBAL const T* q_head = q + (b * p.q.batch + head * p.q.head);
        GLOBAL const T* g_head = g + (b * p.y.batch + head * p.y.head);
        for (uint at = queries.from / TILE * TILE; at < p.tq; at += TILE) {
            barrier();
            if (thread_id() < TILE) {
                const uint i = at + thread_id();
                const ulong query = (ulong(b) * p.heads + head) * p.tq + i;
                ranges[thread_id()] = visible(b, i, keys, p);
                tops[thread_id()] = i < p.tq ? stats[query * 2] : 0.0f;
                inverses[thread_id()] = i < p.tq ? stats[query * 2 + 1] : 0.0f;
                sums[thread_id()] = i < p.tq ? delta[query] : 0.0f;
            }
            barrier();
            const Range any = any_of(ranges, TILE);
            if (any.from >= first + ROWS || any.to <= first) continue;
            stage(q_head, p.q.row, at, queries, q_tile);
            stage(g_head, p.y.row, at, queries, g_tile);
            barrier();
            by_rows(own_k, q_tile, s);
            by_rows(own_v, g_tile, dp);
            for (uint f = 0; f < TILE / 8; f++)
                for (uint j = 0; j < 2; j++) {
                    const uint c = f * 8 + matrix_col() + j;
                    const bool sees = key >= ranges[c].from && key < ranges[c].to;
                    const float x = score(s[f].thread_elements()[j], p);
                    const float weight = sees ? exp32(x - tops[c]) * inverses[c] : 0.0f;
                    const float ds = score_grad(weight, x, dp[f].thread_elements()[j], sums[c], p);
                    s[f].thread_elements()[j] = weight;
                    dp[f].thread_elements()[j] = sees ? ds : 0.0f;
                }
            add_rows(s, g_tile, v_out);
            add_rows(dp, q_tile, k_out);
        }
    }
    write_row(k_out, p.scale, dk, p.dk.row, key, p.tk);
    write_row(v_out, 1.0f, dv, p.dk.row, key, p.tk);
}
