"""Two wishes in a sentence: compatible, scored together and one by one, nothing held out."""

import random

import pytest

from minikontext.toyworld import held_out, render, score
from minikontext.toyworld.oracle import as_array
from minikontext.toyworld.wishes import sample_wishes

PAIRS = [sample_wishes(i, two=1.0) for i in range(120)]


def test_wishes_are_the_same_on_every_call():
    assert [sample_wishes(i) for i in range(30)] == [sample_wishes(i) for i in range(30)]
    assert {len(sample_wishes(i).parts) for i in range(30)} == {1, 2}


def test_two_wishes_do_not_overlap_and_both_change_the_picture():
    for pair in PAIRS:
        one, two = pair.parts
        assert not set(one.claims) & set(two.claims)
        assert set(pair.case.claims) == {*one.claims, *two.claims}
        assert one.contexts == two.contexts == pair.case.contexts
        assert one.target == two.target == pair.case.target
        before = pair.case.contexts[0]
        for part in pair.parts:
            names = (*part.claims, *part.free)
            assert any(getattr(before, n) != getattr(pair.case.target, n) for n in names)


def test_the_right_picture_passes_and_a_half_done_one_fails_only_half():
    for pair in PAIRS[:12]:
        right = as_array(render(pair.case.target))
        assert score(right, pair.case).success and pair.followed(right) == (True, True)
        done, missing = pair.parts
        before = pair.case.contexts[0]
        changes = {name: getattr(done.target, name) for name in (*done.claims, *done.free)}
        half = as_array(render(before.change(**changes)))
        assert pair.followed(half) == (True, False), (pair, missing)
        assert not score(half, pair.case).success


def test_nothing_held_out_is_in_training_and_something_is_in_every_test_case():
    for i in range(60):
        assert not any(held_out(*key) for key in sample_wishes(i, two=1.0).case.keys)
        assert any(held_out(*key) for key in sample_wishes(i, split="test", two=1.0).case.keys)
    with pytest.raises(ValueError, match="split"):
        sample_wishes(0, split="exam", two=1.0)


def test_a_sentence_is_fresh_every_time():
    said = {PAIRS[0].ask(random.Random(i)) for i in range(50)}
    assert len(said) > 45
