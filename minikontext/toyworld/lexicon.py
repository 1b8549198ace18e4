"""The lexicon: every concept of the toy world with the words that people use for it.

One table, slot -> concept -> surface forms. A slot is a place in a sentence, so "rose" may be a
flower in one slot and pink in another, but within a slot a form means one thing. The first form of
a concept is its plain name. `WORLD` is what can be drawn, `SPEECH` how people ask, `ABSENT` what
they often ask for and the world does not have; there a concept is the nearest that it does have.
Long because it is a table.
"""

from __future__ import annotations

import re
from functools import cache

from minikontext.toyworld.split import held_out

Table = dict[str, dict[str, tuple[str, ...]]]


def _table(source: dict[str, dict[str, str]]) -> Table:
    """Forms written with commas between them, as tuples."""
    return {
        slot: {concept: tuple(re.split(r",\s+", forms.strip())) for concept, forms in rows.items()}
        for slot, rows in source.items()
    }


# ---------------------------------------------------------------- what the world has

WORLD: Table = _table({
    "species": {
        "cat": "cat, kitty, kitten, kitty cat, pussycat, feline, tomcat, tabby, house cat, "
            "pussy cat",
        "bunny": "bunny, rabbit, hare, bunny rabbit, little rabbit, easter bunny, bunnie",
        "bear": "bear, teddy, teddy bear, bear cub, grizzly, cub, little bear, teddybear",
        "chick": "chick, chicken, baby chicken, bird, birdie, little bird, chickie, baby bird, "
            "baby chick",
        "frog": "frog, toad, froggy, tree frog, froggie, little frog",
        "ghost": "ghost, spook, phantom, spirit, spectre, specter, little ghost, ghostie",
        "robot": "robot, bot, android, droid, machine, little robot, robo, mech, automaton",
        "star": "star, starfish, sea star, little star, sheriff star",
    },
    "colour": {
        "red": "red, crimson, scarlet, ruby, cherry red, blood red, tomato red, bright red, "
            "dark red, fire red, maroon, deep red, reddish, vermilion, red like a tomato, "
            "as red as a tomato",
        "orange": "orange, tangerine, pumpkin orange, bright orange, amber, peach, apricot, "
            "carrot orange, orangey, orange like a carrot",
        "yellow": "yellow, gold, golden, lemon, lemon yellow, canary yellow, sunny yellow, "
            "bright yellow, mustard, light yellow, yellowish, banana yellow, yellow like a lemon, "
            "yellow like the sun",
        "green": "green, emerald, lime, lime green, grass green, olive, dark green, light green, "
            "bright green, mint, jade, forest green, greenish, leaf green, green like grass",
        "blue": "blue, navy, navy blue, azure, sky blue, light blue, dark blue, royal blue, "
            "cobalt, bright blue, sapphire, indigo blue, bluish, ocean blue, baby blue, "
            "blue like the sky",
        "purple": "purple, violet, lilac, lavender, plum, mauve, dark purple, light purple, "
            "indigo, amethyst, aubergine, bright purple, purplish, purple like a plum",
        "pink": "pink, rose, magenta, hot pink, fuchsia, rosy, light pink, salmon pink, "
            "bubblegum pink, bright pink, baby pink, pinkish, candy pink, pink like a flamingo",
        "white": "white, snow white, ivory, pure white, bright white, whitish, cream white, "
            "colourless, chalk white, off-white, white like snow, as white as snow",
    },
    # An adjective of the character ...
    "pattern": {
        "plain": "plain, unpatterned, one colour, one color, single-coloured, solid, patternless, "
            "plain-coloured, clean",
        "striped": "striped, stripy, stripey, tiger-striped, zebra-striped, banded, "
            "zebra striped, lined, stripe",
        "spotted": "spotted, dotted, spotty, polka-dotted, speckled, dotty, freckled, "
            "leopard-spotted, polka dot",
        "bellied": "bellied, white-bellied, light-bellied, pale-bellied, white bellied",
    },
    # ... and what it bears.
    "markings": {
        "striped": "stripes, tiger stripes, zebra stripes, bands, lines, striped fur, "
            "some stripes, dark stripes, a striped pattern, stripes like a zebra, "
            "stripes like a tiger, a stripe pattern",
        "spotted": "spots, dots, polka dots, speckles, freckles, leopard spots, patches, "
            "dalmatian spots, some spots, dark spots, a spotted pattern, a dotted pattern, "
            "spots like a leopard, dots like a ladybug, dot pattern",
        "bellied": "a white belly, a light belly, a belly, a white tummy, a pale belly, "
            "a light tummy, a tummy, a bright belly, a white stomach, a pale tummy, "
            "a belly patch, a bellied pattern",
    },
    "eyes": {
        "round": "round, normal, regular, ordinary, usual, open, standard, small, smaller, "
            "little, simple, tiny, two round, two normal",
        "big": "big, bigger, large, larger, huge, giant, enormous, wide, googly, huge googly, "
            "great big, very big, really big, wide open, goggly",
        "sleepy": "sleepy, closed, half closed, half-closed, tired, shut, drowsy, sleeping, dozy, "
            "weary, droopy, snoozing",
        "single": "single, one, just one, only one, a single, cyclops, one big",
    },
    "looks": {
        "round": "awake, wide awake, normal-eyed, not sleepy, alert, round-eyed, normal, not tired",
        "big": "big-eyed, wide-eyed, surprised, astonished, googly-eyed, amazed, shocked, startled",
        "sleepy": "sleepy, tired, asleep, sleeping, drowsy, dozy, exhausted, sleepy-eyed",
        "single": "one-eyed, single-eyed, like a cyclops",
    },
    "accessory": {
        "hat": "hat, cap, top hat, beanie, sun hat, party hat, baseball cap, bonnet, fedora, "
            "bowler hat, woolly hat, winter hat, cowboy hat, bowler, tophat, hats, bobble hat, "
            "headgear",
        "scarf": "scarf, shawl, muffler, winter scarf, neck scarf, woolly scarf, woollen scarf, "
            "wool scarf, woolen scarf, knitted scarf, scarfs, scarves",
        "bow": "bow, bow tie, bowtie, ribbon, hair bow, hairbow, bow-tie, hair ribbon, head bow, "
            "tie",
        "glasses": "glasses, spectacles, sunglasses, shades, specs, eyeglasses, goggles, "
            "sun glasses, sunnies, reading glasses, eyewear, nerd glasses, eye glasses",
    },
    "thing": {
        "tree": "tree, fir tree, pine tree, fir, pine, oak, oak tree, christmas tree, apple tree, "
            "xmas tree",
        "flower": "flower, blossom, rose, tulip, daisy, bloom, poppy, sunflower, flowers",
        "ball": "ball, beach ball, football, toy ball, soccer ball, basketball, beachball, "
            "bouncy ball, balls",
        "house": "house, cottage, home, hut, cabin, little house, building, bungalow, small house",
        "mushroom": "mushroom, toadstool, fungus, shroom, fly agaric, champignon, mushrooms",
        "gift": "gift, present, gift box, parcel, package, birthday present, giftbox, box, "
            "wrapped present, christmas present, birthday gift, wrapped gift",
    },
    "side": {
        "left": "left, left side, left hand side, left-hand side, lefthand side, far left",
        "right": "right, right side, right hand side, right-hand side, righthand side, far right",
    },
    "place": {
        "left": "left, left side, left edge, left-hand side, far left, left half, left border",
        "middle": "middle, centre, center, mid, centre of the picture, center of the image, "
            "middle of the picture, very middle, exact centre",
        "right": "right, right side, right edge, right-hand side, far right, right half, "
            "right border",
    },
    "move": {
        "left": "leftwards, left, to the left, more to the left, further left, over to the left, "
            "a bit to the left, towards the left, leftward",
        "middle": "back to the middle, to the middle, to the centre, to the center, "
            "in the middle, in the centre, in the center, into the middle, centrally",
        "right": "rightwards, right, to the right, more to the right, further right, "
            "over to the right, a bit to the right, towards the right, rightward",
    },
    # Which of several pictures.
    "source": {
        "first": "the first picture, picture 1, image 1, the first image, the first photo, "
            "picture one, the 1st picture, the first one",
        "second": "the second picture, picture 2, image 2, the second image, the second photo, "
            "picture two, the 2nd picture, the second one",
        "third": "the third picture, picture 3, image 3, the third image, the third photo, "
            "picture three, the 3rd picture, the third one",
        "fourth": "the fourth picture, picture 4, image 4, the fourth image, the fourth photo, "
            "picture four, the 4th picture, the fourth one",
    },
    # A place as a noun ...
    "background": {
        "meadow": "meadow, field, grass, lawn, green field, park, grassland, pasture, "
            "green meadow, grassy field, garden, green hills, countryside, grass field, hills, "
            "prairie",
        "beach": "beach, seaside, shore, sandy beach, coast, seashore, tropical beach, "
            "sunny beach, beach scene, holiday beach, strand",
        "desert": "desert, dunes, sand dunes, sandy desert, desert landscape, hot desert, sahara, "
            "desert scene, dune, wasteland",
        "snow": "snow, winter landscape, snowy landscape, winter, snowy mountains, winter scene, "
            "arctic, snowy mountain, winter wonderland, mountains, north pole, ski slope, "
            "snow scene, snowy scene, snowy field, ice, antarctica, alps",
        "forest": "forest, woods, wood, woodland, jungle, deep forest, pine forest, green forest, "
            "forest scene, dark forest, rainforest, fir forest, trees",
        "city": "city, town, downtown, street, city street, skyline, big city, city skyline, "
            "cityscape, metropolis, urban scene, city centre, city center, urban street, "
            "new york, road, skyscrapers",
        "sea": "sea, ocean, deep sea, seabed, sea floor, ocean floor, water, underwater scene, "
            "underwater world, bottom of the sea, bottom of the ocean, sea bottom, aquarium, "
            "deep ocean",
        "room": "room, living room, bedroom, house interior, interior, indoor room, flat, "
            "apartment, indoor scene, lounge, room with a window, sitting room, wall",
    },
    # ... where the character is ...
    "where": {
        "meadow": "in the meadow, on the grass, in a meadow, in a field, in the park, "
            "on a meadow, on the lawn, in the garden, in the countryside, in the grass, "
            "on a green field, on the meadow, outside on the grass, outside in the grass, "
            "in a green field, outside in the garden, outside",
        "beach": "on the beach, at the beach, at the seaside, by the sea, on a beach, "
            "at the coast, on a sandy beach, on the shore, to the beach, on a tropical beach, "
            "at the seashore",
        "desert": "in the desert, in a desert, in the dunes, in the sahara, on a sand dune, "
            "in the hot desert, out in the desert, on the dunes, near a cactus",
        "snow": "in the snow, in winter, in snow, in the mountains, at the north pole, "
            "in a snowy landscape, on the snow, in a winter landscape, in the arctic, "
            "on a ski slope, in the cold, on the ice",
        "forest": "in the forest, in the woods, in a forest, in the jungle, in the wood, "
            "into the woods, between the trees, among trees, in the middle of a forest, "
            "deep in the forest",
        "city": "in the city, in a city, in town, downtown, on the street, in the street, "
            "in a big city, in the town, in the streets, in the city centre, in new york, "
            "between skyscrapers",
        "sea": "in the sea, under the sea, underwater, under water, in the ocean, "
            "under the ocean, in the water, on the sea floor, at the bottom of the sea, "
            "in the deep sea, on the ocean floor, on the seabed, under the waves, below the water",
        "room": "in a room, in the room, indoors, inside, in the living room, inside a room, "
            "in the house, inside the house, in a living room, at home, in a bedroom, "
            "inside a house, in an apartment",
    },
    # ... and as an adjective of the background.
    "scenery": {
        "meadow": "grassy, green grass, rural, meadowy, countryside, grass",
        "beach": "beach, seaside, beachy, tropical, sandy beach, coastal",
        "desert": "desert, sahara, dry desert, cactus, sandy desert",
        "snow": "snowy, winter, wintry, snow, icy, arctic, wintery, snow-covered, frozen, "
            "snowy mountain",
        "forest": "forest, woodland, woody, wooded, jungle, woods",
        "city": "city, urban, town, street, downtown, skyline",
        "sea": "underwater, ocean, sea, deep sea, under the sea, undersea",
        "room": "indoor, room, living room, bedroom, interior, cosy indoor, cozy indoor",
    },
    "time": {
        "day": "day, daytime, sunny, daylight, a sunny day, day time, morning, bright day, "
            "midday, noon, bright, a bright day, sunshine, nice weather, good weather, clear, "
            "a clear day, daylight again, dry, sunny weather, fine weather, summer, cloudless",
        "sunset": "sunset, dusk, evening, sundown, twilight, golden hour, sunrise, dawn, "
            "evening light, the evening, late afternoon, evening mood, a sunset, early evening",
        "night": "night, nighttime, night time, midnight, dark, nightfall, a starry night, "
            "darkness, the night, moonlight, night-time, a dark night, starry, a clear night, "
            "late night",
        "rain": "rain, rainy, raining, a rainy day, rainy weather, bad weather, wet, drizzle, "
            "stormy, rain weather, a rain shower, pouring rain, cloudy, a storm, wet weather, "
            "heavy rain, a cloudy day, grey weather",
    },
    "when": {
        "day": "by day, in daylight, during the day, in the sunshine, in the sun, at noon, "
            "at daytime, on a sunny day, in the morning, in bright daylight, at day, "
            "under a sunny sky, with a blue sky",
        "sunset": "at sunset, at dusk, in the evening, at sundown, in the evening light, "
            "at twilight, during sunset, at golden hour, at dawn, at sunrise, with a sunset, "
            "under an evening sky",
        "night": "at night, by night, at midnight, in the dark, in the moonlight, at night time, "
            "under the stars, during the night, in the night, at nighttime, under a night sky, "
            "with a night sky, under the moon",
        "rain": "in the rain, in rain, on a rainy day, in bad weather, during rain, in a storm, "
            "in rainy weather, in the pouring rain, with rain, in the drizzle, under rain clouds",
    },
    "sky": {
        "day": "blue, sunny, bright, clear, daytime, cloudless, day",
        "sunset": "sunset, evening, orange, dusk, twilight, sunrise",
        "night": "night, dark, starry, moonlit, midnight, nighttime",
        "rain": "rainy, stormy, cloudy, grey, gray, overcast, rain",
    },
    # What is done to the weather: whole wishes.
    "weather": {
        "day": "bring the sun back, let the sun shine, make the sun shine, bring back the sun, "
            "make the sun come out, have the sun out, show the sun, make it bright outside, "
            "more sunlight, bring back the daylight",
        "sunset": "let the sun set, make the sun go down, make the sun set, let the sun go down, "
            "with the sun going down, the sun is going down, have the sun set",
        "night": "make it dark outside, let the moon shine, turn day into night, "
            "add a moon and stars, with moon and stars, put the moon in the sky, "
            "let there be stars in the sky, add the moon, it gets dark, turn the lights off, "
            "show the moon and the stars, let night fall, moon and stars",
        "rain": "let it rain, make it rain, have it rain, add rain, add some rain, it rains, "
            "it's raining, add rain clouds, let it pour, start raining, it is raining, "
            "make it pour, add a rain cloud, let there be rain, bring the rain",
    },
    # A style as what comes before "style" ...
    "style": {
        "comic": "comic, cartoon, comic book, comic-book, comic strip, cartoonish, manga, "
            "bold outline, comics, anime, superhero comic",
        "pixel": "pixel, pixel art, 8-bit, 8 bit, pixelated, video game, retro game, "
            "retro video game, pixel-art, minecraft, old video game, blocky, 16-bit, gameboy, lego",
        "sketch": "sketch, pencil, pencil sketch, line art, pencil drawing, line drawing, "
            "hand-drawn, drawing, black and white, outline, sketchy, ink, doodle, coloring book, "
            "colouring book, charcoal",
        "pastel": "pastel, soft, pastel colour, pastel color, watercolour, watercolor, pale, "
            "soft pastel, faded, washed-out, chalk, gentle, soft colour, soft color, dreamy",
        "neon": "neon, neon lights, glowing, neon light, cyberpunk, synthwave, neon glow, tron, "
            "glow, glow in the dark, neon sign, blacklight",
    },
    # ... as something that a picture is or becomes ...
    "artwork": {
        "comic": "a comic, a cartoon, a comic book, a comic strip, comic art, a comic picture, "
            "a cartoon picture, a manga, a comic page, cartoon art, an anime",
        "pixel": "pixel art, pixels, a pixel picture, a video game, 8-bit, an 8-bit game, "
            "a retro game, 8 bit, a retro video game, a pixel image, minecraft, a pixel game, "
            "blocks, a mosaic, lego",
        "sketch": "a sketch, a pencil sketch, a drawing, a pencil drawing, a line drawing, "
            "line art, a black and white drawing, an outline, a black and white line drawing, "
            "an ink drawing, a doodle, a coloring page, a colouring page, a hand drawing",
        "pastel": "a pastel, a pastel picture, a pastel drawing, a watercolour, a watercolor, "
            "pastels, a pastel painting, a soft pastel, a chalk drawing, a watercolour painting",
        "neon": "a neon sign, a neon picture, neon, neon art, neon lights, a neon drawing, "
            "glowing lines, a glowing neon picture, a light show",
    },
    # ... and as how it looks.
    "styled": {
        "comic": "cartoony, cartoonish, comic, comic-like, cartoon, comicy",
        "pixel": "pixelated, pixelised, pixelized, 8-bit, pixel, blocky, pixely, more pixelated, "
            "8 bit",
        "sketch": "sketched, hand-drawn, black and white, sketchy, drawn, hand drawn, "
            "pencil-drawn, outlined",
        "pastel": "pastel, pastel-coloured, softer, paler, faded, pastel colored, pale, soft, "
            "washed-out",
        "neon": "neon, glowing, neon-lit, glow, glow in the dark, glowing neon",
    },
    # What is done to a picture to bring a style about: whole wishes.
    "restyle": {
        "comic": "cartoonify it, cartoonize it, comicify this, cartoonise the picture, "
            "cartoonify this, add thick comic outlines, thick black outlines",
        "pixel": "pixelate it, pixelate the picture, pixelate this, pixelate the image, pixelate, "
            "pixelise it, big pixels",
        "sketch": "sketch it, sketch this, draw only the outlines, remove the colours, "
            "remove all colour, remove all color, only the outlines, sketch it with a pencil, "
            "trace the outlines, just the lines",
        "pastel": "pastel colours, pastel colors, use pastel colours, use pastel colors, "
            "soft colours, soft colors, make the colours softer, softer colours, softer colors, "
            "soften the colours, make the colors softer, soft pastel colors, use soft colors",
        "neon": "neon lights, make it glow, make everything glow, let it glow, add neon lights, "
            "neon colours, neon colors, make the lines glow, make the outlines glow, "
            "use neon colors, light it up with neon",
    },
})  # fmt: skip

