"""The conversations: each function makes one (question, answer); `TOPICS` weighs them."""

from . import advice, facts, words
from .grammar import listing, tidy_article
from .persona import NAME, me
from .short_stories import any_story


def cap(text):
    """`text` with a capital."""
    return text[0].upper() + text[1:]


def colour(g):
    thing, shade = g.pick(facts.COLOURED)
    q = g.pick(["What colour is {}?", "What colour is {}?", "What color is {}?", "Tell me the colour of {}.", "Which colour does {} have?"])
    a = g.pick(["{T} is {c}.", "{T} is {c}.", "{T} is usually {c}."])
    return q.format(thing), a.format(T=cap(thing), c=shade)


def is_colour(g):
    thing, shade = g.pick(facts.COLOURED)
    if g.chance(0.5):
        return f"Is {thing} {shade}?", f"Yes, {thing} is {shade}."
    other = g.pick([c for c in facts.CATEGORIES["colour"] if c != shade and (shade != "golden" or c in ("blue", "green", "pink"))])
    return f"Is {thing} {other}?", f"No, {thing} is {shade}."


def plus(g):
    a, b = g.rng.randint(0, 9), g.rng.randint(0, 9)
    q = g.pick(["What is {} plus {}?", "What is {} plus {}?", "How much is {} plus {}?", "What is {} and {} together?", "Please add {} and {}."])
    return q.format(a, b), f"{a} plus {b} is {a + b}."


def minus(g):
    b, c = g.rng.randint(0, 9), g.rng.randint(0, 9)
    a = b + c
    q = g.pick(["What is {} minus {}?", "How much is {} minus {}?"])
    return q.format(a, b), f"{a} minus {b} is {c}."


def times(g):
    a, b = g.rng.randint(1, 5), g.rng.randint(1, 5)
    return f"What is {a} times {b}?", f"{a} times {b} is {a * b}."


def word_sum(g):
    who = words.child(g)
    things = g.pick(["apples", "coins", "shells", "books", "stones", "marbles", "nuts", "flowers", "pears", "cakes"])
    n, m = g.rng.randint(2, 6), g.rng.randint(1, 4)
    if g.chance(0.6):
        more = g.pick(["finds", "buys", "gets"])
        return (f"{who} has {n} {things}. {who.He} {more} {m} more. How many {things} does {who.he} have now?",
                f"{who} has {n + m} {things} now.")
    n += m
    gone = g.pick(["gives away", "loses", "sells"])
    left = n - m
    one = things[:-1] if left == 1 else things
    return (f"{who} has {n} {things}. {who.He} {gone} {m} of them. How many {things} does {who.he} have now?",
            f"{who} has {left} {one} left.")


def count(g):
    start = g.rng.randint(1, 6)
    names = facts.NUMBERS
    if g.chance(0.4):
        k = g.rng.randint(3, 10)
        return f"Count to {g.pick([str(k), names[k]])}.", cap(", ".join(names[1:k + 1])) + "."
    if g.chance(0.5):
        k = g.rng.randint(1, 18)
        return f"What number comes after {names[k]}?", f"After {names[k]} comes {names[k + 1]}."
    return f"Count from {start} to {start + 4}.", cap(", ".join(names[start:start + 5])) + "."


def opposite(g):
    a, b = g.pick(facts.OPPOSITES)
    if g.chance(0.5) and b not in ("light",):
        a, b = b, a
    q = g.pick(["What is the opposite of {}?", "What is the opposite of {}?", "Tell me the opposite of {}.", "Which word is the opposite of {}?"])
    return q.format(a), f"The opposite of {a} is {b}."


def animal(g):
    name, many, baby, sound, home, food, legs, _, looks = g.pick(facts.ALL_ANIMALS)
    ask = [
        (g.pick(["Where does {a} live?", "Where do {m} live?", "Where can I find {a}?"]), g.pick([f"{cap(many)} live {home}.", "{A} " + f"lives {home}."])),
        (g.pick(["What does {a} eat?", "What do {m} eat?", "What is the food of {m}?"]), g.pick([f"{cap(many)} eat {food}.", "{A} " + f"eats {food}."])),
        (g.pick(["What does {a} look like?", "Describe {a}.", "Tell me about {m}.", "Tell me about {m}."]),
         g.pick(["{A} " + f"has {looks}.", "{A} " + f"has {looks}. It eats {food}.", "{A} " + f"has {looks}. It lives {home} and eats {food}."])),
        (g.pick(["What do you call a baby {n}?", "What is a baby {n} called?"]), f"A baby {name} is called a {baby}."),
    ]
    if legs:
        ask.append((g.pick(["How many legs does {a} have?", "How many legs do {m} have?"]), "{A} " + f"has {legs} legs."))
    if sound:
        ask += [(g.pick(["What sound does {a} make?", "What does {a} say?", "How does {a} sound?"]),
                 g.pick(["{A} " + f"says {sound}.", "{A} " + f"makes the sound {sound}."]))] * 2
    q, a = g.pick(ask)
    values = dict(a=f"a {name}", A=f"A {name}", m=many, n=name)
    return tidy_article(q.format(**values)), tidy_article(a.format(**values))


