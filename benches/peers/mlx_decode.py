"""mlx-lm as a worker of the whole jobs: greedy decoding on a CPU. Speaks the protocol of benches/worker/protocol.rs."""

import pathlib
import time

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from protocol import mixed, peak_bytes, serve

mx.set_default_device(mx.cpu)
DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


class Job:
    def __init__(self, request):
        self.model, config = load_model(pathlib.Path(request["model"]))
        self.model.set_dtype(DTYPES[request["dtype"]])
        mx.eval(self.model.parameters())
        ids = 3 + mixed(1, request["prompt"]) % (config["vocab_size"] - 3)
        self.prompt = mx.array(ids.astype("int32"))

    def decode(self, request):
        decode, prefill, ids = [], [], []
        for _ in range(request["count"]):
            cache = make_prompt_cache(self.model)
            start = time.perf_counter()
            ids = [self.model(self.prompt[None], cache=cache)[0, -1].argmax().item()]
            prefill.append((time.perf_counter() - start) * 1e6)
            start = time.perf_counter()
            for _ in range(request["tokens"]):
                ids.append(self.model(mx.array([ids[-1:]]), cache=cache)[0, -1].argmax().item())
            decode.append((time.perf_counter() - start) * 1e6)
        return {"samples_us": decode, "prefill_us": prefill, "ids": ids, "peak_bytes": peak_bytes()}


def main():
    job = None

    def answer(request):
        nonlocal job
        job = job or Job(request)
        return getattr(job, request["job"])(request)

    serve(answer)


main()
