"""Where the numbers live: the one place that chooses a device and a dtype."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from minikontext.errors import ConfigError

LOG = logging.getLogger(__name__)

# float16 is left out on purpose: FLUX's activations overflow in it and the pictures come out black.
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float64": torch.float64,
}
_announced: set[str] = set()


def select_device(
    device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[torch.device, torch.dtype]:
    """Choose device (cuda, then mps, then cpu) and dtype (bfloat16 on cuda, else float32).

    An argument wins over the environment (MINIKONTEXT_DEVICE, MINIKONTEXT_DTYPE), which wins over
    the choice made here. The choice and its reason are logged once, as INFO.
    Raises ConfigError for a device this machine lacks and for a dtype that cannot hold the model.
    A name of MINIKONTEXT_DTYPE means the same in editing and in training.
    """
    choice = explain_device(device, dtype)
    _announce(str(choice))
    return choice.device, choice.dtype


@dataclass(frozen=True)
class Choice:
    """A device and a dtype, each with the reason why it was chosen."""

    device: torch.device
    device_reason: str
    dtype: torch.dtype
    dtype_reason: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"device: {self.device} ({self.device_reason}), dtype: {dtype} ({self.dtype_reason})"


def explain_device(
    device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Choice:
    """Make the choice of `select_device` without telling it."""
    chosen, device_reason = _device(device)
    number, dtype_reason = _dtype(dtype, chosen)
    return Choice(chosen, device_reason, number, dtype_reason)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16; emulation can be a hundred times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return any("bf16" in name and has for name, has in known.items())


def in_bfloat16(device: torch.device, wanted: bool = True) -> bool:
    """Whether training computes in bfloat16: as MINIKONTEXT_DTYPE says, or if the hardware can.

    Raises ConfigError for a MINIKONTEXT_DTYPE that `select_device` would refuse.
    """
    requested = dtype_from_environment()
    return wanted and (requested is torch.bfloat16 if requested else has_bfloat16(device))


@contextmanager
def mixed_precision(device: torch.device, wanted: bool = True) -> Iterator[torch.dtype]:
    """Matrix products in bfloat16 if `in_bfloat16`, else in float32; yields which."""
    on = in_bfloat16(device, wanted)
    with torch.autocast(device.type, torch.bfloat16, enabled=on):
        yield torch.bfloat16 if on else torch.float32


def _device(requested: str | torch.device | None) -> tuple[torch.device, str]:
    if requested is not None:
        return _checked(requested), "as asked"
    if os.environ.get("MINIKONTEXT_DEVICE"):
        return _checked(os.environ["MINIKONTEXT_DEVICE"]), "from MINIKONTEXT_DEVICE"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple GPU, no CUDA"
    return torch.device("cpu"), "no GPU found"


def _checked(requested: str | torch.device) -> torch.device:
    """Turn a name into a device and make sure that this machine has it."""
    try:
        device = torch.device(requested)
        if device.type not in ("cpu", "cuda", "mps"):
            raise TypeError(device.type)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"Unknown device {requested!r}. Use 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"Device {requested!r} was asked for, but PyTorch sees {torch.cuda.device_count()} "
            "CUDA device(s). Use 'cpu', or install a CUDA build of PyTorch."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("Device 'mps' was asked for, but this is no Apple GPU. Use 'cpu'.")
    return device


def dtype_from_environment() -> torch.dtype | None:
    """What MINIKONTEXT_DTYPE says, None if it is not set or empty. Raises ConfigError."""
    requested = os.environ.get("MINIKONTEXT_DTYPE")
    return parse_dtype(requested, "MINIKONTEXT_DTYPE=") if requested else None


def _dtype(requested: str | torch.dtype | None, device: torch.device) -> tuple[torch.dtype, str]:
    if requested is not None:
        return parse_dtype(requested), "as asked"
    if dtype := dtype_from_environment():
        return dtype, "from MINIKONTEXT_DTYPE"
    if device.type == "cuda" and has_bfloat16(device):
        return torch.bfloat16, "the GPU has it"
    return torch.float32, "exact everywhere"


def parse_dtype(requested: str | torch.dtype, name: str = "dtype ") -> torch.dtype:
    """A dtype by name, or as it is. `name` starts the message. Raises ConfigError for any other."""
    dtype = DTYPES.get(requested.strip().lower()) if isinstance(requested, str) else requested
    if dtype not in DTYPES.values():
        raise ConfigError(
            f"{name}{requested!r} is not supported. Use 'float32' or 'bfloat16' "
            "(float16 overflows in this model and gives black pictures)."
        )
    return dtype


def _announce(line: str) -> None:
    if line not in _announced:
        _announced.add(line)
        LOG.info(line)
