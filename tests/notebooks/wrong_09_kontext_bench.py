"""Answers that a student might plausibly give to notebook 09, all wrong: `exercise__mistake`."""

import math
from collections import Counter

import torch


def untouched_share__of_all_pixels(before, answer, right, limit):
    return ((answer - before).abs() <= limit).all(dim=-1).float().mean().item()


def untouched_share__counts_channels(before, answer, right, limit):
    stay = before == right
    return ((answer - before).abs() <= limit)[stay].float().mean().item()


def untouched_share__below_the_limit(before, answer, right, limit):
    stay = (before == right).all(dim=-1)
    return ((answer - before).abs() < limit).all(dim=-1)[stay].float().mean().item()


def paired_difference__as_if_not_paired(a, b):
    error = (a.var() / len(a) + b.var() / len(b)) ** 0.5
    return 100 * (a.mean() - b.mean()).item(), 100 * error.item()


def paired_difference__forgets_the_root(a, b):
    apart = a - b
    return 100 * apart.mean().item(), 100 * apart.std().item() / len(apart)


def paired_difference__the_other_way(a, b):
    apart = b - a
    return 100 * apart.mean().item(), 100 * apart.std().item() / len(apart) ** 0.5


def keep_untouched__each_channel_alone(before, after, limit):
    return torch.where((after - before).abs() > limit, after, before)


def keep_untouched__mean_of_channels(before, after, limit):
    moved = (after - before).abs().mean(dim=-1, keepdim=True) > limit
    return torch.where(moved, after, before)


def keep_untouched__at_the_limit(before, after, limit):
    moved = (after - before).abs().amax(dim=-1, keepdim=True) >= limit
    return torch.where(moved, after, before)


def distinct_answers__nats(values):
    shares = [n / len(values) for n in Counter(values).values()]
    return len(shares), -sum(p * math.log(p) for p in shares)


def distinct_answers__counts_all(values):
    shares = [n / len(values) for n in Counter(values).values()]
    return len(values), -sum(p * math.log2(p) for p in shares)


def distinct_answers__as_if_even(values):
    count = len(set(values))
    return count, math.log2(count)
