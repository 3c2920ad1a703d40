"""The lexicon of the stories: characters, things, places, and the rules they share."""


def split(text):
    return [item.strip() for item in text.replace("\n", " ").split(",") if item.strip()]


GIRLS = split("""Mia, Lily, Anna, Sara, Emma, Nora, Zoe, Ella, Ruby, Ivy, Clara, Rosa, Maya, Lucy,
    Grace, Daisy, Hanna, Tara, Elsa, Nina, Molly, Alice, Jane, Amy, Kate, Lena, Poppy, Holly, Eva,
    Iris, Sally, Betty, Mary, Julia, Olive, Wendy, Ada, Bea, Carla, Dora, Edith, Fiona, Gina, Helen, Ida,
    Jill, Karen, Laura, Mona, Nelly, Paula, Rita, Sonia, Tessa, Una, Vera, Yara, Zelda, Celia, Freya, Greta,
    Heidi, Joan, Linda, Marta, Petra, Susan, Agnes, Anita, Beth, Carmen, Cora, Diana, Donna, Elena, Erica,
    Esther, Flora, Gloria, Hilda, Ingrid, Irene, Jenny, Judith, Layla, Leila, Lola, Lydia, Mabel, Maria, Martha,
    Milly, Monica, Naomi, Nancy, Olga, Pam, Peggy, Polly, Rachel, Rebecca, Rhea, Sabine, Selma, Sofia, Stella,
    Sylvia, Tanya, Tina, Ursula, Viola, Violet, Wanda, Willa, Yvonne""")
BOYS = split("""Tom, Ben, Sam, Max, Leo, Jack, Finn, Noah, Adam, Luke, Oscar, Peter, Paul, Hugo, Eli,
    Omar, Tim, Dan, Kai, Theo, Felix, Jonas, Billy, Henry, Charlie, Toby, Martin, Victor, Simon,
    David, Oliver, Jim, Robin, Arthur, Nick, Fred, Alan, Bruno, Carl, Diego, Emil, Frank, George, Hans,
    Ivan, Joel, Karl, Louis, Marco, Nils, Otto, Philip, Ralph, Stefan, Tony, Ugo, Vince, Walter, Yusuf,
    Zack, Albert, Boris, Colin, Dennis, Erik, Glen, Harry, Isaac, Kurt, Lars, Amir, Andy, Anton, Barry,
    Bert, Brian, Cedric, Chris, Clive, Damon, Dario, Derek, Edgar, Edwin, Elliot, Ernest, Fabio, Gavin, Gilbert,
    Hassan, Hector, Howard, Igor, Jacob, James, Jason, Jerry, Johan, Julian, Keith, Kevin, Leon, Lionel, Manuel,
    Matt, Miguel, Moses, Nathan, Neil, Norman, Owen, Pablo, Quentin, Ray, Rory, Rupert, Samir, Sean, Ted""")
PET_GIRLS = split("""Bella, Coco, Hazel, Fern, Willow, Ginger, Clover, Honey, Misty, Juniper, Penny, Tilly, Snowy,
    Maple, Rosie, Dolly, Luna, Blossom, Pippa, Minnie, Birdie, Cherry, Peaches, Trixie, Nellie, Dotty,
    Velvet, Cookie, Pumpkin, Lulu, Kiki, Mimi, Tulip, Bunny, Fifi, Hattie, Opal, Bluebell, Crystal,
    Duchess, Jasmine, Nala, Queenie, Roxy""")
PET_BOYS = split("""Pip, Rusty, Biscuit, Bramble, Dusty, Socks, Pepper, Scout, Tiny, Shadow, Patch, Moss, Nutmeg,
    Bubbles, Copper, Flint, Mango, Olly, Rolo, Ziggy, Barney, Oakley, Thistle, Rocky, Bongo, Chip, Duke,
    Fuzzy, Gus, Hobbs, Jasper, Kipper, Milo, Nibbles, Otis, Pickle, Rufus, Smokey, Toffee, Waffle, Wally,
    Bandit, Boots, Dexter, Basil, Buster, Caesar,
    Mortimer, Rascal""")
