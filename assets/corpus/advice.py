"""Longer answers of the conversations: advice, how-to, packing, descriptions, small poems."""

from .facts import table

# feeling | advice (two of these are joined)
FEELINGS = {
    "sad": "I am sorry that you feel sad.|Talk to a friend about it.|Take a slow walk outside.|Listen to a song that you like.|It is all right to cry. It often helps.",
    "bored": "That happens to everyone.|You could draw a picture.|You could read a new book.|You could build something out of paper.|Call a friend and make a plan together.",
    "tired": "Then you should rest.|Lie down for a while and close your eyes.|Go to bed early tonight.|Drink some water and take a break.|Put your work away until tomorrow.",
    "angry": "It is all right to feel angry.|Take a deep breath and count to ten.|Go outside for a few minutes.|Wait until you are calm, and then talk about it.|Try to say what made you angry.",
    "lonely": "I am glad that you told me.|You could call someone in your family.|You could join a club and meet new people.|Say hello to a neighbour.|A walk in the park can help too.",
    "afraid": "Everyone is afraid sometimes.|Take a slow breath.|Tell someone that you trust.|Turn on a light and look around.|Think of a place where you feel safe.",
    "nervous": "That is quite normal.|Breathe in and out slowly.|Practise a little, and then rest.|Think of a time when things went well.|Tell yourself that you can do it.",
    "hungry": "Then it is time to eat.|You could make a sandwich.|An apple is quick and good.|A bowl of soup would make you warm.|Ask someone to cook with you.",
    "cold": "Then put on a warm coat.|Drink a cup of hot tea.|Sit near the fire.|Jump up and down a few times.|A thick blanket will help.",
    "happy": "That is wonderful to hear!|Share your joy with a friend.|You could write down what made you happy.|Enjoy the moment.|Maybe you would like to sing a song.",
    "ill": "I am sorry to hear that.|Stay in bed and rest.|Drink a lot of water or tea.|Ask a doctor if it does not get better.|Eat something light, such as soup.",
}

# how to ... | steps
HOWTO = table("""
make a sandwich|First, take two slices of bread.|Put butter on one side.|Then add cheese and tomato.|Put the slices together and cut the sandwich in half.
make tea|First, boil some water.|Put a tea bag in a cup.|Then pour the hot water over it.|Wait three minutes and take out the bag.
plant a seed|First, fill a pot with soil.|Make a small hole with your finger.|Put the seed in and cover it.|Then give it water and put it in the sun.
wash my hands|First, wet your hands with water.|Then rub them with soap for twenty seconds.|Wash the soap away.|Dry your hands with a clean towel.
make a paper boat|First, fold a sheet of paper in half.|Fold the corners to the middle.|Then fold the edges up.|Pull it open, and your boat is ready.
make soup|First, cut some carrots, potatoes, and onions.|Put them in a pot with water.|Then add salt and let it cook for half an hour.|Stir it and serve it hot.
build a snowman|First, roll a big ball of snow.|Then make a smaller ball and put it on top.|Add one more ball for the head.|Use a carrot for the nose and stones for the eyes.
clean my room|First, put your clothes away.|Then put the books back on the shelf.|Sweep the floor.|At the end, open the window for some fresh air.
make a friend|First, smile and say hello.|Ask a question and listen to the answer.|Share something with the other person.|Be kind, and give it time.
bake bread|First, mix flour, water, salt, and yeast.|Knead the dough with your hands.|Let it rest for an hour.|Then bake it in a hot oven until it is brown.
fly a kite|First, go to an open field on a windy day.|Hold the kite up and let it catch the wind.|Then run and let out the string.|Pull gently when it falls.
wrap a present|First, put the box on a sheet of paper.|Fold the paper over the top and tape it.|Then fold in the two ends.|Tie a ribbon around it.
brush my teeth|First, put a little paste on your brush.|Brush every tooth on all sides.|Do it for two minutes.|Then wash your mouth with water.
build a sandcastle|First, find wet sand near the water.|Fill a bucket and press the sand down.|Turn it over and lift the bucket.|Then add shells and a flag.
write a letter|First, write the date and the name of your friend.|Then tell your news.|Ask a few questions.|Sign your name at the end.
make pancakes|First, mix flour, eggs, and milk in a bowl.|Heat a little butter in a pan.|Pour in some of the mix.|Turn the pancake when the top is dry.
learn a new word|First, read the word out loud.|Find out what it means.|Then use it in a sentence.|Say it again the next day.
sleep better|Go to bed at the same time every day.|Turn off bright lights.|Read a quiet book.|Do not drink coffee in the evening.
tie my shoes|First, cross the two laces and pull them tight.|Make a loop with one lace.|Put the other lace around it.|Pull it through and make it tight.
draw a cat|First, draw a circle for the head.|Add two small triangles for the ears.|Then draw a bigger circle for the body.|Add a tail, a nose, and some whiskers.
""")

