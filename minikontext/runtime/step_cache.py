"""Step caching: a step in which the first block hardly changed does without the other blocks.

From step to step the input of the net changes little, and so does what its blocks add. The first
block is computed in every step. If what it adds is within `threshold` of what it added at the last
whole pass, the other blocks are left out ("first-block cache", known from ParaAttention and
diffusers), and what they would have added is read off the line through the last two whole passes
("TaylorSeer", first order). Neither is in the paper. Off unless asked for; the error is measured:
data/bench/caching.json.

    cache = StepCache(threshold=0.1)
    pipe("make the hat red", image=picture, step_cache=cache)
    print(cache)  # 42 of 56 passes skipped at threshold 0.1
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral

from torch import Tensor

from minikontext.errors import ConfigError
from minikontext.runtime.bounds import is_number, shown
from minikontext.runtime.lease import held
from minikontext.runtime.offload import one_pass
from minikontext.transformer import KontextTransformer

# The largest threshold at which all measured edits stay near those of whole passes: the worst is
# at 38.3 dB, and at 0.3 it is at 25.8 dB. For order 1 and 28 steps of toy: data/bench/caching.json.
LARGEST_GOOD = 0.2


@dataclass
class StepCache:
    """When to skip, and how often it was done: it counts over all calls that are given it.

    threshold: how much a first block may change, relative to itself; 0 never skips.
    order: 1 goes on along a line, 0 adds what was added before. Raises ConfigError.
    """

    threshold: float = 0.1
    order: int = 1
    passes: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not (is_number(self.threshold) and self.threshold >= 0):
            raise ConfigError(f"Got threshold={shown(self.threshold)}. Use a number from 0.")
        whole = isinstance(self.order, Integral) and not isinstance(self.order, bool)
        if not whole or self.order not in (0, 1):
            raise ConfigError(f"Got order={shown(self.order)}. Use 0 or 1.")

    @property
    def share(self) -> float:
        """The share of passes that were skipped, 0 to 1."""
        return self.skipped / max(self.passes, 1)

    @property
    def mark(self) -> str:
        """What a picture's provenance says beside its steps."""
        return f", step cache {self.threshold:g}, order {self.order}"

    def __str__(self) -> str:
        return f"{self.skipped} of {self.passes} passes skipped at threshold {self.threshold:g}"


class CachedTransformer:
    """A transformer for one sampling: called as the transformer is, and it may skip blocks.

    Only for falling times and one prompt: guidance needs one for each of its two branches. A batch
    skips together, when its most changed sample allows it. Keeps three tensors of (b, n, d).
    Raises ConfigError for a transformer without double-stream blocks.
    """

    def __init__(self, transformer: KontextTransformer, cache: StepCache) -> None:
        if not len(transformer.double_blocks):
            raise ConfigError("A step cache watches the first double-stream block: there is none.")
        self.transformer, self.cache = transformer, cache
        self._first: Tensor | None = None  # what the first block added at the last whole pass
        self._rest: list[tuple[Tensor, Tensor]] = []  # times, and what all others added then
        self.rotations = transformer.rotations

    def __call__(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        pooled: Tensor,
        guidance: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        """Velocity of the sequence, shapes as in `KontextTransformer.forward`."""
        with held(self.transformer), one_pass(self.transformer):
            return self._velocity(
                img, img_ids, txt, txt_ids, timesteps, pooled, guidance, rotary
            )

    def _velocity(self, *inputs: Tensor | None) -> Tensor:
        net, timesteps = self.transformer, inputs[4]
        start, txt, vec, rotary = net.embed(*inputs)
        img, txt = net.double_blocks[0](start, txt, vec, rotary)
        skip = self._hardly_changed(img - start)
        self.cache.passes += 1
        self.cache.skipped += skip
        if skip:
            return net.final_layer(img + self._foreseen(timesteps), vec)
        out = net.blocks(img, txt, vec, rotary, start=1)
        self._first = img - start
        self._rest = [*self._rest[-1:], (timesteps, out - img)]
        return net.final_layer(out, vec)  # not img + (out - img), which rounds

    def _hardly_changed(self, added: Tensor) -> bool:
        if self._first is None:
            return False
        size = self._first.float().abs().mean((1, 2))  # (b,)
        change = (added - self._first).float().abs().mean((1, 2))
        return bool((change < self.cache.threshold * size).all())  # NaN never skips

    def _foreseen(self, t: Tensor) -> Tensor:
        """What the other blocks would add at t (b,): (b, n, d)."""
        (t0, before), (t1, last) = self._rest[0], self._rest[-1]
        if len(self._rest) == 1 or self.cache.order == 0:
            return last
        ahead = ((t - t1) / (t1 - t0)).to(last.dtype)
        return last + ahead[:, None, None] * (last - before)
