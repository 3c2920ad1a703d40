// The kernel dialect on CUDA: NVRTC, compiled when first used.
// No toolkit header is included, so that a user needs only the driver and NVRTC.

#define KERNEL extern "C" __global__ __launch_bounds__(GROUP_SIZE, RESIDENT)
#define FN __device__ __forceinline__
#define GLOBAL
#define SHARED __shared__
#define SHARED_PTR(E) E*
#define THREAD_PTR(E) E*
#define PARAMS(S) const S
#define ALIGNED_16 __align__(16)

typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned long ulong;
static_assert(sizeof(ulong) == 8, "ulong has 64 bits");

struct bf16 {
    unsigned short bits;
    bf16() = default;
    FN bf16(float v) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v)); }
    FN operator float() const { return __uint_as_float((uint)bits << 16); }
};

struct f16 {
    unsigned short bits;
    f16() = default;
    FN f16(float v) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v)); }
    FN operator float() const { float v; asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits)); return v; }
};

#define SCOPE __device__
constexpr uint WARP = 32;

FN uint thread_id() { return threadIdx.x; }
FN uint group_id() { return blockIdx.x; }
FN uint group_id_y() { return blockIdx.y; }
FN uint group_id_z() { return blockIdx.z; }
FN uint group_count() { return gridDim.x; }
FN void barrier() { __syncthreads(); }
// Barriers that order global memory too, of the group and of the warp.
FN void global_barrier() { __syncthreads(); }
FN void warp_global_barrier() { __syncwarp(); }

FN float warp_sum(float v) {
    for (uint d = WARP / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
FN float warp_max(float v) {
    for (uint d = WARP / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
// v of the lane whose number differs from this one's by `mask`, bit by bit.
FN float warp_xor(float v, uint mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
FN uint warp_xor(uint v, uint mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
// A bit for each lane of the warp: whether its v holds.
FN uint warp_ballot(bool v) { return __ballot_sync(0xffffffffu, v); }

// Asks for the memory at p to be brought nearer: it will be read soon.
template <typename E> FN void prefetch(const E* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

FN float inf32() { return __int_as_float(0x7f800000); }
FN float nan32() { return __int_as_float(0x7fffffff); }
FN float exp32(float v) { return expf(v); }
// 2^v within 2 units in the last place; 0 for results below 2^-126.
FN float exp2_fast(float v) { float e; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v)); return e; }
FN float log32(float v) { return logf(v); }
FN float sqrt32(float v) { return sqrtf(v); }
FN float rsqrt32(float v) { return rsqrtf(v); }
// 1 / v within 1 unit in the last place; 0 for results below 2^-126.
FN float rcp32(float v) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
FN float abs32(float v) { return fabsf(v); }
FN float max32(float a, float b) { return fmaxf(a, b); }
FN float min32(float a, float b) { return fminf(a, b); }
FN float fma32(float a, float b, float c) { return fmaf(a, b, c); }
// The number of the lowest bit of v that is set.
FN uint lowest_bit(uint v) { return __ffs(v) - 1; }
// a b, rounded: never part of a fused multiply and add.
FN float mul32(float a, float b) { return __fmul_rn(a, b); }
FN uint bits32(float v) { return __float_as_uint(v); }
FN float float32(uint bits) { return __uint_as_float(bits); }

// Two elements of 2 bytes, or one of 4, in a word, and element `which` of a word.
FN uint pack(bf16, float a, float b) {
    uint r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}
FN uint pack(f16, float a, float b) {
    uint r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}
FN uint pack(float, float a, float) { return bits32(a); }
FN float unpack(bf16, uint w, uint which) { return float32(which ? w & 0xffff0000u : w << 16); }
FN float unpack(f16, uint w, uint which) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"((unsigned short)(which ? w >> 16 : w)));
    return v;
}
FN float unpack(float, uint w, uint) { return float32(w); }
// w, which the compiler does not know to be w: what was computed from it need not stay in registers.
FN uint anew(uint w) {
    asm volatile("" : "+r"(w));
    return w;
}

// Stores 16 bytes of elements: the compiler does not always put narrower stores together.
FN void store_16(float* p, const float* v) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "f"(v[0]), "f"(v[1]),
                 "f"(v[2]), "f"(v[3]) : "memory");
}
template <typename E> FN void store_16(E* p, const float* v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
                 "r"(pack(E(), v[0], v[1])), "r"(pack(E(), v[2], v[3])), "r"(pack(E(), v[4], v[5])),
                 "r"(pack(E(), v[6], v[7])) : "memory");
}
