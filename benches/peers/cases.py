"""What is measured, by whom, and what this project set out to reach."""

from dataclasses import dataclass

TORCH = ("torch", "torch-compile")
CANDLE = ("candle", "candle_nn")


@dataclass(frozen=True)
class Target:
    """At least `ratio` times the speed of the fastest of `peers`."""

    ratio: float
    peers: tuple
    bf16_ratio: float | None = None

    def for_dtype(self, dtype):
        return self.bf16_ratio if dtype == "bf16" and self.bf16_ratio is not None else self.ratio


@dataclass(frozen=True)
class Op:
    op: str
    passes: str
    shape: tuple
    dtypes: tuple
    providers: tuple
    targets: tuple = ()

    def requests(self):
        """The rows: a request to the workers each."""
        for dtype in self.dtypes:
            yield {"op": self.op, "pass": self.passes, "shape": list(self.shape), "dtype": dtype}


@dataclass(frozen=True)
class Job:
    job: str
    fields: dict
    dtypes: tuple
    providers: tuple
    targets: tuple = ()
    # The most of the peers' memory that ours may take.
    memory: float | None = None
    memory_peers: tuple = TORCH

    def requests(self):
        for dtype in self.dtypes:
            yield {"job": self.job, "dtype": dtype, **self.fields}

    @property
    def shape(self):
        f = self.fields
        if self.job == "train":
            return f"batch {f['batch']} x {f['length']}, rank {f['rank']}"
        return f"prompt {f['prompt']}, {f['tokens']} tokens"


OURS = "metal-candle"
BOTH = ("f32", "bf16")
# Large outputs are page faults as much as arithmetic: these rows have both allocators.
ALLOCATORS = ("metal-candle+malloc", "candle+mimalloc", "candle_nn+mimalloc")
FORWARD = (OURS, *CANDLE, *TORCH)
BACKWARD = (OURS, "candle", *TORCH)

OPS = []
for op in ("softmax", "rms_norm"):
    large = (Target(4.0, ("torch",)), Target(5.0, ("candle_nn",)))
    OPS += [
        Op(op, "fwd", (64, 64), BOTH, FORWARD),
        Op(op, "fwd", (512, 1024), (*BOTH, "f16"), FORWARD, (Target(2.0, ("torch",)),)),
        Op(op, "fwd", (4096, 4096), BOTH, (*FORWARD, *ALLOCATORS), large),
    ]
    trained = (Target(1.0, TORCH), Target(10.0, ("candle",)))
    OPS += [
        Op(op, "fwd+bwd", shape, BOTH, (*BACKWARD, "metal-candle+malloc", "candle+mimalloc"), trained)
        for shape in ((4096, 4096), (32, 512, 512))
    ]
OPS += [
    Op("lora_linear", "fwd", (512, 2048, 2048, 8), BOTH, BACKWARD),
    Op("lora_linear", "fwd+bwd", (512, 2048, 2048, 8), BOTH, BACKWARD, (Target(1.0, TORCH, bf16_ratio=0.9),)),
    Op("cross_entropy", "fwd+bwd", (256, 32000), BOTH, BACKWARD),
    Op("silu_mul", "fwd", (512, 5632), BOTH, BACKWARD),
    Op("silu_mul", "fwd+bwd", (512, 5632), BOTH, BACKWARD),
    Op("rope", "fwd", (1, 32, 512, 64), BOTH, FORWARD),
    Op("attention", "fwd", (4, 8, 256, 64), BOTH, FORWARD),
    Op("attention", "fwd+bwd", (4, 8, 256, 64), BOTH, BACKWARD),
    Op("linear", "fwd", (1, 2048, 5632), BOTH, BACKWARD),
    Op("linear", "fwd", (512, 2048, 2048), BOTH, BACKWARD),
]

# The model of the whole jobs: a Llama of 34 million weights.
MODEL = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1408,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

JOBS = [
    Job(
        "train",
        {"batch": 4, "length": 256, "rank": 8},
        BOTH,
        (OURS, "candle", *TORCH),
        (Target(1.5, TORCH),),
        memory=0.6,
    ),
    Job(
        "decode",
        {"prompt": 64, "tokens": 128},
        (*BOTH, "f16"),
        (OURS, "candle-transformers", *TORCH, "llama.cpp", "mlx-lm"),
        (Target(2.0, ("candle-transformers",)), Target(1.5, TORCH), Target(1.0, ("llama.cpp", "mlx-lm"))),
    ),
]
