// The kernel dialect on Metal: MSL 3.1 (macOS 14), compiled when first used.
#include <metal_stdlib>
using namespace metal;

#define KERNEL [[max_total_threads_per_threadgroup(GROUP_SIZE)]] kernel
#define FN inline
#define GLOBAL device
#define SHARED threadgroup
#define SHARED_PTR(E) threadgroup E*
#define THREAD_PTR(E) thread E*
#define PARAMS(S) constant S&
#define ALIGNED_16 alignas(16)

typedef bfloat bf16;
typedef half f16;

#define SCOPE constant
constexpr SCOPE uint WARP = 32;

const uint mc_thread [[thread_index_in_threadgroup]];
const uint3 mc_group [[threadgroup_position_in_grid]];
const uint3 mc_groups [[threadgroups_per_grid]];

inline uint thread_id() { return mc_thread; }
inline uint group_id() { return mc_group.x; }
inline uint group_id_y() { return mc_group.y; }
inline uint group_id_z() { return mc_group.z; }
inline uint group_count() { return mc_groups.x; }
inline void barrier() { threadgroup_barrier(mem_flags::mem_threadgroup); }
// Barriers that order global memory too, of the group and of the warp.
inline void global_barrier() { threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup); }
inline void warp_global_barrier() { simdgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup); }

inline float warp_sum(float v) { return simd_sum(v); }
inline float warp_max(float v) { return simd_max(v); }
// v of the lane whose number differs from this one's by `mask`, bit by bit.
inline float warp_xor(float v, uint mask) { return simd_shuffle_xor(v, ushort(mask)); }
inline uint warp_xor(uint v, uint mask) { return simd_shuffle_xor(v, ushort(mask)); }
// A bit for each lane of the warp: whether its v holds.
inline uint warp_ballot(bool v) { return uint(simd_vote::vote_t(simd_ballot(v))); }

// Asks for the memory at p to be brought nearer; Metal has no word for it.
template <typename E> inline void prefetch(device const E*) {}

inline float inf32() { return INFINITY; }
inline float nan32() { return NAN; }
inline float exp32(float v) { return precise::exp(v); }
// 2^v within 2 units in the last place; 0 for results below 2^-126.
inline float exp2_fast(float v) { return exp2(v); }
inline float log32(float v) { return precise::log(v); }
inline float sqrt32(float v) { return precise::sqrt(v); }
inline float rsqrt32(float v) { return precise::rsqrt(v); }
// 1 / v within 1 unit in the last place; 0 for results below 2^-126.
inline float rcp32(float v) { return 1.0f / v; }
inline float tanh32(float v) { return precise::tanh(v); }
inline float abs32(float v) { return fabs(v); }
inline float max32(float a, float b) { return fmax(a, b); }
inline float min32(float a, float b) { return fmin(a, b); }
inline float fma32(float a, float b, float c) { return fma(a, b, c); }
// The number of the lowest bit of v that is set.
inline uint lowest_bit(uint v) { return ctz(v); }
// a b, rounded: never part of a fused multiply and add.
inline float mul32(float a, float b) {
#pragma METAL fp contract(off)
    return a * b;
}
inline uint bits32(float v) { return as_type<uint>(v); }
inline float float32(uint bits) { return as_type<float>(bits); }

// Two elements of 2 bytes, or one of 4, in a word, and element `which` of a word.
template <typename E> inline uint pack(E, float a, float b) { return as_type<uint>(vec<E, 2>(a, b)); }
inline uint pack(float, float a, float) { return as_type<uint>(a); }
template <typename E> inline float unpack(E, uint w, uint which) { return as_type<vec<E, 2>>(w)[which]; }
inline float unpack(float, uint w, uint) { return as_type<float>(w); }
// w, which the compiler does not know to be w: what was computed from it need not stay in registers.
inline uint anew(uint w) { return w; }

// Stores 16 bytes of elements.
inline void store_16(device float* p, thread const float* v) { *(device float4*)p = float4(v[0], v[1], v[2], v[3]); }
template <typename E> inline void store_16(device E* p, thread const float* v) {
    *(device uint4*)p = uint4(pack(E(), v[0], v[1]), pack(E(), v[2], v[3]), pack(E(), v[4], v[5]), pack(E(), v[6], v[7]));
}
