"""Writes the text that the quickstart model is pre-trained on.

    python assets/make_corpus.py OUT_DIR [--stories N] [--chats N] [--valid N] [--seed N]

OUT_DIR gets `train.jsonl` and `valid.jsonl`, a line each `{"text": ...}`: stories as they are
and conversations in the model's chat format. Python's standard library only; the same
arguments write the same bytes.
"""

import argparse
import json
import pathlib
import re

from corpus import persona, questions, short_stories, stories, words
from corpus.grammar import Grammar

SYSTEM = [
    "You are a helpful assistant.", "You are a friendly assistant.", "You are Candle, a small language model.",
    "Answer in short and simple sentences.", "You are a kind helper who tells stories.",
]
SHORTEST, LONGEST = 60, 195  # pieces (`PIECE`) in a row: 60 to 256 tokens
PIECE = re.compile(r"<\|\w+\|>|\w+|[^\w ]")


def render(messages):
    """The chat template of `model/tokenizer_config.json`."""
    turns = [f"<|im_start|>{role}\n{content}<|im_end|>" for role, content in messages]
    return "\n".join(turns)


def conversation(g):
    """A conversation: perhaps a greeting, some questions, perhaps a goodbye."""
    messages = [("system", g.pick(SYSTEM))] if g.chance(0.1) else []
    turns = [persona.hello(g)] if g.chance(0.15) else []
    if g.chance(0.4):
        turns.append(short_stories.long_story(g))
        if g.chance(0.3):
            turns.append(persona.bye(g))
    else:
        target = g.rng.randint(30, 120)
        while sum(len((q + " " + a).split()) for q, a in turns) < target:
            turn = questions.ask(g, questions.TOPICS + questions.COPIES)
            if turn[0] not in [q for q, _ in turns]:
                turns.append((turn[0], questions.lead_in(g, turn[1]) if g.chance(0.12) else turn[1]))
        if g.chance(0.2):
            turns.append(persona.bye(g))
    for question, answer in turns:
        messages += [("user", question), ("assistant", answer)]
    return render(messages)


def story(g):
    return stories.tell(g)[0]


def rows(g, n_stories, n_chats, seen):
    """Rows of both kinds, shuffled, none of them in `seen`."""
    out = []
    for make, n in ((story, n_stories), (conversation, n_chats)):
        made = 0
        while made < n:
            text = make(g)
            if text not in seen and SHORTEST <= len(PIECE.findall(text)) <= LONGEST:
                seen.add(text)
                out.append(text)
                made += 1
    g.rng.shuffle(out)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--stories", type=int, default=4500)
    parser.add_argument("--chats", type=int, default=11000)
    parser.add_argument("--valid", type=int, default=300, help="rows held out")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    g = Grammar(args.seed, words.RULES)
    args.out.mkdir(parents=True, exist_ok=True)
    seen = set()
    parts = {
        "train": rows(g, args.stories, args.chats, seen),
        "valid": rows(g, args.valid * 2 // 5, args.valid - args.valid * 2 // 5, seen),
    }
    for name, texts in parts.items():
        path = args.out / f"{name}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        print(f"{path}: {len(texts)} rows, {sum(map(len, texts))} characters")


if __name__ == "__main__":
    main()
