"""The MLX worker: its fused ops where it has them, the fastest way we know elsewhere.

`mlx_worker.py cpu|gpu`. Speaks the protocol of benches/worker/protocol.rs. MLX is lazy and gives no access to events
or graphs: `back_to_back` is a row of results by the host's clock, evaluated at once or begun a few at a time while
the next are described, whichever is faster.
"""

import gc
import os
import sys
import time

os.environ["MLX_ENABLE_TF32"] = "0"  # f32 is f32 for everybody.

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from protocol import Cases, lora_factors, serve, spread

mx.set_default_device(getattr(mx, sys.argv[1]))
DTYPES = {"f32": mx.float32, "bf16": mx.bfloat16, "f16": mx.float16}
EPS = 1e-5
LORA_SCALE = 2.0
TEMPERATURE = 0.8
CHUNK = 1 << 27
BATCH_US, MOST_CALLS, MOST_BYTES = 4000, 200, 8e9


def noise(seed, std, shape, dtype):
    """The noise of cases.rs, computed on the device."""
    count, parts = int(np.prod(shape)), []
    constant = lambda x: mx.array(x, dtype=mx.uint32)
    for start in range(0, count, CHUNK):
        h = mx.arange(start, min(count, start + CHUNK), dtype=mx.uint32) ^ constant(seed * 0x9E3779B9 & 0xFFFFFFFF)
        h = (h ^ (h >> constant(16))) * constant(0x7FEB352D)
        h = (h ^ (h >> constant(15))) * constant(0x846CA68B)
        h = h ^ (h >> constant(16))
        values = (h >> constant(8)).astype(mx.float32) / 8388608 - 1
        parts.append((values * float(spread(std))).astype(DTYPES[dtype]))
        mx.eval(parts)
    return mx.concatenate(parts).reshape(shape) if len(parts) > 1 else parts[0].reshape(shape)


def targets(rows, classes):
    return mx.arange(rows) * 7919 % classes


def cross_entropy(x, t):
    return nn.losses.cross_entropy(x, t, reduction="mean")


def lora(x, w, a, b):
    return x @ w.T + ((x @ a.T) @ b.T * LORA_SCALE).astype(x.dtype)


