// Root mean square norm:  y = x r w,  r = 1 / sqrt(mean(x^2) + eps).
// The weight is W, which may be wider than T. The row is read once and held in registers; rows that do not fit are
// read again (looped).

// The rest of a row whose elements are in v.
FN void normalize(THREAD_PTR(Raw<T>) v, THREAD_PTR(const Raw<W>) u, GLOBAL T* y, int phase, int n, float eps,
                  SHARED_PTR(float) scratch) {
    float sum = 0.0f;
    for (uint s = 0; s < SLOTS; s++)
        for (int k = 0; k < VEC; k++) sum += element(v + s, k) * element(v + s, k);
    const float r = rsqrt32(row_sum_once(sum, scratch) / n + eps);
    for (uint s = 0; s < SLOTS; s++) {
        forget(v + s);
        Vec z;
        for (int k = 0; k < VEC; k++) z.v[k] = element(v + s, k) * r * element(u + s, k);
        store(y, slot(s, phase), n, z);
    }
}

KERNEL void rms_norm_fwd(GLOBAL const T* x, GLOBAL const W* w, GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    Raw<T> v[SLOTS];
    Raw<W> u[SLOTS];
    for (uint s = 0; s < SLOTS; s++) v[s] = load_raw(x, slot(s, phase), n);
    for (uint s = 0; s < SLOTS; s++) u[s] = load_raw_weight(w, slot(s, phase), n);
    normalize(v, u, y + row * n, phase, n, p.value, scratch);
}

// sum = x + residual, and the norm of what was stored.
KERNEL void add_rms_norm_fwd(GLOBAL const T* x, GLOBAL const T* residual, GLOBAL const W* w, GLOBAL T* sum,
                             GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    residual += row * n;
    sum += row * n;
    Raw<T> v[SLOTS], t[SLOTS];
    Raw<W> u[SLOTS];
    for (uint s = 0; s < SLOTS; s++) v[s] = load_raw(x, slot(s, phase), n);
    for (uint s = 0; s < SLOTS; s++) t[s] = load_raw(residual, slot(s, phase), n);
    for (uint s = 0; s < SLOTS; s++) u[s] = load_raw_weight(w, slot(s, phase), n);
    for (uint s = 0; s < SLOTS; s++) {
        Vec z;
        for (int k = 0; k < VEC; k++) z.v[k] = element(v + s, k) + element(t + s, k);
        v[s] = raw(z);
        store(sum, slot(s, phase), n, z);
    }
    normalize(v, u, y + row * n, phase, n, p.value, scratch);
}

// The second read of a row whose squares sum to `sum` in all threads.
FN void normalize_looped(GLOBAL const T* x, GLOBAL const W* w, GLOBAL T* y, int phase, int n, float r) {
    for (uint s = 0; slot(s, phase) < n; s++) {
        Vec v = load(x, slot(s, phase), n, 0.0f);
        const Vec u = load_weight(w, slot(s, phase), n);
        for (int k = 0; k < VEC; k++) v.v[k] = v.v[k] * r * u.v[k];
        store(y, slot(s, phase), n, v);
    }
}

KERNEL void rms_norm_fwd_looped(GLOBAL const T* x, GLOBAL const W* w, GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    float sum = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const Vec v = load(x, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) sum += v.v[k] * v.v[k];
    }
    normalize_looped(x, w, y + row * n, phase, n, rsqrt32(row_sum(sum, scratch) / n + p.value));
}

KERNEL void add_rms_norm_fwd_looped(GLOBAL const T* x, GLOBAL const T* residual, GLOBAL const W* w, GLOBAL T* sum,
                                    GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    residual += row * n;
    sum += row * n;
    float squares = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        Vec v = load(x, slot(s, phase), n, 0.0f);
        const Vec u = load(residual, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) {
            v.v[k] = float(T(v.v[k] + u.v[k]));
            squares += v.v[k] * v.v[k];
        }
        store(sum, slot(s, phase), n, v);
    }
    // A thread reads again what it has written itself.
    normalize_looped(sum, w, y + row * n, phase, n, rsqrt32(row_sum(squares, scratch) / n + p.value));
}

