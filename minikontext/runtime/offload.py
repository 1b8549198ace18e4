"""Weights that stay on the host and are copied to the device, layer by layer, to work there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from minikontext.errors import ConfigError
from minikontext.transformer import KontextTransformer


def transformer_blocks(transformer: KontextTransformer) -> list[nn.Module]:
    """All blocks, in the order in which they work."""
    return [*transformer.double_blocks, *transformer.single_blocks]


# ---- streaming ------------------------------------------------------------------------------
def stream(
    modules: Iterable[nn.Module],
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    within: nn.Module | None = None,
) -> None:
    """Keep modules where they are; each goes to the device, in dtype, only while it works.

    Memory-mapped weights stay on the disk until they are needed. The result is the same, the
    price is that every pass moves the weights. within: the net whose passes run them, in this
    order; while one works, the next one is prefetched. On CUDA it is copied meanwhile, through
    pinned memory and on a stream of its own.
    Where a pass is broken off, by an error or Ctrl-C, all modules have their own weights again, and
    what was prefetched is gone. Who calls the modules by itself does so inside of `one_pass`.
    """
    offload = Offload(torch.device(device), dtype, ahead=within is not None)
    for module in modules:
        for part in module.modules():  # buffers are small: they stay there
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.to(device))
        offload.add(module)
    if within is not None:
        within.forward = PassHook(within)


@contextmanager
def one_pass(net: nn.Module) -> Iterator[None]:
    """A pass through a net: however it ends, nothing that was prefetched stays on the device."""
    try:
        yield
    finally:
        hooks = (part.forward for part in net.modules() if isinstance(part.forward, OffloadHook))
        for hook in hooks:
            hook.offload.prefetched.clear()


class PassHook:
    """Stands in for a net's forward: the same inside of `one_pass`. A class, to be copied well."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.forward = net, net.forward
        update_wrapper(self, net.forward)  # its signature, for those who ask

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The net's result."""
        with one_pass(self.net):
            return self.forward(*args, **kwargs)


class OffloadHook:
    """Stands in for a module's forward: loads its weights, works, and puts the host's back.

    `finally`, because PyTorch's own hooks do not run when Ctrl-C comes in between.
    """

    def __init__(self, module: nn.Module, offload: Offload, number: int) -> None:
        self.module, self.offload, self.number = module, offload, number
        self.forward = module.forward
        update_wrapper(self, module.forward)  # its signature, for those who ask

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result. Whatever happens, its weights are the host's afterwards."""
        try:
            _assign(self.module, self.offload.load(self.number))
            out = self.forward(*args, **kwargs)
        finally:
            _assign(self.module, self.offload.host_params[self.number])
        self.offload.prefetch(self.number + 1)
        return out


class Offload:
    """Modules that work one after the other, and whose weights are on the device meanwhile.

    host_params: of each module, where they stay. prefetched: what is on its way, by number.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None, ahead: bool) -> None:
        self.device, self.dtype, self.ahead = device, dtype, ahead
        self.host_params: list[dict[str, Tensor]] = []
        self.prefetched: dict[int, dict[str, Tensor]] = {}
        on_gpu = ahead and device.type == "cuda"
        self.copy_stream = torch.cuda.Stream(device) if on_gpu else None

    def add(self, module: nn.Module) -> None:
        """Stream a module, as the last one in order."""
        number = len(self.host_params)
        self.host_params.append(dict(module.named_parameters()))
        module.forward = OffloadHook(module, self, number)

    def load(self, number: int) -> dict[str, Tensor]:
        """The weights of a module on the device: prefetched, or copied now."""
        device_params = self.prefetched.pop(number, None) or self.copy(number)
        self.prefetched.clear()  # of a pass that left a block out
        if self.copy_stream is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(self.copy_stream)
            for tensor in device_params.values():  # else its memory may be given away too early
                tensor.record_stream(now)
        return device_params

    def prefetch(self, number: int) -> None:
        """Set out early. The kernels of the one before are launched, not done: there is time."""
        if self.ahead and number < len(self.host_params):
            self.prefetched[number] = self.copy(number)

    def copy(self, number: int) -> dict[str, Tensor]:
        """Copies of a module's weights on the device, perhaps still on their way."""
        with torch.cuda.stream(self.copy_stream) if self.copy_stream else nullcontext():
            return {n: self._to_device(p.detach()) for n, p in self.host_params[number].items()}

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.copy_stream is None:
            return tensor.to(self.device, self.dtype)
        there = tensor.pin_memory().to(self.device, non_blocking=True)
        return there.to(self.dtype or there.dtype)  # only there: on the host it would block


def is_streamed(module: nn.Module) -> bool:
    """Whether the weights of any part of a module are on its device only while it works."""
    return any(isinstance(part.forward, OffloadHook) for part in module.modules())


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


def _assign(module: nn.Module, state: dict[str, Tensor]) -> None:
    module.load_state_dict(state, strict=False, assign=True)
