"""Rotary embedding: pairs, axes, and that only differences of positions count."""

import math

import pytest
import torch

from minikontext import rope
from minikontext.tokens import position_ids

AXES = (4, 6, 6)


def turned(x, ids):
    """Rotate vectors x (n, d) to positions ids (n, 3)."""
    return rope.rotate(x[None, None], rope.rotations(ids, AXES, 10_000))[0, 0]


def test_shapes_and_dtype():
    ids = torch.zeros(2, 5, 3)
    assert rope.rotations(ids, AXES, 10_000).shape == (2, 5, 8, 2)
    assert rope.rotations(ids[0], AXES, 10_000).shape == (5, 8, 2)
    assert rope.rotations(ids.bfloat16(), AXES, 10_000).dtype == torch.float32


def test_angles_by_hand():
    cos_sin = rope.rotations(torch.tensor([[2, 3, 5]]), AXES, 100.0)[0]
    angles = [2, 2 / 100 ** (2 / 4)]
    angles += [3, 3 / 100 ** (2 / 6), 3 / 100 ** (4 / 6)]
    angles += [5, 5 / 100 ** (2 / 6), 5 / 100 ** (4 / 6)]
    expected = torch.tensor([[math.cos(a), math.sin(a)] for a in angles])
    torch.testing.assert_close(cos_sin, expected)


def test_neighbouring_channels_make_a_pair():
    x = torch.zeros(1, 16)
    x[0, 0] = 1
    quarter = torch.tensor([[math.pi / 2, 0, 0]])
    out = turned(x, quarter)
    assert out[0, 1] == pytest.approx(1) and out[0, 0] == pytest.approx(0, abs=1e-6)
    assert out[0, 2:].abs().max() == 0


def test_position_zero_changes_nothing():
    x = torch.randn(3, 16)
    torch.testing.assert_close(turned(x, torch.zeros(3, 3)), x)


def test_length_is_kept():
    x, ids = torch.randn(20, 16), position_ids(4, 5, index=2)
    torch.testing.assert_close(turned(x, ids).norm(dim=-1), x.norm(dim=-1))


def test_only_the_difference_of_positions_counts():
    q, k = torch.randn(1, 16), torch.randn(1, 16)
    here, there = torch.tensor([[0, 3, 1]]), torch.tensor([[1, 0, 5]])
    move = torch.tensor([[2, 7, 4]])
    product = (turned(q, here) * turned(k, there)).sum()
    moved = (turned(q, here + move) * turned(k, there + move)).sum()
    torch.testing.assert_close(moved, product)
    elsewhere = (turned(q, here) * turned(k, there + move)).sum()
    assert (elsewhere - product).abs() > 1e-3


def test_far_positions_are_exact():
    ids = torch.tensor([[0, 0, 100_000]])
    sine = rope.rotations(ids, AXES, 10_000)[0, 6, 1]
    assert sine.item() == pytest.approx(math.sin(100_000 / 10_000 ** (2 / 6)), abs=1e-6)


def test_a_batch_can_have_its_own_positions():
    x, ids = torch.randn(2, 3, 5, 16), torch.randint(0, 9, (2, 5, 3))
    out = rope.rotate(x, rope.rotations(ids, AXES, 10_000))
    for i in range(2):
        alone = rope.rotate(x[i : i + 1], rope.rotations(ids[i], AXES, 10_000))
        torch.testing.assert_close(out[i : i + 1], alone)


def test_bfloat16_is_rotated_in_float32():
    x = torch.randn(1, 1, 4, 16).bfloat16()
    turns = rope.rotations(position_ids(2, 2, index=1), AXES, 10_000)
    out = rope.rotate(x, turns)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, rope.rotate(x.float(), turns))
