"""Sizes of the world: which are trained, what fits into a picture, what is never trained on."""

import random
from itertools import product

import numpy as np
import pytest

from minikontext.errors import SizeError
from minikontext.images import resize
from minikontext.toyworld import Scene, render, sample_edit, sizes
from minikontext.toyworld.edits import context_count, operation_shares, sample_case
from minikontext.toyworld.render import above_stage, unit
from minikontext.toyworld.scene import CHOICES, LEVELS, SPECIES, sample_scene
from minikontext.toyworld.sizes import AREAS, TRAINED, UNSEEN
from minikontext.toyworld.split import (
    PAIRS,
    held_out,
    pairs_of,
    scene_keys,
    split_of,
    split_of_all,
)

ALL = (*TRAINED, *UNSEEN)


def test_trained_sizes_are_about_twenty_of_three_areas_and_lie_inside_the_range():
    assert 17 <= len(TRAINED) <= 24 and len(set(TRAINED)) == len(TRAINED)
    assert {sizes.area(size) for size in TRAINED} == set(AREAS)
    assert {(64, 64), (96, 64), (64, 96), (128, 128)} <= set(TRAINED)
    assert {(w, h) for h, w in TRAINED} == set(TRAINED)
    assert all(map(sizes.inside, ALL))


def test_at_least_four_sizes_inside_the_range_are_never_trained():
    assert len(UNSEEN) >= 4 and not set(UNSEEN) & set(TRAINED)
    assert {(80, 80), (112, 64), (64, 112), (144, 96)} <= set(UNSEEN)
    areas = [w * h for w, h in TRAINED]
    assert all(min(areas) < w * h < max(areas) for w, h in UNSEEN)


def test_tokens_and_sizes_outside_the_range():
    assert [sizes.tokens(size) for size in ((64, 64), (96, 64), (128, 128))] == [16, 24, 64]
    with pytest.raises(ValueError, match="multiples of 16"):
        sizes.tokens((64, 60))
    for size in ((32, 64), (176, 96), (48, 128), (64, 72)):
        assert not sizes.inside(size)


def test_sizes_are_read_as_a_user_writes_them():
    assert sizes.parse("96x64,64x96") == ((96, 64), (64, 96))
    assert sizes.parse("trained") == TRAINED and sizes.parse("all") == ALL
    with pytest.raises(ValueError, match="width x height"):
        sizes.parse("48x128")


def _shows(scene: Scene, other: Scene, size: sizes.Size) -> np.ndarray:
    """Where two scenes differ clearly, (h, w)."""
    one, two = (render(s, size[1], size[0]).astype(int) for s in (scene, other))
    return np.abs(one - two).max(-1) > 40


def _extent(scene: Scene, size: sizes.Size) -> np.ndarray:
    """Height and width in units of what a character's colour covers."""
    there = _shows(scene, scene.change(colour="blue"), size)
    rows, columns = np.where(there.any(1))[0], np.where(there.any(0))[0]
    return np.array([np.ptp(rows), np.ptp(columns)]) / unit(size[1], size[0])


@pytest.mark.parametrize("size", ALL, ids=str)
def test_a_whole_character_fits_at_every_size_and_place(size):
    for species, place in product(SPECIES, CHOICES["place"]):
        scene = Scene(species=species, place=place, colour="red", background="snow")
        whole = _extent(scene.change(place="middle"), (128, 128))
        assert np.abs(_extent(scene, size) - whole).max() < 3, (species, place)


@pytest.mark.parametrize("size", ALL, ids=str)
def test_things_on_both_sides_and_the_longest_sign_show_at_every_size(size):
    scene = Scene(left="ball", left_colour="red", right="gift", right_colour="red", sign="WHAM")
    clear = (6 * unit(size[1], size[0])) ** 2  # pixels: a good part of a thing
    for change in ({"left_colour": "blue"}, {"right_colour": "blue"}, {"sign": "WHAX"}):
        seen = _shows(scene, scene.change(**change), size)
        assert seen.sum() > (clear if "sign" not in change else clear / 12), change
    letters = _shows(scene, scene.change(sign="XHAM"), size)
    assert np.where(letters.any(1))[0][0] < size[1] / 3  # it hangs from the upper edge


def test_a_tall_picture_is_the_square_one_with_more_above_and_below():
    scene = Scene(species="frog", right="tree", accessory="hat", background="desert")
    square, tall = render(scene, 64, 64), render(scene, 112, 64)
    above = round(above_stage(112, 64))
    assert above == 32 and above_stage(64, 64) == above_stage(64, 112) == 0
    assert np.array_equal(tall[above + 43 : above + 64], square[43:])  # the ground and what stands


@pytest.mark.parametrize("size", TRAINED, ids=str)
def test_a_picture_of_a_trained_size_keeps_it(size):
    assert resize.plan(size, sizes=TRAINED).working == size


