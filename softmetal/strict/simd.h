// Barriers, functions over simdgroups and quadgroups, simdgroup matrices.

namespace metal {

enum class mem_flags {
    mem_none = 0,
    mem_device = 1,
    mem_threadgroup = 2,
    mem_texture = 4,
    mem_threadgroup_imageblock = 8,
    mem_object_data = 16
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((int)a | (int)b); }
enum memory_order { memory_order_relaxed, memory_order_acquire, memory_order_release, memory_order_acq_rel,
                    memory_order_seq_cst };
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };
typedef thread_scope memory_scope;
void threadgroup_barrier(mem_flags);
void threadgroup_barrier(mem_flags, memory_scope);
void simdgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags, memory_scope);
void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device);

struct simd_vote {
    typedef ulong vote_t;
    explicit simd_vote(vote_t = 0);
    explicit operator vote_t() const;
    bool all() const;
    bool any() const;
};
simd_vote simd_ballot(bool);
simd_vote simd_active_threads_mask();
bool simd_is_first();
bool simd_is_helper_thread();
bool simd_all(bool);
bool simd_any(bool);
bool quad_all(bool);
bool quad_any(bool);
bool quad_is_first();

#define MOVE(E, group)                                                              \
    E group##_broadcast(E, ushort);                                                 \
    OF_ONE(E, group##_broadcast_first)                                              \
    E group##_shuffle(E, ushort);                                                   \
    E group##_shuffle_xor(E, ushort);                                               \
    E group##_shuffle_up(E, ushort);                                                \
    E group##_shuffle_down(E, ushort);                                              \
    E group##_shuffle_rotate_up(E, ushort);                                         \
    E group##_shuffle_rotate_down(E, ushort);                                       \
    E group##_shuffle_and_fill_up(E, E, ushort);                                    \
    E group##_shuffle_and_fill_up(E, E, ushort, ushort);                            \
    E group##_shuffle_and_fill_down(E, E, ushort);                                  \
    E group##_shuffle_and_fill_down(E, E, ushort, ushort);
#define REDUCE(E, group)                                                            \
    OF_ONE(E, group##_sum) OF_ONE(E, group##_product) OF_ONE(E, group##_max) OF_ONE(E, group##_min)      \
    OF_ONE(E, group##_prefix_exclusive_sum) OF_ONE(E, group##_prefix_inclusive_sum)                      \
    OF_ONE(E, group##_prefix_exclusive_product) OF_ONE(E, group##_prefix_inclusive_product)
#define BITS(E, group) OF_ONE(E, group##_and) OF_ONE(E, group##_or) OF_ONE(E, group##_xor)
// Of 64 bits there are none.
#define NARROW(OF)                                                                                              \
    WIDTHS(OF, char) WIDTHS(OF, uchar) WIDTHS(OF, short) WIDTHS(OF, ushort) WIDTHS(OF, int) WIDTHS(OF, uint)
#define LANES(E) MOVE(E, simd) MOVE(E, quad) REDUCE(E, simd) REDUCE(E, quad)
#define LANES_OF_BITS(E) BITS(E, simd) BITS(E, quad)
NARROW(LANES) FLOATS(LANES) NARROW(LANES_OF_BITS)
MOVE(bool, simd) MOVE(bool, quad)
#undef MOVE
#undef REDUCE
#undef BITS
#undef NARROW
#undef LANES
#undef LANES_OF_BITS

template <class E, int C, int R> struct simdgroup_matrix {
    static_assert(C == 8 && R == 8, "simdgroup_matrix wants 8 columns and 8 rows");
    static_assert(is_floating_point_v<E>, "simdgroup_matrix wants float, half or bfloat");
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(E diagonal);
    thread vec<E, 2>& thread_elements() thread;
    const thread vec<E, 2>& thread_elements() const thread;
};
template <class E, int C, int R = C> simdgroup_matrix<E, C, R> make_filled_simdgroup_matrix(E);
template <class E, int C, int R = C> simdgroup_matrix<E, C, R> make_diagonal_simdgroup_matrix(E);
#define MOVES(SPACE)                                                                                     \
    template <class E>                                                                                   \
    void simdgroup_load(thread simdgroup_matrix<E, 8, 8>& to, const SPACE E* from, ulong row = 8,        \
                        ulong2 origin = ulong2(0), bool transpose = false);                              \
    template <class E>                                                                                   \
    void simdgroup_store(simdgroup_matrix<E, 8, 8> from, SPACE E* to, ulong row = 8,                     \
                         ulong2 origin = ulong2(0), bool transpose = false);
MOVES(device) MOVES(threadgroup)
#undef MOVES
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c);
template <class D, class A, class B>
void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                        simdgroup_matrix<B, 8, 8> b);
template <class A, class B>
simdgroup_matrix<A, 8, 8> operator*(simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b);

typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

}  // namespace metal
