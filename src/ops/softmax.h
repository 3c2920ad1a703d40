// Softmax over the last axis:  y = e^(x - max) / sum e^(x - max),  and its logarithm (LOG).
// The row is read once and held in registers; rows that do not fit are read again (looped).

FN float finish(float e, float x, float max, float scale, float shift) { return LOG ? (x - max) - shift : e * scale; }

KERNEL void softmax_fwd(GLOBAL const T* x, GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    y += row * n;

    Vec v[SLOTS];
    float max = -inf32();
    for (uint s = 0; s < SLOTS; s++) {
        v[s] = load(x, slot(s, phase), n, -inf32());
        for (int k = 0; k < VEC; k++) max = max32(max, v[s].v[k]);
    }
    max = row_max(max, scratch);

    float sum = 0.0f;
    for (uint s = 0; s < SLOTS; s++)
        for (int k = 0; k < VEC; k++) {
            const float e = exp_below(v[s].v[k] - max);
            sum += e;
            if (!LOG) v[s].v[k] = e;
        }
    sum = row_sum(sum, scratch);

    const float scale = 1.0f / sum, shift = LOG ? log32(sum) : 0.0f;
    for (uint s = 0; s < SLOTS; s++) {
        for (int k = 0; k < VEC; k++) v[s].v[k] = finish(v[s].v[k], v[s].v[k], max, scale, shift);
        store(y, slot(s, phase), n, v[s]);
    }
}

// Two reads of the row: the maximum and the sum that goes with it, then the values.
KERNEL void softmax_fwd_looped(GLOBAL const T* x, GLOBAL T* y, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    x += row * n;
    y += row * n;

    float max = -inf32(), sum = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const Vec v = load(x, slot(s, phase), n, -inf32());
        float top = max;
        for (int k = 0; k < VEC; k++) top = max32(top, v.v[k]);
        // Nothing but -inf so far adds nothing; a NaN is kept by its own term.
        const float keep = top == -inf32() ? 0.0f : top;
        sum *= exp_below(max - keep);
        for (int k = 0; k < VEC; k++) sum += exp_below(v.v[k] - keep);
        max = top;
    }
    const float top = row_max(max, scratch);
    sum = row_sum(sum * exp_below(max == top ? 0.0f : max - top), scratch);

    const float scale = 1.0f / sum, shift = LOG ? log32(sum) : 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        Vec v = load(x, slot(s, phase), n, -inf32());
        for (int k = 0; k < VEC; k++) v.v[k] = finish(exp_below(v.v[k] - top), v.v[k], top, scale, shift);
        store(y, slot(s, phase), n, v);
    }
}

// dx = y (g - sum(g y)), or g - e^y sum(g) for the logarithm.
FN float term(float y, float g) { return LOG ? g : y * g; }
FN float grad(float y, float g, float sum) { return LOG ? g - exp32(y) * sum : y * (g - sum); }

KERNEL void softmax_bwd(GLOBAL const T* y, GLOBAL const T* g, GLOBAL T* dx, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    y += row * n;
    g += row * n;
    dx += row * n;

    Vec a[SLOTS], b[SLOTS];
    float sum = 0.0f;
    for (uint s = 0; s < SLOTS; s++) {
        a[s] = load(y, slot(s, phase), n, 0.0f);
        b[s] = load(g, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) sum += term(a[s].v[k], b[s].v[k]);
    }
    sum = row_sum(sum, scratch);
    for (uint s = 0; s < SLOTS; s++) {
        for (int k = 0; k < VEC; k++) a[s].v[k] = grad(a[s].v[k], b[s].v[k], sum);
        store(dx, slot(s, phase), n, a[s]);
    }
}

KERNEL void softmax_bwd_looped(GLOBAL const T* y, GLOBAL const T* g, GLOBAL T* dx, PARAMS(Rows) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    const int n = p.cols, phase = row_phase(row, n);
    y += row * n;
    g += row * n;
    dx += row * n;

    float sum = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const Vec a = load(y, slot(s, phase), n, 0.0f), b = load(g, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) sum += term(a.v[k], b.v[k]);
    }
    sum = row_sum(sum, scratch);
    for (uint s = 0; slot(s, phase) < n; s++) {
        Vec a = load(y, slot(s, phase), n, 0.0f), b = load(g, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) a.v[k] = grad(a.v[k], b.v[k], sum);
        store(dx, slot(s, phase), n, a);
    }
}
