"""Training on rollouts: where the student learns, what it is compared with, the recipe, tiny."""

import copy
from dataclasses import replace

import pytest
import torch

from minikontext import distillation, flow, sampler
from minikontext.distillation import recipes
from minikontext.distillation.latents import own_noise, teacher_samples
from minikontext.distillation.losses import TINY
from minikontext.distillation.rollout import RolloutLossConfig, rollout_loss
from minikontext.errors import ConfigError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.training.data import Pairs
from minikontext.training.editor import Editor
from minikontext.training.parallel import start

CPU = torch.device("cpu")


def distill(values, **more):
    """Run a config's distillation as the command does."""
    return distillation.run_job(distillation.build_job(values), **more)


ONE_STEP = RolloutLossConfig(batch=2, steps=(1,), shares=(1.0,), bf16=False)


@pytest.fixture
def student(teacher):
    """It starts as a teacher does, and is trained itself."""
    return teacher


@pytest.fixture
def pairs(student):
    """Two pairs with one context each; only the first one has a single right answer."""
    draw = torch.Generator().manual_seed(3)
    words = student.text.tokenize(["make the hat red", "a sign"])[:, None]
    target, context = torch.randn(2, 2, 4, 8, 8, generator=draw)
    contexts = torch.stack((context, torch.zeros_like(context)), 1)
    count, determined = torch.ones(2, dtype=torch.long), torch.tensor([True, False])
    return Pairs(target, contexts, count, words, torch.arange(2), determined)


def test_times_are_those_of_the_sampler_up_to_one_of_its_steps():
    dials, draw = RolloutLossConfig(), torch.Generator().manual_seed(0)
    drawn = [tuple(dials.draw_times(16, draw).tolist()) for _ in range(2000)]
    assert set(drawn) == {(1.0,), (1.0, 0.5), (1.0, 0.75), (1.0, 0.75, 0.5), (1.0, 0.75, 0.5, 0.25)}
    last = sum(len(times) == 4 for times in drawn) / len(drawn)
    assert last == pytest.approx(0.7 * (0.5 + 0.5 / 4), abs=0.03)
    even = replace(dials, final=0.0)
    last = sum(len(even.draw_times(16, draw)) == 4 for _ in range(2000)) / 2000
    assert last == pytest.approx(0.7 / 4, abs=0.03)
    shifted = RolloutLossConfig(steps=(2,), shares=(1.0,), shifted=True)
    assert {len(shifted.draw_times(16, draw)) for _ in range(100)} == {1, 2}
    times = next(t for t in iter(lambda: shifted.draw_times(16, draw), None) if len(t) == 2)
    torch.testing.assert_close(times, sampler.schedule(2, 16)[:2])
    with pytest.raises(ConfigError, match="as many shares"):
        RolloutLossConfig(steps=(1, 2), shares=(1.0,))
    with pytest.raises(ConfigError, match="all of them are 0"):
        RolloutLossConfig(steps=(1, 2), shares=(0.0, 0.0))


def test_it_learns_where_its_own_steps_lead(student, pairs):
    """The state is what the sampler comes to, and its gradient that of the last step alone."""
    told = pairs.take(torch.tensor([0, 0]))
    dials = replace(ONE_STEP, steps=(4,))
    seen = []
    student.register_forward_pre_hook(lambda _, given: seen.append(given[:2]))
    loss = rollout_loss(student, told, dials, CPU)
    step = next(i for i in range(99) if _length(loss, i, seen) == 4)
    seen.clear()
    value, facts = loss(step)
    z, t = seen[-1]
    with torch.no_grad():
        words, contexts = told.tokens[:, 0], [told.contexts[:, 0]]
        noise = seen[0][0]
        right = sampler.sample(
            lambda z, t: student(z, t, words, contexts), noise, torch.tensor([1.0, 0.75, 0.5, 0.25])
        )
        made = flow.clean_estimate(z, student(z, t, words, contexts), t)
    torch.testing.assert_close(z, right)
    assert t.tolist() == [0.25, 0.25] and not z.requires_grad
    mse = float((made - told.target).square().mean())
    distance = float(((made - told.target).square().mean(1) + TINY).sqrt().mean())
    assert float(value.detach()) == pytest.approx(distance / 0.25)  # small errors count, too
    assert facts["mse_at_0.25"] == facts["mse"] == pytest.approx(mse)
    value.backward()
    assert student.transformer.img_in.weight.grad.abs().sum() > 0


def _length(loss, step, seen):
    seen.clear()
    loss(step)
    return len(seen)


