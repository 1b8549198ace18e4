"""Training on rollouts: where the student learns, what it is compared with, the recipe, tiny."""

import copy
from dataclasses import replace

import pytest
import torch

from minikontext import distillation, flow, sampler
from minikontext.distillation.losses import TINY
from minikontext.distillation.rollout import RolloutLossConfig, rollout_loss, worst_weights
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.training.data import Pairs
from minikontext.training.editor import Batches
from minikontext.training.models import deepen
from minikontext.training.world_editor import change_weights

CPU = torch.device("cpu")
ONE_STEP = RolloutLossConfig(steps=(1,), shares=(1.0,), bf16=False)


@pytest.fixture
def student(teacher):
    """It starts as a teacher does, and is trained itself."""
    return teacher


@pytest.fixture
def pairs(student):
    """Two pairs with one context each; the first has one right answer, the second many."""
    draw = torch.Generator().manual_seed(3)
    words = student.text.tokenize(["make the hat red", "a sign"])[:, None]
    target, context = torch.randn(2, 2, 4, 8, 8, generator=draw)
    contexts = torch.stack((context, torch.zeros_like(context)), 1)
    count, determined = torch.ones(2, dtype=torch.long), torch.tensor([True, False])
    return Pairs(target, contexts, count, words, torch.arange(2), determined)


def twice(pairs, row):
    return Batches(pairs.take(torch.tensor([row, row])), 2, 0)


def test_times_are_those_of_the_sampler_up_to_one_of_its_steps():
    dials, draw = RolloutLossConfig(), torch.Generator().manual_seed(0)
    drawn = [tuple(dials.draw_times(16, draw).tolist()) for _ in range(2000)]
    assert set(drawn) == {(1.0,), (1.0, 0.5), (1.0, 0.75), (1.0, 0.75, 0.5), (1.0, 0.75, 0.5, 0.25)}
    last = sum(len(times) == 4 for times in drawn) / len(drawn)
    assert last == pytest.approx(0.7 * (0.5 + 0.5 / 4), abs=0.03)
    even = replace(dials, final=0.0)
    last = sum(len(even.draw_times(16, draw)) == 4 for _ in range(2000)) / 2000
    assert last == pytest.approx(0.7 / 4, abs=0.03)
    shifted = RolloutLossConfig(steps=(2,), shares=(1.0,), mu_16=2.0)
    times = next(t for t in iter(lambda: shifted.draw_times(64, draw), None) if len(t) == 2)
    torch.testing.assert_close(times, sampler.schedule(2, 64, mu_16=2.0)[:2])
    with pytest.raises(ConfigError, match="as many shares"):
        RolloutLossConfig(steps=(1, 2), shares=(1.0,))
    with pytest.raises(ConfigError, match="all of them are 0"):
        RolloutLossConfig(steps=(1, 2), shares=(0.0, 0.0))


def test_it_learns_where_its_own_steps_lead(student, pairs):
    """The state is what the sampler comes to, and its gradient that of the last step alone."""
    determined, seen = pairs.take(torch.tensor([0, 0])), []
    student.register_forward_pre_hook(lambda _, given: seen.append(given[:2]))
    loss = rollout_loss(student, twice(pairs, 0), replace(ONE_STEP, steps=(4,)), CPU)
    step = next(i for i in range(99) if _length(loss, i, seen) == 4)
    seen.clear()
    value, facts = loss(step)
    z, t = seen[-1]
    with torch.no_grad():
        words, contexts = determined.tokens[:, 0], [determined.contexts[:, 0]]
        right = sampler.sample(
            lambda z, t: student(z, t, words, contexts), seen[0][0],
            torch.tensor([1.0, 0.75, 0.5, 0.25]),
        )  # fmt: skip
        made = flow.clean_estimate(z, student(z, t, words, contexts), t)
    torch.testing.assert_close(z, right)
    assert t.tolist() == [0.25, 0.25] and not z.requires_grad
    mse = float((made - determined.target).square().mean())
    distance = float(((made - determined.target).square().mean(1) + TINY).sqrt().mean())
    assert float(value.detach()) == pytest.approx(distance / 0.25)  # small errors count, too
    assert facts["mse_at_0.25"] == facts["mse"] == pytest.approx(mse)
    value.backward()
    assert student.transformer.img_in.weight.grad.abs().sum() > 0


def _length(loss, step, seen):
    seen.clear()
    loss(step)
    return len(seen)


def test_where_many_answers_are_right_the_student_is_left_alone(student, pairs):
    for row, learns in ((0, True), (1, False)):
        student.zero_grad()
        value, _ = rollout_loss(student, twice(pairs, row), ONE_STEP, CPU)(0)
        value.backward()
        grads = [p.grad for p in student.transformer.parameters() if p.grad is not None]
        assert any(float(g.abs().sum()) > 0 for g in grads) is learns


