// Functions of scalars and vectors.

#define OF_ONE(E, name) E name(E);
#define OF_TWO(E, name) E name(E, E);
#define OF_THREE(E, name) E name(E, E, E);
#define WIDTHS(OF, E) OF(E) OF(E##2) OF(E##3) OF(E##4)
#define FLOATS(OF) WIDTHS(OF, half) WIDTHS(OF, float)
#define INTEGERS(OF)                                                                                             \
    WIDTHS(OF, char) WIDTHS(OF, uchar) WIDTHS(OF, short) WIDTHS(OF, ushort) WIDTHS(OF, int) WIDTHS(OF, uint)     \
    WIDTHS(OF, long) WIDTHS(OF, ulong)

namespace metal {

#define PRECISION(E)                                                                                             \
    OF_ONE(E, acos) OF_ONE(E, acosh) OF_ONE(E, asin) OF_ONE(E, asinh) OF_ONE(E, atan) OF_ONE(E, atanh)           \
    OF_ONE(E, ceil) OF_ONE(E, cos) OF_ONE(E, cosh) OF_ONE(E, cospi) OF_ONE(E, exp) OF_ONE(E, exp10)              \
    OF_ONE(E, exp2) OF_ONE(E, fabs) OF_ONE(E, abs) OF_ONE(E, floor) OF_ONE(E, fract) OF_ONE(E, log)              \
    OF_ONE(E, log10) OF_ONE(E, log2) OF_ONE(E, rint) OF_ONE(E, round) OF_ONE(E, rsqrt) OF_ONE(E, sin)            \
    OF_ONE(E, sinh) OF_ONE(E, sinpi) OF_ONE(E, sqrt) OF_ONE(E, tan) OF_ONE(E, tanh) OF_ONE(E, tanpi)             \
    OF_ONE(E, trunc) OF_ONE(E, saturate) OF_ONE(E, sign)                                                         \
    OF_TWO(E, atan2) OF_TWO(E, copysign) OF_TWO(E, divide) OF_TWO(E, fdim) OF_TWO(E, fmax) OF_TWO(E, fmin)       \
    OF_TWO(E, fmod) OF_TWO(E, nextafter) OF_TWO(E, pow) OF_TWO(E, powr) OF_TWO(E, max) OF_TWO(E, min)            \
    OF_TWO(E, step)                                                                                              \
    OF_THREE(E, fma) OF_THREE(E, fmax3) OF_THREE(E, fmin3) OF_THREE(E, fmedian3) OF_THREE(E, max3)               \
    OF_THREE(E, min3) OF_THREE(E, median3) OF_THREE(E, clamp) OF_THREE(E, mix) OF_THREE(E, smoothstep)           \
    E sincos(E, thread E&);                                                                                      \
    E modf(E, thread E&);
FLOATS(PRECISION)
namespace precise { FLOATS(PRECISION) }
namespace fast { FLOATS(PRECISION) }

#define EXPONENTS(E, I)                                                         \
    I ilogb(E);                                                                 \
    E ldexp(E, I);                                                              \
    E frexp(E, thread I&);                                                      \
    softmetal_mask(I) isfinite(E);                                              \
    softmetal_mask(I) isinf(E);                                                 \
    softmetal_mask(I) isnan(E);                                                 \
    softmetal_mask(I) isnormal(E);                                              \
    softmetal_mask(I) signbit(E);                                               \
    softmetal_mask(I) isordered(E, E);                                          \
    softmetal_mask(I) isunordered(E, E);
#define softmetal_mask(I) bool
EXPONENTS(half, int) EXPONENTS(float, int)
#undef softmetal_mask
#define softmetal_mask(I) I##_mask
typedef bool2 int2_mask;
typedef bool3 int3_mask;
typedef bool4 int4_mask;
EXPONENTS(half2, int2) EXPONENTS(half3, int3) EXPONENTS(half4, int4)
EXPONENTS(float2, int2) EXPONENTS(float3, int3) EXPONENTS(float4, int4)
#undef softmetal_mask
#undef EXPONENTS

#define INTEGER(E)                                                                                               \
    OF_ONE(E, abs) OF_ONE(E, clz) OF_ONE(E, ctz) OF_ONE(E, popcount) OF_ONE(E, reverse_bits)                     \
    OF_TWO(E, absdiff) OF_TWO(E, addsat) OF_TWO(E, hadd) OF_TWO(E, max) OF_TWO(E, min) OF_TWO(E, mulhi)          \
    OF_TWO(E, rhadd) OF_TWO(E, rotate) OF_TWO(E, subsat)                                                         \
    OF_THREE(E, clamp) OF_THREE(E, madhi) OF_THREE(E, madsat) OF_THREE(E, max3) OF_THREE(E, median3)             \
    OF_THREE(E, min3)                                                                                            \
    E extract_bits(E, uint offset, uint bits);                                                                   \
    E insert_bits(E, E, uint offset, uint bits);
INTEGERS(INTEGER)
#undef INTEGER
#define OF_24_BITS(E) OF_TWO(E, mul24) OF_THREE(E, mad24)
WIDTHS(OF_24_BITS, int) WIDTHS(OF_24_BITS, uint)
#undef OF_24_BITS

// `select(a, b, c)` is c ? b : a; for vectors, element by element.
#define SELECT(E) E select(E, E, bool);
#define SELECTS(E)                       \
    SELECT(E)                            \
    E##2 select(E##2, E##2, bool2);      \
    E##3 select(E##3, E##3, bool3);      \
    E##4 select(E##4, E##4, bool4);
SELECTS(char) SELECTS(uchar) SELECTS(short) SELECTS(ushort) SELECTS(int) SELECTS(uint) SELECTS(long) SELECTS(ulong)
SELECTS(half) SELECTS(bfloat) SELECTS(float) SELECT(bool)
#undef SELECTS
#undef SELECT
#define RELATIONAL(N)    \
    bool all(bool##N);   \
    bool any(bool##N);   \
    bool##N not_(bool##N);
RELATIONAL(2) RELATIONAL(3) RELATIONAL(4)
#undef RELATIONAL

#define GEOMETRIC(E, V)                                                                                        \
    E dot(V, V);                                                                                               \
    E length(V);                                                                                               \
    E length_squared(V);                                                                                       \
    E distance(V, V);                                                                                          \
    E distance_squared(V, V);                                                                                  \
    V normalize(V);                                                                                            \
    V reflect(V, V);                                                                                           \
    V refract(V, V, E);                                                                                        \
    V faceforward(V, V, V);
#define GEOMETRICS(E) GEOMETRIC(E, E##2) GEOMETRIC(E, E##3) GEOMETRIC(E, E##4) E##3 cross(E##3, E##3);
GEOMETRICS(half) GEOMETRICS(float)
#undef GEOMETRICS
#undef GEOMETRIC

float2 unpack_snorm2x16_to_float(uint);
float2 unpack_unorm2x16_to_float(uint);
float4 unpack_snorm4x8_to_float(uint);
float4 unpack_unorm4x8_to_float(uint);
half2 unpack_snorm2x16_to_half(uint);
half2 unpack_unorm2x16_to_half(uint);
half4 unpack_snorm4x8_to_half(uint);
half4 unpack_unorm4x8_to_half(uint);
uint pack_float_to_snorm2x16(float2);
uint pack_float_to_unorm2x16(float2);
uint pack_float_to_snorm4x8(float4);
uint pack_float_to_unorm4x8(float4);
uint pack_half_to_snorm2x16(half2);
uint pack_half_to_unorm2x16(half2);
uint pack_half_to_snorm4x8(half4);
uint pack_half_to_unorm4x8(half4);

}  // namespace metal
