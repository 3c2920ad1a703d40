// y = a + b.
KERNEL void add(GLOBAL const T* a, GLOBAL const T* b, GLOBAL T* y, PARAMS(Pieces) p) {
    const ulong start = piece_start(p);
    const int n = piece_size(p, start);
    a += start;
    b += start;
    y += start;
    Vec u[UNROLL], v[UNROLL];
    for (uint i = 0; i < UNROLL; i++) {
        u[i] = load(a, piece_slot(i), n, 0.0f);
        v[i] = load(b, piece_slot(i), n, 0.0f);
    }
    for (uint i = 0; i < UNROLL; i++) {
        for (int k = 0; k < VEC; k++) u[i].v[k] += v[i].v[k];
        store(y, piece_slot(i), n, u[i]);
    }
}
