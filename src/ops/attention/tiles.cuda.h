// Attention over matrix units: tiles in shared memory, fragments, products. Half precision only.

typedef Element Half;

#if BF16
#define ELEMENT "bf16"
#else
#define ELEMENT "f16"
#endif

// The head size in shared memory, and the length of a row there: 16 bytes more, so that the eight rows an ldmatrix
// reads lie in different banks.
constexpr int DP = (D + 15) / 16 * 16;
constexpr int LD = DP + 8;
constexpr int CHUNKS = DP / 8;

// Two floats as a pair, `a` in the lower half.
DEVICE unsigned pack(float a, float b) {
    unsigned v;
    asm("cvt.rn." ELEMENT "x2.f32 %0, %1, %2;" : "=r"(v) : "f"(b), "f"(a));
    return v;
}

DEVICE unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

DEVICE void copy_async(unsigned to, const void* from, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEVICE void wait_for() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Rows `first..` of a tensor to shared memory; zeros from row `end` on and beyond the head. THREADS take part, of
// which this is thread `t`.
template <int ROWS, int THREADS>
DEVICE void load_rows(Half* to, const Half* from, u64 stride, int first, int end, int t) {
#if ALIGNED
    if constexpr (THREADS % CHUNKS == 0) {
        constexpr int STEP = THREADS / CHUNKS;
        const int row = t / CHUNKS, chunk = t % CHUNKS;
        const bool column = chunk * 8 < D;
        const Half* source = from + (first + row) * stride + chunk * 8;
        unsigned target = shared_address(to) + (row * LD + chunk * 8) * 2;
#pragma unroll
        for (int r = 0; r < ROWS; r += STEP) {
            if (ROWS % STEP == 0 || r + row < ROWS) {
                const bool valid = column && first + row + r < end;
                copy_async(target, valid ? source : from, valid);
            }
            source += STEP * stride;
            target += STEP * LD * 2;
        }
    } else {
        for (int i = t; i < ROWS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const bool valid = chunk * 8 < D && first + row < end;
            const Half* source = valid ? from + (first + row) * stride + chunk * 8 : from;
            copy_async(shared_address(to) + (row * LD + chunk * 8) * 2, source, valid);
        }
    }
#else
    for (int i = t; i < ROWS * DP; i += THREADS) {
        const int row = i / DP, column = i % DP;
        const bool valid = column < D && first + row < end;
        to[row * LD + column] = valid ? from[(first + row) * stride + column] : (Half)0;
    }
#endif
}

DEVICE void ldmatrix(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
DEVICE void ldmatrix_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
DEVICE void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." ELEMENT "." ELEMENT
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where a lane reads: 16 x 16 of a left operand, or of a right one that is transposed on the way; and of a right
// operand whose rows are its columns.
DEVICE unsigned left_address(const Half* tile) {
    const int lane = threadIdx.x % 32;
    return shared_address(tile) + (lane % 16 * LD + lane / 16 * 8) * 2;
}
DEVICE unsigned right_address(const Half* tile) {
    const int lane = threadIdx.x % 32;
    return shared_address(tile) + ((lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8) * 2;
}

// A warp's 16 M rows as left operands, from shared memory each time or held in registers.
template <int M, bool H>
struct Left {
    unsigned address;
    unsigned held[H ? M : 1][H ? DP / 16 : 1][4];

    DEVICE void take(const Half* tile) {
        address = left_address(tile);
        if constexpr (H) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int k = 0; k < DP / 16; k++) ldmatrix(held[m][k], address + (m * 16 * LD + k * 16) * 2);
        }
    }
    DEVICE void get(unsigned (&r)[4], int m, int k) const {
        if constexpr (H) {
#pragma unroll
            for (int i = 0; i < 4; i++) r[i] = held[m][k][i];
        } else {
            ldmatrix(r, address + (m * 16 * LD + k * 16) * 2);
        }
    }
};

// c = a bᵀ, the rows of `b` (N of them) in shared memory.
template <int M, int N, bool H>
DEVICE void scores(float (&c)[M][N / 8][4], const Left<M, H>& a, const Half* b) {
    const unsigned address = right_address(b);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) c[m][n][e] = 0;
#pragma unroll
    for (int k = 0; k < DP / 16; k++) {
        unsigned left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) a.get(left[m], m, k);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            unsigned right[4];
            ldmatrix(right, address + (n * 16 * LD + k * 16) * 2);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(c[m][2 * n], left[m], right[0], right[1]);
                mma(c[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// Scores as left operands, rounded.
template <int M, int N>
DEVICE void as_left(unsigned (&a)[M][N / 16][4], const float (&s)[M][N / 8][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int k = 0; k < N / 16; k++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                a[m][k][e] = pack(s[m][2 * k + e / 2][e % 2 * 2], s[m][2 * k + e / 2][e % 2 * 2 + 1]);
}

// Scores, rounded, to shared memory: rows of `length` elements.
template <int M, int N>
DEVICE void put(Half* to, int length, const float (&s)[M][N / 8][4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
                *(unsigned*)(to + (m * 16 + r * 8 + lane / 4) * length + n * 8 + lane % 4 * 2) =
                    pack(s[m][n][2 * r], s[m][n][2 * r + 1]);
}

// c += a b for 16 rows of `b` in shared memory, of which c has C columns.
template <int M, int C>
DEVICE void accumulate_step(float (&c)[M][C / 8][4], const unsigned (&a)[M][4], unsigned address) {
#pragma unroll
    for (int n = 0; n < C / 16; n++) {
        unsigned right[4];
        ldmatrix_transposed(right, address + n * 16 * 2);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma(c[m][2 * n], a[m], right[0], right[1]);
            mma(c[m][2 * n + 1], a[m], right[2], right[3]);
        }
    }
}

// c += a b, the rows of `b` (N of them) in shared memory, `a` made by `as_left` ...
template <int M, int N, int C>
DEVICE void accumulate(float (&c)[M][C / 8][4], const unsigned (&a)[M][N / 16][4], const Half* b) {
    const unsigned address = left_address(b);
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        unsigned left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) left[m][e] = a[m][k][e];
        accumulate_step<M, C>(c, left, address + k * 16 * LD * 2);
    }
}
// ... or in shared memory, as `put` left it.
template <int M, int N, int C>
DEVICE void accumulate(float (&c)[M][C / 8][4], const Half* a, int length, const Half* b) {
    const int lane = threadIdx.x % 32;
    const unsigned address = left_address(b), from = shared_address(a) + (lane % 16 * length + lane / 16 * 8) * 2;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        unsigned left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) ldmatrix(left[m], from + (m * 16 * length + k * 16) * 2);
        accumulate_step<M, C>(c, left, address + k * 16 * LD * 2);
    }
}

