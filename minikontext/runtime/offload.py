"""Weights that stay on the host and visit the device, layer by layer, while they work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from minikontext.errors import ConfigError
from minikontext.transformer import KontextTransformer


def transformer_blocks(transformer: KontextTransformer) -> list[nn.Module]:
    """All blocks, in the order in which they work."""
    return [*transformer.double_blocks, *transformer.single_blocks]


# ---- streaming and quantising ---------------------------------------------------------------
def stream(
    modules: Iterable[nn.Module],
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    ahead: bool = False,
) -> None:
    """Keep modules where they are; each goes to the device, in dtype, only while it works.

    Memory-mapped weights stay on the disk until they are needed. The result is the same, the
    price is that every visit moves the weights. ahead: when one is at work, the next one in order
    sets out; on CUDA it travels meanwhile, through pinned memory and on a stream of its own.
    """
    visits = _Visits(torch.device(device), dtype, ahead)
    for module in modules:
        for part in module.modules():  # buffers are small: they stay there
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.to(device))
        visits.add(module)


class _Visits:
    """Who visits the device, in order; `coming` has set out and does not work yet."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None, ahead: bool) -> None:
        self.device, self.dtype, self.ahead = device, dtype, ahead
        self.homes: list[dict[str, Tensor]] = []
        self.coming: dict[int, dict[str, Tensor]] = {}
        self.road = torch.cuda.Stream(device) if ahead and device.type == "cuda" else None

    def add(self, module: nn.Module) -> None:
        number = len(self.homes)
        self.homes.append(dict(module.named_parameters()))
        module.register_forward_pre_hook(lambda m, given: _place(m, self.arrive(number)))
        module.register_forward_hook(lambda m, given, out: self.leave(m, number))

    def arrive(self, number: int) -> dict[str, Tensor]:
        guests = self.coming.pop(number, None) or self.send(number)
        self.coming.clear()  # what set out in a pass that was broken off, or left a block out
        if self.road is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(self.road)
            for guest in guests.values():  # else its memory may be given away too early
                guest.record_stream(now)
        return guests

    def leave(self, module: nn.Module, number: int) -> None:
        """Its kernels are launched, not done: now the host has time for the next one."""
        _place(module, self.homes[number])
        if self.ahead and number + 1 < len(self.homes):
            self.coming[number + 1] = self.send(number + 1)

    def send(self, number: int) -> dict[str, Tensor]:
        with torch.cuda.stream(self.road) if self.road is not None else nullcontext():
            return {name: self._moved(p.detach()) for name, p in self.homes[number].items()}

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.road is None:
            return tensor.to(self.device, self.dtype)
        there = tensor.pin_memory().to(self.device, non_blocking=True)
        return there.to(self.dtype or there.dtype)  # only there: on the host it would block


def is_streamed(module: nn.Module) -> bool:
    """Whether any part of a module is only a visitor on its device."""
    return any(part._forward_pre_hooks for part in module.modules())


def move(modules: Sequence[nn.Module], device: str | torch.device) -> None:
    """Move modules to a device. Raises ConfigError if the weights of any are streamed."""
    if any(map(is_streamed, modules)):
        raise ConfigError("Streamed weights stay where they are. Load again for that device.")
    for module in modules:
        module.to(device)


def compile_blocks(transformer: KontextTransformer, **options: Any) -> None:
    """Compile the two kinds of blocks in place, once for all their copies.

    Seconds instead of minutes, and from the third size on nothing is compiled again; a LoRA that
    comes, goes or is turned is seen, and compiled in. `options` go to torch.compile; CUDA graphs
    are left out, because at 1024 × 1024 a kernel takes longer than its launch.
    Raises ConfigError where blocks are streamed: they change at each step.
    """
    if is_streamed(transformer):
        raise ConfigError("Streamed blocks cannot be compiled. Load with another plan.")
    # LoRAs are hooks, and compiled code does not look whether hooks have changed, unless asked.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    for block in transformer_blocks(transformer):
        block.compile(**options)


def _place(module: nn.Module, state: dict[str, Tensor]) -> None:
    module.load_state_dict(state, strict=False, assign=True)
