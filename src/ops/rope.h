// Rotary position embedding:  y1 = x1 cos - x2 sin,  y2 = x1 sin + x2 cos,  for the pairs of a head's features.
// A pair is (x[i], x[i + pairs]), or (x[2 i], x[2 i + 1]) (INTERLEAVED); features beyond the pairs are copied.
//
// A thread turns VEC pairs. The tables are of C.

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
    const uint batch = group_id_z(), head = group_id_y();
    x += batch * p.x_batch + head * p.x_head + position * p.x_position;
    y += batch * p.y_batch + head * p.y_head + position * p.y_position;

    const int pairs = p.pairs, at = (unit < turned ? unit : unit - turned) * VEC;
    if (unit >= turned) {
        const int from = 2 * pairs, n = p.rest;
        store(y + from, at, n, load(x + from, at, n, 0.0f));
        return;
    }
    // The two vectors that hold the pairs: of both halves, or side by side.
    const int end = INTERLEAVED ? 2 * pairs : pairs, shift = INTERLEAVED ? 0 : pairs;
    const int first = INTERLEAVED ? 2 * at : at, second = INTERLEAVED ? 2 * at + VEC : at;
    Vec a = load(x, first, end, 0.0f), b = load(x + shift, second, end, 0.0f);
    const ulong row = (batch * p.table + position) * pairs;
    const Vec c = load(cosines + row, at, pairs, 0.0f);
    const Vec s = load(sines + row, at, pairs, 0.0f);
    for (int k = 0; k < VEC; k++) {
        const float turn = s.v[k] * p.sign;
        if (INTERLEAVED) {
            THREAD_PTR(float) v = k < VEC / 2 ? a.v + 2 * k : b.v + (2 * k - VEC);
            const float e = v[0], f = v[1];
            v[0] = e * c.v[k] - f * turn;
            v[1] = e * turn + f * c.v[k];
        } else {
            const float e = a.v[k], f = b.v[k];
            a.v[k] = e * c.v[k] - f * turn;
            b.v[k] = e * turn + f * c.v[k];
        }
    }
    store(y, first, end, a);
    store(y + shift, second, end, b);
}
