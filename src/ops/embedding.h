// Embedding:  y[i] = table[ids[i]].  An id outside the table gives a row of NaN, and no gradient.

struct Embedding {
    Pieces pieces;
    uint count, vocabulary;
    // An id that has no gradient; none is as large as 2^32 - 1.
    uint padding;
    uint unused;
};

KERNEL void embedding_fwd(GLOBAL const T* table, GLOBAL const uint* ids, GLOBAL T* y, PARAMS(Embedding) p) {
    const ulong row = piece_row(p.pieces), start = piece_start(p.pieces);
    const int n = piece_size(p.pieces, start);
    const uint id = ids[row];
    y += row * p.pieces.cols + start;
    Vec v[UNROLL];
    if (id < p.vocabulary) {
        table += id * p.pieces.cols + start;
        for (uint i = 0; i < UNROLL; i++) v[i] = load(table, piece_slot(i), n, 0.0f);
    } else {
        for (uint i = 0; i < UNROLL; i++)
            for (int k = 0; k < VEC; k++) v[i].v[k] = nan32();
    }
    for (uint i = 0; i < UNROLL; i++) store(y, piece_slot(i), n, v[i]);
}

// The rows of g that have one id, summed in order. The group of the first of them does it, and finds the others by
// reading all ids, so that no thread adds to what another has written. Rows of other ids are zero before.
KERNEL void embedding_bwd(GLOBAL const T* g, GLOBAL const uint* ids, GLOBAL T* d, PARAMS(Embedding) p) {
    const uint row = uint(piece_row(p.pieces)), lane = thread_id() % WARP;
    const ulong cols = p.pieces.cols, start = piece_start(p.pieces);
    const int n = piece_size(p.pieces, start);
    const uint id = ids[row];
    if (id >= p.vocabulary || id == p.padding) return;
    for (uint base = 0; base < row; base += WARP)
        if (warp_ballot(base + lane < row && ids[base + lane] == id) != 0) return;
    Vec sum[UNROLL];
    for (uint i = 0; i < UNROLL; i++)
        for (int k = 0; k < VEC; k++) sum[i].v[k] = 0.0f;
    for (uint base = row; base < p.count; base += WARP) {
        uint same = warp_ballot(base + lane < p.count && ids[base + lane] == id);
        for (uint l = 0; same != 0; l++, same >>= 1) {
            if ((same & 1) == 0) continue;
            GLOBAL const T* from = g + (base + l) * cols + start;
            for (uint i = 0; i < UNROLL; i++) {
                const Vec v = load(from, piece_slot(i), n, 0.0f);
                for (int k = 0; k < VEC; k++) sum[i].v[k] += v.v[k];
            }
        }
    }
    for (uint i = 0; i < UNROLL; i++) store(d + id * cols + start, piece_slot(i), n, sum[i]);
}
