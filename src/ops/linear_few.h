// The whole of a linear layer for a few rows of x.

struct Few {
    uint outputs, inputs, rank;
    float scale, eps;
};

// y = x Wᵀ + b + scale t Bᵀ + onto of FEW rows of x: ROW_THREADS threads read BESIDE rows of W, which is all the work there is.
// NORM: x stands for its root mean square norm, whose scale is taken out of the sum.
// GATED: W has twice as many rows, gates above what they gate.
KERNEL void linear_few(
    GLOBAL const T* x, GLOBAL const W* w, GLOBAL const BIAS_T* bias, GLOBAL const LOW_T* b, GLOBAL const T* t,
    GLOBAL const T* onto, GLOBAL const NORM_T* norm, GLOBAL T* y, PARAMS(Few) p) {
    SHARED float scratch[MAX_WARPS];
    constexpr uint PARTS = GATED ? 2 : 1, ROWS = BESIDE * PARTS;
    // Vectors of a row that are in flight.
    constexpr uint AHEAD = ROWS > 2 ? 2 : 4;
    const ulong first = my_row() * BESIDE;
    if (ROW_THREADS == 32 && first >= p.outputs) return;
    const int n = p.inputs;
    // Behind the last row the last one is read again.
    GLOBAL const W* rows[ROWS];
    for (uint r = 0; r < ROWS; r++) {
        const ulong out = first + r / PARTS < p.outputs ? first + r / PARTS : p.outputs - 1;
        rows[r] = w + (out + ulong(r % PARTS) * p.outputs) * n;
    }
    float sum[ROWS][FEW], square[FEW];
    for (int m = 0; m < FEW; m++) {
        square[m] = 0.0f;
        for (uint r = 0; r < ROWS; r++) sum[r][m] = 0.0f;
    }
    for (uint s = 0; slot(s, 0) < n; s += AHEAD) {
        Raw<W> run[ROWS][AHEAD];
        for (uint u = 0; u < AHEAD; u++)
            for (uint r = 0; r < ROWS; r++) run[r][u] = load_raw(rows[r], slot(s + u, 0), n);
        for (uint u = 0; u < AHEAD; u++) {
            Vec factor;
            if (NORM) factor = load(norm, slot(s + u, 0), n, 0.0f);
            for (int m = 0; m < FEW; m++) {
                Vec v = load(x + m * n, slot(s + u, 0), n, 0.0f);
                if (NORM)
                    for (int k = 0; k < VEC; k++) {
                        square[m] = fma32(v.v[k], v.v[k], square[m]);
                        v.v[k] *= factor.v[k];
                    }
                for (uint r = 0; r < ROWS; r++)
                    for (int k = 0; k < VEC; k++) sum[r][m] = fma32(element(&run[r][u], k), v.v[k], sum[r][m]);
            }
        }
    }
    const uint lane = thread_id() % ROW_THREADS;
    for (int m = 0; m < FEW; m++) {
        const float scale = NORM ? rsqrt32(row_sum(square[m], scratch) / n + p.eps) : 1.0f;
        for (uint i = 0; i < BESIDE; i++) {
            const ulong out = first + i;
            const bool kept = out < p.outputs;
            float v[PARTS];
            for (uint part = 0; part < PARTS; part++) {
                float e = sum[i * PARTS + part][m] * scale;
                if (LOW && kept)
                    for (uint j = lane; j < p.rank; j += ROW_THREADS)
                        e = fma32(p.scale * float(b[out * p.rank + j]), float(t[m * p.rank + j]), e);
                v[part] = row_sum(e, scratch);
            }
            if (lane != 0 || !kept) continue;
            if (BIAS)
                for (uint part = 0; part < PARTS; part++) v[part] += float(bias[out + part * p.outputs]);
            if (GATED) v[0] = activate(v[0]).a * v[PARTS - 1];
            if (ONTO) v[0] += float(onto[m * p.outputs + out]);
            y[m * p.outputs + out] = T(v[0]);
        }
    }
}
