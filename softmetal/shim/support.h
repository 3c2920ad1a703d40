// What the transformed text of a shader refers to. `src/msl` writes the uses of what stands here.
#pragma once

#include "abi.h"
#include "traits.h"
#include "types.h"

namespace softmetal {

// A type's element and the number of them; what is no vector is one element, a packed vector too.
template <class T> struct Elements {
    typedef T Element;
    static constexpr int count = 1;
};
template <class T, int n> struct Elements<metal::vec<T, n>> {
    typedef T Element;
    static constexpr int count = n;
};
template <class T> using Element = typename Elements<T>::Element;
template <class T> constexpr int count = Elements<T>::count;

template <class T> constexpr bool is_narrow_float = __is_same(T, _Float16) || __is_same(T, __bf16);

// A packed vector as the vector it converts to; everything else as it is.
template <class T, int n> inline constexpr metal::vec<T, n> unpacked(const Packed<T, n>& v) { return v; }
template <class T> inline constexpr const T& unpacked(const T& v) { return v; }

// Conversions that Metal has and clang has not: between vectors element by element, and between half and bfloat.
template <class To, class F> inline constexpr To cast(const F& from) {
    if constexpr (__is_same(To, F)) {
        return from;
    } else if constexpr (count<To> > 1 && Shape<F>::width > count<F>) {
        return cast<To>(unpacked(from));
    } else if constexpr (is_narrow_float<Element<To>> && is_narrow_float<Element<F>>) {
        // Every half and every bfloat is a float, so this rounds once.
        if constexpr (count<F> > 1) return __builtin_convertvector(__builtin_convertvector(from, metal::vec<float, count<F>>), To);
        else return To(static_cast<Element<To>>(static_cast<float>(from)));
    } else if constexpr (count<F> > 1 && count<F> == count<To> && is_float<F> && !is_float<To>) {
        // One by one: what is out of range is then the nearest integer, which clang does not say of vectors.
        To to;
        for (int i = 0; i < count<To>; i++) to[i] = static_cast<Element<To>>(from[i]);
        return to;
    } else if constexpr (count<F> > 1 && count<F> == count<To>) {
        return __builtin_convertvector(from, To);
    } else if constexpr (count<To> > 1 && count<F> == 1) {
        return To(static_cast<Element<To>>(from));
    } else {
        return static_cast<To>(from);
    }
}

template <class V, class A> inline constexpr void put(V& v, int& at, const A& a) {
    if constexpr (count<A> == 1) {
        v[at++] = cast<Element<V>>(a);
    } else {
        for (int i = 0; i < count<A>; i++) v[at++] = cast<Element<V>>(a[i]);
    }
}

// Elements that an argument of a vector's constructor stands for.
template <class A> constexpr int width = Shape<A>::width;

// T(args...): of a vector, from scalars and shorter vectors in turn, or one scalar for all elements.
template <class T, class... A> inline constexpr T make(const A&... args) {
    if constexpr (sizeof...(A) == 0) {
        return T{};
    } else if constexpr (count<T> == 1 && sizeof...(A) == 1 && is_narrow_float<T>) {
        return cast<T>(args...);
    } else if constexpr (count<T> == 1) {
        return T(args...);
    } else if constexpr (sizeof...(A) == 1) {
        return cast<T>(args...);
    } else if constexpr (sizeof...(A) == count<T> && ((width<A> == 1) && ...)) {
        return T{cast<Element<T>>(args)...};
    } else {
        static_assert((width<A> + ...) == count<T>, "a vector's constructor: wants as many elements as it has");
        T v;
        int at = 0;
        (put(v, at, unpacked(args)), ...);
        return v;
    }
}

// `(T) x` is written `Cast<T>()->*x`, which binds as a cast does; `-(T)(U) x` is `Prefix<Minus>()->*Cast<T, U>()->*x`.
template <class T> struct To {
    template <class F> static constexpr T apply(const F& x) { return cast<T>(x); }
};
#define SOFTMETAL_PREFIX(name, op)                                                            \
    struct name {                                                                             \
        template <class F> static constexpr auto apply(const F& x) { return op x; }           \
    };
SOFTMETAL_PREFIX(Minus, -)
SOFTMETAL_PREFIX(Plus, +)
SOFTMETAL_PREFIX(Not, !)
SOFTMETAL_PREFIX(Complement, ~)
#undef SOFTMETAL_PREFIX

template <class First, class... Rest> struct Prefix {
    template <class F> static constexpr auto apply(const F& x) {
        if constexpr (sizeof...(Rest) == 0) return First::apply(x);
        else return First::apply(Prefix<Rest...>::apply(x));
    }
    template <class F> constexpr auto operator->*(const F& x) const { return apply(x); }
    template <class... More> constexpr Prefix<First, Rest..., More...> operator->*(Prefix<More...>) const { return {}; }
};
template <class T> using Cast = Prefix<To<T>>;

// Memory that the threads of a threadgroup share. The key's type is another one for each variable of each instantiation.
template <class T, size alignment = 1, class Key>
inline T& threadgroup_variable(Key, const char* name, const char* file = __builtin_FILE(), u32 line = __builtin_LINE()) {
    static char key;
    constexpr size natural = alignof(T) > 16 ? alignof(T) : 16;
    constexpr size wanted = alignment > natural ? alignment : natural;
    return *static_cast<T*>(softmetal_runtime->threadgroup_variable(&key, sizeof(T), wanted, name, Site{file, line}));
}

// The values that a thread is given, by the names of Metal's attributes.
enum BuiltInValue {
    thread_position_in_grid,
    thread_position_in_threadgroup,
    threadgroup_position_in_grid,
    threads_per_threadgroup,
    dispatch_threads_per_threadgroup,
    threads_per_grid,
    threadgroups_per_grid,
    grid_size,
    grid_origin,
    thread_index_in_threadgroup,
    thread_index_in_simdgroup,
    simdgroup_index_in_threadgroup,
    simdgroups_per_threadgroup,
    dispatch_simdgroups_per_threadgroup,
    threads_per_simdgroup,
    thread_execution_width,
    thread_index_in_quadgroup,
    quadgroup_index_in_threadgroup,
    quadgroups_per_threadgroup,
    dispatch_quadgroups_per_threadgroup,
};

inline u32 built_in(BuiltInValue value, int i) {
    const Thread* thread = softmetal_runtime->thread();
    const u32* whole = thread->dispatch_threads_per_threadgroup;
    const u32* part = thread->threads_per_threadgroup;
    switch (value) {
    case thread_position_in_grid: return thread->position_in_grid[i];
    case thread_position_in_threadgroup: return thread->position_in_threadgroup[i];
    case threadgroup_position_in_grid: return thread->threadgroup_in_grid[i];
    case threads_per_threadgroup: return part[i];
    case dispatch_threads_per_threadgroup: return whole[i];
    case threads_per_grid:
    case grid_size: return thread->threads_per_grid[i];
    case threadgroups_per_grid: return thread->threadgroups_per_grid[i];
    case grid_origin: return 0;
    case thread_index_in_threadgroup: return thread->index_in_threadgroup;
    case thread_index_in_simdgroup: return thread->lane;
    case simdgroup_index_in_threadgroup: return thread->simdgroup;
    case simdgroups_per_threadgroup: return thread->simdgroups_per_threadgroup;
    case dispatch_simdgroups_per_threadgroup: return (whole[0] * whole[1] * whole[2] + 31) / 32;
    case threads_per_simdgroup:
    case thread_execution_width: return 32;
    case thread_index_in_quadgroup: return thread->lane % 4;
    case quadgroup_index_in_threadgroup: return thread->index_in_threadgroup / 4;
    case quadgroups_per_threadgroup: return (part[0] * part[1] * part[2] + 3) / 4;
    case dispatch_quadgroups_per_threadgroup: return (whole[0] * whole[1] * whole[2] + 3) / 4;
    }
    return 0;
}

template <class T> inline T built_in(BuiltInValue value) {
    typedef __remove_cvref(T) V;
    if constexpr (count<V> == 1) {
        return static_cast<V>(built_in(value, 0));
    } else {
        V v;
        for (int i = 0; i < count<V>; i++) v[i] = static_cast<Element<V>>(built_in(value, i));
        return v;
    }
}

// `const uint tid [[thread_index_in_threadgroup]];` at program scope. A use is written read(tid); where a local
// variable hides the name, that is the variable.
template <class T, BuiltInValue value> struct BuiltIn {
    operator T() const { return built_in<T>(value); }
};
template <class T, BuiltInValue value> inline T read(const BuiltIn<T, value>&) { return built_in<T>(value); }
template <class T> inline constexpr T& read(T& variable) { return variable; }

// The parameters of a kernel.
template <class F> struct Signature;
template <class... A> struct Signature<void (*)(A...)> {
    template <int i> using At = __type_pack_element<i, A...>;
};
template <class F, int i> using ParameterType = typename Signature<F>::template At<i>;

template <class T> using Pointee = __remove_pointer(__remove_reference_t(T));

// Whether memory that this refers to can be written by it.
template <class T> constexpr bool is_written = !__is_const(Pointee<T>);

// sizeof, where void is one byte.
template <class T> constexpr u32 size_of = sizeof(T);
template <> inline constexpr u32 size_of<void> = 1;
template <> inline constexpr u32 size_of<const void> = 1;
template <class T> constexpr u32 align_of = alignof(T);
template <> inline constexpr u32 align_of<void> = 1;
template <> inline constexpr u32 align_of<const void> = 1;

template <class F, int i> constexpr Param parameter(const char* name, int kind, int index, int flags) {
    typedef ParameterType<F, i> T;
    const bool writes = kind != PARAM_BUILTIN && is_written<T>;
    return {name, kind, index, flags | (writes ? PARAM_WRITES : 0), size_of<Pointee<T>>, align_of<Pointee<T>>};
}

template <class F, int i> inline ParameterType<F, i> bind(void* memory) {
    typedef ParameterType<F, i> T;
    if constexpr (__is_reference(T)) return *static_cast<__remove_reference_t(T)*>(memory);
    else return static_cast<T>(memory);
}

// The value of a function constant, from its bytes.
template <size n> struct Bytes {
    unsigned char bytes[n];
};

}  // namespace softmetal
