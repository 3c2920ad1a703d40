// Dropout of rows of x for the low-rank side of a linear layer: an element is kept when the hash of its index is not
// below a threshold, and then divided by the probability of that.

struct Mask {
    ulong rows;
    ulong seed;
    uint cols, threshold;
    float scale;
    uint unused;
};

FN bool keeps(ulong seed, uint index, uint threshold) {
    uint h = (index * 0x9e3779b9u) ^ uint(seed);
    h = (h ^ (h >> 16)) * 0x85ebca6bu + uint(seed >> 32);
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return (h ^ (h >> 16)) >= threshold;
}

FN void mask_row(GLOBAL const T* x, GLOBAL T* y, ulong row, uint cols, ulong seed, uint threshold, float scale) {
    const int n = cols, phase = row_phase(row, n);
    seed = (seed ^ row) * 0x9e3779b97f4a7c15ul;
    for (uint s = 0; slot(s, phase) < n; s++) {
        const int i = slot(s, phase);
        Vec v = load(x + row * n, i, n, 0.0f);
        for (int k = 0; k < VEC; k++) v.v[k] = keeps(seed, uint(i + k), threshold) ? v.v[k] * scale : 0.0f;
        store(y + row * n, i, n, v);
    }
}

KERNEL void lora_mask(GLOBAL const T* x, GLOBAL T* y, PARAMS(Mask) p) {
    const ulong row = my_row();
    if (row < p.rows) mask_row(x, y, row, p.cols, p.seed, p.threshold, p.scale);
}

KERNEL void lora_mask_in_place(GLOBAL T* y, PARAMS(Mask) p) {
    const ulong row = my_row();
    if (row < p.rows) mask_row(y, y, row, p.cols, p.seed, p.threshold, p.scale);
}
