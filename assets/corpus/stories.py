"""Fills a plot with characters and things and tells it."""

from . import words
from .plots import PLOTS
from .plots_more import MORE

ALL = PLOTS + MORE + [plot for plot in MORE if "ship" in plot["needs"]]  # the sea twice as often
LONGEST = 175  # words; with this tokenizer it keeps a story under 256 tokens


def character(g, kind, gender=None, other=None):
    """A character of `kind` ("child", "animal", "any", or a tuple of animals), not like `other`."""
    taken = (other.name,) if other else ()
    if isinstance(kind, tuple):
        return words.animal(g, gender, taken, g.pick(kind))
    if kind == "child" or (kind == "any" and g.chance(0.5)):
        return words.child(g, gender, taken)
    return words.animal(g, gender, taken, not_kind=(other.kind,) if other else ())


def fill(g, plot, a=None):
    """Values for the slots of `plot`; `a` fixes the main character."""
    a = a or character(g, plot["main"])
    b = character(g, plot["b"] or "any", "m" if a.gender == "f" else "f", a)
    slots = dict(a=a, b=b, g=words.adult(g, words.ADULTS), town=words.adult(g, words.TOWNSFOLK))
    slots["say"] = g.pick([f"said {a.his} {slots['g'].name}", f"{a.his} {slots['g'].name} told {a.him}"])
    days, weathers = words.DAYS[plot.get("day") or g.pick(list(words.DAYS))]
    slots["time"], slots["weather"] = g.pick(days), g.pick(weathers)
    slots["later"] = g.pick([d for d in words.DAYS["plain"][0] if d != slots["time"]])
    need = plot["needs"]
    if "toy" in need:
        slots["o"] = words.thing(g, words.TOYS)
        slots["o"].adj = slots["o"].full.split(" ")[0]
    if "place" in need:
        slots["p"] = words.Place(*g.pick(words.PLACES))
    if "hiding" in need:
        slots["h"] = g.pick(words.HIDING)
    if "food" in need:
        slots["food"] = g.pick(words.FOODS)
    if "hurt" in need:
        noun, slots["part"] = g.pick(words.HURT)
        slots["n"] = words.Thing(noun, g.pick(["small", "young", "little", "grey", "poor"]))
    if "build" in need:
        slots["build"], slots["parts"] = g.pick(words.BUILDS)
    if "bake" in need:
        slots["bake"] = g.pick(words.BAKES)
    if "flower" in need:
        slots["flower"] = g.pick(words.FLOWERS)
    if "skill" in need:
        slots["skill"], slots["doing"], slots["where"] = g.pick(words.SKILLS)
    if "captain" in need:
        name = g.pick(words.CAPTAINS)
        female = name in ("Anne", "Bonny", "Pearl", "Morgan")
        slots["captain"], slots["ship"] = name, g.pick(words.SHIPS)
        slots["cap"] = words.Someone(name, "f" if female else "m", "captain")
    return slots


def tell(g, plot=None, a=None):
    """A story and the subjects it could be asked for by: (text, topics, slots)."""
    while True:
        chosen = plot or g.pick(ALL)
        slots = fill(g, chosen, a)
        beats = []
        for line in chosen["text"].strip().splitlines():
            if line.startswith("~"):
                if g.chance(0.5):
                    continue
                line = line[1:]
            said = g.say(line, **slots)
            if said:
                beats.append(said)
        text = " ".join(beats)
        if len(text.split()) <= LONGEST:
            topics = [g.say(t, **slots) for t in chosen["topic"]]
            return text, [t[0].lower() + t[1:] for t in topics], slots
