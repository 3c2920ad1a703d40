// f32 tensors that lie anywhere, one after the other in T.

struct Cast {
    ulong from, to, len;
};

struct Casting {
    uint unused;
};

// A group has one piece.
KERNEL void cast_all(GLOBAL const Cast* pieces, GLOBAL T* y, PARAMS(Casting) a) {
    const Cast piece = pieces[group_id()];
    GLOBAL const float* x = (GLOBAL const float*)piece.from;
    y += piece.to;
    for (uint i = thread_id(); i < uint(piece.len); i += GROUP_SIZE) y[i] = T(x[i]);
}
