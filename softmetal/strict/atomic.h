// Atomics: each operation for the types and spaces that Metal has it for.

namespace metal {

template <class E> struct atomic { E value; };
typedef atomic<bool> atomic_bool;
// OpenCL has types of these names: the translator writes the second where none stands in `metal::`.
#define ATOMIC(E)                \
    typedef atomic<E> atomic_##E; \
    typedef atomic<E> softmetal_atomic_##E;
ATOMIC(int) ATOMIC(uint) ATOMIC(ulong) ATOMIC(float)
#undef ATOMIC

#define ACCESS(SPACE, E)                                                                                          \
    E atomic_load_explicit(const volatile SPACE atomic<E>*, memory_order);                                        \
    void atomic_store_explicit(volatile SPACE atomic<E>*, E, memory_order);                                       \
    E atomic_exchange_explicit(volatile SPACE atomic<E>*, E, memory_order);                                       \
    bool atomic_compare_exchange_weak_explicit(volatile SPACE atomic<E>*, thread E*, E, memory_order, memory_order);
#define FETCH(SPACE, E, name) E atomic_fetch_##name##_explicit(volatile SPACE atomic<E>*, E, memory_order);
#define INTEGER(SPACE, E)                                                                                         \
    ACCESS(SPACE, E) FETCH(SPACE, E, add) FETCH(SPACE, E, sub) FETCH(SPACE, E, max) FETCH(SPACE, E, min)          \
    FETCH(SPACE, E, and) FETCH(SPACE, E, or) FETCH(SPACE, E, xor)
INTEGER(device, int) INTEGER(device, uint) INTEGER(threadgroup, int) INTEGER(threadgroup, uint)
ACCESS(device, bool) ACCESS(threadgroup, bool)
ACCESS(device, float) ACCESS(threadgroup, float) FETCH(device, float, add) FETCH(device, float, sub)
void atomic_max_explicit(volatile device atomic<ulong>*, ulong, memory_order);
void atomic_min_explicit(volatile device atomic<ulong>*, ulong, memory_order);
#undef ACCESS
#undef FETCH
#undef INTEGER

}  // namespace metal
#undef OF_ONE
#undef OF_TWO
#undef OF_THREE
#undef WIDTHS
#undef FLOATS
#undef INTEGERS
