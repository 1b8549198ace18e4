"""What each training is really given: noise, times, words, contexts, scales."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from minikontext import flow
from minikontext.distillation import ladd as ladd_module
from minikontext.distillation.guidance import GuidanceLossConfig, guidance_loss, student_of
from minikontext.distillation.ladd import Discriminator, Ladd, LaddLossConfig, ladd_loss
from minikontext.errors import ConfigError
from minikontext.toyworld import oracle, sample_edit, split
from minikontext.training.data import Pairs, held_out
from minikontext.training.editor import Batches, EditorLossConfig, editor_loss
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.pictures import PictureTraining, picture_loss
from minikontext.training.world_editor import WorldEditorTraining, change_weights

CPU = torch.device("cpu")


@pytest.fixture
def pairs(teacher):
    """Six random pairs with two wordings each: two of every number of contexts."""
    draw = torch.Generator().manual_seed(3)
    things = ("the hat", "a sign", "the sign", "a hat", "hat", "sign")
    told = [[f"make {one} {colour}" for colour in ("red", "blue")] for one in things]
    tokens = torch.stack([teacher.text.tokenize(some) for some in told])
    latents = [torch.randn(6, *n, 4, 8, 8, generator=draw) for n in ((), (2,))]
    return Pairs(*latents, torch.tensor([0, 0, 1, 1, 2, 2]), tokens, torch.arange(6))


def calls(model):
    """What a model is called with from now on: (z, t, words, contexts, guidance)."""
    seen = []
    model.register_forward_pre_hook(
        lambda _, given, named: seen.append((*given, named.get("guidance"))), with_kwargs=True
    )
    return seen


def rows_of(pairs, step, batch):
    return Batches(pairs, batch, 0).rows(step)


def test_an_editor_sees_its_own_pictures_in_order_and_every_wording(teacher, pairs):
    dials, null = EditorLossConfig(8, empty_prompts=0.0, bf16=False), torch.zeros(8).long()
    seen, loss, told = calls(teacher), editor_loss(teacher, pairs, null, dials, CPU), set()
    for step in range(12):
        loss(step)
        rows, count = rows_of(pairs, step, 8)
        z, t, words, contexts, _ = seen[-1]
        assert len(contexts) == count
        for i, context in enumerate(contexts):
            assert torch.equal(context, pairs.contexts[rows, i])
        for row, some in zip(rows.tolist(), words):
            (which,) = [w for w in range(2) if torch.equal(some, pairs.tokens[row, w])]
            told.add((row, which))
        noise = (z - (1 - t.view(-1, 1, 1, 1)) * pairs.target[rows]) / t.view(-1, 1, 1, 1)
        assert 0.9 < float(noise.std()) < 1.1  # z lies on the path at the time it is told
    assert len(told) == 12


def test_a_share_of_the_loss_goes_where_an_edit_changes_something(teacher, pairs):
    """The metrics stay the plain error, so that logs can be compared."""
    source, null = Batches(pairs, 8, 0), torch.zeros(8).long()
    step = next(step for step in range(20) if source.rows(step)[1] == 1)
    seen, values = calls(teacher), {}
    for share in (0.0, 0.5):
        dials = WorldEditorTraining(empty_prompts=0.0, bf16=False, changed=share)
        with torch.no_grad():
            value, metrics = editor_loss(teacher, source, null, dials, CPU)(step)
            z, t, words, contexts, _ = seen[-1]
            x, t_ = pairs.target[source.rows(step)[0]], t.view(-1, 1, 1, 1)
            error = (teacher(z, t, words, contexts) - (z - x) / t_).square()  # noise - x
        assert metrics["loss_1"] == pytest.approx(float(error.mean()), rel=1e-4)
        weighted = (change_weights(x, contexts, share) * error).mean()
        assert float(value) == pytest.approx(float(weighted), rel=1e-4)
        values[share] = float(value)
    assert values[0.0] == pytest.approx(metrics["loss_1"], rel=1e-4) != values[0.5]


def test_half_of_the_weight_lies_on_the_part_that_an_edit_changes():
    context = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    x = context.clone()
    x[0, :, :2, :2] += 3.0  # four places of 64; the second picture stays as it is
    found = change_weights(x, [context, x], 0.5)
    assert found.shape == (2, 1, 8, 8)
    assert torch.allclose(found.mean(dim=(1, 2, 3)), torch.ones(2))
    assert torch.allclose(found[1], torch.ones(1, 8, 8))
    share = float(found[0, 0, :2, :2].sum() / 64)
    changed, floor = 4 * 3.05, 60 * 0.05
    assert share == pytest.approx(0.5 * 4 / 64 + 0.5 * changed / (changed + floor), rel=1e-4)
    even = torch.ones(2, 1, 8, 8)
    for contexts, part in (([], 0.5), ([context[..., :4]], 0.5), ([context], 0.0)):
        assert torch.equal(change_weights(x, contexts, part), even)
    with pytest.raises(ConfigError, match="changed"):
        WorldEditorTraining(changed=1.5)


def test_the_empty_prompt_is_trained_as_often_as_asked(teacher, pairs):
    null, seen = torch.full((8,), 2), calls(teacher)
    for share in (0.0, 0.4, 1.0):
        seen.clear()
        dials = EditorLossConfig(32, empty_prompts=share, bf16=False)
        loss = editor_loss(teacher, pairs, null, dials, CPU)
        for step in range(10):
            loss(step)
        empty = torch.cat([(words == null).all(1) for _, _, words, *_ in seen]).float().mean()
        assert float(empty) == pytest.approx(share, abs=0.1)


def test_times_follow_the_tokens_of_the_target_not_its_pixels(teacher, pairs):
    seen, dials = calls(teacher), EditorLossConfig(64, bf16=False)
    narrow = replace(dials, sigma=1e-4)  # all times at the middle: 64 pixels would move it by 0.008
    loss = editor_loss(teacher, pairs, torch.zeros(8).long(), narrow, CPU)
    with torch.no_grad():
        loss(0)
    mean = float(torch.logit(seen[0][1]).mean())
    assert mean == pytest.approx(flow.mu_for_tokens(16), abs=1e-3)
    wide = replace(dials, sigma=2.0).times(20_000, 16, torch.Generator().manual_seed(0))
    assert float(torch.logit(wide.double()).std()) == pytest.approx(2.0, abs=0.1)


def test_guidance_teaches_only_edits_and_tells_the_student_its_scale(teacher, pairs):
    student, null = student_of(teacher), torch.full((8,), 2)
    dials = GuidanceLossConfig(bf16=False, low=1.5, high=4.0)
    seen, asked = calls(student), calls(teacher)
    edits = Batches(pairs.take((pairs.count > 0).nonzero().flatten()), 4, 0)
    loss = guidance_loss(student, teacher, edits, null, dials, CPU)
    scales, wrong = [], []
    for step in range(20):
        asked.clear()
        value, _ = loss(step)
        z, t, words, contexts, w = seen[-1]
        assert contexts  # like [dev], an editor only
        scales.append(w)
        with torch.no_grad():
            v, with_words = student(z, t, words, contexts, guidance=w), asked[0][2]
            empty = teacher(z, t, null.expand_as(words), contexts)
            told = teacher(z, t, words, contexts)
        assert torch.equal(with_words, words)
        right = empty + w.view(-1, 1, 1, 1) * (told - empty)
        assert float(value.detach()) == pytest.approx(float((v - right).square().mean()), rel=1e-4)
        wrong.append(float((told - right).abs().max()))
    scales = torch.cat(scales)
    assert 1.5 <= scales.min() < 1.8 and 3.6 < scales.max() <= 4.0
    assert max(wrong) > 1e-3  # or the scale would make no difference here
    paints = Batches(pairs.take((pairs.count == 0).nonzero().flatten()), 4, 0)
    with pytest.raises(ConfigError, match="edits alone"):
        guidance_loss(student, teacher, paints, null, dials, CPU)(0)


class Watched:
    """What the teacher's features are taken of."""

    def __init__(self, monkeypatch):
        self.seen, real = [], ladd_module.teacher_features

        def watched(teacher, z, t, words, contexts):
            self.seen.append((z.detach().clone(), t))
            return real(teacher, z, t, words, contexts)

        monkeypatch.setattr(ladd_module, "teacher_features", watched)