def who_says(g):
    name, _, _, sound, *_ = g.pick(facts.ANIMALS)
    return f"Which animal says {sound}?", tidy_article(f"A {name} says {sound}.")


def can_it(g):
    verb, yes, no = g.pick([("fly", facts.FLY, facts.NO_FLY), ("swim", facts.SWIM, facts.NO_SWIM)])
    if g.chance(0.5):
        name = g.pick(yes)
        return tidy_article(f"Can a {name} {verb}?"), tidy_article(f"Yes, a {name} can {verb}.")
    name = g.pick(no)
    return tidy_article(f"Can a {name} {verb}?"), tidy_article(f"No, a {name} cannot {verb}.")


def bigger(g):
    while True:
        a, b = g.sample([row for row in facts.ALL_ANIMALS if row[0] in facts.SIZED], 2)
        if abs(int(a[7]) - int(b[7])) >= 3:
            break
    word = g.pick(["bigger", "smaller"])
    first = (int(a[7]) > int(b[7])) == (word == "bigger")
    win, lose = (a, b) if first else (b, a)
    q = g.pick([f"Which is {word}, a {a[0]} or a {b[0]}?", f"What is {word}, a {a[0]} or a {b[0]}?"])
    return tidy_article(q), tidy_article(f"A {win[0]} is {word} than a {lose[0]}.")


def meaning(g):
    word, what = g.pick(facts.MEANINGS)
    q = g.pick(["What is a {}?", "What is a {}?", "What does the word {} mean?", "Can you explain what a {} is?", "Do you know what a {} is?"])
    if word in ("breakfast", "fog"):
        q, start = q.replace("a {}", "{}"), cap(word)
    else:
        start = f"A {word}"
    lead = "Yes. " if q.startswith("Do you") else ""
    return tidy_article(q.format(word)), tidy_article(f"{lead}{start} is {what}.")


def use(g):
    tool, what = g.pick(facts.USES)
    some = tool if tool in ("scissors", "soap") else f"a {tool}"
    are = "are" if tool == "scissors" else "is"
    it = "them" if tool == "scissors" else "it"
    q = g.pick([f"What {are} {some} for?", f"What do you do with {some}?", f"What {are} {some} used for?"])
    return tidy_article(q), tidy_article(g.pick([f"{cap(some)} {are} used for {what}.", f"You use {some} for {what}.", f"You use {it} for {what}."]))


def job(g):
    who, does = g.pick(facts.JOBS)
    if g.chance(0.35):
        return f"Who {does}?", tidy_article(f"A {who} {does}.")
    q = g.pick(["What does a {} do?", "What is the work of a {}?", "Tell me what a {} does."])
    return tidy_article(q.format(who)), tidy_article(f"A {who} {does}.")


def why(g):
    return tuple(g.pick(facts.WHY))


def plain(g):
    return tuple(g.pick(facts.PLAIN))


def capital(g):
    land, city = g.pick(facts.CAPITALS)
    if g.chance(0.2):
        return f"Where is {city}?", f"{city} is in {land}."
    q = g.pick(["What is the capital of {}?", "What is the capital of {}?", "Tell me the capital of {}.", "Which city is the capital of {}?"])
    return q.format(land), f"The capital of {land} is {city}."


def name_some(g):
    kind = g.pick(list(facts.CATEGORIES))
    items = facts.CATEGORIES[kind]
    n = g.rng.randint(2, min(5, len(items)))
    many = {"kind of weather": "kinds of weather"}.get(kind, kind + "s")
    picked = listing(g.some(items, n))
    number = g.pick([facts.NUMBERS[n], str(n)])
    q = g.pick([f"Name {number} {many}.", f"Can you name {number} {many}?", f"Give me a list of {number} {many}.", f"Tell me {number} {many}."])
    return q, g.pick([f"{cap(facts.NUMBERS[n])} {many} are {picked}.", f"Here are {facts.NUMBERS[n]} {many}: {picked}."])


