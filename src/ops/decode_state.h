// Decoding's counters: a row's keys end one later, and its position is one more.

struct Advance {
    uint rows;
};

KERNEL void decode_advance(GLOBAL uint* state, PARAMS(Advance) a) {
    const uint row = group_id() * GROUP_SIZE + thread_id();
    if (row < a.rows) {
        state[a.rows + 2 * row + 1] += 1;
        state[3 * a.rows + row] += 1;
    }
}
