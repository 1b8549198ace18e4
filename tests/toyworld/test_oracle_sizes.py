"""The oracle reads every size: right answers pass, planted wrong ones do not."""

import random

import numpy as np
import pytest
from PIL import Image

from minikontext.bench.wrong_answers import planted
from minikontext.toyworld import Scene, oracle, read, render, score
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.oracle import succeeds
from minikontext.toyworld.sizes import TRAINED, UNSEEN

SIZES = ((96, 64), (64, 160), (128, 128))


@pytest.mark.parametrize("size", (*TRAINED, *UNSEEN), ids=str)
def test_right_answers_pass_at_every_size(size):
    for i in range(12):
        case = sample_case(i, 4, "dev")
        assert score(case.target_image(size[1], size[0]), case).success, case


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_planted_wrong_answers_fail(size):
    cases = [sample_case(i, 4, "dev") for i in range(9)]
    passed, count = [], 0
    for i, case in enumerate(cases):
        wrong = planted(case, cases[i - 1], random.Random(i), size)
        count += len(wrong)
        passed += [(case.operation, name) for name, one in wrong.items() if succeeds(one, case)]
    assert count > 200 and len(passed) <= count // 100, passed


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_scene_is_read_back(size):
    scene = Scene(species="bear", colour="pink", sign="HI", left="house", left_colour="red")
    names = ("species", "colour", "sign", "left", "accessory", "background")
    assert read(render(scene, size[1], size[0]), Scene(), names) == scene


def test_spoiling_is_tried_in_world_units():
    """At twice the size pictures are shifted and blurred twice as far, so verdicts agree."""
    scene = Scene(right="tree", accessory="hat", sign="ON")
    small, large = (render(scene, side, side).astype(np.float32) for side in (64, 128))
    spoiled = list(zip(oracle._spoiled(small, small), oracle._spoiled(large, large), strict=True))
    for one, two in spoiled[:-1]:  # the last is a picture in its own contrast
        halved = Image.fromarray(two.astype(np.uint8)).resize((64, 64), Image.Resampling.BOX)
        assert np.abs(np.asarray(halved) - one).mean() < 4


@pytest.mark.parametrize("side", [64, 128])
def test_a_shift_by_two_units_fails(side):
    case = next(c for i in range(50) if (c := sample_case(i, 2, "dev")).task == "local")
    shifted = np.roll(case.target_image(side, side), 2 * side // 64, axis=1)
    assert not score(shifted, case).success


def test_the_worst_window_grows_with_the_picture():
    """The same scene, spoiled in the same place, is as suspicious at any size."""
    found = []
    for side in (64, 128):
        right = np.full((side, side, 3), 100, np.float32)
        spoiled, scale = right.copy(), side // 64
        spoiled[8 * scale : 12 * scale, 8 * scale : 12 * scale] += 60
        found.append(oracle._worst_window(spoiled, right))
    assert found[0] == pytest.approx(found[1])
