// <metal_math> and the floating-point part of <metal_common>. float is the C library's, within a unit in the last
// place; half and bfloat compute in float and round once.
#pragma once
#include "lift.h"
#include "limits.h"

// Which of fast:: and precise:: an unqualified function of float is.
#ifndef SOFTMETAL_FAST_MATH
#define SOFTMETAL_FAST_MATH 0
#endif

#define SOFTMETAL_MATH1(F)                                                                                       \
    F(abs) F(acos) F(acosh) F(asin) F(asinh) F(atan) F(atanh) F(ceil) F(cos) F(cosh) F(cospi) F(exp) F(exp10)   \
    F(exp2) F(fabs) F(floor) F(log) F(log10) F(log2) F(rint) F(round) F(rsqrt) F(saturate) F(sign)     \
    F(sin) F(sinh) F(sinpi) F(sqrt) F(tan) F(tanh) F(tanpi) F(trunc)

#define SOFTMETAL_MATH2(F)                                                                            \
    F(atan2) F(copysign) F(divide) F(fdim) F(fmax) F(fmin) F(fmod) F(max) F(min) F(pow) \
    F(powr) F(step)

#define SOFTMETAL_MATH3(F)                                                                          \
    F(clamp) F(fmax3) F(fmedian3) F(fmin3) F(max3) F(median3) F(min3) F(mix) F(smoothstep)


