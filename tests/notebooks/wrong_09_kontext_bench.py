"""Answers that a student might plausibly give to notebook 09, all wrong: `exercise__mistake`."""

import numpy as np
import torch


def untouched_share__of_all_pixels(before, answer, right, limit):
    return ((answer - before).abs() <= limit).all(dim=-1).float().mean().item()


def untouched_share__counts_channels(before, answer, right, limit):
    stay = (before == right).all(dim=-1)
    return ((answer - before).abs() <= limit)[stay].float().mean().item()


def untouched_share__below_the_limit(before, answer, right, limit):
    stay = (before == right).all(dim=-1)
    return ((answer - before).abs() < limit).all(dim=-1)[stay].float().mean().item()


def untouched_share__mean_of_the_channels(before, answer, right, limit):
    stay = (before == right).all(dim=-1)
    return ((answer - before).abs().mean(dim=-1) <= limit)[stay].float().mean().item()


def untouched_share__any_channel(before, answer, right, limit):
    stay = (before == right).all(dim=-1)
    return ((answer - before).abs() <= limit).any(dim=-1)[stay].float().mean().item()


def untouched_share__without_abs(before, answer, right, limit):
    stay = (before == right).all(dim=-1)
    return ((answer - before) <= limit).all(dim=-1)[stay].float().mean().item()


def paired_difference__as_if_not_paired(a, b):
    error = (a.var() / len(a) + b.var() / len(b)) ** 0.5
    return 100 * (a.mean() - b.mean()).item(), 100 * error.item()


def paired_difference__forgets_the_root(a, b):
    apart = a - b
    return 100 * apart.mean().item(), 100 * apart.std().item() / len(apart)


def paired_difference__the_other_way(a, b):
    apart = b - a
    return 100 * apart.mean().item(), 100 * apart.std().item() / len(apart) ** 0.5


def paired_difference__numpys_default(a, b):
    apart = np.asarray(a) - np.asarray(b)
    return 100 * apart.mean(), 100 * np.std(apart) / len(apart) ** 0.5


def paired_difference__shares(a, b):
    return (a - b).mean().item(), (a - b).std().item() / len(a) ** 0.5


def keep_untouched__each_channel_alone(before, after, limit):
    return torch.where((after - before).abs() > limit, after, before)


def keep_untouched__mean_of_channels(before, after, limit):
    moved = (after - before).abs().mean(dim=-1, keepdim=True) > limit
    return torch.where(moved, after, before)


def keep_untouched__at_the_limit(before, after, limit):
    moved = (after - before).abs().amax(dim=-1, keepdim=True) >= limit
    return torch.where(moved, after, before)


def keep_untouched__without_abs(before, after, limit):
    moved = (after - before).amax(dim=-1, keepdim=True) > limit
    return torch.where(moved, after, before)


def clustered_interval__ignores_the_pictures(a, b, base):
    apart, n = a - b, len(a)
    middle, error = apart.mean().item(), apart.std().item() / n**0.5
    return 100 * (middle - 1.96 * error), 100 * (middle + 1.96 * error)


def clustered_interval__as_if_not_paired(a, b, base):
    middle = (a.mean() - b.mean()).item()
    error = ((a.var() + b.var()) / len(a)).item() ** 0.5
    return 100 * (middle - 1.96 * error), 100 * (middle + 1.96 * error)


def clustered_interval__each_picture_once(a, b, base):
    means = torch.stack([(a - b)[base == one].mean() for one in base.unique()])
    middle, error = means.mean().item(), means.std().item() / len(means) ** 0.5
    return 100 * (middle - 1.96 * error), 100 * (middle + 1.96 * error)


def clustered_interval__one_standard_error(a, b, base):
    low, high = right_clustered_interval__sums(a, b, base)
    middle = (low + high) / 2
    return middle - (high - low) / 3.92, middle + (high - low) / 3.92


def clustered_interval__shares(a, b, base):
    return tuple(end / 100 for end in right_clustered_interval__sums(a, b, base))


def clustered_interval__the_other_way(a, b, base):
    return right_clustered_interval__sums(b, a, base)


def clustered_interval__draws_cases(a, b, base):
    apart, rng = (a - b).numpy(), np.random.default_rng(0)
    means = [rng.choice(apart, len(apart)).mean() for _ in range(2000)]
    return tuple(100 * np.percentile(means, (2.5, 97.5)))


# Answers that differ from the solution and are right.


def right_untouched_share__loops(before, answer, right, limit):
    kept = []
    for row in range(before.shape[0]):
        for col in range(before.shape[1]):
            if torch.equal(before[row, col], right[row, col]):
                kept.append(float((answer - before)[row, col].abs().max()) <= limit)
    return sum(kept) / len(kept)


def right_untouched_share__largest(before, answer, right, limit):
    stay = (before - right).abs().amax(-1) == 0
    return (((answer - before).abs().amax(-1) <= limit) & stay).sum() / stay.sum()


def right_paired_difference__numpy(a, b):
    apart = np.asarray(a - b, dtype=float)
    return 100 * apart.mean(), 100 * apart.std(ddof=1) / np.sqrt(len(apart))


def right_paired_difference__by_hand(a, b):
    apart = [float(x - y) for x, y in zip(a, b)]
    n = len(apart)
    middle = sum(apart) / n
    variance = sum((x - middle) ** 2 for x in apart) / (n - 1)
    return 100 * middle, 100 * (variance / n) ** 0.5


def right_keep_untouched__copy(before, after, limit):
    out = before.clone()
    moved = ((after - before).abs() > limit).any(dim=-1)
    out[moved] = after[moved]
    return out


def right_clustered_interval__sums(a, b, base):
    apart, k = a - b, len(base.unique())
    off = torch.stack([(apart - apart.mean())[base == one].sum() for one in base.unique()])
    error = (k / (k - 1) * off.square().sum()).sqrt().item() / len(apart)
    return tuple(100 * (apart.mean().item() + side * 1.96 * error) for side in (-1, 1))


def right_clustered_interval__bootstrap(a, b, base):
    rng, groups = np.random.default_rng(1), [(a - b)[base == one].numpy() for one in base.unique()]
    draws = rng.integers(len(groups), size=(2000, len(groups)))
    means = [np.concatenate([groups[i] for i in draw]).mean() for draw in draws]
    return tuple(100 * np.percentile(means, (2.5, 97.5)))
