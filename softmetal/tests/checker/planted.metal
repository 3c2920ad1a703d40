// Shaders with planted bugs, each beside its clean twin: a line that ends in `bug` is where a report belongs.
#line 4 "planted.metal"
#include <metal_stdlib>
using namespace metal;

constant bool SKIP [[function_constant(0)]];

// The sum of a threadgroup's values, by halves.
#define SUM(name, FIRST)                                                                                               \
    kernel void name(device const float* in, device float* out, uint tid [[thread_index_in_threadgroup]],              \
        uint gid [[thread_position_in_grid]], uint group [[threadgroup_position_in_grid]],                             \
        uint size [[threads_per_threadgroup]]) {                                                                       \
        threadgroup float shared[256];                                                                                 \
        shared[tid] = in[gid];                                                                                         \
        FIRST;                                                                                                         \
        for (uint s = size / 2; s > 0; s /= 2) {                                                                       \
            if (tid < s) shared[tid] += shared[tid + s];                                                               \
            threadgroup_barrier(mem_flags::mem_threadgroup);                                                           \
        }                                                                                                              \
        if (tid == 0) out[group] = shared[0];                                                                          \
    }
SUM(msl_sum, threadgroup_barrier(mem_flags::mem_threadgroup))
SUM(msl_sum_missing_barrier, )                                      // bug
SUM(msl_sum_wrong_flags, threadgroup_barrier(mem_flags::mem_none))  // bug

kernel void msl_divergent_barrier(uint tid [[thread_index_in_threadgroup]]) {
    if (tid < 32) {
        threadgroup_barrier(mem_flags::mem_threadgroup);  // bug
    }
}

kernel void msl_early_return(device half* out, constant uint& n, uint gid [[thread_position_in_grid]]) {
    if (gid >= n) return;
    threadgroup_barrier(mem_flags::mem_device);  // bug
    out[gid] = 1.0h;
}

kernel void msl_late_return(device half* out, constant uint& n, uint gid [[thread_position_in_grid]]) {
    threadgroup_barrier(mem_flags::mem_device);
    if (gid >= n) return;
    out[gid] = 1.0h;
}

kernel void msl_histogram(device atomic_uint* bins, device const uint* in, uint gid [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(&bins[in[gid] % 4], 1u, memory_order_relaxed);
}

kernel void msl_histogram_plain(device uint* bins, device const uint* in, uint gid [[thread_position_in_grid]]) {
    bins[in[gid] % 4] += 1;  // bug
}

kernel void msl_simd_ordered(device uint* out, uint tid [[thread_index_in_threadgroup]]) {
    threadgroup uint shared[64];
    shared[tid] = tid;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    out[tid] = shared[tid ^ 1];
}

kernel void msl_simd_lockstep(device uint* out, uint tid [[thread_index_in_threadgroup]]) {
    threadgroup uint shared[64];
    shared[tid] = tid;         // bug
    uint all = simd_sum(tid);
    out[tid] = shared[tid ^ 1] + all;  // bug
}

struct Shape {
    uint width;
    int shift;
};

kernel void msl_shift(device const float4* in [[buffer(0)]], device float4* out [[buffer(1)]],
    constant Shape& shape [[buffer(2)]], uint gid [[thread_position_in_grid]]) {
    if (gid >= shape.width) return;
    out[gid] = in[gid + shape.shift];  // bug
}

kernel void msl_gated(device const float* in [[buffer(0), function_constant(SKIP)]], device float* out [[buffer(1)]],
    uint gid [[thread_position_in_grid]]) {
    float value = 2;
    if (SKIP) value = in[gid];
    out[gid] = value;
}

kernel void msl_uninitialised(device float* out, uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float shared[64];
    if (tid != 5) shared[tid] = 1;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[tid] = shared[63 - tid];  // bug
}

kernel void msl_uninitialised_buffer(device const bfloat* in, device bfloat* out, uint gid [[thread_position_in_grid]]) {
    out[gid] = in[gid];  // bug
}

kernel void msl_inactive_lane(device float* out, uint tid [[thread_index_in_threadgroup]]) {
    float value = tid;
    if (tid % 32 < 16) value = simd_shuffle_xor(value, 16);  // bug
    out[tid] = value;
}

kernel void msl_active_lanes(device float* out, uint tid [[thread_index_in_threadgroup]]) {
    float value = tid;
    if (tid % 32 < 16) value = simd_shuffle_xor(value, 8) + simd_sum(1.0f);
    out[tid] = value;
}

kernel void msl_too_much(device float* out, uint tid [[thread_index_in_threadgroup]]) {
    threadgroup float a[4096];
    threadgroup float b[4097];  // bug
    a[tid] = 1;
    b[tid] = 2;
    out[tid] = a[tid] + b[tid];
}

kernel void msl_matrix(device const half* a, device const half* b, device float* c) {
    simdgroup_matrix<half, 8, 8> left, right;
    simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    simdgroup_load(left, a, 8);
    simdgroup_load(right, b, 8);
    simdgroup_multiply_accumulate(sum, left, right, sum);
    simdgroup_store(sum, c, 8);
}

kernel void msl_neighbours(device uchar* bytes, device half* halves, uint gid [[thread_position_in_grid]]) {
    bytes[gid] = uchar(gid);
    halves[gid] = half(gid);
}
