// What shim.rs calls: functions of the standard library, by their names.
#include "metal_stdlib"

using namespace metal;

const softmetal::Runtime* softmetal_runtime;

// Metal's sizes and alignments.
static_assert(sizeof(float3) == 16 && alignof(float3) == 16);
static_assert(sizeof(packed_float3) == 12 && alignof(packed_float3) == 4);
static_assert(sizeof(half3) == 8 && alignof(half3) == 8 && sizeof(packed_half3) == 6 && alignof(packed_half3) == 2);
static_assert(sizeof(char3) == 4 && sizeof(packed_uchar4) == 4 && alignof(packed_uchar4) == 1);
static_assert(sizeof(bfloat4) == 8 && sizeof(ulong2) == 16 && sizeof(packed_long3) == 24 && sizeof(long) == 8);
static_assert(sizeof(float3x3) == 48 && sizeof(float4x2) == 32 && sizeof(half3x4) == 24 && alignof(float2x3) == 16);
static_assert(sizeof(bool) == 1 && sizeof(half) == 2 && sizeof(bfloat) == 2 && sizeof(size_t) == 8);
static_assert(sizeof(atomic_uint) == 4 && sizeof(atomic_ulong) == 8 && sizeof(simdgroup_half8x8) == 4);

// As C++ and Metal have it: the narrow integers stay narrow, comparisons and conversions are those of the language.
static_assert(is_same_v<decltype(max(short(1), short(2))), short> && is_same_v<decltype(abs(char(1))), char>);
static_assert(is_same_v<decltype(max(half(1), half(2))), half> && is_same_v<decltype(half(1) * 1.0f), float>);
static_assert(is_same_v<decltype(half(1) * half(1)), half> && is_same_v<decltype(bfloat(1) + bfloat(1)), bfloat>);
static_assert(is_same_v<decltype(absdiff(int(1), int(2))), uint> && is_same_v<make_unsigned_t<long>, ulong>);
static_assert(is_same_v<vec<half, 3>, half3> && is_same_v<decltype(float4().xyz), float3>);
static_assert(is_integral_v<uchar> && is_floating_point_v<bfloat> && !is_integral_v<half>);
static_assert(is_convertible_v<half, float>);
static_assert(vec_elements<float3>::value == 3 && vec_elements<half>::value == 1);
static_assert(__is_valid_simdgroup_type<half4>::value && !__is_valid_simdgroup_type<bfloat>::value);
static_assert(!__is_valid_simdgroup_type<long>::value && !__is_valid_simdgroup_type<bool>::value);

namespace {

bool same(const char* a, const char* b) { return __builtin_strcmp(a, b) == 0; }

template <typename T> bool equal(const T& a, const T& b) { return __builtin_memcmp(&a, &b, sizeof(T)) == 0; }

// What a function of vectors gives, if it is what the one of scalars gave for each element; otherwise something else.
template <typename T> __attribute__((noinline)) T checked(T scalar, vec<T, 2> two, vec<T, 3> three, vec<T, 4> four) {
    bool good = true;
    for (int i = 0; i < 4; i++)
        good = good && equal(T(two[i % 2]), scalar) && equal(T(three[i % 3]), scalar) && equal(T(four[i]), scalar);
    return good ? scalar : T(-12345.0f);
}

}  // namespace

