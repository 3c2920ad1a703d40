"""The whole jobs' part of docs/benchmarks.md and of the README, and its chart, from what jobs.py wrote."""

import json

from drive import ROOT, percentiles
from markdown import digits, factor, table

OURS = "metal-candle"
NAMES = {
    "peft": "PEFT",
    "peft_liger": "PEFT + Liger",
    "torch_compile": "torch.compile",
    "mlx_lm": "mlx-lm",
    "transformers": "transformers",
}
CHART = ROOT / "docs" / "jobs.svg"


class Row:
    """One job of one model, by those who were measured in it."""

    def __init__(self, lines):
        self.lines, self.job, self.model = lines, lines[0]["job"], lines[0]["model"]
        self.batch, self.length = lines[0]["batch"], lines[0]["length"]
        self.checkpoint = lines[0].get("grad_checkpoint") or False

    def of(self, provider):
        """The best of its rounds: (ms, p20, p80, tokens/s, GB); none if it was not measured."""
        mine = [line for line in self.lines if line["provider"] == provider]
        if not mine:
            return None
        best = min(mine, key=lambda line: line["median_ms"])
        return best | {"peak_gb": max(line["peak_gb"] for line in mine), "rounds": [line["median_ms"] for line in mine]}

    def providers(self):
        return list(dict.fromkeys(line["provider"] for line in self.lines))

    def best_peer(self):
        peers = [name for name in self.providers() if name != OURS]
        return min(peers, key=lambda name: self.of(name)["median_ms"], default=None)

    @property
    def name(self):
        if self.job == "lora_step":
            return f"LoRA step {self.batch} x {self.length}" + (", checkpoints" if self.checkpoint else "")
        if self.job == "decode":
            return f"decode, batch {self.batch}"
        if self.job == "prefill":
            return f"prefill {self.length}"
        return {"first_step": "process start to first step", "first_token": "process start to first token"}[self.job]


def rows(path):
    grouped = {}
    for line in map(json.loads, path.read_text().splitlines()):
        fields = ("model", "job", "batch", "length", "grad_checkpoint")
        grouped.setdefault(tuple(line.get(name) or 0 for name in fields), []).append(line)
    found = [Row(lines) for lines in grouped.values()]
    order = ["lora_step", "decode", "prefill", "first_step", "first_token"]
    # Of a first step or token, the least case tells.
    firsts = {}
    for row in found:
        if row.job in ("first_step", "first_token"):
            kept = firsts.setdefault((row.model, row.job), row)
            if row.of(OURS)["median_ms"] < kept.of(OURS)["median_ms"]:
                firsts[row.model, row.job] = row
    found = [row for row in found if row.job not in ("first_step", "first_token")] + list(firsts.values())
    return sorted(found, key=lambda row: (order.index(row.job), row.checkpoint, row.batch, row.model))


def setting(path):
    about = json.loads(path.read_text().splitlines()[0])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['device']}; {about['date']}; commit {about['commit']}; {versions}."


def section(path):
    """The part of docs/benchmarks.md."""
    body = []
    for row in rows(path):
        for provider in row.providers():
            found = row.of(provider)
            ours = row.of(OURS)
            ratio = "" if provider == OURS or not ours else factor(found["median_ms"] / ours["median_ms"])
            if ratio and found["median_ms"] < ours["median_ms"]:
                ratio = f"**{ratio}**"
            rounds = " / ".join(digits(ms) for ms in found["rounds"])
            cells = [f"{digits(found['median_ms'])} ({digits(found['p20_ms'])} to {digits(found['p80_ms'])})", rounds]
            cells += [digits(found["tokens_per_s"]), f"{found['peak_gb']:.2f}", ratio]
            body.append([f"{row.model}: {row.name}", NAMES.get(provider, provider)] + cells)
    head = ["", "", "ms (20 to 80 %)", "medians of the rounds", "tokens/s", "peak GB", "ours is"]
    return f"""## Whole jobs on a GPU

`benches/peers/jobs.py`, {path.relative_to(ROOT)}: {setting(path)}

Random weights in bf16 in the shapes of Qwen2.5-0.5B and Llama-3.2-1B. A LoRA step is forward, backward, clipping and AdamW, rank 16
on all linear layers, adapters of the peers in bf16 (ours are f32, as are their moments). Decoding is greedy, 128 tokens after a
prompt of 128, a time a token of each row; in transformers by `generate`, whose static cache compiles itself. Each measurement is a
process of its own; the better of two rounds, which went there and back, is told, what compiles for a minute had one. Peaks are the
allocator's. Where ours loses, the factor is bold.

![Whole jobs on a GPU](jobs.svg)

{table(head, body)}"""


def readme(path):
    """The rows of the README."""
    body = []
    for row in rows(path):
        ours, peer = row.of(OURS), row.best_peer()
        if not ours or not peer:
            continue
        theirs = row.of(peer)
        ratio = factor(theirs["median_ms"] / ours["median_ms"])
        speed = lambda found: f"{digits(found['median_ms'])} ms, {found['peak_gb']:.2f} GB"
        ratio = f"**{ratio}**" if theirs["median_ms"] < ours["median_ms"] else ratio
        body.append([f"{row.model}: {row.name}", speed(ours), f"{NAMES.get(peer, peer)} {speed(theirs)}", ratio])
    head = ["whole jobs", "metal-candle", "best peer", "vs peer"]
    return f"{setting(path)}\n\n{table(head, body)}"


def chart(path):
    """A bar for each provider in each job: times ours."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "metal-candle", "svg.fonttype": "path", "font.size": 9}
    from matplotlib import pyplot

    shown = [row for row in rows(path) if row.of(OURS) and row.best_peer()]
    columns = 2
    lines = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(9, 1.55 * lines), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, shown):
        axis.axis("on")
        names = sorted(row.providers(), key=lambda name: row.of(name)["median_ms"])
        times = [row.of(name)["median_ms"] for name in names]
        bars = axis.barh(range(len(names)), times, color=["#c8442f" if name == OURS else "#9aa5b1" for name in names])
        axis.set_yticks(range(len(names)), [NAMES.get(name, name) for name in names])
        axis.invert_yaxis()
        axis.bar_label(bars, [f"{digits(time)} ms" for time in times], padding=3)
        axis.set_xlim(0, max(times) * 1.25)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_title(f"{row.model}: {row.name}", loc="left", fontsize=9)
    figure.savefig(CHART, metadata={"Date": None})
