// f32 tensors that lie anywhere, at their places of one.

struct Gathering {
    ulong from[GATHERED];
    ulong to[GATHERED];
    uint len[GATHERED];
};

// Groups along y have a tensor each, those along x share it.
KERNEL void gather(GLOBAL float* y, PARAMS(Gathering) a) {
    const uint i = group_id_y();
    GLOBAL const float* x = (GLOBAL const float*)a.from[i];
    y += a.to[i];
    for (uint k = group_id() * GROUP_SIZE + thread_id(); k < a.len[i]; k += GROUPS * GROUP_SIZE) y[k] = x[k];
}
