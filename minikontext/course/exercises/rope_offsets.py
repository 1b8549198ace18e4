"""Exercises of notebook 03."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minikontext.course.checks import NotAttempted, Report, exercise
from minikontext.tokens import context_ids, position_ids


@exercise(
    solution='''
def tokens_per_turn(j, d, theta):
    """j: number of the pair, from 0; d: channels of the axis -> tokens, a float."""
    return 2 * math.pi * theta ** (2 * j / d)  # of 28 pairs, eight need at most 64 tokens
''',
    known={
        "you forget that a full turn is 2π": lambda j, d, theta: theta ** (2 * j / d),
        "you multiply by the speed": lambda j, d, theta: 2 * math.pi * theta ** (-2 * j / d),
        "the exponent lacks its 2": lambda j, d, theta: 2 * math.pi * theta ** (j / d),
        "you turn by 360, not by 2π": lambda j, d, theta: 360 * theta ** (2 * j / d),
    },
)
def tokens_per_turn(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens until a pair has turned by 2 pi."""
    report.equal("the first pair turns by one radian a token", answer, (0, 56, 10_000),
                 2 * math.pi)  # fmt: skip
    j, d, theta = report.whole(1, 9), 2 * report.whole(10, 30), 100 * report.whole(2, 99)
    right = 2 * math.pi * theta ** (2 * j / d)
    text = f"pair {j} of an axis with {d} channels, theta {theta}"
    report.equal(text, answer, (j, d, theta), right, tolerance=1e-4)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    x0, x1, c, s = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.stack([c * x0 - s * x1, s * x0 + c * x1], dim=-1).flatten(-2)


def _by_halves(x: Tensor, angles: Tensor) -> Tensor:
    (x0, x1), c, s = x.chunk(2, dim=-1), angles.cos(), angles.sin()
    return torch.cat([c * x0 - s * x1, s * x0 + c * x1], dim=-1)


def _ends_in_halves(x: Tensor, angles: Tensor) -> Tensor:
    x0, x1, c, s = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.cat([c * x0 - s * x1, s * x0 + c * x1], dim=-1)


class _ComplexSeen(TorchFunctionMode):
    """Whether any function gave a complex tensor."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= isinstance(result, Tensor) and result.is_complex()
        return result


@exercise(
    solution='''
def rotate_complex(x, angles):
    """x: (..., n, d) float32; angles: (n, d / 2) -> (..., n, d), neighbours turned by them."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())  # (..., n, d/2)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)
''',
    known={
        "you turn the other way round": lambda x, angles: _turned(x, -angles),
        "you pair halves, not neighbours": _by_halves,
        "you put the results into halves at the end": _ends_in_halves,
        "all tokens get the first one's angles": lambda x, angles: _turned(
            x, angles[:1].expand_as(angles)
        ),
        "you add the angle and do not turn": lambda x, angles: x
        + angles.repeat_interleave(2, dim=-1),
        "the second row of the rotation has the wrong sign": lambda x, angles: _turned(
            x, angles
        ) * torch.tensor([1.0, -1.0]).repeat(angles.shape[-1]),
    }
)  # fmt: skip
def rotate_complex(report: Report, answer: Callable[..., Any]) -> None:
    """Neighbouring channels turned by an angle for each pair, by complex multiplication."""
    right = torch.tensor([[1.0, 0.0]])
    report.equal("a quarter turn: (1, 0) becomes (0, 1)", answer,
                 (right, torch.tensor([[math.pi / 2]])), torch.tensor([[0.0, 1.0]]))  # fmt: skip
    n, d = report.whole(2, 5), report.whole(2, 5)
    angles = 3 * report.normal(n, d)
    for name, shape in (("tokens with angles of their own", (n, 2 * d)),
                        ("two samples of three heads", (2, 3, n, 2 * d))):  # fmt: skip
        x = report.normal(*shape)
        report.equal(name, answer, (x, angles), _turned(x, angles))
    why = "no complex number was made: this is what you get if you slice, as `rotate_by_hand` does"
    report.true("by one complex multiplication", _uses_complex(answer), why)


def _uses_complex(answer: Callable[..., Any]) -> bool:
    with _ComplexSeen() as mode:
        try:
            answer(torch.ones(2, 4), torch.ones(2, 2))
        except NotImplementedError as error:
            raise NotAttempted from error
        except Exception:  # the cases above have said so
            return False
    return mode.seen


@exercise(
    solution='''
def halves_to_neighbours(x):
    """x: (..., d), where j and j + d/2 are a pair -> (..., d), where they are neighbours."""
    return torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)
