"""What a call of the pipeline may say: each argument is checked once, and errors name the fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from minikontext.editing.defaults import Defaults
from minikontext.errors import (
    ConfigError,
    ImageError,
    PromptError,
    PromptWarning,
    SizeError,
    WeightsWarning,
    shorten_list,
    warn,
)
from minikontext.images.resize import ResizePlan, show_size
from minikontext.runtime.bounds import is_number, shown
from minikontext.runtime.step_cache import LARGEST_GOOD, StepCache
from minikontext.text import check_prompts

MOST_STEPS = 10_000  # beyond, it is a slip of the finger
MOST_IMAGES = 10_000  # of one call
STRONG = 10  # beyond this guidance scale, every picture that was tried broke


@dataclass(frozen=True)
class Request:
    """A call that makes sense: one prompt, negative prompt and seed for each of `count` images.

    settings: the weights' defaults with what the call says in their place.
    """

    prompts: list[str]
    negatives: list[str]
    seeds: list[int]
    settings: Defaults
    cache: StepCache | None

    @property
    def count(self) -> int:
        """How many images are wanted."""
        return len(self.prompts)

    @property
    def unique(self) -> list[str]:
        """Each different text that the picture moves towards, once: what a filter has to see.

        Those are the prompts and, below a scale of 1, the negative ones: v_u + s (v_c - v_u).
        """
        towards = self.negatives if self.settings.true_cfg_scale < 1 else []
        return list(dict.fromkeys([*self.prompts, *filter(None, towards)]))


def check_request(
    prompt: str | Sequence[str],
    negative: str | Sequence[str] | None,
    per_prompt: int,
    seed: int | Sequence[int] | None,
    scales: tuple[int | None, float | None, float | None],
    step_cache: StepCache | float | None,
    defaults: Defaults,
    guidance_embed: bool,
) -> Request:
    """Check what a call says, before any work is done.

    scales: steps, guidance scale and true CFG scale; None leaves them to the defaults.
    Raises PromptError, SizeError and ConfigError.
    """
    prompts = repeat(check_prompts(prompt), per_prompt)
    settings = with_scales(defaults, *scales, guidance_embed)
    if negative and settings.true_cfg_scale == 1:
        text = "negative_prompt has no effect at true_cfg_scale=1. Use a scale above 1."
        warn(PromptWarning(text))
    negatives = match_prompts(negative, prompts, per_prompt)
    seeds = pick_seeds(seed, len(prompts))
    return Request(prompts, negatives, seeds, settings, as_cache(step_cache))


def repeat(prompts: list[str], times: int) -> list[str]:
    """Each prompt `times` times in a row. Raises PromptError for no prompt, SizeError for times."""
    if not prompts:
        raise PromptError("Got an empty list of prompts. Give at least one; '' is allowed.")
    if not is_whole(times) or not 1 <= times <= MOST_IMAGES // len(prompts):
        raise SizeError(
            f"Got num_images_per_prompt={shown(times)} for {len(prompts):,} prompts. Use a whole "
            f"number from 1; one call makes at most {MOST_IMAGES:,} pictures."
        )
    return [prompt for prompt in prompts for _ in range(times)]


def match_prompts(
    negative: str | Sequence[str] | None, prompts: list[str], per_prompt: int = 1
) -> list[str]:
    """One negative prompt for each of `prompts`, `per_prompt` of which are the same in a row.

    None means the empty one. Raises PromptError.
    """
    negatives = check_prompts("" if negative is None else negative)
    if len(negatives) not in (1, len(prompts) // per_prompt, len(prompts)):
        raise PromptError(
            f"Got {len(negatives)} negative prompts for {len(prompts)} results. "
            "Give one, or one for each prompt."
        )
    return repeat(negatives, len(prompts) // len(negatives))


def pick_seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """Seeds of `count` images: drawn, counted up from one, or as given."""
    if seed is None:
        return torch.randint(2**31, (count,)).tolist()
    seeds = [int(seed) + i for i in range(count)] if is_whole(seed) else seed
    if not isinstance(seeds, (list, tuple, range)) or not all(map(is_whole, seeds)):
        raise ConfigError(f"Got seed={shown(seed)}. Use a whole number, or a list of them.")
    if len(seeds) != count:
        raise ConfigError(f"Got {len(seeds)} seeds for {count} images. Give one for each.")
    if not all(-(2**63) <= s < 2**63 for s in seeds):
        raise ConfigError(f"Got seed={shown(seed)}. Use numbers that fit into 64 bits.")
    return [int(s) for s in seeds]


def is_whole(value: object) -> bool:
    """True for an int, numpy's included; a bool is no number here."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def with_scales(
    defaults: Defaults,
    steps: int | None,
    guidance_scale: float | None,
    true_cfg_scale: float | None,
    guidance_embed: bool,
) -> Defaults:
    """The defaults with a call's steps and scales. Raises ConfigError for what makes no sense."""
    if steps is not None and not (is_whole(steps) and 1 <= steps <= MOST_STEPS):
        raise ConfigError(f"Got num_inference_steps={shown(steps)}. Use 1 to {MOST_STEPS:,}.")
    scales = {"guidance_scale": guidance_scale, "true_cfg_scale": true_cfg_scale}
    for name, value in scales.items():
        if value is not None and not (is_number(value) and 0 <= value < 1e4):
            raise ConfigError(f"Got {name}={shown(value)}. Use a number from 0; 1 is no guidance.")
    if guidance_scale is not None and not guidance_embed:
        raise ConfigError(
            "Got guidance_scale, but these weights do not take guidance as an input. "
            "Use true_cfg_scale instead."
        )
    said = {name: float(value) for name, value in scales.items() if value is not None}
    return replace(defaults, **said, num_inference_steps=steps or defaults.num_inference_steps)


