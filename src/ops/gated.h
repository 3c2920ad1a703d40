// Gated linear units:  y = f(a) b,  with f silu, or gelu (GELU) in its tanh approximation.
// HALVES: a and b are the halves of each row of one tensor.

constexpr SCOPE float SQRT_2_OVER_PI = 0.7978846f;

struct Gated {
    Pieces pieces;
    // From a row of a (and of b) to the next, and from a to b.
    ulong stride, other;
};

// f(a), and f'(a).
FN Pair activate(float a) {
    Pair f;
    if (GELU) {
        const float u = SQRT_2_OVER_PI * a * fma32(0.044715f * a, a, 1.0f);
        // (1 - tanh |u|) / 2, to full relative precision: neither 1 + tanh nor 1 - tanh^2 is taken by difference.
        const float tail = rcp32(exp32(2.0f * abs32(u)) + 1.0f);
        const float phi = u < 0.0f ? tail : 1.0f - tail;
        const float slope = SQRT_2_OVER_PI * fma32(3.0f * 0.044715f * a, a, 1.0f);
        // Where the tail is 0, a slope may be infinite.
        f.a = phi == 0.0f ? 0.0f : a * phi;
        f.b = phi + (tail == 0.0f ? 0.0f : 2.0f * a * slope * (tail * (1.0f - tail)));
    } else {
        const float s = rcp32(1.0f + exp32(-a));
        f.a = s == 0.0f ? 0.0f : a * s;
        f.b = fma32(f.a, 1.0f - s, s);
    }
    return f;
}

KERNEL void gated_fwd(GLOBAL const T* a, GLOBAL const T* b, GLOBAL T* y, PARAMS(Gated) p) {
    const ulong row = piece_row(p.pieces), start = piece_start(p.pieces);
    const int n = piece_size(p.pieces, start);
    b = (HALVES ? a + p.other : b) + row * p.stride + start;
    a += row * p.stride + start;
    y += row * p.pieces.cols + start;
    Vec u[UNROLL], v[UNROLL];
    for (uint i = 0; i < UNROLL; i++) {
        u[i] = load(a, piece_slot(i), n, 0.0f);
        v[i] = load(b, piece_slot(i), n, 0.0f);
    }
#pragma unroll
    for (uint i = 0; i < UNROLL; i++) {
        for (int k = 0; k < VEC; k++) v[i].v[k] *= activate(u[i].v[k]).a;
        store(y, piece_slot(i), n, v[i]);
    }
}

// da = g b f'(a),  db = g f(a).
KERNEL void gated_bwd(GLOBAL const T* a, GLOBAL const T* b, GLOBAL const T* g, GLOBAL T* da, GLOBAL T* db,
                      PARAMS(Gated) p) {
    const ulong row = piece_row(p.pieces), start = piece_start(p.pieces);
    const int n = piece_size(p.pieces, start);
    const ulong at = row * p.stride + start;
    b = (HALVES ? a + p.other : b) + at;
    db = (HALVES ? da + p.other : db) + at;
    a += at;
    da += at;
    g += row * p.pieces.cols + start;
    Vec u[UNROLL], v[UNROLL], w[UNROLL];
    for (uint i = 0; i < UNROLL; i++) {
        u[i] = load(a, piece_slot(i), n, 0.0f);
        v[i] = load(b, piece_slot(i), n, 0.0f);
        w[i] = load(g, piece_slot(i), n, 0.0f);
    }
#pragma unroll
    for (uint i = 0; i < UNROLL; i++) {
        for (int k = 0; k < VEC; k++) {
            const Pair f = activate(u[i].v[k]);
            u[i].v[k] = w[i].v[k] * v[i].v[k] * f.b;
            v[i].v[k] = w[i].v[k] * f.a;
        }
        store(da, piece_slot(i), n, u[i]);
        store(db, piece_slot(i), n, v[i]);
    }
}
