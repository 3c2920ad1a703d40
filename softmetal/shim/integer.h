// <metal_integer>.
#pragma once
#include "lift.h"
#include "limits.h"

// Of the integers' functions, those that floating-point numbers have too (abs, clamp, max, ...) are lifted with them.
#define SOFTMETAL_INTEGER1(F) F(clz) F(ctz) F(popcount) F(reverse_bits)
#define SOFTMETAL_INTEGER2(F) F(absdiff) F(addsat) F(hadd) F(mul24) F(mulhi) F(rhadd) F(rotate) F(subsat)
#define SOFTMETAL_INTEGER3(F) F(mad24) F(madhi) F(madsat)

namespace softmetal {

// A type in which x y + z is exact, where no type is wider than 128 bits: an unsigned long's product has all of them.
template <typename T> struct Wide {
    typedef metal::conditional_t<(sizeof(T) >= 4), __int128, long> type;
    typedef metal::conditional_t<__is_unsigned(T) && sizeof(T) == 8, unsigned __int128, type> Product;
    static constexpr int bits = sizeof(T) * 8;
    template <typename V> static T saturated(V v) {
        const V low = metal::numeric_limits<T>::lowest(), high = metal::numeric_limits<T>::max();
        return T(v < low ? low : v > high ? high : v);
    }
};

template <typename T> using Unsigned = metal::make_unsigned_t<T>;

template <typename T> T clz(T x) {
    constexpr int bits = sizeof(T) * 8;
    return T(x == 0 ? bits : __builtin_clzl(ulong(Unsigned<T>(x))) - (64 - bits));
}
template <typename T> T ctz(T x) { return T(x == 0 ? sizeof(T) * 8 : __builtin_ctzl(ulong(Unsigned<T>(x)))); }
template <typename T> T reverse_bits(T x) {
    return T(__builtin_bitreverse64(ulong(Unsigned<T>(x))) >> (64 - sizeof(T) * 8));
}
template <typename T> T rotate(T x, T by) {
    constexpr uint bits = sizeof(T) * 8;
    const Unsigned<T> u = Unsigned<T>(x);
    const uint n = uint(by) % bits;
    return n == 0 ? x : T(Unsigned<T>(u << n) | Unsigned<T>(u >> (bits - n)));
}
template <typename T> T mulhi(T x, T y) {
    typedef typename Wide<T>::Product Product;
    return T((Product(x) * Product(y)) >> Wide<T>::bits);
}
template <typename T> T madsat(T x, T y, T z) {
    typedef typename Wide<T>::Product Product;
    return Wide<T>::saturated(Product(x) * Product(y) + Product(z));
}
// Bits offset.. of x, `bits` of them; a signed x's are its sign's extension.
template <typename T> T extract_bits(T x, uint offset, uint bits, Site site) {
    constexpr uint width = sizeof(T) * 8;
    if (offset + bits > width) {
        softmetal_runtime->complain(COMPLAINT_UNDEFINED, "extract_bits: wants bits that the type has", site);
        return T(-1);
    }
    if (bits == 0) return T(0);
    return T(T(Unsigned<T>(x) << (width - bits - offset)) >> (width - bits));
}
template <typename T> T insert_bits(T base, T insert, uint offset, uint bits, Site site) {
    constexpr uint width = sizeof(T) * 8;
    if (offset + bits > width) {
        softmetal_runtime->complain(COMPLAINT_UNDEFINED, "insert_bits: wants bits that the type has", site);
        return T(-1);
    }
    if (bits == 0) return base;
    const Unsigned<T> mask = Unsigned<T>(Unsigned<T>(Unsigned<T>(~Unsigned<T>(0)) >> (width - bits)) << offset);
    return T((Unsigned<T>(base) & ~mask) | (Unsigned<T>(Unsigned<T>(insert) << offset) & mask));
}
template <typename T> void wants_24_bits(T x, const char* message, Site site) {
    const bool fits = __is_signed(T) ? long(x) >= -(1l << 23) && long(x) < 1l << 23 : ulong(x) < 1ul << 24;
    if (!fits) softmetal_runtime->complain(COMPLAINT_UNDEFINED, message, site);
}

}  // namespace softmetal

#define SOFTMETAL_SITE const char *file = __builtin_FILE(), uint line = __builtin_LINE()

