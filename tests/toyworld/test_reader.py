"""The reader of wishes: what the world lacks is named, what it can do is never questioned."""

import random

import pytest

from minikontext.errors import PromptWarning
from minikontext.toyworld import Scene
from minikontext.toyworld.grammar import CLEAN
from minikontext.toyworld.lexicon import ABSENT
from minikontext.toyworld.reader import AbsentWord, ImpossibleWish, LongSign, unusable
from minikontext.toyworld.wishes import ask, sample_wishes

DRESSED = Scene(accessory="hat", right="flower", sign="HI")


@pytest.mark.parametrize(
    ("prompt", "word", "nearest"),
    [
        ("turn the cat into a dog", "dog", "cat"),
        ("Add two DOGS, please", "dog", "cat"),
        ("make the hat black", "black", "blue"),
        ("plant a palm tree", "palm tree", "tree"),
        ("add a helicoptr", "helicopter", "house"),
        ("in the style of van gogh", "van gogh", "sketch"),
        ("make it blue and give him a moustache", "moustache", "glasses"),
    ],
)
def test_absent_words_are_named_with_the_nearest_that_there_is(prompt, word, nearest):
    found = unusable(prompt)
    assert [type(warning) for warning in found] == [AbsentWord]
    assert (found[0].word, found[0].nearest) == (word, nearest)
    assert repr(word) in str(found[0]) and nearest in str(found[0])
    assert isinstance(found[0], PromptWarning)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("give the cat blue eyes", "blue eyes"),
        ("make its eyes green", "eyes green"),
        ("make the background blue", "background blue"),
        ("put him on purple grass", "purple grass"),
        ("make the hat bigger", "bigger"),
        ("add two flowers", "two flowers"),
    ],
)
def test_known_words_in_unknown_combinations_are_named(prompt, said):
    (warning,) = unusable(prompt)
    assert warning.word == said and said in str(warning)


def test_what_no_character_can_do_is_said():
    (warning,) = unusable("make the cat smile")
    assert "cannot show 'smile'" in str(warning)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("remove the tree", "tree"),
        ("make the bow tie red", "bow"),
        ("swap the ball for a gift", "ball"),
        ("a tree instead of the house", "house"),
        ("take off the scarf", "scarf"),
        ("I don't like the mushroom", "mushroom"),
        ("make the hat red and remove the tree", "tree"),
    ],
)
def test_wishes_about_what_is_not_there_are_impossible(prompt, name):
    found = unusable(prompt, DRESSED)
    assert [type(warning) for warning in found] == [ImpossibleWish]
    assert found[0].name == name and found[0].shown == ("hat", "flower", "sign")
    assert unusable(prompt) == []  # without a picture nobody can know


@pytest.mark.parametrize(
    "prompt",
    [
        "remove the hat",
        "make the flower yellow",
        "change the hat to a scarf",
        "give him the red glasses",
        "add a tree next to the house",
        "a tree frog with glasses",
        'write "DOG" on the sign',
        "put a house where the flower is",
        "remove the sign",
        "make the eyes bigger",
        "put the blue cat on the grass",
        "drop a ball on the left",
    ],
)
def test_what_can_be_done_is_not_questioned(prompt):
    assert unusable(prompt, DRESSED) == []


def test_the_grammars_own_sentences_are_hardly_ever_questioned():
    rng = random.Random(0)
    wishes = [sample_wishes(i) for i in range(600)]
    asked = [unusable(ask(one, rng, noise=CLEAN), one.contexts) for one in wishes]
    assert sum(map(bool, asked)) <= 6  # one in a hundred


def test_most_absent_words_are_found_in_a_sentence():
    forms = [
        (kind, form) for kind, rows in ABSENT.items() for found in rows.values() for form in found
    ]
    missed = [form for kind, form in forms if not unusable(f"i would love a {form} there")]
    assert len(missed) < 0.1 * len(forms), missed


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ('add a sign "HELLO WORLD"', ["HELLO WORLD"]),
        ("add a sign that says “HELLO”", ["HELLO"]),
        ('make the sign say "NO"', []),
        ('a "B 2"', ["B 2"]),
    ],
)
def test_a_sign_that_is_too_long_is_said(prompt, words):
    assert [w.word for w in unusable(prompt) if isinstance(w, LongSign)] == words
