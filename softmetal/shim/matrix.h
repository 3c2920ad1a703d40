// <metal_matrix>: matrices of columns.
#pragma once
#include "geometric.h"

namespace metal {

template <typename T, int Cols, int Rows> struct matrix {
    static_assert(__is_same(T, float) || __is_same(T, half) || __is_same(T, bfloat), "a matrix is of float or half");
    typedef vec<T, Rows> Column;
    Column columns[Cols];

    matrix() = default;
    // The diagonal's elements; the others are 0.
    explicit matrix(T diagonal) {
        for (int c = 0; c < Cols; c++)
            for (int r = 0; r < Rows; r++) columns[c][r] = c == r ? diagonal : T(0.0f);
    }
    // Columns, or elements column by column.
    template <typename... A, typename = enable_if_t<sizeof...(A) == Cols || sizeof...(A) == Cols * Rows>>
    matrix(A... a) {
        if constexpr (sizeof...(A) == Cols) {
            const Column given[] = {a...};
            for (int c = 0; c < Cols; c++) columns[c] = given[c];
        } else {
            const T given[] = {T(a)...};
            for (int i = 0; i < Cols * Rows; i++) columns[i / Rows][i % Rows] = given[i];
        }
    }
    template <typename U> explicit matrix(const matrix<U, Cols, Rows>& m) {
        for (int c = 0; c < Cols; c++) columns[c] = __builtin_convertvector(m.columns[c], Column);
    }

    Column& operator[](int c) { return columns[c]; }
    const Column& operator[](int c) const { return columns[c]; }
};

template <typename T, int C, int R>
__attribute__((noinline)) matrix<T, C, R> operator+(const matrix<T, C, R>& a, const matrix<T, C, R>& b) {
    matrix<T, C, R> m;
    for (int c = 0; c < C; c++) m[c] = a[c] + b[c];
    return m;
}
template <typename T, int C, int R>
__attribute__((noinline)) matrix<T, C, R> operator-(const matrix<T, C, R>& a, const matrix<T, C, R>& b) {
    matrix<T, C, R> m;
    for (int c = 0; c < C; c++) m[c] = a[c] - b[c];
    return m;
}
template <typename T, int C, int R> __attribute__((noinline)) matrix<T, C, R> operator-(const matrix<T, C, R>& a) {
    matrix<T, C, R> m;
    for (int c = 0; c < C; c++) m[c] = -a[c];
    return m;
}
template <typename T, int C, int R>
__attribute__((noinline)) matrix<T, C, R> operator*(const matrix<T, C, R>& a, typename softmetal::Same<T>::type s) {
    matrix<T, C, R> m;
    for (int c = 0; c < C; c++) m[c] = a[c] * s;
    return m;
}
template <typename T, int C, int R>
inline matrix<T, C, R> operator*(typename softmetal::Same<T>::type s, const matrix<T, C, R>& a) {
    return a * s;
}
template <typename T, int C, int R>
__attribute__((noinline)) vec<T, R> operator*(const matrix<T, C, R>& a, const vec<T, C>& v) {
    vec<T, R> sum = a[0] * v[0];
    for (int c = 1; c < C; c++) sum += a[c] * v[c];
    return sum;
}
template <typename T, int C, int R>
__attribute__((noinline)) vec<T, C> operator*(const vec<T, R>& v, const matrix<T, C, R>& a) {
    vec<T, C> r;
    for (int c = 0; c < C; c++) r[c] = dot(v, a[c]);
    return r;
}
template <typename T, int C, int K, int R>
__attribute__((noinline)) matrix<T, C, R> operator*(const matrix<T, K, R>& a, const matrix<T, C, K>& b) {
    matrix<T, C, R> m;
    for (int c = 0; c < C; c++) m[c] = a * b[c];
    return m;
}
template <typename T, int C, int R, typename U>
inline matrix<T, C, R>& operator+=(matrix<T, C, R>& a, const U& b) {
    return a = a + b;
}
template <typename T, int C, int R, typename U>
inline matrix<T, C, R>& operator-=(matrix<T, C, R>& a, const U& b) {
    return a = a - b;
}
template <typename T, int C, int R, typename U>
inline matrix<T, C, R>& operator*=(matrix<T, C, R>& a, const U& b) {
    return a = a * b;
}
template <typename T, int C, int R> inline bool operator==(const matrix<T, C, R>& a, const matrix<T, C, R>& b) {
    for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r++)
            if (a[c][r] != b[c][r]) return false;
    return true;
}
template <typename T, int C, int R> inline bool operator!=(const matrix<T, C, R>& a, const matrix<T, C, R>& b) {
    return !(a == b);
}

template <typename T, int C, int R> __attribute__((noinline)) matrix<T, R, C> transpose(const matrix<T, C, R>& a) {
    matrix<T, R, C> m;
    for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r++) m[r][c] = a[c][r];
    return m;
}

// By the elements of the first column; computed in float, rounded once.
template <int N> __attribute__((noinline)) float _determinant(const float (&a)[N][N]) {
    if constexpr (N == 2) {
        return a[0][0] * a[1][1] - a[1][0] * a[0][1];
    } else {
        float sum = 0.0f;
        for (int r = 0; r < N; r++) {
            float minor[N - 1][N - 1];
            for (int c = 1; c < N; c++)
                for (int i = 0; i < N - 1; i++) minor[c - 1][i] = a[c][i < r ? i : i + 1];
            sum += (r % 2 == 0 ? a[0][r] : -a[0][r]) * _determinant(minor);
        }
        return sum;
    }
}
template <typename T, int N> inline T determinant(const matrix<T, N, N>& a) {
    float elements[N][N];
    for (int c = 0; c < N; c++)
        for (int r = 0; r < N; r++) elements[c][r] = float(a[c][r]);
    return T(_determinant(elements));
}

}  // namespace metal

#define SOFTMETAL_MATRIX(T, C, R)                                                             \
    typedef metal::matrix<T, C, R> T##C##x##R;                                                \
    namespace metal {                                                                         \
    using ::T##C##x##R;                                                                       \
    }                                                                                         \
    static_assert(sizeof(T##C##x##R) == C * sizeof(T##R) && alignof(T##C##x##R) == alignof(T##R), "as Metal's");
#define SOFTMETAL_MATRICES(T) \
    SOFTMETAL_MATRIX(T, 2, 2) \
    SOFTMETAL_MATRIX(T, 2, 3) \
    SOFTMETAL_MATRIX(T, 2, 4) \
    SOFTMETAL_MATRIX(T, 3, 2) \
    SOFTMETAL_MATRIX(T, 3, 3) \
    SOFTMETAL_MATRIX(T, 3, 4) \
    SOFTMETAL_MATRIX(T, 4, 2) \
    SOFTMETAL_MATRIX(T, 4, 3) \
    SOFTMETAL_MATRIX(T, 4, 4)
SOFTMETAL_MATRICES(half)
SOFTMETAL_MATRICES(float)