PETS = PET_GIRLS + PET_BOYS

# Animals that walk and talk in stories: noun, fitting adjectives, what it lives in.
STORY_ANIMALS = [row.split("|") for row in """
fox|clever,red,young,sly,small|a den under an old oak tree
rabbit|little,white,shy,quick,grey|a burrow at the edge of a field
bear|big,brown,sleepy,gentle,young|a warm cave in the hills
mouse|tiny,grey,brave,small,busy|a hole behind the kitchen wall
owl|wise,old,quiet,young,snowy|a hollow tree in the forest
squirrel|busy,red,quick,little,cheerful|a nest high in a pine tree
frog|green,jolly,little,noisy,small|a pond full of lilies
duck|yellow,funny,young,small,cheerful|a nest beside the lake
cat|black,lazy,curious,soft,young|a basket near the fire
dog|loyal,brown,playful,friendly,small|a little house in the garden
hedgehog|shy,small,prickly,gentle,sleepy|a pile of dry leaves
turtle|slow,old,patient,green,small|a quiet bay near the beach
elephant|big,grey,gentle,young,kind|a wide valley with tall grass
monkey|cheeky,little,clever,playful,brown|a tall tree by the river
lion|proud,young,golden,brave,sleepy|a sunny plain
penguin|small,funny,brave,young,clumsy|an island of ice and snow
bird|blue,little,young,cheerful,tiny|a nest in an apple tree
goat|stubborn,white,hungry,old,funny|a farm on the hill
pig|pink,round,happy,muddy,clever|a farm by the road
horse|brown,strong,fast,gentle,young|a stable near the village
badger|grumpy,old,strong,quiet,grey|a deep burrow in the woods
deer|shy,young,graceful,quick,gentle|a clearing in the forest
otter|playful,brown,quick,cheerful,young|a river bank full of reeds
whale|huge,blue,gentle,young,lonely|the deep, cold sea
dragon|green,small,lonely,friendly,young|a cave on top of a mountain
robot|small,silver,curious,helpful,old|a workshop full of tools
""".strip().splitlines()]
WILD = ("whale",)  # lives in water; kept out of stories on land

CHILD_ADJ = split("""brave, kind, curious, cheerful, quiet, clever, shy, gentle, friendly, lively,
    careful, thoughtful, little, young, happy, bold, patient, helpful, funny, bright""")
TRAITS = split("""brave, kind, curious, cheerful, clever, gentle, friendly, careful, thoughtful, patient,
    helpful, honest, hopeful, polite, busy""")
HOMES = split("""in a small house by the sea, in a village near the mountains, in a tall house in the city,
    on a farm outside the town, in a cottage at the edge of the forest, on a quiet street with many trees,
    next to a wide river, above a little bakery, near the old harbour, in a red house on a hill,
    beside a big green park, on a small island, in a house with a blue door""")
HOBBIES = split("""draw pictures, climb trees, read books about the sea, sing songs, collect smooth stones,
    ride a bike, look at the stars, play in the garden, make things out of paper, watch the birds,
    dance in the rain, tell jokes, paint, count the boats in the harbour, bake bread, play the drum,
    build towers, look for shells, run through the fields, listen to old stories, fly kites,
    ask questions, feed the ducks, explore new places""")
ADULTS = [row.split("|") for row in """
mother|f\nfather|m\ngrandmother|f\ngrandfather|m\naunt|f\nuncle|m\nteacher|f\nneighbour|m\nbig sister|f
big brother|m""".strip().splitlines()]
FAMILY = ("mother", "father", "grandmother", "grandfather", "aunt", "uncle")
TOWNSFOLK = [row.split("|") for row in """
baker|m\nfarmer|m\nshopkeeper|f\ngardener|f\nfisherman|m\npainter|f\ncarpenter|m\nlibrarian|f\ndoctor|f
mail carrier|m\ntailor|m\nmusician|f\nshepherd|m\nmiller|m\nlighthouse keeper|m\nbus driver|f\nclockmaker|m
potter|f\nbeekeeper|f\nsailor|m""".strip().splitlines()]

