// Products of 8x8 matrices over a warp. A lane holds the elements (row, col) and (row, col + 1) of each: Apple's GPUs
// all do it so, and MLX's and candle's own kernels depend on it.

typedef simdgroup_matrix<float, 8, 8> Matrix;

FN uint matrix_row() { return thread_id() % WARP / 16 * 4 + thread_id() / 2 % 4; }
FN uint matrix_col() { return thread_id() % 16 / 8 * 4 + thread_id() % 2 * 2; }

// Of the lanes that hold a row.
FN float matrix_row_sum(float v) {
    v += warp_xor(v, 1u);
    return v + warp_xor(v, 8u);
}
FN float matrix_row_max(float v) {
    v = max32(v, warp_xor(v, 1u));
    return max32(v, warp_xor(v, 8u));
}

