// Type traits, limits, packed vectors, matrices, arrays.

namespace metal {

template <class E, int N> using vec = E __attribute__((ext_vector_type(N)));

using ::as_type;
using ::bfloat;
using ::is_function_constant_defined;
using ::size_t;
using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;
using ::int8_t;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::ptrdiff_t;
using ::uint8_t;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
#define USING(E, N) using ::E##N;
EACH_VECTOR(USING)
#undef USING
using ::bool2;
using ::bool3;
using ::bool4;

template <class T, T V> struct integral_constant {
    static constexpr const T value = V;
    typedef T value_type;
    typedef integral_constant type;
    constexpr operator T() const { return V; }
    constexpr T operator()() const { return V; }
};
template <bool V> using bool_constant = integral_constant<bool, V>;
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;

template <bool, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool V, class T = void> using enable_if_t = typename enable_if<V, T>::type;
template <bool, class A, class B> struct conditional { typedef A type; };
template <class A, class B> struct conditional<false, A, B> { typedef B type; };
template <bool V, class A, class B> using conditional_t = typename conditional<V, A, B>::type;
template <class...> using void_t = void;

#define TRANSFORM(name, pattern)                                         \
    template <class T> struct name { typedef T type; };                  \
    template <class T> struct name<pattern> { typedef T type; };         \
    template <class T> using name##_t = typename name<T>::type;
TRANSFORM(remove_const, const T)
TRANSFORM(remove_volatile, volatile T)
TRANSFORM(remove_pointer, T*)
#undef TRANSFORM
template <class T> struct remove_reference { typedef T type; };
template <class T> struct remove_reference<T&> { typedef T type; };
template <class T> struct remove_reference<T&&> { typedef T type; };
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> struct remove_cv { typedef remove_const_t<remove_volatile_t<T>> type; };
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> struct decay { typedef __decay(T) type; };
template <class T> using decay_t = typename decay<T>::type;
template <class T> struct add_const { typedef const T type; };
template <class T> using add_const_t = const T;
template <class T> struct make_signed { typedef __make_signed(T) type; };
template <class T> using make_signed_t = typename make_signed<T>::type;
template <class T> struct make_unsigned { typedef __make_unsigned(T) type; };
template <class T> using make_unsigned_t = typename make_unsigned<T>::type;
template <class T> struct underlying_type { typedef __underlying_type(T) type; };
template <class T> using underlying_type_t = typename underlying_type<T>::type;

template <class A, class B> struct is_same : false_type {};
template <class T> struct is_same<T, T> : true_type {};
template <class A, class B> constexpr const bool is_same_v = is_same<A, B>::value;
#define TRAIT(name, ...)                                              \
    template <class T> struct name : bool_constant<__VA_ARGS__> {};   \
    template <class T> constexpr const bool name##_v = name<T>::value;
TRAIT(is_integral, __is_integral(T))
TRAIT(is_floating_point, is_same_v<remove_cv_t<T>, float> || is_same_v<remove_cv_t<T>, half> ||
                             is_same_v<remove_cv_t<T>, bfloat>)
TRAIT(is_arithmetic, is_integral<T>::value || is_floating_point<T>::value)
TRAIT(is_scalar, is_arithmetic<T>::value || __is_enum(T) || __is_pointer(T))
TRAIT(is_vector, softmetal::elements<remove_cv_t<T>>::is_vector)
TRAIT(is_signed, __is_signed(T))
TRAIT(is_unsigned, __is_unsigned(T))
TRAIT(is_const, __is_const(T))
TRAIT(is_volatile, __is_volatile(T))
TRAIT(is_enum, __is_enum(T))
TRAIT(is_class, __is_class(T))
TRAIT(is_union, __is_union(T))
TRAIT(is_array, __is_array(T))
TRAIT(is_pointer, __is_pointer(T))
TRAIT(is_reference, __is_reference(T))
TRAIT(is_void, __is_void(T))
TRAIT(is_empty, __is_empty(T))
TRAIT(is_trivially_copyable, __is_trivially_copyable(T))
#undef TRAIT
template <class From, class To> struct is_convertible : bool_constant<__is_convertible(From, To)> {};
template <class From, class To> constexpr const bool is_convertible_v = is_convertible<From, To>::value;
template <class A, class B> struct is_base_of : bool_constant<__is_base_of(A, B)> {};
template <class A, class B> constexpr const bool is_base_of_v = is_base_of<A, B>::value;

// Names of Apple's headers that programs have come to use.
template <class T> struct vec_elements : integral_constant<ushort, softmetal::elements<remove_cv_t<T>>::count> {};
template <class T>
struct __is_valid_simdgroup_type
    : bool_constant<is_arithmetic_v<T> && !is_same_v<T, bool> && sizeof(T) < 8 && !is_same_v<T, bfloat>> {};

// A program's own types have their limits in the first, as Apple's headers name it, or in the second.
template <class T> struct _numeric_limits_impl {
    static constexpr const bool is_specialized = false;
};
template <class T> struct numeric_limits : _numeric_limits_impl<T> {};
#define LIMITS(T, INTEGER, SIGNED, LOWEST, MIN, MAX)                                       \
    template <> struct _numeric_limits_impl<T> {                                           \
        static constexpr const bool is_specialized = true;                                 \
        static constexpr const bool is_signed = SIGNED;                                    \
        static constexpr const bool is_integer = INTEGER;                                  \
        static constexpr const bool is_exact = INTEGER;                                    \
        static constexpr const bool has_infinity = !INTEGER;                               \
        static constexpr const bool has_quiet_NaN = !INTEGER;                              \
        static constexpr const int digits = sizeof(T) * 8 - SIGNED;                        \
        static constexpr const int radix = 2;                                              \
        static constexpr T min() { return MIN; }                                           \
        static constexpr T max() { return MAX; }                                           \
        static constexpr T lowest() { return LOWEST; }                                     \
        static constexpr T epsilon() { return INTEGER ? (T)0 : (T)0x1p-7f; }               \
        static constexpr T round_error() { return INTEGER ? (T)0 : (T)0.5f; }              \
        static constexpr T infinity() { return INTEGER ? (T)0 : (T)__builtin_inff(); }     \
        static constexpr T quiet_NaN() { return INTEGER ? (T)0 : (T)__builtin_nanf(""); }  \
        static constexpr T denorm_min() { return INTEGER ? (T)0 : MIN; }                   \
    };
#define SIGNED_LIMITS(T, MAX) LIMITS(T, true, true, -MAX - 1, -MAX - 1, MAX)
#define UNSIGNED_LIMITS(T) LIMITS(T, true, false, 0, 0, (T)~(T)0)
LIMITS(bool, true, false, false, false, true)
SIGNED_LIMITS(char, 0x7f) SIGNED_LIMITS(short, 0x7fff) SIGNED_LIMITS(int, 0x7fffffff)
SIGNED_LIMITS(long, 0x7fffffffffffffffl)
UNSIGNED_LIMITS(uchar) UNSIGNED_LIMITS(ushort) UNSIGNED_LIMITS(uint) UNSIGNED_LIMITS(ulong)
LIMITS(float, false, true, -0x1.fffffep127f, 0x1p-126f, 0x1.fffffep127f)
LIMITS(half, false, true, (half)-0x1.ffcp15f, (half)0x1p-14f, (half)0x1.ffcp15f)
LIMITS(bfloat, false, true, (bfloat)-0x1.fep127f, (bfloat)0x1p-126f, (bfloat)0x1.fep127f)
#undef LIMITS
#undef SIGNED_LIMITS
#undef UNSIGNED_LIMITS

// Elements without the alignment of a vector: it converts to one.
template <class E, int N> struct packed_elements;
template <class E> struct packed_elements<E, 2> {
    E x, y;
};
template <class E> struct packed_elements<E, 3> {
    E x, y, z;
};
template <class E> struct packed_elements<E, 4> {
    E x, y, z, w;
};
template <class E, int N> struct packed_vec : packed_elements<E, N> {
    packed_vec() = default;
    packed_vec(vec<E, N>);
    explicit packed_vec(E);
    template <class... A> explicit packed_vec(E, E, A...);
    operator vec<E, N>() const;
    thread E& operator[](int) thread;
    device E& operator[](int) of_device;
    threadgroup E& operator[](int) threadgroup;
    constant E& operator[](int) constant;
};

template <class E, int C, int R> struct matrix {
    matrix() = default;
    explicit matrix(E);
    template <class... A> explicit matrix(vec<E, R>, vec<E, R>, A...);
    thread vec<E, R>& operator[](int) thread;
    device vec<E, R>& operator[](int) of_device;
    threadgroup vec<E, R>& operator[](int) threadgroup;
    constant vec<E, R>& operator[](int) constant;
    vec<E, R> columns[C];
};
template <class E, int C, int R> vec<E, R> operator*(matrix<E, C, R>, vec<E, C>);
template <class E, int C, int R> vec<E, C> operator*(vec<E, R>, matrix<E, C, R>);
template <class E, int C, int R> matrix<E, C, R> operator*(matrix<E, C, R>, E);
template <class E, int C, int R> matrix<E, C, R> operator*(E, matrix<E, C, R>);
template <class E, int C, int R, int N> matrix<E, N, R> operator*(matrix<E, C, R>, matrix<E, N, C>);
template <class E, int C, int R> matrix<E, C, R> operator+(matrix<E, C, R>, matrix<E, C, R>);
template <class E, int C, int R> matrix<E, C, R> operator-(matrix<E, C, R>, matrix<E, C, R>);
template <class E, int C, int R> matrix<E, R, C> transpose(matrix<E, C, R>);
template <class E, int N> E determinant(matrix<E, N, N>);

template <class T, size_t N> struct array {
    constexpr size_t size() const { return N; }
    thread T& operator[](size_t) thread;
    device T& operator[](size_t) of_device;
    threadgroup T& operator[](size_t) threadgroup;
    constant T& operator[](size_t) constant;
    T elements[N];
};

}  // namespace metal

#define MATRICES(E, C)                             \
    typedef metal::matrix<E, C, 2> E##C##x2;       \
    typedef metal::matrix<E, C, 3> E##C##x3;       \
    typedef metal::matrix<E, C, 4> E##C##x4;       \
    namespace metal {                              \
    using ::E##C##x2;                              \
    using ::E##C##x3;                              \
    using ::E##C##x4;                              \
    }
MATRICES(float, 2) MATRICES(float, 3) MATRICES(float, 4) MATRICES(half, 2) MATRICES(half, 3) MATRICES(half, 4)
#undef MATRICES

#define PACKED(E, N)                                   \
    typedef metal::packed_vec<E, N> packed_##E##N;     \
    namespace metal {                                  \
    using ::packed_##E##N;                             \
    }
EACH_VECTOR(PACKED)
#undef PACKED
