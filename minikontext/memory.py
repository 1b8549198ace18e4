"""What fits where: memory plans for full-size weights, predicted before anything is loaded.

The prediction needs no device: sizes are counted and the activations are measured by running the
model on PyTorch's meta device, which has shapes but no numbers.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError, MissingPackageError, NotEnoughMemoryError
from minikontext.transformer import KontextTransformer

GB = 1_000_000_000
# CUDA's context, its libraries' workspaces, T5's activations, gaps between tensors.
RESERVE = 800_000_000

# name, bits of the blocks' matrices (None: as computed), encoders streamed, blocks streamed
PLANS: tuple[tuple[str, int | None, bool, bool], ...] = (
    ("resident", None, False, False),
    ("encoders", None, True, False),
    ("8-bit", 8, True, False),
    ("4-bit", 4, True, False),
    ("stream", None, True, True),
)
NAMES = ("auto", *(name for name, *_ in PLANS))


@dataclass(frozen=True)
class Plan:
    """What lies on the device while pictures are made, in bytes.

    bits: of the blocks' matrices, None as computed. stream_…: lies on the host, and each layer
    visits the device while it works. activations: the larger of one velocity and one decoding.
    """

    name: str
    bits: int | None
    stream_encoders: bool
    stream_blocks: bool
    transformer: int
    encoders: int
    autoencoder: int
    activations: int
    reserve: int = RESERVE

    @property
    def peak(self) -> int:
        """The most that the device holds at any moment."""
        parts = (self.transformer, self.encoders, self.autoencoder, self.activations)
        return sum(parts) + self.reserve

    def __str__(self) -> str:
        names = ("transformer", "encoders", "autoencoder", "activations", "reserve")
        parts = " + ".join(f"{name} {getattr(self, name) / GB:.1f}" for name in names)
        return f"{self.name}: {self.peak / GB:.1f} GB = {parts}"


@dataclass(frozen=True)
class Encoders:
    """The text encoders in bytes: all of them, and the largest layer that visits alone."""

    total: int
    largest: int


def predict(
    transformer: KontextTransformer,
    autoencoder: AutoEncoder,
    encoders: Encoders,
    dtype: torch.dtype,
    pixels: tuple[int, int] = (1024, 1024),
    pictures: int = 2,
    text_tokens: int = 512,
) -> list[Plan]:
    """Predict all plans for modules on the meta device; `pictures` counts target and contexts."""
    velocity = velocity_bytes(transformer, dtype, pixels, pictures, text_tokens)
    activations = max(velocity, decoding_bytes(autoencoder, dtype, pixels))
    return [
        Plan(
            *(name, bits, stream_encoders, stream_blocks),
            transformer=transformer_bytes(transformer, dtype, bits, stream_blocks),
            encoders=encoders.largest if stream_encoders else encoders.total,
            autoencoder=weight_bytes(autoencoder, dtype),
            activations=activations,
        )
        for name, bits, stream_encoders, stream_blocks in PLANS
    ]


def choose(plans: Sequence[Plan], available: float, asked: str = "auto") -> Plan:
    """The first plan that fits into `available` bytes, or the one asked for if it fits.

    Raises ConfigError for an unknown name, NotEnoughMemoryError with the arithmetic, and
    MissingPackageError for a quantised plan without torchao.
    """
    if asked not in NAMES:
        raise ConfigError(f"Got offload={asked!r}. Use one of {', '.join(NAMES)}.")
    wanted = [plan for plan in plans if asked in ("auto", plan.name)]
    fitting = [plan for plan in wanted if plan.peak <= available]
    if not fitting:
        sums = "\n".join(f"  {plan}" for plan in wanted)
        raise NotEnoughMemoryError(
            f"{max(available, 0) / GB:.1f} GB are free, and none of these plans fits:\n{sums}\n"
            "Free some memory, or use another device."
        )
    usable = (plan for plan in fitting if plan.bits is None or has_torchao())
    best = next(usable, fitting[0]) if asked == "auto" else fitting[0]
    if best is not fitting[0]:
        print(f"the {fitting[0].name} plan would fit, too: pip install 'minikontext[quant]'")
    if best.bits is not None:
        import_torchao()
    return best


def available_bytes(device: torch.device) -> float:
    """Free memory of a GPU, all memory of a computer; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    names = getattr(os, "sysconf_names", {})
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf


# ---- counting weights -----------------------------------------------------------------------


def weight_bytes(module: nn.Module, dtype: torch.dtype, bits: int | None = None) -> int:
    """Bytes of a module's parameters in dtype, with the matrices of its blocks in `bits`."""
    return sum(
        _quantised_bytes(p.shape, dtype, bits)
        if bits and is_quantised(name, p.shape)
        else p.numel() * dtype.itemsize
        for name, p in module.named_parameters()
    )


def transformer_bytes(
    transformer: KontextTransformer, dtype: torch.dtype, bits: int | None, stream: bool
) -> int:
    """The transformer's share: all of it, or with streaming the rest and two blocks."""
    whole = weight_bytes(transformer, dtype, bits)
    if bits:  # one matrix at a time is multiplied at full width
        matrices = (
            p.numel() for n, p in transformer.named_parameters() if is_quantised(n, p.shape)
        )
        return whole + max(matrices, default=0) * dtype.itemsize
    if not stream:
        return whole
    blocks = [weight_bytes(block, dtype) for block in transformer_blocks(transformer)]
    return whole - sum(blocks) + 2 * max(blocks, default=0)  # one works, one sets out


