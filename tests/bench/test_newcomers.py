"""Newcomers' sentences with pictures: right answers pass, others do not, editors are compared."""

import json

import pytest
from PIL import Image

from benchmarks import newcomers as bench
from benchmarks.words import Newcomer
from minikontext.errors import ConfigError
from minikontext.toyworld import Scene, render


def picture(scene):
    return Image.fromarray(render(scene))


BEFORE = Scene(left="tree", left_colour="green")
HAT = BEFORE.change(accessory="hat", accessory_colour="red")
ONE = Newcomer("give him a hat", (BEFORE,), (HAT,), ("accessory_colour",))


def test_a_right_answer_is_followed_and_a_wrong_one_is_not():
    assert bench.followed(picture(HAT), ONE)
    assert bench.followed(picture(HAT.change(accessory_colour="blue")), ONE)
    assert not bench.followed(picture(BEFORE), ONE)
    assert not bench.followed(picture(HAT.change(left="none")), ONE)
    assert not bench.followed(picture(HAT.change(accessory="scarf")), ONE)


def test_either_of_two_right_answers_is_enough():
    bow = BEFORE.change(accessory="bow", accessory_colour="red")
    both = Newcomer("dress him up", (BEFORE,), (HAT, bow), ("accessory_colour",))
    assert bench.followed(picture(bow), both) and bench.followed(picture(HAT), both)


def test_two_wishes_are_told_from_one():
    assert not bench.is_double(ONE)
    night = HAT.change(time="night")
    assert bench.is_double(Newcomer("a hat, at night", (BEFORE,), (night,), ()))
    drawn = Newcomer("a cat at night", (), (Scene(time="night"),), ())
    assert not bench.is_double(drawn)


@pytest.mark.parametrize("half, count", [("dev", 135), ("shut", 140)])
def test_all_that_can_be_edited_is_asked(half, count):
    some = bench.editable(half)
    assert len(some) == count and all(one.right for one in some)


def test_every_right_answer_of_the_dev_half_passes_when_it_is_drawn():
    missed = [one.prompt for one in bench.editable("dev")
              if not all(bench.followed(picture(right), one) for right in one.right)]  # fmt: skip
    assert not missed


def test_the_command_compares_weights_with_the_first(tmp_path, monkeypatch, capsys):
    few = bench.editable("dev")[:4]
    monkeypatch.setattr(bench, "editable", lambda half: few)
    found = bench.main(["--weights", "toy-max", "toy", "--steps", "1", "--output", str(tmp_path)])
    assert [*found["dev"]] == ["toy-max", "toy"] and len(found["dev"]["toy"]) == 4
    page = (tmp_path / "newcomers.md").read_text(encoding="utf-8")
    assert page.strip() == capsys.readouterr().out.strip()
    assert "dev: toy" in page and "toy-max" in page.splitlines()[-1]
    stored = json.loads((tmp_path / "newcomers.json").read_text(encoding="utf-8"))
    assert stored["steps"] == 1 and set("".join(stored["outcomes"]["dev"].values())) <= set("01")


def test_a_half_is_not_stored_as_the_whole():
    with pytest.raises(ConfigError, match="--store keeps results of all cases"):
        bench.main(["--store"])


def test_two_folders_with_weights_of_one_name_are_compared(tmp_path, monkeypatch):
    class Pipe:
        name = "toy"

        def __init__(self, place):
            self.right = [place == "a/weights"] * 20

    monkeypatch.setattr(bench.KontextPipeline, "from_pretrained", Pipe)
    monkeypatch.setattr(bench.report.loader, "require", lambda *places: None)  # nor are they there
    monkeypatch.setattr(bench, "measure", lambda pipe, *_: pipe.right)
    few = bench.editable("dev")[:20]
    monkeypatch.setattr(bench, "editable", lambda half: few)
    found = bench.main(["--weights", "a/weights", "b/weights", "--output", str(tmp_path)])
    assert [*found["dev"]] == ["a/weights", "b/weights"]
    page = (tmp_path / "newcomers.md").read_text(encoding="utf-8")
    assert "b/weights is 100.0 points below a/weights" in page
