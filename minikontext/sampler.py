"""From noise to picture: the schedule, Euler's method, classifier-free guidance."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from minikontext.errors import Cancelled, ConfigError, NonFiniteError
from minikontext.flow import clean_estimate, mu_for_tokens, shift

Predict = Callable[[Tensor, Tensor], Tensor]  # z (b, ...), t (b,) -> velocity (b, ...)


@dataclass(frozen=True)
class StepInfo:
    """What a callback sees after each step."""

    step: int  # 1 ... steps
    steps: int
    t: float  # the time at which the velocity was predicted
    latents: Tensor  # after the step
    clean: Tensor  # the clean picture as estimated at t: z - t v


def schedule(
    steps: int, num_target_tokens: int | None = None, mu: float | None = None,
    shifted: bool = True, mu_16: float | None = None,
) -> Tensor:  # fmt: skip
    """Choose the times to visit: linspace(1, 0), shifted by mu.

    mu comes from the number of tokens of the *target*; counting the context is a common error.
    mu_16: for weights trained with the root law, see `flow.mu_for_tokens`.
    -> (steps + 1,), float32, from 1 to 0. Raises ConfigError.
    """
    if steps < 1:
        raise ConfigError(f"Got {steps} steps. Use 1 or more.")
    times = torch.linspace(1, 0, steps + 1)
    if not shifted:
        return times
    if mu is not None:
        return shift(times, mu)
    if num_target_tokens is None:
        raise ConfigError("A shifted schedule needs num_target_tokens or mu. Or use shifted=False.")
    return shift(times, mu_for_tokens(num_target_tokens, mu_16))


@torch.no_grad()
def sample(
    predict: Predict, noise: Tensor, timesteps: Tensor,
    callback: Callable[[StepInfo], object] | None = None, progress: bool = False,
) -> Tensor:  # fmt: skip
    """Solve dz/dt = v from noise to picture with Euler's method: `z += (t_next - t) v`.

    predict(z, t) -> v with z (b, ...) and t (b,); noise (b, ...); timesteps (steps + 1,) falling.
    -> latents (b, ...). `callback` gets a StepInfo; when it returns False, Cancelled is raised.
    Raises NonFiniteError with the step at which the latents stopped being numbers.
    """
    z, times = noise, timesteps.tolist()
    steps = len(times) - 1
    for i in _bar(steps, progress):
        t = torch.full((len(z),), times[i], device=z.device)
        v = predict(z, t).to(z.dtype)  # bfloat16 is too coarse to add up steps
        clean = clean_estimate(z, v, t)
        z = z + (times[i + 1] - times[i]) * v
        _require_finite(z, i + 1, steps)
        if callback and callback(StepInfo(i + 1, steps, times[i], z, clean)) is False:
            raise Cancelled(f"Stopped by the callback after step {i + 1} of {steps}.")
    return z


def guided(conditional: Predict, unconditional: Predict, scale: float) -> Predict:
    """Classifier-free guidance: predict `v_u + scale (v_c - v_u)`; a scale of 1 is no guidance."""

    def predict(z: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(unconditional(z, t), conditional(z, t), scale)

    return conditional if scale == 1 else predict


def _bar(steps: int, progress: bool) -> Iterable[int]:
    if not progress:
        return range(steps)
    from tqdm.auto import trange  # here, because it loads ipywidgets

    return trange(steps, desc="sampling", unit="step")


def _require_finite(z: Tensor, step: int, steps: int) -> None:
    if not torch.isfinite(z).all():
        raise NonFiniteError(
            f"The latents are no longer finite after step {step} of {steps}, expected numbers. "
            "Check the weights, and use bfloat16 or float32: float16 overflows in this model."
        )
