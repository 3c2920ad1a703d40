// Cross-entropy of rows of logits:  l = lse - (1 - e) x_t - e mean(x),  lse = max x + log sum e^(x - max x).
// dx = (e^(x - lse) - e / V - (1 - e) onehot(t)) f,  with f = the loss's gradient times the reduction's factor.
// A row whose target is IGNORE has no loss and a gradient of zero. A target that is no class makes NaN of its row.

constexpr SCOPE ulong IGNORE = ulong(-100);

struct Loss {
    ulong rows;
    ulong first;  // of the rows at hand
    uint cols;
    float smoothing;
    uint pieces;  // of a row, each a group's
    uint unused;
};

struct Total {
    ulong rows;
    uint mean;
    uint unused;
};

#ifdef ROW_THREADS

struct RowLoss {
    float loss;
    float top, rest;  // lse = top + rest: apart, what is small is not rounded to what is large
};

// One read of the row: the maximum, the sum that goes with it, and the sum of the logits for the smoothing.
FN RowLoss row_loss(GLOBAL const T* x, ulong target, int phase, int n, float smoothing, SHARED_PTR(float) scratch) {
    const float at_target = float(x[target]);
    float max = -inf32(), sum = 0.0f, all = 0.0f;
    for (uint s = 0; slot(s, phase) < n; s += FLIGHT) {
        const Run run = load_run(x, s, phase, n, -inf32());
        float top = max;
        for (uint u = 0; u < FLIGHT; u++)
            for (int k = 0; k < VEC; k++) top = max32(top, run.v[u].v[k]);
        // Nothing but -inf so far adds nothing; a NaN is kept by its own term.
        const float keep = top == -inf32() ? 0.0f : top;
        sum *= exp_below(max - keep);
        for (uint u = 0; u < FLIGHT; u++)
            for (int k = 0; k < VEC; k++) sum += exp_below(run.v[u].v[k] - keep);
        if (SMOOTH) {
            for (uint u = 0; u < FLIGHT; u++)
                for (int k = 0; k < VEC; k++) {
                    const int i = slot(s + u, phase) + k;
                    all += i >= 0 && i < n ? run.v[u].v[k] : 0.0f;
                }
        }
        max = top;
    }
    const float top = row_max(max, scratch);
    sum = row_sum(sum * (max == top ? 1.0f : exp_below(max - top)), scratch);
    RowLoss row;
    row.top = top;
    row.rest = log32(sum);
    row.loss = top + row.rest - (1.0f - smoothing) * at_target;
    if (SMOOTH) row.loss -= smoothing * row_sum(all, scratch) / float(n);
    return row;
}

// FLIGHT slots from s on; dx may be x.
FN void run_grad(
    GLOBAL const T* x, GLOBAL T* dx, ulong target, uint s, int phase, int n, float top, float rest, float smoothing,
    float f) {
    const float even = SMOOTH ? smoothing / float(n) : 0.0f;
    Run run = load_run(x, s, phase, n, 0.0f);
    for (uint u = 0; u < FLIGHT; u++) {
        const int i = slot(s + u, phase);
        for (int k = 0; k < VEC; k++) {
            float p = exp_below(run.v[u].v[k] - top - rest) - even;
            if (i + k == int(target)) p -= 1.0f - smoothing;
            run.v[u].v[k] = p * f;
        }
        store(dx, i, n, run.v[u]);
    }
}

FN Vec filled(float value) {
    Vec v;
    for (int k = 0; k < VEC; k++) v.v[k] = value;
    return v;
}

KERNEL void cross_entropy_fwd(
    GLOBAL const T* x, GLOBAL const ulong* targets, GLOBAL float* losses, GLOBAL float* lse, PARAMS(Loss) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols;
    const ulong target = targets[row];
    RowLoss out;
    out.loss = out.top = target == IGNORE ? 0.0f : nan32();
    out.rest = 0.0f;
    if (target < ulong(n)) out = row_loss(x + row * n, target, row_phase(row, n), n, p.smoothing, scratch);
    if (thread_id() % ROW_THREADS == 0) {
        losses[row] = out.loss;
        lse[row] = out.top + out.rest;
    }
}