def belongs(g):
    kind = g.pick(["fruit", "vegetable", "bird", "tool", "flower", "toy"])
    if g.chance(0.5):
        item = g.pick(facts.CATEGORIES[kind])
        return f"Is {item} {'a ' + kind}?", f"Yes, {item} is a {kind}."
    other = g.pick([k for k in ["fruit", "vegetable", "bird", "tool", "flower", "toy"] if k != kind])
    item = g.pick(facts.CATEGORIES[other])
    return f"Is {item} a {kind}?", f"No, {item} is a {other}."


def days(g):
    names, word = g.pick([(facts.DAYS, "day"), (facts.MONTHS, "month")])
    i = g.rng.randrange(len(names))
    after, before = names[(i + 1) % len(names)], names[i - 1]
    if g.chance(0.6):
        return f"What {word} comes after {names[i]}?", f"After {names[i]} comes {after}."
    return f"What {word} comes before {names[i]}?", f"Before {names[i]} comes {before}."


def plural(g):
    one, many = g.pick(facts.PLURALS)
    return f"What is the plural of {one}?", f"The plural of {one} is {many}."


def rhyme(g):
    row = g.pick(facts.RHYMES)
    first = g.pick(row)
    rest = [w for w in row if w != first]
    q = g.pick(["What rhymes with {}?", "Give me a word that rhymes with {}.", "Which words rhyme with {}?"])
    if "words" in q:
        return q.format(first), f"{cap(rest[0])} and {rest[1]} rhyme with {first}."
    return q.format(first), g.pick([f"{cap(r)} rhymes with {first}." for r in rest])


def feeling(g):
    word = g.pick(list(advice.FEELINGS))
    first, *tips = advice.FEELINGS[word].split("|")
    q = g.pick(["I feel {}.", "I am {}.", "I feel {}. What should I do?", "I am {} today. What can I do?", "What can I do when I feel {}?", "I am so {} today."])
    chosen = g.some(tips, 2)
    return q.format(word), " ".join(chosen if q.startswith("What") else [first] + chosen)


def howto(g):
    what, *steps = g.pick(advice.HOWTO)
    q = g.pick(["How do I {}?", "How can I {}?", "How do I {}?", "Can you tell me how to {}?", "Please explain how to {}."])
    return q.format(what), " ".join(steps)


def pack(g):
    trip = g.pick(list(advice.PACK))
    things = g.some(advice.PACK[trip].split(", "), g.rng.randint(3, 4))
    q = g.pick(["What should I pack for {}?", "What should I pack for {}?", "What do I need for {}?", "What should I take with me for {}?", "Help me pack for {}."])
    a = g.pick(["You should pack {}.", "For {t}, you need {}.", "Take {} with you.", "I would pack {}."])
    return q.format(trip), a.format(listing(things), t=trip)


def describe(g):
    if g.chance(0.5):
        season, hour = g.pick(list(advice.SIGHTS)), g.pick(list(advice.HOURS))
        q = g.pick([f"Describe a {season} {hour}.", f"Tell me about a {season} {hour}.", f"What is a {season} {hour} like?", f"Describe a {hour} in {season}."])
        first, second = advice.SIGHTS[season].split("|"), advice.HOURS[hour].split("|")
        if hour in ("night", "evening"):
            first = [s for s in first if not any(w in s for w in ("sun", "Children", "Bees", "shade"))]
        if season in ("winter", "autumn"):
            second = [s for s in second if "sit outside" not in s and "dog" not in s]
        first, second = g.some(first, g.rng.randint(2, 3)), g.some(second, 2)
        parts = [first[0], second[0], *first[1:], second[1]]
        return tidy_article(q), " ".join(parts)
    scene = g.pick(list(advice.SCENES))
    q = g.pick(["Describe {}.", "Describe {}.", "What does {} look like?", "Tell me about {}.", "Paint me a picture of {} with words."])
    return q.format(scene), " ".join(g.some(advice.SCENES[scene].split("|"), g.rng.randint(3, 5)))


def poem(g):
    about = g.pick(list(advice.COUPLETS))
    lines = advice.COUPLETS[about][:g.rng.randint(1, 3)]
    q = g.pick(["Write a poem about {}.", "Write a short poem about {}.", "Can you write a poem about {}?", "Tell me a poem about {}."])
    return q.format(about), "\n".join("\n".join(cap(p) for p in line.split("|")) for line in lines)


