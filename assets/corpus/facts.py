"""Small tables of plain facts for the conversations, a row a line, columns split by `|`."""


def table(text):
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


# animal | plural | baby | sound | home | food | legs | size 1-20 | what it is like
ANIMALS = table("""
cat|cats|kitten|meow|in a house|fish and meat|four|6|soft fur and sharp claws
dog|dogs|puppy|woof|in a house or a kennel|meat and bones|four|8|a good nose and a wagging tail
cow|cows|calf|moo|on a farm|grass and hay|four|15|a big body and a long tail
horse|horses|foal|neigh|in a stable|grass and hay|four|16|strong legs and a long mane
sheep|sheep|lamb|baa|in a field|grass|four|11|thick white wool
pig|pigs|piglet|oink|on a farm|roots, corn, and apples|four|12|a flat nose and a curly tail
duck|ducks|duckling|quack|by a pond|plants and small fish|two|5|flat feet and a wide beak
hen|hens|chick|cluck|on a farm|seeds and worms|two|4|brown feathers and a red comb
owl|owls|owlet|hoot|in a hollow tree|mice|two|5|big eyes and quiet wings
lion|lions|cub|roar|on the grassy plain|meat|four|14|golden fur and sharp teeth
bear|bears|cub|growl|in a cave|berries, fish, and honey|four|15|thick fur and big paws
wolf|wolves|pup|howl|in the forest|meat|four|10|grey fur and keen ears
frog|frogs|tadpole|croak|by a pond|flies|four|2|smooth green skin and long legs
bee|bees|larva|buzz|in a hive|nectar|six|1|thin wings and yellow stripes
mouse|mice|pup|squeak|in a small hole|seeds and cheese|four|2|small ears and a long tail
snake|snakes|hatchling|hiss|in the grass|mice and eggs|no|6|a long body and no legs
goat|goats|kid|bleat|on a hill|grass and leaves|four|10|two horns and a short beard
elephant|elephants|calf|trumpet|on the warm plain|leaves and grass|four|19|big ears and a long trunk
crow|crows|chick|caw|in a tall tree|seeds, bugs, and eggs|two|4|shiny black feathers
donkey|donkeys|foal|hee-haw|on a farm|grass and hay|four|13|long ears and a grey coat
""")
MORE_ANIMALS = table("""
rabbit|rabbits|kit||in a burrow|grass and carrots|four|4|long ears and strong back legs
fox|foxes|cub||in a den|mice and berries|four|7|red fur and a thick tail
squirrel|squirrels|kit||in a tree|nuts and seeds|four|3|a big, soft tail
hedgehog|hedgehogs|hoglet||under dry leaves|bugs and worms|four|3|a coat of sharp spines
turtle|turtles|hatchling||by the water|plants and small fish|four|5|a hard shell
fish|fish|fry||in the water|plants and small animals|no|3|fins and shining scales
whale|whales|calf||in the sea|very small sea animals|no|20|a huge body and a wide tail
shark|sharks|pup||in the sea|fish|no|17|many sharp teeth
spider|spiders|spiderling||in a web|flies|eight|1|eight legs and many eyes
ant|ants|larva||in an ant hill|seeds and crumbs|six|1|a small body and great strength
butterfly|butterflies|caterpillar||in gardens and fields|nectar|six|1|four bright wings
penguin|penguins|chick||on the ice|fish|two|7|black and white feathers
camel|camels|calf||in the desert|dry grass|four|16|a hump on its back
giraffe|giraffes|calf||on the grassy plain|leaves|four|18|a very long neck
kangaroo|kangaroos|joey||in Australia|grass||12|strong legs and a pouch
monkey|monkeys|infant||in the trees|fruit and nuts||8|clever hands and a long tail
parrot|parrots|chick||in warm forests|fruit and seeds|two|4|bright feathers and a strong beak
deer|deer|fawn||in the forest|grass and leaves|four|13|thin legs and soft brown fur
crab|crabs|larva||on the shore|small sea animals|ten|2|a hard shell and two claws
dolphin|dolphins|calf||in the sea|fish|no|14|smooth skin and a friendly face
otter|otters|pup||by the river|fish and crabs|four|7|thick fur and quick paws
bat|bats|pup||in caves|bugs|two|3|thin wings and good ears
snail|snails|hatchling||in the garden|leaves|no|1|a round shell on its back
eagle|eagles|eaglet||in the mountains|fish and small animals|two|8|wide wings and sharp eyes
""")
ALL_ANIMALS = ANIMALS + MORE_ANIMALS
SIZED = "ant bee mouse frog cat dog fox wolf sheep horse bear elephant whale hen rabbit lion".split()  # for comparing
FLY = "owl bee duck crow butterfly parrot bat eagle".split()
SWIM = "fish whale shark penguin dolphin otter duck frog turtle crab".split()
NO_FLY = "cat dog cow horse pig penguin fox elephant mouse turtle bear".split()
NO_SWIM = "hen spider snail bee butterfly".split()

