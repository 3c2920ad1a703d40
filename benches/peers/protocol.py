"""What every Python worker shares: the requests of benches/worker/protocol.rs on standard input, and the answers."""

import json
import os
import sys

import numpy as np


def serve(answer):
    """Answers requests until standard input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write("ready\n")
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(reply) + "\n")


def mixed(seed, count):
    """The hash of protocol.rs."""
    h = np.arange(count, dtype=np.uint32) ^ np.uint32((seed * 0x9E3779B9) & 0xFFFFFFFF)
    h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
    return h ^ (h >> 16)


def peak_bytes():
    """The most memory this process has held."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def spread(std):
    """What noise of a standard deviation is multiplied by."""
    return np.float32(std) * np.float32(3) ** np.float32(0.5)


def uniform(seed, std, count):
    """The noise of cases.rs."""
    return ((mixed(seed, count) >> 8).astype(np.float32) / np.float32(8388608) - np.float32(1)) * spread(std)


def lora_factors(shape):
    """The shapes of the LoRA factors that the case adamw trains."""
    layers, hidden, keys, wide, rank = shape
    attention = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    linears = attention + [(hidden, wide), (hidden, wide), (wide, hidden)]
    return [factor for _ in range(layers) for i, o in linears for factor in ((rank, i), (o, rank))]


class Cases:
    """Prepared cases: `prepare(request)` makes one, `drop()` frees what they held."""

    def __init__(self, prepare, drop):
        self.prepare, self.free, self.cases = prepare, drop, {}

    def answer(self, request):
        if request["op"] == "drop":
            self.cases.clear()
            self.free()
            return {}
        key = json.dumps({k: v for k, v in request.items() if k not in ("seconds", "method")})
        reply = {}
        if key not in self.cases:
            case = self.prepare(request)
            reply = {"check": case.check(), "extra_bytes": case.extra_bytes()}
            self.cases[key] = case
        if "method" in request:
            reply["samples_us"] = self.cases[key].measure(request["method"], request["seconds"])
        return reply
