"""The oracle is to be trusted: it refuses what is planted and accepts what is right."""

import random
from collections import Counter

import numpy as np
import pytest

from benchmarks import wrong_answers
from minikontext.bench import mini
from minikontext.bench.wrong_answers import ANOTHER, SPOILED, planted
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Scene, render, score
from minikontext.toyworld.edits import Case
from minikontext.toyworld.oracle import succeeds


@pytest.fixture(scope="module")
def cases():
    """A few cases of the tasks that take the oracle least time."""
    known = [c for *_, c in mini.cases(more=True) if c.operation in ("change_sign", "add_thing")]
    return known[::12][:6]


def test_kinds_are_many_and_visibly_wrong():
    known = [case for *_, case in mini.cases(more=True)[::30]]
    count = Counter()
    for i, case in enumerate(known):
        right = render(case.target).astype(int)
        for name, picture in planted(case, known[i - 1], random.Random(i)).items():
            assert (np.abs(picture - right).max(-1) > 32).sum() >= 6, name
            count[name] += 1
    assert set(count) == {*SPOILED, ANOTHER} and len(count) >= 30


def test_right_answers_pass_and_planted_ones_do_not(cases, tmp_path):
    pipe, path = KontextPipeline.from_pretrained("toy"), tmp_path / "oracle.json"
    half = wrong_answers.examine(cases[:3], pipe)
    wrong_answers.save("toy", 3, half, path)
    done, known = wrong_answers.load(path)
    kinds = wrong_answers.examine(cases, pipe, known, done)
    assert [kinds[name].percent for name in wrong_answers.RIGHT] == [100, 100, 100]
    wrong = [kind for name, kind in kinds.items() if name not in wrong_answers.RIGHT]
    assert sum(kind.cases for kind in wrong) > 100 and sum(kind.passed for kind in wrong) == 0
    assert "| black | 6 | 0.00 |" in wrong_answers.table(kinds)
    only = wrong_answers.examine(cases, pipe, wrong=False)
    assert only == {name: kinds[name] for name in wrong_answers.RIGHT}


@pytest.mark.parametrize(
    "change",
    [{"accessory": "none"}, {"left_colour": "blue"}, {"sign": "CAT"}, {"right": "none"}],
)
def test_something_else_that_changed_is_not_preserved(change):
    before = Scene(accessory="hat", accessory_colour="red", left="tree", left_colour="pink",
                   right="ball", right_colour="red", sign="CAR")  # fmt: skip
    case = Case("local", "change_eyes", "", (before,), before.change(eyes="big"), ("eyes",))
    answer = render(case.target.change(**change))
    found = score(answer, case)
    assert found.followed and found.identity and not found.preserved
    assert found.psnr_untouched > 20 and not succeeds(answer, case)
    assert score(case.target_image(), case).success


def test_a_mirrored_answer_is_not_preserved_though_everything_reads_right():
    before = Scene(background="meadow", time="sunset")
    case = Case("local", "change_eyes", "", (before,), before.change(eyes="big"), ("eyes",))
    found = score(render(case.target)[:, ::-1], case)
    assert found.followed and found.identity and not found.preserved


def test_what_is_gone_on_with_is_of_the_same_weights_and_answers(tmp_path):
    """Else the counts of two autoencoders would be added up; a file of before says less."""
    there = ["--output", str(tmp_path), "--name", "mine", "--cases", "1"]
    asked = {"size": "64x64", "split": None, "right": True}
    wrong_answers.save("toy", 1, {}, tmp_path / "mine.json", asked)
    for other, told in ((["--weights", "toy-max", "--right"], "weights toy:"), ([], "right True:")):
        with pytest.raises(ConfigError, match=f"mine.json is of {told} use another --name"):
            wrong_answers.main([*there, *other])
