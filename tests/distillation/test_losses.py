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
