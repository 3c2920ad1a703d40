// <metal_type_traits>.
#pragma once
#include "types.h"

namespace metal {

template <typename T, T v> struct integral_constant {
    static constexpr T value = v;
    typedef T value_type;
    typedef integral_constant type;
    constexpr operator T() const { return v; }
    constexpr T operator()() const { return v; }
};
template <bool v> using bool_constant = integral_constant<bool, v>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <bool condition, typename T = void> struct enable_if {};
template <typename T> struct enable_if<true, T> {
    typedef T type;
};
template <bool condition, typename T = void> using enable_if_t = typename enable_if<condition, T>::type;

template <bool condition, typename T, typename F> struct conditional {
    typedef T type;
};
template <typename T, typename F> struct conditional<false, T, F> {
    typedef F type;
};
template <bool condition, typename T, typename F> using conditional_t = typename conditional<condition, T, F>::type;

// What the compiler answers.
#define SOFTMETAL_TRAIT(name, builtin)                                       \
    template <typename T> struct name : bool_constant<builtin(T)> {};        \
    template <typename T> inline constexpr bool name##_v = builtin(T);
SOFTMETAL_TRAIT(is_arithmetic, __is_arithmetic)
SOFTMETAL_TRAIT(is_array, __is_array)
SOFTMETAL_TRAIT(is_class, __is_class)
SOFTMETAL_TRAIT(is_compound, __is_compound)
SOFTMETAL_TRAIT(is_const, __is_const)
SOFTMETAL_TRAIT(is_empty, __is_empty)
SOFTMETAL_TRAIT(is_enum, __is_enum)
SOFTMETAL_TRAIT(is_floating_point, __is_floating_point)
SOFTMETAL_TRAIT(is_function, __is_function)
SOFTMETAL_TRAIT(is_fundamental, __is_fundamental)
SOFTMETAL_TRAIT(is_integral, __is_integral)
SOFTMETAL_TRAIT(is_object, __is_object)
SOFTMETAL_TRAIT(is_pod, __is_pod)
SOFTMETAL_TRAIT(is_pointer, __is_pointer)
SOFTMETAL_TRAIT(is_reference, __is_reference)
SOFTMETAL_TRAIT(is_scalar, __is_scalar)
SOFTMETAL_TRAIT(is_signed, __is_signed)
SOFTMETAL_TRAIT(is_standard_layout, __is_standard_layout)
SOFTMETAL_TRAIT(is_trivial, __is_trivial)
SOFTMETAL_TRAIT(is_trivially_copyable, __is_trivially_copyable)
SOFTMETAL_TRAIT(is_union, __is_union)
SOFTMETAL_TRAIT(is_unsigned, __is_unsigned)
SOFTMETAL_TRAIT(is_void, __is_void)
SOFTMETAL_TRAIT(is_volatile, __is_volatile)

#define SOFTMETAL_RELATION(name, builtin)                                                 \
    template <typename T, typename U> struct name : bool_constant<builtin(T, U)> {};      \
    template <typename T, typename U> inline constexpr bool name##_v = builtin(T, U);
SOFTMETAL_RELATION(is_base_of, __is_base_of)
SOFTMETAL_RELATION(is_convertible, __is_convertible)
SOFTMETAL_RELATION(is_same, __is_same)

#define SOFTMETAL_TRANSFORMATION(name, builtin)                 \
    template <typename T> struct name {                         \
        typedef builtin(T) type;                                \
    };                                                          \
    template <typename T> using name##_t = typename name<T>::type;
SOFTMETAL_TRANSFORMATION(add_lvalue_reference, __add_lvalue_reference)
SOFTMETAL_TRANSFORMATION(add_pointer, __add_pointer)
SOFTMETAL_TRANSFORMATION(add_rvalue_reference, __add_rvalue_reference)
SOFTMETAL_TRANSFORMATION(decay, __decay)
SOFTMETAL_TRANSFORMATION(make_signed, __make_signed)
SOFTMETAL_TRANSFORMATION(make_unsigned, __make_unsigned)
SOFTMETAL_TRANSFORMATION(remove_const, __remove_const)
SOFTMETAL_TRANSFORMATION(remove_cv, __remove_cv)
SOFTMETAL_TRANSFORMATION(remove_extent, __remove_extent)
SOFTMETAL_TRANSFORMATION(remove_pointer, __remove_pointer)
SOFTMETAL_TRANSFORMATION(remove_reference, __remove_reference_t)
SOFTMETAL_TRANSFORMATION(remove_volatile, __remove_volatile)
SOFTMETAL_TRANSFORMATION(underlying_type, __underlying_type)

template <typename T> struct add_const {
    typedef const T type;
};
template <typename T> using add_const_t = const T;

template <typename T> struct is_vector : bool_constant<(softmetal::Shape<T>::width > 1)> {};
template <typename T> inline constexpr bool is_vector_v = is_vector<T>::value;

// Elements of a vector; 1 for a scalar.
template <typename T> struct vec_elements : integral_constant<ushort, softmetal::Shape<T>::width> {};

template <typename T> add_rvalue_reference_t<T> declval();
template <typename T> constexpr remove_reference_t<T>&& move(T&& value) {
    return static_cast<remove_reference_t<T>&&>(value);
}
template <typename T> constexpr T&& forward(remove_reference_t<T>& value) { return static_cast<T&&>(value); }

}  // namespace metal

namespace softmetal {

template <typename T> inline constexpr bool is_float = __is_floating_point(typename Shape<T>::Element);

// An element or a vector of what simdgroup functions take: no bool, bfloat or 64 bits.
template <typename T, typename E = typename Shape<T>::Element>
inline constexpr bool is_simd =
    (__is_integral(E) && !__is_same(E, bool) && sizeof(E) <= 4) || __is_same(E, half) || __is_same(E, float);

}  // namespace softmetal

namespace metal {

template <typename T> struct __is_valid_simdgroup_type : bool_constant<softmetal::is_simd<T>> {};

}  // namespace metal