def test_real_and_fake_are_judged_with_the_same_noise_at_the_time_told(teacher, pairs, monkeypatch):
    watched = Watched(monkeypatch)
    model = Ladd(copy.deepcopy(teacher), Discriminator(teacher))
    given, heads = calls(model.student), calls_of_heads(model.heads)
    dials = LaddLossConfig(head_start=0, bf16=False)
    loss = ladd_loss(model, teacher, Batches(pairs, 4, 0), dials, CPU)
    loss(0)
    rows, _ = rows_of(pairs, 0, 4)
    x, (z, t, words, contexts, _) = pairs.target[rows], given[0]
    (real, at), (fake, at_fake) = watched.seen
    assert torch.equal(at, at_fake) and all(torch.equal(at, one) for one in heads)
    share = at.view(-1, 1, 1, 1)
    noise = (real - (1 - share) * x) / share
    assert 0.8 < float(noise.std()) < 1.2
    with torch.no_grad():
        made = flow.clean_estimate(z, model.student(z, t, words, contexts), t)
    torch.testing.assert_close(fake, (1 - share) * made + share * noise, atol=1e-4, rtol=1e-3)


def calls_of_heads(heads):
    times = []
    heads.register_forward_pre_hook(lambda _, given: times.append(given[2]))
    return times