''',
    known={
        "you sort the other way, neighbours to halves": lambda x: torch.cat(
            [x[..., 0::2], x[..., 1::2]], dim=-1
        ),
        "you leave everything where it is": lambda x: x,
        "you exchange the halves": lambda x: torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1),
        "the second half comes first": lambda x: torch.stack(
            x.chunk(2, dim=-1)[::-1], dim=-1
        ).flatten(-2),
        "you sort rows, not channels": lambda x: torch.stack(x.chunk(2), dim=1).flatten(0, 1),
    },
)
def halves_to_neighbours(report: Report, answer: Callable[..., Any]) -> None:
    """Channels sorted from pairs of halves to pairs of neighbours."""
    report.equal("six channels", answer, (torch.arange(6.0),),
                 torch.tensor([0.0, 3, 1, 4, 2, 5]))  # fmt: skip
    x = report.normal(4, 2 * report.whole(3, 6))
    right = torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)
    report.equal(f"four rows of {x.shape[1]} channels", answer, (x,), right)


def _beside(grids: Any, index: int = 1, step: Callable[[int, int], int] = lambda h, w: w) -> Any:
    ids, start = [], 0
    for rows, cols in grids:
        ids.append(position_ids(rows, cols, index=index, col=start))
        start += step(rows, cols)
    return ids


def _below(grids: Any) -> Any:
    ids, start = [], 0
    for rows, cols in grids:
        ids.append(position_ids(rows, cols, index=1, row=start))
        start += rows
    return ids


@exercise(
    solution='''
def side_by_side(grids):
    """grids: a list of (rows, cols) -> a list of ids (rows * cols, 3), int64."""
    ids, start = [], 0
    for rows, cols in grids:
        ids.append(mk.tokens.position_ids(rows, cols, index=1, col=start))
        start += cols
    return ids
''',
    known={
        "each context has a virtual time of its own": lambda grids: context_ids(grids, "index"),
        "every picture starts at column 0": lambda grids: _beside(grids, step=lambda h, w: 0),
        "you go down, not to the right": _below,
        "the virtual time is 0": lambda grids: _beside(grids, index=0),
        "`start` grows by rows, not by columns": lambda grids: _beside(grids, step=lambda h, w: h),
        "you leave a gap of one column": lambda grids: _beside(grids, step=lambda h, w: w + 1),
    },
)
def side_by_side(report: Report, answer: Callable[..., Any]) -> None:
    """All contexts at virtual time 1, each to the right of the earlier ones."""
    report.equal("no contexts, no ids", answer, ([],), [])
    report.equal("one context of one row", answer, ([(1, 2)],),
                 [torch.tensor([[1, 0, 0], [1, 0, 1]])])  # fmt: skip
    grids = [(report.whole(3, 4), report.whole(1, 2)) for _ in range(3)]
    report.equal(f"three contexts: {grids}", answer, (grids,), _beside(grids))


def _angles(ids: Tensor, axes_dim: Any, theta: float, power: float = 2.0) -> Tensor:
    hands = [theta ** -(power * torch.arange(d // 2) / d) for d in axes_dim]
    return torch.cat([ids[:, a, None] * hand for a, hand in enumerate(hands)], dim=-1)


@exercise(
    solution='''
def angles(ids, axes_dim, theta):
    """ids: (n, axes), whole numbers; axes_dim: channels of each axis -> (n, sum(axes_dim) / 2)."""
    speeds = [theta ** -(torch.arange(0, d, 2) / d) for d in axes_dim]
    return torch.cat([ids[:, axis, None] * speed for axis, speed in enumerate(speeds)], dim=-1)
''',
    known={
        "all axes get the first id": lambda ids, axes_dim, theta: _angles(
            ids[:, :1].expand(-1, len(axes_dim)), axes_dim, theta
        ),
        "the axes come in the wrong order": lambda ids, axes_dim, theta: _angles(
            ids.flip(1), axes_dim, theta
        ),
        "the exponent lacks its 2": lambda ids, axes_dim, theta: _angles(
            ids, axes_dim, theta, power=1.0
        ),
        "speeds grow from pair to pair": lambda ids, axes_dim, theta: _angles(
            ids, axes_dim, theta, power=-2.0
        ),
        "one clock of all channels is cut into three": lambda ids, axes_dim, theta: torch.cat(
            [
                ids[:, a, None] * part
                for a, part in enumerate(
                    (theta ** -(torch.arange(0, sum(axes_dim), 2) / sum(axes_dim))).split(
                        [d // 2 for d in axes_dim]
                    )
                )
            ],
            dim=-1,
        ),
        "theta is always 10 000": lambda ids, axes_dim, theta: _angles(ids, axes_dim, 10_000),
    },
)
def angles(report: Report, answer: Callable[..., Any]) -> None:
    """An angle for every token and pair of channels, from three ids."""
    ids = torch.tensor([[1, 0, 2]])
    right = torch.tensor([[1.0, 0.0, 0.0, 2.0, 0.2]])
    report.equal("one token, axes of 2, 4 and 4 channels, theta 100", answer,
                 (ids, (2, 4, 4), 100), right)  # fmt: skip
    n, dims = report.whole(3, 6), tuple(2 * report.whole(2, 6) for _ in range(3))
    ids = torch.stack([torch.randint(0, 40, (n,), generator=report.draw) for _ in range(3)], 1)
    theta = 1000 * report.whole(2, 9)
    text = f"{n} random tokens, axes of {dims}, theta {theta}"
    report.equal(text, answer, (ids, dims, theta), _angles(ids, dims, theta), tolerance=1e-4)
