#!/usr/bin/env python3
"""Measures metal-candle beside its peers, interleaved, and writes benches/results/DATE-DEVICE.jsonl.

Every provider is a process that answers requests. A case is measured in rounds, the providers one after the other
and the other way round in the next round, so that what else the machine does falls on all alike. They are compared on
what they compute, too.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys

import cases
import gpu
from drive import (
    HERE,
    ROOT,
    TOLERANCE,
    Worker,
    built,
    commit,
    deviation,
    installed,
    interleave,
    locked,
    output,
    percentiles,
    slug,
)

PAUSE = 0.05  # s between two providers: time for the threads of the one to go to sleep.


def build():
    """Builds the Rust workers; their paths by name."""
    benches = ("--bench", "cpu", "--bench", "cpu_malloc")
    paths = built("bench", "--no-run", "--no-default-features", *benches)
    paths |= built("build", "--release", cwd=HERE / "candle")
    return paths | built("build", "--release", cwd=HERE / "llama-cpp", env={"RUSTFLAGS": "-C target-cpu=native"})


def providers(paths, python):
    """Each provider's command and the variant it is asked for."""
    ours, malloc, peer = [paths["cpu"]], [paths["cpu_malloc"]], [paths["candle-peer"]]
    torch = [python, "-W", "ignore", str(HERE / "torch_worker.py"), "cpu"]
    llama_cpp, mlx_lm = [paths["llama-cpp-peer"]], [python, "-W", "ignore", str(HERE / "mlx_decode.py")]
    return {
        # Gradients of ops go through Candle's `backward`, as in a program of ops alone.
        "metal-candle": (ours, "ours_backward"),
        "metal-candle+malloc": (malloc, "ours_backward"),
        "candle": (malloc, "composed"),
        "candle+mimalloc": (ours, "composed"),
        "candle_nn": (malloc, "candle_nn"),
        "candle_nn+mimalloc": (ours, "candle_nn"),
        "candle-transformers": (peer, "default"),
        "torch": (torch, "eager"),
        "torch-compile": (torch, "compile"),
        "llama.cpp": (llama_cpp, "default"),
        "mlx-lm": (mlx_lm, "default"),
    }


