"""Attention's kernels, FlashAttention 3 where it is installed, and another one for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Lock, get_ident
from typing import Any

import torch

from minikontext import layers

LOG = logging.getLogger(__name__)
Function = Callable[..., Any]
_LOCK = Lock()
_INSTEAD: dict[str, dict[int, list[Function]]] = {}  # by name, and by thread
_OWN: dict[str, Function] = {}


@contextmanager
def instead(name: str, make: Callable[[Function], Function]) -> Iterator[None]:
    """For a block, in this thread alone, `layers.NAME` is make(it): others may edit meanwhile."""
    me = get_ident()
    with _LOCK:
        threads = _INSTEAD.setdefault(name, {})
        own = _OWN[name] if threads else getattr(layers, name)
        made = make(threads.get(me, [own])[-1])  # before anything changes: it may fail
        if not threads:
            _OWN[name] = own
            setattr(layers, name, lambda *a: threads.get(get_ident(), [own])[-1](*a))
        mine = threads.setdefault(me, [])
        mine.append(made)
    try:
        yield
    finally:
        with _LOCK:
            mine.pop()
            if not mine:
                del threads[me]
            if not threads:
                setattr(layers, name, _OWN.pop(name))


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
