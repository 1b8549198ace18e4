"""Who may see whom: attention under a mask, and the widget of notebook 04 that cuts its arrows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import ipywidgets as W
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minikontext.course import samples
from minikontext.course.parts import (
    Desk,
    Picture,
    caption,
    captioned,
    fade,
    follow,
    row,
    show,
)  # fmt: skip
from minikontext.denoiser import PATCH
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.attention import instead
from minikontext.sampler import StepInfo

PARTS = ("text", "target", "context")
Arrow = tuple[str, str]  # who sees, who is seen
CUTS: dict[str, tuple[Arrow, ...]] = {
    "everybody sees everybody": (),
    "nobody sees the target": (("text", "target"), ("context", "target")),
    "the context sees only itself": (("context", "text"), ("context", "target")),
    "the target sees no context": (("target", "context"),),
}


def mask_without(cut: Collection[Arrow], sizes: Sequence[int]) -> Tensor:
    """Which token (row) may see which (column), (s, s) bool; a token always sees itself.

    cut: arrows (who, whom) between PARTS. sizes: tokens of text, target and context.
    """
    sees = torch.tensor([[(who, whom) not in cut for whom in PARTS] for who in PARTS])
    part = torch.arange(len(PARTS)).repeat_interleave(torch.tensor(sizes))  # (s,)
    return sees[part][:, part] | torch.eye(len(part), dtype=torch.bool)


@contextmanager
def seeing_without(cut: Collection[Arrow], text: int, target: int) -> Iterator[None]:
    """Run the transformer's attention without some arrows.

    text, target: how many tokens they have; the rest of the row is context.
    """

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = mask_without(cut, (text, target, q.shape[-2] - text - target))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.device))

    with instead("attend", lambda _: masked):
        yield


class WhoSeesWidget(Desk):
    """Cut arrows between text, target and context and edit: whole and cut side by side.

    Parts: picture, prompt, presets, seed, run, cancel, progress, status; `arrows` by (who, whom),
    True where one sees the other; `before`, `whole` and `cut` are the pictures.
    """

    def __init__(
        self,
        pipe: KontextPipeline,
        pictures: Mapping[str, Image.Image] | None = None,
        prompt: str = "make the hat red",
        steps: int = 8,
    ) -> None:
        self.pipe, self.steps, self.first = pipe, steps, prompt
        self.pictures = samples.by_name(pictures)
        super().__init__()
        self._connect_desk()
        follow(self._forget, self.picture, self.prompt, self.seed, *self.arrows.values())
        self._offer({name: lambda cut=cut: self._cut(cut) for name, cut in CUTS.items()})
        self._forget()

    def _make_controls(self) -> None:
        self._make_desk(self.first, ("Edit", "Edit with all arrows and with those left (Enter)"))
        self.arrows = {
            (who, whom): W.ToggleButton(True, description="sees", tooltip=f"{who} sees {whom}",
                                        layout=W.Layout(width="auto", min_width="0"))
            for who, whom in product(PARTS, PARTS)
        }  # fmt: skip
        self.before, self.whole, self.cut = (
            Picture(name) for name in ("before", "all arrows", "with your cuts")
        )

    def _arrange(self) -> list[W.Widget]:
        cells: list[W.Widget] = [caption("who ↓ whom →"), *map(caption, PARTS)]
        for who in PARTS:
            cells += [caption(who), *(self.arrows[who, whom] for whom in PARTS)]
        layout = W.Layout(
            grid_template_columns="minmax(0, 84px) repeat(3, minmax(0, 88px))", align_items="center"
        )
        pictures = (self.before, self.whole, self.cut)
        return [
            row([self.picture, self.seed]),
            self.asking,
            self.presets,
            W.GridBox(cells, layout=layout),
            self.working,
            captioned(pictures, ("before", "everybody sees everybody", "with your cuts")),
            self.status,
        ]

    def _dials(self) -> Iterable[W.Widget]:
        return (self.run, self.picture, self.prompt, self.seed, *self.arrows.values())

    @property
    def missing(self) -> list[Arrow]:
        """The arrows that are cut."""
        return [arrow for arrow, part in self.arrows.items() if not part.value]

    def _cut(self, arrows: Collection[Arrow]) -> None:
        for arrow, part in self.arrows.items():
            part.value = arrow not in arrows

    def _forget(self) -> None:
        """A dial was turned: the pictures no longer fit."""
        if self.at_work:
            return
        for part in self.arrows.values():
            part.description = "sees" if part.value else "cut"
        for box in (self.before, self.whole, self.cut):
            show(box, self.pictures[self.picture.value])
            fade(box, box is not self.before)
        self._say("idle", "Cut some arrows and press Edit. No weight is changed.")

    def _work(self) -> None:
        self.progress.max = 2 * self.steps
        whole = self._edit(nullcontext())
        target = whole.latents.shape[-2] * whole.latents.shape[-1] // PATCH**2
        cut = self._edit(seeing_without(self.missing, self.pipe.text_encoder.max_length, target))
        for box, generated in ((self.whole, whole), (self.cut, cut)):
            show(box, generated.images[0])
            fade(box, False)
        cuts = ", ".join(f"{who} → {whom}" for who, whom in self.missing) or "nothing"
        self._say_with_notes("done", f"Cut: {cuts}.")

    def _edit(self, way: Any) -> Any:
        settings = {"num_inference_steps": self.steps, "callback": self._step, "progress": False}
        image = self.pictures[self.picture.value]
        with way:
            return self.pipe(self.prompt.value, image=image, seed=self.seed.value, **settings)

    def _step(self, info: StepInfo) -> bool:
        self.progress.value += 1
        return not self._stop.is_set()