COLOURS = split("red, blue, green, yellow, white, black, brown, orange, purple, pink, grey, silver, golden")
TOYS = [row.split("|") for row in """
kite|red,blue,yellow,big,bright\nball|red,round,blue,bouncy,striped\ndoll|old,soft,pretty,small,wooden
drum|red,loud,little,wooden,round\nteddy bear|soft,brown,old,small,fluffy\ntoy boat|wooden,white,small,blue,little
hat|warm,green,woolly,straw,funny\nscarf|long,red,warm,striped,soft\nbook|old,thick,blue,heavy,lovely
toy train|green,fast,wooden,shiny,little\nbell|silver,small,golden,shiny,little\nwhistle|silver,tin,small,shiny,loud
lantern|golden,small,bright,old,paper\nbasket|small,round,brown,big,strong\numbrella|yellow,big,red,striped,blue
marble|blue,shiny,green,round,glass\nring|golden,shiny,thin,pretty,silver\nflute|wooden,thin,silver,little,old
puppet|funny,wooden,colourful,small,old\nblanket|warm,soft,blue,woolly,old\nspoon|wooden,silver,long,shiny,old
coat|warm,brown,new,thick,green\nmap|old,secret,torn,strange,folded\npocket watch|old,silver,golden,shiny,broken
""".strip().splitlines()]
FOODS = split("""apple, pear, cake, pie, loaf of bread, bowl of soup, honey cake, sandwich, plum, biscuit, bun,
    bowl of porridge, basket of berries, bag of nuts, piece of cheese, carrot, pancake, bowl of rice, orange,
    bunch of grapes""")
BAKES = split("""apple pie, honey cake, chocolate cake, carrot cake, loaf of bread, plum tart, berry pie,
    lemon cake, banana bread, tray of biscuits, pumpkin pie, cherry tart""")
PLACES = [row.split("|") for row in """
forest|in\npark|in\nbeach|at\nmeadow|in\ngarden|in\nvalley|in\nmarket|at\nharbour|at\nhill|on\nfield|in\nwoods|in
lake|at\nriver|at\norchard|in\nvillage square|in\nplayground|at\nold bridge|at\nwindmill|at\nfarm|on\npond|at
""".strip().splitlines()]
HIDING = split("""under a bush, behind a rock, under a pile of leaves, inside a hollow log, next to the old well,
    between two stones, under a wooden bench, behind the fence, in the tall grass, beside the path,
    on a low branch, at the bottom of the steps""")
SKILLS = [row.split("|") for row in """
swim|swimming|in the lake\nride a bike|riding|on the road\nwhistle|whistling|on the porch
skate|skating|on the ice\ndance|dancing|in the hall\njuggle|juggling|in the yard\nsing|singing|by the window
paint|painting|at the table\nclimb|climbing|on the old tree\nread|reading|under the lamp
play the flute|playing|by the river\ntie a knot|tying knots|on the boat\nski|skiing|on the hill
write letters|writing|at the desk\nrow a boat|rowing|on the lake\nbake bread|baking|in the kitchen
fly a kite|flying it|on the beach\nknit|knitting|by the fire""".strip().splitlines()]
BUILDS = [row.split("|") for row in """
tree house|wood, rope, and nails\nraft|logs and rope\nkite|paper, sticks, and string\nsandcastle|sand, shells, and water
birdhouse|wood and nails\nsnowman|snow, a carrot, and two stones\nbridge|stones and planks\ntower|wooden blocks
toy boat|bark, a stick, and a leaf\ntent|blankets and two chairs\nwagon|wood and four old wheels\nswing|rope and a plank
""".strip().splitlines()]
FLOWERS = split("sunflower, rose, tulip, daisy, bean plant, apple tree, pumpkin plant, tomato plant, lily, cherry tree")
HURT = [row.split("|") for row in """
bird|wing\nrabbit|leg\nkitten|paw\npuppy|paw\nduck|foot\nhedgehog|leg\nlamb|leg\nsquirrel|tail\nowl|wing\nfox cub|paw
gull|wing\nfawn|leg""".strip().splitlines()]
SEA = split("""ship, sail, captain, anchor, deck, mast, crew, treasure, island, wave, storm, harbour, map, gold,
    parrot, barrel, rope, flag, lighthouse, whale, tide, shore, compass, cannon""")
