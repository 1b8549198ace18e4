"""Answers that a student might plausibly give to notebook 11, all wrong: `exercise__mistake`."""

import torch


def stored_gb__everything_in_few_bits(matrices, rest, bits):
    return (matrices + rest) * bits / 8 / 1e9


def stored_gb__forgets_that_bits_are_no_bytes(matrices, rest, bits):
    return (matrices * bits + rest * 16) / 1e9


def stored_gb__in_gib(matrices, rest, bits):
    return (matrices * bits / 8 + rest * 2) / 2**30


def joined__as_they_come(parts):
    return torch.cat(list(parts.values()))


def joined__side_by_side(parts):
    names = ("to_q", "to_k", "to_v", "proj_mlp")
    return torch.cat([parts[name].T for name in names], dim=1)


def joined__mlp_first(parts):
    return torch.cat([parts[name] for name in ("proj_mlp", "to_q", "to_k", "to_v")])


def merged__forgets_alpha(weight, down, up, alpha, scale):
    return weight + scale * (up @ down)


def merged__divides_by_the_width(weight, down, up, alpha, scale):
    return weight + scale * alpha / down.shape[1] * (up @ down)


def merged__in_place(weight, down, up, alpha, scale):
    weight += scale * alpha / down.shape[0] * (up @ down)
    return weight
