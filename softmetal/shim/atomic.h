// <metal_atomic>. Atomic functions tell the runtime themselves what they use, as the line that called them.
#pragma once
#include "barrier.h"

namespace metal {

// Metal had only memory_order_relaxed before version 3.2, whose others are fences' alone.
enum memory_order : int {
    memory_order_relaxed = __ATOMIC_RELAXED,
    memory_order_acquire = __ATOMIC_ACQUIRE,
    memory_order_release = __ATOMIC_RELEASE,
    memory_order_acq_rel = __ATOMIC_ACQ_REL,
    memory_order_seq_cst = __ATOMIC_SEQ_CST,
};

enum thread_scope {
    thread_scope_thread,
    thread_scope_simdgroup,
    thread_scope_threadgroup,
    thread_scope_device,
};

template <typename T> struct atomic {
    static_assert(
        __is_same(T, int) || __is_same(T, uint) || __is_same(T, bool) || __is_same(T, float) || __is_same(T, ulong),
        "atomic: wants int, uint, bool, float or ulong");
    typedef T value_type;
    T value;

    atomic() = default;
    atomic(const atomic&) = delete;
    atomic& operator=(const atomic&) = delete;
};

}  // namespace metal

typedef metal::atomic<int> atomic_int;
typedef metal::atomic<uint> atomic_uint;
typedef metal::atomic<bool> atomic_bool;
typedef metal::atomic<float> atomic_float;
typedef metal::atomic<ulong> atomic_ulong;

namespace metal {

using ::atomic_bool;
using ::atomic_float;
using ::atomic_int;
using ::atomic_uint;
using ::atomic_ulong;

#define SOFTMETAL_ATOMIC SOFTMETAL_UNCHECKED __attribute__((noinline))

// The value's address, once the runtime knows of its use.
#define SOFTMETAL_USE(object)                                                                                         \
    (softmetal_runtime->access(                                                                                       \
         const_cast<const atomic<T>*>(object), sizeof(T), softmetal::ACCESS_ATOMIC, __builtin_return_address(0)),     \
     const_cast<T*>(&(object)->value))

template <typename T> inline constexpr bool _is_atomic_32 = __is_same(T, int) || __is_same(T, uint);

template <typename T> SOFTMETAL_ATOMIC T atomic_load_explicit(const volatile atomic<T>* object, memory_order order) {
    static_assert(!__is_same(T, ulong), "atomic_ulong: has no load");
    T value;
    __atomic_load(SOFTMETAL_USE(object), &value, __ATOMIC_RELAXED);
    return value;
}
template <typename T>
SOFTMETAL_ATOMIC void atomic_store_explicit(
    volatile atomic<T>* object, typename softmetal::Same<T>::type desired, memory_order order) {
    static_assert(!__is_same(T, ulong), "atomic_ulong: has no store");
    __atomic_store(SOFTMETAL_USE(object), &desired, __ATOMIC_RELAXED);
}
template <typename T>
SOFTMETAL_ATOMIC T atomic_exchange_explicit(
    volatile atomic<T>* object, typename softmetal::Same<T>::type desired, memory_order order) {
    static_assert(!__is_same(T, ulong), "atomic_ulong: has no exchange");
    T value;
    __atomic_exchange(SOFTMETAL_USE(object), &desired, &value, __ATOMIC_RELAXED);
    return value;
}
template <typename T>
SOFTMETAL_ATOMIC bool atomic_compare_exchange_weak_explicit(
    volatile atomic<T>* object, typename softmetal::Same<T>::type* expected, typename softmetal::Same<T>::type desired,
    memory_order success, memory_order failure) {
    static_assert(!__is_same(T, ulong), "atomic_ulong: has no compare_exchange");
    return __atomic_compare_exchange(
        SOFTMETAL_USE(object), expected, &desired, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

// Replaces old by `expression`, of old and operand, and returns the old value.
#define SOFTMETAL_FETCH(name, types, expression)                                                                      \
    template <typename T>                                                                                             \
    SOFTMETAL_ATOMIC T atomic_fetch_##name##_explicit(                                                                \
        volatile atomic<T>* object, typename softmetal::Same<T>::type operand, memory_order order) {                  \
        static_assert(types, "atomic_fetch_" #name "_explicit: not of this type");                                    \
        T* value = SOFTMETAL_USE(object);                                                                             \
        T old, next;                                                                                                  \
        __atomic_load(value, &old, __ATOMIC_RELAXED);                                                                 \
        do next = expression;                                                                                         \
        while (!__atomic_compare_exchange(value, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));             \
        return old;                                                                                                   \
    }
SOFTMETAL_FETCH(add, _is_atomic_32<T> || __is_same(T, float), old + operand)
SOFTMETAL_FETCH(sub, _is_atomic_32<T> || __is_same(T, float), old - operand)
SOFTMETAL_FETCH(min, _is_atomic_32<T>, operand < old ? operand : old)
SOFTMETAL_FETCH(max, _is_atomic_32<T>, old < operand ? operand : old)
SOFTMETAL_FETCH(and, _is_atomic_32<T>, old& operand)
SOFTMETAL_FETCH(or, _is_atomic_32<T>, old | operand)
SOFTMETAL_FETCH(xor, _is_atomic_32<T>, old ^ operand)

// Of 64 bits Metal has these two, without the old value.
#define SOFTMETAL_REPLACE(name, condition)                                                                            \
    SOFTMETAL_ATOMIC inline void atomic_##name##_explicit(                                                            \
        volatile atomic<ulong>* object, ulong operand, memory_order order) {                                          \
        typedef ulong T;                                                                                              \
        T* value = SOFTMETAL_USE(object);                                                                             \
        T old = __atomic_load_n(value, __ATOMIC_RELAXED);                                                             \
        while (condition && !__atomic_compare_exchange(                                                               \
                                value, &old, &operand, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {                   \
        }                                                                                                             \
    }
SOFTMETAL_REPLACE(min, operand < old)
SOFTMETAL_REPLACE(max, old < operand)

inline void atomic_thread_fence(
    mem_flags flags, memory_order order, thread_scope scope = thread_scope_device) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace metal
