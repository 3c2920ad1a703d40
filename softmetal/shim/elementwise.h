// Functions of vectors, element by element, where those of floating-point scalars and of integers have one name.
#pragma once
#include "integer.h"
#include "math.h"

namespace metal {

#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT1(SOFTMETAL_ANY, T, f)
SOFTMETAL_MATH1(SOFTMETAL_LIFT)
SOFTMETAL_INTEGER1(SOFTMETAL_LIFT)
SOFTMETAL_LIFT(fract)
#undef SOFTMETAL_LIFT
#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT2(SOFTMETAL_ANY, T, f)
SOFTMETAL_MATH2(SOFTMETAL_LIFT)
SOFTMETAL_INTEGER2(SOFTMETAL_LIFT)
SOFTMETAL_LIFT(nextafter)
#undef SOFTMETAL_LIFT
#define SOFTMETAL_LIFT(f) SOFTMETAL_LIFT3(SOFTMETAL_ANY, T, f)
SOFTMETAL_MATH3(SOFTMETAL_LIFT)
SOFTMETAL_INTEGER3(SOFTMETAL_LIFT)
SOFTMETAL_LIFT(fma)
#undef SOFTMETAL_LIFT

template <typename T, int N> inline vec<T, N> frexp(vec<T, N> x, vec<int, N>& exponent) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) {
        int e;
        r[i] = frexp(x[i], e);
        exponent[i] = e;
    }
    return r;
}
template <typename T, int N> inline vec<T, N> ldexp(vec<T, N> x, vec<int, N> k) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = ldexp(x[i], k[i]);
    return r;
}
template <typename T, int N> inline vec<int, N> ilogb(vec<T, N> x) {
    vec<int, N> r;
    for (int i = 0; i < N; i++) r[i] = ilogb(x[i]);
    return r;
}
template <typename T, int N> inline vec<T, N> modf(vec<T, N> x, vec<T, N>& whole) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) {
        T w;
        r[i] = modf(x[i], w);
        whole[i] = w;
    }
    return r;
}
template <typename T, int N> inline vec<T, N> sincos(vec<T, N> x, vec<T, N>& cosine) {
    cosine = cos(x);
    return sin(x);
}

}  // namespace metal
