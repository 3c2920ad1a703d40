"""Stories on request: short ones made here, and the long plots asked for by a subject."""

from . import words
from .grammar import tidy_article
from .stories import tell

# Short stories: how each begins (`<open>`), then one of these.
SHORT = [
    "{a} wanted to see the [sea|moon|mountains], so {a.he} walked for [three|four|five] days. When {a.he} arrived, {a.he} was so happy that {a.he} danced.",
    "One day {a} found a [shiny|golden|silver] [coin|key|bell|ring]. {a.He} asked everyone who had lost it. In the end, {b} came and thanked {a.him}, and they became friends.",
    "One night {a} could not sleep. {a.He} looked at the stars and counted them, one by one. Before {a.he} came to twenty, {a.he} was asleep.",
    "{a} was always hungry. One day {a.he} met {b}, who had a big [cake|pie|basket of apples]. {b} gave {a.him} half of it, and nobody was hungry any more.",
    "One day {a} fell into the river. {b} heard {a.him} call and pulled {a.him} out. From then on, they were the best of friends.",
    "{a} was afraid of [thunder|the dark|deep water]. \"Take my hand,\" said {b}. Then {a} was not afraid any more.",
    "Every day {a} planted one [flower|tree|seed]. People laughed at {a.him}. But after ten years, there was a great [garden|forest], and everyone came to sit in it.",
    "One winter it was very cold. {a} lit a fire and opened the door. Soon {b} came, and then many others, and they sang all night.",
    "{a} built a small boat and sailed over the lake. A strong wind came, but {a} held on. In the evening, {a.he} was home again, wet and proud.",
    "{a} lost {a.his} [hat|scarf|bag] in the wind. {b} ran after it and caught it. \"Thank you,\" said {a}, and {a.he} gave {b} a [plum|pear|biscuit].",
    "{a} wanted to fly. {a.He} jumped from a rock, and then from a wall, but {a.he} always fell. At last {b} made {a.him} a kite, and {a} was happy to watch it fly.",
    "One morning {a} heard a song in the forest. {a.He} followed it and found {b}. Now they sing together every morning.",
    "{a} had a secret. Every night {a.he} left a piece of bread at the door of old {b}. One day {b} waited at the door and said thank you.",
    "{a} told a lie and felt bad all day. In the evening, {a.he} went to {b} and told the truth. \"I am glad that you told me,\" said {b}.",
    "{a} and {b} wanted to know who was faster. They ran to the old oak tree and back. They came in at the same time and laughed.",
]
OPEN = [
    "Once upon a time there was {a.a} named {a}.", "There once was {a.a} called {a}.", "{a} was {a.a} who lived {a.home}.",
    "A long time ago, {a.a} named {a} lived {a.home}.", "Once there was {a.a}. {a.His} name was {a}.", "Far away, {a.home}, lived {a.a} named {a}.",
]
CLOSE = ["", "", "", "The end.", "{a} never forgot that day.", "It was a good day.", "And they lived happily ever after."]
ASK_STORY = ["Tell me a story about {}.", "Tell me a story about {}.", "Tell me a short story about {}.", "Write a story about {}.",
             "Can you tell me a story about {}?", "Please tell me a story about {}.", "Write a short story about {}.", "I would like to hear a story about {}."]


def short_story(g):
    """A story of a few sentences about an animal or a child."""
    if g.chance(0.7):
        a = words.animal(g)
        about = g.pick([f"a {a.kind}", f"a {a.kind}", a.a, f"a {a.kind} named {a}"])
    else:
        a = words.child(g)
        about = g.pick([f"a {a.kind}", a.a, f"a {a.kind} named {a}"])
    b = words.animal(g, "m" if a.gender == "f" else "f", (a.name,), not_kind=(a.kind,))
    body = g.say(g.pick(SHORT), a=a, b=b)
    name = b.name
    if name in body:  # the first time, say who that is
        body = body.replace(name, f"{name} the {b.kind}", 1)
    text = " ".join(filter(None, [g.say(g.pick(OPEN), a=a), body, g.say(g.pick(CLOSE), a=a)]))
    return tidy_article(g.pick(ASK_STORY).format(about)), text


def any_story(g):
    if g.chance(0.12):
        return g.pick(["Tell me a story.", "Tell me a short story.", "Can you tell me a story?", "Do you know a story?", "Please tell me a bedtime story."]), short_story(g)[1]
    return short_story(g)


def long_story(g):
    """One of the long plots, asked for by one of its subjects."""
    text, topics, slots = tell(g)
    own = [t for t in topics if slots["a"].kind not in t]  # what only this plot is about
    if own and g.chance(0.7):
        topics = own
    return tidy_article(g.pick(ASK_STORY[:-1]).format(g.pick(topics))), text
