"""Two wishes in a sentence: compatible, scored together and one by one, nothing held out."""

import random

import pytest

from minikontext.toyworld import render, score
from minikontext.toyworld.grammar import CLEAN
from minikontext.toyworld.oracle import as_array
from minikontext.toyworld.wishes import ask, followed, sample_wishes

PAIRS = [sample_wishes(i, contexts=1, two=1.0) for i in range(120)]


def test_wishes_are_the_same_on_every_call():
    assert [sample_wishes(i) for i in range(30)] == [sample_wishes(i) for i in range(30)]
    assert {len(sample_wishes(i).wishes) for i in range(30)} == {0, 2}


def test_a_level_with_one_operation_has_no_two_wishes():
    assert not any(sample_wishes(i, 1, two=1.0).wishes for i in range(20))


def test_two_wishes_do_not_overlap_and_both_change_the_picture():
    for pair in PAIRS:
        one, two = pair.wishes
        assert not set(one.claims) & set(two.claims)
        assert set(pair.claims) == {*one.claims, *two.claims}
        assert one.contexts == two.contexts == pair.contexts
        assert one.target == two.target == pair.target
        before = pair.contexts[0]
        for wish in pair.wishes:
            names = (*wish.claims, *wish.free)
            assert any(getattr(before, n) != getattr(pair.target, n) for n in names)


def test_the_right_picture_passes_and_a_half_done_one_fails_only_half():
    for pair in PAIRS[:12]:
        right = as_array(render(pair.target))
        assert score(right, pair).success and followed(right, pair) == (True, True)
        done, missing = pair.wishes
        before = pair.contexts[0]
        changes = {name: getattr(done.target, name) for name in (*done.claims, *done.free)}
        half = as_array(render(before.change(**changes)))
        assert followed(half, pair) == (True, False), (pair, missing)
        assert not score(half, pair).success


def test_every_case_lies_in_its_split():
    for split in ("train", "dev", "test"):
        for i in range(40):
            assert sample_wishes(i, split=split, contexts=1, two=1.0).split == split
    with pytest.raises(ValueError, match="split"):
        sample_wishes(0, split="exam", two=1.0)


def test_pairs_come_only_with_one_picture():
    for count in (0, 1, 2):
        for i in range(20):
            case = sample_wishes(i, contexts=count, two=1.0)
            assert len(case.contexts) == count and bool(case.wishes) == (count == 1)


def test_a_sentence_is_fresh_every_time():
    assert len({ask(PAIRS[0], random.Random(i)) for i in range(50)}) > 45


def test_some_pairs_are_asked_in_one_phrase():
    rng, short = random.Random(0), 0
    for pair in PAIRS:
        texts = [ask(pair, rng, noise=CLEAN) for _ in range(8)]
        short += any(len(text.split()) <= 6 for text in texts)
    assert short > 10
