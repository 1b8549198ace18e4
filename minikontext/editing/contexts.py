"""Context images of a call: read, planned, filtered, encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from minikontext.images.provenance import Source
from minikontext.images.resize import ResizePlan

Picture = Image.Image | str | Path | np.ndarray | bytes


@dataclass(frozen=True)
class Context:
    """One context image of every sample: latents (b or 1, c, h, w) and its target-size plan.

    sources: what is known of each picture behind these latents, one for each.
    """

    latents: Tensor
    plan: ResizePlan
    sources: tuple[Source, ...]
