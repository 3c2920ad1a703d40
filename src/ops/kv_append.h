// Writes keys and values (B, T, width) into caches (B, capacity, width) from position `at` on, both in one launch.
// A copy moves STEP elements at a time: a vector of 16 bytes, or one. Numbers of Append are in such steps.

struct ALIGNED_16 Sixteen {
    uint words[4];
};

#if STEP == 1
typedef T Unit;
#else
typedef Sixteen Unit;
#endif

struct Append {
    uint len, width, rows;
    uint capacity, at;        // at: where the first token goes, unless `ranges` tells
    uint k_stride, v_stride;  // from a token to the next
};

KERNEL void kv_append(GLOBAL const Unit* k, GLOBAL const Unit* v, GLOBAL Unit* keys, GLOBAL Unit* values,
                      GLOBAL const uint* ranges, PARAMS(Append) a) {
    const uint row = group_id(), b = row / a.len;
#if RANGES
    // The keys of each row, of which this is the last.
    const uint at = ranges[2 * b + 1] - 1;
#else
    const uint at = a.at;
#endif
    const ulong to = (ulong(b) * a.capacity + at + row % a.len) * a.width;
    GLOBAL const Unit* from = group_id_y() == 0 ? k + ulong(row) * a.k_stride : v + ulong(row) * a.v_stride;
    GLOBAL Unit* into = (group_id_y() == 0 ? keys : values) + to;
    for (uint i = thread_id(); i < a.width; i += GROUP_SIZE) into[i] = from[i];
}
