// <metal_pack>: colours and the like in 16 or 32 bits.
#pragma once
#include "elementwise.h"

namespace softmetal {

// Bits `at`.. of a word as a number from 0 to 1, or from -1 to 1, and back.
inline float unorm(uint word, uint at, uint bits) {
    const uint most = (1u << bits) - 1;
    return float(word >> at & most) / float(most);
}
inline float snorm(uint word, uint at, uint bits) {
    const int value = int(word << (32 - bits - at)) >> (32 - bits);
    return __builtin_fmaxf(float(value) / float((1 << (bits - 1)) - 1), -1.0f);
}
inline uint to_unorm(float x, uint at, uint bits) {
    return uint(__builtin_rintf(metal::precise::saturate(x) * float((1u << bits) - 1))) << at;
}
inline uint to_snorm(float x, uint at, uint bits) {
    const float clamped = metal::precise::clamp(x, -1.0f, 1.0f);
    return (uint(int(__builtin_rintf(clamped * float((1 << (bits - 1)) - 1)))) & ((1u << bits) - 1)) << at;
}
inline float linear_from_srgb(float c) {
    return c <= 0.04045f ? c / 12.92f : __builtin_powf((c + 0.055f) / 1.055f, 2.4f);
}
inline float srgb_from_linear(float c) {
    const float x = metal::precise::saturate(c);
    return x < 0.0031308f ? 12.92f * x : 1.055f * __builtin_powf(x, 1.0f / 2.4f) - 0.055f;
}

inline float4 unpack_unorm4x8(uint w) { return {unorm(w, 0, 8), unorm(w, 8, 8), unorm(w, 16, 8), unorm(w, 24, 8)}; }
inline float4 unpack_snorm4x8(uint w) { return {snorm(w, 0, 8), snorm(w, 8, 8), snorm(w, 16, 8), snorm(w, 24, 8)}; }
inline float4 unpack_unorm4x8_srgb(uint w) {
    const float4 v = unpack_unorm4x8(w);
    return {linear_from_srgb(v.x), linear_from_srgb(v.y), linear_from_srgb(v.z), v.w};
}
inline float2 unpack_unorm2x16(uint w) { return {unorm(w, 0, 16), unorm(w, 16, 16)}; }
inline float2 unpack_snorm2x16(uint w) { return {snorm(w, 0, 16), snorm(w, 16, 16)}; }
inline float4 unpack_unorm10a2(uint w) {
    return {unorm(w, 0, 10), unorm(w, 10, 10), unorm(w, 20, 10), unorm(w, 30, 2)};
}
inline float3 unpack_unorm565(ushort w) { return {unorm(w, 11, 5), unorm(w, 5, 6), unorm(w, 0, 5)}; }

inline uint pack_unorm4x8(float4 v) {
    return to_unorm(v.x, 0, 8) | to_unorm(v.y, 8, 8) | to_unorm(v.z, 16, 8) | to_unorm(v.w, 24, 8);
}
inline uint pack_snorm4x8(float4 v) {
    return to_snorm(v.x, 0, 8) | to_snorm(v.y, 8, 8) | to_snorm(v.z, 16, 8) | to_snorm(v.w, 24, 8);
}
inline uint pack_unorm4x8_srgb(float4 v) {
    const float4 coded = {srgb_from_linear(v.x), srgb_from_linear(v.y), srgb_from_linear(v.z), v.w};
    return pack_unorm4x8(coded);
}
inline uint pack_unorm2x16(float2 v) { return to_unorm(v.x, 0, 16) | to_unorm(v.y, 16, 16); }
inline uint pack_snorm2x16(float2 v) { return to_snorm(v.x, 0, 16) | to_snorm(v.y, 16, 16); }
inline uint pack_unorm10a2(float4 v) {
    return to_unorm(v.x, 0, 10) | to_unorm(v.y, 10, 10) | to_unorm(v.z, 20, 10) | to_unorm(v.w, 30, 2);
}
inline ushort pack_unorm565(float3 v) { return to_unorm(v.x, 11, 5) | to_unorm(v.y, 5, 6) | to_unorm(v.z, 0, 5); }

}  // namespace softmetal

namespace metal {

#define SOFTMETAL_PACKING(format, word, N)                                                                             \
    inline float##N unpack_##format##_to_float(word w) { return softmetal::unpack_##format(w); }                       \
    inline half##N unpack_##format##_to_half(word w) {                                                                 \
        return __builtin_convertvector(softmetal::unpack_##format(w), half##N);                                        \
    }                                                                                                                  \
    inline word pack_float_to_##format(float##N v) { return softmetal::pack_##format(v); }                             \
    inline word pack_half_to_##format(half##N v) {                                                                     \
        return softmetal::pack_##format(__builtin_convertvector(v, float##N));                                         \
    }
SOFTMETAL_PACKING(unorm4x8, uint, 4)
SOFTMETAL_PACKING(snorm4x8, uint, 4)
SOFTMETAL_PACKING(unorm4x8_srgb, uint, 4)
SOFTMETAL_PACKING(unorm2x16, uint, 2)
SOFTMETAL_PACKING(snorm2x16, uint, 2)
SOFTMETAL_PACKING(unorm10a2, uint, 4)
SOFTMETAL_PACKING(unorm565, ushort, 3)

}  // namespace metal
