// A token's heads of queries, keys and values as one product leaves them, (B, width): queries are turned in place; keys are
// turned and put, as values are, into caches (B, capacity, keys x dim). NORM: queries and keys are normalized first, by head.
//
// Memory has little to do here and in the attention after it: groups behind the heads fetch the next weights into the cache.

struct Turn {
    uint queries, keys, dim, width;
    // Pairs of a head that turn: (x[i], x[i + pairs]). From a row of the tables to the next.
    uint pairs, table;
    uint capacity, at;  // at: where the token goes, unless `ranges` tells
    uint rows, fetchers, next;  // of x; of `next`, and its elements
    float q_eps, k_eps;
};

KERNEL void turn_append(GLOBAL T* x, GLOBAL const C* cosines, GLOBAL const C* sines, GLOBAL const NORM_T* q_norm,
                        GLOBAL const NORM_T* k_norm, GLOBAL T* keys, GLOBAL T* values, GLOBAL const uint* ranges,
                        GLOBAL const T* next, PARAMS(Turn) p) {
    SHARED float e[DIM];
    const uint head = group_id(), row = group_id_y(), lane = thread_id();
    if (head >= p.queries + 2 * p.keys) {
        constexpr uint LINE = 128 / sizeof(T);
        const uint group = (head - p.queries - 2 * p.keys) * p.rows + row;
        for (ulong i = (ulong(group) * GROUP_SIZE + lane) * LINE; i < p.next; i += ulong(p.fetchers) * GROUP_SIZE * LINE)
            prefetch(next + i);
        return;
    }
    const bool query = head < p.queries, value = head >= p.queries + p.keys;
    GLOBAL T* from = x + ulong(row) * p.width + head * p.dim;
    GLOBAL T* to = from;
    if (!query) {
#if RANGES
        // The keys of each row, of which this is the last.
        const uint at = ranges[2 * row + 1] - 1;
#else
        const uint at = p.at;
#endif
        const uint of = head - p.queries - (value ? p.keys : 0);
        to = (value ? values : keys) + ((ulong(row) * p.capacity + at) * p.keys + of) * p.dim;
    }
    if (value) {
        for (uint i = lane; i < p.dim; i += GROUP_SIZE) to[i] = from[i];
        return;
    }
    float square = 0.0f;
    for (uint i = lane; i < p.dim; i += GROUP_SIZE) {
        e[i] = float(from[i]);
        square = fma32(e[i], e[i], square);
    }
    if (NORM) {
        GLOBAL const NORM_T* norm = query ? q_norm : k_norm;
        const float r = rsqrt32(warp_sum(square) / p.dim + (query ? p.q_eps : p.k_eps));
        for (uint i = lane; i < p.dim; i += GROUP_SIZE) e[i] = float(T(e[i] * r * float(norm[i])));
    }
    global_barrier();
    cosines += ulong(row) * p.table;
    sines += ulong(row) * p.table;
    for (uint i = lane; i < p.dim; i += GROUP_SIZE) {
        float v = e[i];
        if (i < p.pairs) v = v * float(cosines[i]) - e[i + p.pairs] * float(sines[i]);
        else if (i < 2 * p.pairs) v = e[i - p.pairs] * float(sines[i - p.pairs]) + v * float(cosines[i - p.pairs]);
        to[i] = T(v);
    }
}
