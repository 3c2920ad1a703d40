// Dropout:  y = x / (1 - p) where the hash of the element's row and column is not below the threshold, else 0.

struct Dropout {
    Pieces pieces;
    ulong seed;
    uint threshold;
    float scale;
};

KERNEL void dropout(GLOBAL const T* x, GLOBAL T* y, PARAMS(Dropout) p) {
    const ulong row = piece_row(p.pieces), start = piece_start(p.pieces);
    const int n = piece_size(p.pieces, start);
    const ulong seed = (p.seed ^ row) * 0x9e3779b97f4a7c15ul;
    const uint low = uint(seed), high = uint(seed >> 32);
    x += row * p.pieces.cols + start;
    y += row * p.pieces.cols + start;
    Vec v[UNROLL];
    for (uint i = 0; i < UNROLL; i++) v[i] = load(x, piece_slot(i), n, 0.0f);
#pragma unroll
    for (uint i = 0; i < UNROLL; i++) {
        for (int k = 0; k < VEC; k++) {
            uint h = (uint(start) + piece_slot(i) + k) * 0x9e3779b9u ^ low;
            h = (h ^ (h >> 16)) * 0x85ebca6bu + high;
            h = (h ^ (h >> 13)) * 0xc2b2ae35u;
            h ^= h >> 16;
            v[i].v[k] = h >= p.threshold ? v[i].v[k] * p.scale : 0.0f;
        }
        store(y, piece_slot(i), n, v[i]);
    }
}
