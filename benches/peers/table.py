#!/usr/bin/env python3
"""Renders docs/benchmarks.md, the tables of docs/matmul.md, and with --readme the README's tables, from benches/results: the
newest file of a CPU, the newest of a GPU, and the newest of products of each device."""

import argparse
import json
import pathlib
import tomllib

import cases
import gpu_table
import jobs_table as gpu_jobs
import matmul_table
from drive import ROOT
from markdown import digits, factor, table
from run import row_name

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
BUSY = 0.05  # The share of the machine taken by others, above which a run is not worth quoting.


class Results:
    def __init__(self, path):
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.by_key = {self.key(r) + (r["provider"],): r for r in self.rows}
        self.about = self.rows[0]

    @staticmethod
    def key(row):
        return row.get("op") or row["job"], row["pass"], row["shape"], row["dtype"]

    def of(self, case, request, provider):
        shape = "x".join(map(str, case.shape)) if isinstance(case, cases.Op) else case.shape
        name, passes = (case.op, case.passes) if isinstance(case, cases.Op) else (case.job, case.job)
        return self.by_key.get((name, passes, shape, request["dtype"], provider))

    def best(self, case, request, providers):
        found = [r for p in providers if (r := self.of(case, request, p))]
        return min(found, key=median, default=None)

    def measured(self, all):
        """The rows that this run has, ours first."""
        for case in all:
            for request in case.requests():
                if ours := self.of(case, request, cases.OURS):
                    yield case, request, ours


def median(row):
    """In µs."""
    return row["median_us"] if "median_us" in row else 1e3 * row["median_ms"]


def time(row):
    if row is None:
        return "–"
    us = median(row)
    text = f"{digits(us)} µs" if us < 1000 else f"{digits(us / 1e3)} ms"
    return text + (f" (off by {row['deviation']:.0%})" if "deviation" in row else "")


def against(ours, peer):
    """How many times as fast as the peer; what loses is bold."""
    if peer is None:
        return "–"
    ratio = median(peer) / median(ours)
    return factor(ratio) if ratio >= 1 else f"**{factor(ratio)}**"


def what(case, request):
    if isinstance(case, cases.Op):
        return f"{case.op} {'x'.join(map(str, case.shape))}", request["pass"], request["dtype"]
    return f"{case.job}: {case.shape}", "", request["dtype"]


def goals(results):
    """Each goal with its outcome: a line of the table, whether it was reached, and the row's name."""
    for case, request, ours in results.measured(cases.OPS + cases.JOBS):
        name, passes, dtype = what(case, request)
        label = " ".join(part for part in (name, passes, dtype) if part)
        for target in case.targets:
            peer = results.best(case, request, target.peers)
            if peer is None:
                continue
            ratio, wanted = median(peer) / median(ours), target.for_dtype(dtype)
            line = [label, time(ours), f"{peer['provider']}: {time(peer)}", factor(ratio), f"{wanted}x"]
            yield line, ratio >= wanted, row_name(case, request)
        if getattr(case, "memory", None):
            peers = [r for p in case.memory_peers if (r := results.of(case, request, p))]
            if peers:
                peer = min(peers, key=lambda r: r["peak_gb"])
                share = ours["peak_gb"] / peer["peak_gb"]
                memory = [f"{ours['peak_gb']:.2f} GB", f"{peer['provider']}: {peer['peak_gb']:.2f} GB"]
                line = [f"{label}, peak memory", *memory, f"{share:.2f}", f"at most {case.memory}"]
                yield line, share <= case.memory, row_name(case, request)


def goals_table(results):
    rows = [[*line, "yes" if reached else "**no**"] for line, reached, _ in goals(results)]
    return table(["", "metal-candle", "the fastest of its peers", "ratio", "goal", "reached"], rows)


