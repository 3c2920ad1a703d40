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
import time

import cases

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAUSE = 0.05  # s between two providers: time for the threads of the one to go to sleep.


def build():
    """Builds the Rust workers; their paths by name."""

    def cargo(*args, cwd):
        command = ["cargo", *args, "--message-format=json-render-diagnostics"]
        lines = subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        messages = [json.loads(line) for line in lines if line.startswith("{")]
        return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}

    benches = ("--bench", "cpu", "--bench", "cpu_malloc")
    paths = cargo("bench", "--no-run", "--no-default-features", *benches, cwd=ROOT)
    return paths | cargo("build", "--release", cwd=HERE / "candle")


def providers(paths, python):
    """Each provider's command and the variant it is asked for."""
    ours, malloc, peer = [paths["cpu"]], [paths["cpu_malloc"]], [paths["candle-peer"]]
    torch = [python, "-W", "ignore", str(HERE / "torch_worker.py")]
    return {
        "metal-candle": (ours, "ours"),
        "metal-candle+malloc": (malloc, "ours"),
        "candle": (malloc, "composed"),
        "candle+mimalloc": (ours, "composed"),
        "candle_nn": (malloc, "candle_nn"),
        "candle_nn+mimalloc": (ours, "candle_nn"),
        "candle-transformers": (peer, "default"),
        "torch": (torch, "eager"),
        "torch-compile": (torch, "compile"),
    }


class Worker:
    def __init__(self, command, threads):
        count = str(threads)
        env = os.environ | {"RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        cpus = set(sorted(os.sched_getaffinity(0))[:threads])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env | {"CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        self.first = None
        self.line()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker died with {self.process.wait()}: {self.process.args}")
        return line

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.line())
        if "error" not in answer:
            self.first = self.first or answer
        return answer

    def cpu_ticks(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


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


def interleave(names, rounds, ask):
    """`ask(name)` for every name in every round, there and back; the answers by name."""
    answers = {name: [] for name in names}
    for round in range(rounds):
        for name in names if round % 2 == 0 else names[::-1]:
            if round > 0 and not answers[name]:
                continue  # It has no such case.
            answer = ask(name)
            if "error" in answer:
                print(f"    {name}: {answer['error']}", file=sys.stderr)
                answers[name] = []
            else:
                answers[name].append(answer)
            time.sleep(PAUSE)
    return {name: given for name, given in answers.items() if given}


def percentiles(samples):
    samples = sorted(samples)
    at = lambda p: samples[min(len(samples) - 1, round(p * (len(samples) - 1)))]
    return statistics.median(samples), at(0.2), at(0.8)


def deviations(row, values, tolerance):
    """How far each provider's numbers are from ours, relative, where that is more than rounding explains.

    Candle's own half-precision sums are off by so much that they are only reported; anybody else is refused.
    """
    ours = values.get(cases.OURS) or next(iter(values.values()))
    found = {}
    for name, given in values.items():
        off = [abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in zip(given, ours)]
        found[name] = max(off) if len(given) == len(ours) else float("inf")
        if found[name] > tolerance and not (name.startswith("candle") and math.isfinite(found[name])):
            raise SystemExit(f"{row}: {name} computes {given}, and {cases.OURS} {ours}")
    return {name: round(off, 4) for name, off in found.items() if off > tolerance}


TOLERANCE = {"f32": 1e-4, "bf16": 3e-2, "f16": 1e-2}


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

            def ask(name):
                return ask_watched(worker(name), request | {"variant": self.providers[name][1], "seconds": seconds})

            answers = interleave(names, self.args.rounds, ask)
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

            interleave(list(workers), 1, ask)  # Warm-up and compilation.
            answers = interleave(list(workers), self.args.rounds, ask)
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
        if not (path / "model.safetensors").exists():
            subprocess.run([self.args.python, str(HERE / "make_model.py"), str(path)], check=True)
        return path


def row_name(case, request):
    if "op" in request:
        return f"{case.op} {request['pass']} {'x'.join(map(str, case.shape))} {request['dtype']}"
    return f"{case.job} {request['dtype']}"


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


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

    def output(*command):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    lock = (ROOT / "Cargo.lock").read_text()
    locked = lambda name: re.search(rf'name = "{name}"\nversion = "(.+)"', lock)[1]
    code = (
        "import importlib.metadata as m, json, platform;"
        "v = {p: m.version(p) for p in ('torch', 'transformers', 'peft')};"
        "print(json.dumps(v | {'python': platform.python_version()}))"
    )
    versions = {"metal-candle": locked("metal-candle"), "candle": locked("candle-core")}
    versions |= json.loads(output(args.python, "-c", code) or "{}")
    versions["rustc"] = output("rustc", "--version").split()[1]
    changed = "+changes" if output("git", "status", "--porcelain", "src", "Cargo.toml", "Cargo.lock") else ""
    return {
        "device": device(args.threads),
        "threads": args.threads,
        "versions": versions,
        "commit": output("git", "rev-parse", "--short=12", "HEAD") + changed,
        "date": datetime.date.today().isoformat(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the Python that has requirements.txt installed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.4, help="for an op, a provider and a round")
    parser.add_argument("--count", type=int, default=3, help="steps or generations, for a job, a provider and a round")
    parser.add_argument("--cases", default="", help="a regular expression; a row is named as it is printed")
    parser.add_argument("--providers", default="", help="a regular expression")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    bench = Bench(args)
    bench.ops()
    bench.jobs()
    print(f"wrote {bench.path}")


if __name__ == "__main__":
    main()
