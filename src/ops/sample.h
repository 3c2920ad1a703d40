// The next token of each row of logits, one group a row: the order of generate/sampler.rs.
//
//   s = (x - max x) / temperature    w = exp(s)    keep the top k, then the top p, then w >= min_p
//   draw: the first token, by id, at which the sum of w passes uniform · (sum of all w)
//
// Top-k and top-p need the order of the likeliest tokens only: bins of s tell how far down they reach, those above are
// put into a list in group memory, and a token's rank is found by counting. A list that is too long is left to the
// host. Sums are f32. Each warp reads ids that lie together, 4 a lane.

struct Choice {
    float temperature, top_p, min_p, uniform;
    uint top_k, unused[3];
};

struct Sampling {
    uint vocab, rows;
};

// What stands for a log-probability where the host must choose: no number's bits.
constexpr SCOPE uint HOST = 0xffffffffu;

constexpr SCOPE uint WARPS = GROUP_SIZE / WARP;
constexpr SCOPE uint BINS = 8;
constexpr SCOPE uint LISTED = 2048;
constexpr SCOPE uint ROUNDS = 8;

// Vectors that a thread has in flight.
constexpr SCOPE uint FLIGHT_4 = 4;
constexpr SCOPE uint STRIDE = 4 * WARP, STEP = FLIGHT_4 * STRIDE;

struct ALIGNED_16 Four {
    float v[4];
};

// Logits i.. of a row of n.
FN Four four(GLOBAL const float* x, uint i, uint n) {
    Four y;
#if PACKED
    y = *(GLOBAL const Four*)(x + i);
#else
    for (uint k = 0; k < 4; k++) y.v[k] = i + k < n ? x[i + k] : -inf32();
#endif
    return y;
}

struct Flight {
    Four v[FLIGHT_4];
};

// The vectors of a thread from element i on, before `last`; -inf after it.
FN Flight flight(GLOBAL const float* x, uint i, uint last) {
    Flight y;
    for (uint u = 0; u < FLIGHT_4; u++) {
        if (i + u * STRIDE < last)
            y.v[u] = four(x, i + u * STRIDE, last);
        else
            for (uint k = 0; k < 4; k++) y.v[u].v[k] = -inf32();
    }
    return y;
}

// Where part number `part` of n elements begins, in `parts` parts of whole vectors.
FN uint bound(uint n, uint parts, uint part) {
    const uint each = (n + parts * 4 - 1) / (parts * 4) * 4;
    return each * part < n ? each * part : n;
}

FN float score(float x, float top, float cold) { return x == top ? 0.0f : (x - top) * cold; }

// The weight of a token that may be drawn, or 0.
FN float weight(float s, float min_p) {
    const float w = exp_below(s);
    return w >= min_p ? w : 0.0f;
}

// The least v of the group; below 2^24.
FN uint group_least(uint v, SHARED_PTR(float) scratch) { return uint(-group_max(-float(v), scratch)); }

constexpr SCOPE uint NONE = 0xffffffu;

