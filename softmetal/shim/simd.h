// <metal_simdgroup> and <metal_quadgroup>: what lanes tell each other. Lanes that are not there give poison, and a
// complaint.
#pragma once
#include "elementwise.h"

namespace softmetal {

enum { SIMD = 32, QUAD = 4 };

SOFTMETAL_UNCHECKED inline u32 lane() { return softmetal_runtime->thread()->lane; }

// A value that shows: NaN, or all bits set.
template <typename T> SOFTMETAL_UNCHECKED T poison() {
    T value;
    __builtin_memset(&value, 0xff, sizeof(T));
    return value;
}

// What the lanes hold that have come to one call.
template <typename T> struct Lanes {
    const char* slots;
    u32 active;
    Site site;

    SOFTMETAL_UNCHECKED Lanes(T value, Site site) : site(site) {
        static_assert(sizeof(T) <= SLOT);
        slots = static_cast<const char*>(softmetal_runtime->exchange(&value, sizeof(T), &active, site));
    }
    SOFTMETAL_UNCHECKED bool has(u32 lane) const { return lane < SIMD && (active >> lane & 1); }
    // Of a lane that is there.
    SOFTMETAL_UNCHECKED T of(u32 lane) const {
        T value;
        __builtin_memcpy(&value, slots + SLOT * lane, sizeof(T));
        return value;
    }
};

// A lane's value, and the argument that is to be every lane's.
template <typename T> struct Sent {
    T value;
    ushort number;
};

template <typename T> SOFTMETAL_UNCHECKED T read(const Lanes<Sent<T>>& lanes, u32 lane) {
    if (lanes.has(lane)) return lanes.of(lane).value;
    char message[] = "reads lane 00, which is not active";
    message[11] = char('0' + lane / 10 % 10);
    message[12] = char('0' + lane % 10);
    const char* beyond = "reads a lane beyond the simdgroup";
    softmetal_runtime->complain(COMPLAINT_INACTIVE_LANE, lane < SIMD ? message : beyond, lanes.site);
    return poison<T>();
}

// Sends a value to the lanes that come, whose `number` is to be the same in the simdgroup, or in the quad.
template <u32 width, typename T> SOFTMETAL_UNCHECKED Lanes<Sent<T>> send(T value, ushort number, Site site) {
    const Lanes<Sent<T>> lanes({value, number}, site);
    const u32 first = lane() / width * width;
    for (u32 l = first; l < first + width; l++)
        if (lanes.has(l) && lanes.of(l).number != number) {
            softmetal_runtime->complain(COMPLAINT_UNDEFINED, "lanes ask for different lanes or distances", site);
            break;
        }
    return lanes;
}

template <u32 width, typename T> SOFTMETAL_UNCHECKED T broadcast(T value, ushort from, Site site) {
    const auto lanes = send<width>(value, from, site);
    return read(lanes, from < width ? lane() / width * width + from : u32(SIMD));
}
template <u32 width, typename T> SOFTMETAL_UNCHECKED T broadcast_first(T value, Site site) {
    const Lanes<T> lanes(value, site);
    u32 l = lane() / width * width;
    while (!lanes.has(l)) l++;
    return lanes.of(l);
}
// Lanes may each ask for another one.
template <u32 width, typename T> SOFTMETAL_UNCHECKED T shuffle(T value, ushort from, Site site) {
    const Lanes<Sent<T>> lanes({value, from}, site);
    return read(lanes, from < width ? lane() / width * width + from : u32(SIMD));
}
template <u32 width, typename T> SOFTMETAL_UNCHECKED T shuffle_xor(T value, ushort mask, Site site) {
    const auto lanes = send<width>(value, mask, site);
    return read(lanes, mask < width ? lane() ^ mask : u32(SIMD));
}
// What would come from beyond the ends stays the lane's own.
template <u32 width, typename T> SOFTMETAL_UNCHECKED T shuffle_down(T value, ushort delta, Site site) {
    const auto lanes = send<width>(value, delta, site);
    return lane() % width + delta < width ? read(lanes, lane() + delta) : value;
}
template <u32 width, typename T> SOFTMETAL_UNCHECKED T shuffle_up(T value, ushort delta, Site site) {
    const auto lanes = send<width>(value, delta, site);
    return lane() % width >= delta ? read(lanes, lane() - delta) : value;
}
template <u32 width, typename T> SOFTMETAL_UNCHECKED T shuffle_rotate_down(T value, ushort delta, Site site) {
    const auto lanes = send<width>(value, delta, site);
    return read(lanes, lane() / width * width + (lane() + delta) % width);
}
template <u32 width, typename T> SOFTMETAL_UNCHECKED T shuffle_rotate_up(T value, ushort delta, Site site) {
    return shuffle_rotate_down<width>(value, ushort((width - delta % width) % width), site);
}
// What would come from beyond the ends of `modulo` lanes comes from `filling`'s other end.
template <u32 width, typename T>
SOFTMETAL_UNCHECKED T shuffle_and_fill_down(T value, T filling, ushort delta, ushort modulo, Site site) {
    const bool allowed = modulo != 0 && modulo <= width && (modulo & (modulo - 1)) == 0 && delta <= modulo;
    if (!allowed) {
        const char* message = "wants a modulo that is a power of two within the group, and no delta beyond it";
        softmetal_runtime->complain(COMPLAINT_UNDEFINED, message, site);
        return poison<T>();
    }
    const auto lanes = send<width>(value, delta, site);
    const u32 first = lane() / modulo * modulo, from = lane() % modulo + delta;
    const T inside = from < modulo ? read(lanes, first + from) : value;
    const auto fill = send<width>(filling, modulo, site);
    return from < modulo ? inside : read(fill, first + from - modulo);
}
template <u32 width, typename T>
SOFTMETAL_UNCHECKED T shuffle_and_fill_up(T value, T filling, ushort delta, ushort modulo, Site site) {
    return shuffle_and_fill_down<width>(filling, value, ushort(modulo - delta), modulo, site);
}

// The values of active lanes from `first` to before `end`, one after the other. There is one at least.
template <typename T, typename F> SOFTMETAL_UNCHECKED T fold(const Lanes<T>& lanes, u32 first, u32 end, F f) {
    while (!lanes.has(first)) first++;
    T result = lanes.of(first);
    for (u32 l = first + 1; l < end; l++)
        if (lanes.has(l)) result = f(result, lanes.of(l));
    return result;
}
template <u32 width, typename T, typename F> SOFTMETAL_UNCHECKED T reduce(T value, Site site, F f) {
    const u32 first = lane() / width * width;
    return fold(Lanes<T>(value, site), first, first + width, f);
}
template <u32 width, typename T, typename F> SOFTMETAL_UNCHECKED T prefix_inclusive(T value, Site site, F f) {
    return fold(Lanes<T>(value, site), lane() / width * width, lane() + 1, f);
}
template <u32 width, typename T, typename F>
SOFTMETAL_UNCHECKED T prefix_exclusive(T value, T neutral, Site site, F f) {
    const Lanes<T> lanes(value, site);
    T result = neutral;
    for (u32 l = lane() / width * width; l < lane(); l++)
        if (lanes.has(l)) result = f(result, lanes.of(l));
    return result;
}

// A bit for each active lane of the group that votes yes.
template <u32 width> SOFTMETAL_UNCHECKED u32 ballot(bool vote, Site site) {
    const Lanes<uchar> lanes(vote, site);
    const u32 first = lane() / width * width;
    u32 votes = 0;
    for (u32 l = 0; l < width; l++)
        if (lanes.has(first + l) && lanes.of(first + l)) votes |= 1u << l;
    return votes;
}
template <u32 width> SOFTMETAL_UNCHECKED u32 active(Site site) { return ballot<width>(true, site); }

}  // namespace softmetal

