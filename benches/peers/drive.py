"""What drives workers, for the CPU (run.py) and for a GPU (gpu.py) alike."""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Worker:
    """A process that answers requests: on the first `threads` cores and without a GPU, or on all of them."""

    def __init__(self, command, threads=None, env=None):
        env = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"} | (env or {})
        pin = None
        if threads:
            names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
            env |= {name: str(threads) for name in names} | {"CUDA_VISIBLE_DEVICES": ""}
            cpus = set(sorted(os.sched_getaffinity(0))[:threads])
            pin = lambda: os.sched_setaffinity(0, cpus)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=env, preexec_fn=pin, **pipes)
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


def interleave(names, rounds, ask, pause):
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
            time.sleep(pause)
    return {name: given for name, given in answers.items() if given}


def percentiles(samples):
    samples = sorted(samples)
    at = lambda p: samples[min(len(samples) - 1, round(p * (len(samples) - 1)))]
    return statistics.median(samples), at(0.2), at(0.8)


def deviation(values, reference):
    """How far numbers are from others, relative; infinite where they are not as many."""
    off = [abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in zip(values, reference)]
    return max(off, default=0.0) if len(values) == len(reference) else float("inf")


TOLERANCE = {"f32": 1e-4, "bf16": 3e-2, "f16": 1e-2}


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def output(*command):
    """What a command prints; nothing where there is no such command."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def locked(name):
    """The version of a dependency."""
    return re.search(rf'name = "{name}"\nversion = "(.+)"', (ROOT / "Cargo.lock").read_text())[1]


def commit():
    changed = "+changes" if output("git", "status", "--porcelain", "src", "Cargo.toml", "Cargo.lock") else ""
    return output("git", "rev-parse", "--short=12", "HEAD") + changed


def installed(python, packages):
    """The versions of Python's packages, of those that are there."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {}\n"
        "for p in sys.argv[1:]:\n"
        "    try: found[p] = m.version(p)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found | {'python': platform.python_version()}))"
    )
    return json.loads(output(python, "-c", code, *packages) or "{}")


def built(*args, cwd=ROOT, env=None):
    """Builds with Cargo; the paths of what it made, by name."""
    command = ["cargo", *args, "--message-format=json-render-diagnostics"]
    how = {"cwd": cwd, "env": os.environ | (env or {}), "check": True, "text": True}
    lines = subprocess.run(command, stdout=subprocess.PIPE, **how).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}