# trip | things to pack
PACK = {
    "the beach": "a towel, a hat, sunscreen, a bottle of water, a swimsuit, a book, a bucket and a shovel",
    "a picnic": "a blanket, some sandwiches, fruit, a bottle of juice, plates, cups, a cake",
    "a camping trip": "a tent, a sleeping bag, a lamp, matches, a warm coat, a pot, some rope",
    "the mountains": "strong boots, a map, a warm coat, some food, a bottle of water, a hat",
    "a rainy day": "an umbrella, a rain coat, rubber boots, dry socks, a good book",
    "a winter trip": "a thick coat, gloves, a scarf, a woolly hat, warm socks, strong boots",
    "a boat trip": "a life jacket, a warm coat, a hat, a bottle of water, some rope, a map",
    "school": "your books, a pen, some paper, a sandwich, an apple, a ruler",
    "a long train ride": "a book, some food, a bottle of water, a soft pillow, a game of cards",
    "a night at a friend's house": "a toothbrush, your pyjamas, a pillow, clean clothes, a small gift",
    "the city": "a map, some money, good shoes, a bottle of water, a small bag, an umbrella",
    "a day in the forest": "good boots, a basket, a map, a sandwich, a bottle of water, a whistle",
    "the desert": "a lot of water, a wide hat, sunscreen, light clothes, a map, a compass",
    "a fishing trip": "a rod, a net, some worms, a bucket, a hat, a sandwich, a warm coat",
}

