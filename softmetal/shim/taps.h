// Where kernels tell the executor of each use of memory. Kernels are compiled with -fsanitize=thread, which calls these
// functions before loads and stores; the sanitizer's own runtime is not linked. Uses of more than 16 bytes at once, of
// vectors of four 64-bit elements, get no call.
#pragma once
#include "abi.h"

// Without it the functions would tap themselves.
#define SOFTMETAL_TAP extern "C" __attribute__((noinline, visibility("hidden"), disable_sanitizer_instrumentation))

namespace softmetal {

// A fiber's stack, as src/exec/fiber.rs makes it: what lies less than this above the stack pointer is on the stack, and
// no other thread's.
enum { STACK = 256 << 10 };

__attribute__((always_inline, disable_sanitizer_instrumentation)) inline void tap(
    const volatile void* address, size bytes, int kind, const void* frame, const void* pc) {
    if (size(address) - size(frame) >= STACK) softmetal_runtime->access((const void*)address, bytes, kind, pc);
}

}  // namespace softmetal

#define SOFTMETAL_ACCESS(address, bytes, kind)                                                                         \
    softmetal::tap(address, bytes, softmetal::kind, __builtin_frame_address(0), __builtin_return_address(0))
#define SOFTMETAL_ACCESS_ALIGNED(address, bytes, kind)                                                                 \
    softmetal::tap(address, bytes, softmetal::kind | softmetal::ACCESS_ALIGNED, __builtin_frame_address(0),            \
        __builtin_return_address(0))

#define SOFTMETAL_TAPS(n)                                                                                              \
    SOFTMETAL_TAP void __tsan_read##n(void* p) { SOFTMETAL_ACCESS_ALIGNED(p, n, ACCESS_READ); }                        \
    SOFTMETAL_TAP void __tsan_write##n(void* p) { SOFTMETAL_ACCESS_ALIGNED(p, n, ACCESS_WRITE); }                      \
    SOFTMETAL_TAP void __tsan_unaligned_read##n(void* p) { SOFTMETAL_ACCESS(p, n, ACCESS_READ); }                      \
    SOFTMETAL_TAP void __tsan_unaligned_write##n(void* p) { SOFTMETAL_ACCESS(p, n, ACCESS_WRITE); }                    \
    SOFTMETAL_TAP void __tsan_read_write##n(void* p) {                                                                 \
        SOFTMETAL_ACCESS_ALIGNED(p, n, ACCESS_READ);                                                                   \
        SOFTMETAL_ACCESS_ALIGNED(p, n, ACCESS_WRITE);                                                                  \
    }                                                                                                                  \
    SOFTMETAL_TAP void __tsan_unaligned_read_write##n(void* p) {                                                       \
        SOFTMETAL_ACCESS(p, n, ACCESS_READ);                                                                           \
        SOFTMETAL_ACCESS(p, n, ACCESS_WRITE);                                                                          \
    }
SOFTMETAL_TAPS(1)
SOFTMETAL_TAPS(2)
SOFTMETAL_TAPS(4)
SOFTMETAL_TAPS(8)
SOFTMETAL_TAPS(16)
#undef SOFTMETAL_TAPS

SOFTMETAL_TAP void* __tsan_memcpy(void* to, const void* from, softmetal::size n) {
    SOFTMETAL_ACCESS(from, n, ACCESS_READ);
    SOFTMETAL_ACCESS(to, n, ACCESS_WRITE);
    return __builtin_memcpy(to, from, n);
}
SOFTMETAL_TAP void* __tsan_memmove(void* to, const void* from, softmetal::size n) {
    SOFTMETAL_ACCESS(from, n, ACCESS_READ);
    SOFTMETAL_ACCESS(to, n, ACCESS_WRITE);
    return __builtin_memmove(to, from, n);
}
SOFTMETAL_TAP void* __tsan_memset(void* to, int value, softmetal::size n) {
    SOFTMETAL_ACCESS(to, n, ACCESS_WRITE);
    return __builtin_memset(to, value, n);
}

// Atomic operations are not only announced but handed over.
#define SOFTMETAL_ATOMIC_CHANGE(bits, T, name)                                                                         \
    SOFTMETAL_TAP T __tsan_atomic##bits##_##name(volatile T* p, T value, int) {                                        \
        SOFTMETAL_ACCESS_ALIGNED(p, sizeof(T), ACCESS_ATOMIC);                                                         \
        return __atomic_##name(p, value, __ATOMIC_SEQ_CST);                                                            \
    }
#define SOFTMETAL_ATOMICS(bits, T)                                                                                     \
    SOFTMETAL_TAP T __tsan_atomic##bits##_load(const volatile T* p, int) {                                             \
        SOFTMETAL_ACCESS_ALIGNED(p, sizeof(T), ACCESS_ATOMIC_READ);                                                    \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                                   \
    }                                                                                                                  \
    SOFTMETAL_TAP void __tsan_atomic##bits##_store(volatile T* p, T value, int) {                                      \
        SOFTMETAL_ACCESS_ALIGNED(p, sizeof(T), ACCESS_ATOMIC_WRITE);                                                   \
        __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                                  \
    }                                                                                                                  \
    SOFTMETAL_TAP T __tsan_atomic##bits##_exchange(volatile T* p, T value, int) {                                      \
        SOFTMETAL_ACCESS_ALIGNED(p, sizeof(T), ACCESS_ATOMIC);                                                         \
        return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                                        \
    }                                                                                                                  \
    SOFTMETAL_TAP T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T expected, T value, int, int) {         \
        SOFTMETAL_ACCESS_ALIGNED(p, sizeof(T), ACCESS_ATOMIC);                                                         \
        __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
        return expected;                                                                                               \
    }                                                                                                                  \
    SOFTMETAL_ATOMIC_CHANGE(bits, T, fetch_add)                                                                        \
    SOFTMETAL_ATOMIC_CHANGE(bits, T, fetch_sub)                                                                        \
    SOFTMETAL_ATOMIC_CHANGE(bits, T, fetch_and)                                                                        \
    SOFTMETAL_ATOMIC_CHANGE(bits, T, fetch_or)                                                                         \
    SOFTMETAL_ATOMIC_CHANGE(bits, T, fetch_xor)                                                                        \
    SOFTMETAL_ATOMIC_CHANGE(bits, T, fetch_nand)
SOFTMETAL_ATOMICS(8, unsigned char)
SOFTMETAL_ATOMICS(16, unsigned short)
SOFTMETAL_ATOMICS(32, unsigned int)
SOFTMETAL_ATOMICS(64, unsigned long)
#undef SOFTMETAL_ATOMICS
#undef SOFTMETAL_ATOMIC_CHANGE

SOFTMETAL_TAP void __tsan_atomic_thread_fence(int) {}
SOFTMETAL_TAP void __tsan_atomic_signal_fence(int) {}
SOFTMETAL_TAP void __tsan_vptr_update(void**, void*) {}
SOFTMETAL_TAP void __tsan_vptr_read(void**) {}
SOFTMETAL_TAP void __tsan_func_entry(void*) {}
SOFTMETAL_TAP void __tsan_func_exit() {}
SOFTMETAL_TAP void __tsan_init() {}

#undef SOFTMETAL_ACCESS
#undef SOFTMETAL_ACCESS_ALIGNED
#undef SOFTMETAL_TAP
