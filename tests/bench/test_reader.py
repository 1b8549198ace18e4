"""The second judge: it reads what is drawn, accepts right answers and refuses planted ones."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.reader import calibration, pictures, training, validation
from minikontext.bench import reader
from minikontext.bench.reader import judgement, network
from minikontext.bench.reader.judgement import Reader
from minikontext.bench.wrong_answers import planted
from minikontext.errors import TrainingError, WeightsError
from minikontext.toyworld.edits import Case, sample_case
from minikontext.toyworld.render import render
from minikontext.toyworld.scene import Scene
from minikontext.training.runs import alone

SIZES = ((64, 64), (96, 64), (64, 160), (128, 128), (48, 48), (160, 160))
SCENE = Scene(species="bear", colour="pink", pattern="spotted", eyes="big", accessory="hat",
              accessory_colour="blue", left="house", left_colour="red", right="gift",
              right_colour="green", sign="HEY", background="city")  # fmt: skip


@pytest.fixture(scope="module")
def cases():
    return [sample_case(i, 4, "dev", seed=5) for i in range(40)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_scene_is_read_at_every_size(size):
    for time in ("day", "rain"):
        scene = SCENE.change(time=time)
        assert reader.read(render(scene, size[1], size[0])) == scene


def test_right_answers_are_accepted(cases):
    found = [reader.judge(case.target_image(), case) for case in cases]
    assert sum(one.success for one in found) >= len(cases) - 1
    assert np.median([one.confidence for one in found]) > 0.9
    assert all(one.distance >= 0 for one in found)


@pytest.mark.parametrize("size", [(64, 64), (128, 128)], ids=str)
def test_planted_wrong_answers_are_refused(cases, size):
    passed, count = [], 0
    for i, case in enumerate(cases[:12]):
        wrong = planted(case, cases[i - 1], random.Random(i), size)
        count += len(wrong)
        passed += [name for name, one in wrong.items() if reader.judge(one, case).success]
    assert count > 250 and len(passed) <= count // 50, passed


def edit(before, **changes):
    return Case("local", "", "", (before,), before.change(**changes), tuple(changes))


@pytest.mark.parametrize(
    ("shown", "failed"),
    [
        ({}, "followed"),
        ({"eyes": "sleepy", "pattern": "striped"}, "identity"),
        ({"eyes": "sleepy", "left": "none"}, "preserved"),
        ({"eyes": "sleepy", "sign": "HEX"}, "preserved"),
        ({"eyes": "sleepy", "right_colour": "purple"}, "preserved"),
    ],
)
def test_each_verdict_says_what_failed(shown, failed):
    case = edit(SCENE, eyes="sleepy")
    verdict = reader.judge(render(SCENE.change(**shown)), case)
    assert not verdict.success and not getattr(verdict, failed)
    assert verdict.preserved == (failed != "preserved")
    assert reader.judge(case.target_image(), case).success


def test_any_value_is_right_where_the_case_leaves_it_open():
    target = Scene(background="sea")
    case = Case("text to image", "", "", (), target, ("species",), free=("place", "eyes"))
    assert reader.judge(render(target.change(place="left", eyes="single")), case).success
    assert not reader.judge(render(target.change(place="left", pattern="striped")), case).success


def test_a_colour_that_the_style_hides_is_not_asked_for():
    case = edit(Scene(colour="red"), style="sketch")
    assert reader.judge(render(case.target.change(colour="blue")), case).success


def test_in_blocks_a_sign_has_a_length_and_no_letters():
    case = edit(Scene(sign="HAT"), style="pixel")
    assert reader.judge(render(case.target), case).read.sign == "HAT"
    assert not reader.judge(render(case.target.change(sign="HATS")), case).preserved


@pytest.mark.parametrize("spoil", ["mirrored", "shifted", "faded", "cast"])
def test_a_picture_that_reads_right_but_looks_wrong_is_refused(spoil):
    scene = Scene(background="meadow", place="middle")
    case, right = edit(scene, eyes="big"), render(scene.change(eyes="big"), 64, 64)
    wrong = {
        "mirrored": right[:, ::-1],
        "shifted": np.roll(right, 2, axis=1),
        "faded": (64 + right / 2).astype(np.uint8),
        "cast": (right + np.array([60.0, 0, 0])).clip(0, 255).astype(np.uint8),
    }[spoil]
    verdict = reader.judge(wrong, case)
    assert not verdict.preserved and not verdict.success


def test_a_shuffled_head_fails(cases):
    shuffled = network.load_network()
    head = shuffled.questions["species"]["final_layer"]
    order = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
    judge = Reader(shuffled).judge
    found = [judge(case.target_image(), case) for case in cases[:12]]
    assert not any(one.success for one in found)
    named = [one for one, c in zip(found, cases, strict=False) if "species" not in c.free]
    assert named and not any(one.identity for one in named)


def test_the_weights_are_small_and_say_what_they_are(tmp_path):
    size = sum(f.stat().st_size for f in network.HOME.rglob("*") if f.is_file())
    assert size < 2.1e6 and (network.HOME / "README.md").is_file()
    again = network.save(network.load_network(), tmp_path / "again")
    assert Reader(network.load_network(again)).read(render(SCENE)) == SCENE
    bare = replace(network.load_network().config, limits=None)
    with pytest.raises(WeightsError, match="Calibrate"):
        Reader(network.ReaderNetwork(bare))


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4), (1, 64, 64, 3)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="reads"):
        judgement.as_pixels(np.zeros(shape, np.uint8))


def test_pillow_and_numpy_read_the_same():
    picture = render(SCENE, 96, 96)
    assert reader.read(Image.fromarray(picture)) == reader.read(picture)


# ---------------------------------------------------------------- its training


def certain(scene, **odds):
    """A reading that is sure of a scene, but for what is given: question={answer: probability}."""
    sure = {name: torch.zeros(count) for name, count in network.QUESTIONS.items()}
    for name, answer in network.answers(scene).items():
        sure[name][max(0, answer)] = 1
    for name, some in odds.items():
        sure[name] = torch.tensor([some.get(i, 0.0) for i in range(len(sure[name]))])
    best = {name: int(p.argmax()) for name, p in sure.items()}
    return judgement.Reading(network.scene_of(best), sure, ())


def test_a_wanted_value_has_the_benefit_of_the_doubt_and_no_more():
    likely, other = Scene(sign="AB"), Scene(sign="AC", eyes="big")
    reading = certain(likely, letter_1={1: 0.8, 2: 0.2}, eyes={0: 0.95, 1: 0.05})
    assert reading.scene == likely
    assert judgement.seen_as(reading, other, 0.1) == likely.change(sign="AC")
    assert judgement.seen_as(reading, other, 0.05) == other
    assert judgement.seen_as(reading, other, 0.5) == likely
    assert abs(reading.least(likely) - 0.8) < 1e-6 and abs(reading.least(other) - 0.05) < 1e-6


def test_answers_and_scenes_are_two_ways_to_say_the_same():
    rng = random.Random(0)
    for _ in range(200):
        scene = pictures.draw_scene(rng)
        found = network.answers(scene)
        told = {name: max(0, value) for name, value in found.items()}
        again = network.scene_of(told)
        reading = certain(again)
        hidden = network.hidden_colours(scene)
        assert judgement.seen_as(reading, scene, 0.5) == scene
        assert all(found[name] == network.UNSEEN for name in hidden)


def test_a_training_learns_resumes_and_is_a_function_of_the_step(tmp_path):
    small = network.ReaderConfig(widths=(8, 8, 8), features=8, maps=1, norm_groups=2)
    recipe = training.ReaderTraining(small, steps=6, batch=4, groups=1)
    with alone(tmp_path / "whole"), pytest.raises(TrainingError, match="Another training"):
        training.train(tmp_path / "whole", recipe)
    whole = training.train(tmp_path / "whole", recipe)
    first = training.draw_batch(3, 0, recipe)
    assert first[0].equal(training.draw_batch(3, 0, recipe)[0])
    assert first[1] != training.draw_batch(4, 0, recipe)[1]

    torch.manual_seed(recipe.seed)
    parts = network.ReaderNetwork(small)
    loop = training.new_loop(parts, recipe, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        loop.run(stopping(training.training_loss(parts, recipe), loop, 3))
    again = training.train(tmp_path / "parts", recipe)
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def stopping(loss, loop, at):
    def stopped(step):
        if step == at:
            loop._stopped = True
        return loss(step)

    return stopped


def test_what_cannot_be_seen_teaches_nothing():
    model = network.ReaderNetwork(network.ReaderConfig((8, 8, 8), 8, 1, 2))
    scene = Scene(style="sketch", accessory="hat", accessory_colour="red")
    right = training.right_answers([scene])
    training.reading_loss(model(judgement.show([scene], (64, 64))), right).backward()
    for name in ("colour", "accessory_colour", "left_colour", "letter_0"):
        assert not model.questions[name]["final_layer"].weight.grad.any()
    assert model.questions["species"]["final_layer"].weight.grad.any()


def test_a_question_is_told_to_look_where_its_answer_is():
    size = (64, 96)
    looks = torch.zeros(1, len(network.QUESTIONS), 2, 16, 24)
    rows, columns = torch.arange(16)[:, None] * 4 + 2, torch.arange(24)[None] * 4 + 2
    for name, (x, y, broad) in training.spots(SCENE, *size).items():
        far = (rows - y) ** 2 + (columns - x) ** 2
        looks[0, list(network.QUESTIONS).index(name), 0] = -far / (2 * broad**2)
    best, moved, even = (
        training.looking_loss(some.flatten(3).log_softmax(-1).view(looks.shape), [SCENE], size)
        for some in (looks, looks.roll(4, -1), looks * 0)
    )
    assert best < even - 1 and best < moved - 1


@pytest.mark.parametrize("place", ["left", "middle", "right"])
@pytest.mark.parametrize("size", [(64, 64), (160, 64), (64, 160)], ids=str)
def test_spots_are_where_the_world_draws(place, size):
    """Without a thing, its spot looks otherwise; other things' spots look the same."""
    scene = SCENE.change(place=place)
    there = training.spots(scene, size[1], size[0])
    for gone in ("left", "right", "accessory"):
        other = scene.change(**{gone: "none"})
        apart = np.abs(render(scene, *size[::-1]).astype(int) - render(other, *size[::-1])).max(-1)
        for name in ("left", "right", "letter_0"):
            x, y = (int(v) for v in there[name][:2])
            assert (apart[y - 4 : y + 5, x - 4 : x + 5].max() > 32) == (name == gone)


