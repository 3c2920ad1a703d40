"""What is measured on a GPU, against whom, the fewest bytes and operations each case needs, and the goals."""

from dataclasses import dataclass, field
from math import prod

OURS = "ours"
PEERS = ("mlx", "torch", "torch_compile", "liger")
CANDLE = ("composed", "candle_nn")
SIZES = {"f32": 4, "bf16": 2, "f16": 2}
METHODS = ("gpu", "back_to_back", "synced")


@dataclass(frozen=True)
class Goal:
    """At most `us`; or this many times the time of `provider`; or this share of the floor; or this much memory."""

    us: float | None = None
    provider: str | None = None
    times: float | None = None
    share: float | None = None
    extra_gb: float | None = None
    method: str = "gpu"


@dataclass(frozen=True)
class Case:
    op: str
    passes: str
    shape: tuple
    dtypes: tuple
    providers: tuple
    methods: tuple = ("gpu", "back_to_back")
    # Of the first dtype.
    goals: tuple = field(default=())

    def requests(self, smoke=False):
        # To try the benchmark out: the same rows, as small as they work.
        shape = tuple(min(n, 64) for n in self.shape) if smoke else self.shape
        for dtype in self.dtypes:
            bytes, _ = needs(self.op, self.passes, shape, SIZES[dtype])
            sets = 2 if smoke else rotation(bytes)
            yield {"op": self.op, "pass": self.passes, "shape": list(shape), "dtype": dtype, "sets": sets}


