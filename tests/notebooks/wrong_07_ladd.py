"""Answers that a student might plausibly give to notebook 07, all wrong: `exercise__mistake`."""

import torch
import torch.nn.functional as F

from minikontext.course.exercises.ladd import SLIPS, _turn


def hinge(real, fake):
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_losses__no_hinge(real, fake):
    return fake.mean() - real.mean() + 2, -fake.mean()


def hinge_losses__signs_swapped(real, fake):
    return F.relu(1 + real).mean() + F.relu(1 - fake).mean(), fake.mean()


def hinge_losses__hinge_for_the_student_too(real, fake):
    return hinge(real, fake), F.relu(1 - fake).mean()


def hinge_losses__detached(real, fake):
    return hinge(real, fake).detach(), -fake.mean().detach()


def hinge_losses__student_detached(real, fake):
    return hinge(real, fake), -fake.detach().mean()


def hinge_losses__numbers(real, fake):
    return hinge(real, fake).item(), -fake.mean().item()


def hinge_losses__divided_by_the_first_axis(real, fake):
    return hinge(real, fake), -sum(fake.flatten()) / len(fake)


def judged_points__forgets_to_clean(z, v, t, again, judged_at):
    return z - t[:, None] * v, torch.lerp(z, again, judged_at[:, None])


def judged_points__plus_velocity(z, v, t, again, judged_at):
    clean = z + t[:, None] * v
    return clean, torch.lerp(clean, again, judged_at[:, None])


def judged_points__one_time_for_both(z, v, t, again, judged_at):
    clean = z - t[:, None] * v
    return clean, torch.lerp(clean, again, t[:, None])


def judged_points__detached(z, v, t, again, judged_at):
    clean = z - t[:, None] * v
    return clean, torch.lerp(clean.detach(), again, judged_at[:, None])


def modes_kept__counts_points(points, answers, within):
    return (torch.cdist(points, answers).min(dim=1).values < within).float().mean().item()


def modes_kept__nearest_without_a_limit(points, answers, within):
    return len(torch.cdist(points, answers).argmin(dim=1).unique()) / len(answers)


def modes_kept__sum_of_differences(points, answers, within):
    apart = (answers[:, None] - points[None]).abs().sum(-1)
    return (apart.min(dim=1).values < within).float().mean().item()


def modes_kept__largest_difference(points, answers, within):
    apart = (answers[:, None] - points[None]).abs().amax(-1)
    return (apart.min(dim=1).values < within).float().mean().item()


def one_turn__student_detached(student, features, heads, x, noise, again, t, at):
    judge, _ = _turn()(student, features, heads, x, noise, again, t, at)
    with torch.no_grad():
        _, wish = _turn()(student, features, heads, x, noise, again, t, at)
    return judge, wish


def one_turn__fakes_not_detached(student, features, heads, x, noise, again, t, at):
    z = torch.lerp(x, noise, t[:, None])
    made = z - t[:, None] * student(z, t)
    on_real = heads(features(torch.lerp(x, again, at[:, None]), at), at)
    on_fake = heads(features(torch.lerp(made, again, at[:, None]), at), at)
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean(), -on_fake.mean()


def one_turn__heads_learn_nothing(student, features, heads, x, noise, again, t, at):
    judge, wish = _turn()(student, features, heads, x, noise, again, t, at)
    return judge.detach(), wish


def _slip(name):
    return lambda *given: _turn(**SLIPS[name])(*given)


one_turn__wrong_way = _slip("you walk forwards along v")
one_turn__students_time = _slip("the discriminator looks at the student's time")
one_turn__clean = _slip("nothing is noised again")
one_turn__no_margin = _slip("the margin of 1 is missing")
one_turn__first_noise = _slip("you noise with the first noise again")
one_turn__swapped = _slip("real and fake are swapped")

# Answers that differ from the solution and are right.


def right_hinge_losses__clamp(on_real, on_fake):
    lost = torch.clamp(1 - on_real, min=0).mean() + torch.clamp(1 + on_fake, min=0).mean()
    return lost, (-on_fake).mean()


def right_hinge_losses__maximum(on_real, on_fake):
    zero = torch.zeros(())
    first = torch.maximum(zero, 1 - on_real).sum() / on_real.numel()
    return first + torch.maximum(zero, 1 + on_fake).sum() / on_fake.numel(), -1 * on_fake.mean()


def right_judged_points__interpolate(z, v, t, again, judged_at):
    clean = z - v * t.unsqueeze(-1)
    return [clean, clean + judged_at.unsqueeze(-1) * (again - clean)]


def right_modes_kept__loop(points, answers, within):
    kept = 0
    for answer in answers:
        kept += int(any((point - answer).norm() < within for point in points))
    return kept / len(answers)


def right_modes_kept__tensor(points, answers, within):
    apart = (answers[:, None] - points[None]).square().sum(-1).sqrt()
    return (apart.min(dim=1).values < within).double().mean()


def right_one_turn__detached_points(student, features, heads, x, noise, again, t, at):
    z = (1 - t[:, None]) * x + t[:, None] * noise
    made = z - t[:, None] * student(z, t)

    def look(y):
        return heads(features((1 - at[:, None]) * y + at[:, None] * again, at), at)

    judge = F.relu(1 - look(x)).mean() + F.relu(1 + look(made.detach())).mean()
    return judge, -look(made).mean()


def right_one_turn__real_without_gradient(student, features, heads, x, noise, again, t, at):
    z = x + t[:, None] * (noise - x)
    made = z - t[:, None] * student(z, t)
    with torch.no_grad():
        real = features(torch.lerp(x, again, at[:, None]), at)
        fake = features(torch.lerp(made, again, at[:, None]), at)
    judge = F.relu(1 - heads(real, at)).mean() + F.relu(1 + heads(fake, at)).mean()
    return judge, -heads(features(torch.lerp(made, again, at[:, None]), at), at).mean()
