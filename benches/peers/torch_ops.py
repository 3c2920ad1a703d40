"""The ops in PyTorch, and in Liger Kernel where it has one."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from protocol import lora_factors, spread, uniform

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
EPS = 1e-5
LORA_SCALE = 2.0
TEMPERATURE = 0.8
CHUNK = 1 << 27


def noise(device, seed, std, shape, dtype):
    count = int(np.prod(shape))
    if device == "cpu":
        return torch.from_numpy(uniform(seed, std, count).reshape(shape)).to(DTYPES[dtype])
    # The same numbers, computed on the device: by 64-bit numbers, of which the lower half counts.
    low, values = 0xFFFFFFFF, torch.empty(count, dtype=DTYPES[dtype], device=device)
    for start in range(0, count, CHUNK):
        h = torch.arange(start, min(count, start + CHUNK), device=device) ^ (seed * 0x9E3779B9 & low)
        h = (h ^ (h >> 16)) * 0x7FEB352D & low
        h = (h ^ (h >> 15)) * 0x846CA68B & low
        part = ((h ^ (h >> 16)) >> 8).float() / 8388608 - 1
        values[start : start + len(part)] = (part * float(spread(std))).to(DTYPES[dtype])
    return values.view(*shape)


def targets(device, rows, classes):
    return torch.arange(rows, device=device) * 7919 % classes


def rope(x, cos, sin):
    """As transformers' apply_rotary_pos_emb."""
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin


def add_rms_norm(x, r, w):
    sum = x + r
    return sum, F.rms_norm(sum, (sum.shape[-1],), w, EPS)


def attention(q, k, v):
    if q.device.type == "cpu":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def lora(x, w, a, b):
    return F.linear(x, w) + F.linear(F.linear(x, a), b) * LORA_SCALE


