"""Filters around the model: on the prompt, on pictures that go in, and on those that come out.

The paper names two measures against harmful pictures: classifier-based filtering and adversarial
training. This is the first. A filter scores what it is shown; `Safety` compares with the threshold,
refuses prompts and inputs by an error, and puts a plain grey card in the place of an output.

A filter that runs on the user's machine can be switched off there. What it does is to keep an
honest user, and a service that runs the weights, from drawing by accident or on request what must
not be drawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from minikontext.errors import SafetyError, SafetyWarning, WeightsError, warn
from minikontext.runtime.bounds import is_number
from minikontext.runtime.config import read_json, require_format
from minikontext.runtime.files import shipped

FORMAT, FORMAT_VERSION = "minikontext-safety", 1
CARD = (128, 128, 128)
LAYERS = ("prompt", "input", "output")


@dataclass(frozen=True)
class Verdict:
    """What a layer found: flagged if the score, 0 to 1, is at least the threshold."""

    flagged: bool
    score: float
    threshold: float
    layer: str
    reason: str

    def __str__(self) -> str:
        sign = ">=" if self.flagged else "<"
        return f"{self.layer}: {self.reason}, score {self.score:.3f} {sign} {self.threshold:.3f}"


class PromptFilter(Protocol):
    """Scores prompts: how likely each asks for what is forbidden, 0 to 1."""

    threshold: float
    reason: str

    def score(self, prompts: Sequence[str]) -> list[float]:
        """One number a prompt."""


class ImageFilter(Protocol):
    """Scores pictures: how likely each shows what is forbidden, 0 to 1."""

    threshold: float
    reason: str

    def score(self, pictures: Sequence[Image.Image]) -> list[float]:
        """One number a picture."""


@dataclass
class Safety:
    """The filters of a pipeline; a layer without one lets everything through.

    `image` looks at pictures that come out and, unless `inputs` is given, at those that go in.
    Negative prompts are not looked at: what they name is what the picture moves away from. Below
    a true_cfg_scale of 1 it moves towards it, and they are.
    """

    prompt: PromptFilter | None = None
    image: ImageFilter | None = None
    inputs: ImageFilter | None = None
    name: str = "custom"

    @property
    def shipped(self) -> bool:
        """Whether its name is that of a folder in `home()`, by which weights can ask for it."""
        return (home() / self.name / "config.json").is_file()

    def check(self, layer: str, items: Sequence[Any]) -> list[Verdict]:
        """Verdicts on prompts (layer "prompt") or pictures ("input", "output"); none if no filter.

        Raises ValueError for another layer.
        """
        if layer not in LAYERS:
            raise ValueError(f"layer={layer!r}: choose one of {', '.join(LAYERS)}")
        one = {"prompt": self.prompt, "input": self.inputs or self.image, "output": self.image}
        used = one[layer]
        if used is None or not items:
            return []
        limit = used.threshold
        # Not a number is no clean bill of health.
        return [
            Verdict(not score < limit, score, limit, layer, used.reason)
            for score in used.score(items)
        ]

    def refuse(self, layer: str, items: Sequence[Any]) -> None:
        """Raise SafetyError if any prompt or input picture is flagged."""
        for number, verdict in enumerate(self.check(layer, items)):
            if verdict.flagged:
                what = "prompt" if layer == "prompt" else "context image"
                raise SafetyError(
                    f"{what} {number + 1} of {len(items)} was refused by the filter {self.name!r}. "
                    f"{verdict}. Ask for something else.",
                    verdict,
                )

    def filter_outputs(
        self, pictures: list[Image.Image]
    ) -> tuple[list[Image.Image], list[Verdict]]:
        """Pictures with a grey card for each that is flagged, and all verdicts; warns if any is."""
        verdicts = self.check("output", pictures)
        flagged = [i for i, verdict in enumerate(verdicts) if verdict.flagged]
        if flagged:
            numbers = ", ".join(str(i + 1) for i in flagged)
            text = f"Withheld picture {numbers} of {len(pictures)}. {verdicts[flagged[0]]}."
            warn(SafetyWarning(text))
        shown = [placeholder(p.size) if i in flagged else p for i, p in enumerate(pictures)]
        return shown, verdicts


def placeholder(size: tuple[int, int]) -> Image.Image:
    """What is handed out instead of a withheld picture: plain grey, (width, height)."""
    return Image.new("RGB", size, CARD)


def home() -> Path:
    """Where the shipped filters are; MINIKONTEXT_SAFETY names another place."""
    return Path(os.environ.get("MINIKONTEXT_SAFETY") or shipped("data", "safety"))


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a filter's config.json. Raises WeightsError."""
    path = folder / "config.json"
    config = read_json(path, WeightsError)
    require_format(config, path, (FORMAT, FORMAT_VERSION))
    return config


def read_threshold(value: object, place: str) -> float:
    """A threshold from a config, above 0 and at most 1. Raises WeightsError."""
    if not is_number(value) or not 0 < value <= 1:
        raise WeightsError(f"{place}: threshold {value!r}; expected a number above 0, at most 1.")
    return float(value)
