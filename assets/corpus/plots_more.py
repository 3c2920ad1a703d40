"""More stories; see `plots` for the form."""

MORE = [
    dict(main="child", needs=("ship", "captain"), b=None, topic=["the sea", "a ship", "{a.a} at sea", "a pirate", "a pirate captain", "a treasure island"], text="""
<intro>
{a} had always dreamed of [the sea|going to sea|a life on a ship]. <oneday> a [big|tall|grand old] ship called {ship} came into the harbour.
["Ahoy there!" called Captain {captain}. "I need a good pair of hands."|"Ahoy, matey!" called Captain {captain}. "Do ye want to come aboard?"|Captain {captain} stood on the deck. "Ahoy! Who be ye?" {cap.he} asked. "I be looking for a brave sailor."]
["I will come," said {a}.|"Aye, Captain!" said {a}.|{a} ran up the plank as fast as {a.he} could.]
They [sailed for three days|sailed over the wide sea|set the sails and left the harbour]. [{a} washed the deck and tied the ropes.|{a} climbed the mast and looked for land.|At night, {a} counted the stars with the crew.]
[Then a great storm came. The waves were as high as houses.|One morning they saw a whale as big as an island.|On the fourth day, the wind stopped, and the ship did not move.] ["Hold on, me hearties!" shouted the captain.|"Arr, this be a bad sea," said the captain.|"Steady, lads and lasses!" cried the captain. "The sea be our friend."]
{a} [held the wheel with both hands|pulled the rope with all {a.his} strength|did not let go] and [was very brave|was not afraid|kept the ship safe].
["Land!" {a.he} shouted. There was a small island with white sand.|Then the clouds opened, and they saw an island.|In the morning, they saw green hills. It was the treasure island.]
[They followed the map to a palm tree and dug a deep hole.|Under a red rock, they found an old chest.|In a cave by the shore, they found a box with a big lock.] [Inside was gold, and silver, and a crown.|It was full of gold coins and pearls.|It was full of shells, and each shell sang a song of the sea.]
["Shiver me timbers!" said the captain. "We be rich!"|"Arr, well done, matey," said the captain. "Half of the treasure be yours."|"Yo ho ho!" sang the crew, and they danced on the deck.]
[When the ship came home, {a} gave the gold to the poor people of the town.|{a} came home with one gold coin and a hundred stories.|"Ye be a true sailor," said the captain, and {a} was proud.]
"""),
    dict(main="any", needs=(), b="any", topic=["snow", "a snowy day", "{a.a} in the snow", "winter"], text="""
<intro>
[When {a} woke up, everything was white.|One morning, {a} looked out of the window and saw snow.|In the night, snow had fallen, and the whole world was quiet.]
["Snow!" {a.he} cried. {a.He} put on a warm hat and ran outside.|{a} could not wait to go out.|{a} jumped out of bed and put on a thick coat.]
[The snow was soft and deep.|The cold air bit {a.his} nose.|Small white flakes were still falling.] {a} and {b}, {b.a}, [built a snowman with a carrot nose|went down the hill on an old sled|made angels in the snow|threw snowballs and laughed].
[Then they saw small tracks.|After a while, {b} pointed at the ground. There were small tracks.|Then {a} heard a tiny voice.] [They followed them to a little bird that had nothing to eat.|They led to a hungry rabbit behind the barn.|It was a small mouse that was lost and cold.]
["It must be hungry," said {b}.|"We have to help it," said {a}.|"Poor little thing," said {b}.] They [brought some seeds and bread|ran home and came back with a warm cloth and some nuts|gave it half of their lunch].
[The little animal ate everything and felt better.|It ate, and then it looked at them with bright eyes.|Soon it was warm again.]
[When their hands were cold, they went inside.|In the evening, they sat by the fire.|When it grew dark, they went home.] [They drank hot chocolate and looked at the snow.|{a.His} {g} made hot soup for everyone.|There was warm milk with honey.]
["I hope it snows again tomorrow," said {a}.|"This was the best day of the winter," said {b}.|Outside, the snow began to fall again.]
"""),
    dict(main="any", needs=("toy",), b="any", topic=["the market", "{a.a} at the market", "giving", "{a.a} who was kind"], text="""
<intro>
{a} had saved [five|six|seven|eight|nine|ten] coins. {a.He} wanted to buy {o.a} [at the market|in the little shop on the corner].
<oneday> {a} put the coins in {a.his} pocket and [went to town|walked to town|set out].
~[The market was full of colours and smells.|There were apples and cheese and fresh bread.|People were calling and laughing.]
On the way, {a.he} saw {b}, {b.a}. {b} was [crying|sitting on the steps with {b.his} head down|cold and hungry].
["What happened?" asked {a}.|"Are you all right?" asked {a}.] ["I dropped my money in the river," said {b}, "and now I cannot buy bread."|"I have had nothing to eat since yesterday," said {b}.|"My mother is ill, and we have no money for medicine," said {b}.]
{a} [looked at the {o} in the window|thought of the {o}|felt the coins in {a.his} pocket]. Then {a.he} [looked at {b}|took a deep breath|thought for a moment].
["Here," said {a}. "You need this more than I do."|{a} gave {b} all the coins.|{a} bought bread and soup and gave them to {b}.]
["Thank you," said {b}. "I will never forget this."|{b} smiled for the first time that day.|{b} was so happy that {b.he} could not speak.]
{a} went home without the {o}, but [{a.his} heart was warm|{a.he} was not sad|{a.he} sang all the way].
[The old {town} had seen everything. The next day, the {o} stood at the door of {a.his} house.|A week later, {b} came with a present. It was {o.a} that {b.he} had made with {b.his} own hands.|"You did a good thing," said {a.his} {g}, "and that is worth more than any {o}."]
<end>
"""),
    dict(main="animal", needs=(), b="animal", topic=["{a.a} who wanted to be {b.a}", "being yourself", "{a.a} and {b.a}"], text="""
<intro>
But {a} was not happy. ["I am only a {a.kind}," {a.he} said.|{a.He} looked at {b} the {b.kind} and sighed.|"Why can I not be someone else?" {a.he} asked.]
["I wish I were a {b.kind}," said {a}. "A {b.kind} has a wonderful life."|{a.He} wanted to be a {b.kind}, just like {b}.]
So {a} tried to [walk like|eat like|talk like|live like] a {b.kind}. [All the animals stared.|It was very hard.|{a.He} fell over three times.]
[The food made {a.his} stomach hurt.|{a.He} was cold at night and could not sleep.|Everything went wrong.] ["What are you doing?" asked {b}.|{b} watched {a.him} and was surprised.]
["I want to be like you," said {a}.|"You have it so easy," said {a}. "I want to be a {b.kind} too."] ["That is funny," said {b}. "I have always wanted to be a {a.kind}."|{b} laughed. "And I always wished that I could be like you," {b.he} said.]
"[Really|Why|Like me]?" asked {a}. ["Of course," said {b}. "You can do so many things that I cannot do."|"Because you are {a.adj}, and everyone likes you," said {b}.|"You make everyone laugh," said {b}. "That is a great gift."]
{a} [thought about this for a long time|went to the pond and looked into the water|was quiet]. [The face in the water smiled back.|"Maybe I am fine as I am," {a.he} said.|"Then I will be the best {a.kind} that I can be," {a.he} said.]
<friends>
"""),
    dict(main="any", needs=("food", "place"), b="any", day="fair", topic=["a picnic", "{a.a} and a picnic", "some hungry ants"], text="""
<intro>
<oneday> {a} and {b}, {b.a}, [wanted to have a picnic|packed a big basket|made plans for a picnic] {p.at}.
They took [bread and cheese|apples and pears|sandwiches and juice], a {food}, and a blanket.
~<weather>
They [found a nice place in the shade|sat down near some flowers|put the blanket on the soft grass] and began to eat.
[Suddenly {a} felt something on {a.his} foot.|"Something is moving," said {b}.|Then {a} looked at the {food}. It was moving!] [It was a long line of ants.|There were ants everywhere.|A hundred small ants were carrying it away.]
["Stop!" cried {a}. "That is our lunch."|{a} wanted to chase them away.|"Oh no!" said {b}.] ["They are small, and they are hungry too," said {b}.|"Look how strong they are," said {b}. "They work together."|"Let us give them the crumbs," said {b}.]
[So they put some crumbs on a leaf a little way off.|{a} broke off a corner and put it on a stone.|They shared their food with the ants.] [The ants marched to it like little soldiers.|The ants were happy, and so were the friends.|Soon the blanket was free again.]
[Then it began to rain, but nobody minded.|They ate until they were full and then lay in the grass.|After lunch, they looked at the clouds. One looked like a ship, and one looked like a sheep.]
["What a funny picnic," said {a}.|"Next time, we will bring a lunch for the ants," said {b}.|"We had guests today," laughed {a}.]
<end>
"""),
    dict(main="any", needs=(), b="any", topic=["a sick friend", "taking care of a friend", "{a.a} and {b.a}", "kindness"], text="""
<intro>
Every day {a} played with {b}, {b.a}. But one day {b} did not come.
["Where is {b}?" asked {a}.|{a} waited and waited.|{a} looked at the gate again and again.] So {a} went to {b.his} house and knocked on the door.
[{b} was lying in bed with a red nose.|"I am ill," said {b} in a weak voice.|{b} had a cold and could not stop sneezing.] ["My head hurts," {b.he} said.|"I cannot come out and play," {b.he} said sadly.|"Achoo!" said {b}.]
"[Stay in bed|Do not worry|Rest now]," said {a}. "I will [take care of you|be right back|look after you]."
{a} [made hot soup with carrots and herbs|brought warm tea with honey|cooked a pot of soup]. {a.He} [put a cool cloth on {b.his} head|read {b.him} a story about the sea|opened the window to let in some fresh air|brought an extra blanket].
[When {b} was tired, {a} sat quietly beside the bed.|In the evening, {a} sang a quiet song.|{a} told jokes until {b} laughed.]
[The next day {b} felt a little better.|After two days, {b} could sit up.|Each day {b} was a bit stronger.] [On the third day, {b.he} got out of bed.|At the end of the week, {b.he} was well again.|And soon {b.he} was running around in the garden.]
["You are the best friend in the world," said {b}.|"Thank you for the soup," said {b}. "And thank you for staying with me."|{b} gave {a} a big hug.]
[A week later, {a} had a cold, and now {b} made the soup.|"That is what friends are for," said {a}.|And then they ran out to play.]
"""),
    dict(main="any", needs=(), b="any", topic=["a strange noise", "a noise in the night", "{a.a} who heard a noise", "being brave"], text="""
<intro>
One night {a} heard a strange noise. [Tap, tap, tap.|Bump, bump, bump.|Scratch, scratch, scratch.|Hoo, hoo, hoo.] It came from [the roof|the cellar|behind the wall|the kitchen|the garden].
<afraid>
[In the morning, {a} told {b}, {b.a}.|The next night, {b}, {b.a}, came to stay.|{b}, {b.a}, was staying that night and heard it too.] ["Maybe it is a ghost," said {b}.|"Perhaps it is a thief," said {b}.|"We should go and look," said {b}.]
[When it was dark, they took a lantern and went to look.|They waited until midnight. Then they heard it again.|They walked on their toes with a small light.]
["Who is there?" called {a} in a loud voice.|{a} opened the door slowly.|The floor creaked under their feet.] [Nobody answered.|The noise stopped.|Two bright eyes looked at them.]
Then they saw it. It was only [a small mouse with a nut that was too big for its hole|a branch that was moving in the wind|a kitten that wanted to come in|an owl with a nest full of babies|a hedgehog that was looking for food|a loose shutter].
["That is our ghost!" said {b}, and they laughed until their stomachs hurt.|"All that fear for nothing," said {a}.|{a} felt foolish, but {b} said, "You were brave. You went to look."]
[They fixed the problem and went back to bed.|They made hot milk and went to bed.|After that, {a} liked the sound.] ["The next time I hear a noise, I will look first," said {a}.|Things are not so scary when you turn on the light.|That night, {a} slept very well.]
"""),
    dict(main="any", needs=(), b="any", topic=["a letter", "{a.a} who got a letter", "an old friend", "a long journey"], text="""
<intro>
<oneday> the mail carrier brought a letter for {a}. It was from {b}, {b.a} who [had moved far away|lived on the other side of the mountain|lived across the sea].
["Dear {a}," it said, "I miss you. Please come and visit me."|The letter said, "My garden is full of flowers. Come and see it."|"I have something to show you," said the letter. "Come soon."]
{a} [packed a small bag|put some bread and cheese in a bag|took a warm coat and a map] and [said goodbye to {a.his} {g}|set out before the sun came up|left the next morning].
First {a.he} [crossed a wide river|went by train through the hills|walked through a dark forest]. [An old {town} showed {a.him} the way.|A friendly {town} gave {a.him} a ride on a cart.|When {a.his} feet hurt, {a.he} rested under a tree.]
Then {a.he} [climbed a steep hill|took a small boat|walked along the shore]. [It rained, but {a} sang to keep warm.|At night, {a.he} slept under the stars.|The way was long, but {a} did not turn back.]
[On the third day, {a} saw a little house with a red roof.|At last {a.he} came to a green gate.|In the evening, {a.he} saw a light far away.] {b} was [standing at the door|waiting at the window|waving from the garden].
["You came!" cried {b}.|"I knew that you would come," said {b}.|They ran to each other and laughed and cried.] [They talked all night long.|There was so much to tell.|They drank tea and talked about the old days.]
["What did you want to show me?" asked {a}. {b} smiled. "A whole week of fun," {b.he} said.|{b} showed {a} the garden, the sea, and the best place to see the stars.|And {a} stayed until the end of the summer.]
<end>
"""),
    dict(main="any", needs=("place",), b="animal", topic=["a rescue", "{a.a} who saved {b.a}", "{b.a} who was stuck", "helping others"], text="""
<intro>
<oneday> {a} heard someone call for help {p.at}. "[Help! Help!|Please help me!|Is anyone there?]"
~<weather>
It was {b}, {b.a}. {b.He} was stuck [in the mud|under a fallen tree|in a deep hole|between two rocks].
["How did you get there?" asked {a}.|"Do not move," said {a}. "I will get you out."|{a} ran as fast as {a.he} could.] ["I was not looking where I was going," said {b}.|"I was chasing a leaf," said {b}, "and I fell."|"I wanted to find something to eat," said {b}.]
{a} pulled and pulled, but [{b} did not move|it was no use|{a.he} was not strong enough].
["I need a rope," {a.he} said.|Then {a} had an idea.|{a} sat down and thought hard.] [{a.He} found a long branch and held it out.|{a.He} ran to the old {town} and came back with a rope.|{a.He} called all {a.his} friends, and they made a long line.]
["Hold on tight!" called {a}.|"One, two, three, pull!" {a.he} shouted.|"Are you ready?" asked {a}. "Now!"] [Pop! {b} was free.|Slowly, very slowly, {b} came out.|With a great splash, {b} came loose.]
["Thank you," said {b}. "You saved me."|{b} shook {b.himself} and smiled.|{b} was covered in dirt, and both of them began to laugh.]
[A few days later, {a} fell into the river, and {b} pulled {a.him} out.|"If you ever need help, call me," said {b}.|To say thank you, {b} brought {a} a basket of sweet berries.]
<friends>
"""),
    dict(main="any", needs=(), b="any", topic=["a show", "{a.a} who was shy", "being shy", "a song"], text="""
<intro>
{a} could sing [better than anyone in the village|like a bird|so well that even the wind stopped to listen]. But {a.he} only sang when {a.he} was alone, because {a.he} was very shy.
[One day there was a big sign in the village square. It said, "Song night on Saturday!"|The village planned a big party with music.|The {town} wanted to have a night of songs.]
["You should sing," said {b}, {b.a} who had heard {a.him} in the garden.|{b}, {b.a}, said, "Everyone must hear your voice."|"Please sing for us," said {b}, {b.a}.]
["I cannot," said {a}. "Everyone will look at me."|"What if I forget the words?" asked {a}.|{a} shook {a.his} head. "I am too afraid," {a.he} said.]
["Then look at me, and sing only for me," said {b}.|"I will stand beside you," said {b}.|"Close your eyes, and think of your garden," said {b}.]
On Saturday, [the hall was full|all the people came|there were lights in every tree]. {a} [walked onto the stage|stood up in front of them all|stepped into the light]. <afraid>
[For a moment, there was no sound.|{a.He} opened {a.his} mouth, but nothing came out.|It was so quiet that one could hear a pin drop.] Then {a} [looked at {b}|closed {a.his} eyes|took a deep breath] and began to sing.
[The song was soft at first, and then it grew.|It was the most beautiful song they had ever heard.|Even the babies stopped crying.] When it was over, [everyone stood up and clapped|there was a great cheer|people had tears in their eyes].
["You see?" said {b}.|"I did it," whispered {a}.|"I was afraid, and I did it all the same," said {a}.] <happy>
"""),
    dict(main="any", needs=(), b=None, topic=["fishing", "a magic fish", "{a.a} and a fish", "a wish"], text="""
<intro>
<oneday> {a} [went fishing with {a.his} {g}|sat by the lake with a fishing rod|went out in a small boat to fish].
[For a long time, nothing happened.|The water was still, and the hours went by.|{a} waited and watched the water.] Then [the line moved|something pulled hard|there was a splash]. It was a [golden|silver|big blue|tiny] fish!
["Please let me go," said the fish. "I will give you one wish."|To {a.his} surprise, the fish began to talk. "Let me go," it said, "and I will give you a wish."|The fish looked at {a.him} with sad eyes. "I have a family in the lake," it said.]
{a} [could not believe {a.his} ears|was very surprised|nearly fell into the water].
["Go home, little fish," {a.he} said, and {a.he} put it back into the water.|{a} was hungry, but {a.he} let the fish go.|"I do not need a wish," said {a}. "Go and be free."]
["You have a good heart," said the fish.|The fish swam three times around in a circle.|"I will not forget this," said the fish.]
[The next morning, there was a small pearl on the door step.|From that day on, {a} always had luck on the lake.|When {a} came home, there was a pot of hot soup on the table, and it never became empty.|That winter, when the ice broke under {a.him}, the fish carried {a.him} to the shore.]
[{a} told nobody, but {a.he} often went to the lake to say hello.|"Kindness always comes back," said {a.his} {g}.|And sometimes, on quiet evenings, {a} and the fish still talk.]
"""),
    dict(main="any", needs=(), b="any", topic=["a robot", "space", "a trip to the moon", "{a.a} who flew to the moon", "a rocket"], text="""
<intro>
Every night, {a} looked at the moon and [wondered what was up there|dreamed of flying|wanted to go there].
<oneday> {a} and {b}, {b.a}, built a rocket from [old boxes and a big fan|a bathtub and two chairs|wood and metal].
["Three, two, one, go!" they shouted.|They put on their helmets and pushed the red button.|{b} pulled the lever, and there was a great noise.] [Up they went, over the trees and the clouds.|The rocket shook and flew into the sky.|Soon the houses were as small as ants.]
[The moon was grey and very quiet.|On the moon, they could jump as high as a house.|There were no trees on the moon, only dust and stones.] [There they met a small robot. "Beep," it said. "I have been alone for a hundred years."|A small robot rolled up to them. "Welcome," it said. "Nobody ever visits me."|Behind a rock, they found a little robot with one blue eye.]
["Do you want to play with us?" asked {a}.|"What do you do here all day?" asked {b}. "I count the stars," said the robot.|"You must be lonely," said {a}.] They [played hide and seek|danced in the dust|had a picnic with star cakes].
[When it was time to go, the robot was sad.|"We have to go home for dinner," said {b}.|Then they saw the earth, blue and round, far away.] ["Come with us," said {a}. "There is room for three."|{a} gave the robot a picture of the earth to keep.|"We will come back every Sunday," said {a}.]
["Beep!" said the robot, and its eye shone like a star.|The robot was so happy that its lights went on and off.] [They landed softly in the garden, just in time for dinner.|Soon they were home again.|They flew home through the stars.]
["Where have you been?" asked {a.his} {g}. "Oh, not far," said {a}, and {b} laughed.|That night, {a} looked up and waved.|"What a trip!" said {b}.]
"""),
    dict(main="animal", needs=("food",), b="animal", topic=["sharing", "{a.a} who did not like to share", "a hungry winter", "{a.a} and {b.a}"], text="""
<intro>
[In the autumn, {a} had collected more food than anyone.|{a} had a big pile of food for the winter.|{a.His} house was full of nuts, apples, and honey.] ["It is all mine," {a.he} said.|But {a} did not like to share.|{a.He} locked the door every night.]
[Then came a long, cold winter.|One day the snow was so deep that nobody could find food.|The winter was hard, and the wind was bitter.] {b} the {b.kind} knocked on the door. ["I am so hungry," said {b}. "Can you give me a little?"|"Could I have a small {food}, please?" asked {b}.]
["No," said {a}. "I need it all for myself."|"Go away," said {a}. "You should have worked harder."|{a} looked at the pile and shook {a.his} head.] {b} [said nothing and walked away through the snow|went away sadly].
That night, [a big tree fell on {a.his} house|the roof of {a.his} house broke under the snow|a flood came and took everything away]. {a} had [no home and no food|nothing left]. <sad>
[Then someone touched {a.his} arm.|"Come with me," said a soft voice.|In the morning, there was a knock.] It was {b}. ["My house is small, but there is room for two," said {b}.|"I have only one potato," said {b}, "but you may have half of it."]
["Why are you so kind to me?" asked {a}.|{a} was ashamed. "I gave you nothing," {a.he} said.] ["Because nobody should be cold and alone," said {b}.|"Because that is what neighbours do," said {b}.]
[In the spring, {a} planted a garden for everyone.|From then on, {a} shared everything {a.he} had.|When the spring came, they built a new house together, and the door was never locked.]
"""),
    dict(main="any", needs=("place",), b="any", topic=["a broken bridge", "working together", "a village", "{a.a} and the bridge"], text="""
[There was once a village beside a river.|In a green valley there was a small village.|Long ago, a village stood on both sides of a river.] [{a}, {a.a}, lived on one side, and {b}, {b.a}, lived on the other.|On one side lived {a}, {a.a}. On the other side lived {b}, {b.a}.]
They met on the old bridge every day. [They sat there and watched the fish.|They shared their lunch in the middle of it.|There they told each other everything.]
[One night a storm came, and the bridge broke.|In the spring, the river rose and carried the bridge away.|One day the bridge was so old that it fell into the water.] [Now nobody could cross.|{a} stood on one side, and {b} stood on the other.|The two friends could only wave to each other.]
["Somebody should build a new bridge," said the {town}.|The people talked and talked, but nobody did anything.|"It is too much work," said the people.] ["Then I will begin," said {a}, and {a.he} carried the first stone to the river.|So {a} picked up one stone and put it at the shore. On the other side, {b} did the same.]
[They carried stones every day.|Day after day, they brought stones and wood.|It was slow work, and their arms hurt.] [The people watched and were ashamed.|The {town} saw them and came to help.|Soon a second person came to help, and then a third.]
[In the end, the whole village was working.|Everyone brought something: wood, nails, rope, or bread for the workers.|They sang while they worked.] [After twenty days, the new bridge was ready.|When the leaves turned red, the last stone was laid.]
[{a} and {b} met in the middle and laughed.|{a} came from one side and {b} from the other, and they met in the middle.] ["One stone is not much," said {a}, "but it is a start."|"Small hands can do big things," said the {town}.|That night, there was a party on the bridge with music and lights.]
"""),
    dict(main="any", needs=("place",), b=None, topic=["an ordinary day", "a day in the life of {a.a}", "{a.a}"], text="""
<intro>
In the morning, {a} [woke up early|got up when the sun came in|yawned and stretched]. {a.He} [washed {a.his} face|opened the window|made the bed] and ate [a bowl of porridge|bread with honey|two eggs|an apple and some cheese].
<weather>
After breakfast, {a} went {p.to}. {a.He} [met a friend there, and they talked about the weather|looked for stones and found three white ones|listened to the birds|helped the old {town} to carry a heavy box].
~At noon, {a} [was hungry and ate a sandwich|sat in the shade and ate some fruit|had soup with {a.his} {g}].
In the afternoon, {a.he} [read a book|helped {a.his} {g} in the garden|painted a picture of the hills|fixed a broken chair|played a game with the children next door].
~[A cat came by and wanted to play.|It rained for a while, but then the sun came back.|A friend brought some plums.|The {town} came to visit and told a funny story.]
In the evening, {a} [cooked dinner|helped to make dinner|set the table]. There was [soup and bread|fish with potatoes|rice with beans|a pie with apples]. After dinner, {a.he} [washed the dishes|sat by the fire|looked at the stars|sang a song].
[Then {a} was tired and went to bed.|When the clock struck nine, {a} went to bed.|At last {a} closed {a.his} eyes.] [It had been a good day.|"Tomorrow will be a good day too," {a.he} thought.|Nothing special had happened, and yet it was a lovely day.]
"""),
    dict(main="any", needs=("toy",), b="any", topic=["a gift", "a {o}", "two friends and a {o}", "sharing a {o}"], text="""
{a} and {b} were [good friends|neighbours|best friends]. {a} was {a.a}, and {b} was {b.a}.
<oneday> they [found|saw] {o.a} [on the path|in the grass|in an old box]. "[It is mine|I saw it first]!" said {a}. "No, [it is mine|I saw it first]!" said {b}.
[They pulled and pulled.|{a} pulled on one side, and {b} pulled on the other.|They shouted at each other.] [Then {a} ran off with it.|Then the {o} fell on the ground.|Neither of them wanted to let go.]
[{a} went home with the {o}, but it was no fun to be alone with it.|They went home and did not speak to each other all day.|Both of them were angry and sad.]
["Why are you so quiet?" asked {a.his} {g}.|{a.His} {g} saw that something was wrong.] {a} told {g.him} everything. ["What is more important," asked {a.his} {g}, "the {o} or your friend?"|"A {o} cannot laugh with you," said {a.his} {g}.|"Maybe there is a way for both of you to have it," said {a.his} {g}.]
{a} [thought about it all night|knew the answer|ran out of the door]. [In the morning, {a.he} went to {b}.|{a.He} took the {o} and went to {b.his} house.] ["I am sorry," said {a}. "You can have it."|"Let us share it," said {a}. "You can have it today, and I will have it tomorrow."]
["I am sorry too," said {b}.|{b} smiled. "I do not want it without you," {b.he} said.|"Let us play with it together," said {b}.]
[After that, they took turns, and nobody was angry.|And so they were friends again.|They played until the stars came out.]
"""),
    dict(main="child", needs=("ship", "captain"), b=None, topic=["an old sailor", "a sailor and {a.a}", "the captain of {ship}", "a pirate captain", "a pirate"], text="""
<intro>
<oneday> {a} went down to the harbour and met [old Captain {captain}|Captain {captain}, an old pirate|a sea captain called {captain}], who had [a parrot on {cap.his} arm|a big hat with a feather|one wooden leg|a long pipe].
["Ahoy, matey!" said the captain. "What be yer name?"|"Arr, who be ye, me hearty?" asked the captain.|"Ahoy there! Come closer, me friend," said the captain.] ["My name is {a}," said {a}. "Is this your ship?"|"I am {a}," said {a}. "Is that your ship?"]
["Aye, she be mine," said the captain. "She be called {ship}."|"Aye, that be {ship}," said the captain, "the finest ship on the seven seas."]
["What colour is the deep sea?" asked {a}. "Arr, the deep sea be blue and green, matey," said the captain.|"Where do whales live?" asked {a}. "Whales live in the deep, me hearty," said the captain.|"What do you eat at sea?" asked {a}. "Fish and bread, matey, and an apple when we be lucky," said the captain.|"What do you pack for a long trip?" asked {a}. "Ye need a rope, a map, and a warm coat, matey," said the captain.]
~["Are you never afraid?" asked {a}. "Aye, when the big storms come," said the captain, "but a good crew be never lost."|"How do you find the way?" asked {a}. "By the stars, matey. The stars be me map," said the captain.|"How many ships do you have?" asked {a}. "Nay, only the one, but she be enough for me," said the captain.]
["Can you tell me a story?" asked {a}.|"Do you know a story?" asked {a}.] ["Arr, I know a hundred, by the seven seas!" said the captain, and {cap.he} told of [gold and storms|a whale as big as an island|an island where the sand be made of pearls].|"Shiver me timbers, that I do!" said the captain, and {cap.he} told of [lost treasure|a ship that sailed to the moon|the great white whale].|"Yo ho ho! Sit down and listen well, me hearty," said the captain.]
[When the sun went down, {a} had to go home.|Then a bell rang, and {a} had to go.|Soon it was dark, and the lights of the harbour came on.] ["Thank ye for the talk, matey," said the captain. "Come back tomorrow."|"Fair winds to ye, me hearty!" called the captain.|"Ye be a fine {a.lad}, {a}," said the captain, "and me ship be always open to ye."]
[{a} dreamed of the sea all night.|That night, {a} drew a picture of the ship.|"Aye, Captain!" said {a}, and both of them laughed.]
"""),
]
