// The whole of a linear layer for a few rows of x.

struct Few {
    uint outputs, inputs, rank;
    float scale, eps;
};

// y = x Wᵀ + b + scale t Bᵀ + onto of FEW rows of x: ROW_THREADS threads read a row of W, which is all the work there is.
// NORM: x stands for its root mean square norm, whose scale is taken out of the sum.
// GATED: W has twice as many rows, gates above what they gate.
KERNEL void linear_few(
    GLOBAL const T* x, GLOBAL const W* w, GLOBAL const BIAS_T* bias, GLOBAL const LOW_T* b, GLOBAL const T* t,
    GLOBAL const T* onto, GLOBAL const NORM_T* norm, GLOBAL T* y, PARAMS(Few) p) {
    SHARED float scratch[MAX_WARPS];
    constexpr int PARTS = GATED ? 2 : 1;
    const ulong out = my_row();
    if (ROW_THREADS == 32 && out >= p.outputs) return;
    const int n = p.inputs;
    float sum[PARTS][FEW], square[FEW];
    for (int m = 0; m < FEW; m++) {
        square[m] = 0.0f;
        for (int part = 0; part < PARTS; part++) sum[part][m] = 0.0f;
    }
    for (uint s = 0; slot(s, 0) < n; s += FLIGHT) {
        Run run[PARTS];
        for (int part = 0; part < PARTS; part++)
            run[part] = load_run(w + (out + ulong(part) * p.outputs) * n, s, 0, n, 0.0f);
        for (uint u = 0; u < FLIGHT; u++) {
            Vec factor;
            if (NORM) factor = load(norm, slot(s + u, 0), n, 0.0f);
            for (int m = 0; m < FEW; m++) {
                const Vec v = load(x + m * n, slot(s + u, 0), n, 0.0f);
                for (int k = 0; k < VEC; k++) {
                    if (NORM) square[m] = fma32(v.v[k], v.v[k], square[m]);
                    const float e = NORM ? v.v[k] * factor.v[k] : v.v[k];
                    for (int part = 0; part < PARTS; part++)
                        sum[part][m] = fma32(run[part].v[u].v[k], e, sum[part][m]);
                }
            }
        }
    }
    const uint lane = thread_id() % ROW_THREADS;
    for (int m = 0; m < FEW; m++) {
        float v[PARTS];
        const float r = NORM ? rsqrt32(row_sum(square[m], scratch) / n + p.eps) : 1.0f;
        for (int part = 0; part < PARTS; part++) {
            if (NORM) sum[part][m] *= r;
            if (LOW)
                for (uint j = lane; j < p.rank; j += ROW_THREADS)
                    sum[part][m] = fma32(p.scale * float(b[out * p.rank + j]), float(t[m * p.rank + j]), sum[part][m]);
            v[part] = row_sum(sum[part][m], scratch);
            if (BIAS) v[part] += float(bias[out + part * p.outputs]);
        }
        if (GATED) v[0] = activate(v[0]).a * v[PARTS - 1];
        if (ONTO) v[0] += float(onto[m * p.outputs + out]);
        if (lane == 0) y[m * p.outputs + out] = T(v[0]);
    }
}
