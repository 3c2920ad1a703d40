// What gates: f is silu, or gelu (GELU) in its tanh approximation.

constexpr SCOPE float SQRT_2_OVER_PI = 0.7978846f;

// f(a), and f'(a).
FN Pair activate(float a) {
    Pair f;
    if (GELU) {
        const float u = SQRT_2_OVER_PI * a * fma32(0.044715f * a, a, 1.0f);
        // (1 - tanh |u|) / 2, to full relative precision: neither 1 + tanh nor 1 - tanh^2 is taken by difference.
        const float tail = rcp32(exp32(2.0f * abs32(u)) + 1.0f);
        const float phi = u < 0.0f ? tail : 1.0f - tail;
        const float slope = SQRT_2_OVER_PI * fma32(3.0f * 0.044715f * a, a, 1.0f);
        // Where the tail is 0, a slope may be infinite.
        f.a = phi == 0.0f ? 0.0f : a * phi;
        f.b = phi + (tail == 0.0f ? 0.0f : 2.0f * a * slope * (tail * (1.0f - tail)));
    } else {
        const float s = rcp32(1.0f + exp32(-a));
        f.a = s == 0.0f ? 0.0f : a * s;
        f.b = fma32(f.a, 1.0f - s, s);
    }
    return f;
}
