"""What a call uses where it says nothing; stored beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval, MaxLen

from minikontext import images
from minikontext.runtime.bounds import Mean, Scale, Side, Steps


@dataclass(frozen=True)
class Defaults:
    """What a call uses where it says nothing; stored beside the weights.

    width, height: pixels of a text-to-image result. sizes: the trained (width, height), empty for
    those of about width × height pixels. max_contexts: context images the weights have seen.
    min_contexts: 1 for weights that only edit. shifted: False for few-step weights, whose times
    are evenly spaced. mu_16: of weights that were trained with the root law, see
    `flow.mu_for_tokens`; None is the line. context_layout: where the weights have learned to see
    the contexts, see `tokens.context_ids`. isolated: the weights have learned contexts that see
    only each other, see `runtime.isolated`. least_psnr: in dB, what the autoencoder reaches for
    every picture that the weights know; below it a context is told to be unlike those.
    """

    num_inference_steps: Steps = 28
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale = 1.0
    width: Side = 64
    height: Side = 64
    multiple: Annotated[int, Interval(ge=1, le=1024)] = 16
    max_contexts: Annotated[int, Interval(ge=0, le=64)] = 2
    min_contexts: Annotated[int, Interval(ge=0, le=64)] = 0
    shifted: bool = True
    mu_16: Mean | None = None
    context_layout: str = "index"
    isolated: bool = False
    least_psnr: Annotated[float, Interval(ge=0, le=100)] | None = None
    sizes: Annotated[tuple[tuple[Side, Side], ...], MaxLen(1024)] = ()

    def __post_init__(self) -> None:
        sizes = tuple((w, h) for w, h in self.sizes)  # JSON gives lists
        sizes = sizes or images.sizes_near(self.width, self.height, self.multiple)
        object.__setattr__(self, "sizes", sizes)

    @property
    def schedule(self) -> tuple[int, bool, float | None]:
        """What the sampler's times follow from, beside the target's tokens."""
        return self.num_inference_steps, self.shifted, self.mu_16