def test_what_an_edit_changes_weighs_more(student, pairs):
    """In the loss, not in the facts: a share goes where the target is far from the picture."""
    pairs.contexts[:, 0] = pairs.target
    pairs.contexts[:, 0, :, :2, :2] += 1.0  # one token of sixteen
    loss = rollout_loss(student, twice(pairs, 0), ONE_STEP, CPU)
    some = rollout_loss(student, twice(pairs, 0), replace(ONE_STEP, changed=0.5), CPU)
    _, facts = loss(0)
    value, same = some(0)
    assert same == facts
    seen = []
    student.register_forward_hook(lambda _, given, v: seen.append((given, v)))
    some(0)
    (z, t, _, contexts), v = seen[-1]
    target = pairs.target[[0, 0]]
    far = ((flow.clean_estimate(z, v, t) - target).square().mean(1) + TINY).sqrt()
    weights = change_weights(target, contexts, 0.5)[:, 0]
    assert float(weights[0, 0, 0]) > 4 > 1 > float(weights[0, -1, -1])
    torch.testing.assert_close(value, (weights * far).mean())


def test_places_with_larger_errors_weigh_more():
    x = torch.zeros(2, 3, 2, 2)
    made = x.clone()
    made[0, :, 0, 0], made[0, :, 1, 1] = 3.0, 1.0
    weights = worst_weights(made.requires_grad_(), x, 0.5)
    assert weights.shape == (2, 1, 2, 2) and not weights.requires_grad
    torch.testing.assert_close(weights[0, 0], torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    assert (weights[1] == 0.5).all() and (worst_weights(made, x, 0.0) == 1).all()


def test_the_worst_places_move_the_student_most(student, pairs):
    """Beside the plain loss, the share of the gradient that comes from small errors is smaller."""
    def value(worst):
        loss = rollout_loss(student, twice(pairs, 0), replace(ONE_STEP, worst=worst), CPU)
        return float(loss(0)[0].detach())

    assert value(1.0) > value(0.5) > value(0.0) > 0


def test_the_recipe_trains_a_student_on_and_resumes(tiny, tmp_path):
    class Stop(Exception):
        pass

    def interrupt(facts):
        raise Stop

    def distill(values, **more):
        return distillation.run_job(distillation.build_job(values), **more)

    before = tiny().save_pretrained(tmp_path / "before")
    given = {
        "kind": "rollout", "teacher": str(before), "run": str(tmp_path / "run"),
        "output": str(tmp_path / "after"), "stream": {"tokens": 300, "contexts": [1]},
        "loop": {"steps": 4, "warmup": 1, "lr": 1e-3, "muon_lr": 0.0, "log_every": 2},
        "defaults": {"num_inference_steps": 4},
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
    prints = [pipe.autoencoder.encoder_fingerprint() for pipe in (old, new)]
    assert prints[0] == prints[1]


def test_a_deeper_student_begins_as_its_teacher_and_learns_in_its_new_blocks(tiny, tmp_path):
    pipe = tiny()
    net, old = pipe.transformer, list(pipe.transformer.single_blocks)
    ids, txt_ids = torch.rand(5, 3), torch.zeros(4, 3)
    dims = net.config.in_channels, net.config.context_in_dim, net.config.vec_in_dim
    given = (torch.randn(2, 5, dims[0]), ids, torch.randn(2, 4, dims[1]), txt_ids, torch.rand(2),
             torch.randn(2, dims[2]))  # fmt: skip
    with torch.no_grad():
        for block in old:  # a gate of its own, or nothing could be told
            block.modulation.lin.bias.normal_()
        net.final_layer.linear.weight.normal_()
        before = net(*given)
    more = 2 * len(old) + 1
    deepen(net, more)
    assert len(net.single_blocks) == net.config.depth_single_blocks == more
    assert [b for b in net.single_blocks if any(b is o for o in old)] == old  # in their order
    after = net(*given)
    assert torch.equal(before, after)
    after.square().mean().backward()
    new = [b for b in net.single_blocks if not any(b is o for o in old)]
    assert all(b.modulation.lin.weight.grad[-b.linear2.out_features:].any() for b in new)
    with pytest.raises(ConfigError, match="none is taken away"):
        deepen(net, more - 1)

    tiny().save_pretrained(tmp_path / "before")
    job = distillation.build_job({
        "kind": "rollout", "teacher": str(tmp_path / "before"), "run": str(tmp_path / "run"),
        "output": str(tmp_path / "after"), "stream": {"tokens": 300, "contexts": [1]},
        "loop": {"steps": 1, "warmup": 1}, "single_blocks": more,
    })  # fmt: skip
    student = KontextPipeline.from_pretrained(distillation.run_job(job))
    assert len(student.transformer.single_blocks) == more
