// Layer norm:  y = (x - mean(x)) r w + b,  r = 1 / sqrt(var(x) + eps).
// The row is read once and held in registers; rows that do not fit are read again (looped).

KERNEL void layer_norm_fwd(GLOBAL const T* x, GLOBAL const T* w, GLOBAL const T* b, GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[2 * MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    y += row * n;
    Vec v[SLOTS];
    float sum = 0.0f;
    for (uint s = 0; s < SLOTS; s++) {
        v[s] = load(x, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) sum += v[s].v[k];
    }
    const float mean = row_sum_once(sum, scratch) / n;
    sum = 0.0f;
    for (uint s = 0; s < SLOTS; s++)
        for (int k = 0; k < VEC; k++) {
            const int i = slot(s, phase) + k;
            const float d = i >= 0 && i < n ? v[s].v[k] - mean : 0.0f;
            sum += d * d;
        }
    const float r = rsqrt32(row_sum_once(sum, scratch + MAX_WARPS) / n + p.value);
    for (uint s = 0; s < SLOTS; s++) {
        const Vec u = load_weight(w, slot(s, phase), n), c = load_weight(b, slot(s, phase), n);
        for (int k = 0; k < VEC; k++) v[s].v[k] = fma32((v[s].v[k] - mean) * r, u.v[k], c.v[k]);
        store(y, slot(s, phase), n, v[s]);
    }
}

// Mean and variance of a row that is read twice.
FN Pair moments_looped(GLOBAL const T* x, int phase, int n, SHARED_PTR(float) scratch) {
    float sum = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const Vec v = load(x, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) sum += v.v[k];
    }
    Pair m;
    m.a = row_sum(sum, scratch) / n;
    sum = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const Vec v = load(x, slot(s, phase), n, m.a);
        for (int k = 0; k < VEC; k++) sum += (v.v[k] - m.a) * (v.v[k] - m.a);
    }
    m.b = row_sum(sum, scratch) / n;
    return m;
}

KERNEL void layer_norm_fwd_looped(GLOBAL const T* x, GLOBAL const T* w, GLOBAL const T* b, GLOBAL T* y,
                                  PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    y += row * n;
    const Pair m = moments_looped(x, phase, n, scratch);
    const float r = rsqrt32(m.b + p.value);
    for (uint s = 0; slot(s, phase) < n; s++) {
        Vec v = load(x, slot(s, phase), n, 0.0f);
        const Vec u = load_weight(w, slot(s, phase), n), c = load_weight(b, slot(s, phase), n);
        for (int k = 0; k < VEC; k++) v.v[k] = fma32((v.v[k] - m.a) * r, u.v[k], c.v[k]);
        store(y, slot(s, phase), n, v);
    }
}

