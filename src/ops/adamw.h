// AdamW over all variables, and the global norm of their gradients before it.
//
//   n = sqrt(sum g²)    c = min(1, max_norm / (n + 1e-6))    g := c g
//   m = b1 m + (1 - b1) g    v = b2 v + (1 - b2) g²    p = keep p - rate m / (sqrt(v) root + eps)
//
// Variables are cut into pieces, one for a group. With TABLE, one launch works on all of them: `table` has three
// numbers for each variable: its address, its gradient's (0 for none), and how the gradient is to be read. Without,
// a launch works on the pieces from `first` on, which are of one variable; Metal has no addresses in buffers.
//
// `state` is n, c, and the losses of the step. If one of them is not finite, n is NaN and nothing changes.

struct Piece {
    ulong variable, start, len, moments;
};

struct Adam {
    float keep, rate, b1, b2, root, eps;
    uint first, reading;
};

struct Norm {
    uint partials, losses;
    float max_norm;
};

// How a gradient is to be read: its type, and whether it and its variable begin at multiples of 16 bytes.
constexpr SCOPE uint F32 = 0, F16 = 1, BF16 = 2, PACKED = 4;

constexpr SCOPE uint STRIDE = 4 * GROUP_SIZE;

struct ALIGNED_16 Four {
    float v[4];
};

// Up to four elements of n, zeros after them.
template <typename E> FN Four read(GLOBAL const E* x, uint n, bool packed) {
    if (packed && n >= 4 && sizeof(E) == 4) return *(GLOBAL const Four*)x;
    Four y;
    for (uint k = 0; k < 4; k++) y.v[k] = k < n ? float(x[k]) : 0.0f;
    return y;
}

FN void write(GLOBAL float* x, uint n, bool packed, Four y) {
    if (packed && n >= 4)
        *(GLOBAL Four*)x = y;
    else
        for (uint k = 0; k < 4 && k < n; k++) x[k] = y.v[k];
}

template <typename E> FN float squares(GLOBAL const E* g, uint len, bool packed) {
    float sum = 0.0f;
    for (uint i = 4 * thread_id(); i < len; i += STRIDE) {
        const Four x = read(g + i, len - i, packed);
        for (uint k = 0; k < 4; k++) sum += x.v[k] * x.v[k];
    }
    return sum;
}

template <typename E>
FN void update(GLOBAL float* p, GLOBAL const E* g, GLOBAL float* m, GLOBAL float* v, uint len, bool packed, float clip,
               PARAMS(Adam) a) {
    for (uint i = 4 * thread_id(); i < len; i += STRIDE) {
        const uint n = len - i;
        const Four gs = read(g + i, n, packed);
        Four ps = read(p + i, n, packed), ms = read(m + i, n, true), vs = read(v + i, n, true);
        for (uint k = 0; k < 4; k++) {
            const float x = gs.v[k] * clip;
            ms.v[k] = a.b1 * ms.v[k] + (1.0f - a.b1) * x;
            vs.v[k] = a.b2 * vs.v[k] + (1.0f - a.b2) * x * x;
            ps.v[k] = ps.v[k] * a.keep - a.rate * ms.v[k] / (sqrt32(vs.v[k]) * a.root + a.eps);
        }
        write(p + i, n, packed, ps);
        write(m + i, n, true, ms);
        write(v + i, n, true, vs);
    }
}

FN bool finite32(float x) { return abs32(x) < inf32(); }

#if TABLE

KERNEL void gradient_squares(GLOBAL const ulong* table, GLOBAL const Piece* pieces, GLOBAL float* partials,
                             PARAMS(Adam) a) {
    SHARED float scratch[MAX_WARPS];
    const Piece piece = pieces[group_id()];
    const ulong g = table[3 * piece.variable + 1];
    const uint reading = uint(table[3 * piece.variable + 2]), len = uint(piece.len);
    const bool packed = reading & PACKED;
    float sum = 0.0f;
    if (g != 0 && reading % PACKED == F32) sum = squares((GLOBAL const float*)g + piece.start, len, packed);
    if (g != 0 && reading % PACKED == F16) sum = squares((GLOBAL const f16*)g + piece.start, len, packed);
    if (g != 0 && reading % PACKED == BF16) sum = squares((GLOBAL const bf16*)g + piece.start, len, packed);
    sum = group_sum(sum, scratch);
    if (thread_id() == 0) partials[group_id()] = sum;
}

KERNEL void adamw(GLOBAL const ulong* table, GLOBAL const Piece* pieces, GLOBAL float* m, GLOBAL float* v,
                  GLOBAL const float* state, PARAMS(Adam) a) {
    const Piece piece = pieces[group_id()];
    const ulong g = table[3 * piece.variable + 1];
    const uint reading = uint(table[3 * piece.variable + 2]), len = uint(piece.len);
    const bool packed = reading & PACKED;
    const float clip = state[1];
    if (g == 0 || !finite32(state[0])) return;
    GLOBAL float* p = (GLOBAL float*)table[3 * piece.variable] + piece.start;
    m += piece.moments;
    v += piece.moments;
    if (reading % PACKED == F32) update(p, (GLOBAL const float*)g + piece.start, m, v, len, packed, clip, a);
    if (reading % PACKED == F16) update(p, (GLOBAL const f16*)g + piece.start, m, v, len, packed, clip, a);
    if (reading % PACKED == BF16) update(p, (GLOBAL const bf16*)g + piece.start, m, v, len, packed, clip, a);
}

#else

KERNEL void gradient_squares(GLOBAL const T* g, GLOBAL const Piece* pieces, GLOBAL float* partials, PARAMS(Adam) a) {
    SHARED float scratch[MAX_WARPS];
    const Piece piece = pieces[a.first + group_id()];
    const float sum = group_sum(squares(g + piece.start, uint(piece.len), a.reading & PACKED), scratch);
    if (thread_id() == 0) partials[a.first + group_id()] = sum;
}

KERNEL void adamw(GLOBAL float* p, GLOBAL const T* g, GLOBAL const Piece* pieces, GLOBAL float* m, GLOBAL float* v,
                  GLOBAL const float* state, PARAMS(Adam) a) {
    const Piece piece = pieces[a.first + group_id()];
    if (!finite32(state[0])) return;
    update(p + piece.start, g + piece.start, m + piece.moments, v + piece.moments, uint(piece.len),
           a.reading & PACKED, state[1], a);
}

#endif

// One group.
KERNEL void gradient_norm(GLOBAL const float* partials, GLOBAL const float* losses, GLOBAL float* state,
                          PARAMS(Norm) a) {
    SHARED float scratch[MAX_WARPS];
    float sum = 0.0f;
    for (uint i = thread_id(); i < a.partials; i += GROUP_SIZE) sum += partials[i];
    const float norm = sqrt32(group_sum(sum, scratch));
    if (thread_id() != 0) return;
    bool finite = finite32(norm);
    for (uint i = 0; i < a.losses; i++) {
        finite = finite && finite32(losses[i]);
        state[2 + i] = losses[i];
    }
    state[0] = finite ? norm : finite32(norm) ? nan32() : norm;
    state[1] = min32(1.0f, a.max_norm / (norm + 1e-6f));
}