# ---------------------------------------------------------------- how people ask

SPEECH: Table = _table({
    "polite": {
        "please": "please, pls, plz, if possible, thanks, thank you, thx, ok, for me, if you can, "
            "thank you so much, in this picture, in the image, in the photo, right now, "
            "but keep everything else the same, and keep the rest as it is, and nothing else, "
            "without changing anything else, and leave everything else alone, "
            "and do not change anything else, everything else should stay the same, "
            "the rest should stay as it is, keep the rest",
    },
    "opening": {
        "ok": "ok, hey, hi, hello, well, so, now, hmm, maybe, please, in this picture, "
            "in the image, i think, change the picture so that, edit the image so that, "
            "edit the photo, it would be nice if, i would love it if, make sure that, next, "
            "for this picture, i was thinking, my wish, new edit",
    },
    "request": {
        "can you": "can you, could you, would you, can you please, could you please, will you, "
            "can we, please, pls, plz, kindly, i want you to, i'd like you to, "
            "i would like you to, i need you to, let's, try to, you should, now, just, next, "
            "ok now, go ahead and, would you mind to, would you please, simply, i want to, "
            "i'd like to, we should, help me to",
    },
    "want": {
        "i want": "i want, i'd like, i would like, i need, we want, we need, i wish for, "
            "i'd love, i'd prefer, i want to see, i'd like to see, show me, can i have, "
            "can i get, could i have, can we have, could we have, let me see, give me, "
            "may i have, i'm looking for, how about, what about, make it",
    },
    "should": {
        "should": "should, must, has to, needs to, ought to, shall, could, can, is supposed to",
    },
    "wanted": {
        "i want": "i want, i'd like, i would like, i need, we want, i'd prefer, i'd love, i wish, "
            "i'd like to see, i want to see",
    },
    "nice": {
        "nice": "nice, little, cute, small, big, lovely, pretty, beautiful, cool, tiny, new, "
            "funny, sweet, fancy, stylish, large, huge, simple, real, fine, great",
    },
    "very": {
        "very": "bright, nice, dark, light, deep, completely, all, totally, fully, really, "
            "entirely",
    },
    "creature": {
        "character": "character, animal, creature, figure, little guy, guy, main character, "
            "critter, toy, little one, hero, little fellow, buddy, pet, fella",
    },
    "him": {"it": "it, him, her, them, that one"},
    "he": {"it": "it, he, she, they"},
    "his": {"its": "its, his, her, their, the"},
    "recolour": {
        "make": "make, turn, paint, colour, color, dye, tint, spray, colour in, get, have",
    },
    "change": {"change": "change, turn, switch, set, alter, modify, convert, edit, adjust, shift"},
    "recolouring": {
        "recolour": "recolour, recolor, repaint, paint, tint, colour, color, re-colour, shade, "
            "render, redraw, dress, show, draw",
    },
    "into": {
        "turn": "turn, change, transform, convert, morph, make, remake, transfigure, magic, switch",
    },
    "replace": {
        "replace": "replace, swap, switch, exchange, swap out, substitute, trade, change out, "
            "switch out",
    },
    "replaced": {
        "replaced with": "replaced with, replaced by, swapped for, exchanged for, turned into",
    },
    "instead": {"instead of": "instead of, in place of, rather than, and not, not, in lieu of"},
    "remove": {
        "remove": "remove, delete, erase, get rid of, take away, take out, clear, lose, drop, "
            "scrap, eliminate, cut out, rub out, hide, wipe out, clear away, throw away, "
            "dispose of, ditch, cut, edit out, leave out, do away with, wipe away, strip, omit, "
            "discard, cancel, photoshop out",
    },
    "gone": {
        "be gone": "be gone, disappear, go away, vanish, go, be removed, be deleted, be erased, "
            "not be there, be taken away, be away, not be here",
    },
    "no": {"no": "no, no more, without, without any, without the, not any, minus the, zero"},
    "dislike": {
        "i do not want": "i do not want, i don't want, i don't like, i dont want, i hate, "
            "we don't need, i don't need, i do not like, i do not need, there should not be, "
            "i dont like, don't show, dont show, never mind, i am tired of",
    },
    "undress": {
        "take off": "take off, remove, pull off, get rid of, lose, strip off, put away, drop",
    },
    "add": {
        "add": "add, put, place, draw, insert, include, set, paint, create, show, add in, put in, "
            "make, stick, drop, generate, bring in, throw in, have",
    },
    "give": {"give": "give, hand, lend, get, bring, buy, offer"},
    "dress": {
        "put": "put, place, add, draw, set, stick, pop, throw, fit, paint, attach",
    },
    "wearing": {
        "wearing": "wearing, with, in, that wears, having, dressed in, that has, with on, "
            "who wears",
    },
    "wear": {"wear": "wear, have, get, put on, have on, be wearing, receive, carry, own"},
    "shift": {
        "move": "move, shift, put, place, bring, push, slide, send, drag, position, get, carry, "
            "set, nudge, relocate, transfer, walk, take",
    },
    "scene": {
        "picture": "picture, image, scene, photo, pic, whole picture, whole image, whole thing, "
            "entire image, photograph, whole scene, drawing, illustration, artwork",
    },
    "backdrop": {
        "background": "background, backdrop, scenery, setting, location, surroundings, landscape, "
            "environment, scene behind, backround",
    },
    "bring": {
        "put": "put, move, place, bring, send, set, take, show, draw, transport, teleport, have, "
            "get, let be, carry, transfer, drop, leave",
    },
    "redo": {
        "draw": "draw, redraw, render, show, paint, repaint, redo, do, make, turn, re-draw, "
            "restyle, recreate, convert, transform, change, present, depict, stylize, stylise",
    },
    "board": {
        "sign": "sign, board, sign board, signboard, signpost, wooden sign, banner, placard, "
            "plate, notice, poster, billboard, label, plaque, shield",
    },
    "text": {
        "text": "text, word, words, writing, letters, lettering, message, caption, inscription, "
            "sign text, text on the sign, label on the sign, word on the sign, wording, letter, "
            "title",
    },
    "saying": {
        "that says": "that says, saying, with, with the word, with the text, reading, that reads, "
            "which says, with the words, with the letters, labelled, labeled, that displays, "
            "stating, showing, with text, spelling, with a text, called, containing",
    },
    "say": {"say": "say, read, show, be, display, spell, state, become, have, contain"},
    "write": {
        "write": "write, put, print, paint, place, letter, spell, type, draw, engrave, display",
    },
    "look": {
        "circled": "circled, marked, encircled, highlighted, ringed, outlined, selected, "
            "red-circled",
    },
    "ring": {
        "in the circle": "in the circle, in the red circle, with the circle around it, "
            "in the ring, inside the circle, in the red ring, in the ellipse, in the red ellipse, "
            "with the red circle, inside the red circle, inside the ring, with a ring around it, "
            "within the circle, in red circle",
    },
    "second": {
        "from the second picture": "from the second picture, in the second picture, "
            "from the second image, from the other picture, of the second picture, "
            "in the other picture, from picture 2, from image 2, of the other picture, "
            "from the other image, from photo 2, from the 2nd image, shown in the second picture, "
            "from the second photo, in image 2, in picture two, from the reference, "
            "of the second image, from picture two, in the other image",
    },
    "this": {
        "this": "this, the same, this same, that, the given, exactly this, the shown, an identical",
    },
    "beside": {
        "next to": "next to, beside, near, by, close to, alongside, at the side of, with, for, "
            "behind, in front of, around",
    },
    "joined": {
        "and": "and, and then, then, and also, also, plus, after that, and please, and finally",
    },
})  # fmt: skip