def test_where_many_answers_are_right_the_noise_is_the_answers_own(student, pairs):
    seen = []
    student.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for row in (0, 1):
        some = pairs.take(torch.tensor([row, row]))
        rollout_loss(student, some, ONE_STEP, CPU)(0)
    told, free = seen
    assert torch.equal(free, own_noise(pairs)[[1, 1]]) and not torch.equal(told[0], told[1])


@torch.no_grad()
def test_an_answer_to_its_noise_is_kept(student, pairs):
    """What the student itself makes of the noise costs nothing: there it stays as it is."""
    some = pairs.take(torch.tensor([1, 1]))
    null = student.text.tokenize([""])[0]
    made = teacher_samples(student, some, null, steps=1, scale=1.0, shifted=False)
    value, _ = rollout_loss(student, replace(some, target=made), ONE_STEP, CPU)(0)
    assert float(value) == pytest.approx(TINY**0.5, abs=1e-6)


def test_the_recipe_trains_a_student_on_and_resumes(tiny, tmp_path):
    class Stop(Exception):
        pass

    def interrupt(facts):
        raise Stop

    before = tiny().save_pretrained(tmp_path / "before")
    given = {
        "kind": "rollout", "teacher": str(before), "run": str(tmp_path / "run"),
        "output": str(tmp_path / "after"), "training": {"batch": 4},
        "data": {"level": 4, "count": 30, "practise": ["change_eyes"]},
        "loop": {"steps": 4, "warmup": 1, "lr": 1e-3, "muon_lr": 0.0, "log_every": 2},
        "defaults": {"num_inference_steps": 4, "shifted": False},
    }  # fmt: skip
    with pytest.raises(Stop):
        distill(copy.deepcopy(given), on_log=interrupt)
    steps = []
    folder = distill(given, on_log=lambda facts: steps.append(facts["step"]))
    assert steps == [4]
    old, new = (KontextPipeline.from_pretrained(place) for place in (before, folder))
    assert new.defaults.num_inference_steps == 4 and not new.defaults.shifted
    weights = (pipe.transformer.img_in.weight for pipe in (old, new))
    assert not torch.equal(*weights)
    assert old.autoencoder.same_latents(new.autoencoder)


def rollout_job(run, data, **more):
    values = {"kind": "rollout", "teacher": "toy", "run": str(run), "output": str(run / "out")}
    return distillation.build_job(values | {"data": data, "loop": {"steps": 1}} | more)


def test_pairs_fit_every_teacher_with_their_encoder(tiny, tmp_path):
    """An exchanged decoder is no matter; another encoder's latents are others."""
    pipe = tiny()
    world = start("cpu")
    given = rollout_job(tmp_path, {"level": 4, "count": 4, "folder": str(tmp_path / "p")})
    first = recipes.load_pairs(given, pipe, world)
    with torch.no_grad():
        pipe.autoencoder.decoder.conv_out.weight += 1
    again = recipes.load_pairs(given, pipe, world)
    assert torch.equal(first.target, again.target)
    with torch.no_grad():
        pipe.autoencoder.encoder.conv_in.weight += 1
    with pytest.raises(TrainingError, match="holds pairs made"):
        recipes.load_pairs(given, pipe, world)


def test_only_where_many_answers_are_right_the_students_own_is_the_target(tiny, tmp_path, pairs):
    place = tiny().save_pretrained(tmp_path / "student")
    pipe = KontextPipeline.from_pretrained(place, dtype="float32")
    student, world = Editor(pipe.transformer, pipe.text_encoder), start("cpu")
    wordings = pairs.tokens.expand(-1, 3, -1).clone()
    wordings[:, 1:] += 1
    given = replace(pairs, target=pairs.target.clone(), tokens=wordings.clone())
    dials = {"batch": 2, "steps": [1], "shares": [1.0], "bf16": False}
    job = rollout_job(tmp_path / "run", {"level": 4, "count": 2}, training=dials)
    found = recipes.sample_where_free(student, given, job, pipe, world)
    assert torch.equal(found.target[0], pairs.target[0])
    assert torch.equal(found.tokens[0], wordings[0])
    null = student.text.tokenize([""])[0]
    some = replace(pairs, tokens=wordings).take(torch.tensor([1]))
    right = teacher_samples(student, some, null, steps=1, scale=1.0, shifted=False)
    torch.testing.assert_close(found.target[1:], right, atol=0.02, rtol=0.02)  # kept in bfloat16
    assert (found.tokens[1] == wordings[1, :1]).all()
