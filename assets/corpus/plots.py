"""Stories: each plot is a list of beats, a line each. `~` before a beat makes it optional.

Slots: `a` the main character, `b` another one whose pronoun differs (so that "he" and "she"
are never in doubt), `g` a grown-up, and what `needs` names. `topic` says what a reader may
ask for to get this story ("Tell me a story about ...").
"""

PLOTS = [
    dict(main="any", needs=("toy", "place", "hiding"), b="any", topic=["{a.a}", "{a.a} named {a}", "a lost {o}", "{a.a} and a lost {o}"], text="""
<intro>
{a} had {o.a} that {a.he} [loved very much|took everywhere|kept beside {a.his} bed|got from {a.his} {g}].
<oneday> {a} [went|walked|ran] {p.to} [with the {o}|to play with the {o}|and took the {o} along].
~<weather>
[{a} put the {o} down and chased a butterfly.|{a} played for hours and then fell asleep in the sun.|{a} saw a frog jump by and ran after it.|{a} stopped to talk to a friend and forgot about the {o}.]
[When {a.he} came back, the {o} was gone.|When {a.he} looked again, the {o} was not there.|Suddenly {a} saw that the {o} was gone.]
<sad>
["What is wrong?" asked {b}, {b.a} who was passing by.|Just then {b}, {b.a}, came along and asked what was wrong.|{b}, {b.a}, heard {a.him} and came to help.]
["I lost my {o}," said {a}. "I have looked everywhere."|"My {o} is gone," {a} said. "Will you help me find it?"|{a} told {b.him} about the {o}.]
["Let us look together," said {b}. "Four eyes see more than two."|"Do not worry," said {b}. "We will find it."|"When did you last have it?" asked {b}. "Let us go back there."]
They [looked here and there|searched high and low|walked back along the path and looked carefully].
[At last {b} saw something {o.adj} {h}.|Then {a} saw something {o.adj} {h}.|After a while, they looked {h}.] It was the {o}!
<happy>
["Thank you, {b}," said {a}. "You are a true friend."|{a} thanked {b} and asked {b.him} to stay and play.|"Now we can play with it together," said {a}.]
~<friends>
<end>
"""),
    dict(main="any", needs=("place", "food"), b="any", topic=["{a.a}", "making a new friend", "{a.a} and {b.a}", "friendship"], text="""
<intro>
{a} [had no one to play with|was new in the village and knew nobody|often felt lonely].
<oneday> {a.he} went {p.to} [alone|with {a.his} lunch|to look around].
~<weather>
There {a.he} saw {b}, {b.a}, [sitting all alone|who was looking at the clouds|who was drawing in the sand|who was humming a little song].
{a} [was shy|did not know what to say|wanted to say hello but was too shy], so {a.he} [waited for a while|hid behind a tree|looked at {a.his} feet].
[Then {b} looked up and smiled.|Then {b} waved at {a.him}.|But {b} had already seen {a.him}.] ["Hello," said {b}. "Do you want to play?"|"Come and sit with me," said {b}.|"My name is {b}. What is yours?"]
["Yes, please," said {a}. "I am {a}."|"I am {a}," said {a} in a small voice.|{a} nodded and came closer.]
{a} [had a {food} and gave half of it to {b}|shared {a.his} {food} with {b}|took out a {food}, and they ate it together].
They [played|talked and laughed|ran and jumped] until [the sun went down|it was dark|it was time to go home].
["See you tomorrow," said {b}.|"Will you come back tomorrow?" asked {b}. "Of course," said {a}.|"I had a lovely day," said {a}. "So did I," said {b}.]
<friends>
<end>
"""),
    dict(main="child", needs=("hurt", "place"), b=None, topic=["{a.a}", "a hurt {n}", "helping {n.a}", "{a.a} and {n.a}"], text="""
<intro>
<oneday> {a} was walking {p.at} when {a.he} heard a [small cry|soft sound|sad little noise].
It came from [under a bush|behind a tree|the tall grass|a hole in the ground]. {a} [looked|bent down to look|moved the leaves away] and found {n.a}. Its {part} was hurt.
["Do not be afraid," {a} <saidkindly>. "I will help you."|"Poor thing," {a} <saidkindly>.|The {n} was shaking, and {a} spoke to it softly.]
{a} [took off {a.his} scarf and wrapped it around the {n}|picked up the {n} very carefully|carried the {n} home in {a.his} hat].
[At home, {a.his} {g} washed the {part} and put a small bandage on it.|{a.His} {g} knew what to do and made a soft bed in a box.|Together with {a.his} {g}, {a.he} cleaned the {part} with warm water.]
[Every day {a} gave the {n} food and water.|{a} fed the {n} three times a day and talked to it.|For two weeks {a} took care of the {n}.]
~[Slowly it grew stronger.|Little by little, the {part} got better.|Each day the {n} was a little stronger.]
[Then one morning the {n} was well again.|At last the {part} was better.|One day the {n} stood up and looked out of the window.]
["You have to go home now," said {a}, and {a.he} opened the door.|{a} knew that it was time to say goodbye.|{a} took it back to the place where {a.he} had found it.]
[The {n} looked back once and was gone.|{a} was sad and happy at the same time.|"Goodbye, little friend," said {a}.]
[After that, the {n} came to visit {a} every spring.|Sometimes, early in the morning, {a} still saw the {n} near the house.|The next day, there was a small flower at the door, and {a} knew who had brought it.]
"""),
    dict(main="any", needs=("place",), b="any", day="fair", topic=["a storm", "{a.a}", "{a.a} in a storm", "a rainy day"], text="""
<intro>
<oneday> {a} and {b}, {b.a}, were playing {p.at}.
[Dark clouds came over the hills.|Suddenly the sky turned dark.|The wind began to blow, and the sky turned grey.] [Then they heard thunder.|Big drops of rain began to fall.|There was a flash of lightning.]
<afraid>
["We have to find a dry place," said {b}.|"Quick, follow me!" called {b}.|"Take my hand," said {b}. "I know a place."]
They ran [through the mud|as fast as they could|over the wet stones] until they [found|saw|came to] [a small cave|an old barn|an empty hut|a big hollow tree].
Inside it was [dry and warm|dark but dry|quiet]. They sat close together and listened to the rain.
["Let us tell stories," said {b}, "and then we will not be afraid."|"When I am afraid, I sing," said {b}. So they sang every song they knew.|{a} counted the seconds between the lightning and the thunder. "It is going away," {a.he} said.]
~[After a while, {a} was not afraid any more.|Soon {a} forgot about the storm.|The thunder became softer and softer.]
[When the rain stopped, they went outside.|At last the sun came out again.|An hour later the storm was over.] [There was a big rainbow over the hills.|The whole world was wet and shining.|Everything smelled fresh and new.]
["Look!" said {a}. "How beautiful!"|"Storms do not last for ever," said {b}.|{a} splashed in every puddle on the way home.]
<end>
"""),
    dict(main="any", needs=("build",), b="any", topic=["building a {build}", "{a.a} who built a {build}", "not giving up"], text="""
<intro>
[One day {a} had a great idea.|{time}, {a} sat down and made a plan.|{a} had a dream.] {a.He} wanted to build a {build}.
[{a.He} asked {b}, {b.a}, to help.|"Will you help me?" {a.he} asked {b}, {b.a}. "Yes!" said {b}.|{b}, {b.a}, came by and wanted to help.]
First they [found|collected|looked for] {parts}. Then they [began|set to work|got to work].
They worked [all morning|for many hours|very hard]. But when they were almost done, [the wind blew, and everything fell down|there was a loud crack, and it broke into pieces|it fell over with a crash].
["It is no good," said {a}. "I give up."|<sad>|"Now we have to start again," said {a} sadly.]
["We can try again," said {b}. "Now we know what went wrong."|"Nobody gets it right the first time," said {b}.|{b} thought for a moment. "We need to make it stronger at the bottom," {b.he} said.]
So they [started again|tried once more|began from the beginning]. This time they [worked slowly and carefully|measured everything twice|did each step with care].
[In the evening, the {build} was ready.|When the sun went down, the {build} was finished.|At last they had a fine {build}.] [It was strong.|It was perfect.|It was even better than they had hoped.]
<happy>
["We did it!" they shouted.|"It is good that we did not give up," said {a}.|{a.His} {g} came to look and said, "Well done, both of you!"]
<end>
"""),
    dict(main="any", needs=("bake",), b="any", topic=["a birthday", "{a.a} who baked a {bake}", "a surprise", "a birthday surprise"], text="""
<intro>
[It was the birthday of {a.his} {g}.|Tomorrow was the birthday of {a.his} {g}.|The birthday of {a.his} {g} was coming.] {a} wanted to make something special.
["I will bake a {bake}," {a.he} said.|{a.He} looked in an old book and found out how to make a {bake}.|"A {bake} would be nice," {a.he} thought.]
{a} [took|got out|found] flour, eggs, butter, and [sugar|honey|milk]. {a.He} mixed everything in a big bowl.
[Soon there was flour on the table, on the floor, and even on {a.his} nose.|But one egg fell on the floor with a splash.|{a.He} stirred and stirred until {a.his} arm was tired.]
~{b}, {b.a}, [smelled something good and came in|looked in through the window|knocked at the door]. ["Can I help?" asked {b}.|"What are you making?" {b.he} asked. "It is a surprise," said {a}.]
Then {a} put it in the oven and [waited|sat down to wait|went outside to play]. [But {a} forgot the time, and the first one was burned, so {a.he} had to start again.|Soon the whole house smelled sweet.|The clock went tick, tock, tick, tock.]
[When it was ready, it was golden and warm.|It was not perfect, but it smelled wonderful.|At last the {bake} stood on the table.]
[When {a.his} {g} came home, {a} called, "Happy birthday!"|{a} carried it to {a.his} {g} and said, "This is for you."|"Surprise!" called {a} when {a.his} {g} opened the door.]
[{g.He} laughed and gave {a} a big hug.|{g.He} had tears in {g.his} eyes. "This is the best birthday," {g.he} said.|"Did you make this all by yourself?" asked {a.his} {g}. {g.He} was very proud.]
They ate it [together|with warm milk|in the garden], and there was not a crumb left.
<end>
"""),
    dict(main="any", needs=("flower",), b=None, topic=["a {flower}", "a small seed", "{a.a} and a {flower}", "being patient"], text="""
<intro>
[{a.His} {g} gave {a.him} a small brown seed.|One day {a} found a small seed in {a.his} pocket.|An old {town} gave {a} a tiny seed.] ["Plant it and wait," {say}.|"What will it be?" {a} wondered.|"Take good care of it," {say}.]
{a} [made a hole in the ground and put the seed in|put the seed in a pot of black earth|planted the seed in a sunny spot].
Every morning {a.he} gave it water. [But nothing happened.|But there was nothing to see.|{a.He} looked and looked, but nothing came up.]
~[A week went by.|Days went by, and then weeks.|It rained, and then the sun came out.]
["Maybe it is asleep," said {a}.|"Why does it take so long?" asked {a}.|{a} was sad and wanted to dig it up again.] ["You must be patient," said {a.his} {g}. "Good things take time."|"Wait a little longer," said {a.his} {g}.|But {a.he} waited and did not forget the water.]
Then, {later}, there was [a small green leaf|a tiny green tip|something green in the earth].
[It grew a little every day.|Each day it was taller.|It grew and grew.] [First it was as tall as {a.his} foot, then as tall as {a.his} knee.|Soon it was taller than {a} {a.himself}.|Bees and butterflies came to look at it.]
In the [summer|autumn|end], it was the [finest|biggest|most beautiful] {flower} in the whole [garden|village|valley].
<happy>
["I waited, and it was worth it," said {a}.|{a} kept one seed to plant in the next year.|{a} gave the seeds to all {a.his} friends.]
"""),
    dict(main="any", needs=("skill",), b="any", topic=["learning to {skill}", "{a.a} who learned to {skill}", "{a.a} who could not {skill}", "practice"], text="""
<intro>
But there was one thing that {a} could not do. {a.He} could not {skill}.
[All {a.his} friends could do it, and {b}, {b.a}, was the best of them.|{b}, {b.a}, could do it very well.|{a.He} had tried many times, and {b}, {b.a}, had watched {a.him}.]
<oneday> {a} [said|decided|told {a.his} {g}], "I want to learn to {skill}."
["It takes practice," said {b}. "I will show you."|{b} said, "I can teach you if you like."|"I will help you," said {b}.]
So they [practised|met] {where} every day. The first time, it went [very badly|all wrong]. [{a} nearly cried.|Everyone laughed, and {a} laughed too.|"I will never learn it," said {a}.]
["Try again," came the answer. "A little better each day is enough."|"Do not think about it too much," said {b}.|But {a} did not give up.]
[The second day was a little better.|On the second day, it was a little easier.|After a week, it was already much better.] [The third day was better still.|{a} tried again and again.|Each day {a.he} learned one small thing.]
Then, {later}, [it worked|{a} suddenly could do it|something wonderful happened]. ["I can {skill}!" shouted {a}.|"Look at me!" called {a}. "I can {skill}!"]
<happy>
[Now {doing} is what {a} likes best of all.|The next year, {a} taught a younger friend to {skill}.|"You see," said {b}, "you only had to keep trying."]
"""),
    dict(main="any", needs=("place",), b="any", topic=["a treasure", "a secret map", "an old key", "{a.a} who found a key"], text="""
<intro>
<oneday> {a} was [digging|walking|playing] {p.at} when {a.he} [found|saw] [an old key|a small iron key|a rusty key] [in the mud|under a flat stone|between the roots of a tree].
["What does it open?" {a.he} wondered.|"Every key has a lock," {a} said. "I will find it."|{a} showed it to {b}, {b.a}.]
{a} tried it on [every door|the garden gate|the old shed] at home, but [it did not fit|it was too small|it was too big].
["Let us ask the old {town}," said {b}, {b.a} who loved secrets.|Then {b}, {b.a}, remembered an old box in the attic.|{b}, {b.a}, said, "There is a little door behind the windmill."]
Together they [went to look|climbed the dusty stairs|followed a narrow path]. There it was: [a wooden chest|a little blue door|a box with a silver lock].
{a} put the key in the lock and turned it. Click! [It opened slowly.|The lid went up.|It was open.]
~<afraid>
Inside there was [no gold and no silver|not a single coin]. There was [a letter, and it said, "Whoever finds this will be lucky, because a friend is the best treasure."|a pile of old books full of wonderful pictures.|a music box, and it played the sweetest song they had ever heard.|a box of seeds from all over the world.|a map of the whole valley with a red cross in the middle.]
["This is better than gold," said {a}.|{a} and {b} looked at each other and laughed.|"Who put it here?" asked {b}. Nobody ever found out.]
<end>
"""),
    dict(main="any", needs=(), b=None, topic=["the dark", "{a.a} who was afraid of the dark", "a night light", "the moon and {a.a}"], text="""
<intro>
{a} was not afraid of [bees|storms|high trees|deep water] or [spiders|thunder|loud noises]. But {a.he} was afraid of the dark.
Every night, when the light went out, {a} [hid under the blanket|saw strange shapes on the wall|called for {a.his} {g}].
["There is a monster in the corner," {a.he} said.|"What was that noise?" {a.he} asked.|"Please leave the light on," {a.he} said.]
{a.His} {g} sat down on the bed. ["Let us look together," {g.he} said.|"Come to the window," {g.he} said. "I want to show you something."|"Do you know who lives in the dark?" {g.he} asked.]
[In the corner there was only a chair with a coat on it.|Outside, the moon was round and white, and there were a thousand stars.|They listened. An owl called, the wind moved the leaves, and far away a dog barked.]
["Without the dark, we could not see the stars," said {a.his} {g}.|"The dark is only the day with its eyes closed," said {a.his} {g}.|"The night is when the world takes a rest," said {a.his} {g}.]
{a} [looked for a long time|thought about this|counted the stars until {a.his} eyes were heavy].
["Good night, moon," {a} whispered.|"It is not so bad," said {a}.|"I like the stars," {a} said and yawned.]
[And from then on, {a.he} was not afraid any more.|That night, {a} slept without a light.|Soon {a} was fast asleep.]
"""),
    dict(main="any", needs=("toy",), b=None, topic=["telling the truth", "{a.a} who broke something", "a broken vase", "being honest"], text="""
<intro>
<oneday> {a} was [running|jumping|playing with a ball] in the [house|kitchen|hall]. "[Not inside, please|Please be careful|Slow down]," {a.his} {g} had said.
But {a} [did not listen|forgot|ran even faster]. Crash! [The blue vase fell and broke.|A plate fell from the shelf and broke.|The big mirror fell to the floor and broke.]
<afraid>
{a} [hid the pieces behind the sofa|pushed the pieces under the carpet|put the pieces in a box] and [said nothing|went to {a.his} room].
At dinner, [{a} could not eat|the food did not taste good|{a} did not say a word]. {a.His} stomach hurt. ["Are you ill?" asked {a.his} {g}.|"Is something wrong?" asked {a.his} {g}.|{a.His} {g} looked at {a.him} and waited.]
[Then {a} began to cry. "I broke it," {a.he} said. "I am sorry."|At last {a} said, "I did a bad thing. I broke it, and I hid it."|"It was me," {a} said quietly. "I was running in the house."]
{a.His} {g} [was quiet for a moment|took {a.his} hand|gave {a.him} a hug]. ["Thank you for telling the truth," {g.he} said. "That was brave."|"A thing can be fixed," {g.he} said, "but a lie hurts for a long time."|"I am not angry," {g.he} said. "I am glad that you told me."]
[Together they put the pieces back with glue.|The next day, they bought a new one with {a.his} own coins.|{a} helped to clean up, and then they played a game.]
{a} [felt much better|felt as light as a feather|slept well that night].
"""),
    dict(main=("turtle", "hedgehog", "duck", "frog", "pig", "penguin", "mouse", "badger"), needs=("place",), b=("rabbit", "fox", "horse", "deer", "lion", "cat", "dog"), topic=["a race", "{a.a} and {b.a}", "a race between {a.a} and {b.a}"], text="""
[All the animals were talking about the big race.|Every year, the animals held a race {p.at}.|One summer, the animals wanted to know who was the fastest.]
{b} the {b.kind} [was very fast and very proud|always said that nobody was faster|laughed at everyone]. ["Nobody can beat me," {b.he} said.|"I will win, of course," said {b}.]
{a} the {a.kind} was [slow|small|quiet], but [{a.he} never gave up.|{a.he} liked to try new things.|{a.he} said, "I will race you."]
[Everyone came to watch.|The owl counted: one, two, three, go!|A bell rang, and the race began.] {b} ran so fast that {b.he} was soon far ahead.
["I have so much time," {b} said, and {b.he} stopped to [eat some berries|take a nap|look at {b.himself} in the water].|Then {b} saw a tree full of ripe plums and stopped to eat.|But the sun was hot, so {b} lay down in the shade.]
{a} [kept going|went on, step by step|did not stop]. [{a.He} went over the bridge and around the pond.|Up the hill {a.he} went, and down again.|{a.His} feet hurt, but {a.he} went on.]
[When {b} woke up, {a} was near the end.|When {b} looked up, it was too late.|{b} heard the animals cheer and began to run.] {a} won the race!
["Well done," said {b}. "I was too proud."|{b} was ashamed, but {a} said, "You are still the fastest of us all."|The animals cheered and carried {a} home.]
["Slow and steady wins the race," said the old owl.|And {b} never laughed at anyone again.|From then on, the two of them ran together, just for fun.]
"""),
    dict(main="any", needs=("place",), b="animal", topic=["{a.a} who got lost", "being lost in the woods", "finding the way home", "{a.a} and {b.a}"], text="""
<intro>
<oneday> {a} [followed a blue butterfly|went to look for mushrooms|walked a little too far] and [got lost in the woods|lost the way|did not know the way home].
[The trees were tall, and every path looked the same.|It grew dark, and the trees made long shadows.|{a} turned left, then right, and then left again.]
<afraid>
"[Is anybody there|Hello|Can anyone hear me]?" called {a}. [At first, there was no answer.|Only the wind answered.|Something moved in the leaves.]
Then [{b.a} came out of the trees|{a.he} saw {b.a}|{b.a} looked down from a rock]. ["I am {b}," said the {b.kind}. "Are you lost?"|"Good evening," said the {b.kind}. "My name is {b}. Why are you crying?"]
["I want to go home," said {a}, "but I do not know the way."|"Yes," said {a}. "I cannot find my house."] "What do you [see|hear] from your home?" asked {b}. ["A river and a mill," said {a}.|"A tower with a bell," said {a}.|"I can hear the sea," said {a}.]
["Then I know where it is," said {b}. "Come with me."|"That is easy," said {b}. "Follow the stream."|{b} listened. "This way," {b.he} said.]
They walked [over a hill and through a field|under the moon|along the stream], and {b} [told {a.him} the names of the stars|hummed a quiet song|kept {a.him} safe].
[At last {a} saw a light in a window.|Soon {a} could see the house.|Then {a} heard {a.his} {g} calling.] ["I am home!" cried {a}.|{a.His} {g} ran out and hugged {a.him}.]
{a} [turned around to say thank you, but {b} was already gone|thanked {b} and gave {b.him} some bread|waved to {b}, and {b} waved back].
<end>
"""),
]
