"""The toy world: deterministic pictures, complete tasks, an honest split, an oracle that knows."""

import math
import re

import numpy as np
import pytest

from minikontext import toyworld
from minikontext.toyworld import (
    OPERATIONS,
    TASKS,
    Scene,
    held_out,
    read,
    render,
    sample_edit,
    sample_scene,
    score,
    vocabulary,
)
from minikontext.toyworld.language import (
    HELD_OUT_PHRASINGS,
    PHRASINGS,
    phrase,
    phrasing_choices,
)
from minikontext.toyworld.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    CHOICES,
    COLOURS,
    LEVELS,
    SPECIES,
    STYLES,
    TIMES,
)


def one_case(operation: str, split: str = "test", start: int = 0) -> toyworld.Case:
    """The first case of an operation in the highest level's stream."""
    cases = (sample_edit(i, 4, split) for i in range(start, start + 3000))
    return next(case for case in cases if case.operation == operation)


def another(values: tuple[str, ...], value: str) -> str:
    """Any other value."""
    return next(v for v in values if v != value)


def test_the_world_is_as_large_as_promised():
    assert len(SPECIES) >= 8 and len(COLOURS) >= 8 and len(BACKGROUNDS) >= 8
    assert len(TIMES) >= 4 and len(STYLES) >= 6 and len(ACCESSORIES) >= 4
    assert len(OPERATIONS) >= 20
    assert {task for task, _ in OPERATIONS.values()} == set(TASKS)
    assert set(PHRASINGS) == set(OPERATIONS) == set(LEVELS[4].operations)
    assert all(len(set(group)) == len(group) for group in PHRASINGS.values())
    assert all(len(group) >= 5 + HELD_OUT_PHRASINGS for group in PHRASINGS.values())


def test_render_is_deterministic_and_has_the_asked_size():
    scene = Scene(sign="HEY", left="tree", time="night")
    assert np.array_equal(render(scene), render(scene))
    assert render(scene, 96, 160).shape == (96, 160, 3)
    assert render(scene).dtype == np.uint8


def test_a_sign_that_is_wider_than_the_picture_is_cut():
    picture = render(Scene(sign="STOP"), 96, 48)
    assert picture.shape == (96, 48, 3) and not np.array_equal(picture, render(Scene(), 96, 48))


@pytest.mark.parametrize("attribute", [*CHOICES, "sign"])
def test_every_attribute_shows(attribute):
    scene = Scene(accessory="hat", left="ball", right="ball", sign="AB")
    values = CHOICES.get(attribute, ("", "AB", "AC", "A"))
    pictures = [render(scene.change(**{attribute: value})) for value in values]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a.astype(int) - b).max() > 40


@pytest.mark.parametrize(
    "values", [{"colour": "mauve"}, {"sign": "TOOLONG"}, {"sign": "ab"}, {"species": ""}]
)
def test_unknown_values_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Scene(**values)


def test_colours_of_absent_things_do_not_make_two_scenes_of_one_picture():
    scene = Scene(accessory="hat", accessory_colour="red")
    assert scene.change(accessory="none") == Scene()


@pytest.mark.parametrize("number", LEVELS)
def test_levels_stay_within_their_values(number):
    rung = LEVELS[number]
    for i in range(200):
        case = sample_edit(i, number)
        assert case.operation in rung.operations
        for name, allowed in rung.narrow.items():
            assert getattr(case.target, name) in allowed, (case, name)


def test_cases_are_the_same_on_every_call():
    assert [sample_edit(i) for i in range(50)] == [sample_edit(i) for i in range(50)]
    assert sample_edit(1) != sample_edit(1, seed=1)


def test_training_never_contains_anything_held_out():
    heard = set()
    for i in range(4000):
        case = sample_edit(i)
        assert not any(held_out(*key) for key in case.keys)
        for scene in (*case.contexts, case.target):
            assert not held_out("identity", *scene.identity)
            assert len(scene.sign) < 2 or not held_out("word", scene.sign)
        heard.add(case.prompt)
    assert not any(case.phrasing_held_out for case in map(sample_edit, range(200)))
    asked = {sample_edit(i, split="test").prompt for i in range(1, 400, 2)}
    signs_apart = {p for p in asked & heard if '"' not in p}
    assert not signs_apart, signs_apart


def test_held_out_sentences_are_new_but_their_words_are_known():
    def words(phrasings):
        return set(re.findall("[a-z]+", " ".join(phrasings)))

    known = words(p for group in PHRASINGS.values() for p in group[:-HELD_OUT_PHRASINGS])
    asked = {p for group in PHRASINGS.values() for p in group[-HELD_OUT_PHRASINGS:]}
    assert words(asked) <= known
    assert not asked & {p for group in PHRASINGS.values() for p in group[:-HELD_OUT_PHRASINGS]}


