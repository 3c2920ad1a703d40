"""The PyTorch worker: torch eager and compiled, Liger Kernel, PEFT for the training step, transformers for decoding.

`torch_worker.py cpu|cuda [NAME]`; the name is for whoever lists processes. Speaks the protocol of
benches/worker/protocol.rs on standard input and output. OMP_NUM_THREADS says how many threads a CPU has.
"""

import gc
import os
import sys
import time

import torch

import torch_ops
from protocol import Cases, mixed, peak_bytes, serve
from torch_ops import DTYPES

DEVICE = sys.argv[1]
# Liger Kernel asks the device for a number in the middle: no graph can be captured.
UNCAPTURED = ("cross_entropy", "linear_cross_entropy")
BATCH_US, GRAPH_US, MOST_CALLS = 4000, 2000, 200


def tokens(seed, vocabulary, count):
    return torch.from_numpy((3 + mixed(seed, count) % (vocabulary - 3)).astype("int64"))


class Prepared:
    """As in measure.rs: `make(i)` gives a call on the set of inputs `i`."""

    def __init__(self, sets, make, capturable=True):
        self.sets, self.make, self.capturable = sets, make, capturable
        self.next, self.graph = 0, None
        # Whether results are parts of equal size of what others compute as one.
        self.halves = False

    def calls(self, n):
        made = []
        for _ in range(n):
            self.next = (self.next + 1) % self.sets
            made.append(self.make(self.next))
        return made

    def call(self):
        return self.make(0)()

    def check(self):
        means = [x.abs().mean(dtype=torch.float64).item() for x in self.call()]
        return [sum(means) / len(means)] if self.halves else means

    def extra_bytes(self):
        if DEVICE == "cpu":
            return None
        call = self.make(0)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = call()
        torch.cuda.synchronize()
        kept = sum(x.untyped_storage().nbytes() for x in results)
        return max(0, torch.cuda.max_memory_allocated() - before - kept)

    def measure(self, method, seconds):
        return {
            "calls": self.plain,
            "synced": self.synced,
            "back_to_back": self.back_to_back,
            "gpu": self.replayed,
        }[method](seconds)

    def plain(self, seconds):
        clock = time.perf_counter
        warm, one = clock(), float("inf")
        while clock() - warm < 0.2 * seconds or one == float("inf"):
            start = clock()
            self.call()
            one = min(one, clock() - start)
        batch = max(1, int(50e-6 / one))
        start, samples = clock(), []
        while clock() - start < seconds or len(samples) < 3:
            call = clock()
            for _ in range(batch):
                self.call()
            samples.append((clock() - call) * 1e6 / batch)
        return samples

    def synced(self, seconds):
        clock = time.perf_counter
        for call in self.calls(3):
            call()
        start, samples = clock(), []
        while clock() - start < seconds or len(samples) < 5:
            call = self.make(0)
            synchronize()
            one = clock()
            results = call()
            synchronize()
            samples.append((clock() - one) * 1e6)
            del results
        return samples

    def back_to_back(self, seconds):
        clock = time.perf_counter
        self.batch(min(max(self.sets, 3), 8))
        n = int(min(max(BATCH_US / self.batch(3), 3), MOST_CALLS))
        start, samples = clock(), []
        while clock() - start < seconds or len(samples) < 3:
            samples.append(self.batch(n))
        return samples

    def batch(self, n):
        """The time of each of `n` calls in a row; results of as many as there are sets are kept."""
        calls, ring = self.calls(n), [None] * self.sets

        def run():
            for i, call in enumerate(calls):
                results = call()
                if self.sets > 1:
                    ring[i % self.sets] = results

        return span(run) / n

    def replayed(self, seconds):
        if not self.capturable:
            raise RuntimeError("gpu: this op cannot be captured")
        if self.graph is None:
            self.batch(3)
            rounds = min(-(-GRAPH_US // (self.batch(3) * self.sets)), 64)
            self.graph = self.capture(max(1, int(rounds)) * self.sets)
        graph, calls = self.graph
        one = span(graph.replay)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(1 + int(min(max(seconds * 1e6 / one, 3), 100)))]
        graph.replay()
        marks[0].record()
        for mark in marks[1:]:
            graph.replay()
            mark.record()
        marks[-1].synchronize()
        return [a.elapsed_time(b) * 1e3 / calls for a, b in zip(marks, marks[1:])]

    def capture(self, n):
        calls, ring = self.calls(n), [None] * self.sets
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for i, call in enumerate(calls):
                ring[i % self.sets] = call()
        return graph, n


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def span(run):
    """The time of what `run` asks for, in µs: by the device's clock where it has one."""
    if DEVICE == "cpu":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e6
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) * 1e3


