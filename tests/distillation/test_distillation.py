"""Distillation: formulas, who learns and who does not, and both recipes end to end, tiny."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from minikontext import distillation, sampler
from minikontext.distillation import ladd, main
from minikontext.distillation.guidance import (
    GuidanceLossConfig,
    fixed_at,
    guided_velocity,
    student_of,
)
from minikontext.distillation.ladd import (
    Discriminator,
    Ladd,
    LaddLossConfig,
    ladd_loss,
    teacher_features,
)
from minikontext.distillation.latents import (
    TeacherSamplesConfig,
    TeacherStream,
    teacher_samples,
)
from minikontext.distillation.rollout import RolloutLossConfig
from minikontext.errors import ConfigError, ImageError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.training.data import Pairs
from minikontext.training.editor import Batches, Editor
from minikontext.training.stream import Stream, StreamConfig

CPU = torch.device("cpu")


def distill(values, **more):
    """Run a config's distillation as the command does."""
    return distillation.run_job(distillation.build_job(values), **more)


@pytest.fixture
def pairs(teacher):
    """Six random pairs: two without a context, two with one, two with two."""
    draw = torch.Generator().manual_seed(3)
    words = teacher.text.tokenize(["make the hat red", "a sign"] * 3)[:, None]
    target = torch.randn(6, 4, 8, 8, generator=draw)
    contexts = torch.randn(6, 2, 4, 8, 8, generator=draw)
    return Pairs(target, contexts, torch.tensor([0, 0, 1, 1, 2, 2]), words, torch.arange(6))


def some(pairs):
    """Inputs of a model for the pairs with one context."""
    part = pairs.take(torch.tensor([2, 3]))
    return part.target, torch.tensor([0.3, 0.8]), part.tokens[:, 0], [part.contexts[:, 0]]


@torch.no_grad()
def test_a_new_student_says_what_its_teacher_says_whatever_the_scale(teacher, pairs):
    student = student_of(teacher).eval()
    for w in (0.0, 1.0, 5.0):
        torch.testing.assert_close(
            student(*some(pairs), guidance=torch.full((2,), w)), teacher(*some(pairs))
        )
    with pytest.raises(ConfigError, match="guidance"):
        student(*some(pairs))


@torch.no_grad()
def test_a_student_held_at_a_scale_gives_the_same_answers(teacher, pairs):
    student = student_of(teacher).eval()
    torch.nn.init.normal_(student.transformer.guidance_in.out_layer.weight)
    held = fixed_at(student, 2.0).eval()
    there = student(*some(pairs), guidance=torch.full((2,), 2.0))
    torch.testing.assert_close(held(*some(pairs)), there)
    assert not torch.allclose(student(*some(pairs), guidance=torch.full((2,), 3.0)), there)


@torch.no_grad()
def test_guided_velocity_is_the_samplers_own_guidance(teacher, pairs):
    z, t, words, contexts = some(pairs)
    null = teacher.text.tokenize([""])[0]
    w = torch.tensor([1.0, 3.0])
    v = guided_velocity(teacher, z, t, words, null, contexts, w)
    plain = teacher(z, t, words, contexts)
    away = teacher(z, t, null.expand_as(words), contexts)
    torch.testing.assert_close(v[0], plain[0])
    torch.testing.assert_close(v[1], away[1] + 3 * (plain[1] - away[1]))


def test_features_follow_every_block_and_carry_gradients_to_the_latents_only(teacher, pairs):
    teacher.requires_grad_(False)
    z, t, words, contexts = some(pairs)
    z.requires_grad_(True)
    seen = teacher_features(teacher, z, t, words, contexts)
    assert [tuple(x.shape) for x in seen] == [(2, 16, 32)] * 2
    seen[-1].sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(block._forward_hooks for block in teacher.transformer.single_blocks)


def gradients(model, loss, step):
    """Whether student and heads get gradients at a step."""
    model.zero_grad(set_to_none=True)
    loss(step)[0].backward()
    return tuple(
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
        for part in (model.student.transformer, model.heads)
    )


def game(teacher, pairs, **dials):
    model = Ladd(copy.deepcopy(teacher), Discriminator(teacher, dials.get("features", True)))
    dials = LaddLossConfig(bf16=False, switch=2, **dials)
    return model, ladd_loss(model, teacher, Batches(pairs, 4, 0), dials, CPU)


def test_heads_learn_first_and_then_both(teacher, pairs):
    model, loss = game(teacher, pairs, head_start=3)
    assert gradients(model, loss, 0) == (False, True)
    assert gradients(model, loss, 3) == (True, True)
    model, loss = game(teacher, pairs, head_start=0, adversarial=0.0, mse=1.0)
    assert gradients(model, loss, 0)[0]