def machine_ticks():
    """Ticks that the machine's cores were busy, and all ticks."""
    fields = [int(f) for f in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def ask_watched(worker, request):
    """The answer, with the share of the machine that other processes took meanwhile."""
    (busy, total), own = machine_ticks(), worker.cpu_ticks()
    answer = worker.ask(request)
    (busy_after, total_after), own_after = machine_ticks(), worker.cpu_ticks()
    others = (busy_after - busy) - (own_after - own)
    answer["other_load"] = max(0.0, others / max(1, total_after - total))
    return answer


def deviations(row, values, tolerance):
    """How far each provider's numbers are from ours, relative, where that is more than rounding explains.

    Candle's own half-precision sums are off by so much that they are only reported; anybody else is refused.
    """
    ours = values.get(cases.OURS) or next(iter(values.values()))
    found = {name: deviation(given, ours) for name, given in values.items()}
    for name, off in found.items():
        if off > tolerance and not (name.startswith("candle") and math.isfinite(off)):
            raise SystemExit(f"{row}: {name} computes {values[name]}, and {cases.OURS} {ours}")
    return {name: round(off, 4) for name, off in found.items() if off > tolerance}


class Bench:
    def __init__(self, args):
        self.args = args
        self.providers = providers(build(), args.python)
        self.about = about(args)
        name = f"{self.about['date']}-{slug(self.about['device'])}.jsonl"
        self.path = args.out or ROOT / "benches" / "results" / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.out = open(self.path, "w")

    def names(self, case):
        return [name for name in case.providers if re.search(self.args.providers, name)]

    def chosen(self, all):
        for case in all:
            for request in case.requests():
                row = row_name(case, request)
                if re.search(self.args.cases, row):
                    yield case, request, row

    def write(self, case, request, name, fields, method, loads):
        method = f"{method}, {self.args.rounds} interleaved rounds, ABBA; median and 20th to 80th percentile"
        kind = {"op": case.op} if "op" in request else {"job": case.job}
        shape = "x".join(map(str, case.shape)) if "op" in request else case.shape
        what = kind | {"pass": request.get("pass", case.job if "job" in request else ""), "shape": shape}
        row = what | {"dtype": request["dtype"], "provider": name} | fields
        row |= {"other_load": round(statistics.mean(loads), 3), "method": method} | self.about
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()

    def ops(self):
        workers = {}

        def worker(name):
            key = tuple(self.providers[name][0])
            if key not in workers:
                workers[key] = Worker(list(key), self.args.threads)
            return workers[key]

        for case, request, row in self.chosen(cases.OPS):
            names = self.names(case)
            seconds = self.args.seconds
            how = request | {"method": "calls", "seconds": seconds}

            def ask(name):
                return ask_watched(worker(name), how | {"variant": self.providers[name][1]})

            answers = interleave(names, self.args.rounds, ask, PAUSE)
            checks = {name: given[0]["check"] for name, given in answers.items()}
            off = deviations(row, checks, TOLERANCE[request["dtype"]])
            print(row, flush=True)
            for name, given in answers.items():
                samples = [s for answer in given for s in answer["samples_us"]]
                median, p20, p80 = percentiles(samples)
                times = {"median_us": median, "p20_us": p20, "p80_us": p80}
                fields = {k: round(v, 2) for k, v in times.items()} | {"samples": len(samples)}
                fields |= {"deviation": off[name]} if name in off else {}
                loads = [answer["other_load"] for answer in given]
                self.write(case, request, name, fields, f"{seconds} s a round", loads)
                wrong = f"   off by {off[name]:.1%}" if name in off else ""
                print(f"    {name:<22}{median:>12.1f} µs   {p20:.1f} to {p80:.1f}{wrong}", flush=True)
            for w in workers.values():
                w.ask({"op": "drop"})
        for w in workers.values():
            w.close()

    def jobs(self):
        for case, request, row in self.chosen(cases.JOBS):
            request = request | {"model": str(self.model()), "count": self.args.count}
            # A process for each: its peak memory is the job's alone.
            workers = {name: Worker(self.job_command(name), self.args.threads) for name in self.names(case)}

            def ask(name):
                return ask_watched(workers[name], request | {"variant": self.providers[name][1]})

            interleave(list(workers), 1, ask, PAUSE)  # Warm-up and compilation.
            answers = interleave(list(workers), self.args.rounds, ask, PAUSE)
            print(row, flush=True)
            self.check_job(request, row, workers)
            for name, given in answers.items():
                loads = [answer["other_load"] for answer in given]
                peak = given[-1]["peak_bytes"] / 1e9
                job = lambda samples, tokens, label=name: self.job_fields(label, samples, tokens, peak)
                all = lambda field: [s for answer in given for s in answer[field]]
                method = f"{self.args.count} a round"
                if case.job == "train":
                    fields = job(all("samples_us"), request["batch"] * request["length"])
                    self.write(case, request, name, fields, method, loads)
                else:
                    self.write(case, request, name, job(all("samples_us"), request["tokens"]), method, loads)
                    prefill = cases.Job("prefill", case.fields, case.dtypes, case.providers)
                    self.write(prefill, request, name, job(all("prefill_us"), request["prompt"], "  prefill"), method, loads)
            for w in workers.values():
                w.close()

    def job_command(self, name):
        """Candle's jobs are in a program of their own."""
        return self.providers["candle-transformers" if name == "candle" else name][0]

    def check_job(self, request, row, workers):
        """All must have the first loss, or the first tokens, of the same model; later ones differ by rounding."""
        first = {name: w.first for name, w in workers.items() if w.first}
        if request["job"] == "train":
            deviations(row, {name: answer["losses"][:1] for name, answer in first.items()}, 1e-3)
        elif request["dtype"] == "f32":
            deviations(row, {name: answer["ids"][:8] for name, answer in first.items()}, 0)

    def job_fields(self, label, samples, tokens, peak):
        median, p20, p80 = percentiles(samples)
        print(f"    {label:<22}{median / 1e3:>10.1f} ms {tokens / median * 1e6:>9.0f} tokens/s   peak {peak:.2f} GB")
        times = {"median_ms": median / 1e3, "p20_ms": p20 / 1e3, "p80_ms": p80 / 1e3}
        rates = {"tokens_per_s": tokens / median * 1e6, "peak_gb": peak}
        return {k: round(v, 3) for k, v in (times | rates).items()} | {"samples": len(samples)}

    def model(self):
        """The model of the jobs, made once."""
        path = ROOT / "target" / "bench-model"
        if not all((path / name).exists() for name in ("f16.gguf", "model.safetensors")):
            subprocess.run([self.args.python, str(HERE / "make_model.py"), str(path)], check=True)
        return path


def row_name(case, request):
    if "op" in request:
        return f"{case.op} {request['pass']} {'x'.join(map(str, case.shape))} {request['dtype']}"
    return f"{case.job} {request['dtype']}"


def device(threads):
    """The processor's name, its generation where the name does not say it, and how many cores it has for us."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda name: (re.search(rf"^{name}\s*:\s*(.+)$", text, re.M) or ["", "?"])[1].strip()
    name = re.sub(r"\s+", " ", re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", field("model name"))).strip()
    if field("vendor_id") == "AuthenticAMD":
        family, model = int(field("cpu family")), int(field("model"))
        third = not (0x10 <= model <= 0x1F or 0x60 <= model <= 0x7F or model >= 0xA0)
        zen = {23: "Zen 2" if model >= 0x30 else "Zen", 25: "Zen 3" if third else "Zen 4", 26: "Zen 5"}.get(family)
        name += f" ({zen})" if zen else ""
    cores = min(threads, len(os.sched_getaffinity(0)))
    return f"{name}, {cores} cores"


def about(args):
    """What every row says of the run."""
    versions = {"metal-candle": locked("metal-candle"), "candle": locked("candle-core")}
    versions |= installed(args.python, ("torch", "transformers", "peft", "mlx", "mlx_lm"))
    versions["rustc"] = output("rustc", "--version").split()[1]
    return {
        "device": device(args.threads),
        "threads": args.threads,
        "versions": versions,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the Python that has requirements.txt installed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--rounds", type=int, help="6, on a GPU 4")
    parser.add_argument("--seconds", type=float, help="for an op, a provider and a round: 0.4, on a GPU 0.05")
    parser.add_argument("--count", type=int, default=3, help="steps or generations, for a job, a provider and a round")
    parser.add_argument("--cases", default="", help="a regular expression; a row is named as it is printed")
    parser.add_argument("--providers", default="", help="a regular expression")
    parser.add_argument("--out", type=pathlib.Path)
    alone = parser.add_argument_group("a GPU")
    alone.add_argument("--worker", type=pathlib.Path, help="the worker, where it was built on another machine")
    alone.add_argument("--about", type=pathlib.Path, help="the about.json that --pack wrote beside it")
    alone.add_argument("--pack", type=pathlib.Path, help="only build and compress the worker, into this directory")
    alone.add_argument("--limit", type=float, help="start no row after this many seconds")
    alone.add_argument("--smoke", action="store_true", help="the rows of a GPU, tiny and on the CPU")
    args = parser.parse_args()
    on_gpu = args.device == "cuda" or args.smoke
    args.rounds = args.rounds or (4 if on_gpu else 6)
    args.seconds = args.seconds or (0.05 if on_gpu else 0.4)
    if args.pack:
        print(f"wrote {gpu.pack(args.pack)}")
    elif on_gpu:
        gpu.Gpu(args).run()
    else:
        bench = Bench(args)
        bench.ops()
        bench.jobs()
        print(f"wrote {bench.path}")


if __name__ == "__main__":
    main()
