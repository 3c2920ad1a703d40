// What stands around the matrix products of a linear layer.

#if defined(ROW_THREADS)

// y = x in another type.
KERNEL void linear_cast(GLOBAL const W* x, GLOBAL T* y, PARAMS(Rows) p) {
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    for (uint s = 0; slot(s, phase) < n; s++)
        store(y + row * n, slot(s, phase), n, load(x + row * n, slot(s, phase), n, 0.0f));
}

// Every row of y is the bias.
KERNEL void linear_bias(GLOBAL const W* bias, GLOBAL T* y, PARAMS(Rows) p) {
    const ulong row = my_row();
    if (ROW_THREADS == 32 && row >= p.rows) return;
    const int n = p.cols, phase = row_phase(row, n);
    for (uint s = 0; slot(s, phase) < n; s++)
        store(y + row * n, slot(s, phase), n, load_weight(bias, slot(s, phase), n));
}

#else

// Sums over rows: a group has a column a lane, and its warps every WARPS-th of `step` rows; then `column_total`.
constexpr SCOPE uint WARPS = GROUP_SIZE / WARP;

#if PER == 1
struct Several {
    T e[1];
};
#else
struct ALIGNED_16 Several {
    T e[PER];
};
#endif
FN Several several(GLOBAL const T* x) { return *(GLOBAL const Several*)x; }

struct Columns {
    ulong rows;
    ulong step;
    uint cols, parts;
};

// partial[part] = the sum of x, or of x z, over its rows.
KERNEL void column_sum(GLOBAL const T* x, GLOBAL const T* z, GLOBAL float* partial, PARAMS(Columns) p) {
    SHARED float sums[GROUP_SIZE * PER];
    const uint lane = thread_id() % WARP, warp = thread_id() / WARP;
    const uint col = (group_id() * WARP + lane) * PER;
    const ulong first = group_id_y() * p.step, last = first + p.step < p.rows ? first + p.step : p.rows;
    float sum[PER];
    for (int k = 0; k < PER; k++) sum[k] = 0.0f;
    if (col < p.cols) {
        for (ulong row = first + warp; row < last; row += WARPS) {
            const Several a = several(x + row * p.cols + col);
            if (PRODUCT) {
                const Several b = several(z + row * p.cols + col);
                for (int k = 0; k < PER; k++) sum[k] += float(a.e[k]) * float(b.e[k]);
            } else {
                for (int k = 0; k < PER; k++) sum[k] += float(a.e[k]);
            }
        }
    }
    for (int k = 0; k < PER; k++) sums[thread_id() * PER + k] = sum[k];
    barrier();
    if (warp == 0 && col < p.cols)
        for (int k = 0; k < PER; k++) {
            float all = 0.0f;
            for (uint w = 0; w < WARPS; w++) all += sums[(w * WARP + lane) * PER + k];
            partial[ulong(group_id_y()) * p.cols + col + k] = all;
        }
}

// y = the sum over parts, over the norm if there is one; a norm of 0 gives 0.
KERNEL void column_total(GLOBAL const float* partial, GLOBAL const float* norms, GLOBAL W* y, PARAMS(Columns) p) {
    const uint col = group_id() * GROUP_SIZE + thread_id();
    if (col >= p.cols) return;
    float sum = 0.0f;
    for (uint part = 0; part < p.parts; part++) sum += partial[ulong(part) * p.cols + col];
    if (PRODUCT) sum = norms[col] == 0.0f ? 0.0f : sum / norms[col];
    y[col] = W(sum);
}

#endif