def test_the_student_learns_to_be_taken_for_real(teacher, pairs):
    """A few steps of the student alone, against heads that stay: its logits rise."""
    torch.manual_seed(0)
    model = Ladd(copy.deepcopy(teacher), Discriminator(teacher))
    dials = LaddLossConfig(head_start=0, bf16=False)
    loss = ladd_loss(model, teacher, Batches(pairs, 6, 0), dials, CPU)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.02)
    before = loss(0)[1]["on_fake"]
    for _ in range(8):
        model.zero_grad()
        loss(0)[0].backward()
        optimizer.step()
    assert loss(0)[1]["on_fake"] > before


def test_the_heads_learn_to_tell_real_from_fake(teacher, pairs):
    torch.manual_seed(0)
    model = Ladd(copy.deepcopy(teacher), Discriminator(teacher))
    dials = LaddLossConfig(head_start=99, bf16=False)
    loss = ladd_loss(model, teacher, Batches(pairs, 6, 0), dials, CPU)
    optimizer = torch.optim.Adam(model.heads.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss(step)[0].backward()
        optimizer.step()
    told = [loss(step)[1] for step in range(60, 64)]
    assert sum(one["on_real"] - one["on_fake"] for one in told) > 0.4


def line(tmp_path, **dials):
    """A loop over one weight whose gradient is 100 in every step."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    config = LoopConfig(**{"steps": 100, "warmup": 1, "decay": 0.5, "muon_lr": 0.0, **dials})
    return Loop(model, config, tmp_path), lambda step: (100 * model.weight.sum(), {})


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path):
    loop, loss = line(tmp_path, clip=2.0)
    norms = []
    loop.optimizer.step = lambda rate: norms.append(float(loop.model.weight.grad.norm()))
    loop._one(loss)
    assert norms == [pytest.approx(2.0, rel=1e-4)]


def test_the_average_warms_up(tmp_path):
    """From the start it would be held back by weights that have learned nothing."""
    loop, loss = line(tmp_path, ema=0.999)
    for _ in range(5):
        loop._one(loss)
    mean, now = float(loop.ema["weight"]), float(loop.model.weight.detach())
    assert now < 0 and mean / now > 0.4


def test_the_schedule_follows_the_clock_where_minutes_are_given(tmp_path):
    loop, _ = line(tmp_path, minutes=1.0)
    loop.step, loop.seconds = 10, 45.0
    assert loop.progress() == 75
    loop.seconds = 1.0
    assert loop.progress() == 10
    endless, _ = line(tmp_path, steps=100)
    endless.step, endless.seconds = 10, 45.0
    assert endless.progress() == 10
    rates = []
    loop.seconds, loop.optimizer.step = 59.0, rates.append
    loop._one(lambda step: (loop.model.weight.sum(), {}))
    assert rates[0] < 0.1  # the run is nearly over


def test_the_kl_term_counts_as_much_as_asked(tiny):
    model = tiny().autoencoder
    dials = PictureTraining(pixels=8192, sizes=((64, 64),), kl=0.0, bf16=False)
    values = []
    for weight in (0.0, 1.0):
        value, facts = picture_loss(model, replace(dials, kl=weight), CPU)(0)
        values.append(float(value.detach()))
    assert values[1] - values[0] == pytest.approx(facts["kl"], rel=1e-3) and facts["kl"] > 0.01


def test_validation_is_on_cases_that_no_training_sees(tiny, teacher):
    cases = [sample_edit(i, 1, split="test") for i in range(6)]
    found = held_out(1, 6, tiny().autoencoder, teacher.text)
    assert torch.equal(found.tokens[:, 0], teacher.text.tokenize([case.prompt for case in cases]))


def test_the_oracle_wants_the_right_picture_nearer_by_a_clear_factor():
    right, wrong = np.zeros((4, 4, 3)), np.ones((4, 4, 3))
    assert oracle._better(right + 0.4, right, wrong)  # 0.16 : 0.36
    assert not oracle._better(right + 0.45, right, wrong)  # 0.20 : 0.30


def test_one_in_ten_of_each_kind_is_held_out():
    for kind in ("identity", "combination", "word"):
        share = np.mean([split.held_out(kind, f"a{i}", f"b{i}") for i in range(2000)])
        assert 0.07 < share < 0.13, kind