# thing | colour | is it many? ("are" when plural)
COLOURED = table("""
the sky|blue\nthe sea|blue\ngrass|green\na leaf|green\nsnow|white\nmilk|white\na cloud|white\nthe sun|yellow
a lemon|yellow\na banana|yellow\nbutter|yellow\nan orange|orange\na carrot|orange\na pumpkin|orange\na tomato|red
a strawberry|red\na cherry|red\nblood|red\na fire engine|red\nchocolate|brown\nbread|brown\na tree trunk|brown
a potato|brown\nearth|brown\ncoal|black\nthe night|black\na crow|black\nan elephant|grey\na rain cloud|grey\na mouse|grey
a pig|pink\na flamingo|pink\na plum|purple\na frog|green\na cucumber|green\na swan|white\nsalt|white\na pea|green
the moon|white\na lion|golden\nhoney|golden\na blueberry|blue\nrice|white\nsand|yellow\nspinach|green\na fox|red
""")

OPPOSITES = table("""
hot|cold\nbig|small\nfast|slow\nhappy|sad\nday|night\nup|down\nin|out\nopen|closed\nfull|empty\nold|young\nlight|dark
wet|dry\nhard|soft\nhigh|low\nlong|short\nloud|quiet\nstrong|weak\nrich|poor\nclean|dirty\nearly|late\nleft|right
near|far\nthick|thin\nheavy|light\nsweet|sour\nfirst|last\nright|wrong\nbrave|afraid\nalways|never\ninside|outside
push|pull\nbegin|end\nlaugh|cry\nwin|lose\nbuy|sell\ngive|take\nremember|forget\nwide|narrow\ndeep|shallow
sharp|blunt\nnew|old\nlove|hate\nyes|no\nbefore|after\nabove|below\nawake|asleep\nsafe|dangerous\nrough|smooth
""")

# word | what it is
MEANINGS = table("""
bridge|a way to cross a river\nlighthouse|a tall tower with a bright light that helps ships at night
castle|a very big house with strong walls\nisland|a piece of land with water all around it
river|a long stream of water that flows to the sea\nmountain|a very high hill\ndesert|a dry place with a lot of sand
forest|a place with many trees\nharbour|a safe place for ships\nvillage|a small group of houses in the country
library|a place where you can read and borrow books\nschool|a place where children learn\nhospital|a place for people who are ill
bakery|a shop that sells bread and cakes\nmarket|a place where people buy and sell things\nfarm|a place where animals and plants are raised
museum|a place where you can see old and beautiful things\nkitchen|a room where people cook food\nladder|a tool for climbing up
hammer|a tool for hitting nails\nclock|a thing that shows the time\nmap|a picture that shows where places are
compass|a tool that shows where north is\ntelescope|a tool for looking at things that are far away
umbrella|a thing that keeps you dry in the rain\nkite|a toy that flies in the wind\nanchor|a heavy hook that holds a ship in its place
rainbow|a band of colours in the sky after rain\nstorm|very bad weather with strong wind and rain\nvolcano|a mountain that can throw out fire and hot stone
shadow|a dark shape that appears where light is blocked\nseed|the small thing that a plant grows from\nroot|the part of a plant that is under the ground
feather|one of the light parts that cover a bird\nshell|the hard outside of some animals\nnest|a home that a bird builds for its eggs
captain|the person who leads a ship\nsailor|a person who works on a ship\npirate|a person who robs ships at sea
treasure|a store of gold and other precious things\nsecret|something that only a few people know\ndream|a story that you see while you sleep
friend|a person you like and trust\npromise|words that say you will surely do something\nholiday|a time when you do not have to work
breakfast|the first meal of the day\nsong|a set of words with music\nstory|a tale about things that happened
diary|a book where you write about your day\nneighbour|a person who lives near you\nfog|a cloud that lies close to the ground
robot|a machine that can do work by itself\nplanet|a big round body that goes around a star\nstar|a huge ball of hot gas that shines in the sky
""")

# thing | what it is for
USES = table("""
spoon|eating soup\nknife|cutting bread\npen|writing\nbroom|sweeping the floor\nkey|opening a lock\nlamp|giving light
bed|sleeping\nchair|sitting\npot|cooking soup\nsoap|washing your hands\ntowel|drying yourself\nrope|tying things
needle|sewing clothes\nbucket|carrying water\nscissors|cutting paper\nbrush|painting or cleaning\nbell|calling people
boat|travelling on water\noven|baking bread\nshovel|digging holes\nbasket|carrying fruit\ncup|drinking tea\nbag|carrying things
saw|cutting wood\nwheel|moving heavy things\nfence|keeping animals in\nblanket|keeping warm\nmirror|seeing your face\nnet|catching fish
""")