@pytest.mark.parametrize("kind", ["blur", "noise", "shift", "zoom", "cast", "light"])
def test_every_way_to_spoil_changes_pictures_unless_its_strength_is_nothing(kind):
    x = judgement.show([SCENE] * 8, (96, 64))
    how = pictures.HARD.only(kind)
    y = pictures.spoil(x, how, torch.Generator().manual_seed(0))
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    assert sum(float((a - b).abs().max()) > 0.01 for a, b in zip(x, y, strict=True)) >= 4
    assert pictures.spoil(x, how.times(0), torch.Generator().manual_seed(0)).equal(x)


# ---------------------------------------------------------------- calibration, validation


def test_limits_lie_halfway_between_right_and_bad_answers():
    even = np.linspace(1e-9, 1, 1001)
    needs = {
        "doubt": np.full(1001, 0.8), "left": even / 10, "half": 0.4 + even / 10,
        "right": np.stack([even / 100] + [even] * 6, 1),
        "looks": np.full((9, 7), 9.5), "tints": np.full((9, 7), 0.05),
    }  # fmt: skip
    limits = calibration.choose_limits(needs)
    assert np.isclose(limits.doubt, 0.2) and np.isclose(limits.remains, (0.095 + 0.405) / 2)
    assert np.isclose(limits.colour, (0.0095 + 0.05) / 2)
    assert np.allclose(limits.as_tensor()[1:], np.sqrt(0.95 * 9.5), rtol=1e-3)
    assert calibration.choose_limits(needs | {"doubt": np.ones(9)}).doubt == calibration.LEAST


