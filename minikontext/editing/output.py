"""What a call returns: images, latents, seeds, the resize plan, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from minikontext.editing.contexts import Context
from minikontext.images import provenance
from minikontext.images.provenance import Provenance, Source
from minikontext.images.resize import ResizePlan
from minikontext.safety.filters import Verdict


@dataclass(frozen=True)
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

    @property
    def withheld(self) -> list[int]:
        """The numbers of the images that the output filter replaced by a grey card."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.flagged]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> KontextOutput:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Got index {index}, but there are {len(self)} images.")
        i = index % len(self)
        lists = (self.images, self.seeds, self.provenance, self.verdicts)
        pictures, seeds, *facts = (x[i : i + 1] for x in lists)
        return KontextOutput(pictures, self.latents[i : i + 1], seeds, self.plan, *facts)

    def save(
        self, path: str | Path, private: bool | None = None, quality: int | None = None
    ) -> list[Path]:
        """Write the images with their provenance; several get -0, -1, … in their names.

        PNG, JPEG or WebP, as `provenance.save` says; private: without the prompts.
        """
        path = Path(path)
        names = [path.with_stem(f"{path.stem}-{i}") for i in range(len(self))]
        names = [path] if len(self) == 1 else names
        made = self.provenance or [None] * len(self)
        items = zip(self.images, names, made, strict=True)
        return [provenance.save(*item, private=private, quality=quality) for item in items]


def output_sources(output: KontextOutput) -> tuple[Source, ...]:
    """What is known of the pictures of an output, whose latents are edited further."""
    made = output.provenance or [None] * len(output)
    return tuple(Source(provenance.checksum(i), m) for i, m in zip(output.images, made))


def carry_on(
    made: list[Provenance], contexts: Sequence[Context], pictures: list[Image.Image]
) -> list[Provenance]:
    """Put every edit behind the history of its pictures, and let its result carry it, too."""
    done = []
    for i, (edit, picture) in enumerate(zip(made, pictures, strict=True)):
        sources = [c.sources[i if len(c.sources) > 1 else 0] for c in contexts]
        edit = provenance.after(replace(edit, pixels=provenance.checksum(picture)), sources)
        provenance.attach(picture, edit)
        done.append(edit)
    return done
