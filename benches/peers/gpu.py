"""The benchmark on a GPU: run.py --device cuda."""

import concurrent.futures
import datetime
import json
import lzma
import re
import shutil
import time

import gpu_cases
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
from gpu_cases import CASES, OURS, needs

PACKAGES = ("torch", "triton", "liger_kernel", "mlx")
# Workers that fill the caches of those that compile kernels at run time, all at once, before anything is measured.
AHEAD = {"torch_compile": 8, "mlx": 4, "composed": 1}
# Each compiles by itself: they are many.
ENV = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "MLX_ENABLE_TF32": "0"}


def build():
    """The worker for an NVIDIA GPU; candle_nn has its kernels for one behind a feature of its own."""
    return built("bench", "--no-run", "--features", "cuda,candle-nn/cuda", "--bench", "cuda")["cuda"]


def pack(directory):
    """The worker and what the rows say of it, for a machine that cannot build it."""
    directory.mkdir(parents=True, exist_ok=True)
    plain, packed = directory / "worker", directory / "worker.xz"
    shutil.copy(build(), plain)
    output("strip", str(plain.resolve()))
    packed.write_bytes(lzma.compress(plain.read_bytes(), preset=3))
    plain.unlink()
    (directory / "about.json").write_text(json.dumps(origin()))
    return packed


def origin():
    """Where the worker comes from."""
    versions = {"metal-candle": locked("metal-candle"), "candle": locked("candle-core")}
    return {"versions": versions | {"rustc": output("rustc", "--version").split()[1]}, "commit": commit()}


