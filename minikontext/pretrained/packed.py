"""Weights in fewer bits, unpacked while they are read: GGUF, and 4 and 8 bits of bitsandbytes.

Each number is an index into a short table, or a small integer, times the scale of its block. What
was lost when it was packed does not come back; `offload="4-bit"` packs anew what has been read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minikontext.errors import MissingPackageError, WeightsError
from minikontext.runtime.config import parse_json


# ---- ComfyUI --------------------------------------------------------------------------------
def unpack_float8(numbers: Tensor, scale: Tensor, what: str) -> Tensor:
    """Numbers times their scale, one for all or one a row -> float32. Raises WeightsError."""
    shape, whole = tuple(scale.shape), scale.is_floating_point()
    rows = len(numbers) if numbers.dim() else 1
    one_a_row = shape in ((rows,), (rows, 1))
    sound = whole and scale.isfinite().all() and (scale.float() > 0).all()
    if not sound or not (scale.numel() == 1 or one_a_row):
        raise WeightsError(
            f"{what} has shape {shape} or no finite numbers above 0; expected one number, or "
            f"{rows}. Get the file again."
        )
    scale = scale.float()
    return numbers.float() * scale.reshape((-1, *[1] * (numbers.dim() - 1))[: numbers.dim()])


# ---- bitsandbytes ---------------------------------------------------------------------------
# What is stored beside a matrix of 4 bits, by the end of its name, and beside one of 8 bits.
NOTES = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")
FOUR_BITS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", *NOTES)
EIGHT_BITS = "SCB"


@contextmanager
def sound(place: object, name: str) -> Iterator[None]:
    """Raise WeightsError where the parts of a matrix do not fit each other."""
    try:
        yield
    except (ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{place}: {name} is packed by bitsandbytes, and cannot be unpacked: {error}. "
            "Get the file again."
        ) from error


def shape(stored: tuple[int, ...], beside: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape of an unpacked matrix: as stored in 8 bits, as its note says in 4."""
    return stored if beside.keys() == {EIGHT_BITS} else tuple(_note(beside)["shape"])


