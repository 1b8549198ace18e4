"""Which parameter is updated how: Muon for matrices, AdamW for everything else.

Muon (Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest orthogonal
matrix, so that all its directions learn at the same pace. The paper does not publish its optimiser:
this one is our choice, because it gets a small model further in the same minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from minikontext.errors import ConfigError, TrainingError
from minikontext.runtime.device import in_bfloat16
from minikontext.training.parallel import full_tensor, shard_like, to_local


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates a parameter: hidden matrices and kernels, not inputs or outputs."""
    outside = (
        "embed",
        "position",
        "conv_in",
        "img_in",
        "txt_in",
        "final_layer",
    )
    modulation = ("modulation", "_mod.", "time_in", "vector_in", "guidance_in")
    pixels = ("decoder.conv_out", "conv_out")  # a decoder's, in its autoencoder or alone
    hidden = not (name.startswith(pixels) or any(word in name for word in outside + modulation))
    return parameter.ndim >= 2 and hidden


def orthogonalised(g: Tensor, iterations: int = 5) -> Tensor:
    """Roughly the orthogonal matrix nearest to g (m, n), by Newton and Schulz's iteration.

    Each iteration sends every singular value s to `a s + b s^3 + c s^5`, which with Jordan's
    coefficients drives them into 0.7 to 1.2 fast. In bfloat16 where `in_bfloat16` holds.
    """
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x.to(torch.bfloat16 if in_bfloat16(g.device) else torch.float32)
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if g.shape[0] > g.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; the step's size is that of AdamW's (0.2 in the mean).

    `torch.optim.Muon` gives the same numbers, but always works in bfloat16: most laptops' CPUs must
    emulate it, and there it takes five times as long as the rest of a training step.
    """

    def __init__(
        self,
        params: list[dict],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        half: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.half = half  # the momentum in bfloat16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                state, momentum = self.state[weight], group["momentum"]
                dtype = torch.bfloat16 if self.half else weight.grad.dtype
                zero = torch.zeros_like(weight.grad, dtype=dtype)
                mean = state.setdefault("momentum_buffer", zero)
                mean.lerp_(weight.grad.to(dtype), 1 - momentum)
                ahead = weight.grad.lerp(mean.to(weight.grad.dtype), momentum)
                update = orthogonalised(full_tensor(ahead))
                size = 0.2 * math.sqrt(max(weight.shape))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                update = shard_like(update.to(weight.dtype), weight)
                weight.add_(update, alpha=-group["lr"] * size)


class MuonAdamW:
    """One optimiser over a module: Muon on matrices, `torch.optim.AdamW` on the rest.

    Convolution kernels (o, i, 3, 3) are seen by Muon as (o, 9 i) matrices that share their memory.
    `rate` scales both learning rates, so one schedule drives the two. `rates` scales them for the
    modules that it names: {"heads": 10} for parameters named "heads.…"; ConfigError for others.
    `half` keeps Muon's momentum in bfloat16: it is averaged and made orthogonal, so digits matter
    little. AdamW's memory stays in float32: its squares span too many powers of ten.
    `matrix` tells which parameters, by name, are Muon's. `adam_beta` is Adam's first beta, None
    for 0.9: with less it forgets old gradients sooner, which a game of two nets wants.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        muon_lr: float,
        weight_decay: float = 0.0,
        rates: Mapping[str, float] | None = None,
        half: bool = False,
        matrix: Callable[[str, Tensor], bool] = is_matrix,
        adam_beta: float | None = None,
    ) -> None:
        self.names: dict[str, nn.Parameter] = dict(model.named_parameters())
        found = [n for n, p in self.names.items() if muon_lr > 0 and matrix(n, p)]
        self.views = {n: nn.Parameter(self.names[n].data.flatten(1)) for n in found}
        for name, view in self.views.items():  # a copy would be trained in place of the weight
            if to_local(view).data_ptr() != to_local(self.names[name]).data_ptr():
                raise ConfigError(f"{name} is not contiguous: keep weights in the default layout")
        rest = {n: p for n, p in self.names.items() if n not in self.views}
        parts = dict.fromkeys(name.split(".")[0] for name in self.names)
        if unknown := [name for name in rates or {} if name not in parts]:
            raise ConfigError(f"rates: no part is called {unknown[0]!r:.80}; there are "
                              f"{', '.join(parts)}")  # fmt: skip
        beta = 0.9 if adam_beta is None else adam_beta
        adam = {"betas": (beta, 0.99), "weight_decay": weight_decay}
        self.optimizers: list[torch.optim.Optimizer] = []
        if rest:
            self.optimizers.append(torch.optim.AdamW(_groups(rest, lr, rates or {}), **adam))
        if self.views:
            groups = _groups(self.views, muon_lr, rates or {})
            self.optimizers.append(Muon(groups, muon_lr, weight_decay, half=half))
        self.base = [group["lr"] for one in self.optimizers for group in one.param_groups]

    def step(self, rate: float) -> None:
        """Update every parameter with `rate` times its learning rate and drop the gradients."""
        for name, view in self.views.items():
            gradient = self.names[name].grad
            view.grad = None if gradient is None else gradient.flatten(1)
        groups = (group for one in self.optimizers for group in one.param_groups)
        for group, lr in zip(groups, self.base, strict=True):
            group["lr"] = lr * rate
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in (*self.names.values(), *self.views.values()):
            parameter.grad = None

    def _slots(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for name, parameter in self.names.items():
            if name in self.views:
                yield name, self.optimizers[-1], self.views[name]
            else:
                yield name, self.optimizers[0], parameter

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's memory as flat named tensors, ready for safetensors."""
        return {
            f"{key}.{name}": value.detach().clone().contiguous()
            for name, optimizer, parameter in self._slots()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned; parameters without an entry start afresh."""
        for name, optimizer, parameter in self._slots():
            found = {k[: -len(name) - 1]: v for k, v in tensors.items() if k.endswith("." + name)}
            known = {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"}
            state = {key: value for key, value in found.items() if key in known}
            if "momentum_buffer" in state and optimizer.half:
                state["momentum_buffer"] = state["momentum_buffer"].bfloat16()
            if state:
                optimizer.state[parameter] = {
                    key: value.clone() if key == "step" else shard_like(value, parameter).clone()
                    for key, value in state.items()
                }

    def room(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Empty tensors, sharded as the parameters are, for what `tensors` called `names`.

        Raises TrainingError for a name that no parameter here has.
        """
        slots = {name: parameter.detach() for name, _, parameter in self._slots()}
        split = [(name, *name.partition(".")[::2]) for name in names]
        if strange := [name for name, _, parameter in split if parameter not in slots]:
            raise TrainingError(f"a checkpoint has {strange[0]!r:.80} of another optimiser")
        return {
            name: torch.zeros(()) if key == "step" else torch.zeros_like(slots[parameter])
            for name, key, parameter in split
        }


def _groups(named: dict[str, nn.Parameter], lr: float, rates: Mapping[str, float]) -> list[dict]:
    """Parameters in groups of equal learning rates."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        groups.setdefault(lr * rates.get(name.split(".")[0], 1.0), []).append(parameter)
    return [{"params": params, "lr": rate} for rate, params in groups.items()]


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
