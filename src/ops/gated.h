// Gated linear units:  y = f(a) b,  with f of gate.h.
// HALVES: a and b are the halves of each row of one tensor.

struct Gated {
    Pieces pieces;
    // From a row of a (and of b) to the next, and from a to b.
    ulong stride, other;
};

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