// Each is looked up where the macro is used, so that the one list serves fast, precise, and unqualified functions.
#define ONE(f)                                                                                              \
    if (same(name, #f)) {                                                                                   \
        for (long i = 0; i < n; i++)                                                                        \
            r[i] = checked<T>(f(x[i]), f(vec<T, 2>(x[i])), f(vec<T, 3>(x[i])), f(vec<T, 4>(x[i])));         \
        return true;                                                                                        \
    }
#define TWO(f)                                                                                              \
    if (same(name, #f)) {                                                                                   \
        for (long i = 0; i < n; i++)                                                                        \
            r[i] = checked<T>(                                                                              \
                f(x[i], y[i]), f(vec<T, 2>(x[i]), vec<T, 2>(y[i])), f(vec<T, 3>(x[i]), y[i]),               \
                f(x[i], vec<T, 4>(y[i])));                                                                  \
        return true;                                                                                        \
    }
#define THREE(f)                                                                                            \
    if (same(name, #f)) {                                                                                   \
        for (long i = 0; i < n; i++)                                                                        \
            r[i] = checked<T>(                                                                              \
                f(x[i], y[i], z[i]), f(vec<T, 2>(x[i]), vec<T, 2>(y[i]), vec<T, 2>(z[i])),                  \
                f(vec<T, 3>(x[i]), y[i], z[i]), f(x[i], y[i], vec<T, 4>(z[i])));                            \
        return true;                                                                                        \
    }
#define ALL                                                                                                 \
    SOFTMETAL_MATH1(ONE)                                                                                    \
    ONE(fract)                                                                                              \
    SOFTMETAL_MATH2(TWO)                                                                                    \
    TWO(nextafter)                                                                                          \
    SOFTMETAL_MATH3(THREE)                                                                                  \
    THREE(fma)                                                                                              \
    return false;

template <typename T> bool unqualified(const char* name, const T* x, const T* y, const T* z, T* r, long n) { ALL }

namespace metal {
namespace precise {
bool qualified(const char* name, const float* x, const float* y, const float* z, float* r, long n) {
    typedef float T;
    ALL
}
}  // namespace precise
namespace fast {
bool qualified(const char* name, const float* x, const float* y, const float* z, float* r, long n) {
    typedef float T;
    ALL
}
}  // namespace fast
}  // namespace metal

template <typename T> bool integers(const char* name, const T* x, const T* y, const T* z, T* r, long n) {
    ONE(abs)
    ONE(clz)
    ONE(ctz)
    ONE(popcount)
    ONE(reverse_bits)
    TWO(addsat)
    TWO(hadd)
    TWO(max)
    TWO(min)
    TWO(mulhi)
    TWO(rhadd)
    TWO(rotate)
    TWO(subsat)
    THREE(clamp)
    THREE(madhi)
    THREE(madsat)
    THREE(max3)
    THREE(median3)
    THREE(min3)
    if constexpr (sizeof(T) == 4) {
        TWO(mul24)
        THREE(mad24)
    }
    if (same(name, "absdiff")) {
        for (long i = 0; i < n; i++) r[i] = T(absdiff(x[i], y[i]));
        return true;
    }
    // y is the offset, z the number of bits.
    if (same(name, "extract_bits")) {
        for (long i = 0; i < n; i++) {
            r[i] = extract_bits(x[i], uint(y[i]), uint(z[i]));
            if (extract_bits(vec<T, 2>(x[i]), uint(y[i]), uint(z[i])).y != r[i]) return false;
        }
        return true;
    }
    if (same(name, "insert_bits")) {
        for (long i = 0; i < n; i++) r[i] = insert_bits(x[i], T(~x[i]), uint(y[i]), uint(z[i]));
        return true;
    }
    return false;
}

extern "C" {

#define MATH(T)                                                                                                        \
    bool math_##T(const char* name, const T* x, const T* y, const T* z, T* r, long n) {                                \
        return unqualified<T>(name, x, y, z, r, n);                                                                    \
    }
MATH(float)
MATH(half)
MATH(bfloat)

bool math_precise(const char* name, const float* x, const float* y, const float* z, float* r, long n) {
    return precise::qualified(name, x, y, z, r, n);
}
bool math_fast(const char* name, const float* x, const float* y, const float* z, float* r, long n) {
    return fast::qualified(name, x, y, z, r, n);
}

#define INTEGERS(T)                                                                                                    \
    bool integers_##T(const char* name, const T* x, const T* y, const T* z, T* r, long n) {                            \
        return integers<T>(name, x, y, z, r, n);                                                                       \
    }
INTEGERS(char)
INTEGERS(uchar)
INTEGERS(short)
INTEGERS(ushort)
INTEGERS(int)
INTEGERS(uint)
INTEGERS(long)
INTEGERS(ulong)

// What has other results than its arguments: both parts of each, one after the other.
bool parts(const char* name, const float* x, float* first, float* second, long n) {
    for (long i = 0; i < n; i++) {
        float whole;
        half narrow;
        int e;
        if (same(name, "modf")) {
            first[i] = modf(x[i], whole);
            second[i] = whole;
        } else if (same(name, "frexp")) {
            first[i] = frexp(x[i], e);
            second[i] = ldexp(first[i], e) == x[i] || x[i] != x[i] ? float(e) : NAN;
        } else if (same(name, "sincos")) {
            first[i] = sincos(x[i], whole);
            second[i] = whole;
        } else if (same(name, "sincos of half")) {
            first[i] = sincos(half(x[i]), narrow);
            second[i] = narrow;
        } else if (same(name, "ilogb")) {
            first[i] = ilogb(x[i]) == FP_ILOGB0 ? -INFINITY : ilogb(x[i]) == FP_ILOGBNAN ? INFINITY : ilogb(x[i]);
            second[i] = 0.0f;
        } else {
            return false;
        }
    }
    return true;
}

// A bit for each class that x is of.
uint classes_float(float x) {
    return isfinite(x) | isinf(x) << 1 | isnan(x) << 2 | isnormal(x) << 3 | signbit(x) << 4 |
           any(isnan(float2(x))) << 5 | all(isfinite(float3(x))) << 6 | isunordered(x, 1.0f) << 7;
}
void classes_half(const half* all, uint* classes, long n) {
    for (long i = 0; i < n; i++) {
        const half x = all[i];
        classes[i] = isfinite(x) | isinf(x) << 1 | isnan(x) << 2 | isnormal(x) << 3 | signbit(x) << 4 |
                     any(isnan(half2(x))) << 5 | metal::all(isfinite(half3(x))) << 6 | isunordered(x, half(1.0f)) << 7;
    }
}

// Whether what is said of vectors, matrices and words holds: the first line that does not, or 0.
#define WANTS(condition) \
    if (!(condition)) return __LINE__;
int laws() {
    const float4 a = {1.0f, 2.0f, 3.0f, 4.0f}, b = {4.0f, 3.0f, 2.0f, 1.0f};
    WANTS(all(a.wzyx == b) && any(a == b.yxwz) == false && all(a.xy < a.zw));
    WANTS(all(select(a, b, a > b) == min(a, b)) && all(select(a, b, isnan(a)) == a) && select(1, 2, true) == 2);
    WANTS(dot(a, b) == 20.0f && length(float2{3.0f, 4.0f}) == 5.0f && distance(a.xy, a.xy) == 0.0f);
    WANTS(all(cross(float3{1, 0, 0}, float3{0, 1, 0}) == float3{0, 0, 1}) && length_squared(a) == 30.0f);
    WANTS(all(normalize(float3{0, 0, 9}) == float3{0, 0, 1}) && all(reflect(a.xy, float2{0, 1}) == float2{1, -2}));
    WANTS(all(faceforward(a.xy, float2{0, 1}, float2{0, 1}) == -a.xy) && distance_squared(a, b) == 20.0f);
    WANTS(all(refract(float2{0, -1}, float2{0, 1}, 0.5f) == float2{0, -1}));

    packed_float3 p(1.0f, 2.0f, 3.0f);
    p += float3{1, 1, 1};
    p *= 2.0f;
    p[2] += 1.0f;
    const float3 q = p;
    WANTS(all(q == float3{4, 6, 9}) && all(p - q == float3(0.0f)) && all(2.0f * p + p == 3.0f * q) && p.y == 6.0f);

    const float2x3 m(float3{1, 2, 3}, float3{4, 5, 6});
    const float3x2 t = transpose(m);
    WANTS(all(t[2] == float2{3, 6}) && transpose(t) == m && all(m * float2{1, 10} == float3{41, 52, 63}));
    WANTS(all(float3{1, 0, 1} * m == float2{4, 10}) && (t * m)[1][0] == 32.0f && (m * t)[2][0] == 27.0f);
    WANTS((m * t).columns[0][2] == 27.0f && (m + m) == 2.0f * m && (m - m)[1][1] == 0.0f);
    WANTS(determinant(float2x2(1, 2, 3, 4)) == -2.0f && determinant(float3x3(2.0f)) == 8.0f);
    const float4x4 four(float4{0, 1, 0, 0}, float4{1, 0, 0, 0}, float4{0, 0, 2, 7}, float4{0, 0, 0, 3});
    WANTS(determinant(four) == -6.0f);
    WANTS(float4x4(1.0f)[2][2] == 1.0f && float4x4(1.0f)[2][1] == 0.0f && half2x2(float2x2(2.0f))[1][1] == half(2.0f));

    WANTS(as_type<uint>(1.0f) == 0x3f800000 && as_type<float>(0x3f800000u) == 1.0f);
    const half2 h = {1.0f, -2.0f};
    WANTS(as_type<uint>(h) == 0xc0003c00 && as_type<bfloat>(ushort(0x3f80)) == bfloat(1.0f));

    WANTS(pack_float_to_unorm4x8(float4{0, 1, 0.5f, 2}) == 0xff80ff00);
    WANTS(pack_float_to_snorm4x8(float4{0, 1, -1, -2}) == 0x81817f00 && unpack_snorm4x8_to_float(0x80)[0] == -1.0f);
    WANTS(pack_float_to_unorm2x16(float2{0, 1}) == 0xffff0000 && pack_half_to_snorm2x16(half2{-1, 1}) == 0x7fff8001);
    WANTS(pack_float_to_unorm565(float3{1, 0, 0}) == 0xf800);
    WANTS(pack_float_to_unorm10a2(float4{0, 0, 0, 1}) == 0xc0000000);
    WANTS(all(unpack_unorm10a2_to_float(0xffffffff) == float4(1.0f)));
    for (uint byte = 0; byte < 256; byte++) {
        const uint word = byte << 24 | (255 - byte) << 16 | byte << 8 | byte;
        WANTS(pack_float_to_unorm4x8(unpack_unorm4x8_to_float(word)) == word);
        WANTS(pack_half_to_unorm4x8(unpack_unorm4x8_to_half(word)) == word);
        WANTS(pack_float_to_unorm4x8_srgb(unpack_unorm4x8_srgb_to_float(word)) == word);
        WANTS(byte == 128 || (pack_float_to_snorm4x8(unpack_snorm4x8_to_float(byte)) & 255) == byte);
    }

    array<int, 3> numbers = {1, 2, 3};
    int sum = 0;
    for (int i : numbers) sum += i;
    WANTS(sum == 6 && numbers.size() == 3 && numbers[2] == 3);
    return 0;
}

// A lane's part of a simdgroup's call.
float lanes_float(const char* name, float v, ushort number) {
    if (same(name, "sum")) return simd_sum(v);
    if (same(name, "product")) return simd_product(v);
    if (same(name, "max")) return simd_max(v);
    if (same(name, "min")) return simd_min(v);
    if (same(name, "prefix_inclusive_sum")) return simd_prefix_inclusive_sum(v);
    if (same(name, "prefix_exclusive_sum")) return simd_prefix_exclusive_sum(v);
    if (same(name, "prefix_inclusive_product")) return simd_prefix_inclusive_product(v);
    if (same(name, "prefix_exclusive_product")) return simd_prefix_exclusive_product(v);
    if (same(name, "broadcast")) return simd_broadcast(v, number);
    if (same(name, "broadcast_first")) return simd_broadcast_first(v);
    if (same(name, "shuffle")) return simd_shuffle(v, number);
    if (same(name, "shuffle_up")) return simd_shuffle_up(v, number);
    if (same(name, "shuffle_down")) return simd_shuffle_down(v, number);
    if (same(name, "shuffle_xor")) return simd_shuffle_xor(v, number);
    if (same(name, "shuffle_rotate_up")) return simd_shuffle_rotate_up(v, number);
    if (same(name, "shuffle_rotate_down")) return simd_shuffle_rotate_down(v, number);
    if (same(name, "shuffle_and_fill_up")) return simd_shuffle_and_fill_up(v, v + 100.0f, number);
    if (same(name, "shuffle_and_fill_down")) return simd_shuffle_and_fill_down(v, v + 100.0f, number);
    if (same(name, "shuffle_and_fill_down by 8")) return simd_shuffle_and_fill_down(v, v + 100.0f, number, ushort(8));
    if (same(name, "quad_sum")) return quad_sum(v);
    if (same(name, "quad_max")) return quad_max(v);
    if (same(name, "quad_prefix_exclusive_sum")) return quad_prefix_exclusive_sum(v);
    if (same(name, "quad_broadcast")) return quad_broadcast(v, number);
    if (same(name, "quad_shuffle")) return quad_shuffle(v, number);
    if (same(name, "quad_shuffle_xor")) return quad_shuffle_xor(v, number);
    if (same(name, "quad_shuffle_down")) return quad_shuffle_down(v, number);
    if (same(name, "quad_shuffle_up")) return quad_shuffle_up(v, number);
    if (same(name, "quad_shuffle_rotate_down")) return quad_shuffle_rotate_down(v, number);
    if (same(name, "half4")) return dot(simd_sum(half4(half(v))), half4(half(1.0f)));
    return NAN;
}
uint lanes_uint(const char* name, uint v) {
    if (same(name, "and")) return simd_and(v);
    if (same(name, "or")) return simd_or(v);
    if (same(name, "xor")) return simd_xor(v);
    if (same(name, "ballot")) return uint(simd_vote::vote_t(simd_ballot(v != 0)));
    if (same(name, "all")) return simd_all(v != 0);
    if (same(name, "any")) return simd_any(v != 0);
    if (same(name, "is_first")) return simd_is_first();
    if (same(name, "active_threads_mask")) return uint(simd_vote::vote_t(simd_active_threads_mask()));
    if (same(name, "ballot's all")) return simd_ballot(v != 0).all();
    if (same(name, "quad_ballot")) return uint(quad_vote::vote_t(quad_ballot(v != 0)));
    if (same(name, "quad_any")) return quad_any(v != 0);
    if (same(name, "quad_is_first")) return quad_is_first();
    if (same(name, "uint2")) return simd_sum(uint2{v, 1}).y;
    return 99;
}

// d = a b + c of 8x8 matrices in rows, by a simdgroup; each as the options ask.
void lanes_matrix(const float* a, const float* b, const float* c, float* d, bool transpose, ulong origin) {
    simdgroup_float8x8 x, y, z, sum;
    simdgroup_load(x, a, 8, 0, transpose);
    simdgroup_load(y, b, 16, ulong2(origin));
    simdgroup_load(z, c);
    simdgroup_multiply_accumulate(sum, x, y, z);
    simdgroup_multiply(z, sum, simdgroup_float8x8(2.0f));
    simdgroup_store(z, d);
}
void lanes_matrix_half(const half* a, const half* b, float* d) {
    simdgroup_half8x8 x, y;
    simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8>(1.0f);
    simdgroup_load(x, a);
    simdgroup_load(y, b);
    simdgroup_multiply_accumulate(sum, x, y, sum);
    // The layout that kernels depend on.
    const uint lane = softmetal::lane(), quad = lane / 4;
    const uint row = (quad & 4) + lane / 2 % 4, col = (quad & 2) * 2 + lane % 2 * 2;
    d[row * 8 + col] = sum.thread_elements()[0];
    d[row * 8 + col + 1] = sum.thread_elements().y;
}

// The old values that atomic functions give, each applied to the same word in turn.
int atomics(atomic_int* i, atomic_uint* u, atomic_float* f, atomic_ulong* l) {
    const memory_order relaxed = memory_order_relaxed;
    atomic_store_explicit(i, -5, relaxed);
    WANTS(atomic_fetch_add_explicit(i, 3, relaxed) == -5 && atomic_fetch_sub_explicit(i, 1, relaxed) == -2);
    WANTS(atomic_fetch_max_explicit(i, 7, relaxed) == -3 && atomic_fetch_min_explicit(i, -9, relaxed) == 7);
    WANTS(atomic_exchange_explicit(i, 12, relaxed) == -9 && atomic_fetch_and_explicit(i, 10, relaxed) == 12);
    WANTS(atomic_fetch_or_explicit(i, 5, relaxed) == 8 && atomic_fetch_xor_explicit(i, 1, relaxed) == 13);
    WANTS(atomic_load_explicit(i, relaxed) == 12);
    atomic_store_explicit(u, 1, relaxed);
    WANTS(atomic_fetch_sub_explicit(u, 2, relaxed) == 1 && atomic_fetch_min_explicit(u, 3, relaxed) == UINT_MAX);
    uint expected = 4;
    WANTS(!atomic_compare_exchange_weak_explicit(u, &expected, 9, relaxed, relaxed) && expected == 3);
    while (!atomic_compare_exchange_weak_explicit(u, &expected, 9, relaxed, relaxed));
    WANTS(atomic_load_explicit(u, relaxed) == 9);
    atomic_store_explicit(f, 1.5f, relaxed);
    WANTS(atomic_fetch_add_explicit(f, 2, relaxed) == 1.5f && atomic_load_explicit(f, relaxed) == 3.5f);
    atomic_max_explicit(l, 1ul << 40, relaxed);
    atomic_min_explicit(l, 1ul << 41, relaxed);
    atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);
    return 0;
}

void barriers() {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
}

}  // extern "C"