SENTENCE = [
    "The {x} [sat|waited|slept] [under the old tree|in the warm sun|near the door].", "I saw a {adj} {x} [in the garden|by the river|on the hill|near the market].",
    "My {fam} once had a {adj} {x}.", "A {adj} {x} is [better than|as good as] [gold|a thousand words].", "[Yesterday|Last night|This morning] we found a {x} [behind the house|on the beach|in the forest].",
    "The {adj} {x} made everyone [smile|laugh].", "There was a {x} in the middle of the [road|room|field].", "{who} drew a picture of a {adj} {x}.", "{who} dreamed about a {x} that could [fly|talk|sing].",
]


def sentence(g):
    x = g.pick([r[0] for r in facts.ALL_ANIMALS] + [r[0] for r in words.TOYS] + ["ship", "tree", "house", "star", "boat", "flower"])
    templates = SENTENCE if x in [r[0] for r in facts.ALL_ANIMALS] else SENTENCE[1:]
    a = g.say(g.pick(templates), x=x, adj=g.pick(["small", "big", "funny", "old", "beautiful", "strange", "little"]),
              fam=g.pick(words.FAMILY), who=words.child(g).name)
    q = g.pick([f"Write a sentence about a {x}.", f"Use the word {x} in a sentence.", f"Make a sentence with the word {x}.", f"Say something about a {x}."])
    return tidy_article(q), a


def look_back(g):
    """A question whose answer stands in the question."""
    who = words.child(g)
    other = words.child(g, "m" if who.gender == "f" else "f")
    o, o2 = words.thing(g, words.TOYS), words.thing(g, words.TOYS)
    shade, shade2 = g.sample(words.COLOURS, 2)
    spots = ["in the box", "under the bed", "on the table", "behind the door", "in the bag", "on the shelf", "next to the window"]
    where = g.pick(spots)
    asked, wish = g.pick([(who, o), (other, o2)])
    return g.pick([
        (f"{who} has a {shade} {o.noun}. What colour is the {o.noun}?", f"The {o.noun} is {shade}."),
        (f"{who} puts the {o.noun} {where}. Where is the {o.noun}?", f"The {o.noun} is {where}."),
        (f"{who} found a {o.noun}. What did {who.he} find?", f"{who} found a {o.noun}."),
        (f"{who} lost the {o.noun}. Who lost the {o.noun}?", f"{who} lost the {o.noun}."),
        (f"{who} wants a {o.noun}, and {other} wants a {o2.noun}. What does {asked} want?", f"{asked} wants a {wish.noun}."),
        (f"The {o.noun} is {shade}, and the ship is {shade2}. What colour is the {o.noun}?", f"The {o.noun} is {shade}."),
        (f"My name is {who}. What is my name?", f"Your name is {who}."),
        (f"My friend is called {who}. What is the name of my friend?", f"Your friend is called {who}."),
    ])


def repeat(g):
    """Something to say again."""
    who = words.child(g)
    said = sentence(g)[1]
    return g.pick([(f"Say hello to {who}.", f"Hello, {who}!"), (f"Say thank you to {who}.", f"Thank you, {who}!"),
                   (f"Say good night to {who}.", f"Good night, {who}!"), (f"Repeat this sentence: {said}", said), (f"Say this again: {said}", said)])


UNKNOWN = """
What is the meaning of life?|Who won the game yesterday?|What is in the news today?|What will happen tomorrow?|How much does a car cost?
What is the weather today?|What time is it?|Who is the king of France?|How does a computer work?|What is the best film?|Can you fix my bike?
What is the square root of ninety?|How far away is the sun?|Who wrote this book?|What am I thinking?|Where is my key?|What is love?|Can you drive a car?
What is the longest river in the world?|How many people live in London?|How do planes fly?|What did I eat this morning?|Who is the best singer?
What language do they speak in Brazil?|Can you write code?|What is a black hole?|How old is the earth?|Will it rain tomorrow?|Who is my neighbour?
What is the fastest car?|What is electricity?|How do I become rich?|Where is my cat?|What is time?|Who discovered America?|Is there life on Mars?
""".replace("\n", "|").strip("|").split("|")


def unknown(g):
    """A question beyond the model."""
    return g.pick(UNKNOWN), g.pick(["I am sorry, but I do not know that.", "I do not know. I only know simple things.", "That is too hard for me. I am a small model.",
                                    "I do not know that, but I can tell you a story."])


