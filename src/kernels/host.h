// The kernel dialect on the host, for tests without a GPU: each thread of a group is a fiber, and a group runs on one
// CPU thread, so that a kernel's arithmetic and indices are checked. Divergent barriers are reported. x86-64.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#define KERNEL extern "C"
#define FN static inline
#define GLOBAL
#define SHARED static
#define SHARED_PTR(E) E*
#define THREAD_PTR(E) E*
#define PARAMS(S) const S&
#define ALIGNED_16 alignas(16)
#define SCOPE

typedef unsigned char uchar;  // uint and ulong are the C library's


struct bf16 {
    uint16_t bits;
    bf16() = default;
    bf16(float v) {
        uint32_t u;
        std::memcpy(&u, &v, 4);
        bits = v != v ? 0x7fff : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    }
    operator float() const {
        uint32_t u = uint32_t(bits) << 16;
        float v;
        std::memcpy(&v, &u, 4);
        return v;
    }
};
typedef _Float16 f16;

constexpr uint WARP = 32;

namespace host {
enum State { RUN, AT_WARP, AT_BARRIER, DONE };
constexpr size_t STACK = 1 << 18;
static State state[1024];
static void* saved[1024];
static void* scheduler;
static uint lanes[2][1024], turn[1024];
static uint current, group[3], groups;
static void (*kernel)();
static void* const* arguments;
static uint argument_count;

// Saves what a call must keep, and changes the stack.
extern "C" void host_switch(void** from, void* to);
asm(".text\n.local host_switch\n.type host_switch,@function\nhost_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static inline void yield(State s) {
    const uint t = current;
    state[t] = s;
    host_switch(&saved[t], scheduler);
    current = t;
}

static void call() {
    typedef void* P;
    void* const* a = arguments;
    switch (argument_count) {
    case 1: return ((void (*)(P))kernel)(a[0]);
    case 2: return ((void (*)(P, P))kernel)(a[0], a[1]);
    case 3: return ((void (*)(P, P, P))kernel)(a[0], a[1], a[2]);
    case 4: return ((void (*)(P, P, P, P))kernel)(a[0], a[1], a[2], a[3]);
    case 5: return ((void (*)(P, P, P, P, P))kernel)(a[0], a[1], a[2], a[3], a[4]);
    case 6: return ((void (*)(P, P, P, P, P, P))kernel)(a[0], a[1], a[2], a[3], a[4], a[5]);
    case 7: return ((void (*)(P, P, P, P, P, P, P))kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    case 8: return ((void (*)(P, P, P, P, P, P, P, P))kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    case 9:
        return ((void (*)(P, P, P, P, P, P, P, P, P))kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
    case 10:
        return ((void (*)(P, P, P, P, P, P, P, P, P, P))kernel)(
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
    case 11:
        return ((void (*)(P, P, P, P, P, P, P, P, P, P, P))kernel)(
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]);
    case 12:
        return ((void (*)(P, P, P, P, P, P, P, P, P, P, P, P))kernel)(
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
    default: std::abort();
    }
}

static void fiber() {
    call();
    yield(DONE);
    std::abort();
}

static void fail(const char* what, uint t) {
    std::fprintf(stderr, "host kernel: %s, thread %u of group %u\n", what, t, group[0]);
    std::abort();
}

static void run_group(uint size) {
    static char* stacks = nullptr;
    if (!stacks) {
        stacks = (char*)mmap(nullptr, STACK * 1024, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    for (uint t = 0; t < size; t++) {
        void** top = (void**)(stacks + STACK * (t + 1));
        top[-2] = (void*)fiber;
        saved[t] = top - 2 - 6;
        state[t] = RUN;
        turn[t] = 0;
    }
    const uint warps = (size + WARP - 1) / WARP;
    for (uint done = 0; done < size;) {
        for (uint w = 0; w < warps; w++) {
            const uint first = w * WARP, last = first + WARP < size ? first + WARP : size;
            for (;;) {
                for (uint t = first; t < last; t++) {
                    if (state[t] == DONE) continue;
                    current = t;
                    host_switch(&scheduler, saved[t]);
                }
                for (uint t = first; t < last; t++)
                    if (state[t] != state[first]) fail("lanes of one warp wait at different places", t);
                if (state[first] != AT_WARP) break;
            }
        }
        done = 0;
        for (uint t = 0; t < size; t++) {
            if (state[t] != state[0]) fail("not all threads reach the barrier", t);
            done += state[t] == DONE;
        }
    }
}

// What each lane of this warp has posted.
static inline const uint* exchange(uint v) {
    const uint side = turn[current]++ & 1;
    lanes[side][current] = v;
    yield(AT_WARP);
    return &lanes[side][current / WARP * WARP];
}
static inline uint bits(float v) {
    uint u;
    std::memcpy(&u, &v, 4);
    return u;
}
static inline float real(uint u) {
    float v;
    std::memcpy(&v, &u, 4);
    return v;
}
}  // namespace host

extern "C" void host_launch(void (*kernel)(), const uint* groups, uint size, void* const* arguments, uint count) {
    host::kernel = kernel;
    host::arguments = arguments;
    host::argument_count = count;
    host::groups = groups[0];
    if (size % WARP) std::abort();
    for (host::group[2] = 0; host::group[2] < groups[2]; host::group[2]++)
        for (host::group[1] = 0; host::group[1] < groups[1]; host::group[1]++)
            for (host::group[0] = 0; host::group[0] < groups[0]; host::group[0]++) host::run_group(size);
}

FN uint thread_id() { return host::current; }
FN uint group_id() { return host::group[0]; }
FN uint group_id_y() { return host::group[1]; }
FN uint group_id_z() { return host::group[2]; }
FN uint group_count() { return host::groups; }
FN void barrier() { host::yield(host::AT_BARRIER); }
FN void global_barrier() { barrier(); }
FN void warp_global_barrier() { host::exchange(0); }
FN float warp_sum(float v) {
    const uint* lane = host::exchange(host::bits(v));
    float s[WARP];
    for (uint i = 0; i < WARP; i++) s[i] = host::real(lane[i]);
    for (uint d = WARP / 2; d > 0; d /= 2)
        for (uint i = 0; i < d; i++) s[i] += s[i + d];
    return s[0];
}
FN float warp_max(float v) {
    const uint* lane = host::exchange(host::bits(v));
    float m = host::real(lane[0]);
    for (uint i = 1; i < WARP; i++) m = fmaxf(m, host::real(lane[i]));
    return m;
}
FN uint warp_xor(uint v, uint mask) { return host::exchange(v)[(host::current % WARP) ^ mask]; }
FN uint warp_ballot(bool v) {
    const uint* lane = host::exchange(v);
    uint mask = 0;
    for (uint i = 0; i < WARP; i++) mask |= lane[i] << i;
    return mask;
}
FN float warp_xor(float v, uint mask) { return host::real(warp_xor(host::bits(v), mask)); }

template <typename E> FN void prefetch(const E*) {}
// Metal's 8x8 matrices, for *.metal.h: see matrix.metal.h for who holds what.
template <typename E, int R, int C> struct simdgroup_matrix {
    E e[2];
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(E v) : e{v, v} {}
    E* thread_elements() { return e; }
};
typedef simdgroup_matrix<float, 8, 8> host_matrix;
static inline void simdgroup_multiply_accumulate(host_matrix& d, host_matrix a, host_matrix b, host_matrix c) {
    static float posted[2][1024][4];
    const uint t = host::current, side = host::turn[t]++ & 1, lane = t % WARP;
    float mine[4] = {a.e[0], a.e[1], b.e[0], b.e[1]};
    std::memcpy(posted[side][t], mine, sizeof mine);
    host::yield(host::AT_WARP);
    const float(*all)[4] = &posted[side][t - lane];
    const auto holder = [](uint r, uint c) { return r / 4 * 16 + c / 4 * 8 + r % 4 * 2 + c / 2 % 2; };
    const uint row = lane / 16 * 4 + lane / 2 % 4, col = lane % 16 / 8 * 4 + lane % 2 * 2;
    for (uint j = 0; j < 2; j++) {
        float sum = c.e[j];
        for (uint k = 0; k < 8; k++) sum += all[holder(row, k)][k % 2] * all[holder(k, col)][2 + j];
        d.e[j] = sum;
    }
}

FN float inf32() { return INFINITY; }
FN float nan32() { return NAN; }
FN float exp32(float v) { return expf(v); }
FN float exp2_fast(float v) { return exp2f(v); }
FN float log32(float v) { return logf(v); }
FN float sqrt32(float v) { return sqrtf(v); }
FN float rsqrt32(float v) { return 1.0f / sqrtf(v); }
FN float rcp32(float v) { return 1.0f / v; }
FN float tanh32(float v) { return tanhf(v); }
FN float abs32(float v) { return fabsf(v); }
FN float max32(float a, float b) { return fmaxf(a, b); }
FN float min32(float a, float b) { return fminf(a, b); }
FN float fma32(float a, float b, float c) { return fmaf(a, b, c); }
FN uint lowest_bit(uint v) { return __builtin_ctz(v); }
FN float mul32(float a, float b) { return a * b; }
FN uint bits32(float v) { return host::bits(v); }
FN float float32(uint bits) { return host::real(bits); }

template <typename E> static inline void store_16(E* p, const float* v) {
    for (uint i = 0; i < 16 / sizeof(E); i++) p[i] = E(v[i]);
}

template <typename E> static inline uint pack(E, float a, float b) {
    const E e[2] = {E(a), E(b)};
    uint w;
    std::memcpy(&w, e, 4);
    return w;
}
FN uint pack(float, float a, float) { return bits32(a); }
template <typename E> static inline float unpack(E, uint w, uint which) {
    E e[2];
    std::memcpy(e, &w, 4);
    return float(e[which]);
}
FN float unpack(float, uint w, uint) { return float32(w); }
FN uint anew(uint w) { return w; }
