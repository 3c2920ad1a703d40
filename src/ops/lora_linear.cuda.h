// The update's wide product on matrix units, f16 and bf16: it costs no more than its writes.
//
// A contraction does not mind the order of its terms, nor a product that of its columns. So a thread loads ranks that
// lie together for the ones that the instruction's layout names, and the columns it gets are 16 bytes that lie together.

struct ALIGNED_16 Four {
    uint e[4];
};
struct __align__(8) Two {
    uint e[2];
};

FN uint pair(float low, float high, bf16) {
    uint v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}
FN uint pair(float low, float high, f16) {
    uint v;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}

// c += a b, of 16 x 16 by 16 x 8.
FN void mma(float (&c)[4], Two top, Two bottom, Two b, bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(top.e[0]), "r"(bottom.e[0]), "r"(top.e[1]), "r"(bottom.e[1]), "r"(b.e[0]), "r"(b.e[1]));
}
FN void mma(float (&c)[4], Two top, Two bottom, Two b, f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(top.e[0]), "r"(bottom.e[0]), "r"(top.e[1]), "r"(bottom.e[1]), "r"(b.e[0]), "r"(b.e[1]));
}

struct Up {
    uint rows, cols, rank;
    uint by_rank, by_col;
    uint t_stride;
    // Where the second and the third part of the columns begin, each with `rank` columns of t of its own.
    uint second, third;
    float scale[3];
};

// y = scale t fᵀ + bias + onto: t is rows x rank, y and onto rows x cols, cols a multiple of 8 and the rank of 4. f's
// element of a column and a rank is at column * by_col + rank * by_rank. A warp has 32 columns of a group's ROWS rows, and
// parts begin at its multiples. R16 = the sixteens of the rank.
KERNEL void lora_up(const T* __restrict__ t, const W* __restrict__ f, const BIAS_T* __restrict__ bias,
                    const T* __restrict__ onto, T* y, PARAMS(Up) p) {
    const uint quad = threadIdx.x % 32 / 4, in_quad = threadIdx.x % 4;
    const uint first_col = (blockIdx.y * (GROUP_SIZE / 32) + threadIdx.x / 32) * 32;
    const uint part = uint(first_col >= p.second) + uint(first_col >= p.third);
    const float scale = part == 0 ? p.scale[0] : part == 1 ? p.scale[1] : p.scale[2];
    t += part * p.rank;
    Two b[R16][4];
#pragma unroll
    for (int k = 0; k < R16; k++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const uint col = first_col + quad / 2 * 8 + n * 2 + quad % 2, r = k * 16 + in_quad * 4;
            const W* from = f + ulong(col) * p.by_col + ulong(r) * p.by_rank;
            float v[4];
            for (int j = 0; j < 4; j++) v[j] = col < p.cols && r < p.rank ? float(from[j * p.by_rank]) : 0.0f;
            b[k][n].e[0] = pair(v[0], v[1], T());
            b[k][n].e[1] = pair(v[2], v[3], T());
        }
    const uint col = first_col + in_quad * 8;
    float add[8];
    for (int j = 0; j < 8; j++) add[j] = BIAS && col < p.cols ? float(bias[col + j]) : 0.0f;
#pragma unroll
    for (uint m = 0; m < ROWS; m += 16) {
        const uint top = blockIdx.x * ROWS + m + quad, bottom = top + 8;
        float c[4][4] = {};
#pragma unroll
        for (int k = 0; k < R16; k++) {
            const uint r = k * 16 + in_quad * 4;
            Two above = {}, below = {};
            if (top < p.rows && r < p.rank) above = *(const Two*)(t + ulong(top) * p.t_stride + r);
            if (bottom < p.rows && r < p.rank) below = *(const Two*)(t + ulong(bottom) * p.t_stride + r);
#pragma unroll
            for (int n = 0; n < 4; n++) mma(c[n], above, below, b[k][n], T());
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint row = top + half * 8;
            if (row >= p.rows || col >= p.cols) continue;
            const ulong at = ulong(row) * p.cols + col;
            float sum[8];
#pragma unroll
            for (int j = 0; j < 8; j++) sum[j] = fmaf(c[j / 2][half * 2 + j % 2], scale, add[j]);
            if (ONTO) {
                struct ALIGNED_16 Eight {
                    T e[8];
                };
                const Eight before = *(const Eight*)(onto + at);
#pragma unroll
                for (int j = 0; j < 8; j++) sum[j] += float(before.e[j]);
            }
            Four out;
#pragma unroll
            for (int n = 0; n < 4; n++) out.e[n] = pair(sum[n * 2], sum[n * 2 + 1], T());
            *(Four*)(y + at) = out;
        }
    }
}