template <int M, int N>
DEVICE void clear(float (&c)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) c[m][n][e] = 0;
}

// A warp's C columns, from `column` on, of 16 M rows, `factor` times, to rows `first..end` of a tensor. `tile` is where
// those elements are in shared memory that only this warp uses.
template <int M, int C>
DEVICE void store_rows(const float (&c)[M][C / 8][4], const float (&factor)[M][2], Half* tile, Half* to, u64 stride,
                       int first, int end, int column = 0) {
    const int lane = threadIdx.x % 32;
    tile += column;
    to += column;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int n = 0; n < C / 8; n++) {
                unsigned* at = (unsigned*)(tile + (m * 16 + r * 8 + lane / 4) * LD + n * 8 + lane % 4 * 2);
                *at = pack(c[m][n][2 * r] * factor[m][r], c[m][n][2 * r + 1] * factor[m][r]);
            }
    __syncwarp();
#if ALIGNED
    for (int i = lane; i < 16 * M * (C / 8); i += 32) {
        const int row = i / (C / 8), chunk = i % (C / 8);
        if (first + row < end && column + chunk * 8 < D)
            *(uint4*)(to + (first + row) * stride + chunk * 8) = *(const uint4*)(tile + row * LD + chunk * 8);
    }
#else
    for (int i = lane; i < 16 * M * C; i += 32) {
        const int row = i / C, d = i % C;
        if (first + row < end && column + d < D) to[(first + row) * stride + d] = tile[row * LD + d];
    }
#endif
    __syncwarp();
}
