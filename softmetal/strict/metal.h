// What <metal_stdlib> declares, in C++ for OpenCL: clang then checks address spaces as Apple's compiler does.
// Declarations, and bodies only where a constant expression wants a value; nothing here runs.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable
// As arguments of templates; `rules.rs` refuses others.
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable

// `constant` and `device` are parts of OpenCL's generic space that do not convert into each other, so that structures
// are copied from both, as in Metal; OpenCL's own __constant is not. `device` converts to `constant`, which
// `rules.rs` refuses. The translator writes the same words.
#define device __attribute__((opencl_global_device))
#define constant const __global
#define threadgroup __local
#define thread __private
#define of_device __global  // behind a member function, where no attribute may stand

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef ulong size_t;
typedef long ptrdiff_t;
typedef char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;
typedef __bf16 bfloat;

#define VECTORS(E)                                      \
    typedef E E##2 __attribute__((ext_vector_type(2))); \
    typedef E E##3 __attribute__((ext_vector_type(3))); \
    typedef E E##4 __attribute__((ext_vector_type(4)));
VECTORS(char) VECTORS(uchar) VECTORS(short) VECTORS(ushort) VECTORS(int) VECTORS(uint) VECTORS(long) VECTORS(ulong)
VECTORS(half) VECTORS(bfloat) VECTORS(float)
#undef VECTORS

namespace softmetal {

template <class E, int N> using vector = E __attribute__((ext_vector_type(N)));

// How many elements a type has, as an argument of a vector's constructor; and its element type.
template <class T> struct elements {
    static constexpr const int count = 1;
    static constexpr const bool is_vector = false;
};
#define VECTOR(E, N)                                       \
    template <> struct elements<E##N> {                    \
        static constexpr const int count = N;              \
        static constexpr const bool is_vector = true;      \
    };
#define EACH_VECTOR(OF)                                                                                           \
    OF(char, 2) OF(char, 3) OF(char, 4) OF(uchar, 2) OF(uchar, 3) OF(uchar, 4) OF(short, 2) OF(short, 3)          \
    OF(short, 4) OF(ushort, 2) OF(ushort, 3) OF(ushort, 4) OF(int, 2) OF(int, 3) OF(int, 4) OF(uint, 2)           \
    OF(uint, 3) OF(uint, 4) OF(long, 2) OF(long, 3) OF(long, 4) OF(ulong, 2) OF(ulong, 3) OF(ulong, 4)            \
    OF(half, 2) OF(half, 3) OF(half, 4) OF(bfloat, 2) OF(bfloat, 3) OF(bfloat, 4) OF(float, 2) OF(float, 3)       \
    OF(float, 4)
EACH_VECTOR(VECTOR)
#undef VECTOR

// Metal's bool vectors. Comparing vectors gives integers in OpenCL: they convert.
template <int N> struct booleans {
    booleans() = default;
    booleans(bool);
    template <class... A> explicit booleans(bool, bool, A...);
    booleans(vector<char, N>);
    booleans(vector<short, N>);
    booleans(vector<int, N>);
    booleans(vector<long, N>);
    bool operator[](int) const;
    thread bool& operator[](int) thread;
    bool x, y, z, w;
};
template <class E, int N> struct any_vector {
    typedef vector<E, N> type;
};
template <int N> struct any_vector<bool, N> {
    typedef booleans<N> type;
};
template <int N> booleans<N> operator!(booleans<N>);
template <int N> booleans<N> operator&&(booleans<N>, booleans<N>);
template <int N> booleans<N> operator||(booleans<N>, booleans<N>);
template <int N> struct elements<booleans<N>> {
    static constexpr const int count = N;
    static constexpr const bool is_vector = true;
};

// `V(...)`: a vector of one scalar, of another vector, or of as many elements as it has.
template <class V, class... A> constexpr V make(A...) {
    constexpr int given = (0 + ... + elements<A>::count);
    static_assert(given == 0 || given == elements<V>::count || (sizeof...(A) == 1 && given == 1),
                  "wants a vector of one scalar or of as many elements as it has");
    return V{};
}

// `static_cast<To>(..)`: of vectors, element by element.
template <class To, class From> constexpr To cast(From from) {
    if constexpr (elements<To>::is_vector) {
        static_assert(elements<From>::count == elements<To>::count || elements<From>::count == 1,
                      "wants a vector of as many elements");
        return To{};
    } else if constexpr (__is_same(From, __bf16) || __is_same(To, __bf16)) {
        return static_cast<To>(static_cast<float>(from));
    } else {
        return static_cast<To>(from);
    }
}

// `(V)operand`, as `conversion<V>() ->* operand`.
template <class To> struct conversion {
    template <class From> constexpr To operator->*(From from) const { return cast<To>(from); }
};

// `threadgroup T name[n];`: the checker reads the size off the type.
template <size_t> struct bytes {};
template <class T> threadgroup T& threadgroup_variable(bytes<sizeof(T)> = {});

}  // namespace softmetal

typedef softmetal::booleans<2> bool2;
typedef softmetal::booleans<3> bool3;
typedef softmetal::booleans<4> bool4;

template <class To, class From> constexpr To as_type(From) {
    static_assert(sizeof(To) == sizeof(From), "as_type wants types of the same size");
    return To{};
}

template <class T> bool is_function_constant_defined(T);

#include "types.h"
#include "math.h"
#include "simd.h"
#include "atomic.h"

#undef EACH_VECTOR
#undef device
#undef constant
#undef threadgroup
#undef thread
#undef of_device
