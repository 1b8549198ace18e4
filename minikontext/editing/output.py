"""What a call returns: images, latents, seeds, the resize plan, provenance."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from minikontext.editing import tables
from minikontext.editing.codec import Codec
from minikontext.editing.request import Request
from minikontext.images import provenance
from minikontext.images.provenance import Provenance, Source
from minikontext.images.resize import ResizePlan
from minikontext.safety.filters import Verdict


class HasSources(Protocol):
    """A context as the end of a call sees it: what is known of its pictures."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Of each picture behind these latents."""


@dataclass(frozen=True, eq=False)
class KontextOutput:
    """What a call made: n images, their latents (n, c, h, w), their seeds, the resize plan.

    `verdicts` has what the output filter said of each image, if there is one. A withheld image is
    a grey card, and so are its latents.
    `output[i]` is the output with only image i. Pass an output as `image=` to edit it further
    from its latents, without the loss of a round trip through pixels.
    """

    images: list[Image.Image]
    latents: Tensor
    seeds: list[int]
    plan: ResizePlan
    provenance: list[Provenance] = field(default_factory=list, repr=False)
    verdicts: list[Verdict] = field(default_factory=list, repr=False)

    def _repr_html_(self) -> str:
        """The pictures, where a notebook shows the output."""
        edits = self.provenance or [Provenance()] * len(self)
        return tables.pictures(
            (image, edit.prompt, f"seed {seed}, {image.width} × {image.height}")
            for image, edit, seed in zip(self.images, edits, self.seeds)
        )

    @property
    def withheld(self) -> list[int]:
        """The numbers of the images that the output filter replaced by a grey card."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.flagged]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice) -> KontextOutput:
        """The output with one image, or with those of a slice. Raises IndexError."""
        if isinstance(index, slice):
            return self._cut(index)
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"Got index {index}, but there are {len(self)} images.")
        return self._cut(slice(i % len(self), i % len(self) + 1))

    def _cut(self, rows: slice) -> KontextOutput:
        lists = (self.images, self.seeds, self.provenance, self.verdicts)
        pictures, seeds, *facts = (one[rows] for one in lists)
        return KontextOutput(pictures, self.latents[rows], seeds, self.plan, *facts)

    def __eq__(self, other: object) -> bool:
        """Equal pictures from equal latents and seeds, wherever those lie."""
        if not isinstance(other, KontextOutput):
            return NotImplemented
        facts = ("images", "seeds", "plan", "provenance", "verdicts")
        same = all(getattr(self, name) == getattr(other, name) for name in facts)
        return same and torch.equal(self.latents.cpu(), other.latents.cpu())

    def __hash__(self) -> int:
        return hash((tuple(self.seeds), self.plan))

    def save(
        self, path: str | Path, private: bool | None = None, quality: int | None = None
    ) -> list[Path]:
        """Write the images with their provenance; several get -0, -1, … in their names.

        PNG, JPEG or WebP, as `provenance.save` says; private: without the prompts.
        """
        path = Path(path)
        names = [path.with_stem(f"{path.stem}-{i}") for i in range(len(self))]
        names = [path] if len(self) == 1 else names
        edits = self.provenance or [None] * len(self)
        items = zip(self.images, names, edits, strict=True)
        return [provenance.save(*item, private=private, quality=quality) for item in items]


def output_sources(output: KontextOutput) -> tuple[Source, ...]:
    """What is known of the pictures of an output, whose latents are edited further."""
    edits = output.provenance or [None] * len(output)
    return tuple(Source(provenance.checksum(i), edit) for i, edit in zip(output.images, edits))


def finish(
    request: Request,
    contexts: Sequence[HasSources],
    plan: ResizePlan,
    latents: Tensor,
    images: list[Image.Image],
    verdicts: list[Verdict],
    weights: tuple[str, str, str, str],
    asked: tuple[str | None, str],
) -> KontextOutput:
    """The last step of a call: bring images to their size, each with how it was made.

    weights: their names, their fingerprint, that of their configuration, and how they compute.
    asked: the call's layout and resize, which decide where and how large contexts are seen.
    """
    if contexts:
        seen = f"layout {asked[0] or request.settings.context_layout}, resize {asked[1]}"
        weights = (*weights[:3], f"{weights[3]}, {seen}")
    images = [plan.undo(image) for image in images]
    flagged = [verdict.flagged for verdict in verdicts] or [False] * len(images)
    edits = [replace(e, withheld=f) for e, f in zip(_edits(request, *weights), flagged)]
    for i, image in enumerate(images):
        sources = [c.sources[i if len(c.sources) > 1 else 0] for c in contexts]
        # Behind the history of its pictures; and the result carries it on, too.
        edit = replace(edits[i], pixels=provenance.checksum(image))
        edits[i] = provenance.after(edit, sources)
        provenance.attach(image, edits[i])
    return KontextOutput(images, latents, request.seeds, plan, edits, verdicts)


def forget(
    latents: Tensor, images: list[Image.Image], verdicts: Sequence[Verdict], codec: Codec
) -> Tensor:
    """The latents, with those of the placeholder in the place of what a filter withheld."""
    for i in (i for i, verdict in enumerate(verdicts) if verdict.flagged):
        latents[i] = codec.encode(images[i])[0]
    return latents


def _edits(
    request: Request, weights: str, fingerprint: str, config: str, computed: str
) -> list[Provenance]:
    """What each image's edit was asked with."""
    settings, cache = request.settings, request.cache
    scales = {"guidance": settings.guidance_scale, "true_cfg": settings.true_cfg_scale}
    shared = {
        "steps": f"{settings.num_inference_steps}{cache.mark if cache else ''}",
        "guidance": ", ".join(f"{k} {v:g}" for k, v in scales.items() if v is not None),
        "weights": weights,
        "weights_fingerprint": fingerprint,
        "config_fingerprint": config,
        "computed": computed,
    }
    rows = zip(request.prompts, request.negatives, map(str, request.seeds))
    return [Provenance(*row, **shared) for row in rows]