KERNEL void cross_entropy_bwd(
    GLOBAL const T* x, GLOBAL const ulong* targets, GLOBAL const float* lse, GLOBAL const float* factor,
    GLOBAL const float* g, GLOBAL T* dx, PARAMS(Loss) p) {
    // From the last row on: what forward read last is still in the cache.
    const ulong at = ulong(group_id() / p.pieces) * ROWS_PER_GROUP + thread_id() / ROW_THREADS;
    if (ROW_THREADS == 32 && at >= p.rows) return;
    const ulong row = p.rows - 1 - at;
    const uint s = group_id() % p.pieces * FLIGHT;
    const int n = p.cols, phase = row_phase(row, n);
    const ulong target = targets[row];
    x += row * n;
    dx += row * n;
    if (target == IGNORE) {
        for (uint u = 0; u < FLIGHT; u++) store(dx, slot(s + u, phase), n, filled(0.0f));
    } else {
        run_grad(x, dx, target, s, phase, n, lse[row], 0.0f, p.smoothing, factor[0] * g[0]);
    }
}

// Logits become the gradients of their own rows' losses: the mean's factor would push a large vocabulary's below what
// f16 holds. `first` says where targets and losses begin.
KERNEL void cross_entropy_in_place(
    GLOBAL T* x, GLOBAL const ulong* targets, GLOBAL float* losses, PARAMS(Loss) p) {
    SHARED float scratch[MAX_WARPS];
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    const ulong target = targets[p.first + row];
    x += row * n;
    RowLoss out;
    out.loss = target == IGNORE ? 0.0f : nan32();
    if (target < ulong(n)) {
        out = row_loss(x, target, phase, n, p.smoothing, scratch);
        row_barrier();  // all of them read the target's, and neighbours a row's ends
        for (uint s = 0; slot(s, phase) < n; s += FLIGHT)
            run_grad(x, x, target, s, phase, n, out.top, out.rest, p.smoothing, 1.0f);
    } else {
        for (uint s = 0; slot(s, phase) < n; s++) store(x, slot(s, phase), n, filled(out.loss));
    }
    if (thread_id() % ROW_THREADS == 0) losses[p.first + row] = out.loss;
}

// y = a gradient of the sum of losses, times that of the loss and the factor of the reduction.
KERNEL void cross_entropy_scale(
    GLOBAL const X* x, GLOBAL const float* g, GLOBAL const float* factor, GLOBAL T* y, PARAMS(Loss) p) {
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    const float by = g[0] * factor[0];
    for (uint s = 0; slot(s, phase) < n; s++) {
        Vec v = load(x + row * n, slot(s, phase), n, 0.0f);
        for (int k = 0; k < VEC; k++) v.v[k] *= by;
        store(y + row * n, slot(s, phase), n, v);
    }
}

#else

// What the sum of the losses is multiplied by.
FN float factor_of(GLOBAL const ulong* targets, ulong rows, uint mean, SHARED_PTR(float) scratch) {
    float count = 0.0f;
    for (ulong i = thread_id(); i < rows; i += GROUP_SIZE) count += targets[i] != IGNORE ? 1.0f : 0.0f;
    count = group_sum(count, scratch);
    return mean ? 1.0f / max32(count, 1.0f) : 1.0f;
}

KERNEL void cross_entropy_total(
    GLOBAL const float* losses, GLOBAL const ulong* targets, GLOBAL float* loss, GLOBAL float* factor,
    PARAMS(Total) p) {
    SHARED float scratch[MAX_WARPS];
    const float f = factor_of(targets, p.rows, p.mean, scratch);
    float sum = 0.0f;
    for (ulong i = thread_id(); i < p.rows; i += GROUP_SIZE) sum += losses[i];
    sum = group_sum(sum, scratch);
    if (thread_id() == 0) {
        loss[0] = sum * f;
        factor[0] = f;
    }
}

#endif