def op(case, device):
    """The tensors that have gradients, and the function of them; gradients start at its last result."""
    name, s, d = case["op"], case["shape"], case["dtype"]
    new = lambda seed, std, shape: noise(device, seed, std, shape, d)
    x = lambda std=1.0: new(0, std, s)
    like = lambda seed: new(seed, 1.0, s)
    width = lambda seed: new(seed, 1.0, s[-1:])
    if name == "softmax":
        return [x(2.0)], lambda x: torch.softmax(x, -1)
    if name == "log_softmax":
        return [x(2.0)], lambda x: torch.log_softmax(x, -1)
    if name == "rms_norm":
        return [x(), width(1)], lambda x, w: F.rms_norm(x, (s[-1],), w, EPS)
    if name == "add_rms_norm":
        return [x(), like(1), width(2)], add_rms_norm
    if name == "layer_norm":
        return [x(), width(1), width(2)], lambda x, w, b: F.layer_norm(x, (s[-1],), w, b, EPS)
    if name in ("silu_mul", "swiglu"):
        return [x(), like(1)], lambda a, b: F.silu(a) * b
    if name == "geglu":
        return [x(), like(1)], lambda a, b: F.gelu(a, approximate="tanh") * b
    if name == "cross_entropy":
        t = targets(device, *s)
        return [x(2.0)], lambda x: F.cross_entropy(x, t)
    if name == "linear_cross_entropy":
        rows, hidden, classes = s
        w, t = new(1, hidden**-0.5, (classes, hidden)), targets(device, rows, classes)
        return [new(0, 1.0, (rows, hidden))], lambda x: F.cross_entropy(F.linear(x, w), t)
    if name == "embedding":
        count, vocabulary, columns = s
        ids = targets(device, count, vocabulary)
        return [new(0, 1.0, (vocabulary, columns))], lambda table: F.embedding(ids, table)
    if name == "linear":
        rows, inputs, outputs = s
        w = new(1, inputs**-0.5, (outputs, inputs))
        return [new(0, 1.0, (rows, inputs))], lambda x: F.linear(x, w)
    if name == "lora_linear":
        rows, inputs, outputs, rank = s
        w = new(3, inputs**-0.5, (outputs, inputs))
        trained = [
            new(0, 1.0, (rows, inputs)),
            new(1, inputs**-0.5, (rank, inputs)),
            new(2, rank**-0.5, (outputs, rank)),
        ]
        return trained, lambda x, a, b: lora(x, w, a, b)
    if name == "rope":
        cos, sin = (new(i, 1.0, (s[2], s[3] // 2)) for i in (1, 2))
        cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
        return [x()], lambda x: rope(x, cos, sin)
    if name == "attention":
        return [x(), like(1), like(2)], attention
    raise KeyError(f"no such case: {case}")


def liger_op(case, device):
    from liger_kernel.transformers import functional as LF

    name, s, d = case["op"], case["shape"], case["dtype"]
    if name == "rope":
        # It turns queries and keys at once: half of the heads each, so that the bytes are the same.
        half = s[1] // 2
        inputs = [noise(device, 0, 1.0, s, d)[:, i : i + half].contiguous() for i in (0, half)]
        cos, sin = (noise(device, i, 1.0, (s[2], s[3] // 2), d) for i in (1, 2))
        cos, sin = torch.cat((cos, cos), -1)[None], torch.cat((sin, sin), -1)[None]
        return inputs, lambda q, k: LF.liger_rope(q, k, cos, sin)
    if name == "linear_cross_entropy":
        rows, hidden, classes = s
        w, t = noise(device, 1, hidden**-0.5, (classes, hidden), d), targets(device, rows, classes)
        return [noise(device, 0, 1.0, (rows, hidden), d)], lambda x: LF.liger_fused_linear_cross_entropy(x, w, t)
    inputs, _ = op(case, device)
    if name == "softmax":
        return inputs, LF.liger_softmax
    if name == "rms_norm":
        return inputs, lambda x, w: LF.liger_rms_norm(x, w, EPS, 0.0, "llama", False)
    if name == "add_rms_norm":
        return inputs, lambda x, r, w: LF.liger_fused_add_rms_norm(x, r, w, EPS, 0.0, "llama", False)[::-1]
    if name == "layer_norm":
        return inputs, lambda x, w, b: LF.liger_layer_norm(x, w, b, EPS)
    if name == "swiglu":
        return inputs, LF.liger_swiglu
    if name == "geglu":
        return inputs, LF.liger_geglu
    if name == "cross_entropy":
        t = targets(device, *s)
        return inputs, lambda x: LF.liger_cross_entropy(x, t)
    raise KeyError(f"no such case: {case}")


def adamw(case, device):
    """A step of the fused AdamW."""
    params = []
    for i, shape in enumerate(lora_factors(case["shape"])):
        p = noise(device, 2 * i, 0.02, shape, case["dtype"]).requires_grad_()
        p.grad = noise(device, 2 * i + 1, 0.01, shape, case["dtype"])
        params.append(p)
    capturable = {"capturable": True} if device != "cpu" else {}
    optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01, fused=True, **capturable)

    def step():
        optimizer.step()
        return [p.detach() for p in params[:2]]

    return step


def sample(case, device):
    """A token, known to the host: as transformers' warpers choose it, without what they do for other options."""
    vocabulary, k, thousandths = case["shape"]
    logits = noise(device, 0, 3.0, (1, vocabulary), case["dtype"])

    def top_k():
        values, ids = torch.topk(logits.float() / TEMPERATURE, k)
        ids.gather(-1, torch.multinomial(torch.softmax(values, -1), 1)).item()
        return []

    def top_p():
        values, ids = torch.sort(logits.float() / TEMPERATURE, descending=True)
        p = torch.softmax(values, -1)
        p = p.masked_fill(p.cumsum(-1) - p > thousandths / 1000, 0.0)
        ids.gather(-1, torch.multinomial(p, 1)).item()
        return []

    return top_k if k else top_p
