"""Rotary position embedding in three axes: virtual time, row, column (paper section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def rotations(ids: Tensor, axes_dim: Sequence[int], theta: float) -> Tensor:
    """Turn position ids into one rotation per pair of channels (official name `EmbedND`).

    Pair j of an axis with d channels turns by `id / theta^(2j/d)`.
    ids (..., n, axes) -> [cos, sin] (..., n, sum(axes_dim)/2, 2), float32.
    """
    # float32 has too few digits for the angle of a far position; Apple's GPU has no float64.
    digits = torch.float32 if ids.device.type == "mps" else torch.float64
    angles = []
    for axis, d in enumerate(axes_dim):
        pairs = torch.arange(0, d, 2, dtype=digits, device=ids.device) / d  # (d/2,)
        angles.append(ids[..., axis, None].to(digits) * theta**-pairs)  # (..., n, d/2)
    angle = torch.cat(angles, dim=-1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn neighbouring channels (x0, x1), (x2, x3), ... in their plane (official `apply_rope`).

    x (b, heads, n, d), rotations (n, d/2, 2) or (b, n, d/2, 2) -> (b, heads, n, d), float32.
    """
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, not complex numbers
        return _rotate_real(x, rotations)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (b, heads, n, d/2)
    rotary = torch.view_as_complex(rotations).unsqueeze(-3)  # the same for all heads
    return torch.view_as_real(pairs * rotary).flatten(-2)


def _rotate_real(x: Tensor, rotations: Tensor) -> Tensor:
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotations.unsqueeze(-4).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