# job | what they do
JOBS = table("""
baker|bakes bread and cakes\nfarmer|grows food and takes care of animals\nteacher|helps people to learn\ndoctor|helps people who are ill
sailor|works on a ship\nfisherman|catches fish\npainter|paints pictures and walls\ncarpenter|makes things out of wood
gardener|takes care of plants\nlibrarian|takes care of books\ntailor|makes and repairs clothes\ncook|prepares food
pilot|flies a plane\nbus driver|drives a bus\nnurse|takes care of ill people\nmusician|plays music\nwriter|writes stories
shepherd|looks after sheep\nmiller|makes flour\nfirefighter|puts out fires\npolice officer|keeps people safe\ndentist|takes care of teeth
postman|brings letters\nbuilder|builds houses\nshopkeeper|sells things in a shop\nscientist|tries to find out how things work
captain|leads a ship\nmechanic|repairs cars\nbeekeeper|keeps bees and makes honey\npotter|makes pots out of clay\nvet|helps animals that are ill
""")

# question | answer
WHY = table("""
Why do birds sing?|Birds sing to find a mate and to guard their home.
Why do we sleep?|We sleep so that our bodies and minds can rest.
Why is the sky blue?|The sky looks blue because the air scatters blue light the most.
Why does it rain?|It rains because water in the clouds becomes too heavy and falls down.
Why do leaves fall in autumn?|Trees drop their leaves in autumn to save water and energy for the winter.
Why is the sea salty?|The sea is salty because rivers carry salt from the rocks into it.
Why do we eat?|We eat because food gives us energy and helps us to grow.
Why do cats purr?|Cats often purr when they are calm and happy.
Why do dogs wag their tails?|Dogs wag their tails to show how they feel. A happy dog wags its tail a lot.
Why do bees visit flowers?|Bees visit flowers to collect nectar and pollen.
Why do we need water?|We need water because our bodies cannot work without it.
Why do plants need sun?|Plants need the sun because they use its light to make food.
Why do we brush our teeth?|We brush our teeth to keep them clean and strong.
Why do people tell stories?|People tell stories to share ideas, to teach, and to have fun.
Why does ice float?|Ice floats because it is lighter than water.
Why do we wear coats?|We wear coats to stay warm and dry.
Why do ships float?|Ships float because they push away more water than they weigh.
Why is it dark at night?|It is dark at night because our side of the earth is turned away from the sun.
Why do we laugh?|We laugh when something is funny or when we are happy.
Why do people cry?|People cry when they are sad, when they are hurt, or sometimes when they are very happy.
Why do bears sleep in winter?|Bears sleep in winter because there is little food.
Why do we have seasons?|We have seasons because the earth leans a little as it goes around the sun.
Why do spiders make webs?|Spiders make webs to catch their food.
Why should I say sorry?|Saying sorry shows that you care about the other person.
Why do we go to school?|We go to school to learn new things and to meet friends.
Why do stars shine?|Stars shine because they are very hot.
Why does the wind blow?|The wind blows because warm air rises and cool air takes its place.
Why do fish live in water?|Fish live in water because they breathe with gills.
Why do owls hunt at night?|Owls hunt at night because they see and hear very well in the dark.
Why is reading good?|Reading is good because it teaches you new words and new ideas.
Why do we say thank you?|We say thank you to show that we are glad for what someone did.
Why do we wash our hands?|We wash our hands to remove dirt and germs.
""")

CAPITALS = table("""
France|Paris\nSpain|Madrid\nItaly|Rome\nGermany|Berlin\nEngland|London\nIreland|Dublin\nPortugal|Lisbon\nGreece|Athens
Japan|Tokyo\nChina|Beijing\nIndia|New Delhi\nEgypt|Cairo\nKenya|Nairobi\nCanada|Ottawa\nNorway|Oslo\nSweden|Stockholm
Finland|Helsinki\nPoland|Warsaw\nAustria|Vienna\nCuba|Havana\nPeru|Lima\nRussia|Moscow\nTurkey|Ankara
""")

