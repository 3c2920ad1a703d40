// What the dialect leaves out and every backend can share: sums over a group, and rows read 16 bytes at a time.
//
// GROUP_SIZE threads are a group. In a kernel over rows, ROW_THREADS of them (32, or all) share a row of n elements,
// and each holds SLOTS vectors of VEC elements: vector s of a thread begins at element `slot(s, phase)`.
// ALIGNED says how rows lie: 2, each begins at a multiple of 16 bytes; 1, the first one does, and row r begins `phase`
// elements after such a multiple; 0, anywhere.

constexpr SCOPE uint MAX_WARPS = 32;

// Groups of a multiprocessor that its registers are shared among, where a kernel does not say.
#ifndef RESIDENT
#define RESIDENT 1
#endif

// e^v for v <= 0, within 2^-22 of 1 and the rounding of v.
FN float exp_below(float v) { return exp2_fast(v * 1.44269504f); }

// The sum of v over the group, in every thread. `scratch` holds MAX_WARPS floats that no thread may still be reading: one
// barrier is all there is.
FN float group_sum_once(float v, SHARED_PTR(float) scratch) {
    v = warp_sum(v);
    if (thread_id() % WARP == 0) scratch[thread_id() / WARP] = v;
    barrier();
    const uint lane = thread_id() % WARP;
    return warp_sum(lane < GROUP_SIZE / WARP ? scratch[lane] : 0.0f);
}

// As group_sum_once, in memory that has been used before.
FN float group_sum(float v, SHARED_PTR(float) scratch) {
    barrier();
    return group_sum_once(v, scratch);
}

// The maximum of v over the group, in every thread; NaN is left out.
FN float group_max(float v, SHARED_PTR(float) scratch) {
    v = warp_max(v);
    barrier();
    if (thread_id() % WARP == 0) scratch[thread_id() / WARP] = v;
    barrier();
    const uint lane = thread_id() % WARP;
    return warp_max(lane < GROUP_SIZE / WARP ? scratch[lane] : -inf32());
}

struct Pair {
    float a, b;
};

// The sums of v.a and of v.b over the group, in every thread. `scratch` holds 2 MAX_WARPS floats that no thread may
// still be reading: one barrier is all there is, so two sums in turn take two pieces of memory.
FN Pair group_sum2(Pair v, SHARED_PTR(float) scratch) {
    v.a = warp_sum(v.a);
    v.b = warp_sum(v.b);
    if (thread_id() % WARP == 0) {
        scratch[thread_id() / WARP * 2] = v.a;
        scratch[thread_id() / WARP * 2 + 1] = v.b;
    }
    barrier();
    Pair sum = {0.0f, 0.0f};
    for (uint w = 0; w < GROUP_SIZE / WARP; w++) {
        sum.a += scratch[2 * w];
        sum.b += scratch[2 * w + 1];
    }
    return sum;
}

#ifdef ROW_THREADS

constexpr SCOPE uint ROWS_PER_GROUP = GROUP_SIZE / ROW_THREADS;

// `rows` rows of `cols` elements, and a number that the op gives a meaning.
struct Rows {
    ulong rows;
    uint cols;
    float value;
};

// The row this thread works on.
FN ulong my_row() { return ulong(group_id()) * ROWS_PER_GROUP + thread_id() / ROW_THREADS; }

FN float row_sum(float v, SHARED_PTR(float) scratch) {
#if ROW_THREADS == 32
    return warp_sum(v);
#else
    return group_sum(v, scratch);
#endif
}

FN float row_sum_once(float v, SHARED_PTR(float) scratch) {
#if ROW_THREADS == 32
    return warp_sum(v);
#else
    return group_sum_once(v, scratch);
#endif
}

FN float row_max(float v, SHARED_PTR(float) scratch) {
#if ROW_THREADS == 32
    return warp_max(v);
#else
    return group_max(v, scratch);
#endif
}

// What the row's threads read before it, they read before any of them writes after it.
FN void row_barrier() {
#if ROW_THREADS == 32
    warp_global_barrier();
#else
    global_barrier();
#endif
}