@pytest.mark.parametrize(
    ("size", "working"),
    [
        ((80, 80), (96, 96)),  # not 64 x 64, which is further in area
        ((300, 300), (128, 128)),  # a large square is drawn large
        ((40, 40), (64, 64)),
        ((800, 480), (160, 96)),
        ((480, 800), (96, 160)),
        ((1000, 400), (160, 64)),
        ((62, 41), (96, 64)),
        ((70, 50), (96, 64)),  # not 112 x 80: that has its aspect, but is far larger
    ],
    ids=str,
)
def test_other_pictures_get_a_trained_size_of_their_aspect_and_about_their_area(size, working):
    assert resize.plan(size, sizes=TRAINED).working == working


def test_kontexts_own_sizes_are_chosen_by_aspect_alone():
    for width, height in ((64, 64), (500, 300), (2000, 900), (300, 900), (1024, 1023)):
        by_aspect = min(resize.KONTEXT_SIZES, key=lambda s: abs(s[0] / s[1] - width / height))
        assert resize.plan((width, height)).working == by_aspect


@pytest.mark.parametrize(
    ("size", "target", "working"),
    [
        ((64, 64), (128, 128), (128, 128)),  # smaller, and of its shape
        ((128, 128), (64, 64), (64, 64)),
        ((80, 64), (128, 128), (128, 128)),  # nearly of its shape: stretched
        ((300, 300), (80, 80), (80, 80)),  # the result need not have a trained size
        ((50, 50), (100, 90), (112, 96)),  # nor whole tokens
        ((160, 64), (64, 64), (160, 64)),  # of another shape: its own trained size
        ((64, 64), (96, 64), (64, 64)),
    ],
    ids=str,
)
def test_a_picture_comes_to_the_size_of_its_result_if_it_has_nearly_its_shape(
    size, target, working
):
    assert resize.plan(size, sizes=TRAINED, target=target).working == working
    assert resize.plan(size, "none", sizes=TRAINED, target=target).working == resize.snap(size, 16)
    for family in (resize.KONTEXT_SIZES, ((64, 64),)):  # one area: every picture has one scale
        alone = resize.plan(size, sizes=family).working
        assert resize.plan(size, sizes=family, target=target).working == alone


def test_a_result_of_no_size_is_refused_with_its_picture():
    for target in ((0, 64), (-1, 64), (64, 1.5), ("64", 64)):
        with pytest.raises(SizeError, match="whole numbers from 1"):
            resize.plan((64, 64), sizes=TRAINED, target=target)


# ------------------------------------------------------------------------------------ the split


def test_what_the_first_edition_held_out_is_test_in_the_second():
    for i in range(300):
        case = sample_edit(i, 4, "test")
        assert case.split == "test"
    keys = [("identity", *map(str, (i, i % 7))) for i in range(2000)]
    splits = [split_of(*key) for key in keys]
    assert [s == "test" for s in splits] == [held_out(*key) for key in keys]
    assert 0.02 < splits.count("dev") / len(splits) < 0.08


def test_a_picture_of_a_held_out_character_or_word_is_not_trained_on():
    rng, seen = random.Random(0), set()
    for _ in range(400):
        scene = sample_scene(rng, 4)
        own = [split_of("identity", *scene.identity)]
        own += [split_of("word", scene.sign)] if len(scene.sign) > 1 else []
        seen.update(own)
        worst = max(own, key=("train", "dev", "test").index)
        assert split_of_all(scene_keys(scene)) == worst or pairs_of(scene)
    assert seen == {"train", "dev", "test"}


def test_pairs_are_held_out_whole_and_their_values_are_not():
    assert set(PAIRS.values()) == {"dev", "test"}
    assert pairs_of(Scene(species="frog", pattern="spotted")) == [
        ("pair", "pattern", "spotted", "species", "frog")
    ]
    scenes = [s for i in range(4000) for c in [sample_case(i)] for s in (*c.contexts, c.target)]
    assert not any(pairs_of(scene) for scene in scenes)
    for attribute, value, other, its in PAIRS:
        assert any(getattr(scene, attribute) == value for scene in scenes)
        assert any(getattr(scene, other) == its for scene in scenes)
    with pytest.raises(ValueError, match="not a pair"):
        split_of("pair", "pattern", "plain", "species", "cat")


@pytest.mark.parametrize("number", LEVELS)
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_case_lies_wholly_in_its_split(number, split):
    found = []
    for i in range(150):
        case = sample_case(i, number, split)
        scenes = (*case.contexts, case.target)
        keys = {*case.keys, *(key for scene in scenes for key in scene_keys(scene))}
        assert split_of_all(keys) == split == case.split
        assert case.phrasing_held_out == (split != "train" and i % 2 == 1)
        found.append(case)
    assert found == [sample_case(i, number, split) for i in range(150)]


def test_a_number_of_contexts_can_be_asked_for():
    for count in (0, 1, 2):
        cases = [sample_case(i, 4, "train", contexts=count) for i in range(40)]
        assert all(len(case.contexts) == count == context_count(case.operation) for case in cases)
    with pytest.raises(ValueError, match="no operation with 2"):
        operation_shares(2, 2)
    with pytest.raises(ValueError, match="choose one of"):
        sample_case(0, 4, "validation")