def rotation(bytes):
    """How many sets of inputs a case takes in turn, so that no cache (60 MB on an H200) holds what a call reads."""
    if bytes < 4e6 or bytes > 768e6:
        return 1
    return max(2, min(16, -(-int(384e6) // int(bytes))))


def needs(op, passes, shape, size):
    """The fewest bytes through memory, each input read and each result written once, and the operations of products.

    Backward reads what forward read or kept, and the gradient of the result.
    """
    n, both = prod(shape), passes == "fwd+bwd"
    if op in ("softmax", "log_softmax", "rms_norm", "layer_norm"):
        return (5 if both else 2) * n * size, 0
    if op == "add_rms_norm":
        return (7 if both else 4) * n * size, 0
    if op in ("swiglu", "geglu"):
        return (8 if both else 3) * n * size, 0
    if op == "rope":
        return (4 if both else 2) * n * size, 0
    if op == "cross_entropy":
        return (2 if both else 1) * n * size, 0
    if op == "linear_cross_entropy":
        rows, hidden, classes = shape
        return (classes * hidden + 2 * rows * hidden) * size, (4 if both else 2) * n
    if op == "lora_linear":
        rows, inputs, outputs, rank = shape
        base, low = rows * inputs * outputs, rows * rank * (inputs + outputs)
        traffic = inputs * outputs + rows * (inputs + outputs) * (2 if both else 1)
        return traffic * size, (4 * base + 6 * low) if both else 2 * (base + low)
    if op == "attention":
        rows, heads, length, dim = shape
        forward = 2 * rows * heads * length * length * dim  # Causal: half of two products.
        traffic = {"fwd": 4, "bwd": 8, "fwd+bwd": 12}[passes]
        return traffic * n * size, forward * {"fwd": 1, "bwd": 2.5, "fwd+bwd": 3.5}[passes]
    if op == "adamw":
        layers, hidden, keys, wide, rank = shape
        ends = 4 * hidden + 2 * (hidden + keys) + 3 * (hidden + wide)
        return layers * rank * ends * (3 * size + 16), 0
    if op == "embedding":
        count, vocabulary, columns = shape
        return ((vocabulary + 3 * count) if both else 2 * count) * columns * size, 0
    if op == "sample":
        return shape[0] * size, 0
    raise KeyError(op)


ALL = ("bf16", "f32", "f16")
BF16 = ("bf16",)
TRAINED = (OURS, "composed", *PEERS)
FUSED = (OURS, *CANDLE, *PEERS)
NO_LIGER = (OURS, "composed", "mlx", "torch", "torch_compile")
EAGER = (OURS, "composed", "mlx", "torch")
LORA = (OURS, "composed", "base", "mlx", "torch", "torch_compile")


def norm(op, passes, providers, goals):
    """A row of each width, the middle one in every dtype."""
    widths = {2048: BF16, 4096: ALL, 8192: BF16}
    return [
        Case(op, passes, (4096, width), dtypes, providers, goals=goals if width == 4096 else ())
        for width, dtypes in widths.items()
    ]


CASES = [
    Case("softmax", "fwd", (4096, 4096), ALL, FUSED, goals=(Goal(us=17.3), Goal(share=0.9))),
    *norm("rms_norm", "fwd", FUSED, (Goal(us=17.7),)),
    *norm("rms_norm", "fwd+bwd", TRAINED, (Goal(us=52.0),)),
    Case("cross_entropy", "fwd+bwd", (4096, 151936), ALL, TRAINED, goals=(Goal(us=890.0),)),
    Case(
        "linear_cross_entropy",
        "fwd+bwd",
        (4096, 2048, 151936),
        BF16,
        TRAINED,
        goals=(Goal(us=7900.0), Goal(extra_gb=0.6)),
    ),
    Case("lora_linear", "fwd", (4096, 4096, 4096, 16), ALL, LORA, goals=(Goal(provider="base", times=1.10),)),
    Case("lora_linear", "fwd+bwd", (4096, 4096, 4096, 16), ALL, LORA, goals=(Goal(provider="base", times=1.12),)),
    Case("swiglu", "fwd", (4096, 8192), ALL, TRAINED, goals=(Goal(us=49.0),)),
    Case("swiglu", "fwd+bwd", (4096, 8192), ALL, TRAINED, goals=(Goal(us=131.0),)),
    Case("rope", "fwd", (1, 32, 2048, 128), BF16, FUSED, goals=(Goal(us=10.0),)),
    *(
        Case("attention", passes, shape, BF16, providers, methods, (Goal(provider="torch", times=1 / speed),) if speed else ())
        for shape in ((4, 16, 1024, 64), (1, 32, 8192, 128))
        for passes, speed, providers, methods in (
            ("fwd", 0.6, EAGER if shape[2] < 8192 else (OURS, "mlx", "torch"), ("gpu", "back_to_back")),
            # A forward pass belongs to each call and is not measured: its memory cannot be freed in a graph.
            ("bwd", 0.5, (OURS, "torch"), ("back_to_back",)),
            ("fwd+bwd", None, EAGER if shape[2] < 8192 else (OURS, "mlx", "torch"), ("gpu", "back_to_back")),
        )
    ),
    Case(
        "adamw",
        "fwd",
        (24, 896, 128, 4864, 16),
        ("f32",),
        (OURS, "candle_nn", "mlx", "torch"),
        METHODS,
        (Goal(us=300.0, method="back_to_back"),),
    ),
    Case(
        "softmax",
        "fwd",
        (64, 64),
        ("f32",),
        (OURS, *CANDLE, "mlx", "torch", "liger"),
        METHODS,
        (Goal(us=4.0, method="back_to_back"), Goal(us=12.0, method="synced")),
    ),
    *(Case("softmax", "fwd", (4096, width), BF16, FUSED, goals=(Goal(share=0.9),)) for width in (2048, 8192, 16384)),
    Case("cross_entropy", "fwd+bwd", (512, 151936), BF16, TRAINED),
    Case("log_softmax", "fwd", (4096, 4096), BF16, NO_LIGER),
    Case("add_rms_norm", "fwd", (4096, 4096), BF16, FUSED),
    Case("add_rms_norm", "fwd+bwd", (4096, 4096), BF16, TRAINED),
    Case("layer_norm", "fwd", (4096, 4096), BF16, FUSED),
    Case("layer_norm", "fwd+bwd", (4096, 4096), BF16, TRAINED),
    Case("geglu", "fwd", (4096, 8192), BF16, TRAINED),
    Case("geglu", "fwd+bwd", (4096, 8192), BF16, TRAINED),
    Case("rope", "fwd+bwd", (1, 32, 2048, 128), BF16, NO_LIGER),
    # A token of decoding; the weight is larger than a cache.
    Case("lora_linear", "fwd", (1, 4096, 14336, 16), BF16, LORA, METHODS),
    Case("embedding", "fwd", (4096, 151936, 896), BF16, NO_LIGER, METHODS),
    Case("embedding", "fwd+bwd", (4096, 151936, 896), BF16, NO_LIGER),
    # A token that the host has.
    Case("sample", "fwd", (151936, 50, 1000), BF16, (OURS, "mlx", "torch"), ("synced",)),
    Case("sample", "fwd", (151936, 0, 900), BF16, (OURS, "mlx", "torch"), ("synced",)),
]