namespace metal {

// A vote of the lanes of a simdgroup, or of a quad.
template <typename Bits, uint width> class _vote {
    Bits bits;

  public:
    typedef Bits vote_t;
    explicit constexpr _vote(vote_t bits = 0) : bits(bits) {}
    explicit constexpr operator vote_t() const { return bits; }
    constexpr bool all() const { return (bits & ALL) == ALL; }
    constexpr bool any() const { return (bits & ALL) != 0; }

  private:
    static constexpr vote_t ALL = (vote_t(1) << (width - 1)) * 2 - 1;
};
typedef _vote<uint64_t, 32> simd_vote;
typedef _vote<uint, 4> quad_vote;

#define SOFTMETAL_IF(condition) typename = enable_if_t<(condition)>

#define SOFTMETAL_SHUFFLE(group, width, f)                                                  \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T>)>                              \
    SOFTMETAL_UNCHECKED T group##_##f(T data, ushort number, SOFTMETAL_SITE) {              \
        return softmetal::f<width>(data, number, {file, line});                             \
    }
#define SOFTMETAL_FILL(group, width, f)                                                                             \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T>)>                                                      \
    SOFTMETAL_UNCHECKED T group##_##f(                                                                              \
        T data, typename softmetal::Same<T>::type filling, ushort delta, ushort modulo = width, SOFTMETAL_SITE) {   \
        return softmetal::f<width, T>(data, filling, delta, modulo, {file, line});                                  \
    }
