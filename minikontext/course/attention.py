"""Where tokens look: attention weights of the running model, pictures of them, two widgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets as W
import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from minikontext import images as image_io
from minikontext import rope
from minikontext.course import parts, samples, style
from minikontext.course.patches import CSS, PatchPicture, chips, heat, share_bar
from minikontext.course.sequence import colour_of
from minikontext.denoiser import PATCH
from minikontext.editing.output import KontextOutput
from minikontext.errors import SizeError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.attention import Function, instead
from minikontext.sampler import StepInfo

LIMIT = 2**27  # weights to keep: half a gigabyte in float32
SIDE = 204  # pixels of a picture in a widget
ALONE = "no second picture"

# ------------------------------------------------------------------------------------- watching


def attention_weights(q: Tensor, k: Tensor, rotations: Tensor) -> Tensor:
    """Compute what `layers.attention` keeps to itself: `softmax(q k^T / sqrt(d))`, rotated first.

    q, k (b, n, heads, d) -> (b, heads, n, n), float32; each row adds up to 1.
    """
    q, k = (rope.rotate(rearrange(x, "b n h d -> b h n d"), rotations) for x in (q, k))
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)


@contextmanager
def watch_attention(limit: int = LIMIT) -> Iterator[list[Tensor]]:
    """Collect the attention weights (b, heads, n, n) of every block that runs inside, in order.

    The model computes as ever; only the result is noted. Raises SizeError for more than `limit`
    numbers: at full size one block has gigabytes of them.
    """
    seen: list[Tensor] = []

    def note(q: Tensor, k: Tensor, rotations: Tensor) -> None:
        count = sum(x.numel() for x in seen) + q.shape[0] * q.shape[2] * q.shape[1] ** 2
        if count > limit:
            raise SizeError(
                f"Watching needs {count:,} numbers, more than the limit of {limit:,}. "
                "Use a smaller picture, fewer steps, or a higher limit."
            )
        seen.append(attention_weights(q, k, rotations).detach())

    def watching(real: Function) -> Function:
        return lambda q, k, v, rotations: (note(q, k, rotations), real(q, k, v, rotations))[1]

    with instead("attention", watching):
        yield seen


@dataclass(frozen=True)
class WatchedEdit:
    """An edit of one picture, and where every token looked on the way.

    weights (steps, blocks, heads, n, n): row = who looks, column = where. words: one a text token.
    grids: (rows, cols) of the target, then of each context. clean: the estimate after each step.
    """

    output: KontextOutput
    weights: Tensor
    words: list[str]
    grids: list[tuple[int, int]]
    contexts: list[Image.Image]
    times: list[float]
    clean: list[Tensor]

    @property
    def names(self) -> list[str]:
        """The parts of the sequence, in order."""
        several = len(self.contexts) > 1
        names = [f"context {i}" for i in range(1, len(self.contexts) + 1)]
        return ["text", "target", *(names if several else ["context"] * len(self.contexts))]

    def attention_from(
        self,
        patch: tuple[int, int],
        step: int = -1,
        block: int | None = None,
        head: int | None = None,
    ) -> list[Tensor]:
        """Where the target's patch (row, col) looks; without block or head, their mean.

        -> text (m,), target (rows, cols), then (rows, cols) of each context; together 1.
        """
        row = len(self.words) + patch[0] * self.grids[0][1] + patch[1]
        return self.split(self._chosen(step, block, head)[row])

    def shares(
        self, step: int = -1, block: int | None = None, head: int | None = None
    ) -> list[float]:
        """How much of the whole target's attention goes to each part: text, target, contexts."""
        m, n = len(self.words), math.prod(self.grids[0])
        row = self._chosen(step, block, head)[m : m + n].mean(dim=0)
        return [part.sum().item() for part in self.split(row)]

    def split(self, row: Tensor) -> list[Tensor]:
        """Cut one row of weights (n,) into the parts of the sequence, as grids."""
        sizes = [len(self.words), *(math.prod(grid) for grid in self.grids)]
        text, *pictures = row.split(sizes)
        return [text, *(part.view(grid) for part, grid in zip(pictures, self.grids))]

    def _chosen(self, step: int, block: int | None, head: int | None) -> Tensor:
        chosen = self.weights[step]  # (blocks, heads, n, n)
        chosen = chosen.mean(dim=0) if block is None else chosen[block]
        return chosen.mean(dim=0) if head is None else chosen[head]