KERNEL void sample(GLOBAL const float* logits, GLOBAL const Choice* choices, GLOBAL uint* out, PARAMS(Sampling) a) {
    SHARED float scratch[MAX_WARPS];
    SHARED float sums[GROUP_SIZE];
    SHARED float list[LISTED];
    SHARED uint ids[LISTED];

    const uint t = thread_id(), lane = t % WARP, warp = t / WARP, vocab = a.vocab;
    GLOBAL const float* x = logits + ulong(group_id()) * vocab;
    const Choice c = choices[group_id()];
    const uint first = bound(vocab, WARPS, warp) + 4 * lane, last = bound(vocab, WARPS, warp + 1);
    // Not infinite for the least temperature: 0 times infinity is no score.
    const float cold = min32(1.0f / c.temperature, 3e38f);

    // The largest logit, where it is first, and the sum of exponentials, for the log-probability.
    float m = -inf32(), l = 0.0f, bad = 0.0f;
    uint best = NONE;
    for (uint i = first; i < last; i += STEP) {
        const Flight xs = flight(x, i, last);
        float most = -inf32();
        for (uint u = 0; u < FLIGHT_4; u++)
            for (uint k = 0; k < 4; k++) {
                const float v = xs.v[u].v[k];
                if (!(v < inf32())) bad = 1.0f;
                if (v > max32(m, most)) best = i + u * STRIDE + k;
                most = max32(most, v);
            }
        if (most > m) {
            l *= exp_below(m - most);
            m = most;
        }
        if (m > -inf32())
            for (uint u = 0; u < FLIGHT_4; u++)
                for (uint k = 0; k < 4; k++) l += exp_below(xs.v[u].v[k] - m);
    }
    const float top = group_max(m, scratch);
    bad = group_sum(bad, scratch);
    const float norm = group_sum(m > -inf32() ? l * exp_below(m - top) : 0.0f, scratch);
    best = group_least(m == top ? best : NONE, scratch);
    uint id = best;
    bool host = bad > 0.0f || !(top > -inf32());

    if (!host && c.temperature > 0.0f && c.top_k == 0 && c.top_p >= 1.0f) {
        // No order is needed: the warp's part, the thread's of that, then the token where the sum passes the target.
        float sum = 0.0f;
        for (uint i = first; i < last; i += STEP) {
            const Flight xs = flight(x, i, last);
            for (uint u = 0; u < FLIGHT_4; u++)
                for (uint k = 0; k < 4; k++) sum += weight(score(xs.v[u].v[k], top, cold), c.min_p);
        }
        sum = warp_sum(sum);
        if (lane == 0) list[warp] = sum;
        barrier();
        float total = 0.0f, before = 0.0f;
        for (uint w = 0; w < WARPS; w++) total += list[w];
        const float target = c.uniform * total;
        uint part = 0;
        while (part + 1 < WARPS && before + list[part] <= target) before += list[part++];
        const uint from = bound(vocab, WARPS, part), n = bound(vocab, WARPS, part + 1) - from;
        sum = 0.0f;
        for (uint i = bound(n, GROUP_SIZE, t); i < bound(n, GROUP_SIZE, t + 1); i++)
            sum += weight(score(x[from + i], top, cold), c.min_p);
        sums[t] = sum;
        sum = warp_sum(sum);
        if (lane == 0) list[WARPS + warp] = sum;
        barrier();
        if (t == 0) {
            for (part = 0; part + 1 < WARPS && before + list[WARPS + part] <= target; part++)
                before += list[WARPS + part];
            for (part *= WARP; part + 1 < GROUP_SIZE && before + sums[part] <= target; part++) before += sums[part];
            // Rounding can leave a crumb, which the likeliest token takes.
            for (uint i = bound(n, GROUP_SIZE, part); i < n; i++) {
                before += weight(score(x[from + i], top, cold), c.min_p);
                if (before > target) {
                    id = from + i;
                    break;
                }
            }
        }
    } else if (!host && c.temperature > 0.0f) {
        // How far down the tokens reach that top-k, or else top-p, can keep: from 0, in bins that become narrower.
        float from = 0.0f, width = 2.0f, count = 0.0f, mass = 0.0f, total = 0.0f, cut = 0.0f, mine = 0.0f;
        bool found = false;
        for (uint round = 0; round < ROUNDS && !found && !host; round++) {
            float counts[BINS], masses[BINS], all = 0.0f;
            for (uint b = 0; b < BINS; b++) counts[b] = masses[b] = 0.0f;
            const float narrow = 1.0f / width;
            for (uint i = first; i < last; i += STEP) {
                const Flight xs = flight(x, i, last);
                for (uint u = 0; u < FLIGHT_4; u++)
                    for (uint k = 0; k < 4; k++) {
                        const float s = score(xs.v[u].v[k], top, cold), w = exp_below(s);
                        const float bin = (from - s) * narrow;
                        all += w;
                        if (bin >= 0.0f && bin < float(BINS))
                            for (uint b = 0; b < BINS; b++) {
                                const bool in = uint(bin) == b;
                                counts[b] += in ? 1.0f : 0.0f;
                                masses[b] += in ? w : 0.0f;
                            }
                    }
            }
            for (uint b = 0; b < BINS; b++) {
                const float n = warp_sum(counts[b]), w = warp_sum(masses[b]);
                if (lane == 0) {
                    sums[warp * 2 * BINS + b] = n;
                    sums[warp * 2 * BINS + BINS + b] = w;
                }
            }
            if (round == 0) total = group_sum(all, scratch);
            barrier();
            if (t < 2 * BINS) {
                float sum = 0.0f;
                for (uint w = 0; w < WARPS; w++) sum += sums[w * 2 * BINS + t];
                list[t] = sum;
            }
            barrier();
            uint b = 0;
            for (; b < BINS; b++) {
                const float n = list[b], w = list[BINS + b];
                // More than enough by rounding's share, so that nothing that is kept is missed.
                const bool reached =
                    c.top_k > 0 ? count + n >= float(c.top_k) : mass + w >= c.top_p * total * 1.00001f;
                if (reached) {
                    found = count + n <= float(LISTED);
                    cut = float(b + 1);
                    break;
                }
                count += n;
                mass += w;
            }
            barrier();
            host = b == BINS;
            for (uint j = 0; j < BINS; j++) mine += j < b || (found && j == b) ? counts[j] : 0.0f;
            if (!found) {
                from -= float(b) * width;
                width /= float(BINS);
            }
        }
        host = host || !found;

        // The list of them: each thread's place is what those before it have.
        sums[t] = mine;
        barrier();
        uint at = 0, n = 0;
        for (uint k = 0; k < GROUP_SIZE; k += WARP) {
            const float part = warp_sum(sums[k + lane]);
            at += k / WARP < warp ? uint(part) : 0;
            n += uint(part);
        }
        for (uint k = 0; k < lane; k++) at += uint(sums[warp * WARP + k]);
        const float narrow = 1.0f / width;
        const uint end = at + uint(mine);
        for (uint i = first; i < last && at < end && !host; i += STEP) {
            const Flight xs = flight(x, i, last);
            for (uint u = 0; u < FLIGHT_4; u++)
                for (uint k = 0; k < 4; k++) {
                    const float s = score(xs.v[u].v[k], top, cold);
                    if ((from - s) * narrow < cut && at < end) {
                        list[at] = s;
                        ids[at++] = i + u * STRIDE + k;
                    }
                }
        }
        // Between two rounds, rounding can put a token into neither's bins.
        host = group_sum(at < end ? 1.0f : 0.0f, scratch) > 0.0f || host;
        barrier();
        n = host ? 0 : n;

        // Each thread has up to two of them.
        constexpr uint MINE = LISTED / GROUP_SIZE;
        float s[MINE];
        if (c.top_k > 0) {
            for (uint j = 0; j < MINE; j++) {
                const uint e = t + j * GROUP_SIZE;
                uint greater = 0;
                s[j] = e < n ? list[e] : -inf32();
                for (uint k = 0; k < n && e < n; k++) greater += list[k] > s[j] ? 1 : 0;
                if (greater >= c.top_k) s[j] = -inf32();
            }
            barrier();
            total = 0.0f;
            for (uint j = 0; j < MINE; j++) {
                const uint e = t + j * GROUP_SIZE;
                if (e < n) list[e] = s[j];
                total += exp_below(s[j]);
            }
            total = group_sum(total, scratch);
        }
        barrier();
        for (uint j = 0; j < MINE; j++) {
            const uint e = t + j * GROUP_SIZE;
            float above = 0.0f;
            s[j] = e < n ? list[e] : -inf32();
            for (uint k = 0; k < n && e < n; k++)
                above += list[k] > s[j] || (list[k] == s[j] && ids[k] < ids[e]) ? exp_below(list[k]) : 0.0f;
            if (c.top_p < 1.0f && above > 0.0f && above / total >= c.top_p) s[j] = -inf32();
        }
        barrier();
        total = 0.0f;
        for (uint j = 0; j < MINE; j++) {
            const uint e = t + j * GROUP_SIZE;
            // From here on the list has weights.
            const float w = weight(s[j], c.min_p);
            if (e < n) list[e] = w;
            total += w;
        }
        const float target = c.uniform * group_sum(total, scratch);
        barrier();
        uint next = NONE;
        for (uint j = 0; j < MINE; j++) {
            const uint e = t + j * GROUP_SIZE;
            float until = 0.0f;
            for (uint k = 0; k < n && e < n; k++) until += ids[k] <= ids[e] ? list[k] : 0.0f;
            if (e < n && list[e] > 0.0f && until > target && ids[e] < next) next = ids[e];
        }
        next = group_least(next, scratch);
        if (next != NONE) id = next;
    }
    if (t == 0) {
        // An id of the vocabulary in either case: a pass over it may have begun before the host knows.
        out[group_id()] = id;
        out[a.rows + group_id()] = host ? HOST : bits32(x[id] - top - log32(norm));
    }
}