def context_slots(image: Any, prompts: int) -> list[list[Any]]:
    """Sort `image` into slots: slot k holds the k-th context image, of all or of each prompt."""
    if image is None:
        return []
    if not isinstance(image, (list, tuple)):
        return [[image]]
    if not any(isinstance(item, (list, tuple)) for item in image):
        return [[item] for item in image]
    counts = [len(row) if isinstance(row, (list, tuple)) else 0 for row in image]
    if len(image) != prompts or len(set(counts)) != 1:
        raise ImageError(
            f"Got lists of {counts} context images for {prompts} prompts. "
            "Give every prompt a list, all of the same length."
        )
    return [list(slot) for slot in zip(*image)]


def as_cache(threshold: StepCache | float | None) -> StepCache | None:
    """A cache as it is, one for a threshold, or none. Raises ConfigError, also for True."""
    if threshold is not None and not isinstance(threshold, StepCache):
        if not is_number(threshold):
            raise ConfigError(
                f"Got step_cache={shown(threshold)}. Use a StepCache or a threshold like 0.1."
            )
        threshold = StepCache(float(threshold))
    if threshold and threshold.threshold > LARGEST_GOOD:
        warn(WeightsWarning(
            f"Got step_cache={threshold.threshold:g}: beyond {LARGEST_GOOD}, edits smear. Use 0.1."
        ))  # fmt: skip
    return threshold


def advise(
    settings: Defaults, contexts: Sequence[ResizePlan], target: ResizePlan, layout: str | None
) -> None:
    """Warn of pictures that change their size, and of settings that the weights have never seen.

    settings: the weights' defaults with what the call says in their place.
    """
    for plan in dict.fromkeys((*contexts, target)):
        plan.warn(undone=plan == target)
    for text in _untrained(settings, len(contexts), target, layout):
        warn(WeightsWarning(text))


def _untrained(
    settings: Defaults, contexts: int, target: ResizePlan, layout: str | None
) -> Iterator[str]:
    trained = {(settings.width, settings.height), *settings.sizes}
    if target.working not in trained:
        sizes = shorten_list(map(show_size, sorted(trained)))
        yield (
            f"These weights were trained at {sizes}, not at {show_size(target.working)}: things "
            "may come twice or blurred."
        )
    scale = settings.true_cfg_scale
    if scale > 1 and not settings.shifted:
        yield (
            f"Got true_cfg_scale={scale:g}, but these weights were made for few steps without it: "
            "pictures get harsh or break. Use true_cfg_scale=1."
        )
    elif scale > STRONG:
        yield f"Got true_cfg_scale={scale:g}: beyond {STRONG}, pictures break. Try 2 to 5."
    elif scale < 1:
        yield f"Got true_cfg_scale={scale:g}: below 1 the prompt counts for less, at 0 for nothing."
    # One context lies in the same place in any layout but the stretched one.
    one = contexts == 1 and "scaled" not in (layout, settings.context_layout)
    if contexts and not one and layout not in (None, settings.context_layout):
        yield (
            f"Got context_layout={shown(layout)}, but these weights have learned "
            f"{settings.context_layout!r}: pictures may come out wrong."
        )