def unpack(packed: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
    """A matrix that bitsandbytes packed, with what lies beside it -> float32 (out, in).

    Raises ValueError, LookupError, TypeError or RuntimeError for parts that do not fit.
    """
    if beside.keys() == {EIGHT_BITS}:
        return _unpack_8_bit(packed, beside[EIGHT_BITS])
    return _unpack_4_bit(packed, beside, _note(beside))


def _note(beside: Mapping[str, Tensor]) -> dict[str, Any]:
    """What bitsandbytes notes of a matrix of 4 bits: JSON in bytes."""
    numbers = next((beside[end] for end in NOTES if end in beside), torch.empty(0))
    if numbers.dtype != torch.uint8 or numbers.numel() > 4096:
        raise ValueError("its note is no JSON of at most 4096 bytes")
    note = parse_json(bytes(numbers.flatten().tolist()))
    sizes = (*note["shape"], note["blocksize"], note.get("nested_blocksize", 1))
    if len(sizes) != 4 or not all(type(n) is int and 0 < n < 2**31 for n in sizes):
        raise ValueError("its note has sizes that are none")
    return note


def _unpack_4_bit(packed: Tensor, beside: Mapping[str, Tensor], note: Mapping[str, Any]) -> Tensor:
    """NF4 or FP4: two indices in a byte, the first in its upper half -> float32 (out, in).

    beside: the table and each block's largest number, which may be packed in blocks itself.
    """
    count, absmax = math.prod(note["shape"]), beside["absmax"]
    nested = "nested_absmax" in beside
    if absmax.is_floating_point() == nested or absmax.dtype in (torch.int8, torch.bool):
        raise ValueError(f"its absmax is {absmax.dtype}")
    if nested:
        table = _floats(beside["nested_quant_map"])
        absmax = _scaled(table[absmax.long()], beside["nested_absmax"], note["nested_blocksize"])
        absmax = absmax + float(note["nested_offset"])
    if packed.dtype != torch.uint8 or packed.numel() != -(-count // 2):
        raise ValueError(f"{packed.numel()} bytes for {count} numbers")
    # What was packed twice is rounded, so some may fall a little below 0.
    if absmax.mean() < 0 or (not nested and (absmax < 0).any()):
        raise ValueError("the largest number of a block is below 0")
    indices = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=-1).flatten()[:count]
    numbers = _table(beside, note)[indices.long()]
    return _scaled(numbers, absmax, note["blocksize"]).view(note["shape"])


def _table(beside: Mapping[str, Tensor], note: Mapping[str, Any]) -> Tensor:
    """The 16 numbers that indices stand for: NF4's ascend from -1 to 1, FP4's begin with 0."""
    table, kind = _floats(beside["quant_map"]), note.get("quant_type")
    rises, named = bool((table.diff() > 0).all()), f"{NOTES[0][:-3]}{kind}"
    known = table[0] == (-1 if kind == "nf4" else 0) and rises == (kind == "nf4")
    known = known and len(table) == 16 and table.max() == 1
    if not known or [end for end in NOTES if end in beside] != [named]:
        raise ValueError(f"its table is none of {kind!r:.20}, or its note's name says another")
    return table


def _scaled(numbers: Tensor, scales: Tensor, block: int) -> Tensor:
    """Numbers times the scale of their block."""
    numbers, scales = numbers.flatten(), _floats(scales)
    if len(scales) != -(-len(numbers) // block):
        raise ValueError(f"{len(scales)} scales for {len(numbers)} numbers")
    return numbers * scales.repeat_interleave(min(block, len(numbers)))[: len(numbers)]


def _floats(numbers: Tensor) -> Tensor:
    if not numbers.is_floating_point() or not numbers.isfinite().all():
        raise ValueError(f"{numbers.dtype} in a table, or no finite numbers")
    return numbers.float().flatten()


def _unpack_8_bit(packed: Tensor, largest: Tensor) -> Tensor:
    """8 bits of bitsandbytes: integers, of which 127 stands for the row's largest number."""
    if packed.dtype != torch.int8 or packed.dim() != 2:
        raise ValueError(f"its numbers are {packed.dtype}")
    if (_floats(largest) < 0).any():
        raise ValueError("the largest number of a row is below 0")
    return _scaled(packed.float(), _floats(largest) / 127, packed.shape[1]).view(packed.shape)


# ---- GGUF -----------------------------------------------------------------------------------
MAGIC = b"GGUF"
# Types of values in a header: bytes of a number, and the two that are longer.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_PLAIN = {0: ("F32", torch.float32), 1: ("F16", torch.float16), 30: ("BF16", torch.bfloat16)}
LONGEST = 1 << 20  # numbers and texts of a whole header
INSTEAD = (
    "Take the same model as safetensors in bfloat16 or float8, and offload='4-bit' or '8-bit' to "
    "fit a small GPU."
)


def is_gguf(path: Path) -> bool:
    """Whether a file is GGUF, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file, with the face of a slice of safetensors."""

    kind: int
    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes: int

    @property
    def packed(self) -> bool:
        """Whether it is stored in blocks."""
        return self.kind not in _PLAIN

    def get_dtype(self) -> str:
        """ "F32" and so on, or the packing: "Q8_0", "Q4_K"."""
        return self.dtype

    def get_shape(self) -> list[int]:
        """Sizes of the unpacked tensor."""
        return list(self.shape)


class GgufFile:
    """A GGUF file with the face of `safetensors.safe_open`; every size in it is checked first.

    Raises WeightsError, and MissingPackageError for packed blocks where `gguf` is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._data = np.memmap(path, np.uint8, mode="c")
        try:
            self._tensors = _read_header(_Header(self._data))
            ends = [tensor.start + tensor.bytes for tensor in self._tensors.values()]
            if max(ends, default=0) > len(self._data):
                raise ValueError(f"it promises {max(ends):,} bytes and has {len(self._data):,}")
        except (ValueError, LookupError, struct.error) as error:
            raise WeightsError(
                f"{path} is a GGUF file that cannot be read: {error}. Download it again. {INSTEAD}"
            ) from error

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None: ...

    def keys(self) -> list[str]:
        """Names of tensors."""
        return list(self._tensors)

    def metadata(self) -> dict[str, str]:
        """Nothing of what it says of itself is used."""
        return {}

    def get_slice(self, name: str) -> GgufTensor:
        """What the header says of a tensor."""
        return self._tensors[name]

    def get_tensor(self, name: str) -> Tensor:
        """One tensor: mapped if it is plain, else unpacked to float32."""
        of = self._tensors[name]
        stored = self._data[of.start : of.start + of.bytes]
        if not of.packed:
            return torch.from_numpy(stored).view(_PLAIN[of.kind][1]).view(of.shape)
        quants = _import_gguf().quants
        rows = stored.reshape(*of.shape[:-1], -1)
        try:
            return torch.from_numpy(quants.dequantize(rows, of.kind)).float()
        except (NotImplementedError, AttributeError) as error:  # gguf's own message fails, too
            raise ValueError(f"the package gguf does not unpack {of.dtype}") from error


class _Header:
    """Reads numbers and texts one after the other."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at, self.asked = data, len(MAGIC), 0

    def number(self, code: str) -> Any:
        self.asked += 1  # many short lists take as long as one that is too long
        if self.asked > LONGEST:
            raise ValueError(f"its header has more than {LONGEST} entries")
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def count(self) -> int:
        """How many of something; no plausible file has more than a million."""
        value = self.number("Q")
        if value > LONGEST:
            raise ValueError(f"it has {value} of something, and {LONGEST} at most are plausible")
        return value

    def text(self) -> str:
        length = self.count()
        self.at += length
        if self.at > len(self.data):
            raise ValueError("it ends within its header")
        return bytes(self.data[self.at - length : self.at]).decode("utf-8")

    def skip(self, kind: int, deep: int = 0) -> None:
        """Pass over a value."""
        if kind == _TEXT:
            self.text()
        elif kind == _LIST and deep < 4:
            inner, count = self.number("I"), self.count()
            if inner in _BYTES:
                self.at += count * _BYTES[inner]
            else:
                for _ in range(count):
                    self.skip(inner, deep + 1)
        else:
            self.at += _BYTES[kind]


def _read_header(header: _Header) -> dict[str, GgufTensor]:
    """The tensors by name. Raises ValueError, LookupError or struct.error for nonsense."""
    version = header.number("I")
    if version not in (2, 3):
        raise ValueError(f"it is of version {version}; expected 2 or 3")
    tensors, values, align = header.count(), header.count(), 32
    for _ in range(values):
        name, kind = header.text(), header.number("I")
        if name == "general.alignment":
            align = header.number("I")
        else:
            header.skip(kind)
    if align % 8 or not 8 <= align <= 1 << 20:
        raise ValueError(f"an alignment of {align} bytes")
    found = [_read_tensor(header) for _ in range(tensors)]
    begin, at, placed = -(-header.at // align) * align, 0, {}
    for name, kind, dtype, shape, offset, size in found:  # one behind the other, as GGUF wants it
        if offset != at or name in placed:
            raise ValueError(f"{name} begins at {offset}, where {at} is right, or comes twice")
        placed[name] = GgufTensor(kind, dtype, shape, begin + at, size)
        at += -(-size // align) * align
    if (over := len(header.data) - begin - at) > 0 and placed:
        raise ValueError(f"{over:,} bytes lie behind its last tensor")
    return placed


def _read_tensor(header: _Header) -> tuple[str, int, str, tuple[int, ...], int, int]:
    name, dimensions = header.text(), header.number("I")
    if dimensions > 4:
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = tuple(header.number("Q") for _ in range(dimensions))[::-1]
    kind, offset = header.number("I"), header.number("Q")
    if not all(0 < size < 2**31 for size in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if kind in _PLAIN:
        dtype, torch_dtype = _PLAIN[kind]
        return name, kind, dtype, shape, offset, math.prod(shape) * torch_dtype.itemsize
    gguf = _import_gguf()
    packing = gguf.GGMLQuantizationType(kind)
    block, size = gguf.GGML_QUANT_SIZES[packing]
    if block == 1 or not shape or shape[-1] % block:
        raise ValueError(f"{name} of the shape {shape} is packed as {packing.name}")
    return name, kind, packing.name, shape, offset, math.prod(shape) // block * size


def _import_gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingPackageError(
            "Packed GGUF weights need the package gguf: pip install 'minikontext[gguf]'. " + INSTEAD
        ) from error
    return gguf
