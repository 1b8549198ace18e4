"""Answers that a student might plausibly give to notebook 07, all wrong: `exercise__mistake`."""

import torch
import torch.nn.functional as F


def guided_target__counts_from_the_prompt(with_words, without, w):
    return with_words + w.reshape(-1, 1, 1, 1) * (with_words - without)


def guided_target__one_scale_for_all(with_words, without, w):
    return without + w[0] * (with_words - without)


def guided_target__wrong_shape(with_words, without, w):
    return without.flatten(1) + w[:, None] * (with_words - without).flatten(1)


def hinge_losses__no_hinge(real, fake):
    return fake.mean() - real.mean() + 2, -fake.mean()


def hinge_losses__signs_swapped(real, fake):
    return F.relu(1 + real).mean() + F.relu(1 - fake).mean(), fake.mean()


def hinge_losses__hinge_for_the_student_too(real, fake):
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), F.relu(1 - fake).mean()


def judged_points__forgets_to_clean(z, v, t, again, judged_at):
    return z - t[:, None] * v, torch.lerp(z, again, judged_at[:, None])


def judged_points__plus_velocity(z, v, t, again, judged_at):
    clean = z + t[:, None] * v
    return clean, torch.lerp(clean, again, judged_at[:, None])


def judged_points__one_time_for_both(z, v, t, again, judged_at):
    clean = z - t[:, None] * v
    return clean, torch.lerp(clean, again, t[:, None])


def modes_kept__counts_points(points, answers, within):
    return (torch.cdist(points, answers).min(dim=1).values < within).float().mean().item()


def modes_kept__nearest_without_a_limit(points, answers, within):
    return len(torch.cdist(points, answers).argmin(dim=1).unique()) / len(answers)
