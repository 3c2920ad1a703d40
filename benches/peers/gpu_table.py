"""The GPU's part of docs/benchmarks.md and of the README. A line holds what one method measured, and nothing else."""

import json
from dataclasses import dataclass

from gpu_cases import CANDLE, CASES, METHODS, OURS, PEERS
from markdown import digits, factor, table

GROUPS = {
    "Softmax": ("softmax", "log_softmax"),
    "Norms": ("rms_norm", "add_rms_norm", "layer_norm"),
    "Losses": ("cross_entropy", "linear_cross_entropy"),
    "LoRA": ("lora_linear",),
    "Gated units": ("swiglu", "geglu"),
    "Rotary embedding": ("rope",),
    "Attention": ("attention",),
    "Embedding": ("embedding",),
    "AdamW": ("adamw",),
    "Sampling": ("sample",),
}
NAMES = {"torch_compile": "torch.compile", "liger": "Liger", "mlx": "MLX", "torch": "torch", "base": "base alone"}
# The memory that a call takes beside its inputs and results is listed for these.
MEMORY = ("linear_cross_entropy", "cross_entropy", "attention")


@dataclass(frozen=True)
class Line:
    """One case by one method, and who was measured in it."""

    case: object
    request: dict
    method: str
    found: dict

    @property
    def name(self):
        shape = "x".join(map(str, self.request["shape"]))
        return f"{self.request['op']} {self.request['pass']} {shape} {self.request['dtype']}"

    def us(self, provider):
        row = self.found.get(provider)
        return row and row["median_us"]

    def cell(self, provider):
        row = self.found.get(provider)
        if row is None:
            return "–"
        return digits(row["median_us"]) + (f" (off by {row['deviation']:.0%})" if "deviation" in row else "")

    @property
    def floor(self):
        return next(row["floor_us"] for row in self.found.values())

    def best(self, providers):
        """The fastest of those whose results are right."""
        right = [p for p in providers if p in self.found and "deviation" not in self.found[p]]
        return min(right, key=self.us, default=None)

    def share(self):
        return f"{self.floor / self.us(OURS):.0%}" if OURS in self.found else "–"

    def against(self, provider):
        """How many times as fast as a provider; what loses is bold."""
        if provider is None or OURS not in self.found:
            return "–"
        ratio = self.us(provider) / self.us(OURS)
        return factor(ratio) if ratio >= 1 else f"**{factor(ratio)}**"


class Results:
    def __init__(self, path):
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.about = self.rows[0]
        self.by_line = {}
        for row in self.rows:
            key = (row["op"], row["pass"], row["shape"], row["dtype"], row["method"])
            self.by_line.setdefault(key, {})[row["provider"]] = row

    @staticmethod
    def is_in(path):
        """Whether a file of results is of a GPU."""
        with open(path) as lines:
            return "floor_us" in json.loads(lines.readline())

    def line(self, case, request, method):
        key = (case.op, case.passes, "x".join(map(str, request["shape"])), request["dtype"], method)
        found = self.by_line.get(key)
        return Line(case, request, method, found) if found else None

    def lines(self, ops=None):
        for case in CASES:
            if ops is None or case.op in ops:
                for request in case.requests():
                    for method in METHODS:
                        if line := self.line(case, request, method):
                            yield line

    def ceilings(self):
        found = [row for row in self.rows if "tb_per_s" in row or "tflops" in row]
        text = lambda row: f"{row['tb_per_s']:.2f} TB/s" if "tb_per_s" in row else f"{row['tflops']:.0f} TFLOP/s"
        return ", ".join(f"{row['op']} {row['dtype'] if row['op'] != 'copy' else row['shape']}: {text(row)}" for row in found)


def goals(results):
    """Each goal with its outcome: a line of the table, whether it was reached, and the row's name."""
    for case in CASES:
        for goal in case.goals:
            request = next(case.requests())
            method = goal.method if goal.method in case.methods else case.methods[0]
            line = results.line(case, request, method)
            if line is None or OURS not in line.found:
                # Ours cannot be captured here: the other method of the same case says.
                line = results.line(case, request, "back_to_back")
            if line is None or OURS not in line.found:
                continue
            us = line.us(OURS)
            if goal.us is not None:
                wants, got, reached = f"at most {digits(goal.us)} µs", f"{digits(us)} µs", us <= goal.us
            elif goal.share is not None:
                share = line.floor / us
                wants, got, reached = f"{goal.share:.0%} of the floor", f"{share:.0%}", share >= goal.share
            elif goal.extra_gb is not None:
                extra = line.found[OURS].get("extra_mb", float("inf")) / 1e3
                wants, got = f"at most {goal.extra_gb} GB beside inputs and results", f"{extra:.2f} GB"
                reached = extra <= goal.extra_gb
            else:
                if goal.provider not in line.found:
                    continue
                ratio = us / line.us(goal.provider)
                other = NAMES.get(goal.provider, goal.provider)
                wants, got, reached = f"at most {goal.times:.2f}x {other}", f"{ratio:.2f}x", ratio <= goal.times
            yield [line.name, line.method, wants, got], reached, line.name


