"""The grammar: fresh, understandable wordings that name the wish, and nothing held out."""

import random
import re
from collections import defaultdict

import pytest

from minikontext.text import split_prompt
from minikontext.toyworld import OPERATIONS, grammar
from minikontext.toyworld.edits import SECOND_EDITION, sample_case
from minikontext.toyworld.grammar import CLEAN, Noise, vocabulary
from minikontext.toyworld.lexicon import SPEECH, WORLD, forms, is_unheard, split_words
from minikontext.toyworld.split import held_out

CASES = [sample_case(i) for i in range(2000)]


def cases_of(operation: str, count: int = 20):
    return [case for case in CASES if case.operation == operation][:count]


def says(text: str, slot: str, concept: str) -> bool:
    """Whether a text contains a form of a concept."""
    return any(form in text.lower() for form in WORLD[slot][concept])


@pytest.mark.parametrize("operation", [*OPERATIONS, *SECOND_EDITION])
def test_every_operation_is_asked_for_in_many_ways(operation):
    rng = random.Random(0)
    case = cases_of(operation, 1)[0]
    said = {grammar.ask(case, rng, noise=CLEAN) for _ in range(200)}
    assert len(said) > (60 if operation != "remove_sign" else 50)
    assert not [text for text in said if re.search(r"[{}|()]", text)]


@pytest.mark.parametrize(
    ("operation", "slot"),
    [
        ("recolour_character", "colour"),
        ("recolour_accessory", "colour"),
        ("recolour_thing", "colour"),
        ("replace_character", "species"),
        ("add_accessory", "accessory"),
        ("add_thing", "thing"),
        ("style_reference", "species"),
    ],
)
def test_the_wish_is_named(operation, slot):
    rng = random.Random(1)
    for case in cases_of(operation):
        text = grammar.ask(case, rng, noise=CLEAN)
        assert says(text, slot, case.words[slot]), text


def test_each_of_several_pictures_is_named_with_what_it_lends():
    rng = random.Random(8)
    for case in cases_of("combine_three") + cases_of("combine_four"):
        text = grammar.ask(case, rng, noise=CLEAN).lower()
        for role in ("character", "worn", "scene", "drawn"):
            if role in case.words:
                assert says(text, "source", case.words[role]), (role, text)
        assert ("style" in text) == ("drawn" in case.words)


def test_sign_words_are_never_misspelt():
    rng = random.Random(2)
    for case in cases_of("add_sign") + cases_of("change_sign"):
        assert case.words["sign"] in grammar.ask(case, rng, noise=Noise(0, 0, 1))


def test_typos_are_the_asked_share_of_the_words():
    rng = random.Random(3)
    case = cases_of("change_background", 1)[0]
    text = " ".join(grammar.ask(case, rng, noise=CLEAN) for _ in range(200)).lower()
    slips = grammar.finish(text, rng, Noise(0, 0, 0.1)).lower()
    assert len(slips.split()) == len(text.split())
    changed = sum(a != b for a, b in zip(slips.split(), text.split(), strict=True))
    assert 0.04 < changed / len(text.split()) < 0.12
    assert len({grammar.typo("flower", rng) for _ in range(300)}) > 100
    assert all(abs(len(grammar.typo("flower", rng)) - 6) <= 1 for _ in range(50))


def test_what_is_kept_for_tests_is_never_heard_in_training():
    heard_forms = defaultdict(int)
    rng = random.Random(5)
    for slot, rows in (WORLD | SPEECH).items():
        for concept in rows:
            for _ in range(40):
                form = grammar._form(slot, concept, rng)
                assert not is_unheard(slot, concept, form)
                heard_forms[slot] += 1
    assert any(is_unheard("species", c, f) for c in WORLD["species"] for f in forms("species", c))


def test_some_templates_of_most_operations_are_kept_for_tests():
    with_some = 0
    for operation, texts in grammar.TEMPLATES.items():
        kept = [text for text in texts if held_out("template", operation, text)]
        with_some += bool(kept)
        assert len(kept) < max(2, len(texts) / 2), operation
    assert with_some >= 25


def test_unheard_wordings_come_from_kept_templates(monkeypatch):
    case = cases_of("recolour_character", 1)[0]
    used = []
    monkeypatch.setattr(grammar, "fill", lambda text, *rest: used.append(text) or text)
    for unheard in (False, True):
        used.clear()
        for i in range(60):
            grammar.wording(case, random.Random(i), unheard)
        assert {held_out("template", case.operation, text) for text in used} == {unheard}


def test_every_symbol_can_be_filled_in():
    known = {*WORLD, *SPEECH, *grammar.PHRASES, "sign", "sign_was", "alone", "vague", "cleared"}
    known |= {"kind", "colour_was", "accessory_was", "thing_was", "background_was", "time_was"}
    known |= {"source_character", "source_worn", "source_scene", "source_drawn"}
    known |= {"only_scene", "only_drawn", "both"}
    known |= {"where_was", "eyes_was", "marks", "old", "second_one", "caption", "clear"}
    texts = [text for group in grammar.TEMPLATES.values() for text in group]
    texts += [text for group in grammar.PHRASES.values() for text in group]
    assert {name for text in texts for name in grammar.symbols(text)} <= known


def test_an_unsaid_colour_is_free_and_an_unsaid_side_is_clear():
    rng = random.Random(6)
    for case in cases_of("add_accessory"):
        loose = next(c for c in (grammar.loosened(case, rng) for _ in range(99)) if c is not case)
        assert loose.claims == ("accessory",) and "accessory_colour" in loose.free
        text = grammar.ask(loose, rng, noise=CLEAN).lower()
        assert case.words["colour"] not in text.split()
    for case in cases_of("remove_thing", 40):
        before, side = case.contexts[0], case.words["side"]
        text = grammar.ask(case, rng, noise=CLEAN).lower()
        if before.left == before.right:
            assert any(form in text for form in WORLD["side"][side]), text


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("a orange hat", "an orange hat"),
        ("a red glasses", "red glasses"),
        ("give it one eyes", "give it one eye"),
        ("the a white belly", "a white belly"),
    ],
)
def test_articles_are_mended(wrong, right):
    assert grammar.mend(wrong) == right


def test_the_vocabulary_has_every_word_that_training_hears():
    rng, known = random.Random(7), set(vocabulary())
    for case in CASES[:300]:
        text = re.sub(r"(\"[^\"]*\"|'[A-Z]+')", " ", grammar.ask(case, rng, noise=CLEAN))
        assert set(split_words(text)) <= known, text
    assert "dog" not in known and len(known) < 1200


def test_every_sentence_fits_the_encoder():
    rng, words = random.Random(9), vocabulary()
    longest = max(
        len(split_prompt(grammar.ask(case, rng, noise=Noise(1, 0, 0)), words))
        for case in cases_of("combine_four", 60) + CASES[:200]
    )
    assert 20 < longest <= grammar.LONGEST
