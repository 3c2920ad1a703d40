// <metal_relational>.
#pragma once
#include "types.h"

namespace metal {

#define SOFTMETAL_CLASSES(T)                                                                             \
    inline bool isfinite(T x) { return __builtin_isfinite(float(x)); }                                   \
    inline bool isinf(T x) { return __builtin_isinf(float(x)); }                                         \
    inline bool isnan(T x) { return __builtin_isnan(float(x)); }                                         \
    inline bool signbit(T x) { return __builtin_signbit(float(x)); }                                     \
    inline bool isordered(T x, T y) { return x == x && y == y; }                                         \
    inline bool isunordered(T x, T y) { return x != x || y != y; }
SOFTMETAL_CLASSES(half)
SOFTMETAL_CLASSES(bfloat)
SOFTMETAL_CLASSES(float)

// By the type's own range: a normal float may be no normal half.
inline bool isnormal(half x) { return isfinite(x) && __builtin_fabsf(float(x)) >= 0x1.0p-14f; }
inline bool isnormal(bfloat x) { return __builtin_isnormal(float(x)); }
inline bool isnormal(float x) { return __builtin_isnormal(x); }

#define SOFTMETAL_CLASS1(f)                                                  \
    template <typename T, int N> inline vec<bool, N> f(vec<T, N> x) {        \
        vec<bool, N> r;                                                      \
        for (int i = 0; i < N; i++) r[i] = f(x[i]);                          \
        return r;                                                            \
    }
SOFTMETAL_CLASS1(isfinite)
SOFTMETAL_CLASS1(isinf)
SOFTMETAL_CLASS1(isnan)
SOFTMETAL_CLASS1(isnormal)
SOFTMETAL_CLASS1(signbit)

#define SOFTMETAL_CLASS2(f)                                                            \
    template <typename T, int N> inline vec<bool, N> f(vec<T, N> x, vec<T, N> y) {     \
        vec<bool, N> r;                                                                \
        for (int i = 0; i < N; i++) r[i] = f(x[i], y[i]);                              \
        return r;                                                                      \
    }
SOFTMETAL_CLASS2(isordered)
SOFTMETAL_CLASS2(isunordered)

// Vectors of bool, or what comparing vectors makes.
inline bool all(bool x) { return x; }
inline bool any(bool x) { return x; }
template <typename B, int N> inline bool all(vec<B, N> x) {
    static_assert(__is_integral(B), "all: wants a vector of bool");
    for (int i = 0; i < N; i++)
        if (!x[i]) return false;
    return true;
}
template <typename B, int N> inline bool any(vec<B, N> x) {
    static_assert(__is_integral(B), "any: wants a vector of bool");
    for (int i = 0; i < N; i++)
        if (x[i]) return true;
    return false;
}
// b where c holds, otherwise a.
template <typename T> inline T select(T a, T b, bool c) { return c ? b : a; }
template <typename T, typename B, int N> inline vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<B, N> c) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = c[i] ? b[i] : a[i];
    return r;
}
template <typename T, typename B, int N>
inline vec<T, N> select(vec<T, N> a, typename softmetal::Same<T>::type b, vec<B, N> c) {
    return select(a, vec<T, N>(b), c);
}
template <typename T, typename B, int N>
inline vec<T, N> select(typename softmetal::Same<T>::type a, vec<T, N> b, vec<B, N> c) {
    return select(vec<T, N>(a), b, c);
}

}  // namespace metal