def watch_edit(
    pipe: KontextPipeline, prompt: str, image: Any = (), callback: Any = None, **settings: Any
) -> WatchedEdit:
    """Edit one picture (or several contexts) and keep all attention weights.

    `settings` are those of a call of the pipeline. Guidance is off: one pass a step.
    """
    contexts = [image_io.read(x) for x in (image if isinstance(image, (list, tuple)) else [image])]
    steps: list[StepInfo] = []

    def note(info: StepInfo) -> object:
        steps.append(info)
        return callback(info) if callback else None

    settings = {"true_cfg_scale": 1.0, "progress": False, **settings}
    with watch_attention() as seen:
        output = pipe(prompt, image=contexts or None, callback=note, **settings)
    weights = torch.cat(seen).cpu().unflatten(0, (len(steps), -1))  # one sample: b = 1
    plans = [_snapped(pipe, picture) for picture in contexts]
    grids = [tuple(side // PATCH for side in output.latents.shape[-2:])]
    multiple = pipe.codec.multiple
    grids += [(h // multiple, w // multiple) for w, h in (plan.working for plan in plans)]
    shown = [plan.apply(picture) for plan, picture in zip(plans, contexts)]
    times, clean = [info.t for info in steps], [info.clean for info in steps]
    return WatchedEdit(output, weights, words_of(pipe, prompt), grids, shown, times, clean)


def _snapped(pipe: KontextPipeline, picture: Image.Image) -> image_io.ResizePlan:
    return image_io.plan(picture.size, "kontext", pipe.codec.multiple, pipe.defaults.sizes)


def words_of(pipe: KontextPipeline, prompt: str) -> list[str]:
    """One word for each text token of the toy's encoder, padding included."""
    encoder = pipe.text_encoder
    return [encoder.words[i] for i in encoder.tokenize([prompt])[0].tolist()]


# ------------------------------------------------------------------------------------- pictures


def spotlight(
    picture: Image.Image,
    weights: Tensor,
    top: float,
    chosen: tuple[int, int] | None = None,
    side: int = SIDE,
) -> Image.Image:
    """Light a picture by the attention its patches get; the rest lies in the dark.

    weights (rows, cols); a patch with the weight `top` is fully lit. `chosen` gets a frame.
    """
    rows, cols = weights.shape
    factor = side / max(picture.size)
    size = tuple(round(x * factor) for x in picture.size)
    light = (weights / max(top, 1e-9)).clamp(0, 1).sqrt() * 0.82 + 0.18  # sqrt: see faint ones, too
    mask = image_io.to_pil(light.expand(1, 3, rows, cols) * 2 - 1)[0].convert("L")
    mask = mask.resize(size, Image.Resampling.NEAREST)
    large = picture.resize(size, Image.Resampling.NEAREST)
    page = Image.composite(large, Image.new("RGB", size, style.INK), mask)
    if chosen is not None:
        high, wide = size[1] / rows, size[0] / cols
        left, upper = round(chosen[1] * wide), round(chosen[0] * high)
        box = (left, upper, round(left + wide) - 1, round(upper + high) - 1)
        ImageDraw.Draw(page).rectangle(box, outline=style.ACCENT, width=3)
    return page


def spotlights(
    pipe: KontextPipeline,
    edit: WatchedEdit,
    patch: tuple[int, int],
    step: int = -1,
    block: int | None = None,
    head: int | None = None,
) -> list[Image.Image]:
    """Where the target's patch looks: the target as estimated at this step, then each context.

    One scale for all: the patch with the most attention is fully lit.
    """
    _, *maps = edit.attention_from(patch, step, block, head)
    top = max(x.max().item() for x in maps)
    pictures = [pipe.decode(edit.clean[step])[0], *edit.contexts]
    frames = [patch, *[None] * len(edit.contexts)]
    return [spotlight(p, w, top, frame) for p, w, frame in zip(pictures, maps, frames)]


def overview(
    edit: WatchedEdit,
    patch: tuple[int, int],
    step: int = -1,
    chosen: tuple[int, int] | None = None,
    width: int = 232,
) -> Image.Image:
    """Every block (row) and head (column) at once: the maps of target and contexts side by side.

    Darker is more; each small map has its own scale. `chosen` is a (block, head).
    """
    blocks, heads = edit.weights.shape[1:3]
    wide, high = width // heads, 34
    page = Image.new("RGB", (wide * heads, high * blocks), style.PAPER)
    draw = ImageDraw.Draw(page)
    for block in range(blocks):
        for head in range(heads):
            _, *maps = edit.attention_from(patch, step, block, head)
            corner, box = (head * wide, block * high), (wide - 6, high - 6)
            _small_maps(page, maps, (corner[0] + 3, corner[1] + 3), box)
            if chosen == (block, head):
                frame = (*corner, corner[0] + wide - 1, corner[1] + high - 1)
                draw.rectangle(frame, outline=style.ACCENT, width=2)
    return page


def _small_maps(
    page: Image.Image, maps: Sequence[Tensor], corner: tuple[int, int], box: tuple[int, int]
) -> None:
    top = max(x.max().item() for x in maps)
    wide = (box[0] - 2 * (len(maps) - 1)) // len(maps)
    for i, weights in enumerate(maps):
        tile = heat(weights, top, colour_of(i + 1)).resize((wide, box[1]), Image.Resampling.NEAREST)
        page.paste(tile, (corner[0] + i * (wide + 2), corner[1]))


# -------------------------------------------------------------------------------------- widgets


class AttentionWidget(parts.Desk):
    """Click a patch of the target and see where it looks: words, target and context.

    Click a block and head to see that one alone. Parts: picture, second, prompt, run, cancel,
    target, contexts, heads, every, step, shares, words, progress, status. For toy-sized models.
    """

    css = CSS

    def __init__(
        self,
        pipe: KontextPipeline,
        pictures: Mapping[str, Image.Image] | None = None,
        prompt: str = "make the hat red",
        steps: int = 12,
    ) -> None:
        self.pipe, self.steps, self.first = pipe, steps, prompt
        self.pictures = samples.by_name(pictures)
        super().__init__()
        self._connect()
        self._guarded()

    def _make_controls(self) -> None:
        config = self.pipe.transformer.config
        blocks = config.depth + config.depth_single_blocks
        self._make_desk(self.first, ("Edit", "Edit the picture and watch (Enter)"))
        self.second = parts.choice([ALONE, *self.pictures], "Second", "215px")
        self.target = PatchPicture("the target: click a patch", 1, 1)
        self.target.set_trait("chosen", (1, 1))
        self.contexts = parts.row([])
        self.heads = PatchPicture("all blocks and heads", blocks, config.num_heads,
                                  "block {}, head {}", "mk-plot")  # fmt: skip
        self.one: tuple[int, int] | None = None  # the block and head shown alone
        self.every = parts.button("Mean of all heads", "Not one head alone", "mk-quiet", "150px")
        self.step = W.IntSlider(
            (self.steps + 1) // 2, 1, self.steps, description="Step", style=parts.TIGHT,
            layout=parts.wide("240px"),
        )  # fmt: skip
        self.every.layout.flex = "none"
        self.shares, self.words = W.HTML(), W.HTML()

    def _arrange(self) -> list[W.Widget]:
        shown = parts.captioned(
            (self.target, self.contexts, self.heads),
            ("target: click a patch", "", "blocks ↓ heads →: click one"), wrap=True,
        )  # fmt: skip
        return [
            parts.row([self.picture, self.second, self.seed]),
            self.asking,
            self.working,
            shown,
            self.shares,
            self.words,
            parts.row([self.step, self.every]),
            self.status,
        ]

    def _connect(self) -> None:
        self._connect_desk()
        parts.follow(self._read_prompt, self.prompt)
        self.every.on_click(lambda _: self._choose_head(None))
        parts.follow(self.show, self.target, trait="chosen")
        parts.follow(self.show, self.step)
        for cell in self.heads.cells.values():  # a click counts even if it changes nothing
            cell.on_click(lambda _: self._choose_head(self.heads.chosen))

    # ---- the edit

    def _work(self) -> None:
        names = [name for name in (self.picture.value, self.second.value) if name != ALONE]
        pictures = [self.pictures[name] for name in names]
        settings = {"seed": self.seed.value, "num_inference_steps": self.steps}
        self.edit = watch_edit(self.pipe, self.prompt.value, pictures, self._step, **settings)
        self._open()

    def _cancelled(self) -> str:
        return "Cancelled. The pictures are those of the last edit."

    def _read_prompt(self) -> None:
        if not self.at_work:
            self._say_words("Press Edit or Enter.")

    def _dials(self) -> tuple[W.Widget, ...]:
        return (self.run,)

    def _open(self) -> None:
        """Fit the grids to the new edit, and show it."""
        rows, cols = self.edit.grids[0]
        self.target.divide(rows, cols)
        row, col = self.target.chosen
        self.target.set_trait("chosen", (min(row, rows - 1), min(col, cols - 1)))
        boxes = [PatchPicture(f"context {i}", 0, 0) for i in range(len(self.edit.contexts))]
        names = self.edit.names[2:]
        shown = [W.VBox([b, parts.caption(name)]) for b, name in zip(boxes, names)]
        parts.swap(self.contexts, shown)
        self.show()

    # ---- what the user sees

    def _choose_head(self, one: tuple[int, int] | None) -> None:
        self.one = one
        self.show()

    def show(self) -> None:
        """Draw everything for the chosen patch, step, block and head."""
        patch, step, (block, head) = (
            self.target.chosen,
            self.step.value - 1,
            self.one or (None,) * 2,
        )
        lit = spotlights(self.pipe, self.edit, patch, step, block, head)
        for box, picture in zip(
            (self.target, *(b.children[0] for b in self.contexts.children)), lit
        ):
            box.show(picture)
        self.heads.show(overview(self.edit, patch, step, self.one))
        weights = self.edit.attention_from(patch, step, block, head)
        shares = [part.sum().item() for part in weights]
        self.shares.value = share_bar(self.edit.names, shares)
        self.words.value = chips(self.edit.words, weights[0].tolist())
        self._say_with_notes("idle", self._sentence(weights))

    def _sentence(self, weights: Sequence[Tensor]) -> str:
        """Say in words what the picture shows."""
        row, col = self.target.chosen
        best = max(range(1, len(weights)), key=lambda i: weights[i].max())
        r, c = divmod(weights[best].argmax().item(), weights[best].shape[1])
        who = (
            f"block {self.one[0] + 1}, head {self.one[1] + 1}" if self.one else "mean of all heads"
        )
        return (
            f"t = {self.edit.times[self.step.value - 1]:.2f}, {who}: the patch in row {row + 1}, "
            f"column {col + 1} looks most at {self.edit.names[best]} row {r + 1}, column {c + 1} "
            f"({weights[best].max():.0%})."
        )
