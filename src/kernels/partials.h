// The sum of a column over `parts` rows of f32: the second step of a gradient that many groups have a part in. The
// order of the sums is the same every time.
//
// A warp takes 32 columns and every MAX_WARPS-th row; then the warps' sums are added.

struct Partials {
    uint parts, cols;
};

KERNEL void sum_parts(GLOBAL const float* x, GLOBAL T* y, PARAMS(Partials) p) {
    SHARED float sums[GROUP_SIZE];
    const uint lane = thread_id() % WARP, warp = thread_id() / WARP;
    const uint col = group_id() * WARP + lane;
    float sum = 0.0f;
    if (col < p.cols)
        for (uint i = warp; i < p.parts; i += GROUP_SIZE / WARP) sum += x[ulong(i) * p.cols + col];
    sums[thread_id()] = sum;
    barrier();
    if (warp == 0 && col < p.cols) {
        sum = 0.0f;
        for (uint w = 0; w < GROUP_SIZE / WARP; w++) sum += sums[w * WARP + lane];
        y[col] = T(sum);
    }
}
