// Embedding:  y[i] = scale table[ids[i]].  An id outside the table gives a row of NaN, and no gradient.

constexpr SCOPE uint AT_ONCE = 4;

struct Embedding {
    Pieces pieces;
    uint count, vocabulary;
    // An id that has no gradient; none is as large as 2^32 - 1.
    uint padding;
    float scale;
};

KERNEL void embedding_fwd(GLOBAL const T* table, GLOBAL const uint* ids, GLOBAL T* y, PARAMS(Embedding) p) {
    const ulong row = piece_row(p.pieces), start = piece_start(p.pieces);
    const int n = piece_size(p.pieces, start);
    const uint id = ids[row];
    y += row * p.pieces.cols + start;
    Vec v[UNROLL];
    if (id < p.vocabulary) {
        table += id * p.pieces.cols + start;
        for (uint i = 0; i < UNROLL; i++) {
            v[i] = load(table, piece_slot(i), n, 0.0f);
            for (int k = 0; k < VEC; k++) v[i].v[k] *= p.scale;
        }
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
        while (same != 0) {
            // Some rows at a time, so that their loads do not wait for each other.
            Raw<T> rows[AT_ONCE][UNROLL];
#pragma unroll
            for (uint l = 0; l < AT_ONCE; l++) {
                // Past the last of them, nothing is loaded.
                GLOBAL const T* from = g + (same != 0 ? base + lowest_bit(same) : 0) * cols + start;
                for (uint i = 0; i < UNROLL; i++) rows[l][i] = load_raw(from, piece_slot(i), same != 0 ? n : 0);
                same &= same - 1;
            }
#pragma unroll
            for (uint l = 0; l < AT_ONCE; l++)
                for (uint i = 0; i < UNROLL; i++)
                    for (int k = 0; k < VEC; k++) sum[i].v[k] += element(rows[l] + i, k);
        }
    }
    for (uint i = 0; i < UNROLL; i++) {
        for (int k = 0; k < VEC; k++) sum[i].v[k] *= p.scale;
        store(d + id * cols + start, piece_slot(i), n, sum[i]);
    }
}
