"""Attention kernels: FlashAttention 3 where it is installed; else the best that torch brings."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

LOG = logging.getLogger(__name__)


def use_flash_attention_3(device: torch.device) -> bool:
    """Route attention to FlashAttention 3 if `flash_attn_interface` is installed; says whether.

    It needs a Hopper GPU and 16-bit numbers, and a torch that can register it. Everything else
    keeps the best kernel that torch brings. What was compiled before keeps its kernel.
    """
    activate = getattr(torch.nn.attention, "activate_flash_attention_impl", None)
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    if not (activate and hopper and find_spec("flash_attn_interface")):
        return False
    try:
        activate("FA3")
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        LOG.info("FlashAttention 3 is installed, but not for this torch (%s): left out.", error)
        return False
    # It takes the place of torch's flash kernel, and on Hopper cuDNN's would go first.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return True


def leave_flash_attention_3() -> None:
    """Undo `use_flash_attention_3`."""
    torch.nn.attention.restore_flash_attention_impl()
    torch.backends.cuda.enable_cudnn_sdp(True)