# ---------------------------------------------------------------- what the world has not

ABSENT: Table = _table({
    "species": {
        "cat": "dog, puppy, doggy, hound, tiger, lion, fox, wolf, leopard, panther, cheetah, "
            "husky, poodle, cougar, lynx, corgi",
        "bunny": "mouse, rat, squirrel, hamster, deer, kangaroo, sheep, goat, lamb, hedgehog, "
            "donkey, horse, pony, zebra, giraffe, unicorn, reindeer, llama, guinea pig",
        "bear": "panda, koala, monkey, gorilla, ape, cow, pig, elephant, raccoon, koala bear, "
            "hippo, rhino, bull, sloth, badger, polar bear, piglet, buffalo",
        "chick": "duck, owl, penguin, parrot, eagle, swan, goose, rooster, pigeon, crow, bee, "
            "butterfly, flamingo, duckling, ladybug, ladybird, peacock, ostrich",
        "frog": "dragon, snake, turtle, crocodile, dinosaur, lizard, fish, shark, whale, dolphin, "
            "snail, octopus, alligator, worm, crab, tortoise, goldfish, dino, t-rex",
        "ghost": "zombie, vampire, skeleton, witch, alien, angel, devil, demon, monster, fairy, "
            "mummy, snowman, wizard, santa, santa claus, elf, gnome, goblin, spider, pumpkin",
        "robot": "man, woman, boy, girl, person, human, baby, child, people, pirate, knight, "
            "astronaut, king, queen, princess, prince, superhero, batman, superman, spiderman, "
            "clown, ninja, cowboy, doll, mario, pikachu, soldier, lady, kid",
    },
    "accessory": {
        "hat": "crown, helmet, wig, tiara, turban, hood, halo, antlers, horns, earmuffs, hair, "
            "headphones, mohawk, headband, ponytail, veil, hairstyle, haircut",
        "scarf": "necklace, collar, cape, cloak, jacket, coat, sweater, shirt, t-shirt, dress, "
            "trousers, pants, jeans, skirt, vest, hoodie, pullover, socks, shoes, boots, gloves, "
            "mittens, belt, backpack, bag, handbag, uniform, suit, armor, armour, clothes, "
            "shorts, sneakers, bandana, apron",
        "bow": "necktie, earring, earrings, bracelet, watch, ring, medal, badge, brooch, bell, "
            "jewelry, jewellery, tattoo, piercing",
        "glasses": "monocle, mask, eyepatch, eye patch, moustache, mustache, beard, eyebrows, "
            "eyelashes, makeup, lipstick, blindfold, contact lenses, scar, blush",
    },
    "thing": {
        "tree": "bush, shrub, palm, palm tree, hedge, leaf, branch, vine, bamboo, log, tree trunk",
        "flower": "plant, bouquet, cactus flower, grass tuft, rosebush, heart, hearts, ice cream, "
            "candle, lamp, lantern, torch, balloon, balloons, butterfly net, flag, kite, "
            "sunshade, umbrella, vase",
        "ball": "balloon animal, apple, banana, fruit, pizza, cake, cookie, burger, carrot, egg, "
            "fish bowl, moon rock, football goal, frisbee, globe, coin, food, strawberry, "
            "watermelon, cherry, bread, sandwich, cheese, donut, candy, lollipop, bone, milk, "
            "coffee, tea, cup, mug, bottle, glass of water",
        "house": "castle, tent, tower, bridge, church, igloo, fence, skyscraper, windmill, "
            "lighthouse, school, car, truck, bus, train, bike, bicycle, motorbike, motorcycle, "
            "skateboard, scooter, boat, ship, plane, airplane, aeroplane, helicopter, rocket, "
            "spaceship, ufo, tractor, taxi, submarine, sled, sledge, surfboard, wagon, van, canoe",
        "mushroom": "rock, stone, stones, pumpkin lantern, cactus, shell, seashell, bench, chair, "
            "table, sofa, couch, bed, desk, lamp post, television, tv, computer, laptop, phone, "
            "book, guitar, piano, drum, sword, gun, knife, hammer, camera, clock, mirror, "
            "painting, window, door, carpet, fireplace, bucket, pot, pond, puddle, campfire, "
            "fire, snowball, basket, pillow, blanket, trumpet, wand, spoon, fork",
        "gift": "bag of gifts, suitcase, treasure chest, chest, teddy toy, toy car, letter box, "
            "barrel, crate",
    },
    "colour": {
        "blue": "black, turquoise, teal, cyan, aqua, jet black, petrol",
        "orange": "brown, chocolate, bronze, copper, tan, rust, ginger, hazel, caramel, chestnut",
        "white": "grey, gray, silver, beige, transparent, invisible, cream, silvery, platinum, "
            "metallic",
        "pink": "rainbow, multicolored, multicoloured, colorful, colourful, rainbow-coloured, "
            "tie-dye, glittery",
    },
    "pattern": {
        "striped": "checkered, chequered, plaid, tartan, zigzag, checked, wavy, pinstriped, "
            "camouflage",
        "spotted": "floral, flowery, hearts pattern, stars pattern, paisley, marbled, sparkly, "
            "camo, furry, fluffy, hairy, glitter",
    },
    "background": {
        "meadow": "farm, playground, stadium, football field, golf course, zoo, vineyard, "
            "waterfall, cemetery",
        "beach": "island, harbour, harbor, pool, swimming pool, lake, river, hawaii, boat trip",
        "desert": "volcano, canyon, mars, moon, egypt, pyramid, pyramids, savanna, savannah, "
            "cave, hell",
        "snow": "cloud, heaven, iceberg, glacier, everest",
        "forest": "swamp, treehouse, rain forest canopy, amazon",
        "city": "space, outer space, galaxy, airport, station, train station, factory, paris, "
            "london, tokyo, eiffel tower, disneyland, bridge over a river, highway, market, "
            "planet, universe, berlin, venice",
        "room": "kitchen, bathroom, office, classroom, restaurant, cinema, library, shop, "
            "supermarket, museum, hospital, gym, prison, garage, cellar, theatre, theater, stage, "
            "bar, cafe, lab, dungeon",
    },
    "time": {
        "rain": "fog, foggy, mist, misty, thunder, lightning, thunderstorm, hail, tornado, "
            "hurricane, snowstorm, blizzard, windy, wind, clouds, snowfall",
        "sunset": "autumn, fall, northern lights, aurora, eclipse, fireworks, full moon",
        "day": "spring, rainbow, christmas, halloween, easter, heatwave",
    },
    "style": {
        "comic": "pixar, disney, 3d, clay, claymation, realistic, photorealistic, "
            "photo realistic, ghibli, simpsons, south park, graffiti, pop art, stained glass, "
            "paper cut, origami, low poly",
        "sketch": "van gogh, picasso, monet, oil painting, impressionist, impressionism, cubist, "
            "cubism, vintage photo, sepia, blueprint, engraving, woodcut, noir, etching, "
            "mosaic tiles, embroidery, baroque",
        "pastel": "blurry, blurred, hdr, retro photo, polaroid, renaissance, medieval, surreal, "
            "abstract",
    },
    "pose": {
        "": "smile, smiling, laugh, laughing, cry, crying, angry, sad, happy, scared, grin, "
            "frown, jump, jumping, run, running, dance, dancing, sit, sitting, fly, flying, wave, "
            "waving, lie down, swim, walk, walking, eat, eating, sing, singing, kiss, hug, wink, "
            "upside down, sideways, rotate, flip, mirrored, turn around, dancer, crouch, kneel, "
            "bow down, jumps, runs, eats, drink, skiing, surfing, fight, climb, backflip",
    },
    "body": {
        "": "wings, wing, tail, ears, ear, nose, mouth, teeth, fangs, tongue, arm, arms, hand, "
            "hands, leg, legs, foot, feet, paw, paws, claws, whiskers, beak, muscles, trunk, "
            "fins, cheeks, antenna, lips, fur coat, feathers, hooves, chin, neck, muscular, chubby",
    },
    "size": {
        "": "fat, fatter, thin, thinner, taller, tall, shorter, wider, skinny, zoom, crop, "
            "closer, zoom in, zoom out, older, younger, old, young, twice, bigger picture, "
            "giant size",
    },
    "number": {
        "": "two cats, three, four, five, ten, many, several, another cat, twins, second cat, "
            "crowd, dozen, friends, family, army, duplicate, group, friend, couple",
    },
})  # fmt: skip