FN Pair row_sum2(Pair v, SHARED_PTR(float) scratch) {
#if ROW_THREADS == 32
    const Pair sum = {warp_sum(v.a), warp_sum(v.b)};
    return sum;
#else
    return group_sum2(v, scratch);
#endif
}

// Row `row` of `rows` is done by worker `row % workers()`: each keeps sums over its rows.
FN uint worker() { return group_id() * ROWS_PER_GROUP + thread_id() / ROW_THREADS; }
FN uint workers() { return group_count() * ROWS_PER_GROUP; }

// How far row `row` of n elements begins after a multiple of VEC elements.
FN int row_phase(ulong row, uint n) { return ALIGNED == 1 ? int(row * n % VEC) : 0; }

FN int slot(uint s, int phase) { return int((s * ROW_THREADS + thread_id() % ROW_THREADS) * VEC) - phase; }

// Prefetches what this warp will `load` of a row: 64 bytes for each lane that asks.
FN void prefetch_row(GLOBAL const T* row, int n) {
    for (uint s = 0; s < SLOTS; s++)
        if (thread_id() % 4 == 0 && slot(s, 0) < n) prefetch(row + slot(s, 0));
}

#endif

#ifdef VEC

struct Vec {
    float v[VEC];
};

template <typename E> struct ALIGNED_16 Pack {
    static_assert(VEC * sizeof(E) >= 16, "a vector holds 16 bytes of the narrowest elements");
    E e[16 / sizeof(E)];
};

// Elements i.. of a row of n, `fill` outside of it.
template <typename E> FN Vec load(GLOBAL const E* row, int i, int n, float fill) {
    Vec x;
    if (ALIGNED == 2 ? i < n : ALIGNED == 1 && i >= 0 && i + VEC <= n) {
        constexpr int PER = 16 / sizeof(E);
        for (int k = 0; k < VEC; k += PER) {
            const Pack<E> pack = *(GLOBAL const Pack<E>*)(row + i + k);
            for (int j = 0; j < PER; j++) x.v[k + j] = float(pack.e[j]);
        }
    } else {
        for (int k = 0; k < VEC; k++) x.v[k] = ALIGNED != 2 && i + k >= 0 && i + k < n ? float(row[i + k]) : fill;
    }
    return x;
}

// VEC elements as they are stored: half the registers of a Vec, where E has 2 bytes.
template <typename E> struct Raw {
    uint w[VEC * sizeof(E) / 4];
};
struct ALIGNED_16 Words {
    uint w[4];
};

// As `load` with a fill of 0, without a conversion.
template <typename E> FN Raw<E> load_raw(GLOBAL const E* row, int i, int n) {
    Raw<E> x;
    constexpr int PER = 4 / sizeof(E);
    if (ALIGNED == 2 ? i < n : ALIGNED == 1 && i >= 0 && i + VEC <= n) {
        for (int k = 0; k < VEC; k += 4 * PER) {
            const Words words = *(GLOBAL const Words*)(row + i + k);
            for (int j = 0; j < 4; j++) x.w[k / PER + j] = words.w[j];
        }
    } else {
        for (int k = 0; k < VEC; k += PER) {
            const int j = i + k, l = j + PER - 1;
            const float a = ALIGNED != 2 && j >= 0 && j < n ? float(row[j]) : 0.0f;
            const float b = ALIGNED != 2 && l >= 0 && l < n ? float(row[l]) : 0.0f;
            x.w[k / PER] = pack(E(), a, b);
        }
    }
    return x;
}

// Elements rounded to T.
FN Raw<T> raw(Vec v) {
    Raw<T> x;
    constexpr int PER = 4 / sizeof(T);
    for (int k = 0; k < VEC; k += PER) x.w[k / PER] = pack(T(), v.v[k], v.v[k + PER - 1]);
    return x;
}

// Element k.
template <typename E> FN float element(THREAD_PTR(const Raw<E>) x, int k) {
    return unpack(E(), x->w[k * sizeof(E) / 4], k * sizeof(E) / 2 % 2);
}