// With h = g w:  dx = r (h - x r^2 mean(h x)),  dw = sum over rows of g x r.
// A worker keeps w and its part of dw over its rows. WEIGHT says whether dw is wanted.
KERNEL void rms_norm_bwd(GLOBAL const T* x, GLOBAL const W* w, GLOBAL const T* g, GLOBAL T* dx, GLOBAL float* parts,
                         PARAMS(Rows) p) {
    SHARED float scratch[4 * MAX_WARPS];
    const int n = p.cols;
    Raw<W> u[SLOTS];
    Vec dw[SLOTS];
    for (uint s = 0; s < SLOTS; s++) {
        u[s] = load_raw(w, slot(s, 0), n);
        for (int k = 0; k < VEC; k++) dw[s].v[k] = 0.0f;
    }
    uint turn = 0;
    for (ulong row = worker(); row < p.rows; row += workers()) {
        Raw<T> a[SLOTS], b[SLOTS];
        for (uint s = 0; s < SLOTS; s++) {
            a[s] = load_raw(x + row * n, slot(s, 0), n);
            b[s] = load_raw(g + row * n, slot(s, 0), n);
        }

        Pair sum = {0.0f, 0.0f};
        for (uint s = 0; s < SLOTS; s++) {
            forget(u + s);
            for (int k = 0; k < VEC; k++) {
                const float v = element(a + s, k);
                sum.a += v * v;
                sum.b += element(b + s, k) * element(u + s, k) * v;
            }
        }
        sum = row_sum2(sum, scratch + (turn++ & 1) * 2 * MAX_WARPS);
        // r^2 without r's rounding: in short rows the two terms nearly cancel.
        const float mean = sum.a / n + p.value, r = rsqrt32(mean), shrink = sum.b / n / mean;
        for (uint s = 0; s < SLOTS; s++) {
            forget(a + s);
            forget(b + s);
            forget(u + s);
            Vec z;
            for (int k = 0; k < VEC; k++) {
                const float v = element(a + s, k), h = element(b + s, k);
                z.v[k] = r * fma32(v, -shrink, h * element(u + s, k));
                if (WEIGHT) dw[s].v[k] = fma32(h * r, v, dw[s].v[k]);
            }
            store(dx + row * n, slot(s, 0), n, z);
        }
    }
    if (WEIGHT)
        for (uint s = 0; s < SLOTS; s++) store(parts + ulong(worker()) * n, slot(s, 0), n, dw[s]);
}

// As rms_norm_bwd without dw; leaves r of each row for rms_norm_bwd_weight.
KERNEL void rms_norm_bwd_looped(GLOBAL const T* x, GLOBAL const W* w, GLOBAL const T* g, GLOBAL T* dx,
                                GLOBAL float* rs, PARAMS(Rows) p) {
    SHARED float scratch[2 * MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    g += row * n;
    Pair sum = {0.0f, 0.0f};
    for (uint s = 0; slot(s, phase) < n; s++) {
        const int i = slot(s, phase);
        const Vec a = load(x, i, n, 0.0f), b = load(g, i, n, 0.0f), u = load_weight(w, i, n);
        for (int k = 0; k < VEC; k++) {
            sum.a += a.v[k] * a.v[k];
            sum.b += b.v[k] * u.v[k] * a.v[k];
        }
    }
    sum = row_sum2(sum, scratch);
    const float mean = sum.a / n + p.value, r = rsqrt32(mean), shrink = sum.b / n / mean;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const int i = slot(s, phase);
        Vec a = load(x, i, n, 0.0f);
        const Vec b = load(g, i, n, 0.0f), u = load_weight(w, i, n);
        for (int k = 0; k < VEC; k++) a.v[k] = r * fma32(a.v[k], -shrink, b.v[k] * u.v[k]);
        store(dx + row * n, i, n, a);
    }
    if (thread_id() == 0) rs[row] = r;
}

// The parts of dw for rows too long for rms_norm_bwd: a thread a column, group y every p.value-th row.
KERNEL void rms_norm_bwd_weight(GLOBAL const T* x, GLOBAL const T* g, GLOBAL const float* rs, GLOBAL float* parts,
                                PARAMS(Rows) p) {
    const uint n = p.cols, col = group_id() * GROUP_SIZE + thread_id();
    if (col >= n) return;
    float dw = 0.0f;
    for (ulong row = group_id_y(); row < p.rows; row += uint(p.value))
        dw = fma32(float(g[row * n + col]) * rs[row], float(x[row * n + col]), dw);
    parts[ulong(group_id_y()) * n + col] = dw;
}