# ---------------------------------------------------------------- asking the table


def forms(slot: str, concept: str, unheard: bool | None = None) -> tuple[str, ...]:
    """The forms of a concept: all of them, or only those that training hears (or does not hear).

    Raises KeyError for a slot or concept that the table lacks.
    """
    rows = WORLD[slot][concept] if slot in WORLD else SPEECH[slot][concept]
    if unheard is None:
        return rows
    return tuple(form for form in rows if is_unheard(slot, concept, form) == unheard)


def is_unheard(slot: str, concept: str, form: str) -> bool:
    """Whether a form is kept for tests; a concept's plain name never is."""
    table = WORLD if slot in WORLD else SPEECH
    return form != table[slot][concept][0] and held_out("form", slot, concept, form)


def split_words(text: str) -> list[str]:
    """Lower-case words with inner hyphens and apostrophes kept; a possessive 's is dropped."""
    found = re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", text.lower())
    return [word.removesuffix("'s") for word in found]


@cache
def words() -> tuple[str, ...]:
    """Every word of a form that training hears, sorted."""
    found = set()
    for slot, rows in (WORLD | SPEECH).items():
        for concept in rows:
            found.update(*map(split_words, forms(slot, concept, unheard=False)))
    return tuple(sorted(found))


@cache
def absent_words() -> tuple[tuple[str, str], ...]:
    """Single words for what the world has not, each with the nearest that it has, sorted."""
    pairs = [(form, near) for rows in ABSENT.values() for near, found in rows.items() if near
             for form in found if split_words(form) == [form] and form not in words()]  # fmt: skip
    return tuple(sorted(dict(reversed(pairs)).items()))
