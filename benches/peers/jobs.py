"""Whole jobs on an NVIDIA GPU, this crate beside its peers: a LoRA step, decoding, reading a prompt.

Each measurement is a process of its own, so that its peak of memory is the job's. Providers take turns; with more than one
round, every second one goes back. What compiles for a minute takes part in the first round only.
"""

import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from drive import HERE, ROOT, commit, installed, locked, output, percentiles, slug

OURS = "metal-candle"
PACKAGES = ("torch", "transformers", "peft", "liger_kernel", "mlx", "mlx_lm")
BATCH, LENGTH, RANK, PROMPT, TOKENS, LONG = 4, 1024, 16, 128, 128, 8192
ONCE = ("torch_compile",)


def cases():
    """(job, fields, providers), in the order of their weight."""
    step = {"job": "lora_step", "batch": BATCH, "length": LENGTH, "rank": RANK}
    trainers = (OURS, "peft", "peft_liger", "mlx_lm")
    yield step | {"grad_checkpoint": False}, trainers + ("torch_compile",)
    yield {"job": "decode", "batch": 1, "length": TOKENS, "prompt": PROMPT}, (OURS, "transformers", "mlx_lm", "torch_compile")
    yield step | {"grad_checkpoint": True}, trainers
    yield {"job": "decode", "batch": 32, "length": TOKENS, "prompt": PROMPT}, (OURS, "transformers")
    yield {"job": "prefill", "batch": 1, "length": LONG}, (OURS, "transformers")


class Driver:
    def __init__(self, args):
        self.args, self.start, self.lines = args, time.monotonic(), []
        about = json.loads(args.about.read_text()) if args.about else None
        versions = (about or {}).get("versions") or {OURS: locked(OURS), "candle": locked("candle-core")}
        driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
        self.about = {
            "versions": versions | installed(args.python, PACKAGES) | {"driver": driver},
            "commit": (about or {}).get("commit") or commit(),
            "device": output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").split("\n")[0] or "no GPU",
            "date": datetime.date.today().isoformat(),
        }

    def run(self, command):
        left = self.args.limit - (time.monotonic() - self.start)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=min(150, max(left, 1)))
        except subprocess.TimeoutExpired:
            return None, "no answer in time"
        return (done.stdout, None) if done.returncode == 0 else (None, done.stderr.strip()[-300:])

    def ours(self, model, case):
        """The lines of one run of the binary: what was asked for, and the time of a first step or token."""
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
            common = ["--model", str(model), "--random-weights", "--dtype", "bf16", "--results", out.name]
            command = [str(self.args.binary), "bench"]
            if case["job"] == "lora_step":
                words = ["--batch-size", case["batch"], "--length", case["length"], "--rank", case["rank"], "--steps", 20]
                command += ["train", *common, *map(str, words)] + ["--grad-checkpoint"] * case["grad_checkpoint"]
            else:
                prompt = case["length"] if case["job"] == "prefill" else case["prompt"]
                tokens = 1 if case["job"] == "prefill" else case["length"]
                words = ["--batch-size", case["batch"], "--prompt-tokens", prompt, "--tokens", tokens, "--repeats", 5]
                command += ["generate", *common, *map(str, words)]
            _, error = self.run(command)
            if error is not None:
                return [], error
            lines = [json.loads(line) for line in pathlib.Path(out.name).read_text().splitlines()]
        return [line for line in lines if line["job"] in (case["job"], "first_step", "first_token")], None

    def peer(self, provider, model, case):
        request = case | {"provider": provider, "model": str(model), "samples": 5 if case["job"] == "decode" else 20}
        answer, error = self.run([self.args.python, "-W", "ignore", str(HERE / "jobs_worker.py"), json.dumps(request)])
        if error is not None:
            return [], error
        answer = json.loads(answer.splitlines()[-1])
        median, low, high = percentiles(answer["samples_ms"])
        tokens = case["batch"] * (1 if case["job"] == "decode" else case["length"])
        fields = ("job", "batch", "length", "rank", "grad_checkpoint")
        return [
            {name: case[name] for name in fields if name in case}
            | {
                "provider": provider,
                "dtype": "bf16",
                "median_ms": median,
                "p20_ms": low,
                "p80_ms": high,
                "samples": len(answer["samples_ms"]),
                "tokens_per_s": tokens / median * 1e3,
                "peak_gb": answer["peak_gb"],
            }
        ], None

    def measure(self):
        models = sorted((HERE / "shapes").iterdir())
        for case, providers in cases():
            for model in models:
                for round in range(self.args.rounds):
                    for provider in providers if round % 2 == 0 else providers[::-1]:
                        if (round > 0 and provider in ONCE) or not re.search(self.args.providers, provider):
                            continue
                        if time.monotonic() - self.start > self.args.limit:
                            print("the time is over", file=sys.stderr)
                            return
                        found = self.ours(model, case) if provider == OURS else self.peer(provider, model, case)
                        self.take(found, model.name, case, provider, round)

    def take(self, found, model, case, provider, round):
        lines, error = found
        if error is not None:
            print(f"{model} {case['job']}: {provider}: {error}", file=sys.stderr)
        for line in lines:
            line |= {"model": model, "round": round} | self.about
            self.lines.append(line)
            print(f"{model:<16} {line['job']:<11} {line['batch']:>2} x {line['length']:<5} {provider:<14} {line['median_ms']:>9.2f} ms {line['peak_gb']:.2f} GB", flush=True)
        self.args.out.write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "metal-candle", help="built with --features cuda")
    parser.add_argument("--about", type=pathlib.Path, help="an about.json that names the binary's commit and versions")
    parser.add_argument("--python", default=sys.executable, help="one that has the peers")
    parser.add_argument("--providers", default="", help="a regular expression")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3600, help="start nothing after so many seconds")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    driver = Driver(args)
    name = f"{driver.about['date']}-{slug(driver.about['device'])}-jobs.jsonl"
    args.out = args.out or ROOT / "benches" / "results" / name
    driver.measure()


if __name__ == "__main__":
    main()
