// Magnitudes of a low-rank adapted weight:  y = z m / n + b  by column, and  n = the norms of the rows of W + s B A.

// m / n; a row without a direction has no magnitude.
FN float factor(float m, float n) { return n == 0.0f ? 0.0f : m / n; }

KERNEL void dora_scale(
    GLOBAL const T* z, GLOBAL const M* m, GLOBAL const float* norms, GLOBAL const B* bias, GLOBAL T* y,
    PARAMS(Rows) p) {
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    for (uint s = 0; slot(s, phase) < n; s++) {
        const int i = slot(s, phase);
        Vec v = load(z + row * n, i, n, 0.0f);
        const Vec magnitude = load_weight(m, i, n), norm = load_weight(norms, i, n);
        for (int k = 0; k < VEC; k++) v.v[k] *= factor(magnitude.v[k], norm.v[k]);
        if (BIAS) {
            const Vec b = load_weight(bias, i, n);
            for (int k = 0; k < VEC; k++) v.v[k] += b.v[k];
        }
        store(y + row * n, i, n, v);
    }
}

struct Norms {
    ulong rows;
    uint cols, rank;
    float scale;
    uint unused;
};

// Rows of W that share a read of A.
constexpr SCOPE int TOGETHER = 8;

KERNEL void dora_norms(
    GLOBAL const T* w, GLOBAL const M* a, GLOBAL const B* b, GLOBAL float* norms, PARAMS(Norms) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong first = ulong(group_id()) * TOGETHER;
    const int n = p.cols;
    ulong row[TOGETHER];
    float sum[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) {
        row[i] = first + i < p.rows ? first + i : p.rows - 1;
        sum[i] = 0.0f;
    }
    for (uint s = 0; slot(s, 0) < n; s++) {
        const int at = slot(s, 0);
        Vec v[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) v[i] = load(w + row[i] * n, at, n, 0.0f);
        for (uint j = 0; j < p.rank; j++) {
            const Vec low = load(a + ulong(j) * n, at, n, 0.0f);
            for (int i = 0; i < TOGETHER; i++) {
                const float by = p.scale * float(b[row[i] * p.rank + j]);
                for (int k = 0; k < VEC; k++) v[i].v[k] = fma32(by, low.v[k], v[i].v[k]);
            }
        }
        for (int i = 0; i < TOGETHER; i++)
            for (int k = 0; k < VEC; k++) sum[i] = fma32(v[i].v[k], v[i].v[k], sum[i]);
    }
    for (int i = 0; i < TOGETHER; i++) {
        const float all = row_sum(sum[i], scratch);
        if (thread_id() == 0 && first + i < p.rows) norms[first + i] = sqrt32(all);
    }
}
