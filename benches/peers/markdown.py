"""Tables in Markdown."""


def digits(x):
    return f"{x:.3g}" if x < 100 else f"{x:,.0f}".replace(",", " ")


def factor(ratio):
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def table(head, rows):
    """The first column to the left, numbers to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