def ops_table(results):
    rows = []
    for case, request, ours in results.measured(cases.OPS):
        name, passes, dtype = what(case, request)
        composed, fused = (results.of(case, request, p) for p in cases.CANDLE)
        torch = results.best(case, request, cases.TORCH)
        candle = results.best(case, request, cases.CANDLE)
        kind = " (compiled)" if torch and torch["provider"] == "torch-compile" else ""
        times = [time(ours), time(composed), time(fused), time(torch) + kind]
        rows.append([name, passes, dtype, *times, against(ours, candle), against(ours, torch)])
    peers = ["metal-candle", "Candle, composed", "candle_nn, fused", "torch, its best"]
    return table(["op", "pass", "dtype", *peers, "vs Candle", "vs torch"], rows)


def jobs_table(results):
    rows = []
    prefill = [cases.Job("prefill", c.fields, c.dtypes, c.providers) for c in cases.JOBS if c.job == "decode"]
    for case, request, ours in results.measured(cases.JOBS + prefill):
        for provider in case.providers:
            if row := results.of(case, request, provider):
                spread = f"{row['p20_ms']:.4g} to {row['p80_ms']:.4g}"
                speed = [f"{row['tokens_per_s']:,.0f}".replace(",", " "), time(row), spread]
                ratio = "" if provider == cases.OURS else against(ours, row)
                rows.append([f"{case.job}, {request['dtype']}", provider, *speed, f"{row['peak_gb']:.2f} GB", ratio])
    return table(["job", "", "tokens/s", "median", "p20 to p80, ms", "peak memory", "ours is"], rows)


def allocator_table(results):
    rows = []
    for case, request, _ in results.measured(cases.OPS):
        if "metal-candle+malloc" not in case.providers:
            continue
        pairs = (("metal-candle+malloc", cases.OURS), ("candle", "candle+mimalloc"), ("candle_nn", "candle_nn+mimalloc"))
        found = [time(results.of(case, request, p)) for pair in pairs for p in pair]
        rows.append([" ".join(what(case, request)), *found, time(results.of(case, request, "torch"))])
    sides = [f"{name}, {allocator}" for name in ("ours", "composed", "candle_nn") for allocator in ("malloc", "mimalloc")]
    return table(["", *sides, "torch eager"], rows)


def all_notes():
    """Why a goal was missed, by the row's name (a GPU's after `gpu: `): written by hand after profiling."""
    path = ROOT / "benches" / "results" / "notes.toml"
    return tomllib.loads(path.read_text()) if path.exists() else {}


def missed(results):
    notes = all_notes()
    names = dict.fromkeys(name for _, reached, name in goals(results) if not reached)
    if not names:
        return "No goal was missed.\n"
    return "".join(f"- {name}: {notes.get(name, 'not yet explained.')}\n" for name in names)


def setting(results):
    a = results.about
    versions = ", ".join(f"{name} {version}" for name, version in a["versions"].items())
    commits = ", ".join(dict.fromkeys(r["commit"] for r in results.rows))
    text = f"{a['device']}, {a['threads']} threads for all; {a['date']}; commit {commits}; {versions}."
    busy = max(r["other_load"] for r in results.rows)
    if busy > BUSY:
        text += f"\n\n**Other processes took up to {busy:.0%} of the machine: these numbers are not to be quoted.**"
    return text