def suggest(g):
    """A name, a dish, a present, something to do."""
    return g.pick([
        (g.pick(["Give me a name for a {}.", "What is a good name for a {}?", "What should I call my {}?"]).format(g.pick(["cat", "dog", "rabbit", "horse", "mouse"])),
         g.pick(["{} is a good name.", "How about {}?", "You could call it {}."]).format(g.pick(words.PETS))),
        (g.pick(["Give me a name for a ship.", "What is a good name for a ship?", "What should I call my ship?"]),
         g.pick(["{} is a good name.", "You could call it {}."]).format(g.pick(words.SHIPS)).replace("the ", "The ", 1)),
        (g.pick(["What should I cook today?", "What should I eat for dinner?", "What can I cook for my friends?"]),
         g.pick(["How about {}?", "You could make {}.", "I would cook {}."]).format(g.pick(["soup with bread", "fish with potatoes", "rice with beans", "a vegetable pie", "pancakes", "noodles with cheese"]))),
        (g.pick(["What can I give my {f} as a present?", "What is a good present for my {f}?"]).format(f=g.pick(words.FAMILY)),
         g.pick(["A {} would be a nice present.", "You could give a {}.", "How about a {}?"]).format(g.pick(["book", "warm scarf", "box of tea", "plant", "picture", "cake", "blanket"]))),
        (g.pick(["What should I wear when it {w}?"]).format(w="rains"), g.pick(["Wear a rain coat and rubber boots.", "Take an umbrella and wear warm shoes."])),
        ("What should I wear when it snows?", g.pick(["Wear a thick coat, a hat, and gloves.", "Put on warm boots, a scarf, and a woolly hat."])),
        (g.pick(["What can I do on a rainy day?", "What can I do at home?"]),
         f"You could {g.pick(['read a book', 'bake a cake', 'draw a picture', 'play a game'])} or {g.pick(['write a letter', 'build a tower', 'watch the rain', 'learn a song'])}."),
        (g.pick(["What can I do on a sunny day?", "What can I do outside?"]),
         f"You could {g.pick(['go for a swim', 'ride a bike', 'have a picnic', 'play ball'])} or {g.pick(['fly a kite', 'climb a tree', 'feed the ducks', 'look for flowers'])}."),
    ])


def joined(pair):
    """A question and an answer with their articles put right."""
    return tidy_article(pair[0]), tidy_article(pair[1])


# What a conversation may turn to, and how often.
TOPICS = [
    (colour, 4), (is_colour, 2), (plus, 10), (minus, 4), (times, 3), (word_sum, 3), (count, 2), (opposite, 4), (animal, 11), (who_says, 1),
    (can_it, 2), (bigger, 4), (meaning, 5), (use, 3), (job, 3), (why, 4), (plain, 5), (capital, 3), (name_some, 4), (belongs, 2), (days, 3),
    (plural, 2), (rhyme, 2), (feeling, 4), (howto, 4), (pack, 4), (describe, 8), (poem, 2), (sentence, 4), (me, 6), (look_back, 9),
    (suggest, 4), (any_story, 10), (unknown, 3),
]
# Asked for in the pre-training only: a pirate could not answer these in his own words.
COPIES = [(repeat, 3)]

PROPER = set(words.GIRLS + words.BOYS + words.PETS + facts.DAYS + facts.MONTHS + ["I", "Captain", "Jupiter", NAME]
             + [name.split()[0] for row in facts.CAPITALS for name in row])
NOUNS = set(words.PETS) - {"Bella"}  # "Honey is golden", but "Honey was a cat"


def goes_on(text):
    """`text` as the rest of a sentence: its first letter small, but for a name."""
    first, second = (word.strip(",.!?:") for word in (text + " .").split()[:2])
    if first in PROPER and not (first in NOUNS and second in ("is", "be", "comes", "rhymes")):
        return text
    return text[0].lower() + text[1:]


def lead_in(g, answer):
    """`answer` after a few words of no weight, so that the model can answer late as well."""
    if "\n" in answer or answer.startswith(("Yes", "No", "Hello", "Good", "You are welcome")):
        return answer
    start = g.pick(["Well, ", "Oh, ", "Sure! ", "Of course! ", "Gladly! ", "Let me see. ", "That is easy: ", "All right, "])
    return start + (goes_on(answer) if start[-2] in ",:" else answer)


def ask(g, topics=None):
    """One question and its answer, on a topic drawn by weight."""
    makers, weights = zip(*(topics or TOPICS))
    return joined(g.rng.choices(makers, weights)[0](g))