def goals_table(results):
    rows = [[*line, "yes" if reached else "**no**"] for line, reached, _ in goals(results)]
    return table(["", "method", "goal", "ours", "reached"], rows)


def missed(results, notes):
    names = dict.fromkeys(name for _, reached, name in goals(results) if not reached)
    lines = [f"- {name}: {notes.get(f'gpu: {name}', 'not yet explained.')}\n" for name in names]
    return "".join(lines) or "No goal was missed.\n"


def group(results, ops):
    """The table of a group of ops; a column for whoever has a number in it."""
    lines = list(results.lines(ops))
    there = {provider for line in lines for provider in line.found}
    columns = [p for p in ("base", *CANDLE, *PEERS) if p in there]
    rows = []
    for line in lines:
        best = line.best(PEERS)
        label = [line.name.removesuffix(f" {line.request['dtype']}"), line.request["dtype"], line.method]
        label[0] = label[0].replace(f" {line.request['pass']}", "", 1)
        ratio = f"{line.against(best)} {NAMES[best]}" if best else "–"
        cells = [digits(line.floor), line.cell(OURS), line.share(), *map(line.cell, columns), ratio]
        rows.append([label[0], line.request["pass"], *label[1:], *cells])
    heads = [NAMES.get(p, p) for p in columns]
    return table(["", "pass", "dtype", "method", "floor", "ours", "of the floor", *heads, "best peer / ours"], rows)


def memory(results):
    rows = []
    columns = (OURS, "composed", *PEERS)
    for line in results.lines(MEMORY):
        if line.method != "back_to_back":
            continue
        extra = lambda p: line.found.get(p, {}).get("extra_mb")
        if any(extra(p) is not None for p in columns):
            cell = lambda mb: "–" if mb is None else f"{mb / 1e3:.2f}"
            rows.append([line.name, *(cell(extra(p)) for p in columns)])
    return table(["", *(NAMES.get(p, p) for p in columns)], rows)


def setting(results):
    a = results.about
    versions = ", ".join(f"{name} {version}" for name, version in a["versions"].items())
    return f"{a['device']}; {a['date']}; commit {a['commit']}; {versions}. Ceilings: {results.ceilings()}."


SECTION = """## On a GPU

From `benches/results/{file}`. {setting}

Times are medians in µs. A line is what one method measured: `gpu` is a graph of calls replayed, which leaves out what
the host takes to launch them; `back_to_back` is a row of calls by the device's clock, with what the host takes where
that is more; `synced` is one call and the wait for it. MLX has no graphs and no events, so it has no `gpu`, and its
`back_to_back` is by the host's clock over a row of calls and one wait. The floor is the fewest bytes at the speed of a
copy, or the fewest operations at that of a matrix product, both measured in this run. `composed` is plain Candle ops,
`candle_nn` its own fused ones, which have no gradient. Gradients of ours come from the trainer's tape, those of
Candle's ops from its `backward`. Inputs rotate where they would fit a cache. What loses is bold; results that are
further from torch's than rounding explains are marked with how far.

### Goals

{goals}
Missed, and why:

{missed}
{groups}
### Memory beside inputs and results, GB

{memory}
"""


def section(path, notes):
    results = Results(path)
    groups = [f"### {title}\n\n{group(results, ops)}" for title, ops in GROUPS.items() if any(results.lines(ops))]
    return SECTION.format(
        file=path.name,
        setting=setting(results),
        goals=goals_table(results),
        missed=missed(results, notes),
        groups="\n".join(groups),
        memory=memory(results),
    )


def readme(path):
    """The rows that have goals, in GPU time; and back to back where MLX, which has no GPU time, is the fastest peer."""
    results, rows = Results(path), []
    for case in CASES:
        if not case.goals:
            continue
        for method in METHODS:
            line = results.line(case, next(case.requests()), method)
            if line is None or OURS not in line.found:
                continue
            best = line.best(PEERS)
            if method == "gpu" or "gpu" not in case.methods or best == "mlx" or case.shape == (64, 64):
                candle, peer = line.best(CANDLE), f"{NAMES[best]} {line.cell(best)}" if best else "–"
                cells = [digits(line.floor), line.cell(OURS), line.cell(candle), peer]
                rows.append([line.name, method, *cells, line.against(candle), line.against(best)])
    head = ["µs", "method", "floor", "metal-candle", "Candle, its best", "best peer", "vs Candle", "vs peer"]
    return f"{setting(results)}\n\n{table(head, rows)}"
