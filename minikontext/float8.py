"""Matrix products in float8, for GPUs that have it: fewer digits for speed, not yet measured.

Weights get one scale for each row, once; activations one for each token, at every product (E4M3,
torchao). Only the layers that see every token are changed: modulations see one vector a picture,
and what is around the blocks stays exact.
"""

from __future__ import annotations

import torch
from torch import nn

from minikontext import memory
from minikontext.errors import ConfigError
from minikontext.transformer import KontextTransformer


def is_usable(device: torch.device) -> bool:
    """Whether the device multiplies in float8 (NVIDIA from 8.9: Ada, Hopper), and torchao is here.

    Others cannot, or would only pretend to.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    return memory.has_torchao()


def use(transformer: KontextTransformer) -> KontextTransformer:
    """Change the blocks' matrices to float8 for good, in place; returns the transformer.

    Raises ConfigError for blocks that are streamed, quantised or not in bfloat16 and for a device
    that has no float8, and MissingPackageError without torchao.
    """
    quantization = memory.import_torchao()
    if memory.is_streamed(transformer):
        raise ConfigError("Streamed blocks cannot be changed. Load with another plan.")
    for block in memory.transformer_blocks(transformer):
        for name, layer in block.named_modules():
            if sees_every_token(layer, name) and type(layer.weight.data) is not torch.Tensor:
                raise ConfigError(f"{name} is quantised already. Load with another plan.")
    device, dtype = transformer.img_in.weight.device, transformer.img_in.weight.dtype
    if not is_usable(device):
        raise ConfigError(f"{device} does not multiply in float8: it takes CUDA capability 8.9.")
    if dtype != torch.bfloat16:
        raise ConfigError(f"The weights are {dtype}. Load them with dtype='bfloat16'.")
    convert(transformer, quantization)
    return transformer


def convert(transformer: KontextTransformer, quantization: object) -> None:
    """Let torchao change the layers, whatever the device."""
    how = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    for block in memory.transformer_blocks(transformer):
        quantization.quantize_(block, how, sees_every_token)


def sees_every_token(module: nn.Module, name: str) -> bool:
    """Which layers of a block are worth it: all linear ones but the modulations' (`….lin`)."""
    return isinstance(module, nn.Linear) and not name.endswith("lin")
