#include <metal_stdlib>
using namespace metal;

// Each kernel writes what the test of its name wants.

kernel void literals(device float* y) {
    y[0] = 0.1h;          // rounded once, to half
    y[1] = 1.0bf / 3.0bf; // computed in bfloat
    y[2] = 1.0 / 3 == 1.0f / 3.0f ? 1 : 0; // no double
    y[3] = sizeof(1.0) + sizeof(0x1p3) + 1e1 + 0x1e + 2.;
    y[4] = 1H + 2h;
    y[5] = 1'000;
}

kernel void constructors(device float* y) {
    float2 a = float2(1, 2);
    float4 b(a, 3, 4), c = {5, 6, 7, 8}, d{b.zw, a};
    float4 e[2] = {float4(9), b};
    int4 i = int4(b) + int4(1);       // converted, not reinterpreted
    half4 h = half4(c * 0.5f);
    metal::float3 f = metal::float3(packed_float3(1, 2, 3));
    vec<float, 2> g = vec<float, 2>(h.xy) + metal::vec<float, 2>(1);
    const float4 sum = b + c + d + e[0] + e[1] + float4(i) + float4(h) + float4(f, 0) + float4(g, float2());
    for (int k = 0; k < 4; k++) y[k] = sum[k];
    y[4] = float4{1, 2, 3, 4}.w + float2{a.yx}.x;
    y[5] = uchar4(float4(300.0f)).x + char4(-300.0f).y + (uint)(NAN);  // the nearest, and 0
    bool4 mask = bool4(true, false, true, true);
    y[6] = mask[0] + mask[1] + mask[2] + mask[3];
}

template <typename T, typename T4> void convert(device float* y, float x) {
    T a = (T)x;
    T b = T(x + 1);
    T4 v = (T4)int4(1, 2, 3, 4);
    T4 w = (T4)(T)0.5f;
    T4 u = T4(v.xy, a, b);
    for (int k = 0; k < 4; k++) y[k] = float(v[k] + w[k] + u[k]) * (x < T(0) ? -1 : 1);
}

typedef bfloat storage;

kernel void casts(device float* y) {
    float x = 1.5;
    convert<float, float4>(y, 1.5f);
    convert<half, half4>(y + 4, 1.5f);
    convert<bfloat, vec<bfloat, 4>>(y + 8, 1.5f);
    half h = 1.0009765625h;
    y[12] = (bfloat)h;
    y[13] = static_cast<half>(storage(3.3333f));
    float4 close(1.00001f);
    y[14] = ((float4)(half4)(float4)close.yyyy).x;
    y[15] = (float)static_cast<int4>(float4(2.7)).z;
    y[16] = as_type<float>(as_type<uint>(1.25f));
    y[17] = as_type<float2>(as_type<uint2>(float2(3, 4))).y;
    const float4 z = (float4)(1, 2, 3, 4);  // C++'s comma
    y[18] = z.x;
    y[19] = (-(int4)float4(3.9)).y * 2 + (x - (half)1.5) + (float)(half)0.25 - !(bfloat)h;
    y[20] = sizeof(half4) + (int)float2(1.5).x;
    thread const float* p = (thread const float*)&z;
    y[21] = *p;
}

struct Reader {
    constant float* p;
    float at(uint i) const thread { return p[i]; }
    float at(uint i) const device { return p[i] + 1000; }
};

template <typename T> struct Pointee;
template <typename T> struct Pointee<device T*> {
    typedef T type;
};
template <typename T> struct Pointee<constant T*> {
    typedef T type;
};
template <typename T> struct Pointee<threadgroup T*> {
    typedef T type;
};

struct Pair {
    float a, b;
    Pair() thread = default;
    Pair() threadgroup = default;
    constexpr Pair(float a, float b) thread : a(a), b(b) {}
    constexpr Pair(float x, float y) constant : a{x}, b{y} {}
};

