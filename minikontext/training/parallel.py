"""One training on many processes, by PyTorch's own engine: FSDP2, and nothing home-made.

`torchrun --nproc-per-node 8 -m minikontext train config.toml` starts the same loop once a GPU. Each
process holds a slice of every weight (fully sharded data parallelism, ZeRO-3): a block's weights
are gathered just before it runs and dropped after it, its gradients are summed and sliced again.
Optimiser and moving average live on the slices. Each process computes its own rows of the one
global batch, so many processes do what one does; only the order of a sum differs.

Paper, section 3: FSDP2, all-gather in bfloat16, reduce-scatter in float32, selective activation
checkpointing, compilation of single blocks. Its HSDP layout and sizes are not published.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
import torch.distributed as dist
from annotated_types import Interval
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from minikontext.errors import ConfigError
from minikontext.runtime.attention import use_flash_attention_3
from minikontext.runtime.device import in_bfloat16, select_device
from minikontext.transformer import KontextTransformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# FSDP2 and DTensor are imported where many processes need them: one process works without.

LEVELS = ("none", "selective", "full")


@dataclass(frozen=True)
class ParallelConfig:
    """The section [parallel] of a config; the same for flow training and both distillations.

    replicate: copies of the sharded model (HSDP). Shards are exchanged among processes / replicate
    neighbours, best those of one host; between the copies only gradients travel.
    checkpointing: what is kept from forward to backward, see `kept_less`.
    compile: `torch.compile` on each block. bf16: all-gather in bfloat16 where the device computes
    in it; gradients are always summed in float32. background: write checkpoints while training.
    """

    replicate: Annotated[int, Interval(ge=1, le=2**20)] = 1
    checkpointing: str = "none"
    compile: bool = False
    bf16: bool = True
    background: bool = True

    def __post_init__(self) -> None:
        if self.checkpointing not in LEVELS:
            raise ConfigError(f"checkpointing={self.checkpointing!r}: choose one of {LEVELS}")


# ---------------------------------------------------------------------------------- who is there


@dataclass(frozen=True)
class Microbatch:
    """Rows `index` of `count` equal shares of the global batch."""

    index: int = 0
    count: int = 1

    def of(self, x: Tensor) -> Tensor:
        """Its rows of x (b, ...) -> (b / count, ...). Raises ConfigError if uneven."""
        if len(x) % self.count:
            raise ConfigError(f"batch={len(x)} cannot be cut into {self.count} equal microbatches")
        size = len(x) // self.count
        return x[self.index * size : (self.index + 1) * size]

    def to(self, device: torch.device, *tensors: Tensor) -> list[Tensor]:
        """Its rows of several tensors, on the device."""
        return [self.of(x).to(device) for x in tensors]


WHOLE = Microbatch()


@dataclass(frozen=True)
class DistContext:
    """The processes of a training: this one's rank and device, and how many there are.

    Alone (size 1) there is no process group, and every method is an identity.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    config: ParallelConfig = ParallelConfig()

    def microbatches(self, accumulate: int = 1) -> list[Microbatch]:
        """This process's microbatches, to be computed one after the other."""
        count = self.size * accumulate
        return [Microbatch(self.rank * accumulate + i, count) for i in range(accumulate)]

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over all processes; they must agree on the names."""
        if self.size == 1:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(numbers)  # on the CPU: gloo
        return dict(zip(values, (numbers / self.size).tolist(), strict=True))

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            self.mean({"here": 1.0})


ALONE = DistContext(torch.device("cpu"))


def start(device: str | None = None, config: ParallelConfig | None = None) -> DistContext:
    """Join the processes that torchrun started, or be alone.

    device: "cpu", "cuda", "mps"; the best there is by default.

    Raises ConfigError for a number of processes that `replicate` does not divide.
    """
    flags = config or ParallelConfig()
    size = int(os.environ.get("WORLD_SIZE", 1))
    where, _ = select_device(device, None)
    if size == 1:
        return DistContext(where, config=flags)
    if size % flags.replicate:
        raise ConfigError(f"replicate={flags.replicate} does not divide {size} processes")
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        end_with_parent()
        dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo")
    return DistContext(where, dist.get_rank(), size, _mesh(where, size, flags.replicate), flags)


GRACE = 60.0  # seconds in which a training whose torchrun is gone ends its step and saves


def end_with_parent() -> None:
    """End this process when the one that started it is gone, which may have had no time to say so.

    Otherwise the trainers of a killed torchrun would train on, unseen, and hold the run's folder.
    It is as after SIGTERM: the loop ends its step and saves. What hangs is killed.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _mesh(device: torch.device, size: int, replicate: int) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    if replicate == 1:
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    shape = (replicate, size // replicate)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


# ------------------------------------------------------------------------------ tensors in slices


def full_tensor(x: Tensor) -> Tensor:
    """All of a tensor, gathered from the processes if it is sharded: every one must ask."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def shard_like(x: Tensor, like: Tensor) -> Tensor:
    """This process's slice of x, sharded as `like` is; nothing is sent."""
    if hasattr(x, "full_tensor") or not hasattr(like, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor

    x = x.to(like.device)
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def to_local(x: Tensor) -> Tensor:
    """The numbers that lie in this process; they share memory with x."""
    return x.to_local() if hasattr(x, "to_local") else x


# ------------------------------------------------------------------------------ preparing a model

Fill = Callable[[str, nn.Module], None]


def prepare(
    model: nn.Module, world: DistContext, bf16: bool = False, fill: Fill | None = None
) -> nn.Module:
    """Set checkpointing and compilation, move the model to its device, shard it; returns it.

    Parts that were made on the meta device get memory block by block, so that no process ever holds
    more than one whole block: `fill(name, module)` then sets a module's own weights, with its name
    within the transformer. bf16: whether the training computes in bfloat16.
    """
    flags = world.config
    # A linear layer's output is such a view; nothing here writes into one.
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*returned a view tensor")
    if bf16:
        use_flash_attention_3(world.device)
    for module in _modules(model):
        blocks = _blocks(module)
        apply_activation_checkpointing(blocks, flags)
        narrow = bool(blocks) and bf16 and flags.bf16 and in_bfloat16(world.device)
        _place(module, "", module, blocks, world, narrow, fill)
    return model


def apply_activation_checkpointing(blocks: Iterable[nn.Module], flags: ParallelConfig) -> None:
    """Set checkpointing and compilation of blocks, in place."""
    for block in blocks:
        block.forward = kept_less(block.forward, flags.checkpointing)
        if flags.compile:
            # Behind `checkpoint`, both kinds of blocks are one function, in training, in validation
            # and for each size anew: more versions than torch allows by itself.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            block.forward = torch.compile(block.forward)


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that run as a whole: each transformer, and what lies beside them."""
    within = [m for m in model.modules() if isinstance(m, KontextTransformer)]
    if model in within or not within:
        yield model
    else:
        for child in model.children():
            yield from _modules(child)


def _blocks(module: nn.Module) -> list[nn.Module]:
    is_net = isinstance(module, KontextTransformer)
    return [*module.double_blocks, *module.single_blocks] if is_net else []


def _place(
    module: nn.Module, name: str, root: nn.Module, blocks: list[nn.Module], world: DistContext,
    narrow: bool, fill: Fill | None,
) -> None:  # fmt: skip
    """Depth first: give memory, fill, move, and shard a unit as soon as it is whole."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        _place(child, path, root, blocks, world, narrow, fill)
    if fill and any(p.is_meta for p in module.parameters(recurse=False)):
        module.to_empty(device="cpu", recurse=False)  # a seed means the same on every device
        fill(name, module)
    if module is not root and module not in blocks:
        return
    module.to(world.device, torch.float32)  # stored weights leave their file here
    if world.mesh is not None and any(True for _ in module.parameters()):
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if narrow else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # times would be rounded to 8 bits; autocast knows better
        )
        # What learns drops its whole weights after every forward pass: a student whose turn has not
        # come runs no backward pass that would. The root of a frozen net keeps them: LADD's loss
        # hangs on the blocks, so no backward pass would gather the root's again.
        learns = any(p.requires_grad for p in module.parameters())
        drop = learns or module in blocks
        fully_shard(module, mesh=world.mesh, mp_policy=policy, reshard_after_forward=drop)


# ------------------------------------------------------------------- activation checkpointing

_ATEN = torch.ops.aten
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")
_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
KEPT = {getattr(_ATEN, n).default for n in (*_PRODUCTS, *_ATTENTION) if hasattr(_ATEN, n)}


def _policy(_: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    kept = op in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def kept_less(forward: Callable, level: str) -> Callable:
    """A block's forward pass that keeps less for its backward pass and computes it again.

    "none" keeps everything; "full" keeps the block's inputs and costs one more forward pass;
    "selective" keeps what is dear to compute, the outputs of attention and of matrix products, and
    recomputes norms, modulations, activations and rotations: little time, about half the memory.
    """
    if level == "none":
        return forward
    again = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
    if level == "full":
        return again
    return partial(again, context_fn=partial(create_selective_checkpoint_contexts, _policy))