def test_an_edit_can_be_asked_for_in_other_words_of_its_split():
    for i in range(40):
        case = sample_edit(i, split="test")
        others = {case.reworded(number) for number in range(30)}
        assert len(others) > 1
        assert others == {case.reworded(number) for number in range(30)}
        asked = [phrase(case.operation, choice, **case.words) for choice in
                 phrasing_choices(case.operation, case.phrasing_held_out)]  # fmt: skip
        assert all(any(text in other for text in asked) for other in others)


def test_training_hears_of_every_value_in_every_operation():
    wanted = {("change_background", "background"), ("replace_character", "species")}
    wanted |= {("change_time", "time"), ("change_style", "style"), ("change_eyes", "eyes")}
    seen = {}
    for i in range(6000):
        case = sample_edit(i)
        for claim in case.claims:
            seen.setdefault((case.operation, claim), set()).add(getattr(case.target, claim))
    for operation, claim in wanted:
        values = set(CHOICES[claim]) - ({"plain"} if claim == "style" else set())
        assert seen[operation, claim] == values


def test_every_test_case_contains_something_held_out():
    for i in range(300):
        case = sample_edit(i, split="test")
        assert case.unseen
        assert case.phrasing_held_out == (i % 2 == 1)


def test_unknown_split_and_level_are_refused():
    with pytest.raises(ValueError, match="split"):
        sample_edit(0, split="validation")
    with pytest.raises(ValueError, match="level"):
        sample_edit(0, 9)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_oracle_accepts_the_right_answer_and_refuses_the_input(operation):
    case = one_case(operation)
    right = np.asarray(case.target_image()).astype(np.float32)
    noisy = np.clip(right + np.random.default_rng(0).normal(0, 6, right.shape), 0, 255)
    assert score(noisy, case).success
    for context in case.context_images():
        assert not score(context, case).success


@pytest.mark.parametrize("operation", OPERATIONS)
def test_oracle_refuses_wrong_answers(operation):
    case = one_case(operation)
    claim = case.claims[-1]
    other = (
        "Q"
        if claim == "sign"
        else next(v for v in CHOICES[claim] if v not in (getattr(case.target, claim), "none"))
    )
    for wrong in (
        case.target.change(**{claim: other}),
        case.target.change(eyes=another(CHOICES["eyes"], case.target.eyes))
        if "eyes" not in case.free
        else case.target.change(
            background=next(b for b in BACKGROUNDS if b != case.target.background)
        ),
    ):
        if wrong != case.target:
            assert not score(render(wrong), case).success
    assert not score(np.full((64, 64, 3), 128, np.uint8), case).success
    assert not score(np.random.default_rng(1).integers(0, 255, (64, 64, 3)), case).success


def test_oracle_measures_preservation_apart_from_following():
    case = one_case("recolour_character")
    picture = np.asarray(case.target_image()).copy()
    picture[40:, :] = 255 - picture[40:, :] // 2
    result = score(picture, case)
    assert not result.preserved and not result.success


def test_oracle_does_not_ask_for_a_colour_that_a_style_hides():
    cases = (sample_edit(i, 4, "test") for i in range(9000))
    case = next(c for c in cases if c.operation == "change_style" and c.target.style == "sketch")
    assert score(render(case.target.change(colour="red")), case).identity
    assert score(render(case.target.change(colour="blue")), case).identity
    eyes = another(CHOICES["eyes"], case.target.eyes)
    assert not score(render(case.target.change(eyes=eyes)), case).identity


def test_hardly_anything_untouched_is_no_measure_of_preservation():
    cases = (sample_edit(i, 4, "test") for i in range(9000))
    case = next(c for c in cases if c.operation == "change_style" and c.target.style == "sketch"
                and c.contexts[0].background == "forest")  # fmt: skip
    result = score(case.target_image(), case)
    assert math.isnan(result.psnr_untouched) and result.preserved and result.success


def test_open_cases_accept_every_right_answer():
    case = one_case("text_to_image")
    for place in CHOICES["place"]:
        assert score(render(case.target.change(place=place)), case).success


def test_read_finds_the_scene_again():
    import random

    rng = random.Random(5)
    for _ in range(4):
        scene = sample_scene(rng).change(style="plain")
        picture = render(scene).astype(np.float32) + np.random.default_rng(0).normal(
            0, 5, (64, 64, 3)
        )
        guess = scene.change(colour="red", eyes="big", time="day", sign="")
        assert read(picture, guess, ("colour", "eyes", "time", "background", "sign")) == scene


def test_the_text_encoder_knows_every_word_of_every_prompt():
    from minikontext.text import ToyTextConfig, ToyTextEncoder

    encoder = ToyTextEncoder(ToyTextConfig(vocabulary=vocabulary()))
    for split in ("train", "test"):
        for i in range(400):
            assert encoder.report(sample_edit(i, split=split).prompt) == []


def test_a_zoomed_answer_in_a_pale_style_is_not_right():
    case = sample_edit(12, 4, split="test")
    assert case.operation == "style_reference" and case.target.style == "pastel"
    right = case.target_image()
    assert score(right, case).success
    assert not score(right.resize((64, 64), box=(8, 8, 56, 56)), case).success
