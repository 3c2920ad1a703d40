// Functions of vectors, element by element, from those of scalars that are in sight. An argument that Metal would
// convert may be a scalar for all elements.
#pragma once
#include "types.h"

// For TYPES: what the templates are over, and T, the element's type in them.
#define SOFTMETAL_ANY typename T, int N
#define SOFTMETAL_FLOAT int N

#define SOFTMETAL_LIFT1(TYPES, T, f)                            \
    template <TYPES> inline vec<T, N> f(vec<T, N> x) {          \
        vec<T, N> r;                                            \
        for (int i = 0; i < N; i++) r[i] = f(x[i]);             \
        return r;                                               \
    }

#define SOFTMETAL_LIFT2(TYPES, T, f)                                                                                   \
    template <TYPES> inline vec<T, N> f(vec<T, N> x, vec<T, N> y) {                                                    \
        vec<T, N> r;                                                                                                   \
        for (int i = 0; i < N; i++) r[i] = f(x[i], y[i]);                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    template <TYPES> inline vec<T, N> f(vec<T, N> x, typename softmetal::Same<T>::type y) {                            \
        return f(x, vec<T, N>(y));                                                                                     \
    }                                                                                                                  \
    template <TYPES> inline vec<T, N> f(typename softmetal::Same<T>::type x, vec<T, N> y) {                            \
        return f(vec<T, N>(x), y);                                                                                     \
    }

#define SOFTMETAL_LIFT3(TYPES, T, f)                                                                   \
    template <TYPES> inline vec<T, N> f(vec<T, N> x, vec<T, N> y, vec<T, N> z) {                       \
        vec<T, N> r;                                                                                   \
        for (int i = 0; i < N; i++) r[i] = f(x[i], y[i], z[i]);                                        \
        return r;                                                                                      \
    }                                                                                                  \
    template <TYPES> inline vec<T, N> f(vec<T, N> x, vec<T, N> y, typename softmetal::Same<T>::type z) { \
        return f(x, y, vec<T, N>(z));                                                                  \
    }                                                                                                  \
    template <TYPES>                                                                                   \
    inline vec<T, N> f(vec<T, N> x, typename softmetal::Same<T>::type y, typename softmetal::Same<T>::type z) { \
        return f(x, vec<T, N>(y), vec<T, N>(z));                                                       \
    }                                                                                                  \
    template <TYPES>                                                                                   \
    inline vec<T, N> f(typename softmetal::Same<T>::type x, typename softmetal::Same<T>::type y, vec<T, N> z) { \
        return f(vec<T, N>(x), vec<T, N>(y), z);                                                       \
    }