def test_what_remains_of_the_input_is_seen_in_the_picture():
    case = edit(SCENE, background="forest")
    before, right = render(case.before).astype(float), render(case.target)
    found = [
        reader.judge((share * before + (1 - share) * right).round().astype(np.uint8), case)
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    left = [one.remains for one in found]
    assert left == sorted(left) and abs(left[0]) < 0.01 and left[1] > 1
    assert found[0].followed and found[1].read == case.target and not found[1].followed
    assert reader.judge(right, Case("text to image", "", "", (), case.target, ())).remains == 0


def test_kappa_is_agreement_beyond_chance():
    def of(both, one, two, neither):
        keys = ((True, True), (True, False), (False, True), (False, False))
        return validation.kappa(dict(zip(keys, (both, one, two, neither), strict=True)))

    assert of(50, 0, 0, 50) == 1 and of(25, 25, 25, 25) == 0
    assert of(20, 5, 10, 15) == 0.4


def test_a_wrong_answer_counts_as_wrong_whatever_it_is_called():
    kinds = {
        "right answer": {"cases": 4, "passed": 4},
        "right answer, mildly spoiled": {"cases": 4, "passed": 3},
        "right edit, other eyes": {"cases": 4, "passed": 1},
        "black": {"cases": 4, "passed": 0},
    }
    assert validation.summary(kinds) == {"right": 100, "spoiled": 75, "wrong": 8, "refused": 87.5}
