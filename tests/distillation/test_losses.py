"""The losses as functions of tensors: each learns points in the plane, whose field is known."""

import pytest
import torch
from torch import nn

from minikontext import flow, sampler
from minikontext.course import plane_ladd
from minikontext.course.flow_pictures import answers, average_velocity
from minikontext.distillation import losses


@pytest.fixture(scope="module")
def two():
    return answers("two", 200)


@pytest.fixture(scope="module")
def teacher(two):
    return plane_ladd.flow_teacher(two, steps=500)


def learned(net, loss, steps, lr=3e-3):
    """The net after so many steps down loss(step)."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    for step in range(steps):
        plane_ladd.update(optimizer, loss(step))
    return net


def test_the_flow_loss_learns_the_best_field(two, teacher):
    torch.manual_seed(1)
    best = average_velocity(two)
    data, noise = two[torch.randint(200, (400,))], torch.randn(400, 2)
    t = 0.3 + 0.6 * torch.rand(400)
    z = flow.interpolate(data, noise, t)
    error = (teacher(z, t) - best(z, t)).square().mean()
    assert error < 0.25 * best(z, t).square().mean()
    made = plane_ladd.sample(teacher, 16, 300)
    assert plane_ladd.good(made, two, within=0.6) > 80


def test_the_guidance_loss_learns_both_passes_in_one():
    """Two fields that are known, and a net that is told the scale."""
    torch.manual_seed(0)
    right = answers("two", 200)
    right = right[right[:, 0] > 0]
    fields = average_velocity(answers("two", 200)), average_velocity(right)
    net = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def draw(count):
        z, t = 2 * torch.randn(count, 2), 0.3 + 0.7 * torch.rand(count)
        w = 1 + 2 * torch.rand(count)
        without, with_words = (field(z, t) for field in fields)
        target = losses.guided(without, with_words, w)
        by_hand = without + w[:, None] * (with_words - without)
        torch.testing.assert_close(target, by_hand)
        return torch.cat((z, t[:, None], w[:, None]), 1), target

    def loss(step):
        given, target = draw(256)
        return losses.guidance_loss(net(given), target)

    before = float(loss(0).detach())
    learned(net, loss, 500)
    assert float(loss(0).detach()) < 0.1 * before
    given, target = draw(500)
    other = torch.cat((given[:, :3], torch.ones(500, 1)), 1)  # told w = 1, whatever it is
    fits = [float(losses.guidance_loss(net(x).detach(), target)) for x in (given, other)]
    assert fits[0] < 0.5 * fits[1]


def test_the_discriminator_likes_what_is_real_and_the_student_wants_to_be_liked():
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([-2.0, -0.5])
    assert float(losses.discriminator_loss(real, fake)) == pytest.approx(0.25 + 0.25)
    assert float(losses.discriminator_loss(fake, real)) > 3
    on_fake = torch.zeros(4, requires_grad=True)
    losses.student_loss(on_fake, torch.zeros(1), torch.zeros(1)).backward()
    assert (on_fake.grad < 0).all()  # a step down raises the logits
    made = torch.ones(2, 2)
    near = losses.student_loss(torch.zeros(1), made, torch.zeros(2, 2), adversarial=0.0, mse=2.0)
    assert float(near) == 2.0


def test_ladds_two_losses_learn_one_step(two, teacher):
    real = plane_ladd.sample(teacher, 16, 500)
    before = plane_ladd.good(plane_ladd.sample(teacher, 1), two, within=0.6)
    student = plane_ladd.ladd(teacher, real, steps=250, seeds=1, batch=96, mu=0.0)
    after = plane_ladd.good(plane_ladd.sample(student, 1, seeds=1), two, within=0.6)
    assert after.min() > before + 30


def turn_parts(**dials):
    """A turn on the plane: the student, the heads' weights, and the turn."""
    torch.manual_seed(0)
    teacher = plane_ladd.Net(16).requires_grad_(False)
    student, judges = plane_ladd.students(teacher, 1), plane_ladd.Discriminator(teacher, 1)
    judge = losses.Judge(judges.features, judges.heads)
    draws = plane_ladd.draw(torch.randn(50, 2), 32, 0.0)
    turn = losses.ladd_turn(lambda z, t: student(z[None], t[None])[0], judge, draws, **dials)
    return student, judges, turn, draws, judge, teacher


def test_in_a_turn_each_side_learns_from_its_own_loss_alone():
    student, judges, turn, *_, teacher = turn_parts()
    turn.heads.backward(retain_graph=True)
    assert all(p.grad is None for p in student.parameters())
    before = [p.grad.clone() for p in judges.ins.parameters()]
    turn.student.backward()
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())
    for p, gradient in zip(judges.ins.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_turn_shows_real_and_fake_under_the_same_noise():
    """A student that jumps right back to the answer cannot be told apart from it."""
    *_, draws, judge, _ = turn_parts()
    perfect = losses.ladd_turn(lambda z, t: (z - draws.x) / t[:, None], judge, draws)
    torch.testing.assert_close(perfect.on_real, perfect.on_fake)
    start = losses.ladd_turn(lambda z, t: 0 * z, judge, draws, start=draws.x)
    torch.testing.assert_close(start.generated, draws.x)


def test_r1_and_mismatched_pairs_are_added_to_the_heads_loss_alone():
    *_, plain, _draws, judge, _ = turn_parts()
    still = turn_parts(r1=3.0, shake=torch.zeros(32, 2))[2]
    shaken = turn_parts(r1=3.0, shake=torch.ones(32, 2))[2]
    torch.testing.assert_close(still.heads, plain.heads)  # nothing moves, nothing is punished
    assert shaken.heads > plain.heads and shaken.student == plain.student
    sure = judge._replace(heads=lambda seen, t, learns: torch.full((1, 32, 2), 5.0))
    wrong = turn_parts(mismatched=sure)[2]
    fakes = torch.relu(1 + plain.on_fake).mean()
    torch.testing.assert_close(wrong.heads, plain.heads + (6.0 - fakes) / 2)
    assert wrong.student == plain.student


def test_the_rollout_loss_learns_from_the_students_own_states():
    """One right answer: a student that starts far away jumps to it from wherever it got to."""
    torch.manual_seed(0)
    x = torch.tensor([[1.6, 0.8]]).expand(128, 2)
    net = plane_ladd.Net(32)

    def loss(step):
        times = sampler.schedule(2, shifted=False)[: 1 + step % 2]
        noise, t = torch.randn(128, 2), times[-1:].expand(128)
        z = sampler.sample(net, noise, times).detach()
        made = flow.clean_estimate(z, net(z, t), t)
        return losses.rollout_loss(made, x, float(times[-1]))

    learned(net, loss, 400)
    made = plane_ladd.sample(net, 2, 200)
    assert float((made - x[0]).norm(dim=1).mean()) < 0.3


def test_the_rollout_loss_weighs_late_steps_more_and_squares_nothing():
    x = torch.zeros(1, 2, 1, 1)
    near, far = (losses.rollout_loss(torch.full_like(x, e), x, 1.0) for e in (1.0, 2.0))
    assert float(far / near) == pytest.approx(2, rel=1e-3)  # of a square it would be 4
    late = losses.rollout_loss(torch.ones_like(x), x, 0.25)
    assert float(late / near) == pytest.approx(4, rel=1e-3)
