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
CHART, GROWTH = ROOT / "docs" / "jobs.svg", ROOT / "docs" / "growth.svg"


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
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    about = lines[0]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    commits = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    dates = " and ".join(dict.fromkeys(line["date"] for line in lines))
    return f"{about['device']}; {dates}; commit {commits}; {versions}."


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
process of its own; of several rounds, which go there and back, the best is told; what compiles for a minute has one. Peaks are the
allocator's, with what graphs hold.
Where ours loses, the factor is bold. A peer that is missing from a row was not measured in it.

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


def plotter():
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "metal-candle", "svg.fonttype": "path", "font.size": 9}
    from matplotlib import pyplot

    return pyplot


def growth_section(paths):
    """How the cost of a step grows, by device."""
    if not paths:
        return ""
    named = "; ".join(f"`{path.relative_to(ROOT)}`" for path in paths)
    return f"""### How a step's cost grows

`metal-candle bench train` over batches, lengths and ranks: {named}.

![Time against batch, length and rank, and memory against length](growth.svg)
"""


def growth_chart(paths):
    """A row of panels for each device: step time against batch, length and rank, and memory against length."""
    pyplot = plotter()
    figure, axes = pyplot.subplots(len(paths), 4, figsize=(11, 2.6 * len(paths)), layout="constrained", squeeze=False)
    for panels, path in zip(axes, paths):
        lines = [line for line in map(json.loads, path.read_text().splitlines()) if line["job"] == "lora_step"]
        # What is varied is what has more than one value where the others have the commonest.
        common = {name: max({line[name] for line in lines}, key=lambda v: sum(line[name] == v for line in lines)) for name in ("rank",)}
        by_batch = sorted({(l["batch"], l["median_ms"], l["length"]) for l in lines if l["rank"] == common["rank"]})
        length = max({n for _, _, n in by_batch}, key=lambda n: sum(m == n for _, _, m in by_batch))
        batch_points = [(b, ms) for b, ms, n in by_batch if n == length]
        one = [l for l in lines if l["batch"] == 1 and l["rank"] == common["rank"]]
        length_points = sorted((l["length"], l["median_ms"]) for l in one)
        memory_points = sorted((l["length"], l["peak_gb"]) for l in one)
        plan_points = sorted((l["length"], l["plan_gb"]) for l in one)
        batches = [l["batch"] for l in lines if l["rank"] != common["rank"]]
        rank_points = sorted((l["rank"], l["median_ms"]) for l in lines if batches and (l["batch"], l["length"]) == (batches[0], length))
        device, model = lines[0]["device"], lines[0]["model"]
        for axis, points, label in zip(panels, (batch_points, length_points, rank_points, memory_points), ("batch", "length", "rank", "length")):
            axis.plot(*zip(*points), marker="o", markersize=3, color="#c8442f")
            axis.set_xlabel(label)
            axis.set_ylim(0, max(value for _, value in points) * 1.08)
            axis.set_xlim(0)
            axis.spines[["top", "right"]].set_visible(False)
        panels[3].plot(*zip(*plan_points), linestyle="--", color="#9aa5b1", label="memory plan")
        panels[3].set_ylim(0, max(gb for _, gb in memory_points + plan_points) * 1.08)
        panels[3].legend(frameon=False)
        panels[0].set_ylabel("ms a step")
        panels[3].set_ylabel("peak GB")
        panels[0].set_title(f"{model} on {device}", loc="left", fontsize=9)
    figure.savefig(GROWTH, metadata={"Date": None})


def chart(path):
    """A bar for each provider in each job: times ours."""
    pyplot = plotter()
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
