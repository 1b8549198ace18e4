"""Answers that a student might plausibly give to notebook 05, all wrong: `exercise__mistake`."""

import torch


def noisy_and_target__time_runs_the_other_way(x, noise, t):
    t = t.reshape(-1, *[1] * (x.dim() - 1))
    return t * x + (1 - t) * noise, noise - x


def noisy_and_target__velocity_points_to_the_picture(x, noise, t):
    t = t.reshape(-1, *[1] * (x.dim() - 1))
    return (1 - t) * x + t * noise, x - noise


def noisy_and_target__t_broadcast_over_the_last_axis(x, noise, t):
    return (1 - t) * x + t * noise, noise - x


def noisy_and_target__predicts_the_noise(x, noise, t):
    t = t.reshape(-1, *[1] * (x.dim() - 1))
    return (1 - t) * x + t * noise, noise


def both_ends__noise_end_with_t(z, v, t):
    return z - t * v, z + t * v


def both_ends__swapped(z, v, t):
    return z + (1 - t) * v, z - t * v


def both_ends__whole_velocity(z, v, t):
    return z - v, z + v


def sample_times__shift_after_the_sigmoid(normal, mu, sigma):
    return torch.sigmoid(sigma * normal) + mu


def sample_times__divides_by_sigma(normal, mu, sigma):
    return torch.sigmoid((normal - mu) / max(sigma, 1e-6))


def sample_times__forgets_sigma(normal, mu, sigma):
    return torch.sigmoid(mu + normal)


def loss_by_time__empty_parts_are_zero(losses, t, n):
    part = (t * n).long().clamp(max=n - 1)
    total = torch.zeros(n).index_add(0, part, losses)
    return total / torch.bincount(part, minlength=n).clamp_min(1)


def loss_by_time__sums(losses, t, n):
    part = (t * n).long().clamp(max=n - 1)
    return torch.zeros(n).index_add(0, part, losses)


def loss_by_time__loses_the_last_time(losses, t, n):
    return torch.stack([losses[(t >= i / n) & (t < (i + 1) / n)].mean() for i in range(n)])