namespace metal {

// For each type a function, so that arguments convert, or are ambiguous, as in Metal.
#define SOFTMETAL_INTEGER(T)                                                                                   \
    inline T abs(T x) { return T(x < T(0) ? -softmetal::Unsigned<T>(x) : x); }                                 \
    inline T max(T x, T y) { return x < y ? y : x; }                                                           \
    inline T min(T x, T y) { return y < x ? y : x; }                                                           \
    inline T max3(T x, T y, T z) { return max(x, max(y, z)); }                                                 \
    inline T min3(T x, T y, T z) { return min(x, min(y, z)); }                                                 \
    inline T median3(T x, T y, T z) { return max(min(x, y), min(max(x, y), z)); }                              \
    inline T clamp(T x, T low, T high) { return min(max(x, low), high); }                                      \
    inline softmetal::Unsigned<T> absdiff(T x, T y) {                                                          \
        typedef softmetal::Unsigned<T> U;                                                                      \
        return x < y ? U(U(y) - U(x)) : U(U(x) - U(y));                                                        \
    }                                                                                                          \
    inline T addsat(T x, T y) {                                                                                \
        return softmetal::Wide<T>::saturated(softmetal::Wide<T>::type(x) + softmetal::Wide<T>::type(y));       \
    }                                                                                                          \
    inline T subsat(T x, T y) {                                                                                \
        return softmetal::Wide<T>::saturated(softmetal::Wide<T>::type(x) - softmetal::Wide<T>::type(y));       \
    }                                                                                                          \
    inline T hadd(T x, T y) { return T((softmetal::Wide<T>::type(x) + y) >> 1); }                              \
    inline T rhadd(T x, T y) { return T((softmetal::Wide<T>::type(x) + y + 1) >> 1); }                         \
    inline T clz(T x) { return softmetal::clz<T>(x); }                                                         \
    inline T ctz(T x) { return softmetal::ctz<T>(x); }                                                         \
    inline T popcount(T x) { return T(__builtin_popcountl(ulong(softmetal::Unsigned<T>(x)))); }                \
    inline T reverse_bits(T x) { return softmetal::reverse_bits<T>(x); }                                       \
    inline T rotate(T x, T by) { return softmetal::rotate<T>(x, by); }                                         \
    inline T mulhi(T x, T y) { return softmetal::mulhi<T>(x, y); }                                             \
    inline T madhi(T x, T y, T z) {                                                                            \
        return T(softmetal::Unsigned<T>(mulhi(x, y)) + softmetal::Unsigned<T>(z));                             \
    }                                                                                                          \
    inline T madsat(T x, T y, T z) { return softmetal::madsat<T>(x, y, z); }                                   \
    inline T extract_bits(T x, uint offset, uint bits, SOFTMETAL_SITE) {                                       \
        return softmetal::extract_bits<T>(x, offset, bits, {file, line});                                      \
    }                                                                                                          \
    inline T insert_bits(T base, T insert, uint offset, uint bits, SOFTMETAL_SITE) {                           \
        return softmetal::insert_bits<T>(base, insert, offset, bits, {file, line});                            \
    }
SOFTMETAL_INTEGER(char)
SOFTMETAL_INTEGER(int8_t)
SOFTMETAL_INTEGER(uchar)
SOFTMETAL_INTEGER(short)
SOFTMETAL_INTEGER(ushort)
SOFTMETAL_INTEGER(int)
SOFTMETAL_INTEGER(uint)
SOFTMETAL_INTEGER(long)
SOFTMETAL_INTEGER(ulong)

#define SOFTMETAL_24(T)                                                                                         \
    inline T mul24(T x, T y, SOFTMETAL_SITE) {                                                                  \
        softmetal::wants_24_bits(x, "mul24: wants numbers of 24 bits", {file, line});                  \
        softmetal::wants_24_bits(y, "mul24: wants numbers of 24 bits", {file, line});                  \
        return T(uint(x) * uint(y));                                                                            \
    }                                                                                                           \
    inline T mad24(T x, T y, T z, SOFTMETAL_SITE) { return T(uint(mul24(x, y, file, line)) + uint(z)); }
SOFTMETAL_24(int)
SOFTMETAL_24(uint)

template <typename T, int N>
inline vec<T, N> extract_bits(vec<T, N> x, uint offset, uint bits, SOFTMETAL_SITE) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = extract_bits(T(x[i]), offset, bits, file, line);
    return r;
}
template <typename T, int N>
inline vec<T, N> insert_bits(vec<T, N> base, vec<T, N> insert, uint offset, uint bits, SOFTMETAL_SITE) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = insert_bits(T(base[i]), T(insert[i]), offset, bits, file, line);
    return r;
}

}  // namespace metal
