"""A template language: `[a|b]` picks one, `<rule>` expands a rule, `{slot}` inserts a value.

    text = Grammar(seed).say("{a} saw [a|one] {o.full}. <happy>", a=..., o=...)

Alternatives nest and may be empty. Slots are Python format fields, so `{a.he}` reads an
attribute. Afterwards `tidy` puts the articles (a, an), capitals and spaces right.
"""

import random
import re

# Words whose first letter misleads: "an hour", "a unicorn".
AN = ("hour", "honest")
A = ("uni", "use", "one")


class Grammar:
    """A seeded generator over a set of rules (name -> list of templates)."""

    def __init__(self, seed, rules=None):
        self.rng = random.Random(seed)
        self.rules = rules or {}
        self.parsed = {}

    def pick(self, items):
        """One of `items`."""
        return self.rng.choice(items)

    def chance(self, p):
        """True with probability `p`."""
        return self.rng.random() < p

    def sample(self, items, n):
        """`n` different items, in random order."""
        return self.rng.sample(items, n)

    def some(self, items, n):
        """`n` different items in their own order, so that a small model need not track which were used."""
        return [items[i] for i in sorted(self.rng.sample(range(len(items)), n))]

    def say(self, template, **slots):
        """Expands a template into finished text."""
        return tidy(self.expand(template, slots))

    def expand(self, template, slots):
        """Expands a template without tidying it."""
        tree = self.parsed.get(template)
        if tree is None:
            tree = self.parsed[template] = parse(template)
        return self._walk(tree, slots)

    def _walk(self, node, slots):
        out = []
        for kind, value in node:
            if kind == "text":
                out.append(value.format(**slots))
            elif kind == "rule":
                out.append(self.expand(self.pick(self.rules[value]), slots))
            else:
                out.append(self._walk(self.pick(value), slots))
        return "".join(out)


def parse(template):
    """A template as a list of (kind, value): text, rule, or pick (a list of such lists)."""
    root = []
    stack = [[root]]  # each level: the alternatives read so far, the last one still open
    for piece in re.findall(r"\[|\]|\||<\w+>|[^\[\]|<]+", template):
        here = stack[-1]
        if piece == "[":
            stack.append([[]])
        elif piece == "|" and len(stack) > 1:
            here.append([])
        elif piece == "]":
            done = stack.pop()
            stack[-1][-1].append(("pick", done))
        elif piece.startswith("<"):
            here[-1].append(("rule", piece[1:-1]))
        else:
            here[-1].append(("text", piece))
    if len(stack) != 1:
        raise ValueError(f"unbalanced brackets: {template}")
    return root


def article(match):
    """The article that fits the word after it."""
    word, following = match.group(1), match.group(2)
    vowel = following[0].lower() in "aeiou"
    if following.lower().startswith(AN):
        vowel = True
    if following.lower().startswith(A):
        vowel = False
    return f"{word[0]}{'n' if vowel else ''} {following}"


def tidy(text):
    """Spaces, a/an, and a capital after each full stop."""
    text = re.sub(r"[ \t]+", " ", text).strip()
    text = re.sub(r" ([.,!?;:])", r"\1", text)
    text = tidy_article(text)
    return re.sub(r'(^"?|[.!?] |\n)([a-z])', lambda m: m.group(1) + m.group(2).upper(), text)


def listing(items, joint="and"):
    """"a", "a and b", "a, b, and c"."""
    items = list(items)
    if len(items) < 3:
        return f" {joint} ".join(items)
    return ", ".join(items[:-1]) + f", {joint} {items[-1]}"


def tidy_article(text):
    """Puts a/an right, and nothing else."""
    return re.sub(r"\b([Aa])n? (\w+)", article, text)