// The same elements, of which nothing computed before need be kept.
template <typename E> FN void forget(THREAD_PTR(Raw<E>) x) {
    for (uint i = 0; i < VEC * sizeof(E) / 4; i++) x->w[i] = anew(x->w[i]);
}

// As `load`, of a row that begins at a multiple of 16 bytes whatever the phase: a weight.
template <typename E> FN Vec load_weight(GLOBAL const E* row, int i, int n) {
    if (ALIGNED == 2) return load(row, i, n, 0.0f);
    Vec x;
    for (int k = 0; k < VEC; k++) x.v[k] = i + k >= 0 && i + k < n ? float(row[i + k]) : 0.0f;
    return x;
}

template <typename E> FN Raw<E> load_raw_weight(GLOBAL const E* row, int i, int n) {
    if (ALIGNED == 2) return load_raw(row, i, n);
    const Vec v = load_weight(row, i, n);
    Raw<E> x;
    constexpr int PER = 4 / sizeof(E);
    for (int k = 0; k < VEC; k += PER) x.w[k / PER] = pack(E(), v.v[k], v.v[k + PER - 1]);
    return x;
}

template <typename E> FN void store(GLOBAL E* row, int i, int n, Vec x) {
    if (ALIGNED == 2 ? i < n : ALIGNED == 1 && i >= 0 && i + VEC <= n) {
        for (int k = 0; k < VEC; k += 16 / sizeof(E)) store_16(row + i + k, x.v + k);
    } else if (ALIGNED != 2) {
        for (int k = 0; k < VEC; k++)
            if (i + k >= 0 && i + k < n) row[i + k] = E(x.v[k]);
    }
}

#ifdef ROW_THREADS

// Vectors that a thread of a long row has in flight.
constexpr SCOPE uint FLIGHT = 4;

struct Run {
    Vec v[FLIGHT];
};

// Slots s to s + FLIGHT of a row: all loads are made before one is waited for.
template <typename E> FN Run load_run(GLOBAL const E* row, uint s, int phase, int n, float fill) {
    Run run;
    if (ALIGNED != 0 && (s > 0 || phase == 0) && int((s + FLIGHT) * ROW_THREADS * VEC) - phase <= n) {
        // The run of every thread lies within the row.
        constexpr int PER = 16 / sizeof(E), PACKS = VEC / PER;
        Pack<E> packs[FLIGHT * PACKS];
        for (int u = 0; u < int(FLIGHT) * PACKS; u++)
            packs[u] = *(GLOBAL const Pack<E>*)(row + slot(s + u / PACKS, phase) + u % PACKS * PER);
        for (int u = 0; u < int(FLIGHT) * PACKS; u++)
            for (int k = 0; k < PER; k++) run.v[u / PACKS].v[u % PACKS * PER + k] = float(packs[u].e[k]);
    } else {
        for (uint u = 0; u < FLIGHT; u++) run.v[u] = load(row, slot(s + u, phase), n, fill);
    }
    return run;
}

#endif
#endif

#ifdef UNROLL

// In a kernel over pieces, a group has PIECE elements of a row, or the last ones of it: UNROLL vectors a thread.
constexpr SCOPE uint PIECE = GROUP_SIZE * VEC * UNROLL;

// Rows of `cols` elements, each in `per_row` pieces.
struct Pieces {
    ulong cols;
    uint per_row;
    uint unused;
};

FN ulong piece_row(Pieces p) { return group_id() / p.per_row; }

// The column that this group's piece begins at.
FN ulong piece_start(Pieces p) { return ulong(group_id() % p.per_row) * PIECE; }

// Elements of the piece that begins at `start`.
FN int piece_size(Pieces p, ulong start) { return p.cols - start < PIECE ? int(p.cols - start) : int(PIECE); }

// Where in the piece vector u of a thread begins.
FN int piece_slot(uint u) { return int((u * GROUP_SIZE + thread_id()) * VEC); }

#endif