float sum(constant float* values, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += values[i];
    return s;
}
float sum(const device float* x, int count) {
    float s = 0;
    for (int i = 0; i < count; i++) s += x[i];
    return s;
}
float sum(thread const float* x, int count) { return x[0] * count; }

constant float table[3] = {1, 2, 3};
constexpr constant uint N = 4;
static constant constexpr int M = 2;

kernel void spaces(device float* y, constant float* x [[buffer(1)]], device const float* z [[buffer(2)]]) {
    Reader reader = {x};
    y[0] = reader.at(1);
    y[1] = sum(x, 3) + sum(z, 2) + table[2];
    Pointee<device float*>::type v = 2.5;
    y[2] = v + N + M;
    threadgroup Pair pairs[2];
    pairs[0] = Pair(1, 2);
    pairs[1] = pairs[0];
    y[3] = pairs[1].b;
    threadgroup float one, many[N][2];
    threadgroup alignas(32) half aligned[4];
    alignas(64) threadgroup uchar late[4];
    one = 5;
    many[3][1] = one + 1;
    threadgroup float* row = many[3];
    threadgroup float(&rows)[N][2] = many;
    y[4] = row[1] + rows[3][1];
    y[5] = ((ulong)&aligned[0] % 32) + ((ulong)&late[0] % 64);
    y[6] = (device float*)z == z + 0 ? 1 : 0;
}

template <typename T, int n> T shared_sum(T v) {
    threadgroup T values[n];
    for (int i = 0; i < n; i++) values[i] = v;
    T s = 0;
    for (int i = 0; i < n; i++) s += values[i];
    return s;
}

kernel void instantiations(device float* y) {
    y[0] = shared_sum<float, 3>(2);
    y[1] = shared_sum<half, 3>(4);
    y[2] = shared_sum<float, 5>(2);
}

const uint tid [[thread_index_in_threadgroup]];
const uint3 group [[threadgroup_position_in_grid]];
const ushort2 place [[thread_position_in_threadgroup]];
namespace inner {
const uint lanes [[threads_per_simdgroup]];
uint twice(uint tid) { return 2 * tid; }  // a parameter that hides it
}  // namespace inner

struct Holder {
    uint tid;
};

kernel void built_ins(
    device float* y, uint3 at [[thread_position_in_grid]], uint index [[thread_index_in_threadgroup]],
    ushort3 size [[threads_per_threadgroup]], uint width [[thread_execution_width]]) {
    Holder holder = {7};
    y[0] = tid * 2 + tid % 2;
    y[1] = group.y + group.zx.y;
    y[2] = place.y;
    y[3] = inner::twice(3) + holder.tid;
    y[4] = at.x + at.y * 10 + at.z * 100 + index;
    y[5] = size.x * size.y + width;
    uint tid = 40;
    y[6] = tid + inner::lanes;
}

struct Box {
    float v;
    friend bool operator<(Box a, Box b) { return a.v < b.v; }
    operator float() const { return v; }
    float operator()(float x) const { return v * x; }
    Box operator=(float x) {
        v = x;
        return *this;
    }
};

template <typename Op> float apply(Op op, float x) { return op(x); }

kernel void classes(device float* y) {
    Box a = {2}, b = {3};
    y[0] = a < b && !(b < a);
    y[1] = apply(a, 4) + float(b);
    a = 5;
    y[2] = a;
_Pragma("clang loop unroll(full)") for (int i = 0; i < 3; i++) y[3] = i;
#pragma unroll
    for (int i = 0; i < 3; i++) { y[3] += i; }
    [[unroll]] for (int i = 0; i < 2; i++) y[3] += 1;
#pragma METAL fp contract(off)
    y[4] = M_PI_F > 3 ? INFINITY : NAN;
#if defined(INFINITY) && defined(__METAL__) && __METAL_VERSION__ >= 310 && !defined(NOTHING)
    y[5] = LIMIT;
#endif
}
