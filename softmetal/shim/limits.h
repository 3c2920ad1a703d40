// <metal_limits>, and the constants that Metal has as macros.
#pragma once
#include "traits.h"

#define CHAR_BIT 8
#define SCHAR_MIN (-128)
#define SCHAR_MAX 127
#define UCHAR_MAX 255
#define CHAR_MIN SCHAR_MIN
#define CHAR_MAX SCHAR_MAX
#define SHRT_MIN (-32768)
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define INT_MIN (-2147483647 - 1)
#define INT_MAX 2147483647
#define UINT_MAX 4294967295U
#define LONG_MIN (-9223372036854775807L - 1)
#define LONG_MAX 9223372036854775807L
#define ULONG_MAX 18446744073709551615UL

#define FLT_RADIX 2
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX_10_EXP 38
#define FLT_MAX_EXP 128
#define FLT_MIN_10_EXP (-37)
#define FLT_MIN_EXP (-125)
#define FLT_MAX 0x1.fffffep127f
#define FLT_MIN 0x1.0p-126f
#define FLT_EPSILON 0x1.0p-23f
#define FLT_TRUE_MIN 0x1.0p-149f
#define MAXFLOAT FLT_MAX
#define HUGE_VALF __builtin_huge_valf()
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

#define HALF_DIG 3
#define HALF_MANT_DIG 11
#define HALF_MAX_10_EXP 4
#define HALF_MAX_EXP 16
#define HALF_MIN_10_EXP (-4)
#define HALF_MIN_EXP (-13)
#define HALF_RADIX 2
#define HALF_MAX half(0x1.ffcp15f)
#define HALF_MIN half(0x1.0p-14f)
#define HALF_EPSILON half(0x1.0p-10f)
#define MAXHALF HALF_MAX
#define HUGE_VALH half(__builtin_huge_valf())

#define FP_ILOGB0 INT_MIN
#define FP_ILOGBNAN INT_MAX

#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.434294481903251827651f
#define M_LN2_F 0.693147180559945309417f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.785398163397448309616f
#define M_1_PI_F 0.318309886183790671538f
#define M_2_PI_F 0.636619772367581343076f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.707106781186547524401f
#define M_E_H half(M_E_F)
#define M_LOG2E_H half(M_LOG2E_F)
#define M_LOG10E_H half(M_LOG10E_F)
#define M_LN2_H half(M_LN2_F)
#define M_LN10_H half(M_LN10_F)
#define M_PI_H half(M_PI_F)
#define M_PI_2_H half(M_PI_2_F)
#define M_PI_4_H half(M_PI_4_F)
#define M_1_PI_H half(M_1_PI_F)
#define M_2_PI_H half(M_2_PI_F)
#define M_2_SQRTPI_H half(M_2_SQRTPI_F)
#define M_SQRT2_H half(M_SQRT2_F)
#define M_SQRT1_2_H half(M_SQRT1_2_F)

namespace softmetal {

template <typename T> struct IntegerLimits {
    static constexpr bool is_specialized = true, is_integer = true, is_exact = true, is_signed = T(-1) < T(0);
    static constexpr bool has_infinity = false, has_quiet_NaN = false;
    static constexpr int radix = 2, digits = __is_same(T, bool) ? 1 : sizeof(T) * 8 - is_signed;
    static constexpr int digits10 = digits * 3 / 10;
    static constexpr T min() { return is_signed ? T(-long(max()) - 1) : T(0); }
    static constexpr T max() { return T((1ul << (digits - 1)) - 1 + (1ul << (digits - 1))); }
    static constexpr T lowest() { return min(); }
    static constexpr T epsilon() { return T(0); }
    static constexpr T round_error() { return T(0); }
    static constexpr T infinity() { return T(0); }
    static constexpr T quiet_NaN() { return T(0); }
    static constexpr T signaling_NaN() { return T(0); }
    static constexpr T denorm_min() { return T(0); }
};

// `bits` of significand, the leading one too; the largest exponent is that of 2^emax times less than 2.
template <typename T, int bits, int emax> struct FloatLimits {
    static constexpr float power(int e) { return e < 0 ? 0.5f * power(e + 1) : e > 0 ? 2.0f * power(e - 1) : 1.0f; }
    static constexpr bool is_specialized = true, is_integer = false, is_exact = false, is_signed = true;
    static constexpr bool has_infinity = true, has_quiet_NaN = true, is_iec559 = true;
    static constexpr int radix = 2, digits = bits, digits10 = (bits - 1) * 3 / 10;
    static constexpr int max_exponent = emax + 1, min_exponent = 2 - emax;
    static constexpr T min() { return T(power(1 - emax)); }
    static constexpr T max() { return T(power(emax) * (2.0f - power(1 - bits))); }
    static constexpr T lowest() { return T(-float(max())); }
    static constexpr T epsilon() { return T(power(1 - bits)); }
    static constexpr T round_error() { return T(0.5f); }
    static constexpr T infinity() { return T(__builtin_inff()); }
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }
    static constexpr T signaling_NaN() { return T(__builtin_nansf("")); }
    static constexpr T denorm_min() { return T(power(2 - emax - bits)); }
};

}  // namespace softmetal

namespace metal {

template <typename T> struct _numeric_limits_impl {
    static constexpr bool is_specialized = false;
};
#define SOFTMETAL_LIMITS(T) \
    template <> struct _numeric_limits_impl<T> : softmetal::IntegerLimits<T> {};
SOFTMETAL_LIMITS(bool)
SOFTMETAL_LIMITS(char)
SOFTMETAL_LIMITS(signed char)
SOFTMETAL_LIMITS(uchar)
SOFTMETAL_LIMITS(short)
SOFTMETAL_LIMITS(ushort)
SOFTMETAL_LIMITS(int)
SOFTMETAL_LIMITS(uint)
SOFTMETAL_LIMITS(long)
SOFTMETAL_LIMITS(ulong)
template <> struct _numeric_limits_impl<half> : softmetal::FloatLimits<half, 11, 15> {};
template <> struct _numeric_limits_impl<bfloat> : softmetal::FloatLimits<bfloat, 8, 127> {};
template <> struct _numeric_limits_impl<float> : softmetal::FloatLimits<float, 24, 127> {};

template <typename T> struct numeric_limits : _numeric_limits_impl<remove_cv_t<T>> {};

template <typename T> struct _fp_encoding_traits;
template <> struct _fp_encoding_traits<float> {
    typedef uint encoding_type;
    static constexpr uint sign_mask = 0x80000000, inf_mask = 0x7f800000;
};
template <> struct _fp_encoding_traits<half> {
    typedef ushort encoding_type;
    static constexpr ushort sign_mask = 0x8000, inf_mask = 0x7c00;
};

static_assert(numeric_limits<int>::min() == INT_MIN && numeric_limits<int>::max() == INT_MAX);
static_assert(numeric_limits<long>::min() == LONG_MIN && numeric_limits<ulong>::max() == ULONG_MAX);
static_assert(numeric_limits<bool>::max() && !numeric_limits<bool>::min() && numeric_limits<char>::min() == -128);
static_assert(numeric_limits<float>::max() == FLT_MAX && numeric_limits<float>::min() == FLT_MIN);
static_assert(numeric_limits<float>::epsilon() == FLT_EPSILON && numeric_limits<float>::denorm_min() == FLT_TRUE_MIN);
static_assert(float(numeric_limits<half>::max()) == 65504.0f);
static_assert(float(numeric_limits<bfloat>::max()) == 0x1.fep127f);

}  // namespace metal
