// Kernels with planted bugs, and their clean twins, as the shader compiler makes kernels: against the contract, not in
// Metal Shading Language.
#include "taps.h"

using namespace softmetal;
#define EXPORT __attribute__((visibility("default")))
EXPORT const Runtime* softmetal_runtime;

#define HERE Site{__builtin_FILE(), __builtin_LINE()}
#define THREADGROUP(T, name, n)                                                                                        \
    static char name##_key;                                                                                            \
    T* name = static_cast<T*>(softmetal_runtime->threadgroup_variable(&name##_key, sizeof(T) * (n), alignof(T), #name, HERE))

namespace {

const Thread& thread() { return *softmetal_runtime->thread(); }
u32 tid() { return thread().index_in_threadgroup; }
u32 gid() { return thread().position_in_grid[0]; }
u32 group() { return thread().threadgroup_in_grid[0]; }

// As the standard library's headers do it: the place is the caller's.
void barrier(int flags, const char* file = __builtin_FILE(), u32 line = __builtin_LINE()) {
    softmetal_runtime->barrier(SCOPE_THREADGROUP, flags, {file, line});
}
void simd_barrier(int flags, const char* file = __builtin_FILE(), u32 line = __builtin_LINE()) {
    softmetal_runtime->barrier(SCOPE_SIMDGROUP, flags, {file, line});
}
template <class T> struct Lanes {
    const char* slots;
    u32 active;
    T at(u32 lane) const {
        T value;
        __builtin_memcpy(&value, slots + SLOT * lane, sizeof(T));
        return value;
    }
};
template <class T> Lanes<T> exchange(T value, const char* file = __builtin_FILE(), u32 line = __builtin_LINE()) {
    Lanes<T> lanes;
    lanes.slots = static_cast<const char*>(softmetal_runtime->exchange(&value, sizeof(T), &lanes.active, {file, line}));
    return lanes;
}
float simd_sum(float value, const char* file = __builtin_FILE(), u32 line = __builtin_LINE()) {
    Lanes<float> lanes = exchange(value, file, line);
    float sum = 0;
    for (u32 lane = 0; lane < 32; lane++)
        if (lanes.active >> lane & 1) sum += lanes.at(lane);
    return sum;
}
float simd_shuffle(float value, u32 from, const char* file = __builtin_FILE(), u32 line = __builtin_LINE()) {
    Lanes<float> lanes = exchange(value, file, line);
    if (!(lanes.active >> from & 1)) {
        softmetal_runtime->complain(COMPLAINT_INACTIVE_LANE, "simd_shuffle", {file, line});
        return 0;
    }
    return lanes.at(from);
}

typedef void* const* Pointers;

// One file holds all kernels, so the table stands at its end; each is named there.
#define KERNEL(name) void name([[maybe_unused]] Pointers b, [[maybe_unused]] Pointers tg)

KERNEL(copy) { ((float*)b[1])[gid()] = ((const float*)b[0])[gid()] + 1; }

KERNEL(positions) {
    const Thread& t = thread();
    u32* out = (u32*)b[0];
    u32 n = t.position_in_grid[0] + t.threads_per_grid[0] * t.position_in_grid[1];
    out[4 * n] = t.index_in_threadgroup + 1000 * t.lane;
    out[4 * n + 1] = t.threads_per_threadgroup[0] + 1000 * t.threads_per_threadgroup[1];
    out[4 * n + 2] = t.threadgroup_in_grid[0] + 1000 * t.threadgroups_per_grid[1];
    out[4 * n + 3] = t.simdgroup + 1000 * t.simdgroups_per_threadgroup;
}

// The sum of each threadgroup, by halves: with its barriers, without one, with the wrong flags.
template <int BEFORE, int INSIDE> void reduce(Pointers b) {
    THREADGROUP(float, shared, 256);
    shared[tid()] = ((const float*)b[0])[gid()];
    if (BEFORE >= 0) barrier(BEFORE);
    for (u32 s = thread().threads_per_threadgroup[0] / 2; s > 0; s /= 2) {
        if (tid() < s) shared[tid()] += shared[tid() + s];
        barrier(INSIDE);
    }
    if (tid() == 0) ((float*)b[1])[group()] = shared[0];
}
KERNEL(sum) { reduce<MEM_THREADGROUP, MEM_THREADGROUP>(b); }
KERNEL(sum_missing_barrier) { reduce<-1, MEM_THREADGROUP>(b); }
KERNEL(sum_wrong_flags) { reduce<MEM_DEVICE, MEM_THREADGROUP>(b); }

// The neighbour's value through device memory.
template <int FLAGS> void neighbour(Pointers b) {
    u32* out = (u32*)b[0];
    out[gid()] = gid();
    barrier(FLAGS);
    u32 next = group() * 64 + (tid() + 1) % 64;
    ((u32*)b[1])[gid()] = out[next];
}
KERNEL(device_barrier) { neighbour<MEM_DEVICE>(b); }
KERNEL(device_wrong_flags) { neighbour<MEM_THREADGROUP>(b); }

KERNEL(divergent_barrier) {
    if (tid() < 32) {
        barrier(MEM_THREADGROUP);
    } else {
        barrier(MEM_THREADGROUP);
    }
}
KERNEL(uniform_barrier) {
    if (group() == 0) {
        barrier(MEM_THREADGROUP);
    } else {
        barrier(MEM_THREADGROUP);
    }
}
KERNEL(early_return) {
    if (tid() >= 40) return;
    barrier(MEM_THREADGROUP);
}
KERNEL(late_return) {
    barrier(MEM_THREADGROUP);
    if (tid() >= 40) return;
    ((float*)b[0])[gid()] = 1;
}

// A histogram of one bin, over threadgroups.
KERNEL(count_plain) { *(u32*)b[0] += 1; }
KERNEL(count_atomic) { __atomic_fetch_add((u32*)b[0], 1, __ATOMIC_RELAXED); }
KERNEL(count_mixed) {
    if (gid() == 0) *(u32*)b[0] = 1;
    else __atomic_fetch_add((u32*)b[0], 1, __ATOMIC_RELAXED);
}
KERNEL(last_wins) { ((u32*)b[0])[tid() / 2] = 7; }
KERNEL(last_differs) { ((u32*)b[0])[tid() / 2] = tid(); }
KERNEL(bytes) { ((unsigned char*)b[0])[gid()] = (unsigned char)gid(); }

// The neighbour's value within a simdgroup.
template <int BARRIER> void simd_neighbour(Pointers b) {
    THREADGROUP(u32, shared, 64);
    shared[tid()] = tid();
    if (BARRIER >= 0) simd_barrier(BARRIER);
    ((u32*)b[0])[gid()] = shared[tid() ^ 1];
}
KERNEL(simd_ordered) { simd_neighbour<MEM_THREADGROUP>(b); }
KERNEL(simd_unordered) { simd_neighbour<-1>(b); }
KERNEL(simd_wrong_flags) { simd_neighbour<MEM_NONE>(b); }
KERNEL(simd_barrier_over_simdgroups) {
    THREADGROUP(u32, shared, 64);
    shared[tid()] = tid();
    simd_barrier(MEM_THREADGROUP);
    ((u32*)b[0])[gid()] = shared[tid() ^ 32];
}
KERNEL(divergent_simd_barrier) {
    if (tid() % 2) simd_barrier(MEM_THREADGROUP);
}

KERNEL(read_at) { ((float*)b[1])[0] = *(const float*)((const char*)b[0] + ((const int*)b[2])[0]); }
KERNEL(write_at) { *(float*)((char*)b[0] + ((const int*)b[2])[0]) = 1; }
KERNEL(write_bytes) { ((int*)b[2])[0] = 1; }
KERNEL(misaligned) { ((float*)b[1])[0] = *(const float*)((const char*)b[0] + 2); }
typedef float Float4 __attribute__((ext_vector_type(4)));
template <int AT> void vector(Pointers b) { *(Float4*)b[1] = *(const Float4*)((const float*)b[0] + AT); }
KERNEL(aligned_vector) { vector<4>(b); }
KERNEL(misaligned_vector) { vector<2>(b); }
KERNEL(threadgroup_past_end) {
    THREADGROUP(float, shared, 64);
    shared[tid() + 1] = 1;
}

KERNEL(fill_threadgroup) {
    THREADGROUP(float, shared, 64);
    if (tid() < 32) shared[tid()] = 1;
    barrier(MEM_THREADGROUP);
    if (tid() < 32) ((float*)b[0])[gid()] = shared[tid()];
}
KERNEL(fill_half_threadgroup) {
    THREADGROUP(float, shared, 64);
    if (tid() < 32) shared[tid()] = 1;
    barrier(MEM_THREADGROUP);
    ((float*)b[0])[gid()] = shared[tid()];
}
KERNEL(dynamic) {
    float* shared = (float*)tg[0];
    shared[tid()] = 1;
    barrier(MEM_THREADGROUP);
    ((float*)b[0])[gid()] = shared[63 - tid()];
}
template <u32 KIB> void large(Pointers b) {
    THREADGROUP(char, shared, KIB * 1024);
    shared[tid()] = 1;
    ((char*)b[0])[gid()] = shared[tid()];
}
KERNEL(all_threadgroup_memory) { large<32>(b); }
KERNEL(too_much_threadgroup_memory) { large<33>(b); }

KERNEL(shuffle) { ((float*)b[0])[gid()] = simd_shuffle(float(tid()), (tid() ^ 1) % 32); }
KERNEL(shuffle_inactive) {
    float value = 0;
    if (tid() % 32 < 16) value = simd_shuffle(float(tid()), 31 - tid() % 32);
    ((float*)b[0])[gid()] = value;
}
// Lanes leave the loop one by one, and all come together after it.
KERNEL(converges) {
    float sum = 0;
    for (u32 i = 0; i <= tid() % 32; i++) sum += simd_sum(1);
    ((float*)b[0])[gid()] = sum + 1000 * simd_sum(1);
}

// The work of a softmax over rows, one threadgroup a row.
KERNEL(softmax) {
    u32 width = *(const u32*)b[2], n = thread().threads_per_threadgroup[0];
    const float* in = (const float*)b[0] + group() * width;
    float* out = (float*)b[1] + group() * width;
    THREADGROUP(float, part, 32);
    float most = -1e30f;
    for (u32 i = tid(); i < width; i += n) most = __builtin_fmaxf(most, in[i]);
    Lanes<float> lanes = exchange(most);
    for (u32 lane = 0; lane < 32; lane++) most = __builtin_fmaxf(most, lanes.at(lane));
    if (thread().lane == 0) part[thread().simdgroup] = most;
    barrier(MEM_THREADGROUP);
    for (u32 i = 0; i < n / 32; i++) most = __builtin_fmaxf(most, part[i]);
    barrier(MEM_THREADGROUP);
    float sum = 0;
    for (u32 i = tid(); i < width; i += n) sum += __builtin_expf(in[i] - most);
    sum = simd_sum(sum);
    if (thread().lane == 0) part[thread().simdgroup] = sum;
    barrier(MEM_THREADGROUP);
    sum = 0;
    for (u32 i = 0; i < n / 32; i++) sum += part[i];
    for (u32 i = tid(); i < width; i += n) out[i] = __builtin_expf(in[i] - most) / sum;
}
KERNEL(exchanges) {
    float sum = 0;
    for (u32 i = 0; i < 1000; i++) sum += simd_sum(1);
    ((float*)b[0])[gid()] = sum;
}

const Param PARAMS[] = {
    {"a", PARAM_BUFFER, 0, PARAM_WRITES, 4, 4},
    {"b", PARAM_BUFFER, 1, PARAM_WRITES, 4, 4},
    {"offset", PARAM_BUFFER, 2, PARAM_CONSTANT, 4, 4},
};
const Param GATED[] = {
    {"a", PARAM_BUFFER, 0, PARAM_WRITES | PARAM_UNUSED, 4, 4},
    {"b", PARAM_BUFFER, 1, PARAM_WRITES, 4, 4},
};
const Param DYNAMIC[] = {
    {"a", PARAM_BUFFER, 0, PARAM_WRITES, 4, 4},
    {"shared", PARAM_THREADGROUP, 0, PARAM_WRITES, 4, 4},
};

}  // namespace

#define ENTRY(name, buffers) {#name, PARAMS, buffers, 0, name}
EXPORT extern const Kernel softmetal_kernels[] = {
    ENTRY(copy, 2),
    {"copy_gated", GATED, 2, 0, copy},
    {"dynamic", DYNAMIC, 2, 0, dynamic},
    ENTRY(positions, 1),
    ENTRY(sum, 2),
    ENTRY(sum_missing_barrier, 2),
    ENTRY(sum_wrong_flags, 2),
    ENTRY(device_barrier, 2),
    ENTRY(device_wrong_flags, 2),
    ENTRY(divergent_barrier, 0),
    ENTRY(uniform_barrier, 0),
    ENTRY(early_return, 0),
    ENTRY(late_return, 1),
    ENTRY(count_plain, 1),
    ENTRY(count_atomic, 1),
    ENTRY(count_mixed, 1),
    ENTRY(last_wins, 1),
    ENTRY(last_differs, 1),
    ENTRY(bytes, 1),
    ENTRY(simd_ordered, 1),
    ENTRY(simd_unordered, 1),
    ENTRY(simd_wrong_flags, 1),
    ENTRY(simd_barrier_over_simdgroups, 1),
    ENTRY(divergent_simd_barrier, 0),
    ENTRY(read_at, 3),
    ENTRY(write_at, 3),
    ENTRY(write_bytes, 3),
    ENTRY(misaligned, 2),
    ENTRY(aligned_vector, 2),
    ENTRY(misaligned_vector, 2),
    ENTRY(threadgroup_past_end, 0),
    ENTRY(fill_threadgroup, 1),
    ENTRY(fill_half_threadgroup, 1),
    ENTRY(all_threadgroup_memory, 1),
    ENTRY(too_much_threadgroup_memory, 1),
    ENTRY(shuffle, 1),
    ENTRY(shuffle_inactive, 1),
    ENTRY(converges, 1),
    ENTRY(softmax, 3),
    ENTRY(exchanges, 1),
    {nullptr, nullptr, 0, 0, nullptr},
};