namespace metal {

// ---- precise

namespace precise {

#define SOFTMETAL_LIBM(name) \
    inline float name(float x) { return __builtin_##name##f(x); }
SOFTMETAL_LIBM(ceil)
SOFTMETAL_LIBM(cos)
SOFTMETAL_LIBM(exp)
SOFTMETAL_LIBM(exp2)
SOFTMETAL_LIBM(fabs)
SOFTMETAL_LIBM(floor)
SOFTMETAL_LIBM(log)
SOFTMETAL_LIBM(log2)
SOFTMETAL_LIBM(rint)
SOFTMETAL_LIBM(round)
SOFTMETAL_LIBM(sin)
SOFTMETAL_LIBM(sqrt)
SOFTMETAL_LIBM(trunc)

// Those that the C library's float functions compute less well.
#define SOFTMETAL_IN_DOUBLE(name) \
    inline float name(float x) { return float(__builtin_##name(double(x))); }
SOFTMETAL_IN_DOUBLE(acos)
SOFTMETAL_IN_DOUBLE(acosh)
SOFTMETAL_IN_DOUBLE(asin)
SOFTMETAL_IN_DOUBLE(asinh)
SOFTMETAL_IN_DOUBLE(atan)
SOFTMETAL_IN_DOUBLE(atanh)
SOFTMETAL_IN_DOUBLE(cosh)
SOFTMETAL_IN_DOUBLE(exp10)
SOFTMETAL_IN_DOUBLE(log10)
SOFTMETAL_IN_DOUBLE(sinh)
SOFTMETAL_IN_DOUBLE(tan)
SOFTMETAL_IN_DOUBLE(tanh)
inline float atan2(float y, float x) { return float(__builtin_atan2(double(y), double(x))); }

#define SOFTMETAL_LIBM2(name) \
    inline float name(float x, float y) { return __builtin_##name##f(x, y); }
SOFTMETAL_LIBM2(copysign)
SOFTMETAL_LIBM2(fdim)
SOFTMETAL_LIBM2(fmod)
SOFTMETAL_LIBM2(nextafter)
SOFTMETAL_LIBM2(pow)

inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }

inline float abs(float x) { return __builtin_fabsf(x); }
inline float rsqrt(float x) { return float(1.0 / __builtin_sqrt(double(x))); }
inline float divide(float x, float y) { return x / y; }

// In half turns: exact before it is an angle.
inline float sinpi(float x) {
    const double r = __builtin_remainder(double(x), 2.0);
    if (r == -1.0 || r == 0.0 || r == 1.0) return __builtin_copysignf(0.0f, x);
    return float(__builtin_sin(r * __builtin_acos(-1.0)));
}
inline float cospi(float x) {
    const double r = __builtin_remainder(double(x), 2.0);
    return r == -0.5 || r == 0.5 ? 0.0f : float(__builtin_cos(r * __builtin_acos(-1.0)));
}
inline float tanpi(float x) {
    const double r = __builtin_remainder(double(x), 1.0);
    if (r == -0.5 || r == 0.5) return __builtin_copysignf(__builtin_inff(), float(r));
    return float(__builtin_tan(r * __builtin_acos(-1.0)));
}

// pow of x >= 0: NaN where e^(y log x) is.
inline float powr(float x, float y) {
    const bool undefined = x < 0.0f || x != x || y != y || (x == 0.0f && y == 0.0f) ||
                           (x == __builtin_inff() && y == 0.0f) || (x == 1.0f && __builtin_isinf(y));
    return undefined ? __builtin_nanf("") : __builtin_powf(__builtin_fabsf(x), y);
}

// A number is preferred to NaN, whichever NaN it is.
inline float fmax(float x, float y) { return x < y || x != x ? y : x; }
inline float fmin(float x, float y) { return y < x || x != x ? y : x; }
inline float max(float x, float y) { return fmax(x, y); }
inline float min(float x, float y) { return fmin(x, y); }
inline float fmax3(float x, float y, float z) { return fmax(x, fmax(y, z)); }
inline float fmin3(float x, float y, float z) { return fmin(x, fmin(y, z)); }
inline float max3(float x, float y, float z) { return fmax(x, fmax(y, z)); }
inline float min3(float x, float y, float z) { return fmin(x, fmin(y, z)); }
inline float fmedian3(float x, float y, float z) {
    if (x != x) return fmin(y, z);
    if (y != y) return fmin(x, z);
    if (z != z) return fmin(x, y);
    return fmax(fmin(x, y), fmin(fmax(x, y), z));
}
inline float median3(float x, float y, float z) { return fmedian3(x, y, z); }

inline float clamp(float x, float low, float high) { return fmin(fmax(x, low), high); }
inline float saturate(float x) { return fmin(fmax(x, 0.0f), 1.0f); }
inline float mix(float x, float y, float a) { return x + (y - x) * a; }
inline float step(float edge, float x) { return x < edge ? 0.0f : 1.0f; }
inline float smoothstep(float edge0, float edge1, float x) {
    const float t = saturate((x - edge0) / (edge1 - edge0));
    return t * t * (3.0f - 2.0f * t);
}
inline float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x != x ? 0.0f : x; }
// Below 1, even where x - floor(x) rounds to it.
inline float fract(float x) {
    const float f = x - floor(x);
    return f < 1.0f || f != f ? f : 0x1.fffffep-1f;
}

inline float frexp(float x, int& exponent) {
    exponent = 0;
    return __builtin_frexpf(x, &exponent);
}
inline float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }
inline int ilogb(float x) {
    if (x != x) return FP_ILOGBNAN;
    return x == 0.0f ? FP_ILOGB0 : __builtin_isinf(x) ? INT_MAX : __builtin_ilogbf(x);
}
inline float modf(float x, float& whole) { return __builtin_modff(x, &whole); }
inline float sincos(float x, float& cosine) {
    cosine = cos(x);
    return sin(x);
}

#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT1(SOFTMETAL_FLOAT, float, f)
SOFTMETAL_MATH1(SOFTMETAL_LIFT)
#undef SOFTMETAL_LIFT
#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT2(SOFTMETAL_FLOAT, float, f)
SOFTMETAL_MATH2(SOFTMETAL_LIFT)
#undef SOFTMETAL_LIFT
#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT3(SOFTMETAL_FLOAT, float, f)
SOFTMETAL_MATH3(SOFTMETAL_LIFT)
#undef SOFTMETAL_LIFT
SOFTMETAL_LIFT1(SOFTMETAL_FLOAT, float, fract)
SOFTMETAL_LIFT2(SOFTMETAL_FLOAT, float, nextafter)
SOFTMETAL_LIFT3(SOFTMETAL_FLOAT, float, fma)

}  // namespace precise

// ---- fast

namespace fast {

// Where Metal says how a fast function is made, it is made so: these overflow, and lose digits near zero, as there.
namespace made {

inline float acosh(float x) { return precise::log(x + precise::sqrt(x * x - 1.0f)); }
inline float asinh(float x) { return precise::log(x + precise::sqrt(x * x + 1.0f)); }
inline float atanh(float x) { return 0.5f * precise::log((1.0f + x) / (1.0f - x)); }
inline float cosh(float x) { return 0.5f * (precise::exp(x) + precise::exp(-x)); }
inline float sinh(float x) { return 0.5f * (precise::exp(x) - precise::exp(-x)); }
inline float tanh(float x) {
    const float t = precise::exp(2.0f * x);
    return (t - 1.0f) / (t + 1.0f);
}
inline float tan(float x) { return precise::sin(x) * (1.0f / precise::cos(x)); }
inline float exp10(float x) { return precise::exp2(x * 3.32192809488736f); }
inline float log10(float x) { return precise::log2(x) * 0.301029995663981f; }
inline float powr(float x, float y) { return precise::exp2(y * precise::log2(x)); }
// A negative x with a whole y keeps its sign.
inline float pow(float x, float y) { return x > 0.0f ? powr(x, y) : precise::pow(x, y); }

#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT1(SOFTMETAL_FLOAT, float, f)
SOFTMETAL_LIFT(acosh)
SOFTMETAL_LIFT(asinh)
SOFTMETAL_LIFT(atanh)
SOFTMETAL_LIFT(cosh)
SOFTMETAL_LIFT(exp10)
SOFTMETAL_LIFT(log10)
SOFTMETAL_LIFT(sinh)
SOFTMETAL_LIFT(tan)
SOFTMETAL_LIFT(tanh)
#undef SOFTMETAL_LIFT
SOFTMETAL_LIFT2(SOFTMETAL_FLOAT, float, pow)
SOFTMETAL_LIFT2(SOFTMETAL_FLOAT, float, powr)

}  // namespace made

using made::acosh;
using made::asinh;
using made::atanh;
using made::cosh;
using made::exp10;
using made::log10;
using made::pow;
using made::powr;
using made::sinh;
using made::tan;
using made::tanh;

// The others only may err by more.
using precise::abs;
using precise::acos;
using precise::asin;
using precise::atan;
using precise::atan2;
using precise::ceil;
using precise::clamp;
using precise::copysign;
using precise::cos;
using precise::cospi;
using precise::divide;
using precise::exp;
using precise::exp2;
using precise::fabs;
using precise::fdim;
using precise::floor;
using precise::fma;
using precise::fmax;
using precise::fmax3;
using precise::fmedian3;
using precise::fmin;
using precise::fmin3;
using precise::fmod;
using precise::fract;
using precise::frexp;
using precise::ilogb;
using precise::ldexp;
using precise::log;
using precise::log2;
using precise::max;
using precise::max3;
using precise::median3;
using precise::min;
using precise::min3;
using precise::mix;
using precise::modf;
using precise::nextafter;
using precise::rint;
using precise::round;
using precise::rsqrt;
using precise::saturate;
using precise::sign;
using precise::sin;
using precise::sincos;
using precise::sinpi;
using precise::smoothstep;
using precise::sqrt;
using precise::step;
using precise::tanpi;
using precise::trunc;

}  // namespace fast

// ---- unqualified: of scalars here, of vectors where the integers' functions are in sight too

#if SOFTMETAL_FAST_MATH
#define SOFTMETAL_MATH fast
#else
#define SOFTMETAL_MATH precise
#endif

#define SOFTMETAL_SCALARS(f)                                               \
    inline float f(float x) { return SOFTMETAL_MATH::f(x); }               \
    inline half f(half x) { return half(precise::f(float(x))); }           \
    inline bfloat f(bfloat x) { return bfloat(precise::f(float(x))); }
SOFTMETAL_MATH1(SOFTMETAL_SCALARS)
#undef SOFTMETAL_SCALARS

#define SOFTMETAL_SCALARS(f)                                                                       \
    inline float f(float x, float y) { return SOFTMETAL_MATH::f(x, y); }                           \
    inline half f(half x, half y) { return half(precise::f(float(x), float(y))); }                 \
    inline bfloat f(bfloat x, bfloat y) { return bfloat(precise::f(float(x), float(y))); }
SOFTMETAL_MATH2(SOFTMETAL_SCALARS)
#undef SOFTMETAL_SCALARS

#define SOFTMETAL_SCALARS(f)                                                                                          \
    inline float f(float x, float y, float z) { return SOFTMETAL_MATH::f(x, y, z); }                                  \
    inline half f(half x, half y, half z) { return half(precise::f(float(x), float(y), float(z))); }                  \
    inline bfloat f(bfloat x, bfloat y, bfloat z) { return bfloat(precise::f(float(x), float(y), float(z))); }
SOFTMETAL_MATH3(SOFTMETAL_SCALARS)
#undef SOFTMETAL_SCALARS

// Where computing in float would round twice, round to 1, or not see the type's own neighbours.
#define SOFTMETAL_SCALARS(T)                                                                             \
    inline T fma(T x, T y, T z) { return T(__builtin_fma(double(x), double(y), double(z))); }            \
    inline T fract(T x) {                                                                                \
        const T f = T(precise::fract(float(x)));                                                         \
        return f < T(1.0f) || f != f ? f : T(1.0f - numeric_limits<T>::epsilon() * 0.5f);                \
    }                                                                                                    \
    inline T nextafter(T x, T y) {                                                                       \
        if (x != x || y != y || x == y) return x != x ? x : y;                                           \
        if (x == T(0.0f)) return copysign(numeric_limits<T>::denorm_min(), y);                           \
        const ushort magnitude = as_type<ushort>(x);                                                     \
        return as_type<T>(ushort((x < y) == (x > T(0.0f)) ? magnitude + 1 : magnitude - 1));             \
    }
inline float fma(float x, float y, float z) { return SOFTMETAL_MATH::fma(x, y, z); }
inline float fract(float x) { return SOFTMETAL_MATH::fract(x); }
inline float nextafter(float x, float y) { return SOFTMETAL_MATH::nextafter(x, y); }
SOFTMETAL_SCALARS(half)
SOFTMETAL_SCALARS(bfloat)
#undef SOFTMETAL_SCALARS

// With results of another type than the argument's.
#define SOFTMETAL_SCALARS(T)                                                                             \
    inline T frexp(T x, int& exponent) { return T(precise::frexp(float(x), exponent)); }                 \
    inline T ldexp(T x, int k) { return T(precise::ldexp(float(x), k)); }                                \
    inline int ilogb(T x) { return precise::ilogb(float(x)); }                                           \
    inline T modf(T x, T& whole) {                                                                       \
        float w;                                                                                         \
        const T part = T(precise::modf(float(x), w));                                                    \
        whole = T(w);                                                                                    \
        return part;                                                                                     \
    }                                                                                                    \
    inline T sincos(T x, T& cosine) {                                                                    \
        cosine = cos(x);                                                                                 \
        return sin(x);                                                                                   \
    }
SOFTMETAL_SCALARS(float)
SOFTMETAL_SCALARS(half)
SOFTMETAL_SCALARS(bfloat)
#undef SOFTMETAL_SCALARS

}  // namespace metal
