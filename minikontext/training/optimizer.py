"""Which parameter is updated how: Muon for matrices, AdamW for everything else.

Muon (Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest orthogonal
matrix, so that all its directions learn at the same pace. The paper does not publish its optimiser:
this one is our choice, because it gets a small model further in the same minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minikontext.errors import ConfigError


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates a parameter: hidden matrices and kernels, not inputs or outputs."""
    outside = (
        "embed",
        "position",
        "conv_in",
        "img_in",
        "txt_in",
        "final_layer",
        "decoder.conv_out",
    )
    modulation = ("modulation", "_mod.", "time_in", "vector_in", "guidance_in")
    return parameter.ndim >= 2 and not any(word in name for word in outside + modulation)


class MuonAdamW:
    """One optimiser over a module: `torch.optim.Muon` on matrices, `torch.optim.AdamW` on the rest.

    Convolution kernels (o, i, 3, 3) are seen by Muon as (o, 9 i) matrices that share their memory.
    `rate` scales both learning rates, so one schedule drives the two.
    """

    def __init__(
        self, model: nn.Module, lr: float, muon_lr: float, weight_decay: float = 0.0
    ) -> None:
        self.names: dict[str, nn.Parameter] = dict(model.named_parameters())
        matrix = [n for n, p in self.names.items() if muon_lr > 0 and is_matrix(n, p)]
        self.views = {n: nn.Parameter(self.names[n].data.flatten(1)) for n in matrix}
        for name, view in self.views.items():  # a copy would be trained in place of the weight
            if view.data_ptr() != self.names[name].data_ptr():
                raise ConfigError(f"{name} is not contiguous: keep weights in the default layout")
        rest = [p for n, p in self.names.items() if n not in self.views]
        self.adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)
        self.parts: list[torch.optim.Optimizer] = [self.adamw]
        if self.views:
            shaped = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": weight_decay}
            self.parts.append(torch.optim.Muon(list(self.views.values()), lr=muon_lr, **shaped))
        self.base = [group["lr"] for part in self.parts for group in part.param_groups]

    def step(self, rate: float) -> None:
        """Update every parameter with `rate` times its learning rate and drop the gradients."""
        for name, view in self.views.items():
            gradient = self.names[name].grad
            view.grad = None if gradient is None else gradient.flatten(1)
        groups = (group for part in self.parts for group in part.param_groups)
        for group, lr in zip(groups, self.base, strict=True):
            group["lr"] = lr * rate
        for part in self.parts:
            part.step()
        for parameter in (*self.names.values(), *self.views.values()):
            parameter.grad = None

    def _slots(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for name, parameter in self.names.items():
            if name in self.views:
                yield name, self.parts[1], self.views[name]
            else:
                yield name, self.parts[0], parameter

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's memory as flat named tensors, ready for safetensors."""
        return {
            f"{key}.{name}": value.detach().clone().contiguous()
            for name, part, parameter in self._slots()
            for key, value in part.state.get(parameter, {}).items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned; parameters without an entry start afresh."""
        for name, part, parameter in self._slots():
            found = {k[: -len(name) - 1]: v for k, v in tensors.items() if k.endswith("." + name)}
            known = {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"}
            state = {key: value.clone() for key, value in found.items() if key in known}
            if state:
                part.state[parameter] = state


def learning_rate(
    step: int, steps: int, warmup: int, decay: float = 0.5, floor: float = 0.0
) -> float:
    """The factor on the learning rate: linear warm-up, constant, then a cosine over the last share.

    `decay` is the share of the run that the final descent takes.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = steps * (1 - decay)
    if step < start:
        return 1.0
    done = min(1.0, (step - start) / max(1.0, steps - start))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