// With h = g w, rounded as it is in its mean, and d = x - mean:  dx = r (h - mean(h) - d r^2 mean(h d)),  dw = sum over rows of g d r,  db = of g.
// A worker keeps w and its parts of dw and db over its rows, and has the next row brought nearer while it sums this
// one. WEIGHT says whether dw and db are wanted.
KERNEL void layer_norm_bwd(GLOBAL const T* x, GLOBAL const T* w, GLOBAL const T* g, GLOBAL T* dx,
                           GLOBAL float* parts, PARAMS(Rows) p) {
    SHARED float scratch[4 * MAX_WARPS];
    const int n = p.cols;
    Raw<T> u[SLOTS];
    Vec dw[SLOTS], db[SLOTS];
    for (uint s = 0; s < SLOTS; s++) {
        u[s] = load_raw(w, slot(s, 0), n);
        for (int k = 0; k < VEC; k++) dw[s].v[k] = db[s].v[k] = 0.0f;
    }
    for (ulong row = worker(); row < p.rows; row += workers()) {
        Raw<T> a[SLOTS], b[SLOTS];
        for (uint s = 0; s < SLOTS; s++) {
            a[s] = load_raw(x + row * n, slot(s, 0), n);
            b[s] = load_raw(g + row * n, slot(s, 0), n);
        }
        const ulong next = row + workers();
        if (next < p.rows) {
            prefetch_row(x + next * n, n);
            prefetch_row(g + next * n, n);
        }

        Pair sum = {0.0f, 0.0f};
        for (uint s = 0; s < SLOTS; s++) {
            forget(u + s);
            for (int k = 0; k < VEC; k++) {
                sum.a += element(a + s, k);
                sum.b += element(b + s, k) * element(u + s, k);
            }
        }
        sum = row_sum2(sum, scratch);
        const float mean = sum.a / n, mean_h = sum.b / n;
        sum.a = sum.b = 0.0f;
        for (uint s = 0; s < SLOTS; s++) {
            forget(a + s);
            forget(b + s);
            forget(u + s);
            for (int k = 0; k < VEC; k++) {
                const float v = slot(s, 0) + k < n ? element(a + s, k) - mean : 0.0f;
                sum.a += v * v;
                sum.b += element(b + s, k) * element(u + s, k) * v;
            }
        }
        sum = row_sum2(sum, scratch + 2 * MAX_WARPS);
        const float r = rsqrt32(sum.a / n + p.value), shrink = sum.b / n * r * r;
        for (uint s = 0; s < SLOTS; s++) {
            forget(a + s);
            forget(b + s);
            forget(u + s);
            Vec z;
            for (int k = 0; k < VEC; k++) {
                const float v = element(a + s, k) - mean, h = element(b + s, k);
                z.v[k] = r * (mul32(h, element(u + s, k)) - mean_h - v * shrink);
                if (WEIGHT) {
                    dw[s].v[k] += h * (v * r);
                    db[s].v[k] += h;
                }
            }
            store(dx + row * n, slot(s, 0), n, z);
        }
    }
    if (WEIGHT) {
        parts += ulong(worker()) * 2 * n;
        for (uint s = 0; s < SLOTS; s++) {
            store(parts, slot(s, 0), n, dw[s]);
            store(parts + n, slot(s, 0), n, db[s]);
        }
    }
}

// As layer_norm_bwd without dw and db; leaves mean and r of each row for layer_norm_bwd_weight.
KERNEL void layer_norm_bwd_looped(GLOBAL const T* x, GLOBAL const T* w, GLOBAL const T* g, GLOBAL T* dx,
                                  GLOBAL float* stats, PARAMS(Rows) p) {
    SHARED float scratch[2 * MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    g += row * n;
    const Pair m = moments_looped(x, phase, n, scratch);
    Pair sum = {0.0f, 0.0f};
    for (uint s = 0; slot(s, phase) < n; s++) {
        const int i = slot(s, phase);
        const Vec a = load(x, i, n, 0.0f), b = load(g, i, n, 0.0f), u = load_weight(w, i, n);
        for (int k = 0; k < VEC; k++) {
            sum.a += b.v[k] * u.v[k];
            sum.b += b.v[k] * u.v[k] * (a.v[k] - m.a);
        }
    }
    barrier();  // the last reader of scratch is done
    sum = row_sum2(sum, scratch);
    const float r = rsqrt32(m.b + p.value), mean_h = sum.a / n, shrink = sum.b / n * r * r;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const int i = slot(s, phase);
        Vec a = load(x, i, n, 0.0f);
        const Vec b = load(g, i, n, 0.0f), u = load_weight(w, i, n);
        for (int k = 0; k < VEC; k++) a.v[k] = r * (mul32(b.v[k], u.v[k]) - mean_h - (a.v[k] - m.a) * shrink);
        store(dx + row * n, i, n, a);
    }
    if (thread_id() == 0) {
        stats[2 * row] = m.a;
        stats[2 * row + 1] = r;
    }
}

// The parts of dw and db for rows too long for layer_norm_bwd: a thread a column, group y every p.value-th row.
KERNEL void layer_norm_bwd_weight(GLOBAL const T* x, GLOBAL const T* g, GLOBAL const float* stats,
                                  GLOBAL float* parts, PARAMS(Rows) p) {
    const uint n = p.cols, col = group_id() * GROUP_SIZE + thread_id();
    if (col >= n) return;
    float dw = 0.0f, db = 0.0f;
    for (ulong row = group_id_y(); row < p.rows; row += uint(p.value)) {
        const float h = g[row * n + col];
        dw += h * ((float(x[row * n + col]) - stats[2 * row]) * stats[2 * row + 1]);
        db += h;
    }
    parts += ulong(group_id_y()) * 2 * n;
    parts[col] = dw;
    parts[n + col] = db;
}