def test_the_students_loss_leaves_the_heads_alone(teacher, pairs):
    one, first = game(teacher, pairs, head_start=0)
    torch.manual_seed(0)
    two, second = game(teacher, pairs, head_start=0, adversarial=0.0, mse=1.0)
    two.heads.load_state_dict(one.heads.state_dict())
    first(0)[0].backward()
    second(0)[0].backward()
    for a, b in zip(one.heads.parameters(), two.heads.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_latents_themselves_can_be_judged_for_comparison(teacher, pairs):
    model, loss = game(teacher, pairs, head_start=0, features=False)
    assert len(model.heads.heads) == 1 and gradients(model, loss, 0) == (True, True)


@pytest.mark.parametrize("mu_16", [None, 2.0])
def test_own_states_are_where_the_samplers_steps_lead(teacher, pairs, mu_16):
    x, _, words, contexts = some(pairs)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def predict(z, t):
        return teacher(z, t, words, contexts)

    times = LaddLossConfig(mu_16=mu_16).shifted_times(16)
    state = ladd.own_states(predict, noise, times[[0, 2]], times.tolist())
    torch.testing.assert_close(state[0], noise[0])  # nothing is before the first step
    with torch.no_grad():
        half = sampler.sample(predict, noise, times[:3])
    torch.testing.assert_close(state[1], half[1])
    assert not torch.allclose(state[1], noise[1], atol=1e-3)


@pytest.mark.parametrize("dials", [{"own_states": 1.0}, {"mismatched": True}, {"r1": 5.0}])
def test_each_break_changes_the_loss_and_both_still_learn(teacher, pairs, dials):
    torch.manual_seed(0)
    plain = game(teacher, pairs, head_start=0)[1](1)  # at t = 0.5 and 0.25
    torch.manual_seed(0)
    model, loss = game(teacher, pairs, head_start=0, **dials)
    changed = loss(1)[1]
    assert max(abs(plain[1][name] - changed[name]) for name in ("heads", "on_fake")) > 1e-5
    assert gradients(model, loss, 1) == (True, True)
    assert 0 <= loss(1)[1]["told_apart"] <= 1


def test_the_students_times_come_in_two_phases():
    dials = LaddLossConfig(head_start=5, switch=10)
    draw = torch.Generator().manual_seed(0)
    early, late = dials.draw_times(4000, 5, draw), dials.draw_times(4000, 10, draw)
    assert set(early.tolist()) == {0.5, 0.25}
    assert 1.0 in dials.draw_times(4000, 0, draw).tolist()  # the heads alone see every time
    assert (late == 1.0).float().mean().item() == pytest.approx(0.7, abs=0.03)
    shifted = LaddLossConfig(mu_16=2.0).draw_times(4000, 10, draw, patches=64)
    wanted = sampler.schedule(4, 64, mu_16=2.0)[:-1]
    assert sorted(set(shifted.tolist()), reverse=True) == pytest.approx(wanted.tolist())
    with pytest.raises(ConfigError, match="same number"):
        LaddLossConfig(first=(1.0,))
    with pytest.raises(ConfigError, match="low"):
        GuidanceLossConfig(low=3.0, high=2.0)


def test_times_and_shares_may_be_whole_numbers_as_toml_has_them():
    draw = torch.Generator().manual_seed(0)
    dials = LaddLossConfig(times=(1,), first=(1,), then=(1,), mu_16=2.0)
    for step in (0, 200, 800):
        found = dials.draw_times(3, step, draw)
        assert found.tolist() == [1.0] * 3 and found.dtype == torch.float32
    rollout = RolloutLossConfig(steps=(1, 2), shares=(0, 1), final=1.0)
    assert rollout.draw_times(16, draw).tolist() == [1.0, 0.5]
    for name in ("first", "then"):
        with pytest.raises(ConfigError, match=f"{name}: all of them are 0"):
            LaddLossConfig(**{name: (0.0,) * 4})


def test_a_batch_of_one_is_refused(teacher, pairs):
    model = Ladd(copy.deepcopy(teacher), Discriminator(teacher))
    loss = ladd_loss(model, teacher, Batches(pairs, 1, 0), LaddLossConfig(bf16=False), CPU)
    with pytest.raises(ConfigError, match="batch of 1"):
        loss(0)


def test_the_teachers_answers_are_kept_and_never_mixed(tiny, tmp_path):
    pipe = tiny()
    teacher = Editor(pipe.transformer, pipe.text_encoder).eval()
    null, seen = teacher.text.tokenize([""])[0], []
    teacher.register_forward_pre_hook(lambda _, given: seen.append(given))
    stream = Stream(StreamConfig(tokens=300, batches=2, seed=5), pipe.autoencoder)
    how = TeacherSamplesConfig(steps=2, scale=2.0)
    call = (stream, teacher, null, tmp_path, "a")
    answers = TeacherStream(*call, how, 2.0)
    made = [answers.batch(step) for step in range(4)]
    assert len(seen) == 2 * 2 * 2  # batches, steps, passes: the second epoch makes nothing anew
    again, first = stream.number(2), stream.number(0)
    assert torch.equal(made[2].target, made[0 if again == first else 1].target)
    for step, batch in enumerate(made):
        plain = stream.batch(step)
        assert batch.prompts == plain.prompts and batch.target.shape == plain.target.shape
        assert not torch.equal(batch.target, plain.target)
    later = TeacherStream(*call, how, 2.0).batch(0)
    assert torch.equal(later.target, made[0].target) and len(seen) == 8
    others = ("b", how, 2.0), ("a", TeacherSamplesConfig(4, 2.0), 2.0), ("a", how, 1.0)
    for other in (*others, ("a", how, 2.0, False, False)):
        with pytest.raises(TrainingError, match="remove"):
            TeacherStream(stream, teacher, null, tmp_path, *other)


@torch.no_grad()
@pytest.mark.parametrize("how", [{"mu_16": 2.0}, {"shifted": False}])
def test_the_teacher_answers_in_its_own_layout_and_schedule(tiny, how):
    pipe = tiny()
    teacher = Editor(pipe.transformer, pipe.text_encoder).eval()
    draw = torch.Generator().manual_seed(0)
    noise, context = torch.randn(2, 1, 4, 8, 8, generator=draw)
    words = teacher.text.tokenize(["make the hat red"])
    null = teacher.text.tokenize([""])[0]
    found = teacher_samples(teacher, words, [context], noise, null, 3, 1.5, **how)
    times, z = sampler.schedule(3, 16, **how), noise
    for t, following in itertools.pairwise(times):
        v = guided_velocity(
            teacher, z, t[None], words, null, [context], torch.tensor([1.5])
        )  # fmt: skip
        z = z + (following - t) * v
    torch.testing.assert_close(found, z)


def test_a_stream_of_answers_keeps_to_the_teachers_times(tiny, tmp_path):
    """Even times and shifted ones give other answers; a stream's are those it was made with."""
    pipe = tiny()
    teacher = Editor(pipe.transformer, pipe.text_encoder).eval()
    null, made = teacher.text.tokenize([""])[0], {}
    stream = Stream(StreamConfig(tokens=300, batches=1, seed=5), pipe.autoencoder)
    for shifted in (True, False):
        how, place = TeacherSamplesConfig(steps=2), tmp_path / f"{shifted}"
        source = TeacherStream(stream, teacher, null, place, "a", how, 2.0, shifted=shifted)
        seen = []
        hook = teacher.register_forward_pre_hook(lambda _, given, to=seen: to.append(given[1]))
        made[shifted] = source.batch(0).target
        hook.remove()
        patches = made[shifted].shape[-2] * made[shifted].shape[-1] // 4
        right = sampler.schedule(2, patches, shifted=shifted, mu_16=2.0)[:-1]
        torch.testing.assert_close(torch.stack([t[0] for t in seen]).unique(), right.unique())
    assert not torch.equal(made[True], made[False])


@pytest.fixture
def shipped(tiny, tmp_path):
    return tiny().save_pretrained(tmp_path / "teacher")


def config(shipped, tmp_path, kind, **more):
    return {
        "kind": kind,
        "teacher": str(shipped),
        "run": str(tmp_path / "run"),
        "output": str(tmp_path / "student"),
        "stream": {"tokens": 300, "batches": 3, "contexts": [1], "sizes": [[64, 64]]},
        "loop": {"steps": 4, "warmup": 1, "lr": 1e-4, "muon_lr": 0.0},
        **more,
    }


def test_guidance_is_distilled_into_weights_that_take_the_scale(shipped, tmp_path):
    defaults = {"guidance_scale": 2.0, "num_inference_steps": 2, "min_contexts": 1}
    given = config(shipped, tmp_path, "guidance", defaults=defaults)
    pipe = KontextPipeline.from_pretrained(distill(given))
    picture = [pipe.decode(torch.zeros(1, 4, 8, 8))[0]]
    one, two = (
        pipe("make the hat red", image=picture, seed=0, guidance_scale=w).latents for w in (1, 9)
    )
    assert not torch.equal(one, two)
    with pytest.raises(ImageError, match="only edits"):
        pipe("make the hat red", seed=0)


@pytest.mark.parametrize("dial", ["layout", "empty_prompts", "isolated"])
def test_dials_that_a_distillation_does_not_have_are_refused(shipped, tmp_path, dial):
    given = config(shipped, tmp_path, "guidance", training={dial: 0})
    with pytest.raises(ConfigError, match=dial):
        distillation.build_job(given)


def test_text_to_image_is_no_part_of_guidance_distillation(shipped, tmp_path):
    for contexts in ((), [0, 1]):
        given = config(shipped, tmp_path, "guidance")
        given["stream"]["contexts"] = contexts
        with pytest.raises(ConfigError, match="edits alone"):
            distillation.build_job(given)


def test_a_teacher_with_isolated_contexts_is_refused(tiny, tmp_path):
    pipe = tiny()
    pipe.defaults = replace(pipe.defaults, isolated=True)
    place = pipe.save_pretrained(tmp_path / "isolated")
    for kind in ("guidance", "ladd", "rollout"):
        with pytest.raises(ConfigError, match="isolated contexts"):
            distill(config(place, tmp_path / kind, kind))


def test_a_teacher_that_takes_guidance_is_refused_before_the_work(tiny, tmp_path):
    place = tiny(guidance=True).save_pretrained(tmp_path / "guided")
    for kind in ("guidance", "ladd", "rollout"):
        with pytest.raises(ConfigError, match="takes the guidance scale as an input"):
            distill(config(place, tmp_path / kind, kind))


def test_ladds_teacher_answers_at_the_times_of_its_own_weights(tiny, tmp_path):
    pipe, said = tiny(), {}
    for shifted in (True, False):
        pipe.defaults = replace(pipe.defaults, shifted=shifted)
        place = pipe.save_pretrained(tmp_path / f"teacher-{shifted}")
        distill(config(place, tmp_path / f"{shifted}", "ladd"))
        (label,) = (tmp_path / f"{shifted}").rglob("answers/stream.txt")
        said[shifted] = " even " in label.read_text()
    assert said == {True: False, False: True}


def test_a_student_of_guidance_can_be_trained_on(shipped, tmp_path):
    first = distill(config(shipped, tmp_path / "one", "guidance"))
    given = config(shipped, tmp_path / "two", "guidance", start={"weights": str(first)})
    given["loop"] |= {"lr": 0.0, "muon_lr": 0.0}
    again = KontextPipeline.from_pretrained(distill(given)).transformer
    before = KontextPipeline.from_pretrained(first).transformer.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())
    other = {"start": {"weights": str(shipped)}}
    with pytest.raises(TrainingError, match=r"weights was \S+one\S*, is \S+teacher"):
        distill(given | other)  # another start needs another run
    with pytest.raises(ConfigError, match="no guidance scale"):
        distill(config(shipped, tmp_path / "three", "guidance", **other))


