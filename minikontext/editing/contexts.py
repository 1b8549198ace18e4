"""Context images of a call: read, planned, filtered, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minikontext import images
from minikontext.editing.codec import Codec
from minikontext.editing.defaults import Defaults
from minikontext.editing.output import KontextOutput, output_sources
from minikontext.editing.request import context_slots
from minikontext.errors import ImageError, SizeError, WeightsWarning, warn
from minikontext.images import provenance
from minikontext.images.provenance import Source
from minikontext.images.resize import ResizePlan, check_mode
from minikontext.safety.filters import Safety


class PictureWarning(WeightsWarning):
    """A context picture is unlike what the weights know: their autoencoder cannot reproduce it."""


@dataclass(frozen=True)
class Context:
    """One context image of every sample: latents (b or 1, c, h, w) and its target-size plan.

    sources: what is known of each picture behind these latents, one for each.
    """

    latents: Tensor
    plan: ResizePlan
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class ContextReader:
    """Turns what a caller gives as `image` into contexts; `name` is that of the weights."""

    codec: Codec
    defaults: Defaults
    safety: Safety | None = None
    name: str = "untitled"

    def read(
        self, image: Any, count: int, per_prompt: int, resize: str,
        size: tuple[int | None, int | None] = (None, None),
    ) -> list[Context]:  # fmt: skip
        """One Context a slot, each for all `count` samples; size: the result's, if it is asked for.

        Raises ImageError, SizeError, NonFiniteError, SafetyError for what a filter refuses, and
        ConfigError for a `resize` that is not known, even where there is no picture.
        """
        check_mode(resize)
        slots = context_slots(image, count // per_prompt)
        if len(slots) > self.defaults.max_contexts:
            raise ImageError(
                f"Got {len(slots)} context images, but {self.name} was trained with at most "
                f"{self.defaults.max_contexts}. For one image a prompt, give a list of lists."
            )
        if len(slots) < self.defaults.min_contexts:
            raise ImageError(f"{self.name} only edits: give an image, or use other weights.")
        contexts: list[Context] = []
        for slot in slots:
            contexts.append(self.encode_slot(slot, resize, size))
            size = self._result(*size, contexts[0].plan)
        return [_for_all(context, count, per_prompt) for context in contexts]

    def encode_slot(
        self, slot: Sequence[Any], resize: str, size: tuple[int | None, int | None] = (None, None)
    ) -> Context:
        """Encode the pictures of one slot together; all need one size inside the model."""
        inputs, plans, sources = zip(*(self._read(item, resize, size) for item in slot))
        if len(sizes := {str(plan) for plan in plans}) > 1:
            raise SizeError(
                f"The pictures of one batch have different sizes ({'; '.join(sorted(sizes))}). "
                "Edit them one by one, or bring them to one size first."
            )
        if self.safety:
            self.safety.refuse("input", self._as_pictures(inputs))
        pictures = [item for item in inputs if isinstance(item, Image.Image)]
        encoded = iter(self._encoded(pictures) if pictures else ())
        latents = [next(encoded) if isinstance(item, Image.Image) else item for item in inputs]
        return Context(torch.cat(latents), plans[0], sum(sources, ()))

    def _encoded(self, pictures: list[Image.Image]) -> tuple[Tensor, ...]:
        """Latents of pictures of one size; warns where one of them comes back as another."""
        latents, least = self.codec.encode(pictures), self.defaults.least_psnr
        if least is not None and (worst := self.worst_psnr(pictures, latents)) < least:
            warn(
                PictureWarning(
                    f"A context picture is unlike what {self.name} knows: its autoencoder gives it "
                    f"back with {worst:.1f} dB, pictures of its world with {least:g} and more. "
                    "Expect a smear; a photograph needs FLUX weights."
                )
            )
        return latents.split(1)

    def worst_psnr(self, pictures: list[Image.Image], latents: Tensor | None = None) -> float:
        """PSNR in dB, of the picture that the autoencoder reproduces worst; all of one size.

        latents: (n, c, h/8, w/8), where they are there already.
        """
        latents = self.codec.encode(pictures) if latents is None else latents
        before, after = (images.to_tensor(some) for some in (pictures, self.codec.decode(latents)))
        error = (before.float() - after.float()).square().mean((1, 2, 3)).max() / 4
        return float(-10 * torch.log10(error + 1e-12))

    def target_plan(
        self, width: int | None, height: int | None, contexts: Sequence[Context]
    ) -> ResizePlan:
        """Size of the result: as requested, else the first context's, else the default."""
        if width is None and height is None and contexts:
            return contexts[0].plan
        first = contexts[0].plan if contexts else None
        return self._plan(self._result(width, height, first), "none")

    def _result(
        self, width: int | None, height: int | None, first: ResizePlan | None
    ) -> tuple[int, int]:
        """Size of the result; `first` is the plan of the first context."""
        if width is None and height is None and first:
            return first.working
        default = first.original if first else (self.defaults.width, self.defaults.height)
        return (default[0] if width is None else width, default[1] if height is None else height)

    def _plan(
        self, size: images.Size, resize: str, target: images.Size | None = None
    ) -> ResizePlan:
        sizes = self.defaults.sizes
        return images.plan(size, resize, self.codec.multiple, sizes, target=target)

    def _read(
        self, item: Any, resize: str, size: tuple[int | None, int | None]
    ) -> tuple[Image.Image | Tensor, ResizePlan, tuple[Source, ...]]:
        """A picture in its size inside the model, or latents as they are; its plan and sources.

        Weights of several areas see an output of another size than the result's as a picture: its
        latents cannot grow.
        """
        if isinstance(item, Tensor):
            latents = self.codec.check_latents(item)
            own = tuple(x * self.codec.downsample for x in latents.shape[:1:-1])
            return latents, ResizePlan(own, own, "none"), (Source(),) * len(latents)
        output = item if isinstance(item, KontextOutput) else None
        picture = output.images[0] if output else images.read(item)
        width, height = (own if asked is None else asked for asked, own in zip(size, picture.size))
        target = None if size == (None, None) else (width, height)
        plan = self._plan(picture.size, resize, target)
        if not output:
            return plan.apply(picture), plan, (provenance.source(picture),)
        asked = target and resize != "none" and self._plan(target, "none").working
        several = images.of_several_areas(self.defaults.sizes)
        if not several or plan.working != asked or plan.working == output.plan.working:
            return self.codec.check_latents(output.latents), output.plan, output_sources(output)
        latents = self.codec.encode([plan.apply(one) for one in output.images])
        return latents, plan, output_sources(output)

    def _as_pictures(self, inputs: Sequence[Image.Image | Tensor]) -> list[Image.Image]:
        """What the model is shown, as a filter can look at it: latents are decoded."""
        pictures: list[Image.Image] = []
        for item in inputs:
            pictures += [item] if isinstance(item, Image.Image) else self.codec.decode(item)
        return pictures


def _for_all(context: Context, count: int, per_prompt: int) -> Context:
    """One latent for all samples, one for each prompt, or one for each sample."""
    n = len(context.latents)
    if n in (1, count):
        return context
    if n * per_prompt == count:
        latents = context.latents.repeat_interleave(per_prompt, dim=0)
        sources = tuple(s for s in context.sources for _ in range(per_prompt))
        return replace(context, latents=latents, sources=sources)
    raise ImageError(
        f"Got {n} context images for {count} results. Give one for all, or one for each prompt."
    )