SIGHTS = {
    "spring": "Small flowers come out of the ground.|The trees have fresh green leaves.|Birds build their nests.|The air is mild and smells of earth.|Lambs jump in the fields.|The rain is soft and warm.|The days grow longer.",
    "summer": "The sun is hot and bright.|Bees hum in the flowers.|The grass is tall and dry.|Children swim in the lake.|The shade under the trees is cool.|The fruit on the trees is ripe.|The evenings are long and warm.",
    "autumn": "The leaves are red, orange, and gold.|A cool wind blows through the trees.|Fog lies over the fields.|Apples fall into the grass.|Birds fly south in long lines.|The days grow shorter.|The air smells of smoke and wet leaves.",
    "winter": "Snow covers the roofs and the fields.|The air is cold and clear.|Ice shines on the windows.|The trees are bare and black.|Smoke rises from the chimneys.|Everything is quiet and white.|The ground is hard and frozen.",
}
HOURS = {
    "morning": "The sun rises slowly.|The first light touches the hills.|People open their windows.|The smell of fresh bread fills the street.|A new day begins.",
    "afternoon": "The light is golden.|People sit outside and talk.|Shadows move slowly over the ground.|A dog sleeps in front of a door.",
    "evening": "The sky turns pink and purple.|Lights go on in the houses.|People come home from work.|The first star appears.|It becomes quiet in the streets.",
    "night": "The moon shines on the roofs.|The stars are bright.|An owl calls from far away.|Everyone is asleep.|The streets are empty and still.",
}
SCENES = {
    "the sea": "The waves roll in and out.|The water is blue and green.|White gulls cry above the water.|The wind smells of salt.|Far away a ship sails by.|Foam runs over the sand.",
    "the forest": "Tall trees stand close together.|Soft moss covers the ground.|Sunlight falls through the leaves.|A small stream runs over the stones.|Birds sing high above.|The air is cool and smells of pine.",
    "a city": "Tall houses stand on both sides of the street.|Cars and buses drive by.|People walk quickly and carry bags.|Shop windows are full of bright things.|A musician plays on the corner.|At night, a thousand lights shine.",
    "a farm": "Cows stand in the green field.|A red barn stands next to the house.|Hens look for seeds in the yard.|The farmer drives a tractor.|It smells of hay.|A dog watches over the sheep.",
    "a market": "The tables are full of fruit and vegetables.|People call out their prices.|It smells of bread and cheese.|A woman sells flowers.|Children look at the sweets.|Everyone carries a full basket.",
    "a storm at sea": "Black clouds cover the sky.|The wind howls.|The waves are as high as houses.|Rain beats on the deck.|The ship rolls from side to side.|Lightning flashes over the water.",
    "a garden": "Roses grow along the wall.|Bees fly from flower to flower.|A path of stones leads to a bench.|An old apple tree gives shade.|A bird drinks from a bowl of water.|There are rows of beans and carrots.",
    "a kitchen": "A pot of soup stands on the stove.|The table is made of old wood.|Herbs hang from the wall.|It is warm and smells of cinnamon.|Cups stand in a row on the shelf.|A cat sleeps near the oven.",
    "an old ship": "The ship is made of dark wood.|Three tall masts rise into the sky.|White sails move in the wind.|Ropes hang everywhere.|The deck creaks under your feet.|A flag flies at the top.",
    "the desert": "There is sand as far as you can see.|The sun burns in a clear sky.|Nothing moves in the heat.|The wind draws lines in the sand.|A row of camels walks over a hill.|At night, it is cold and full of stars.",
    "a mountain": "The top is covered with snow.|Grey rocks shine in the sun.|A narrow path leads up.|Goats stand on the steep sides.|The air is thin and cold.|Down in the valley, the houses look like toys.",
    "a library": "Shelves full of books reach to the ceiling.|It is quiet, and people whisper.|The light is soft.|It smells of paper and wood.|A boy reads in a big chair.|A clock ticks on the wall.",
}

# Lines that rhyme, in pairs.
COUPLETS = {
    "the moon": ["The moon is round, the moon is white,|it keeps us company at night.", "It looks through windows, soft and slow,|and paints a path upon the snow.", "Sleep well, it says, and have no fear,|for all night long I will be here."],
    "the sea": ["The sea is deep, the sea is wide,|it comes and goes with every tide.", "The gulls fly high, the ships go by,|and white clouds sail across the sky.", "I hear the waves, I hear them roar,|they tell their stories on the shore."],
    "rain": ["The rain comes down on roof and tree,|it sings a quiet song to me.", "It fills the river, drop by drop,|and then the clouds decide to stop.", "The sun comes out, the world is bright,|and every puddle shines with light."],
    "a cat": ["My little cat is soft and grey,|she sleeps for nearly all the day.", "But in the night she walks around|and never makes a single sound.", "And when the morning sun is near,|she sits and purrs into my ear."],
    "winter": ["The snow has come, the fields are white,|the stars are cold and clear tonight.", "We sit beside the fire and sing,|and wait together for the spring.", "The wind may blow, the frost may bite,|our little house is warm and bright."],
    "spring": ["The snow is gone, the grass is new,|the sky has put on gentle blue.", "A bird is singing in the tree,|the whole world wakes for you and me.", "The bees are busy all day long,|and every garden hums a song."],
    "a friend": ["A friend will laugh, a friend will stay,|a friend will help you on your way.", "When you are sad, when you are low,|a friend will come, a friend will know.", "So hold your friends both near and dear,|in every season of the year."],
    "a ship": ["The ship sets out at break of day|and sails across the silver bay.", "The wind is strong, the sails are tall,|the captain gives a happy call.", "And when the journey is all done,|they bring it home in evening sun."],
    "a star": ["A little star is far and high,|a spark of silver in the sky.", "I wish I had a ladder tall|to climb above the garden wall.", "I would say hello, and then|I would climb back down again."],
    "the wind": ["The wind is quick, the wind is free,|it shakes the leaves of every tree.", "It steals my hat and runs away,|it wants to dance with me and play.", "And when at night it sings so low,|it tells of lands I do not know."],
}
