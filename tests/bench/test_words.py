"""Newcomers' sentences: honest halves, right answers that are right, an editor that can learn."""

import json

import pytest

from benchmarks import words
from benchmarks.words import EDITIONS, Edition, Newcomer, as_scene, newcomers, numbers
from minikontext.toyworld import Scene, sample_edit
from minikontext.toyworld.grammar import CLEAN


def test_there_are_two_halves_of_150_sentences():
    dev, shut = newcomers("dev"), newcomers("shut")
    assert len(dev) == len(shut) == 150
    assert not {(one.prompt, one.contexts) for one in dev} & {(s.prompt, s.contexts) for s in shut}


def test_every_sentence_asks_for_a_change_or_for_a_warning():
    for one in newcomers("all"):
        assert one.right or one.contexts
        for scene in one.right:
            assert not one.contexts or scene != one.contexts[0] or one.free


def test_right_answers_are_accepted_and_wrong_ones_are_not():
    before = Scene()
    hat = before.change(accessory="hat", accessory_colour="red")
    one = Newcomer("give him a hat", (before,), (hat,), ("accessory_colour",))
    assert one.accepts(hat) and one.accepts(hat.change(accessory_colour="blue"))
    assert not one.accepts(before) and not one.accepts(hat.change(colour="green"))


def test_scenes_survive_becoming_numbers():
    for scene in (sample_edit(i).target for i in range(200)):
        assert as_scene(numbers(scene)) == scene
    assert set(numbers(None)) == {words.MOST - 1}


@pytest.mark.parametrize("edition", EDITIONS, ids=lambda edition: edition.name)
def test_every_edition_trains(edition):
    losses = []
    words.train(edition, 40, batch=16, pool=16, progress=lambda step, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_what_an_editor_understands_is_counted_and_written(tmp_path):
    edition = Edition("lexicon", CLEAN)
    model = words.train(edition, 2, batch=4, pool=10)
    row = words.measure(model, ("dev",))
    warned = sum(not one.right for one in newcomers("dev"))
    assert row["dev"]["understood"] >= warned - 2  # warnings need no training
    low, high = row["dev"]["interval"]
    assert low < 100 * row["dev"]["understood"] / 150 < high
    words.save(edition.name, row, 2, tmp_path)
    words.save("first edition", row, 2, tmp_path)
    stored = json.loads((tmp_path / "words.json").read_text())
    assert list(stored["rows"]) == ["first edition", "lexicon"]
    assert (tmp_path / "words.md").read_text().count("\n| ") == 3
    words.save("lexicon", row, 3, tmp_path)
    assert list(json.loads((tmp_path / "words.json").read_text())["rows"]) == ["lexicon"]