def test_ladd_makes_a_student_of_few_steps_and_resumes(shipped, tmp_path):
    class Stop(Exception):
        pass

    def interrupt(facts):
        raise Stop

    given = config(
        shipped, tmp_path, "ladd", training={"head_start": 1},
        teacher_samples={"steps": 2}, defaults={"num_inference_steps": 4},
    )  # fmt: skip
    given["loop"]["log_every"] = 2
    given["stream"]["contexts"] = [0, 1]  # it paints, too
    with pytest.raises(Stop):
        distill(given, on_log=interrupt)
    steps = []
    folder = distill(given, on_log=lambda facts: steps.append(facts["step"]))
    assert steps == [4]
    pipe = KontextPipeline.from_pretrained(folder)
    assert pipe.defaults.num_inference_steps == 4 and not pipe.defaults.shifted
    times = []
    pipe("a sign", seed=0, progress=False, callback=lambda info: times.append(info.t))
    assert times == [1.0, 0.75, 0.5, 0.25]


def test_what_is_written_may_lie_on_the_way_to_what_was_learned(shipped, tmp_path):
    def written(blend, run):
        given = config(
            shipped, tmp_path, "ladd", training={"head_start": 0}, teacher_samples={"steps": 1}
        )
        places = {"run": str(tmp_path / run), "output": str(tmp_path / f"{run}-out")}
        given |= {"blend": blend, **places}
        return KontextPipeline.from_pretrained(distill(given)).transformer.state_dict()

    start = KontextPipeline.from_pretrained(shipped).transformer.state_dict()
    none, half, whole = (written(x, f"at-{x}") for x in (0.0, 0.5, 1.0))
    moved = [n for n in start if not torch.equal(start[n], whole[n])]
    assert moved and all(torch.equal(none[n], start[n]) for n in start)
    for name in moved:  # stored in bfloat16
        middle = start[name].float().lerp(whole[name].float(), 0.5)
        torch.testing.assert_close(half[name].float(), middle, rtol=0.02, atol=1e-3)
    assert any(not torch.equal(half[n], start[n]) for n in moved)
    with pytest.raises(ConfigError, match="blend"):
        distillation.build_job(config(shipped, tmp_path, "ladd") | {"blend": 1.5})


def test_a_config_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('kind = "ladd"\n')
    with pytest.raises(ConfigError, match="distill ladd"):
        main("guidance", path)
    path.write_text('kind = "editor"\n')
    with pytest.raises(ConfigError, match="expected guidance or ladd or rollout"):
        main("guidance", path)
