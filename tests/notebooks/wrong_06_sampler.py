"""Answers that a student might plausibly give to notebook 06, all wrong: `exercise__mistake`."""

from itertools import pairwise

import torch


def mu_for_picture__counts_the_contexts(target, contexts):
    count = sum(w // 16 * (h // 16) for w, h in [target, *contexts])
    return 0.5 + (count - 256) * 0.65 / 3840


def mu_for_picture__counts_latent_pixels(target, contexts):
    count = target[0] // 8 * (target[1] // 8)
    return 0.5 + (count - 256) * 0.65 / 3840


def mu_for_picture__forgets_the_start_of_the_line(target, contexts):
    return 1.15 * (target[0] // 16 * (target[1] // 16)) / 4096


def guide__scale_counted_from_zero(conditional, unconditional, scale):
    return conditional + scale * (conditional - unconditional)


def guide__wrong_way(conditional, unconditional, scale):
    return conditional + scale * (unconditional - conditional)


def guide__mixed_up(conditional, unconditional, scale):
    return conditional + (scale - 1) * unconditional


def heun__is_euler(predict, z, times):
    for t, t_next in pairwise(times):
        z = z + (t_next - t) * predict(z, t.expand(len(z)))
    return z


def heun__second_velocity_at_the_old_place(predict, z, times):
    for t, t_next in pairwise(times):
        first = predict(z, t.expand(len(z)))
        second = predict(z, t_next.expand(len(z)))
        z = z + (t_next - t) * (first + second) / 2
    return z


def heun__forgets_to_halve(predict, z, times):
    for t, t_next in pairwise(times):
        first = predict(z, t.expand(len(z)))
        second = predict(z + (t_next - t) * first, t_next.expand(len(z)))
        z = z + (t_next - t) * (first + second)
    return z


def heun__only_the_second_velocity(predict, z, times):
    for t, t_next in pairwise(times):
        there = z + (t_next - t) * predict(z, t.expand(len(z)))
        z = z + (t_next - t) * predict(there, t_next.expand(len(z)))
    return z


def start_half_way__strength_taken_for_the_time(x, noise, times, strength):
    first = len(times) - 1 - round(strength * (len(times) - 1))
    return torch.lerp(x, noise, strength), times[first:]


def start_half_way__keeps_the_wrong_end(x, noise, times, strength):
    first = round(strength * (len(times) - 1))
    return torch.lerp(x, noise, times[first]), times[first:]


def start_half_way__adds_noise_on_top(x, noise, times, strength):
    first = len(times) - 1 - round(strength * (len(times) - 1))
    return x + times[first] * noise, times[first:]
