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
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from minikontext import configs, files
from minikontext.errors import SafetyError, SafetyWarning, WeightsError

FORMAT, FORMAT_VERSION = "minikontext-safety", 1
CARD = (128, 128, 128)
LAYERS = ("prompt", "input", "output")

NOTICE = (
    "notice: these weights run without a safety filter. The licence of the published FLUX.1 "
    "Kontext [dev] weights asks whoever uses them to filter what they draw, or to have people look "
    "at it before it is shown to others. See minikontext.safety; --safety NAME switches filters on."
)


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
    Negative prompts are not looked at: what they name is what the picture moves away from.
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

    def withhold(self, pictures: list[Image.Image]) -> tuple[list[Image.Image], list[Verdict]]:
        """Pictures with a grey card for each that is flagged, and all verdicts; warns if any is."""
        verdicts = self.check("output", pictures)
        flagged = [i for i, verdict in enumerate(verdicts) if verdict.flagged]
        if flagged:
            numbers = ", ".join(str(i + 1) for i in flagged)
            text = f"Withheld picture {numbers} of {len(pictures)}. {verdicts[flagged[0]]}."
            warnings.warn(SafetyWarning(text), stacklevel=5)
        shown = [card(p.size) if i in flagged else p for i, p in enumerate(pictures)]
        return shown, verdicts


def card(size: tuple[int, int]) -> Image.Image:
    """What is handed out instead of a withheld picture: plain grey, (width, height)."""
    return Image.new("RGB", size, CARD)


# ---------------------------------------------------------------- loading


def load(name: str | Path) -> Safety:
    """The filters of a folder, or of a name in data/safety; never touches the network.

    The folder's config.json says its kind: "towers" is the toy's two-tower classifier, and
    "classifiers" names local `transformers` folders. Raises WeightsError for a folder that is not
    there or does not fit: filters that are asked for are never left out in silence.
    """
    folder = find(name)
    config = read_config(folder)
    from minikontext import classifiers, towers  # each knows its own kind

    kinds: dict[str, Callable[[Path, dict], Safety]] = {
        "towers": towers.load_safety,
        "classifiers": classifiers.load_safety,
    }
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise WeightsError(f"{folder}: kind {kind!r:.80}; expected one of {', '.join(kinds)}.")
    return kinds[kind](folder, config)


def chosen(asked: Safety | str | Path | None, configured: object = None) -> Safety | None:
    """The filters of a pipeline: as asked, else by the name that its weights' config gives.

    "none" switches them off. A configured name is looked up in data/safety only: a file that came
    with weights does not choose which other files are read.
    """
    if isinstance(asked, Safety):
        return asked
    if asked is not None:
        return None if str(asked) == "none" else load(asked)
    if configured is None:
        return None
    if not isinstance(configured, str) or not configured.replace("-", "").isalnum():
        raise WeightsError(
            f"config.json says safety={configured!r}; expected the name of a folder in {home()}."
        )
    return load(home() / configured)


def home() -> Path:
    """Where the shipped filters are; MINIKONTEXT_SAFETY names another place."""
    shipped = Path(__file__).resolve().parent.parent / "data" / "safety"
    return Path(os.environ.get("MINIKONTEXT_SAFETY") or shipped)


def find(name: str | Path) -> Path:
    """A filter's folder: a path, or a name in `home()`. Raises WeightsError with those there."""
    for folder in (Path(name), home() / name):
        if files.exists(folder / "config.json"):
            return folder
    known = sorted(path.parent.name for path in home().glob("*/config.json"))
    raise WeightsError(
        f"No safety filter called {str(name)!r}: no config.json in {Path(name)} or "
        f"{home() / name}. Known names: {', '.join(known) or 'none'}; 'none' is no filter."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a filter's config.json. Raises WeightsError."""
    path = folder / "config.json"
    config = configs.read_json(path, WeightsError)
    configs.require_format(config, path, (FORMAT, FORMAT_VERSION))
    return config


def read_threshold(value: object, place: str) -> float:
    """A threshold from a config, above 0 and at most 1. Raises WeightsError."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise WeightsError(f"{place}: threshold {value!r}; expected a number above 0, at most 1.")
    return float(value)


_told: set[str] = set()


def tell_once(text: str = NOTICE) -> None:
    """Print a notice the first time."""
    if text not in _told:
        _told.add(text)
        print(text)
