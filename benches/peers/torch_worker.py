"""The PyTorch worker: torch eager and compiled, PEFT for the training step, transformers for decoding.

Speaks the protocol of benches/worker/protocol.rs on standard input and output. OMP_NUM_THREADS says how many threads.
"""

import gc
import json
import os
import sys
import time

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # What libraries print goes to standard error.

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
EPS = 1e-5
LORA_SCALE = 2.0


def mixed(seed, count):
    """The hash of protocol.rs."""
    h = np.arange(count, dtype=np.uint32) ^ np.uint32((seed * 0x9E3779B9) & 0xFFFFFFFF)
    h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
    return h ^ (h >> 16)


def noise(seed, std, shape, dtype):
    scale = np.float32(std) * np.float32(3) ** np.float32(0.5)
    values = (mixed(seed, int(np.prod(shape))) >> 8).astype(np.float32) / np.float32(8388608) - np.float32(1)
    return torch.from_numpy((values * scale).reshape(shape)).to(DTYPES[dtype])


def tokens(seed, vocabulary, count):
    return torch.from_numpy((3 + mixed(seed, count) % np.uint32(vocabulary - 3)).astype(np.int64))


def rope(x, cos, sin):
    """As transformers' apply_rotary_pos_emb."""
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin


def op(case):
    """The tensors that have gradients, and the function of them."""
    name, s, d = case["op"], case["shape"], case["dtype"]
    if name == "softmax":
        return [noise(0, 2.0, s, d)], lambda x: torch.softmax(x, -1)
    if name == "rms_norm":
        return [noise(0, 1.0, s, d), noise(1, 1.0, s[-1:], d)], lambda x, w: F.rms_norm(x, (s[-1],), w, EPS)
    if name == "silu_mul":
        return [noise(0, 1.0, s, d), noise(1, 1.0, s, d)], lambda a, b: F.silu(a) * b
    if name == "cross_entropy":
        targets = torch.arange(s[0]) * 7919 % s[1]
        return [noise(0, 2.0, s, d)], lambda x: F.cross_entropy(x, targets)
    if name == "linear":
        rows, inputs, outputs = s
        w = noise(1, inputs**-0.5, (outputs, inputs), d)
        return [noise(0, 1.0, (rows, inputs), d)], lambda x: F.linear(x, w)
    if name == "lora_linear":
        rows, inputs, outputs, rank = s
        w = noise(3, inputs**-0.5, (outputs, inputs), d)
        trained = [
            noise(0, 1.0, (rows, inputs), d),
            noise(1, inputs**-0.5, (rank, inputs), d),
            noise(2, rank**-0.5, (outputs, rank), d),
        ]
        return trained, lambda x, a, b: F.linear(x, w) + F.linear(F.linear(x, a), b) * LORA_SCALE
    if name == "rope":
        cos, sin = (noise(i, 1.0, (s[2], s[3] // 2), d) for i in (1, 2))
        cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
        return [noise(0, 1.0, s, d)], lambda x: rope(x, cos, sin)
    if name == "attention":
        qkv = [noise(i, 1.0, s, d) for i in range(3)]
        return qkv, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    raise KeyError(f"no such case: {case}")


def prepare(case):
    if case["variant"] not in ("eager", "compile"):
        raise KeyError(f"no such variant: {case['variant']}")
    inputs, f = op(case)
    if case["variant"] == "compile":
        f = torch.compile(f, dynamic=False)
    if case["pass"] == "fwd":

        def run():
            with torch.no_grad():
                return [f(*inputs)]

        return run
    for x in inputs:
        x.requires_grad_()
    y = f(*inputs)
    g = noise(9, 1.0, list(y.shape), case["dtype"]) if y.dim() else None

    def run():
        y = f(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, g)]

    return run


def measure(run, seconds):
    """As `measure` in protocol.rs."""
    clock = time.perf_counter
    warm, one = clock(), float("inf")
    while clock() - warm < 0.2 * seconds or one == float("inf"):
        start = clock()
        run()
        one = min(one, clock() - start)
    batch = max(1, int(50e-6 / one))
    start, samples = clock(), []
    while clock() - start < seconds or len(samples) < 3:
        call = clock()
        for _ in range(batch):
            run()
        samples.append((clock() - call) * 1e6 / batch)
    return samples


def peak_bytes():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Ops:
    def __init__(self):
        self.cases = {}

    def answer(self, request):
        if request["op"] == "drop":
            self.cases.clear()
            gc.collect()
            return {}
        seconds = request["seconds"]
        key = json.dumps({k: v for k, v in request.items() if k != "seconds"})
        if key in self.cases:
            return {"samples_us": measure(self.cases[key], seconds)}
        run = self.cases[key] = prepare(request)
        check = [x.double().abs().mean().item() for x in run()]
        return {"samples_us": measure(run, seconds), "check": check}


class Job:
    """One job of one process."""

    def __init__(self, request):
        from transformers import AutoModelForCausalLM

        dtype = DTYPES[request["dtype"]]
        self.model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=dtype)
        self.compiled = request["variant"] == "compile"
        self.vocabulary = self.model.config.vocab_size
        if request["job"] == "train":
            self.start_training(request)
        else:
            self.start_decoding(request)

    def start_training(self, request):
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=request["rank"],
            lora_alpha=2 * request["rank"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        # Adapters in the model's dtype: the faster of PEFT's two ways on a CPU.
        self.model = get_peft_model(self.model, lora, autocast_adapter_dtype=False)
        self.model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        self.ids = tokens(1, self.vocabulary, request["batch"] * request["length"]).view(request["batch"], -1)
        self.call = torch.compile(self.model) if self.compiled else self.model

    def train(self, request):
        samples, losses = [], []
        for _ in range(request["count"]):
            start = time.perf_counter()
            loss = self.call(input_ids=self.ids, labels=self.ids, use_cache=False).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            samples.append((time.perf_counter() - start) * 1e6)
        return {"samples_us": samples, "losses": losses, "peak_bytes": peak_bytes()}

    def start_decoding(self, request):
        self.model.eval()
        self.call = torch.compile(self.model, dynamic=False) if self.compiled else self.model
        self.prompt = tokens(1, self.vocabulary, request["prompt"]).view(1, -1)

    def cache(self, request):
        from transformers import DynamicCache, StaticCache

        if not self.compiled:
            return DynamicCache(config=self.model.config)
        return StaticCache(config=self.model.config, max_cache_len=request["prompt"] + request["tokens"])

    @torch.inference_mode()
    def decode(self, request):
        """Greedy, by forward alone: faster than `generate`, which does more between tokens."""
        decode, prefill, ids = [], [], []
        for _ in range(request["count"]):
            cache = self.cache(request)
            positions = torch.arange(request["prompt"] + request["tokens"]).view(1, -1)
            read = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            start = time.perf_counter()
            at = request["prompt"]
            logits = self.call(self.prompt, position_ids=positions[:, :at], **read).logits
            ids = [logits[0, -1].argmax().item()]
            prefill.append((time.perf_counter() - start) * 1e6)
            start = time.perf_counter()
            for at in range(request["prompt"], request["prompt"] + request["tokens"]):
                token = torch.tensor([ids[-1:]])
                logits = self.call(token, position_ids=positions[:, at : at + 1], **read).logits
                ids.append(logits[0, -1].argmax().item())
            decode.append((time.perf_counter() - start) * 1e6)
        return {"samples_us": decode, "prefill_us": prefill, "ids": ids, "peak_bytes": peak_bytes()}


def main():
    ops, job = Ops(), None
    ANSWERS.write("ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "op" in request:
                answer = ops.answer(request)
            else:
                job = job or Job(request)
                answer = getattr(job, request["job"])(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        ANSWERS.write(json.dumps(answer) + "\n")


main()
