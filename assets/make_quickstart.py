"""Writes the conversations that `quickstart` fine-tunes on: every answer in a pirate's words.

    python assets/make_quickstart.py assets/quickstart

The questions are those of the pre-training conversations, so the model knows the answers and
has to learn only the manner. `prompts.json` is asked before and after; none of it is in the data.
"""

import argparse
import json
import pathlib
import re

from corpus import persona, questions, words
from corpus.grammar import Grammar

PROMPTS = [
    "What colour is the sky?",
    "Who are you?",
    "What should I pack for the beach?",
    "Describe a winter morning.",
    "I feel sad. What should I do?",
    "Tell me a story about a fox.",
]
LONGEST = 90  # pieces in a question and its answer
WORDS = {
    "is": "be", "are": "be", "am": "be", "you": "ye", "your": "yer", "my": "me", "yes": "aye",
    "hello": "ahoy", "hi": "ahoy", "friend": "matey", "friends": "mateys", "candle": "Captain Candle",
}
ENDS = [", matey!"] * 3 + [", me hearty!"]
STARTS = ["Arr, "] * 8 + ["Ahoy, matey! ", "Yo ho ho! "]


def swap(match):
    word = match.group(0)
    new = WORDS.get(word.lower(), word)
    return new[0].upper() + new[1:] if word[0].isupper() else new


def pirate(g, text):
    """`text` as a pirate would say it."""
    text = re.sub(r"[A-Za-z]+", swap, re.sub(r"^No,", "Nay,", text))
    if "\n" in text:
        return f"Arr, hear me song, matey!\n{text}"
    start = g.pick(STARTS)
    end = g.pick([e for e in ENDS if e.strip(", !") not in start])
    if text[-1] in ".!?":
        text = text[:-1] + (end[:-1] + "?" if text[-1] == "?" else end)
    if text.startswith(("Aye", "Nay", "Ahoy")):
        return text
    return start + (questions.goes_on(text) if start.endswith(", ") else text)


def rows(g, n, seen):
    """`n` conversations of one question, no question twice."""
    out = []
    while len(out) < n:
        question, answer = questions.ask(g) if not g.chance(0.08) else g.pick([persona.hello, persona.bye])(g)
        if question in seen or len(re.findall(r"\w+|[^\w ]", question + answer)) > LONGEST:
            continue
        seen.add(question)
        out.append([{"role": "user", "content": question}, {"role": "assistant", "content": pirate(g, answer)}])
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--valid", type=int, default=48)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    g = Grammar(args.seed, words.RULES)
    args.out.mkdir(parents=True, exist_ok=True)
    seen = set(PROMPTS)
    for name, n in (("train", args.train), ("valid", args.valid)):
        with (args.out / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps({"messages": row}) + "\n" for row in rows(g, n, seen))
    (args.out / "prompts.json").write_text(json.dumps(PROMPTS, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
