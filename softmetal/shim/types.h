// Scalars, vectors and packed vectors, laid out as Metal lays them out.
#pragma once
#include "abi.h"

// Functions that use memory on the runtime's behalf, or tell it themselves what they use.
#define SOFTMETAL_UNCHECKED __attribute__((disable_sanitizer_instrumentation))

static_assert(char(-1) < 0, "compiled with -fsigned-char: Metal's char is signed");

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef long intptr_t;
typedef unsigned long uintptr_t;
typedef _Float16 half;
typedef __bf16 bfloat;

namespace metal {

// Clang's vectors have Metal's swizzles, sizes and alignments. Two differences remain: a vector of bool has a bit for
// each element, and comparing vectors makes a vector of integers (0 or -1).
template <typename T, int N> using vec = T __attribute__((ext_vector_type(N)));

}  // namespace metal

namespace softmetal {

// The type of an element, and how many there are.
template <typename T> struct Shape {
    typedef T Element;
    static constexpr int width = 1;
};
template <typename T, int N> struct Shape<metal::vec<T, N>> {
    typedef T Element;
    static constexpr int width = N;
};
template <typename T> struct Shape<const T> : Shape<T> {};
template <typename T> struct Shape<volatile T> : Shape<T> {};
template <typename T> struct Shape<const volatile T> : Shape<T> {};

// T, where a template's argument is not to be found from it.
template <typename T> struct Same {
    typedef T type;
};

template <typename T, int N> struct Members;
template <typename T> struct Members<T, 2> {
    T x, y;
};
template <typename T> struct Members<T, 3> {
    T x, y, z;
};
template <typename T> struct Members<T, 4> {
    T x, y, z, w;
};

// A vector that lies as an array of its elements does. It computes as the vector that it converts to.
template <typename T, int N> struct Packed : Members<T, N> {
    typedef metal::vec<T, N> Vector;

    Packed() = default;
    constexpr Packed(T x, T y) : Members<T, N>{x, y} { static_assert(N == 2); }
    constexpr Packed(T x, T y, T z) : Members<T, N>{x, y, z} { static_assert(N == 3); }
    constexpr Packed(T x, T y, T z, T w) : Members<T, N>{x, y, z, w} { static_assert(N == 4); }
    Packed(Vector v) {
        for (int i = 0; i < N; i++) (*this)[i] = v[i];
    }
    explicit Packed(T v) : Packed(Vector(v)) {}

    T& operator[](int i) { return (&this->x)[i]; }
    const T& operator[](int i) const { return (&this->x)[i]; }
    operator Vector() const {
        Vector v;
        for (int i = 0; i < N; i++) v[i] = (*this)[i];
        return v;
    }

#define SOFTMETAL_OPERATOR(op)                                                                              \
    friend Vector operator op(const Packed& a, const Packed& b) { return Vector(a) op Vector(b); }          \
    friend Vector operator op(const Packed& a, Vector b) { return Vector(a) op b; }                         \
    friend Vector operator op(Vector a, const Packed& b) { return a op Vector(b); }                         \
    Packed& operator op##=(Vector v) { return *this = Packed(Vector(*this) op v); }
    SOFTMETAL_OPERATOR(+)
    SOFTMETAL_OPERATOR(-)
    SOFTMETAL_OPERATOR(*)
    SOFTMETAL_OPERATOR(/)
#undef SOFTMETAL_OPERATOR
};
template <typename T, int N> struct Shape<Packed<T, N>> {
    typedef T Element;
    static constexpr int width = N;
};

// A vector's alignment is its size. On aarch64, clang stops at 16.
constexpr size_t alignment(size_t size) {
#ifdef __aarch64__
    return size > 16 ? 16 : size;
#else
    return size;
#endif
}

}  // namespace softmetal

#define SOFTMETAL_VECTOR(T, N)                                                                            \
    typedef T T##N __attribute__((ext_vector_type(N)));                                                   \
    namespace metal {                                                                                     \
    using ::T##N;                                                                                         \
    }                                                                                                     \
    static_assert(sizeof(T##N) == sizeof(T) * (N == 3 ? 4 : N), "as Metal's");                            \
    static_assert(alignof(T##N) == softmetal::alignment(sizeof(T##N)), "as Metal's");

#define SOFTMETAL_PACKED(T, N)                      \
    typedef softmetal::Packed<T, N> packed_##T##N;  \
    namespace metal {                               \
    using ::packed_##T##N;                          \
    }                                               \
    static_assert(sizeof(packed_##T##N) == sizeof(T) * N && alignof(packed_##T##N) == alignof(T), "as Metal's");

#define SOFTMETAL_VECTORS(T)     \
    SOFTMETAL_VECTOR(T, 2)       \
    SOFTMETAL_VECTOR(T, 3)       \
    SOFTMETAL_VECTOR(T, 4)       \
    SOFTMETAL_PACKED(T, 2)       \
    SOFTMETAL_PACKED(T, 3)       \
    SOFTMETAL_PACKED(T, 4)

SOFTMETAL_VECTORS(char)
SOFTMETAL_VECTORS(uchar)
SOFTMETAL_VECTORS(short)
SOFTMETAL_VECTORS(ushort)
SOFTMETAL_VECTORS(int)
SOFTMETAL_VECTORS(uint)
SOFTMETAL_VECTORS(long)
SOFTMETAL_VECTORS(ulong)
SOFTMETAL_VECTORS(half)
SOFTMETAL_VECTORS(bfloat)
SOFTMETAL_VECTORS(float)

typedef bool bool2 __attribute__((ext_vector_type(2)));
typedef bool bool3 __attribute__((ext_vector_type(3)));
typedef bool bool4 __attribute__((ext_vector_type(4)));

namespace metal {

using ::bfloat;
using ::bool2;
using ::bool3;
using ::bool4;
using ::half;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::ulong;
using ::ushort;

}  // namespace metal

// The bits of a value as another type's.
template <typename T, typename U> constexpr T as_type(U value) {
    static_assert(sizeof(T) == sizeof(U), "as_type: wants a type of the same size");
    return __builtin_bit_cast(T, value);
}
