"""The lexicon: one meaning for every form, everything in the world named, and what it lacks."""

from collections import Counter

import pytest

from minikontext.toyworld import lexicon
from minikontext.toyworld.lexicon import ABSENT, SPEECH, WORLD, forms, split_words, words
from minikontext.toyworld.scene import CHOICES
from minikontext.toyworld.split import held_out

TABLES = {"world": WORLD, "speech": SPEECH, "absent": ABSENT}


@pytest.mark.parametrize("name", TABLES)
def test_no_form_belongs_to_two_concepts_in_one_slot(name):
    for slot, rows in TABLES[name].items():
        counts = Counter(form for found in rows.values() for form in found)
        assert [form for form, count in counts.items() if count > 1] == [], slot


def test_every_value_of_the_world_has_a_name():
    for slot, attribute in (("thing", "left"), *((name, name) for name in ("species", "colour"))):
        assert set(WORLD[slot]) == set(CHOICES[attribute]) - {"none"}
    for slot in ("pattern", "eyes", "place", "background", "time"):
        assert set(WORLD[slot]) == set(CHOICES[slot])
    assert set(WORLD["style"]) == set(CHOICES["style"]) - {"plain"}
    assert set(WORLD["accessory"]) == set(CHOICES["accessory"]) - {"none"}


def test_the_table_is_as_large_as_promised():
    known = sum(len(found) for rows in (WORLD | SPEECH).values() for found in rows.values())
    absent = sum(len(found) for rows in ABSENT.values() for found in rows.values())
    assert known >= 600 and absent >= 200


def test_training_hears_the_plain_name_and_never_what_is_kept_for_tests():
    kept = 0
    for slot, rows in (WORLD | SPEECH).items():
        for concept, found in rows.items():
            heard = forms(slot, concept, unheard=False)
            assert found[0] in heard
            for form in set(found) - set(heard):
                assert held_out("form", slot, concept, form)
            kept += len(found) - len(heard)
    assert kept > 100


def test_what_is_absent_is_no_word_of_the_world():
    for slot, rows in ABSENT.items():
        for found in rows.values():
            assert not set(found) & {f for c in WORLD.get(slot, {}) for f in forms(slot, c)}


def test_words_keep_hyphens_and_lose_the_possessive():
    found = split_words("The cat's 8-bit T-shirt, don't!")
    assert found == ["the", "cat", "8-bit", "t-shirt", "don't"]
    assert {"kitty", "rabbit", "bowtie", "shades", "please"} <= set(words())
    assert "dog" not in words()


def test_an_unknown_slot_is_an_error():
    with pytest.raises(KeyError):
        lexicon.forms("smell", "sweet")


def test_absent_words_come_with_something_that_the_world_has():
    pairs = dict(lexicon.absent_words())
    assert len(pairs) >= 200
    assert pairs["dog"] == "cat" and pairs["helicopter"] == "house" and pairs["brown"] == "orange"
    assert not set(pairs) & set(words())
    assert set(pairs.values()) <= {value for rows in WORLD.values() for value in rows}
