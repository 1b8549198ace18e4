"""Latents to tokens and back; position ids; joining target and context (paper section 3)."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from minikontext.errors import ConfigError, SizeError

LAYOUTS = ("index", "offset", "scaled")
# Wide enough for neighbours among 4 or 8 tokens a side to differ by radians in RoPE's fast pairs.
SPAN = 16.0  # how long the shorter side of every picture is, where its places are "scaled"


def pack(latents: Tensor, patch: int = 2) -> Tensor:
    """Cut latents into patches, one token each, channel-major inside a token.

    (b, c, h, w) -> (b, h/patch * w/patch, c * patch * patch).
    Raises SizeError if the patch does not divide h and w.
    """
    height, width = latents.shape[-2:]
    if height % patch or width % patch:
        raise SizeError(
            f"Latents of {height} x {width} (height x width) cannot be cut into patches of "
            f"{patch} x {patch}. Use a height and a width divisible by {patch}."
        )
    return rearrange(latents, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=patch, pw=patch)


def unpack(tokens: Tensor, height: int, width: int, patch: int = 2) -> Tensor:
    """Undo `pack`; height and width are those of the latents.

    (b, height/patch * width/patch, c * patch * patch) -> (b, c, height, width).
    Raises SizeError if the number of tokens does not fit height and width.
    """
    h, w = height // patch, width // patch
    if tokens.shape[1] != h * w:
        raise SizeError(
            f"Got {tokens.shape[1]} tokens, but latents of {height} x {width} have {h * w}. "
            "Cut the target from the sequence first, and give sizes in latent pixels."
        )
    pattern = "b (h w) (c ph pw) -> b c (h ph) (w pw)"
    return rearrange(tokens, pattern, h=h, w=w, ph=patch, pw=patch)


def position_ids(rows: int, cols: int, index: int = 0, row: int = 0, col: int = 0) -> Tensor:
    """Number the tokens of one image: (index, row, col), in tokens, from the given corner on.

    `index` is the paper's virtual time step: 0 for the target. -> (rows * cols, 3), int64.
    """
    r = torch.arange(row, row + rows)
    c = torch.arange(col, col + cols)
    return torch.cartesian_prod(torch.tensor([index]), r, c)


def context_ids(grids: Sequence[tuple[int, int]], layout: str = "index") -> list[Tensor]:
    """Number the tokens of several context images of (rows, cols) tokens each.

       "index" (the paper): image i gets virtual time step i, and each grid starts at (0, 0).
       "offset" (common in the wild): all get step 1, and each next image lies below or right of
       the earlier ones, whichever keeps the whole closer to a square.
       "scaled": as "index", but in shares of the picture, as the target: `scaled_ids`.
    (rows * cols, 3) tensor an image. Raises ConfigError for an unknown layout.
    """
    if layout == "offset":
        corners = _corners(grids)
        return [position_ids(*grid, 1, *at) for grid, at in zip(grids, corners)]
    if layout not in LAYOUTS:
        raise ConfigError(f"Unknown context layout {layout!r}. Use one of {LAYOUTS}.")
    return [scaled_ids(position_ids(*g, i), layout) for i, g in enumerate(grids, start=1)]


def scaled_ids(ids: Tensor, layout: str = "scaled") -> Tensor:
    """Scale one picture's ids so that its shorter side spans SPAN, in the layout "scaled".

    So a token's place says what part of the picture it is, whatever the picture's size: float64.
    """
    if layout != "scaled":
        return ids
    scale = SPAN / float(ids[:, 1:].amax(0).min() + 1)
    factors = torch.tensor([1, scale, scale], dtype=torch.double)
    return factors * ids + (factors - 1) / 2


def _corners(grids: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Place grids side by side without overlap: the top left corner of each."""
    corners, height, width = [], 0, 0
    for rows, cols in grids:
        right = height + rows > width + cols
        corners.append((0, width) if right else (height, 0))
        height = max(height, rows if right else height + rows)
        width = max(width, width + cols if right else cols)
    return corners


def join_context(
    target: Tensor, target_ids: Tensor, contexts: Sequence[Tensor] = (),
    context_ids: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Append the context images' tokens to the target's: sequence concatenation.

    target (b, n, c), contexts (b or 1, n_i, c), ids (n, 3) and (n_i, 3)
    -> img (b, n + sum n_i, c), img_ids (n + sum n_i, 3). No context: text-to-image.
    Raises SizeError if tokens and ids do not fit.
    """
    tokens, ids = (target, *contexts), (target_ids, *context_ids)
    if [t.shape[1] for t in tokens] != [i.shape[-2] for i in ids]:
        raise SizeError(
            f"Got images of {[t.shape[1] for t in tokens]} tokens (the target first), but ids for "
            f"{[i.shape[-2] for i in ids]}. Give every image its own position ids."
        )
    img = torch.cat([t.expand(target.shape[0], -1, -1) for t in tokens], dim=1)
    return img, torch.cat([i.to(img.device) for i in ids], dim=-2)


def cut_target(velocity: Tensor, n_target: int) -> Tensor:
    """Keep the prediction for the target: (b, n_target + n_context, c) -> (b, n_target, c)."""
    return velocity[:, :n_target]
