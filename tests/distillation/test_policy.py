"""π-Flow: a policy is followed exactly, a student learns the plane, and samplers can use it."""

import copy
from itertools import pairwise

import torch
from torch import nn

from minikontext import flow, sampler
from minikontext.course import plane_ladd
from minikontext.course.flow_pictures import answers
from minikontext.distillation.policy import Policy, PolicySteps, imitation_loss, policy_student
from minikontext.training.editor import Editor

POINTS = 4


def widened(teacher):
    """A copy of the plane's net with several velocities, all the teacher's."""
    net = copy.deepcopy(teacher).requires_grad_(True)
    last, wide = net.layers[-1], nn.Linear(net.layers[-1].in_features, 2 * POINTS)
    wide.weight.data = last.weight.data.repeat(POINTS, 1)
    wide.bias.data = last.bias.data.repeat(POINTS)
    net.layers[-1] = wide
    return net, lambda z, t: net(z, t).unflatten(-1, (POINTS, 2))


@torch.no_grad()
def walk(student, steps, count=600):
    """Points after so many passes of the net, from the plane's own noise."""
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    for s, end in pairwise(sampler.schedule(steps, shifted=False).tolist()):
        begin = torch.full((count,), s)
        z = Policy.of(student(z, begin), z, begin).follow(z, begin, torch.full((count,), end))
    return z


def test_a_policy_of_equal_estimates_is_a_step_of_euler():
    z, v, s = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([1.0, 0.75, 0.5])
    policy = Policy.of(v[:, None].repeat(1, POINTS, 1), z, s)
    end = s / 3
    torch.testing.assert_close(policy.follow(z, s, end), z + (end - s)[:, None] * v)
    torch.testing.assert_close(policy.velocity(z, s), v)
    torch.testing.assert_close(policy.follow(z, s, 0 * s), z - s[:, None] * v)


def test_a_bent_policy_is_followed_as_its_own_velocity_says():
    torch.manual_seed(0)
    policy = Policy(torch.randn(2, POINTS, 2), torch.tensor([1.0, 0.8]))
    begin, end = policy.start, policy.start / 4
    found, z = policy.follow(start := torch.randn(2, 2), begin, end, 400), start
    for now, later in pairwise(torch.linspace(1, 0.25, 4001)):
        z = z + (later - now) * policy.start[:, None] * policy.velocity(z, now * policy.start)
    torch.testing.assert_close(found, z, atol=2e-3, rtol=0)
    for i in range(POINTS):  # at the times of the grid, the estimates themselves
        t = policy.start * (1 - i / (POINTS - 1))
        torch.testing.assert_close(policy.estimate(t), policy.clean[:, i])


def test_the_student_learns_the_plane_in_one_pass():
    x = answers("two", 200)
    teacher = plane_ladd.flow_teacher(x, steps=400)
    net, student = widened(teacher)
    torch.testing.assert_close(walk(student, 2), plane_ladd.sample(teacher, 2))  # its start
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(600):
        data, noise = x[torch.randint(len(x), (256,))], torch.randn(256, 2)
        s = torch.tensor(plane_ladd.TIMES)[torch.randint(4, (256,))]
        z = flow.interpolate(data, noise, s)
        loss = imitation_loss(student, teacher, z, s, torch.rand(256))
        plane_ladd.update(optimizer, loss)
    right = plane_ladd.sample(teacher, 64)
    for steps in (1, 2, 4):
        before, after = (
            (found - right).norm(dim=-1).mean()
            for found in (plane_ladd.sample(teacher, steps), walk(student, steps))
        )
        assert after < 0.6 * before  # to the same noise the teacher's answer, not a mean of answers
    few, many = (plane_ladd.good(found, x, within=0.6) for found in (walk(student, 1), right))
    assert few > 0.85 * many and plane_ladd.good(plane_ladd.sample(teacher, 1), x, within=0.6) < 10


def test_the_wrapped_student_ends_where_its_path_does(tiny_pipe):
    torch.manual_seed(0)
    pipe = tiny_pipe
    teacher = Editor(pipe.transformer, pipe.text_encoder)
    student = policy_student(teacher, POINTS)
    words, context = teacher.text.tokenize(["make the hat red"]), torch.randn(1, 4, 8, 8)
    z, times = torch.randn(1, 4, 8, 8), sampler.schedule(3, 16)
    plain = Editor(PolicySteps(student.transformer, times), student.text)

    def path(net):
        with torch.no_grad():
            return sampler.sample(lambda z, t: net(z, t, words, [context]), z, times)

    torch.testing.assert_close(path(plain), path(teacher), atol=1e-4, rtol=1e-4)  # its start
    last = student.transformer.final_layer.linear
    last.weight.data += 0.02 * torch.randn_like(last.weight)  # now the path is bent
    now, moved = z, path(plain)
    for s, end in pairwise(times):
        begin = s[None]
        with torch.no_grad():
            found = student(now, begin, words, [context]).unflatten(1, (POINTS, 4))
        now = Policy.of(found, now, begin).follow(now, begin, end[None])
    torch.testing.assert_close(moved, now, atol=1e-4, rtol=1e-4)
    assert (moved - path(teacher)).abs().max() > 1e-2