PLAIN = table("""
How many days are in a week?|There are seven days in a week.
How many months are in a year?|There are twelve months in a year.
How many hours are in a day?|There are twenty-four hours in a day.
How many minutes are in an hour?|There are sixty minutes in an hour.
How many seconds are in a minute?|There are sixty seconds in a minute.
How many fingers do you have on one hand?|A hand has five fingers.
How many seasons are there?|There are four seasons: spring, summer, autumn, and winter.
What is the biggest animal in the world?|The biggest animal in the world is the blue whale.
What is the tallest animal?|The tallest animal is the giraffe.
What is the fastest animal on land?|The fastest animal on land is the cheetah.
Which planet do we live on?|We live on the planet Earth.
Which planet is the biggest?|Jupiter is the biggest planet near our sun.
What is the closest star?|The closest star to us is the sun.
What do we call frozen water?|Frozen water is called ice.
What comes out of a volcano?|Hot melted rock, called lava, comes out of a volcano.
What is bread made of?|Bread is made of flour, water, salt, and yeast.
What is cheese made of?|Cheese is made of milk.
What is paper made of?|Paper is made of wood.
What is glass made of?|Glass is made of sand.
Where does honey come from?|Honey comes from bees.
Where does milk come from?|Most milk comes from cows.
Where does wool come from?|Wool comes from sheep.
Where do eggs come from?|The eggs that we eat come from hens.
Where does the sun rise?|The sun rises in the east.
Where does the sun set?|The sun sets in the west.
What do plants need to grow?|Plants need water, light, air, and good soil.
What shape is a ball?|A ball is round.
How many sides does a triangle have?|A triangle has three sides.
How many sides does a square have?|A square has four sides.
How many legs does a chair have?|Most chairs have four legs.
How many wheels does a bicycle have?|A bicycle has two wheels.
How many wheels does a car have?|A car has four wheels.
What do we use to see?|We use our eyes to see.
What do we use to hear?|We use our ears to hear.
What do we use to smell?|We use our nose to smell.
What can you see in the sky at night?|At night you can see the moon and the stars.
What do you wear on your feet?|You wear socks and shoes on your feet.
What do you wear on your head?|You wear a hat on your head.
What do you call water that falls from the sky?|Water that falls from the sky is called rain.
What is the first month of the year?|The first month of the year is January.
What is the last month of the year?|The last month of the year is December.
What is the first day of the week?|Many people say that Monday is the first day of the week.
Which season is the coldest?|Winter is the coldest season.
Which season is the warmest?|Summer is the warmest season.
""")

CATEGORIES = {
    "fruit": "an apple, a pear, a plum, a banana, a cherry, an orange, a lemon, a peach, a grape, a melon".split(", "),
    "vegetable": "a carrot, a potato, a cabbage, an onion, a cucumber, a pea, a bean, a pumpkin".split(", "),
    "bird": "an owl, a crow, a duck, a swan, an eagle, a parrot, a robin, a gull, a hen".split(", "),
    "tool": "a hammer, a saw, a shovel, a ladder, a brush, a needle, a rope".split(", "),
    "drink": "water, milk, tea, juice, coffee, hot chocolate".split(", "),
    "colour": "red, blue, green, yellow, white, black, brown, orange, purple, pink, grey".split(", "),
    "season": "spring, summer, autumn, winter".split(", "),
    "farm animal": "a cow, a horse, a pig, a sheep, a goat, a hen, a duck, a donkey".split(", "),
    "wild animal": "a lion, a bear, a wolf, a fox, an elephant, a deer, a monkey, a snake".split(", "),
    "sea animal": "a whale, a shark, a crab, a dolphin, a fish, a turtle".split(", "),
    "flower": "a rose, a tulip, a daisy, a lily, a sunflower".split(", "),
    "sport": "running, swimming, football, tennis, skating, skiing, rowing".split(", "),
    "game": "chess, hide and seek, cards, football, tag".split(", "),
    "toy": "a doll, a ball, a kite, a drum, a puppet, a toy train".split(", "),
    "feeling": "joy, fear, anger, love, hope, sadness, surprise".split(", "),
    "kind of weather": "rain, snow, wind, fog, sunshine, a storm".split(", "),
}
PLURALS = table("""
mouse|mice\nchild|children\nfoot|feet\ntooth|teeth\ngoose|geese\nman|men\nwoman|women\nleaf|leaves\nwolf|wolves\nknife|knives
box|boxes\nfox|foxes\nbaby|babies\nberry|berries\ncity|cities\nsheep|sheep\nfish|fish\ncat|cats\nship|ships\ntree|trees\nbus|buses
""")
RHYMES = table("""
cat|hat|mat\nsea|tree|bee\nday|play|way\nnight|light|bright\nmoon|spoon|soon\nsing|ring|king\nboat|coat|goat\nrain|train|plain
star|far|car\nfox|box|socks\nhouse|mouse|blouse\nbook|look|cook\nsand|hand|land\nsnow|blow|go\nball|tall|small\nbear|pear|chair
cake|lake|snake\nship|trip|lip\ngold|cold|old\nwhale|tail|sail\nfish|dish|wish\nnest|best|rest\nsun|fun|run\nfrog|dog|log
""")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November December""".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty""".split()
