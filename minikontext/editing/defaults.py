"""What a call uses where it says nothing; stored beside the weights."""

from __future__ import annotations

from dataclasses import dataclass

from minikontext import images


@dataclass(frozen=True)
class Defaults:
    """What a call uses where it says nothing; stored beside the weights.

    width, height: pixels of a text-to-image result. sizes: the trained (width, height), empty for
    those of about width × height pixels. max_contexts: context images the weights have seen.
    min_contexts: 1 for weights that only edit. shifted: False for few-step weights, whose times
    are evenly spaced. mu_16: of weights that were trained with the root law, see
    `flow.mu_for_tokens`; None is the line. context_layout: where the weights have learned to see
    the contexts, see `tokens.context_ids`.
    """

    num_inference_steps: int = 28
    guidance_scale: float | None = None
    true_cfg_scale: float = 1.0
    width: int = 64
    height: int = 64
    multiple: int = 16
    max_contexts: int = 2
    min_contexts: int = 0
    shifted: bool = True
    mu_16: float | None = None
    context_layout: str = "index"
    sizes: tuple[images.Size, ...] = ()

    def __post_init__(self) -> None:
        sizes = tuple((w, h) for w, h in self.sizes)  # JSON gives lists
        sizes = sizes or images.sizes_near(self.width, self.height, self.multiple)
        object.__setattr__(self, "sizes", sizes)

    @property
    def schedule(self) -> tuple[int, bool, float | None]:
        """What the sampler's times follow from, beside the target's tokens."""
        return self.num_inference_steps, self.shifted, self.mu_16
