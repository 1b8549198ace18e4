"""What a call of the pipeline may say: each argument is checked once, and errors name the fix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from minikontext.errors import (
    ConfigError,
    ImageError,
    PromptError,
    PromptWarning,
    SizeError,
)
from minikontext.runtime.step_cache import StepCache
from minikontext.text import check_prompts

MOST_STEPS = 1_000_000  # beyond, it is a slip of the finger


def repeat(prompts: list[str], times: int) -> list[str]:
    """Each prompt `times` times in a row. Raises PromptError for no prompt, SizeError for times."""
    if not prompts:
        raise PromptError("Got an empty list of prompts. Give at least one; '' is allowed.")
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise SizeError(f"Got num_images_per_prompt={times!r}. Use a whole number from 1.")
    return [prompt for prompt in prompts for _ in range(times)]


def match_prompts(negative: str | Sequence[str] | None, prompts: list[str]) -> list[str]:
    """One negative prompt for each prompt; None means the empty one."""
    given = check_prompts("" if negative is None else negative)
    if len(given) == 0 or len(prompts) % len(given):
        raise PromptError(
            f"Got {len(given)} negative prompts for {len(prompts)} results. "
            "Give one, or one for each prompt."
        )
    return repeat(given, len(prompts) // len(given))


def warn_unused(negative: str | Sequence[str] | None) -> None:
    """Say that a negative prompt without classifier-free guidance does nothing."""
    if negative:
        text = "negative_prompt has no effect at true_cfg_scale=1. Use a scale above 1."
        warnings.warn(PromptWarning(text), stacklevel=5)


def pick_seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """Seeds of `count` images: drawn, counted up from one, or as given."""
    if seed is None:
        return torch.randint(2**31, (count,)).tolist()
    seeds = [seed + i for i in range(count)] if is_whole(seed) else seed
    if not isinstance(seeds, (list, tuple, range)) or not all(map(is_whole, seeds)):
        raise ConfigError(f"Got seed={seed!r}. Use a whole number, or a list of them.")
    if len(seeds) != count:
        raise ConfigError(f"Got {len(seeds)} seeds for {count} images. Give one for each.")
    if not all(-(2**63) <= s < 2**63 for s in seeds):
        raise ConfigError(f"Got seed={seed!r}. Use numbers that fit into 64 bits.")
    return [int(s) for s in seeds]


def is_whole(value: object) -> bool:
    """True for an int, numpy's included; a bool is no number here."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_scales(given: dict[str, Any], guidance_embed: bool) -> None:
    """Raise ConfigError for steps and scales that make no sense for these weights."""
    steps = given["num_inference_steps"]
    if steps is not None and not (is_whole(steps) and 1 <= steps <= MOST_STEPS):
        raise ConfigError(f"Got num_inference_steps={steps!r}. Use 1 to {MOST_STEPS:,}.")
    for name in ("guidance_scale", "true_cfg_scale"):
        value = given[name]
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value < 1e4):
            raise ConfigError(f"Got {name}={value!r}. Use a number from 0; 1 is no guidance.")
    if given["guidance_scale"] is not None and not guidance_embed:
        raise ConfigError(
            "Got guidance_scale, but these weights do not take guidance as an input. "
            "Use true_cfg_scale instead."
        )


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


def as_cache(given: StepCache | float | None) -> StepCache | None:
    """A cache as given, one for a threshold, or none."""
    return given if given is None or isinstance(given, StepCache) else StepCache(given)
