// What the CUDA kernels of attention share: their parameters, which keys a query sees, and the last step of those that
// split the keys. Compiled by NVRTC without toolkit headers, compute capability 8.0 and up.
//
// The kernels are in attention/: forward, few (for a few queries over a long cache) and backward for half precision
// over matrix units, single for f32.
//
// Prepended: D, the head size; BF16 or F16, 1 if that is the dtype; ALIGNED, 1 if every row starts on 16 bytes and
// D is whole in them; CAPPED, 1 if scores are computed in full before the exponential (a soft cap, or a scale that is
// not positive).

typedef unsigned long long u64;
#if BF16 || F16
typedef unsigned short Element;
#else
typedef float Element;
#endif

#define DEVICE __device__ __forceinline__
#define INFINITY inf32()

constexpr float LOG2E = 1.4426950408889634f;
constexpr int NONE = 0x7fffffff;

// Mirrored in Rust. Strides are in elements, of batch row, head and position.
struct Attention {
    u64 q[3], k[3], v[3];
    u64 y[3];  // and of g
    u64 dq[3];
    u64 dk[3];  // and of dv
    int batch, heads, kv_heads, tq, tk;
    float scale;
    float softcap;  // 0: none
    int causal;
    int window;  // negative: none
    // What `keys` is: 0 nothing, 1 [first, end) for each batch row, 2 document starts, 3 as 1, and the only query stands
    // at the last of them.
    int mask;
    int splits;  // of the keys, in the kernel for few queries
    int pad;
};

struct Range {
    int from, to;
};

DEVICE Range visible(const Attention& p, const int* keys, int b, int i) {
    if (p.mask == 3) {
        const int to = min(keys[2 * b + 1], p.tk);
        const int from = p.window < 0 ? keys[2 * b] : max(keys[2 * b], to - p.window);
        return {from, max(from, to)};
    }
    const int position = max(p.tk + i - p.tq, 0);
    int from = 0, to = p.tk;
    if (p.causal) to = position + 1;
    if (p.window >= 0) from = max(position + 1 - p.window, 0);
    if (p.mask == 1) {
        from = max(from, keys[2 * b]);
        to = min(to, keys[2 * b + 1]);
    } else if (p.mask == 2) {
        from = max(from, keys[(u64)b * p.tk + position]);
    }
    return {from, max(from, to)};
}

DEVICE int warp_min(int v) {
    asm("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(v) : "r"(v));
    return v;
}
DEVICE int warp_max(int v) {
    asm("redux.sync.max.s32 %0, %1, 0xffffffff;" : "=r"(v) : "r"(v));
    return v;
}

// The keys that some query of a tile sees, [lo, hi), and those that every one sees, [all_lo, all_hi).
struct Bounds {
    int lo, hi, all_lo, all_hi;
};

// A thread widens none by the queries it has; then all threads of a warp or block take part.
DEVICE Bounds no_bounds() { return {NONE, 0, 0, NONE}; }
DEVICE void widen(Bounds& t, Range r) {
    if (r.from < r.to) {
        t.lo = min(t.lo, r.from);
        t.hi = max(t.hi, r.to);
        t.all_lo = max(t.all_lo, r.from);
        t.all_hi = min(t.all_hi, r.to);
    } else {
        t.all_lo = NONE;
    }
}
DEVICE Bounds warp_bounds(Bounds t) {
    return {warp_min(t.lo), warp_max(t.hi), warp_max(t.all_lo), warp_min(t.all_hi)};
}
template <int W>
DEVICE Bounds block_bounds(Bounds t) {
    __shared__ Bounds parts[W];
    t = warp_bounds(t);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = t;
    __syncthreads();
    for (int w = 0; w < W; w++) {
        const Bounds o = parts[w];
        t = {min(t.lo, o.lo), max(t.hi, o.hi), max(t.all_lo, o.all_lo), min(t.all_hi, o.all_hi)};
    }
    return t;
}

DEVICE float to_float(Element v) {
#if BF16
    return __uint_as_float((unsigned)v << 16);
#elif F16
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
#else
    return v;
#endif
}
DEVICE Element from_float(float v) {
#if BF16
    Element e;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(e) : "f"(v));
    return e;
#elif F16
    Element e;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(e) : "f"(v));
    return e;
#else
    return v;
#endif
}
// c tanh(x / c) of x = scale * v, or x without a cap. `bend` becomes the derivative of the cap.
DEVICE float cap_score(const Attention& p, float v, float& bend) {
    const float x = v * p.scale;
    bend = 1;
    if (p.softcap == 0) return x;
    const float t = 1 - 2 / (1 + exp2_fast(2 * LOG2E * x / p.softcap));
    bend = 1 - t * t;
    return p.softcap * t;
}

// What makes scores probabilities: p = 2^(score - maximum) inverse_sum, the maximum in the exponent's units. Kept
// apart, as their logsumexp would lose the digits that a large maximum takes. A query that sees no key has 0, 0.
DEVICE float2 row_stats(float maximum, float sum) {
    return sum == 0 ? float2{0, 0} : float2{maximum, 1 / sum};
}

#ifdef COMBINE
// The outputs and (maximum, sum) of each split of the keys to one: a block of 256 threads a query. Queries are in the
// order of the kernels that split: batch row, head of keys, head in the group, position.
extern "C" __global__ void __launch_bounds__(256)
    attention_combine(const float* parts, const float2* part_stats, Element* y, float2* stats, const Attention p) {
    constexpr int WARP_COUNT = 8, PER = (D + 31) / 32;
    __shared__ float sums[WARP_COUNT][PER * 32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = blockIdx.x, i = row % p.tq, h = row / p.tq % p.heads, b = row / p.tq / p.heads;
    parts += (u64)row * p.splits * D;
    part_stats += (u64)row * p.splits;
    float maximum = -INFINITY, sum = 0;
    for (int s = lane; s < p.splits; s += 32) maximum = fmaxf(maximum, part_stats[s].x);
#pragma unroll
    for (int o = 16; o > 0; o /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, o));
    const float shift = maximum == -INFINITY ? 0 : maximum;
    for (int s = lane; s < p.splits; s += 32) sum += part_stats[s].y * exp2_fast(part_stats[s].x - shift);
#pragma unroll
    for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    const float2 all = row_stats(shift, sum);
    float out[PER];
#pragma unroll
    for (int n = 0; n < PER; n++) out[n] = 0;
#pragma unroll 4
    for (int s = warp; s < p.splits; s += WARP_COUNT) {
        const float factor = exp2_fast(part_stats[s].x - shift);
#pragma unroll
        for (int n = 0; n < PER; n++)
            if (n * 32 + lane < D) out[n] += parts[(u64)s * D + n * 32 + lane] * factor;
    }
#pragma unroll
    for (int n = 0; n < PER; n++) sums[warp][n * 32 + lane] = out[n];
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += 256) {
        float total = 0;
#pragma unroll
        for (int w = 0; w < WARP_COUNT; w++) total += sums[w][d];
        y[b * p.y[0] + h * p.y[1] + i * p.y[2] + d] = from_float(total * all.y);
    }
    if (threadIdx.x == 0) stats[row] = all;
}
#endif
