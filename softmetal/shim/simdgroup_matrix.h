// <metal_simdgroup_matrix>: matrices of 8x8 over the 32 lanes of a simdgroup, all of which must take part.
//
// A lane holds the elements (row, col) and (row, col + 1). Metal leaves open which; Apple's GPUs have all had this
// layout, and MLX's and candle's kernels depend on it.
#pragma once
#include "simd.h"

namespace metal {

template <typename T, int Cols, int Rows = Cols> struct simdgroup_matrix {
    static_assert(Cols == 8 && Rows == 8, "simdgroup_matrix: wants 8 columns and 8 rows");
    static_assert(__is_same(T, float) || __is_same(T, half) || __is_same(T, bfloat),
                  "simdgroup_matrix: wants float, half or bfloat");
    typedef vec<T, 2> Elements;
    Elements elements;

    simdgroup_matrix() = default;
    // The diagonal's elements; the others are 0.
    explicit simdgroup_matrix(T diagonal);

    Elements& thread_elements() { return elements; }
    const Elements& thread_elements() const { return elements; }
};

}  // namespace metal

namespace softmetal {

// Where a lane's first element is.
struct Place {
    u32 row, col;
};
SOFTMETAL_UNCHECKED inline Place place(u32 lane) {
    return {lane / 16 * 4 + lane / 2 % 4, lane / 8 % 2 * 4 + lane % 2 * 2};
}

SOFTMETAL_UNCHECKED inline void wants_all_lanes(u32 active, Site site) {
    if (active == ~0u) return;
    softmetal_runtime->complain(COMPLAINT_UNDEFINED, "a simdgroup matrix wants all lanes, some are not active", site);
}

// A use of an element of memory, which the line is told of that called.
SOFTMETAL_UNCHECKED inline ulong element(const void* memory, uint size, ulong index, int access, const void* pc) {
    softmetal_runtime->access(static_cast<const char*>(memory) + index * size, size, access, pc);
    return index;
}

// Where in memory element k of this lane is.
SOFTMETAL_UNCHECKED inline ulong index(uint k, ulong stride, ulong2 origin, bool transpose) {
    const Place at = place(lane());
    const ulong row = transpose ? at.col + k : at.row, col = transpose ? at.row : at.col + k;
    return (origin.y + row) * stride + origin.x + col;
}

template <typename A, typename B> struct Factors {
    metal::vec<A, 2> a;
    metal::vec<B, 2> b;
};

// d = a b + c, summed in float by fused multiply-adds (a product of floats is exact in double).
template <typename D, typename A, typename B>
SOFTMETAL_UNCHECKED __attribute__((noinline)) metal::vec<D, 2> multiply(
    metal::vec<A, 2> a, metal::vec<B, 2> b, metal::vec<float, 2> c, Site site) {
    const Lanes<Factors<A, B>> lanes({a, b}, site);
    wants_all_lanes(lanes.active, site);
    const Place at = place(lane());
    for (u32 l = 0; l < SIMD; l++) {
        if (!lanes.has(l)) continue;
        // Lane l has two of this row's factors in a, or two of the columns' in b: products are summed when k meets.
        const Place from = place(l);
        if (from.row != at.row) continue;
        const Factors<A, B> left = lanes.of(l);
        for (u32 j = 0; j < 2; j++) {
            // The lane that holds row k of b at this lane's columns.
            const u32 k = from.col + j, row = k / 4 * 16 + k % 4 * 2, other = row + at.col / 4 * 8 + at.col / 2 % 2;
            if (!lanes.has(other)) continue;
            const metal::vec<B, 2> right = lanes.of(other).b;
            const double factor = float(left.a[j]);
            c.x = float(factor * float(right.x) + c.x);
            c.y = float(factor * float(right.y) + c.y);
        }
    }
    return __builtin_convertvector(c, metal::vec<D, 2>);
}

}  // namespace softmetal

namespace metal {

template <typename T, int Cols, int Rows>
SOFTMETAL_UNCHECKED inline simdgroup_matrix<T, Cols, Rows>::simdgroup_matrix(T diagonal) {
    const softmetal::Place at = softmetal::place(softmetal::lane());
    elements = {at.row == at.col ? diagonal : T(0.0f), at.row == at.col + 1 ? diagonal : T(0.0f)};
}

template <typename T, int Cols, int Rows = Cols>
inline simdgroup_matrix<T, Cols, Rows> make_diagonal_simdgroup_matrix(T value) {
    return simdgroup_matrix<T, Cols, Rows>(value);
}
template <typename T, int Cols, int Rows = Cols>
inline simdgroup_matrix<T, Cols, Rows> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, Cols, Rows> m;
    m.elements = {value, value};
    return m;
}

template <typename T>
SOFTMETAL_UNCHECKED __attribute__((noinline)) void simdgroup_load(
    simdgroup_matrix<T, 8, 8>& d, const typename softmetal::Same<T>::type* source, ulong elements_per_row = 8,
    ulong2 matrix_origin = ulong2(0), bool transpose_matrix = false, SOFTMETAL_SITE) {
    const void* pc = __builtin_return_address(0);
    softmetal::wants_all_lanes(softmetal::active<softmetal::SIMD>({file, line}), {file, line});
    for (uint k = 0; k < 2; k++) {
        const ulong i = softmetal::index(k, elements_per_row, matrix_origin, transpose_matrix);
        d.elements[k] = source[softmetal::element(source, sizeof(T), i, softmetal::ACCESS_READ, pc)];
    }
}
template <typename T>
SOFTMETAL_UNCHECKED __attribute__((noinline)) void simdgroup_store(
    const simdgroup_matrix<T, 8, 8>& a, typename softmetal::Same<T>::type* destination, ulong elements_per_row = 8,
    ulong2 matrix_origin = ulong2(0), bool transpose_matrix = false, SOFTMETAL_SITE) {
    const void* pc = __builtin_return_address(0);
    softmetal::wants_all_lanes(softmetal::active<softmetal::SIMD>({file, line}), {file, line});
    for (uint k = 0; k < 2; k++) {
        const ulong i = softmetal::index(k, elements_per_row, matrix_origin, transpose_matrix);
        destination[softmetal::element(destination, sizeof(T), i, softmetal::ACCESS_WRITE, pc)] = a.elements[k];
    }
}

template <typename D, typename A, typename B, typename C>
inline void simdgroup_multiply_accumulate(
    simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b,
    const simdgroup_matrix<C, 8, 8>& c, SOFTMETAL_SITE) {
    const float2 sum = __builtin_convertvector(c.elements, float2);
    d.elements = softmetal::multiply<D>(a.elements, b.elements, sum, {file, line});
}
template <typename D, typename A, typename B>
inline void simdgroup_multiply(
    simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b,
    SOFTMETAL_SITE) {
    d.elements = softmetal::multiply<D>(a.elements, b.elements, float2(0.0f), {file, line});
}
template <typename T>
inline simdgroup_matrix<T, 8, 8> operator*(const simdgroup_matrix<T, 8, 8>& a, const simdgroup_matrix<T, 8, 8>& b) {
    simdgroup_matrix<T, 8, 8> d;
    simdgroup_multiply(d, a, b);
    return d;
}

}  // namespace metal

typedef metal::simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef metal::simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef metal::simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

namespace metal {

using ::simdgroup_bfloat8x8;
using ::simdgroup_float8x8;
using ::simdgroup_half8x8;

}  // namespace metal