def rope(x, cos, sin):
    """MLX's own makes its angles itself and takes none: this one is for the comparison of results."""
    a, b = mx.split(x, 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def op(case):
    """The arrays that have gradients, the function of them, and whether it pays to compile it."""
    name, s, d = case["op"], case["shape"], case["dtype"]
    new = lambda seed, std, shape: noise(seed, std, shape, d)
    x = lambda std=1.0: new(0, std, s)
    like = lambda seed: new(seed, 1.0, s)
    width = lambda seed: new(seed, 1.0, s[-1:])
    if name == "softmax":
        return [x(2.0)], lambda x: mx.softmax(x, -1), False
    if name == "log_softmax":
        return [x(2.0)], lambda x: x - mx.logsumexp(x, -1, keepdims=True), True
    if name == "rms_norm":
        return [x(), width(1)], lambda x, w: mx.fast.rms_norm(x, w, EPS), False
    if name == "add_rms_norm":

        def add_rms_norm(x, r, w):
            sum = x + r
            return sum, mx.fast.rms_norm(sum, w, EPS)

        return [x(), like(1), width(2)], add_rms_norm, False
    if name == "layer_norm":
        return [x(), width(1), width(2)], lambda x, w, b: mx.fast.layer_norm(x, w, b, EPS), False
    if name == "swiglu":
        return [x(), like(1)], lambda a, b: nn.silu(a) * b, True
    if name == "geglu":
        return [x(), like(1)], lambda a, b: nn.gelu_approx(a) * b, True
    if name == "cross_entropy":
        t = targets(*s)
        return [x(2.0)], lambda x: cross_entropy(x, t), False
    if name == "linear_cross_entropy":
        rows, hidden, classes = s
        w, t = new(1, hidden**-0.5, (classes, hidden)), targets(rows, classes)
        return [new(0, 1.0, (rows, hidden))], lambda x: cross_entropy(x @ w.T, t), False
    if name == "embedding":
        count, vocabulary, columns = s
        ids = targets(count, vocabulary)
        return [new(0, 1.0, (vocabulary, columns))], lambda table: table[ids], False
    if name == "lora_linear":
        rows, inputs, outputs, rank = s
        w = new(3, inputs**-0.5, (outputs, inputs))
        trained = [
            new(0, 1.0, (rows, inputs)),
            new(1, inputs**-0.5, (rank, inputs)),
            new(2, rank**-0.5, (outputs, rank)),
        ]
        return trained, lambda x, a, b: lora(x, w, a, b), False
    if name == "rope":
        if case["pass"] == "fwd":
            # Of other angles: it has the same work, and its result is not compared.
            fused = lambda x: mx.fast.rope(x, s[3], traditional=False, base=10000.0, scale=1.0, offset=0)
            return [x()], fused, False
        cos, sin = (new(i, 1.0, (s[2], s[3] // 2)) for i in (1, 2))
        return [x()], lambda x: rope(x, cos, sin), True
    if name == "attention":
        scale = s[3] ** -0.5
        fused = lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")
        return [x(), like(1), like(2)], fused, False
    raise KeyError(f"no such case: {case}")


def listed(results):
    return [results] if isinstance(results, mx.array) else list(results)


class Prepared:
    """`make(i)` gives the lazy results of a call on the set of inputs `i`."""

    def __init__(self, sets, make, compared=True):
        self.sets, self.make, self.compared = sets, make, compared

    def check(self):
        results = self.make(0)
        mx.eval(results)
        if not self.compared:
            return None
        rows = [mx.abs(x.astype(mx.float32)).mean(-1) if x.ndim else mx.abs(x.astype(mx.float32)) for x in results]
        return [float(np.array(row).astype(np.float64).mean()) for row in rows]

    def extra_bytes(self):
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        results = self.make(0)
        mx.eval(results)
        mx.synchronize()
        self.result_bytes = sum(x.nbytes for x in results)
        return max(0, mx.get_peak_memory() - before - self.result_bytes)

    def measure(self, method, seconds):
        return {"synced": self.synced, "back_to_back": self.back_to_back}[method](seconds)

    def batch(self, n, ahead=0):
        start, results = time.perf_counter(), []
        for i in range(n):
            results.append(self.make(i % self.sets))
            if ahead and (i + 1) % ahead == 0:
                mx.async_eval(results[-ahead:])
        mx.eval(results)
        return (time.perf_counter() - start) * 1e6 / n

    def synced(self, seconds):
        self.batch(3)
        start, samples = time.perf_counter(), []
        while time.perf_counter() - start < seconds or len(samples) < 5:
            samples.append(self.batch(1))
        return samples

    def back_to_back(self, seconds):
        self.batch(min(max(self.sets, 3), 8))
        # All results of a row live until its end.
        most = min(MOST_CALLS, max(MOST_BYTES / max(self.result_bytes, 1), 2))
        n = int(min(max(BATCH_US / min(self.batch(3) for _ in range(3)), 3), most))
        self.batch(n)  # Memory for all of them.
        ahead = min((0, 1, 8), key=lambda ahead: min(self.batch(n, ahead) for _ in range(3)))
        start, samples = time.perf_counter(), []
        while time.perf_counter() - start < seconds or len(samples) < 3:
            samples.append(self.batch(n, ahead))
        return samples


def adamw(case):
    shapes, d = lora_factors(case["shape"]), case["dtype"]
    params = {str(i): noise(2 * i, 0.02, shape, d) for i, shape in enumerate(shapes)}
    grads = {str(i): noise(2 * i + 1, 0.01, shape, d) for i, shape in enumerate(shapes)}
    optimizer = optim.AdamW(learning_rate=1e-3, weight_decay=0.01, bias_correction=True)
    optimizer.init(params)
    state = [params, optimizer.state]
    mx.eval(state, grads)

    def step(grads):
        params.update(optimizer.apply_gradients(grads, params))

    step = mx.compile(step, inputs=state, outputs=state)

    def call(_):
        step(grads)
        return [params["0"], params["1"]]

    return Prepared(1, call)


def sample(case):
    vocabulary, k, thousandths = case["shape"]
    logits = noise(0, 3.0, (1, vocabulary), case["dtype"])

    def top_k(x):
        ids = mx.argpartition(-x, k - 1, axis=-1)[..., :k]
        kept = mx.take_along_axis(x, ids, axis=-1).astype(mx.float32) / TEMPERATURE
        return mx.take_along_axis(ids, mx.random.categorical(kept)[..., None], axis=-1)

    def top_p(x):
        x = x.astype(mx.float32) / TEMPERATURE
        ids = mx.argsort(-x, axis=-1)
        ordered = mx.take_along_axis(x, ids, axis=-1)
        p = mx.softmax(ordered, -1)
        ordered = mx.where(mx.cumsum(p, -1) - p > thousandths / 1000, -float("inf"), ordered)
        return mx.take_along_axis(ids, mx.random.categorical(ordered)[..., None], axis=-1)

    choose = top_k if k else top_p

    def call(_):
        choose(logits).item()
        return []

    return Prepared(1, call)


def prepare(case):
    if case["op"] in ("adamw", "sample"):
        return (adamw if case["op"] == "adamw" else sample)(case)
    inputs, f, compiled = op(case)
    sets = [inputs] + [[x + 0 for x in inputs] for _ in range(1, case.get("sets", 1))]
    mx.eval(sets)
    if case["pass"] == "fwd":
        call = mx.compile(f) if compiled else f
        prepared = Prepared(len(sets), lambda i: listed(call(*sets[i])))
        prepared.compared = case["op"] != "rope"
        return prepared
    if case["pass"] != "fwd+bwd":
        raise KeyError(f"no such case: {case}")
    y = listed(f(*inputs))[-1]
    g = noise(9, 1.0, y.shape, case["dtype"]) if y.ndim else mx.ones_like(y)
    gs = [g] + [g + 0 for _ in sets[1:]]
    mx.eval(gs)

    def both(inputs, g):
        outputs, gradients = mx.vjp(lambda *x: listed(f(*x))[-1:], list(inputs), [g])
        return outputs + gradients

    call = mx.compile(both) if compiled else both
    return Prepared(len(sets), lambda i: call(sets[i], gs[i]))


def drop():
    gc.collect()
    mx.clear_cache()


serve(Cases(prepare, drop).answer)
