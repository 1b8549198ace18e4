"""Weights that stay on the host and visit the device, layer by layer, while they work."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

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


def _place(module: nn.Module, state: dict[str, Tensor]) -> None:
    module.load_state_dict(state, strict=False, assign=True)