SHIPS = split("""the Silver Gull, the Brave Heart, the Morning Star, the Sea Fox, the Blue Whale, the North Wind,
    the Merry Crab, the Golden Shell, the Old Pearl, the Red Parrot""")
CAPTAINS = split("Redbeard, Salty Joe, Anne, Morgan, Hook, Barnacle, Bill, Bonny, Silver, Flint, Pearl, Drake")


class Thing:
    """A noun with one adjective chosen: `{o}` kite, `{o.a}` a red kite, `{o.full}` red kite."""

    def __init__(self, noun, adjective=""):
        self.noun = noun
        self.full = f"{adjective} {noun}".strip()
        self.a = f"a {self.full}"

    def __str__(self):
        return self.noun

    __format__ = lambda self, spec: self.noun


class Place(Thing):
    """A place with its preposition: `{p}` beach, `{p.at}` at the beach, `{p.to}` to the beach."""

    def __init__(self, noun, at):
        super().__init__(noun)
        self.at = f"{at} the {noun}"
        self.to = f"to the {noun}"


class Someone:
    """A character and the pronouns that go with it."""

    def __init__(self, name, gender, kind, adjective="", home=""):
        female = gender == "f"
        self.name, self.gender, self.kind, self.home = name, gender, kind, home
        self.he, self.him, self.his = ("she", "her", "her") if female else ("he", "him", "his")
        self.lad = "lass" if female else "lad"
        self.himself = "herself" if female else "himself"
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        self.adj = adjective
        self.full = f"{adjective} {kind}".strip()  # brave girl
        self.a = f"a {self.full}"                   # a brave girl
        self.the = f"the {kind}"                    # the girl

    def __format__(self, spec):
        return self.name


def child(g, gender=None, not_named=()):
    """A girl or a boy."""
    gender = gender or g.pick("fm")
    names = [n for n in (GIRLS if gender == "f" else BOYS) if n not in not_named]
    kind = "girl" if gender == "f" else "boy"
    return Someone(g.pick(names), gender, kind, g.pick(CHILD_ADJ), g.pick(HOMES))


def animal(g, gender=None, not_named=(), kind=None, not_kind=()):
    """A talking animal with a name."""
    rows = [r for r in STORY_ANIMALS if (r[0] == kind if kind else r[0] not in not_kind + WILD)]
    row = g.pick(rows)
    gender = gender or g.pick("fm")
    name = g.pick([n for n in (PET_GIRLS if gender == "f" else PET_BOYS) if n not in not_named])
    return Someone(name, gender, row[0], g.pick(row[1].split(",")), f"in {row[2]}"
                   if not row[2].startswith(("a farm", "an island", "a sunny")) else f"on {row[2]}")


def adult(g, rows, gender=None):
    """A grown-up known by a noun: `{g}` is "grandmother"."""
    noun, gender = g.pick([r for r in rows if gender in (None, r[1])])
    return Someone(noun, gender, noun)


def thing(g, rows):
    """A thing of one of the tables above."""
    noun, adjectives = g.pick(rows)
    return Thing(noun, g.pick(adjectives.split(",")))


