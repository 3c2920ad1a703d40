"""Renders the tables of docs/matmul.md from what `metal-candle bench matmul` and `bench overhead` wrote by `--results`."""

import json

from drive import ROOT
from markdown import digits, table

PARTS = ["queue", "object", "descriptor", "encode", "commit", "wait", "gpu", "total"]
PAGE = ROOT / "docs" / "matmul.md"


def cell(row, best):
    if row is None:
        return "–"
    text = f"{digits(row['median_us'])} ({digits(row['p20_us'])} to {digits(row['p80_us'])})"
    return f"**{text}**" if row["median_us"] == best else text


def choice(row):
    """What the dispatcher chose, and its time over that of the best backend of the same run."""
    return "–" if row is None else f"{row['auto_of_best']:.3f} ({row['chosen']})"


def share(autos):
    """How far the choice is behind the best backend, in words."""
    if not autos:
        return ""
    near = sum(r["auto_of_best"] <= 1.03 for r in autos)
    most = max(r["auto_of_best"] for r in autos)
    return (
        " The last column is a second run, in which the choice takes turns with the backends: its median over that of the\n"
        f"backend that was best there. It is within 3 % in {near} of {len(autos)} products, and {most:.3f} at most."
    )


def section(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    about = rows[0]
    providers = sorted({r["provider"] for r in rows} - {"auto"})
    autos = [r for r in rows if r["provider"] == "auto"]
    head = ["product", "dtype"] + [f"{p}, µs" for p in providers] + ["auto / best"] * bool(autos)
    by_key = {(r["shape"], r["dtype"], r["provider"]): r for r in rows}
    body = []
    for shape, dtype in dict.fromkeys((r["shape"], r["dtype"]) for r in rows):
        found = [by_key.get((shape, dtype, p)) for p in providers]
        best = min(r["median_us"] for r in found if r)
        body.append([shape, dtype] + [cell(r, best) for r in found])
        if autos:
            body[-1].append(choice(by_key.get((shape, dtype, "auto"))))
    name = path.relative_to(ROOT)
    return f"""### {about['device']}

`metal-candle bench matmul --results {name}`, {about['date']}, {about['versions']}. Medians, and 20 to 80 % of the samples of the
calmer half of the turns; the fastest in bold.{share(autos)}

{table(head, body)}
"""


def overhead(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    about = rows[0]
    if about["no_timings"]:
        raise SystemExit(f"{path}: wants times of a GPU, got those of {about['device']}")
    head = ["n", "mode"] + [f"{part}, µs" for part in PARTS]
    cell = lambda us: "–" if us is None else digits(us)
    body = [[str(r["size"]), r["mode"]] + [cell(r[f"{part}_us"]) for part in PARTS] for r in rows]
    return f"""### {about['device']}

`metal-candle bench overhead --results {path.relative_to(ROOT)}`, {about['date']}, {about['versions']}. Medians.

{table(head, body)}
"""


def put(mark, kind, render):
    """The newest file of each device's name, between two marks of the page."""
    newest = {}
    for path in sorted((ROOT / "benches" / "results").glob(f"*-{kind}.jsonl")):
        newest[path.name.split("-", 3)[-1]] = path
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, rest = PAGE.read_text().split(begin)
    after = rest.split(end)[1]
    text = "".join(f"\n{render(path)}\n" for path in newest.values())
    PAGE.write_text(f"{before}{begin}\n{text}{end}{after}")


def write():
    put("measured", "matmul", section)
    put("overhead", "overhead", overhead)