#define SOFTMETAL_REDUCE(group, width, f, expression)                                       \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T>)>                              \
    SOFTMETAL_UNCHECKED T group##_##f(T data, SOFTMETAL_SITE) {                             \
        return softmetal::reduce<width>(data, {file, line}, [](T a, T b) { return T(expression); }); \
    }
#define SOFTMETAL_BITWISE(group, width, f, expression)                                      \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T> && !softmetal::is_float<T>)>   \
    SOFTMETAL_UNCHECKED T group##_##f(T data, SOFTMETAL_SITE) {                             \
        return softmetal::reduce<width>(data, {file, line}, [](T a, T b) { return T(expression); }); \
    }
#define SOFTMETAL_SCAN(group, width, f, neutral, expression)                                                \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T>)>                                                \
    SOFTMETAL_UNCHECKED T group##_prefix_inclusive_##f(T data, SOFTMETAL_SITE) {                              \
        return softmetal::prefix_inclusive<width>(data, {file, line}, [](T a, T b) { return T(expression); }); \
    }                                                                                                         \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T>)>                                                \
    SOFTMETAL_UNCHECKED T group##_prefix_exclusive_##f(T data, SOFTMETAL_SITE) {                              \
        const auto f = [](T a, T b) { return T(expression); };                                                \
        return softmetal::prefix_exclusive<width>(data, T(neutral), {file, line}, f);                         \
    }

#define SOFTMETAL_GROUP(group, width)                                                                       \
    SOFTMETAL_SHUFFLE(group, width, broadcast)                                                              \
    SOFTMETAL_SHUFFLE(group, width, shuffle)                                                                \
    SOFTMETAL_SHUFFLE(group, width, shuffle_down)                                                           \
    SOFTMETAL_SHUFFLE(group, width, shuffle_rotate_down)                                                    \
    SOFTMETAL_SHUFFLE(group, width, shuffle_rotate_up)                                                      \
    SOFTMETAL_SHUFFLE(group, width, shuffle_up)                                                             \
    SOFTMETAL_SHUFFLE(group, width, shuffle_xor)                                                            \
    SOFTMETAL_FILL(group, width, shuffle_and_fill_down)                                                     \
    SOFTMETAL_FILL(group, width, shuffle_and_fill_up)                                                       \
    SOFTMETAL_REDUCE(group, width, max, max(a, b))                                                          \
    SOFTMETAL_REDUCE(group, width, min, min(a, b))                                                          \
    SOFTMETAL_REDUCE(group, width, product, a * b)                                                          \
    SOFTMETAL_REDUCE(group, width, sum, a + b)                                                              \
    SOFTMETAL_BITWISE(group, width, and, a& b)                                                              \
    SOFTMETAL_BITWISE(group, width, or, a | b)                                                              \
    SOFTMETAL_BITWISE(group, width, xor, a ^ b)                                                             \
    SOFTMETAL_SCAN(group, width, product, 1, a * b)                                                       \
    SOFTMETAL_SCAN(group, width, sum, 0, a + b)                                                           \
    template <typename T, SOFTMETAL_IF(softmetal::is_simd<T>)>                                              \
    SOFTMETAL_UNCHECKED T group##_broadcast_first(T data, SOFTMETAL_SITE) {                                 \
        return softmetal::broadcast_first<width>(data, {file, line});                                       \
    }                                                                                                       \
    SOFTMETAL_UNCHECKED inline group##_vote group##_ballot(bool vote, SOFTMETAL_SITE) {                     \
        return group##_vote(softmetal::ballot<width>(vote, {file, line}));                                  \
    }                                                                                                       \
    SOFTMETAL_UNCHECKED inline group##_vote group##_active_threads_mask(SOFTMETAL_SITE) {                   \
        return group##_vote(softmetal::active<width>({file, line}));                                        \
    }                                                                                                       \
    SOFTMETAL_UNCHECKED inline bool group##_all(bool vote, SOFTMETAL_SITE) {                                \
        return softmetal::ballot<width>(!vote, {file, line}) == 0;                                          \
    }                                                                                                       \
    SOFTMETAL_UNCHECKED inline bool group##_any(bool vote, SOFTMETAL_SITE) {                                \
        return softmetal::ballot<width>(vote, {file, line}) != 0;                                           \
    }                                                                                                       \
    SOFTMETAL_UNCHECKED inline bool group##_is_first(SOFTMETAL_SITE) {                                      \
        const uint active = softmetal::active<width>({file, line});                                         \
        return uint(__builtin_ctz(active)) == softmetal::lane() % width;                                    \
    }
SOFTMETAL_GROUP(simd, 32)
SOFTMETAL_GROUP(quad, 4)

// A kernel has no helper threads.
inline bool simd_is_helper_thread() { return false; }

}  // namespace metal
