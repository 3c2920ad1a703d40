#include <metal_stdlib>
using namespace metal;

// sums[g] is the sum of the threadgroup's part of x.
kernel void sum(
    device const float* x [[buffer(0)]],
    device float* sums [[buffer(1)]],
    constant uint& n [[buffer(2)]],
    uint i [[thread_position_in_grid]],
    uint t [[thread_position_in_threadgroup]],
    uint group [[threadgroup_position_in_grid]],
    uint threads [[threads_per_threadgroup]]) {
    threadgroup float part[256];
    part[t] = i < n ? x[i] : 0.0f;
    for (uint step = threads / 2; step > 0; step /= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (t < step) {
            part[t] += part[t + step];
        }
    }
    if (t == 0) {
        sums[group] = part[0];
    }
}
