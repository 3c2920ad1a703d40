// Rotary position embedding:  y1 = x1 cos - x2 sin,  y2 = x1 sin + x2 cos,  for the pairs of a head's features.
// A pair is (x[i], x[i + pairs]), or (x[2 i], x[2 i + 1]) (INTERLEAVED); features beyond the pairs are copied.
//
// A thread turns VEC pairs of one position in HEADS heads: the tables, of C, are read once for all of them.

struct Rope {
    uint positions, heads;
    // Pairs of a head, and features beyond them.
    uint pairs, rest;
    // From a row of the tables to that of the next batch row.
    ulong table;
    // From an element to the next along each dimension.
    ulong x_batch, x_head, x_position;
    ulong y_batch, y_head, y_position;
    // 1, or -1 to turn back.
    float sign;
    uint unused;
};

KERNEL void rope(GLOBAL const T* x, GLOBAL const C* cosines, GLOBAL const C* sines, GLOBAL T* y, PARAMS(Rope) p) {
    const uint turned = (p.pairs + VEC - 1) / VEC, units = turned + (p.rest + VEC - 1) / VEC;
    const uint i = group_id() * GROUP_SIZE + thread_id();
    const uint position = i / units, unit = i % units;
    if (position >= p.positions) return;
    const uint batch = group_id_z(), head = group_id_y() * HEADS;
    const uint heads = p.heads - head < HEADS ? p.heads - head : HEADS;
    x += batch * p.x_batch + head * p.x_head + position * p.x_position;
    y += batch * p.y_batch + head * p.y_head + position * p.y_position;

    const int pairs = p.pairs, at = (unit < turned ? unit : unit - turned) * VEC;
    if (unit >= turned) {
        const int from = 2 * pairs, n = p.rest;
        for (uint h = 0; h < heads; h++)
            store(y + h * p.y_head + from, at, n, load(x + h * p.x_head + from, at, n, 0.0f));
        return;
    }
    const ulong row = (batch * p.table + position) * pairs;
    const Vec c = load(cosines + row, at, pairs, 0.0f);
    Vec s = load(sines + row, at, pairs, 0.0f);
    for (int k = 0; k < VEC; k++) s.v[k] *= p.sign;

    const int first = INTERLEAVED ? 2 * at : at, first_end = INTERLEAVED ? 2 * pairs : pairs;
    const int second = INTERLEAVED ? 2 * at + VEC : at, second_end = INTERLEAVED ? 2 * pairs : pairs;
    const int shift = INTERLEAVED ? 0 : pairs;
    Raw<T> a[HEADS], b[HEADS];
#pragma unroll
    for (uint h = 0; h < HEADS; h++) {
        // A head beyond the last one is read as the last one: loads do not wait for a test.
        GLOBAL const T* from = x + (h < heads ? h : heads - 1) * p.x_head;
        a[h] = load_raw(from, first, first_end);
        b[h] = load_raw(from + shift, second, second_end);
    }
#pragma unroll
    for (uint h = 0; h < HEADS; h++) {
        Vec u, v;
        for (int k = 0; k < VEC; k++) {
            // Pair k, and where its parts are: element l of a or b, and its neighbour; or element k of both.
            if (INTERLEAVED) {
                const bool low = k < VEC / 2;
                const int l = low ? 2 * k : 2 * k - VEC;
                const float e = element(low ? a + h : b + h, l), f = element(low ? a + h : b + h, l + 1);
                (low ? u : v).v[l] = e * c.v[k] - f * s.v[k];
                (low ? u : v).v[l + 1] = e * s.v[k] + f * c.v[k];
            } else {
                const float e = element(a + h, k), f = element(b + h, k);
                u.v[k] = e * c.v[k] - f * s.v[k];
                v.v[k] = e * s.v[k] + f * c.v[k];
            }
        }
        if (h < heads) {
            store(y + h * p.y_head, first, first_end, u);
            store(y + h * p.y_head + shift, second, second_end, v);
        }
    }
}
