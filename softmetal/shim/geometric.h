// <metal_geometric>. Sums and roots are float's, rounded once.
#pragma once
#include "elementwise.h"

namespace metal {

template <typename T, int N> inline float _dot(vec<T, N> x, vec<T, N> y) {
    static_assert(softmetal::is_float<T>, "dot: wants vectors of floating-point numbers");
    float sum = 0.0f;
    for (int i = 0; i < N; i++) sum += float(x[i]) * float(y[i]);
    return sum;
}

template <typename T, int N> inline T dot(vec<T, N> x, vec<T, N> y) { return T(_dot(x, y)); }
template <typename T> inline vec<T, 3> cross(vec<T, 3> x, vec<T, 3> y) {
    const vec<float, 3> a = __builtin_convertvector(x, vec<float, 3>), b = __builtin_convertvector(y, vec<float, 3>);
    return __builtin_convertvector(a.yzx * b.zxy - a.zxy * b.yzx, vec<T, 3>);
}
template <typename T, int N> inline T length_squared(vec<T, N> x) { return T(_dot(x, x)); }
template <typename T, int N> inline T length(vec<T, N> x) { return T(precise::sqrt(_dot(x, x))); }
template <typename T, int N> inline T distance_squared(vec<T, N> x, vec<T, N> y) { return length_squared(x - y); }
template <typename T, int N> inline T distance(vec<T, N> x, vec<T, N> y) { return length(x - y); }
template <typename T, int N> inline vec<T, N> normalize(vec<T, N> x) {
    const float scale = precise::rsqrt(_dot(x, x));
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = T(float(x[i]) * scale);
    return r;
}
template <typename T, int N> inline vec<T, N> faceforward(vec<T, N> n, vec<T, N> incident, vec<T, N> reference) {
    return _dot(reference, incident) < 0.0f ? n : -n;
}
template <typename T, int N> inline vec<T, N> reflect(vec<T, N> incident, vec<T, N> n) {
    return incident - T(2.0f) * dot(n, incident) * n;
}
template <typename T, int N>
inline vec<T, N> refract(vec<T, N> incident, vec<T, N> n, typename softmetal::Same<T>::type ratio) {
    const float eta = float(ratio), d = _dot(n, incident), k = 1.0f - eta * eta * (1.0f - d * d);
    vec<T, N> r = vec<T, N>(T(0.0f));
    if (k >= 0.0f)
        for (int i = 0; i < N; i++) r[i] = T(eta * float(incident[i]) - (eta * d + precise::sqrt(k)) * float(n[i]));
    return r;
}

namespace precise {
using metal::distance;
using metal::length;
using metal::normalize;
}  // namespace precise
namespace fast {
using metal::distance;
using metal::length;
using metal::normalize;
}  // namespace fast

}  // namespace metal
