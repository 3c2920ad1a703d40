#include <metal_stdlib>
using namespace metal;

constant bool has_mask [[function_constant(3)]];
constant float scale [[function_constant(4)]];
constant bool masked = is_function_constant_defined(has_mask) ? has_mask : false;

struct Sizes {
    uint rows;
    float value;
};

// In front, with a limit that is an expression.
#define GROUP 64
[[max_total_threads_per_threadgroup(GROUP * 2)]] kernel void in_front(
    device float* y, constant Sizes& sizes, device const float* x, threadgroup float* shared,
    uint i [[thread_position_in_grid]]) {
    shared[0] = x[i];
    y[i] = shared[0] * sizes.value;
}

[[kernel]] void as_attribute(
    device half* y [[buffer(2)]],
    device const half* x [[buffer(0)]],
    const device bool* mask [[buffer(5), function_constant(has_mask)]],
    uint3 group [[threadgroup_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]]) {
    if (!has_mask || mask[group.x]) y[lane] = x[lane];
}

[[host_name("another name")]] kernel void renamed(device float* y, uint i [[thread_position_in_grid]]) { y[i] = 0; }

template <typename T, int N = 2> [[kernel]] void by_decltype(device T* y, uint i [[thread_position_in_grid]]) {
    y[i] = T(N);
}
#define INSTANTIATE(name, T, N) \
    template [[host_name("by_decltype_" #name "_" #N)]] [[kernel]] decltype(by_decltype<T, N>) by_decltype<T, N>;
INSTANTIATE(f32, float, 3)
INSTANTIATE(f16, half, (int)4)
template [[host_name("by_default")]] [[kernel]] decltype(by_decltype<float>) by_decltype<float>;

template <typename T, int BM, int BN>
[[kernel, max_total_threads_per_threadgroup(BM * BN)]] void by_typedef(
    device T* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    y[i] = T(BM);
}
typedef decltype(by_typedef<float, 1, 1>) by_typedef_t;
template [[host_name("by_typedef")]] kernel by_typedef_t by_typedef<float, 8, 4>;

template [[host_name("in_full")]] [[kernel]] void by_typedef<half, 2, 16>(
    device half* y [[buffer(0)]], uint i [[thread_position_in_grid]]);

namespace inner {
kernel void nested(device void* y [[buffer(0)]], constant int& n [[buffer(30)]]) {
    if (masked) ((device int*)y)[0] = n;
}
}  // namespace inner

kernel void without_value(device float* y) { y[0] = scale; }