# When a story happens, and the weather that goes with it; `fair` days are dry and warm.
DAYS = {
    "fair": ("one sunny morning, one warm afternoon, one bright spring day, one summer day, one fine morning, one clear morning".split(", "),
             ["The sun was warm, and the sky was blue.", "A soft wind blew through the trees.", "Birds were singing in every tree.", "White clouds moved slowly across the sky.",
              "The sky was clear and bright.", "It was the hottest day of the year.", "The flowers were open, and bees hummed everywhere."]),
    "cool": ("one cold morning, one grey morning, one autumn day, one windy day, one foggy morning".split(", "),
             ["Grey clouds hung low in the sky.", "The air smelled of rain.", "It was cold, and the grass was white with frost.", "The last leaves were red and gold.",
              "A cold wind blew.", "It had rained all night, and there were puddles everywhere."]),
    "plain": ("early one morning, late one afternoon, one day after lunch, on a quiet Sunday, one Saturday, one day, after breakfast one day".split(", "),
              ["Everything was quiet and still.", "There was nobody around.", "The air was fresh and cool.", "Somewhere a bell was ringing.", "Far away, a dog was barking."]),
}

# Rules about the main character `a` that every story may use.
RULES = {
    "oneday": ["{time},"],
    "intro": ["Once upon a time there was {a.a} named {a}. <home>", "{a} was {a.a} who lived {a.home}. <about>",
              "There once was {a.a} called {a}. <home>", "Once there lived {a.a} named {a}. <about>",
              "Far away, {a.home}, lived {a.a} named {a}. <about>", "This is a story about {a.a} named {a}. <about>",
              "A long time ago, {a.a} called {a} lived {a.home}. <about>", "{a} was {a.a}. <home> <about>",
              "{a} was {a.a} and lived {a.home}. <about>", "Not so long ago, there was {a.a} named {a}. <home>"],
    "home": ["{a.He} lived {a.home}.", "{a.His} home was {a.home}.", "{a.He} lived with {a.his} family {a.home}.", ""],
    "about": ["{a.He} loved to <hobby>.", "{a.He} liked to <hobby> and to <hobby2>.", "Everyone said that {a.he} was very <trait>.",
              "Most of all, {a.he} liked to <hobby>.", "Every day, {a.he} would <hobby>.", "{a.He} was <trait> and <trait2>.",
              "On most days {a.he} would <hobby> or <hobby2>.", ""],
    "hobby": HOBBIES[:12], "hobby2": HOBBIES[12:],
    "trait": TRAITS[:8], "trait2": TRAITS[8:],
    "weather": ["{weather}"],
    "sad": ["{a} felt very sad.", "{a.He} sat down and began to cry.", "A tear rolled down {a.his} cheek.", "{a.His} heart felt heavy.",
            "{a.He} did not know what to do.", "{a} wanted to cry, but {a.he} took a deep breath.", "{a} hung {a.his} head."],
    "happy": ["{a} was so happy that {a.he} jumped up and down.", "{a} smiled a big smile.", "{a} laughed with joy.",
              "{a.He} had never been so happy.", "{a.His} heart felt light.", "{a.He} clapped and danced around.",
              "{a} could not stop smiling.", "It was the best feeling in the world."],
    "afraid": ["{a} was afraid.", "{a.His} heart beat fast.", "{a.His} legs began to shake.", "{a} wanted to run away.",
               "{a.He} held {a.his} breath.", "A cold feeling ran down {a.his} back."],
    "night": ["That night, {a} slept very well.", "That night, {a} fell asleep with a smile.", "When the moon rose, {a} was fast asleep.",
              "That evening, {a} told the story to {a.his} family.", "At bedtime, {a} thought about the day and smiled.",
              "The stars came out, and {a} went home tired and happy."],
    "end": ["<night>", "And from that day on, {a} was never lonely again.", "It was a day that {a} would always remember.",
            "And they all lived happily ever after.", "The end.", "{a} never forgot that day.", "What a wonderful day it was!", ""],
    "friends": ["From that day on, {a} and {b} were best friends.", "{a} and {b} became good friends.", "After that, {a} and {b} played together every day.",
                "{a} and {b} walked home together, talking all the way.", "Now {a} had a true friend, and so did {b}."],
    "saidkindly": ["said softly", "said kindly", "said with a smile", "whispered", "answered gently", "said"],
}
