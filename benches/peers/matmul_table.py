"""Renders the tables of docs/matmul.md from what `metal-candle bench matmul --results` wrote."""

import json

from drive import ROOT
from markdown import digits, table

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
PAGE = ROOT / "docs" / "matmul.md"


def cell(row, best):
    if row is None:
        return "–"
    text = f"{digits(row['median_us'])} ({digits(row['p20_us'])} to {digits(row['p80_us'])})"
    return f"**{text}**" if row["median_us"] == best else text


def section(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    about = rows[0]
    providers = sorted({r["provider"] for r in rows})
    head = ["product", "dtype"] + [f"{p}, µs" for p in providers]
    by_key = {(r["shape"], r["dtype"], r["provider"]): r for r in rows}
    body = []
    for shape, dtype in dict.fromkeys((r["shape"], r["dtype"]) for r in rows):
        found = [by_key.get((shape, dtype, p)) for p in providers]
        best = min(r["median_us"] for r in found if r)
        body.append([shape, dtype] + [cell(r, best) for r in found])
    name = path.relative_to(ROOT)
    return f"""### {about['device']}

`metal-candle bench matmul --results {name}`, {about['date']}, {about['versions']}. Medians, and 20 to 80 % of the samples; the
fastest in bold.

{table(head, body)}
"""


def write():
    """The newest file of each device's name."""
    newest = {}
    for path in sorted((ROOT / "benches" / "results").glob("*-matmul.jsonl")):
        newest[path.name.split("-", 3)[-1]] = path
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    text = "\n".join(section(path) for path in newest.values())
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
