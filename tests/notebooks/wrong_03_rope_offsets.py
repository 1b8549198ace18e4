"""Answers that a student might plausibly give to notebook 03, all wrong: `exercise__mistake`."""

import math

import torch

from minikontext.tokens import context_ids, position_ids


def tokens_per_turn__radians_for_turns(j, d, theta):
    return theta ** (2 * j / d)


def tokens_per_turn__upside_down(j, d, theta):
    return 2 * math.pi * theta ** (-2 * j / d)


def tokens_per_turn__forgets_the_two(j, d, theta):
    return 2 * math.pi * theta ** (j / d)


def rotate_complex__the_other_way_round(x, angles):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), -angles)
    return torch.view_as_real(turned).flatten(-2)


def rotate_complex__turns_halves(x, angles):
    x0, x1 = x.chunk(2, dim=-1)
    c, s = angles.cos(), angles.sin()
    return torch.cat([c * x0 - s * x1, s * x0 + c * x1], dim=-1)


def rotate_complex__halves_in_the_end(x, angles):
    x0, x1 = x[..., 0::2], x[..., 1::2]
    c, s = angles.cos(), angles.sin()
    return torch.cat([c * x0 - s * x1, s * x0 + c * x1], dim=-1)


def rotate_complex__first_tokens_angles_for_all(x, angles):
    x0, x1 = x[..., 0::2], x[..., 1::2]
    c, s = angles[:1].cos(), angles[:1].sin()
    return torch.stack([c * x0 - s * x1, s * x0 + c * x1], dim=-1).flatten(-2)


def halves_to_neighbours__the_way_back(x):
    return torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)


def halves_to_neighbours__nothing(x):
    return x


def halves_to_neighbours__swaps_the_halves(x):
    return torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)


def halves_to_neighbours__second_half_first(x):
    return torch.stack(x.chunk(2, dim=-1)[::-1], dim=-1).flatten(-2)


def side_by_side__index(grids):
    return context_ids(grids, "index")


def side_by_side__each_starts_at_zero(grids):
    return [position_ids(rows, cols, index=1) for rows, cols in grids]


def side_by_side__below_one_another(grids):
    ids, start = [], 0
    for rows, cols in grids:
        ids.append(position_ids(rows, cols, index=1, row=start))
        start += rows
    return ids


def side_by_side__virtual_time_zero(grids):
    ids, start = [], 0
    for rows, cols in grids:
        ids.append(position_ids(rows, cols, index=0, col=start))
        start += cols
    return ids
