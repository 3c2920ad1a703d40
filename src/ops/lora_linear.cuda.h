// The skinny products of a low-rank update on matrix units, f16 and bf16: x is read once at the speed of memory.
//
// A contraction does not mind the order of its terms. So a thread loads 16 bytes that lie together, and both operands
// of an mma take them for the elements that the instruction's layout names; the same holds for columns that are stored.

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
FN void mma(float (&c)[4], uint a0, uint a1, uint a2, uint a3, uint b0, uint b1, bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
FN void mma(float (&c)[4], uint a0, uint a1, uint a2, uint a3, uint b0, uint b1, f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <typename V> FN V load_if(bool inside, const void* p) {
    V v = {};
    if (inside) v = *(const V*)p;
    return v;
}

// Copies to group memory that are under way while the thread computes. Each thread reads what it copied itself.
template <int BYTES> FN void copy(void* to, const void* from, bool inside) {
    const uint at = uint(__cvta_generic_to_shared(to)), size = inside ? BYTES : 0;
    if (BYTES == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(size));
    else asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at), "l"(from), "r"(size));
}
FN void close_stage() { asm volatile("cp.async.commit_group;"); }
template <int LATER> FN void wait_for_stage() { asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory"); }

constexpr int WARPS = GROUP_SIZE / 32;

struct Skinny {
    uint rows, cols, rank;
    uint padded;  // the stride of a transpose, a multiple of 16
    uint step;    // rows of a group along y
    uint by_rank, by_col;
    float scale;
};

// The lane's place in the instruction's layout.
FN int quad() { return threadIdx.x % 32 / 4; }
FN int in_quad() { return threadIdx.x % 4; }

#if defined(DOWN)

// t = scale x aᵀ and its transpose: x is rows x cols, a rank x cols, cols a multiple of 8. A group has 16 MT rows, its
// warps take blocks of 32 columns in turn, DEPTH - 1 of them ahead. R8 = the eights of the rank. Rows beyond the last
// are the last again: no one looks at what becomes of them.
KERNEL void lora_down(const T* __restrict__ x, const T* __restrict__ a, T* t, T* transpose, PARAMS(Skinny) p) {
    extern __shared__ Four staged[];  // DEPTH x (2 MT + R8) x GROUP_SIZE
    __shared__ float sums[WARPS][16 * MT][8 * R8];
    constexpr int ALL = 2 * MT + R8;
    const int warp = threadIdx.x / 32, q = quad(), i = in_quad();
    const uint first = blockIdx.x * 16 * MT;
    const T* rows[ALL];
    for (int m = 0; m < 2 * MT; m++) rows[m] = x + ulong(min(first + m * 8 + q, p.rows - 1)) * p.cols;
    for (int n = 0; n < R8; n++) rows[2 * MT + n] = a + ulong(min(uint(n * 8 + q), p.rank - 1)) * p.cols;
    const auto stage = [&](uint block) {
        const uint col = (block * WARPS + warp) * 32 + i * 8;
        for (int j = 0; j < ALL; j++) {
            Four* to = &staged[(block % DEPTH * ALL + j) * GROUP_SIZE + threadIdx.x];
            copy<16>(to, rows[j] + (col < p.cols ? col : 0), col < p.cols);
        }
    };
    const uint blocks = (p.cols + WARPS * 32 - 1) / (WARPS * 32);
    for (uint block = 0; block < DEPTH - 1; block++) {
        if (block < blocks) stage(block);
        close_stage();
    }
    float c[MT][R8][4] = {};
    for (uint block = 0; block < blocks; block++) {
        wait_for_stage<DEPTH - 2>();
        Four v[ALL];
        for (int j = 0; j < ALL; j++) v[j] = staged[(block % DEPTH * ALL + j) * GROUP_SIZE + threadIdx.x];
        if (block + DEPTH - 1 < blocks) stage(block + DEPTH - 1);
        close_stage();
#pragma unroll
        for (int h = 0; h < 4; h += 2)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < R8; n++) {
                    const Four &top = v[2 * m], &bottom = v[2 * m + 1], &w = v[2 * MT + n];
                    mma(c[m][n], top.e[h], bottom.e[h], top.e[h + 1], bottom.e[h + 1], w.e[h], w.e[h + 1], T());
                }
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < R8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[warp][m * 16 + e / 2 * 8 + q][n * 8 + i * 2 + e % 2] = c[m][n][e];
    __syncthreads();
    for (uint j = threadIdx.x; j < 16 * MT * p.rank; j += GROUP_SIZE) {
        const uint row = j % (16 * MT), r = j / (16 * MT);
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += sums[w][row][r];
        if (first + row < p.rows) t[ulong(first + row) * p.rank + r] = T(sum * p.scale);
        if (first + row < p.padded)
            transpose[ulong(r) * p.padded + first + row] = T(first + row < p.rows ? sum * p.scale : 0.0f);
    }
}

#elif defined(UP)

// y = scale t fᵀ + bias, columns a multiple of 8 and the rank of 4. f's element of a column and a rank is at
// column * by_col + rank * by_rank. A warp has 32 columns. R16 = the sixteens of the rank.
KERNEL void lora_up(
    const T* __restrict__ t, const W* __restrict__ f, const BIAS_T* __restrict__ bias, T* y, PARAMS(Skinny) p) {
    const int warp = threadIdx.x / 32, q = quad(), i = in_quad();
    const uint first_col = (blockIdx.x * WARPS + warp) * 32;
    uint b[R16][4][2];
#pragma unroll
    for (int k = 0; k < R16; k++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const uint col = first_col + q / 2 * 8 + n * 2 + q % 2, r = k * 16 + i * 4;
            float v[4];
            for (int j = 0; j < 4; j++)
                v[j] = col < p.cols && r + j < p.rank ? float(f[ulong(col) * p.by_col + ulong(r + j) * p.by_rank]) : 0.0f;
            b[k][n][0] = pair(v[0], v[1], T());
            b[k][n][1] = pair(v[2], v[3], T());
        }
    const uint col = first_col + i * 8;
    float add[8];
    for (int j = 0; j < 8; j++) add[j] = BIAS && col < p.cols ? float(bias[col + j]) : 0.0f;
    const uint begin = blockIdx.y * p.step, end = min(begin + p.step, p.rows);
    for (uint m = begin; m < end; m += 16) {
        float c[4][4] = {};
        const uint top = m + q, bottom = m + 8 + q;
#pragma unroll
        for (int k = 0; k < R16; k++) {
            const uint r = k * 16 + i * 4;
            const Two a = load_if<Two>(top < end && r < p.rank, t + ulong(top) * p.rank + r);
            const Two d = load_if<Two>(bottom < end && r < p.rank, t + ulong(bottom) * p.rank + r);
#pragma unroll
            for (int n = 0; n < 4; n++) mma(c[n], a.e[0], d.e[0], a.e[1], d.e[1], b[k][n][0], b[k][n][1], T());
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint row = m + half * 8 + q;
            Four out;
#pragma unroll
            for (int n = 0; n < 4; n++)
                out.e[n] = pair(fmaf(c[n][half * 2], p.scale, add[n * 2]),
                                fmaf(c[n][half * 2 + 1], p.scale, add[n * 2 + 1]), T());
            if (row < end && col < p.cols) *(Four*)(y + ulong(row) * p.cols + col) = out;
        }
    }
}

#elif defined(OUTER)

// partial[part] = tᵀ x over the part's rows, rank x cols, cols a multiple of 8. The transpose of t is given, with zeros
// up to a multiple of 16 rows. A group has 64 columns, its warps take blocks of 16 rows in turn, DEPTH - 1 of them ahead.
KERNEL void lora_outer(const T* __restrict__ x, const T* __restrict__ transpose, float* partial, PARAMS(Skinny) p) {
    extern __shared__ Four staged[];  // DEPTH x 4 x GROUP_SIZE, then DEPTH x R16 x GROUP_SIZE of two halves
    __shared__ float sums[WARPS][16][64];
    const int warp = threadIdx.x / 32, q = quad(), i = in_quad();
    const uint first_col = blockIdx.x * 64;
    const uint begin = blockIdx.y * p.step, end = min(begin + p.step, p.rows);
    Two* low = (Two*)(staged + DEPTH * 4 * GROUP_SIZE);
    const T* factors[2 * R16];
    for (int k = 0; k < 2 * R16; k++) factors[k] = transpose + ulong(min(uint(k * 8 + q), p.rank - 1)) * p.padded;
    x += min(first_col + q * 8, p.cols - 8);
    const auto stage = [&](uint block) {
        const uint row = begin + (block * WARPS + warp) * 16 + i * 4;
        for (int j = 0; j < 4; j++) {
            const bool inside = row + j < end;
            Four* to = &staged[(block % DEPTH * 4 + j) * GROUP_SIZE + threadIdx.x];
            copy<16>(to, x + (inside ? ulong(row + j) * p.cols : 0), inside);
        }
        for (int k = 0; k < 2 * R16; k++) {
            Two* to = &low[(block % DEPTH * 2 * R16 + k) * GROUP_SIZE + threadIdx.x];
            copy<8>(to, factors[k] + (row < end ? row : 0), row < end);
        }
    };
    const uint rows = end - begin, blocks = (rows + WARPS * 16 - 1) / (WARPS * 16);
    for (uint block = 0; block < DEPTH - 1; block++) {
        if (block < blocks) stage(block);
        close_stage();
    }
    float c[R16][8][4] = {};
    for (uint block = 0; block < blocks; block++) {
        wait_for_stage<DEPTH - 2>();
        Four v[4];
        Two a[2 * R16];
        for (int j = 0; j < 4; j++) v[j] = staged[(block % DEPTH * 4 + j) * GROUP_SIZE + threadIdx.x];
        for (int k = 0; k < 2 * R16; k++) a[k] = low[(block % DEPTH * 2 * R16 + k) * GROUP_SIZE + threadIdx.x];
        if (block + DEPTH - 1 < blocks) stage(block + DEPTH - 1);
        close_stage();
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const uint which = n % 2 ? 0x7632 : 0x5410;
            const uint b0 = __byte_perm(v[0].e[n / 2], v[1].e[n / 2], which);
            const uint b1 = __byte_perm(v[2].e[n / 2], v[3].e[n / 2], which);
#pragma unroll
            for (int k = 0; k < R16; k++)
                mma(c[k][n], a[2 * k].e[0], a[2 * k + 1].e[0], a[2 * k].e[1], a[2 * k + 1].e[1], b0, b1, T());
        }
    }
#pragma unroll
    for (int k = 0; k < R16; k++) {
        __syncthreads();
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[warp][e / 2 * 8 + q][(i * 2 + e % 2) * 8 + n] = c[k][n][e];
        __syncthreads();
        for (uint j = threadIdx.x; j < 16 * 64; j += GROUP_SIZE) {
            const uint r = k * 16 + j / 64, to = first_col + j % 64;
            float sum = 0.0f;
            for (int w = 0; w < WARPS; w++) sum += sums[w][j / 64][j % 64];
            if (r < p.rank && to < p.cols) partial[(ulong(blockIdx.y) * p.rank + r) * p.cols + to] = sum;
        }
    }
}

// y = scale times the sum of `step` parts, each rank x cols; y's element of a column and a rank lies as f's does.
KERNEL void lora_total(const float* partial, W* y, PARAMS(Skinny) p) {
    const uint j = blockIdx.x * GROUP_SIZE + threadIdx.x;
    if (j >= p.rank * p.cols) return;
    float sum = 0.0f;
    for (uint part = 0; part < p.step; part++) sum += partial[ulong(part) * p.rank * p.cols + j];
    y[ulong(j % p.cols) * p.by_col + ulong(j / p.cols) * p.by_rank] = W(sum * p.scale);
}

#else

// y, rank x cols, from f as above.
KERNEL void lora_turn(const W* __restrict__ f, T* y, PARAMS(Skinny) p) {
    const uint j = blockIdx.x * GROUP_SIZE + threadIdx.x;
    if (j >= p.rank * p.cols) return;
    y[j] = T(float(f[ulong(j % p.cols) * p.by_col + ulong(j / p.cols) * p.by_rank]));
}

#endif
