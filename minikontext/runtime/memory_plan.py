"""What fits where: memory plans for full-size weights, predicted before anything is loaded.

The prediction needs no device: sizes are counted and the activations are measured by running the
model on PyTorch's meta device, which has shapes but no numbers.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError, NotEnoughMemoryError
from minikontext.runtime.offload import transformer_blocks
from minikontext.runtime.quantization import has_torchao, import_torchao, is_quantised, scale_group
from minikontext.transformer import KontextTransformer

LOG = logging.getLogger(__name__)

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
    is on the device while it works. activations: the larger of one velocity and one decoding.
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
    """The text encoders in bytes: all of them, and the largest layer, streamed alone."""

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


def check(name: str) -> None:
    """Raises ConfigError for a name that is no plan: toy weights ask, too, and then need none."""
    if name not in NAMES:
        raise ConfigError(f"Got offload={name!r}. Use one of {', '.join(NAMES)}.")


def choose(plans: Sequence[Plan], available: float, requested: str = "auto") -> Plan:
    """The first plan that fits into `available` bytes, or the one asked for if it fits.

    Raises ConfigError for an unknown name, NotEnoughMemoryError with the arithmetic, and
    MissingPackageError for a quantised plan without torchao.
    """
    check(requested)
    wanted = [plan for plan in plans if requested in ("auto", plan.name)]
    fitting = [plan for plan in wanted if plan.peak <= available]
    if not fitting:
        sums = "\n".join(f"  {plan}" for plan in wanted)
        raise NotEnoughMemoryError(
            f"{max(available, 0) / GB:.1f} GB are free, and none of these plans fits:\n{sums}\n"
            "Free some memory, or use another device."
        )
    usable = (plan for plan in fitting if plan.bits is None or has_torchao())
    best = next(usable, fitting[0]) if requested == "auto" else fitting[0]
    if best is not fitting[0]:
        LOG.info("the %s plan would fit, too: pip install 'minikontext[quant]'", fitting[0].name)
    if best.bits is not None:
        import_torchao()
    return best


def available_bytes(device: torch.device) -> float:
    """Free memory, in bytes: of a GPU; or of the computer, of which a container may have a part.

    What caches hold counts as free: the system takes it back when it is needed.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return min(psutil.virtual_memory().available, cgroup_bytes())


# The two versions of Linux's control groups: folder, limit, usage, and which part is cache.
CGROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cgroup_bytes(
    groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float:
    """What the limits of this process's control groups leave free; infinite without any.

    A group lies in others, and the limits of all of them hold. Never below 0.
    """
    free = math.inf
    for line in _read(groups).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # A container may see its own group at the root, or the host's path, which is not there.
        for group in (PurePosixPath(place), *PurePosixPath(place).parents):
            for folder, *names in CGROUPS:
                free = min(free, _left(mount / folder / str(group).lstrip("/"), *names))
    return max(free, 0)


def _left(group: Path, limit: str, usage: str, cache: str) -> float:
    """What the limit of one group leaves; infinite if it has none."""
    most, used = _read(group / limit).strip(), _read(group / usage).strip()
    if not most.isdecimal() or not used.isdecimal():  # "max", or no such file
        return math.inf
    stat = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if line)
    return int(most) - int(used) + int(stat.get(cache, 0))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


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


def _quantised_bytes(shape: Sequence[int], dtype: torch.dtype, bits: int) -> int:
    numbers = math.prod(shape)
    if bits == 8:  # a scale and a zero point for each row
        return numbers + shape[0] * (dtype.itemsize + 1)
    # A scale of 8 bits for 64 numbers, and a scale of 32 bits for a group of these scales.
    return numbers // 2 + numbers // 64 + 4 * (numbers // 64 // scale_group(numbers))


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
        outputs = func(*args, **kwargs)
        for tensor in _tensors(outputs):
            self._count(tensor.untyped_storage())
        return outputs

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
    inputs = (img, next(ids), txt, next(ids), *scalars, torch.empty(1, device="meta"))
    with torch.device("meta"):
        model = KontextTransformer(config).to(dtype)
    return peak_bytes(lambda: model(*inputs))


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
