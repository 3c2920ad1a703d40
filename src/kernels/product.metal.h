// c = alpha a b + beta c, of (m, k) by (k, n), and a second product beside it. A group makes TILE x TILE elements of c,
// DEPTH of k at a time; each of its 4 warps a quarter of them, in 4x4 matrices.

struct Factors {
    uint k;
    uint a_row, a_col, b_row, b_col;  // strides
    float alpha;
};

struct Product {
    ulong at;  // where c begins
    uint m, n;
    Factors first, second;
    float beta;
};

constexpr SCOPE uint TILE = 64;
constexpr SCOPE uint DEPTH = 16;
constexpr SCOPE uint SIDE = TILE / 2 / 8;

KERNEL void product(GLOBAL const T* a, GLOBAL const T* b, GLOBAL const T* e, GLOBAL const T* f, GLOBAL C* c,
                    PARAMS(Product) params) {
    SHARED float a_tile[TILE * (DEPTH + 1)], b_tile[DEPTH * (TILE + 1)];
    const uint m = params.m, n = params.n;
    const uint top = group_id_y() * TILE, left = group_id() * TILE;
    const uint warp = thread_id() / WARP;
    const uint row = warp / 2 * (TILE / 2) + matrix_row(), col = warp % 2 * (TILE / 2) + matrix_col();

    Matrix sum[SIDE * SIDE];
    for (uint i = 0; i < SIDE * SIDE; i++) sum[i] = Matrix(0.0f);
    Factors p = params.first;
    for (uint pair = 0; pair < 2; pair++) {
        for (uint at = 0; at < p.k; at += DEPTH) {
            barrier();
            for (uint i = thread_id(); i < TILE * DEPTH; i += GROUP_SIZE) {
                // Neighbours in memory are read by neighbours.
                const uint r = p.a_col == 1 ? i / DEPTH : i % TILE, d = p.a_col == 1 ? i % DEPTH : i / TILE;
                const bool inside = top + r < m && at + d < p.k;
                a_tile[r * (DEPTH + 1) + d] =
                    inside ? p.alpha * float(a[ulong(top + r) * p.a_row + ulong(at + d) * p.a_col]) : 0.0f;
            }
            for (uint i = thread_id(); i < TILE * DEPTH; i += GROUP_SIZE) {
                const uint d = p.b_col == 1 ? i / TILE : i % DEPTH, r = p.b_col == 1 ? i % TILE : i / DEPTH;
                const bool inside = at + d < p.k && left + r < n;
                b_tile[d * (TILE + 1) + r] =
                    inside ? float(b[ulong(at + d) * p.b_row + ulong(left + r) * p.b_col]) : 0.0f;
            }
            barrier();
            for (uint d = 0; d < DEPTH; d += 8) {
                Matrix x[SIDE], y[SIDE];
                for (uint i = 0; i < SIDE; i++)
                    for (uint j = 0; j < 2; j++) {
                        x[i].thread_elements()[j] = a_tile[(row + i * 8) * (DEPTH + 1) + d + matrix_col() + j];
                        y[i].thread_elements()[j] = b_tile[(d + matrix_row()) * (TILE + 1) + col + i * 8 + j];
                    }
                for (uint i = 0; i < SIDE * SIDE; i++)
                    simdgroup_multiply_accumulate(sum[i], x[i / SIDE], y[i % SIDE], sum[i]);
            }
        }
        p = params.second;
        a = e;
        b = f;
    }
    c += params.at;
    for (uint i = 0; i < SIDE * SIDE; i++)
        for (uint j = 0; j < 2; j++) {
            const uint r = top + row + i / SIDE * 8, q = left + col + i % SIDE * 8 + j;
            if (r >= m || q >= n) continue;
            const ulong to = ulong(r) * n + q;
            const float v = sum[i].thread_elements()[j];
            c[to] = C(params.beta == 0.0f ? v : v + params.beta * float(c[to]));
        }
}
