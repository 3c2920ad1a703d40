// <metal_array>.
#pragma once
#include "types.h"

namespace metal {

template <typename T, size_t N> struct array {
    typedef T value_type;
    T __elems[N];

    constexpr T& operator[](size_t i) { return __elems[i]; }
    constexpr const T& operator[](size_t i) const { return __elems[i]; }
    constexpr size_t size() const { return N; }
    constexpr bool empty() const { return N == 0; }
    constexpr T* data() { return __elems; }
    constexpr const T* data() const { return __elems; }
    constexpr T& front() { return __elems[0]; }
    constexpr T& back() { return __elems[N - 1]; }
    constexpr void fill(const T& value) {
        for (size_t i = 0; i < N; i++) __elems[i] = value;
    }
    constexpr T* begin() { return __elems; }
    constexpr T* end() { return __elems + N; }
    constexpr const T* begin() const { return __elems; }
    constexpr const T* end() const { return __elems + N; }
};

}  // namespace metal