PAGE = """# Benchmarks

Made by `benches/peers/table.py` from `benches/results/{file}`; [how to run it](../benches/peers/README.md).

{setting}

Times are medians ({rounds}). All got the same numbers and their results were compared: one that is further from
ours than rounding explains is marked with how far. Where ours loses, the factor is bold.

## Goals

What this project set out to reach, against the fastest of the peers it was set against.

{goals}
### Goals that were missed, and why

{missed}
## Ops

Candle here has the system's allocator, as a program has that chooses none; `composed` is plain Candle ops (with
gradients), `fused` is candle_nn's own (without). `metal-candle` has mimalloc, as the binary has; see below. Forward +
backward goes through Candle's `backward` with a given upstream gradient.

{ops}
## Whole jobs

A random Llama (hidden 512, 8 layers, 8 heads, 4 of keys and values, feed-forward 1408, vocabulary 8192, untied). `train`
is one LoRA step (all linear layers, AdamW) at batch 4 x 256, rank 8, in torch by PEFT with adapters in the model's
dtype and the fused AdamW. `decode` is greedy, batch 1, 128 tokens after a prompt of 64, which `prefill` reads. In torch
that is transformers' `forward` without `generate` around it: eager with a dynamic cache, compiled with a static one.
`candle` trains in plain Candle ops and candle_nn's AdamW. llama.cpp is compiled for this machine, and has the same weights
in the same dtype and its cache in `f16`; mlx-lm runs on MLX's CPU backend.

{jobs}
## The allocator

Candle allocates each result anew, and the system's allocator hands large blocks back to the kernel each time: writing
one then costs a page fault every 4 KiB. The `metal-candle` binary uses mimalloc, which keeps them. A program that uses
the library should choose such an allocator too (two lines: `#[global_allocator] static A: mimalloc::MiMalloc = ...`).

{allocators}"""


def page(results, path):
    return PAGE.format(
        file=path.name,
        setting=setting(results),
        rounds=results.about["method"],
        goals=goals_table(results),
        missed=missed(results),
        ops=ops_table(results),
        jobs=jobs_table(results),
        allocators=allocator_table(results),
    )


def readme_table(results):
    """The rows that have goals, shortened."""
    rows = []
    for case, request, ours in results.measured(cases.OPS + cases.JOBS):
        if not case.targets:
            continue
        peers = (*cases.CANDLE, "candle-transformers")
        candle, torch = results.best(case, request, peers), results.best(case, request, cases.TORCH)
        label = " ".join(part for part in what(case, request) if part)
        rows.append([label, time(ours), time(candle), time(torch), against(ours, candle), against(ours, torch)])
    return table(["", "metal-candle", "Candle, its best", "torch, its best", "vs Candle", "vs torch"], rows)


def newest(of_gpu):
    """The newest file of results of a GPU, or of a CPU, by its name."""
    files = (ROOT / "benches" / "results").glob("*.jsonl")
    files = [path for path in files if not path.name.endswith(("-matmul.jsonl", "-overhead.jsonl", "-jobs.jsonl", "-growth.jsonl"))]
    return max((path for path in files if gpu_table.Results.is_in(path) == of_gpu), default=None)


def newest_jobs():
    """The newest file of whole jobs on a GPU, by its name."""
    return max((ROOT / "benches" / "results").glob("*-jobs.jsonl"), default=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=pathlib.Path, help="a file of run.py; the newest by its name")
    parser.add_argument("--gpu", type=pathlib.Path, help="a file of run.py --device cuda; the newest by its name")
    parser.add_argument("--readme", action="store_true", help=f"also the part of README.md between {BEGIN} and {END}")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "benchmarks.md")
    args = parser.parse_args()
    path, gpu = args.results or newest(False), args.gpu or newest(True)
    results = Results(path)
    args.out.parent.mkdir(exist_ok=True)
    on_gpu = gpu_table.section(gpu, all_notes()) if gpu else ""
    matmul_table.write()
    jobs = newest_jobs()
    growth = sorted((ROOT / "benches" / "results").glob("*-growth.jsonl"))
    whole = [gpu_jobs.section(jobs) if jobs else "", gpu_jobs.growth_section(growth)]
    parts = [page(results, path), *whole, on_gpu]
    args.out.write_text("\n".join(part for part in parts if part))
    if jobs:
        gpu_jobs.chart(jobs)
    if growth:
        gpu_jobs.growth_chart(growth)
    if args.readme:
        readme = ROOT / "README.md"
        before, rest = readme.read_text().split(BEGIN)
        _, after = rest.split(END)
        tables = f"{setting(results)}\n\n{readme_table(results)}" + (f"\n{gpu_table.readme(gpu)}" if gpu else "")
        tables += f"\n{gpu_jobs.readme(jobs)}" if jobs else ""
        readme.write_text(f"{before}{BEGIN}\n{tables}{END}{after}")


if __name__ == "__main__":
    main()
