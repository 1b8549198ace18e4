"""Weights in 8 and 4 bits, and matrix products in float8, through torchao."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minikontext.errors import ConfigError, MissingPackageError
from minikontext.runtime import offload
from minikontext.transformer import KontextTransformer


def is_quantised(name: str, shape: Sequence[int]) -> bool:
    """The blocks' matrices are nearly all of the model; what is around them stays exact."""
    return "_blocks." in name and len(shape) == 2 and math.prod(shape) % 64 == 0


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


def takes_sums(tensor: Tensor) -> bool:
    """Whether an update can be added to a weight: float8 would round most of it away."""
    return not is_packed(tensor) and tensor.itemsize > 1


def _to_int8(torchao: Any, tensor: Tensor) -> Tensor:
    linear = nn.Linear(1, 1, bias=False)
    linear.weight = nn.Parameter(tensor, requires_grad=False)
    torchao.quantize_(linear, torchao.Int8WeightOnlyConfig())
    return linear.weight.detach()


def _to_nf4(torchao: Any, tensor: Tensor) -> Tensor:
    return torchao.to_nf4(tensor, 64, scale_group(tensor.numel()))


def scale_group(numbers: int) -> int:
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


def float8_usable(device: torch.device) -> bool:
    """Whether the device multiplies in float8 (NVIDIA from 8.9: Ada, Hopper), and torchao is here.

    Others cannot, or would only pretend to.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    return has_torchao()


def use_float8(transformer: KontextTransformer) -> KontextTransformer:
    """Change the blocks' matrices to float8 for good, in place; returns the transformer.

    Raises ConfigError for blocks that are streamed, quantised or not in bfloat16 and for a device
    that has no float8, and MissingPackageError without torchao.
    """
    torchao = import_torchao()
    if offload.is_streamed(transformer):
        raise ConfigError("Streamed blocks cannot be changed. Load with another plan.")
    for block in offload.transformer_blocks(transformer):
        for name, layer in block.named_modules():
            if sees_every_token(layer, name) and type(layer.weight.data) is not torch.Tensor:
                raise ConfigError(f"{name} is quantised already. Load with another plan.")
    device, dtype = transformer.img_in.weight.device, transformer.img_in.weight.dtype
    if not float8_usable(device):
        raise ConfigError(f"{device} does not multiply in float8: it takes CUDA capability 8.9.")
    if dtype != torch.bfloat16:
        raise ConfigError(f"The weights are {dtype}. Load them with dtype='bfloat16'.")
    to_float8(transformer, torchao)
    return transformer


def to_float8(transformer: KontextTransformer, torchao: Any) -> None:
    """Let torchao change the layers, whatever the device."""
    how = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
    for block in offload.transformer_blocks(transformer):
        torchao.quantize_(block, how, sees_every_token)


def sees_every_token(module: nn.Module, name: str) -> bool:
    """Which layers of a block are worth it: all linear ones but the modulations' (`….lin`)."""
    return isinstance(module, nn.Linear) and not name.endswith("lin")