def listed(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


def prepare(case):
    variant = case["variant"]
    if variant not in ("eager", "compile", "liger"):
        raise KeyError(f"no such variant: {variant}")
    if case["op"] in ("adamw", "sample"):
        if variant != "eager":
            raise KeyError(f"no such case: {case}")
        step = getattr(torch_ops, case["op"])(case, DEVICE)
        return Prepared(1, lambda _: step)
    inputs, f = (torch_ops.liger_op if variant == "liger" else torch_ops.op)(case, DEVICE)
    if variant == "compile":
        f = torch.compile(f, dynamic=False)
    capturable = not (variant == "liger" and case["op"] in UNCAPTURED)
    sets = [inputs] + [[x.clone() for x in inputs] for _ in range(case.get("sets", 1) - 1)]
    if case["pass"] == "fwd":

        def forward(i):
            def call():
                with torch.no_grad():
                    return listed(f(*sets[i]))

            return call

        prepared = Prepared(len(sets), forward, capturable)
        prepared.halves = variant == "liger" and case["op"] == "rope"
        return prepared
    for xs in sets:
        for x in xs:
            x.requires_grad_()
    # Of copies: Liger writes the gradient over the logits.
    y = listed(f(*(x.detach().clone().requires_grad_() for x in inputs)))[-1].detach()
    g = torch_ops.noise(DEVICE, 9, 1.0, list(y.shape), case["dtype"]) if y.dim() else torch.ones_like(y)
    gs = [g] + [g.clone() for _ in sets[1:]]

    def backward(i):
        y = listed(f(*sets[i]))[-1]
        return lambda: list(torch.autograd.grad(y, sets[i], gs[i]))

    def both(i):
        def call():
            y = listed(f(*sets[i]))[-1]
            return [y.detach(), *torch.autograd.grad(y, sets[i], gs[i])]

        return call

    return Prepared(len(sets), backward if case["pass"] == "bwd" else both, capturable)


def drop():
    gc.collect()
    torch.compiler.reset()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def ceilings():
    """What the device reaches at best: copying, and products of such matrices as the cases have."""
    source = torch.randn(1 << 30, device=DEVICE)
    target = torch.empty_like(source)
    best = lambda run, n: min(span(lambda: [run() for _ in range(n)]) / n for _ in range(8))
    copied = best(lambda: target.copy_(source), 4)
    found = {"copy": {"shape": f"{source.nbytes} bytes", "us": copied, "tb_per_s": 2 * source.nbytes / copied / 1e6}}
    del source, target
    for name, dtype in DTYPES.items():
        n = 4096
        a, b = (torch_ops.noise(DEVICE, seed, 1.0, (n, n), name) for seed in range(2))
        us = best(lambda: a @ b, 8)
        found[f"matmul {name}"] = {"shape": f"{n}x{n}x{n}", "us": us, "tflops": 2 * n**3 / us / 1e6}
    drop()
    return found | {"device": torch.cuda.get_device_name()}


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
    ops, job = Cases(prepare, drop), None
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if DEVICE == "cuda":
        # The default stream cannot be captured.
        torch.cuda.set_stream(torch.cuda.Stream())

    def answer(request):
        nonlocal job
        if request.get("op") == "ceilings":
            return ceilings()
        if "op" in request:
            return ops.answer(request)
        job = job or Job(request)
        return getattr(job, request["job"])(request)

    serve(answer)


main()