class Gpu:
    def __init__(self, args):
        self.args = args
        kind = "cpu" if args.smoke else "cuda"
        script = lambda name, *words: [args.python, "-W", "ignore", str(HERE / name), *words]
        worker = [str(args.worker or build())]
        torch = lambda name: script("torch_worker.py", kind, name)
        self.providers = {
            OURS: (worker, "ours"),
            "composed": (worker, "composed"),
            "candle_nn": (worker, "candle_nn"),
            "base": (worker, "base"),
            "mlx": (script("mlx_worker.py", "cpu" if args.smoke else "gpu"), "mlx"),
            "torch": (torch("eager"), "eager"),
            "torch_compile": (torch("compile"), "compile"),
            "liger": (torch("liger"), "liger"),
        }
        self.workers, self.lost = {}, []
        self.pool = concurrent.futures.ThreadPoolExecutor(32)
        self.start = time.monotonic()

    def worker(self, name):
        key = tuple(self.providers[name][0])
        if key not in self.workers:
            self.workers[key] = Worker(list(key), env=ENV)
        return self.workers[key]

    def ask(self, name, request):
        """The answer of a provider's worker, which a new one replaces when it died."""
        request = request | {"variant": self.providers[name][1]}
        try:
            return self.worker(name).ask(request)
        except (RuntimeError, BrokenPipeError) as error:
            self.workers.pop(tuple(self.providers[name][0]), None)
            return {"error": str(error)}

    def everywhere(self, names, request):
        """Asks every provider at once, and those of one worker one after the other."""
        groups = {}
        for name in names:
            groups.setdefault(tuple(self.providers[name][0]), []).append(name)
        answer = lambda group: [(name, self.ask(name, request)) for name in group]
        return {name: given for group in self.pool.map(answer, groups.values()) for name, given in group}

    def rows(self):
        for case in CASES:
            for request in case.requests(self.args.smoke):
                row = f"{case.op} {case.passes} {'x'.join(map(str, request['shape']))} {request['dtype']}"
                names = [name for name in case.providers if re.search(self.args.providers, name)]
                if re.search(self.args.cases, row) and names:
                    yield case, request, row, names

    def compile_ahead(self, rows):
        """Fills the caches on disk of torch.compile, MLX, and the driver for Candle's kernels."""

        def some(name, requests):
            command, variant = self.providers[name]
            worker = Worker(list(command), env=ENV)
            for request in requests:
                # One set of inputs: they are not measured.
                worker.ask(request | {"variant": variant, "sets": 1})
                worker.ask({"op": "drop"})
            worker.close()

        shares = []
        for name, count in AHEAD.items():
            # Candle's kernels are the same for every shape.
            small = name == "composed"
            cases = [next(case.requests(True)) if small else request for case, request, _, names in rows if name in names]
            shares += [(name, cases[i::count]) for i in range(min(count, len(cases)))]
        list(self.pool.map(lambda share: some(*share), shares))

    def run(self):
        rows = list(self.rows())
        # Processes start together.
        list(self.pool.map(self.worker, {tuple(self.providers[n][0]): n for r in rows for n in r[3]}.values()))
        ceilings = {} if self.args.smoke else self.worker("torch").ask({"op": "ceilings"})
        self.about = self.describe(ceilings.get("device", "a try on the CPU"))
        name = f"{self.about['date']}-{slug(self.about['device'])}.jsonl"
        self.path = self.args.out or ROOT / "benches" / "results" / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w") as self.out:
            self.rates = {}
            self.write_ceilings(ceilings)
            if not self.args.smoke:
                self.compile_ahead(rows)
                self.log(f"compiled after {self.elapsed():.0f} s")
            for row in rows:
                if self.args.limit and self.elapsed() > self.args.limit:
                    self.lost.append(f"{row[2]}: not measured, the time was up")
                else:
                    self.measure(*row)
        for worker in self.workers.values():
            worker.close()
        self.log(f"{self.path}, after {self.elapsed():.0f} s")
        for line in self.lost:
            self.log(line)

    def elapsed(self):
        return time.monotonic() - self.start

    def log(self, line):
        print(line, flush=True)

    def measure(self, case, request, row, names):
        self.log(f"{row} ({self.elapsed():.0f} s)")
        prepared = self.everywhere(names, request)
        for name, answer in prepared.items():
            if "error" in answer:
                self.lost.append(f"{row}: {name}: {answer['error']}")
        there = [name for name in names if "error" not in prepared[name]]
        off = self.deviations(row, {n: prepared[n]["check"] for n in there}, TOLERANCE[request["dtype"]])
        for method in case.methods:
            if method == "gpu" and self.args.smoke:
                continue
            asked = [name for name in there if not (name == "mlx" and method == "gpu")]
            wanted = request | {"method": method, "seconds": self.args.seconds}
            answers = interleave(asked, self.args.rounds, lambda name: self.ask(name, wanted), 0)
            for name, given in answers.items():
                samples = [s for answer in given for s in answer["samples_us"]]
                fields = {"samples": len(samples)}
                if prepared[name].get("extra_bytes") is not None:
                    fields["extra_mb"] = round(prepared[name]["extra_bytes"] / 1e6, 2)
                if name in off:
                    fields["deviation"] = off[name]
                self.write(request, name, method, samples, fields)
        self.everywhere({tuple(self.providers[n][0]): n for n in names}.values(), {"op": "drop"})

    def deviations(self, row, checks, tolerance):
        """Who is further from torch, or from the first that is compared, than rounding explains."""
        checks = {name: check for name, check in checks.items() if check is not None}
        reference = checks.get("torch", next(iter(checks.values()), None))
        # The frozen product alone is another computation.
        off = {name: deviation(check, reference) for name, check in checks.items() if name != "base"}
        for name, by in off.items():
            if by > tolerance:
                self.lost.append(f"{row}: {name} is off by {by:.3g}: {checks[name]}, not {reference}")
        return {name: min(round(by, 4), 1e9) for name, by in off.items() if by > tolerance}

    def write(self, request, name, method, samples, fields):
        shape = "x".join(map(str, request["shape"]))
        median, p20, p80 = percentiles(samples)
        times = {"median_us": median, "p20_us": p20, "p80_us": p80, "floor_us": self.floor(request)}
        line = {"op": request["op"], "pass": request["pass"], "shape": shape, "dtype": request["dtype"]}
        line |= {"provider": name} | {k: v and round(v, 3) for k, v in times.items()}
        line |= {"method": method} | fields | self.about
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()
        share = f"{times['floor_us'] / median:6.1%} of the floor" if times["floor_us"] else ""
        wrong = f"   off by {fields['deviation']:.1%}" if "deviation" in fields else ""
        self.log(f"    {method:<14}{name:<15}{median:>11.2f} µs   {p20:.2f} to {p80:.2f}   {share}{wrong}")

    def floor(self, request):
        """The least time, in µs: of the bytes at the speed of a copy, or of the operations at that of a product."""
        if not self.rates:
            return None
        dtype = request["dtype"]
        bytes, operations = needs(request["op"], request["pass"], request["shape"], gpu_cases.SIZES[dtype])
        return max(bytes / self.rates["copy"], operations / self.rates[dtype]) / 1e6

    def write_ceilings(self, ceilings):
        """What the floors are reckoned from, as rows of their own."""
        if not ceilings:
            return
        self.rates = {"copy": ceilings["copy"]["tb_per_s"]}
        self.rates |= {dtype: ceilings[f"matmul {dtype}"]["tflops"] for dtype in gpu_cases.SIZES}
        for what, found in ceilings.items():
            if what == "device":
                continue
            op, dtype = what.split()[0], what.split()[1] if " " in what else "f32"
            us = round(found["us"], 3)
            line = {"op": op, "pass": "fwd", "shape": found["shape"], "dtype": dtype, "provider": "torch"}
            line |= {"median_us": us, "p20_us": us, "p80_us": us, "floor_us": us, "method": "back_to_back"}
            line |= {k: round(v, 3) for k, v in found.items() if k in ("tb_per_s", "tflops")} | self.about
            self.out.write(json.dumps(line) + "\n")
            self.log(f"{what}: {line.get('tb_per_s', '')}{line.get('tflops', '')} {'TB/s' if op == 'copy' else 'TFLOP/s'}")

    def describe(self, device):
        """What every row says of the run."""
        about = json.loads(self.args.about.read_text()) if self.args.about else origin()
        versions = about["versions"] | installed(self.args.python, PACKAGES)
        driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
        if driver:
            versions["driver"] = driver[0]
        date = datetime.date.today().isoformat()
        return {"device": device, "versions": versions, "commit": about["commit"], "date": date}