def transformer_blocks(transformer: KontextTransformer) -> list[nn.Module]:
    """All blocks, in the order in which they work."""
    return [*transformer.double_blocks, *transformer.single_blocks]


def is_quantised(name: str, shape: Sequence[int]) -> bool:
    """The blocks' matrices are nearly all of the model; what is around them stays exact."""
    return "_blocks." in name and len(shape) == 2 and math.prod(shape) % 64 == 0


def _quantised_bytes(shape: Sequence[int], dtype: torch.dtype, bits: int) -> int:
    numbers = math.prod(shape)
    if bits == 8:  # a scale and a zero point for each row
        return numbers + shape[0] * (dtype.itemsize + 1)
    # A scale of 8 bits for 64 numbers, and a scale of 32 bits for a group of these scales.
    return numbers // 2 + numbers // 64 + 4 * (numbers // 64 // _scale_group(numbers))


# ---- measuring activations ------------------------------------------------------------------


class PeakMemory(TorchDispatchMode):
    """Add up the bytes of all tensors that are made inside and still alive; `peak` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it made."""
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage()._cdata)
        made = func(*args, **kwargs)
        for tensor in _tensors(made):
            self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as every GPU kernel does it: only the result takes memory, no n × n matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def peak_bytes(run: Callable[[], object]) -> int:
    """The memory that a computation on the meta device would take beside its inputs."""
    with torch.no_grad(), _FusedAttention(), PeakMemory() as memory:
        run()
    return memory.peak


def velocity_bytes(
    transformer: KontextTransformer,
    dtype: torch.dtype,
    pixels: tuple[int, int] = (1024, 1024),
    pictures: int = 2,
    text_tokens: int = 512,
    side: int = 16,
) -> int:
    """Activations of one velocity for `pictures` of `pixels`, a token being side × side pixels.

    One block of each kind is enough: a block leaves nothing behind for the next but its output.
    """
    config = replace(transformer.config, depth=1, depth_single_blocks=1)
    n = pictures * math.prod(-(-x // side) for x in pixels)

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    img, txt = empty(1, n, config.in_channels), empty(1, text_tokens, config.context_in_dim)
    ids = (empty(x, 3) for x in (n, text_tokens))
    scalars = (torch.empty(1, device="meta"), empty(1, config.vec_in_dim))
    given = (img, next(ids), txt, next(ids), *scalars, torch.empty(1, device="meta"))
    with torch.device("meta"):
        model = KontextTransformer(config).to(dtype)
    return peak_bytes(lambda: model(*given))


def decoding_bytes(
    autoencoder: AutoEncoder, dtype: torch.dtype, pixels: tuple[int, int] = (1024, 1024)
) -> int:
    """Activations of decoding one picture."""
    config = autoencoder.config
    sides = (-(-x // config.downsample) for x in pixels[::-1])
    latents = torch.empty(1, config.z_channels, *sides, dtype=dtype, device="meta")
    with torch.device("meta"):
        model = AutoEncoder(config).to(dtype)
    return peak_bytes(lambda: model.decode(latents))


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (x for x in tree_leaves(tree) if isinstance(x, Tensor))


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


def quantiser(bits: int | None) -> Callable[[str, Tensor], Tensor] | None:
    """How a plan stores a tensor: 8 bits with a scale a row, or 4 (NF4); torchao does both.

    -> prepare(name, tensor) for `weights.load_into`, None where nothing changes.
    Raises MissingPackageError.
    """
    if bits is None:
        return None
    torchao = import_torchao()
    compress = _to_int8 if bits == 8 else _to_nf4

    def prepare(name: str, tensor: Tensor) -> Tensor:
        return compress(torchao, tensor) if is_quantised(name, tensor.shape) else tensor

    return prepare


def is_packed(tensor: Tensor) -> bool:
    """Whether a weight is stored quantised: it multiplies, but takes no sums and is not saved."""
    return type(tensor.data) is not Tensor or not tensor.is_floating_point()


def _to_int8(torchao: Any, tensor: Tensor) -> Tensor:
    linear = nn.Linear(1, 1, bias=False)
    linear.weight = nn.Parameter(tensor, requires_grad=False)
    torchao.quantize_(linear, torchao.Int8WeightOnlyConfig())
    return linear.weight.detach()


def _to_nf4(torchao: Any, tensor: Tensor) -> Tensor:
    return torchao.to_nf4(tensor, 64, _scale_group(tensor.numel()))


def _scale_group(numbers: int) -> int:
    """How many scales of 64 numbers share one scale: 256, or what divides their number."""
    return math.gcd(numbers // 64, 256)


def has_torchao() -> bool:
    """Whether quantised plans can be used here."""
    try:
        import_torchao()
    except MissingPackageError:
        return False
    return True


def import_torchao() -> Any:
    """Import `torchao.quantization` only when weights are quantised."""
    try:
        import torchao.quantization as quantization
    except ImportError as error:
        raise MissingPackageError(
            "8-bit and 4-bit weights need torchao: pip install 'minikontext[quant]'"
        ) from error
    return quantization
