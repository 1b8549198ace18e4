"""The update of one linear layer, in the forms that files have it: thin, Kronecker, full, in parts.

Each is a module: x (…, in) -> what is added to the layer's output, (…, out). `delta` is the same as
a matrix, (out, in); `bias` (out,) is added, too, where a file has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Update(nn.Module):
    """What all forms share: a shape (out, in), a delta, and perhaps a bias."""

    bias: nn.Parameter | None
    magnitude: Tensor | None = None  # of DoRA, until the layer that it is for is known

    def __init__(self, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def delta(self) -> Tensor:
        """What is added to the layer's weight at scale 1, (out, in), float32."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        raise NotImplementedError

    def _bias_as(self, x: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(x.dtype)


class LoraLayer(Update):
    """A product of two thin matrices: x -> up (down x), `down` (rank, in), `up` (out, rank)."""

    def __init__(self, down: Tensor, up: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), in the layer's number format."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        return F.linear(F.linear(x, down), up, self._bias_as(x))

    @property
    def delta(self) -> Tensor:
        """up · down."""
        return self.up.float() @ self.down.float()

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return len(self.up), self.down.shape[1]


class KroneckerLayer(Update):
    """LoKr: the Kronecker product of `left` (o, i) and `right` (p, j), never written out.

    x (…, i·j) is seen as a matrix (i, j); the result is left · x · rightᵀ, (…, o·p).
    """

    def __init__(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), in the layer's number format."""
        left, right = self.left.to(x.dtype), self.right.to(x.dtype)
        square = x.unflatten(-1, (left.shape[1], right.shape[1]))
        out = (left @ (square @ right.T)).flatten(-2)
        return out if self.bias is None else out + self.bias.to(x.dtype)

    @property
    def delta(self) -> Tensor:
        """left ⊗ right."""
        return torch.kron(self.left.float(), self.right.float())

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        (o, i), (p, j) = self.left.shape, self.right.shape
        return o * p, i * j


class FullLayer(Update):
    """A whole matrix (out, in), as tools write that subtract one model from another."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), in the layer's number format."""
        return F.linear(x, self.weight.to(x.dtype), self._bias_as(x))

    @property
    def delta(self) -> Tensor:
        """The matrix itself."""
        return self.weight.float()

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return len(self.weight), self.weight.shape[1]


class PartsLayer(Update):
    """Updates of some rows each: of q, k and v, say, where the layer holds all three."""

    def __init__(self, parts: Sequence[tuple[Tensor, Update]], out: int) -> None:
        super().__init__(_joined_bias(parts, out))
        self.out, self.parts = out, nn.ModuleList(part for _, part in parts)
        for number, (rows, part) in enumerate(parts):
            part.bias = None  # it has been joined
            self.register_buffer(f"rows{number}", rows, persistent=False)

    def _rows(self) -> list[Tensor]:
        return [self.get_buffer(f"rows{number}") for number in range(len(self.parts))]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), in the layer's number format."""
        out = x.new_zeros(*x.shape[:-1], self.out)
        for rows, part in zip(self._rows(), self.parts, strict=True):
            out[..., rows] += part(x)
        return out if self.bias is None else out + self.bias.to(x.dtype)

    @property
    def delta(self) -> Tensor:
        """The parts' deltas at their rows."""
        deltas = [part.delta for part in self.parts]  # of DoRA on its base's device, if unmoved
        delta = deltas[0].new_zeros(self.shape)
        for rows, one in zip(self._rows(), deltas, strict=True):
            delta[rows] += one.to(delta.device)
        return delta

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.out, self.parts[0].shape[1]


def _joined_bias(parts: Sequence[tuple[Tensor, Update]], out: int) -> Tensor | None:
    if all(part.bias is None for _, part in parts):
        return None
    bias = torch.zeros(out)
    for rows, part in parts:
        if part.bias is not None:
            bias[rows] += part.bias.detach()
    return bias


def hadamard(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor, bias: Tensor | None = None) -> Update:
    """LoHa: the elementwise product of two thin products, (a1 b1) ∘ (a2 b2).

    a (out, r), b (r, in). It is a thin product itself, of rank r1 · r2, which is kept where it is
    smaller than the matrix.
    """
    rank, (out, wide) = len(b1) * len(b2), (len(a1), b1.shape[1])
    if rank * (out + wide) >= out * wide:
        return FullLayer((a1 @ b1) * (a2 @ b2), bias)
    up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    return LoraLayer((b1[:, None, :] * b2[None, :, :]).flatten(0, 1), up, bias)


def turned(update: Update, base: Tensor, magnitude: Tensor) -> FullLayer:
    """DoRA (Liu and others, arXiv 2402.09353): base + update, its rows made as long as is said.

    base (out, in); magnitude (out,), (out, 1), or (1, in) for columns, as older LyCORIS has it.
    What is added stays the same whatever is merged later, so it is kept whole, in base's dtype:
    of a base in float8, which is too coarse for it, in bfloat16.
    Raises ValueError for other shapes, and for rows of length 0.
    """
    of_columns = magnitude.dim() == 2 and magnitude.shape == (1, base.shape[1])
    if not of_columns and magnitude.numel() != len(base):
        raise ValueError(f"{tuple(magnitude.shape)} lengths for a matrix {tuple(base.shape)}")
    whole = base.float() + update.delta.to(base.device)
    wanted = magnitude.float().reshape((1, -1) if of_columns else (-1, 1)).to(base.device)
    whole *= wanted / whole.norm(dim=int(not of_columns), keepdim=True)
    if not whole.isfinite().all():
        raise ValueError("rows of length 0, or lengths that are no numbers")
    dtype = base.dtype if base.itemsize > 1 else torch.bfloat16
    return FullLayer((whole - base.float()).to(dtype), update.bias)


def is_idle(update: Update) -> bool:
    """Whether an update adds nothing to any input: of each of its products one factor is 0."""
    parts = getattr(update, "parts", [update])
    factors = [[p for name, p in one.named_parameters() if name != "bias"] for one in parts]
    still = all(any(not p.any() for p in some) for some in factors)
    return still and (update.bias is None or not update.bias.any())


def join(parts: Sequence[tuple[Tensor, Update]], out: int) -> Update:
    """One update of a layer of `out` rows from those of its parts; each comes with its rows.

    Ranks of thin ones add up, but for parts that share their `down`, as those do that we have cut
    ourselves.
    """
    thin = [part for _, part in parts if isinstance(part, LoraLayer)]
    if len(thin) < len(parts):
        rows, part = parts[0]
        whole = len(parts) == 1 and torch.equal(rows, torch.arange(out))
        return part if whole else PartsLayer(parts, out)
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for (rows, _), part in zip(parts, thin, strict=True):
        same = [i for i, down in enumerate(downs) if torch.equal(down, part.down)]
        if not same:
            downs.append(part.down.detach())
            ups.append(torch.zeros(out, len(part.down)))
        ups[same[0] if same else -1][rows] += part.up.detach()
    return LoraLayer(torch.cat(downs), torch.cat(ups, dim=1), _joined_bias(parts, out))
