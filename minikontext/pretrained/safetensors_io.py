"""Safetensors in and out: headers checked before a tensor is read, shards, whole-or-nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minikontext.errors import OutputError, WeightsError, shorten_list
from minikontext.pretrained import packed, stored
from minikontext.pretrained.file_kinds import FOREIGN, SUFFIXES, diagnose
from minikontext.pretrained.key_mapping import (
    Rule,
    StateDict,
    join_parts,
    official_rules,
    require_fit,
    to_official,
)
from minikontext.runtime.config import parse_json
from minikontext.runtime.files import exists, inside, is_folder, replacing
from minikontext.runtime.files import fingerprint as file_fingerprint
from minikontext.runtime.lease import Lease

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,  # these two for storage: nothing computes in them
    "F8_E5M2": torch.float8_e5m2,
}
# Bytes from which on a file stays mapped: a smaller one is read, so that nobody changes it later.
MAPPED_FROM = 1 << 30
LARGEST_INDEX = 64 << 20


@dataclass(frozen=True)
class TensorInfo:
    """One line of a file's header."""

    dtype: str  # "F32", "BF16", ... as the format writes it
    shape: tuple[int, ...]
    packed: bool = False  # blocks of GGUF


# ---- files ----------------------------------------------------------------------------------
def inspect(path: str | Path) -> dict[str, TensorInfo]:
    """Read the names, dtypes and shapes in a weights file or folder; no tensor is loaded.

    Raises WeightsError for a file that is missing, truncated, a pickle or no safetensors, and for
    an index of shards that does not say what the shards hold.
    """
    header: dict[str, TensorInfo] = {}
    for file in files(path):
        part = _header(file)
        if twice := header.keys() & part.keys():
            raise WeightsError(
                f"Two files in {path} hold {shorten_list(sorted(twice))}. Expected the shards of "
                "one model: move the other files away."
            )
        header |= part
    return header


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> StateDict:
    """Read a weights file or folder as it is, names unchanged but for prefixes such as `module.`.

    Nothing stays memory-mapped. Raises WeightsError.
    """
    with Reader(path).leased() as reader:
        reader.check_scales()
        return {name: reader.read(name, device, dtype).clone() for name in reader.header}


def load_into(
    module: nn.Module,
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    prepare: Callable[[str, Tensor], Tensor] | None = None,
    part: str | None = None,
) -> nn.Module:
    """Fill a module, best made on the meta device, from a file or folder, and return it.

    Official and diffusers names both work. Names, shapes and dtypes are checked against the
    header first, so a file that does not fit costs no memory. Then one tensor after the other
    goes to the device: the host holds no more than one shard. dtype None keeps the stored one.
    prepare(name, tensor): a last change on the device. part: of a file that may hold several, see
    `Reader`. Raises WeightsError.
    """
    reader, state = Reader(path, part), {}
    plan = check(module, reader)
    with reader.leased():
        for rule in plan:
            tensor = build_tensor(reader, rule, device, dtype)
            state[rule.official] = prepare(rule.official, tensor) if prepare else tensor
    module.load_state_dict(state, assign=True)
    return module


def check(
    module: nn.Module, reader: Reader, rules: Callable[[StateDict], list[Rule]] | None = None
) -> list[Rule]:
    """How a file fills a module, every name and shape accounted for. Raises WeightsError."""
    sketch = reader.sketch()
    plan = (rules or official_rules)(sketch)
    require_fit(join_parts(sketch, plan), module, reader.path)
    return plan


def official_sketch(path: str | Path, part: str | None = None) -> StateDict:
    """A file's tensors under official names, without their numbers. Raises WeightsError."""
    sketch = Reader(path, part).sketch()
    return join_parts(sketch, official_rules(sketch))


def build_tensor(
    reader: Reader, rule: Rule, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Tensor:
    """Read one official tensor; parts are joined on the device, so that the host only reads."""
    parts = [reader.read(name, device, dtype) for name in rule.diffusers]
    return to_official(parts, rule.how)


def save(
    state_dict: Mapping[str, Tensor],
    path: str | Path,
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a safetensors file beside its place and rename it into it, so none is ever half there.

    Raises OutputError if the place cannot be written; an older file there is then untouched.
    """
    path = Path(path)
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in state_dict.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise OutputError(f"Cannot write {path}: {error}. Make room on the disk.") from error
    return path


def save_shards(
    state_dict: Mapping[str, Tensor],
    stem: str | Path,
    dtype: torch.dtype | None = None,
    limit: int = 5_000_000_000,
) -> list[Path]:
    """Write `stem.safetensors`, or shards of at most `limit` bytes and their index.

    One shard at a time is on the host; huggingface_hub's `save_torch_state_dict` wants all tensors
    at once, and removes older files before the new ones are there. Raises OutputError.
    """
    groups = _grouped(state_dict, dtype, limit)
    stem, total = Path(stem), len(groups)
    if total == 1:
        return [save(state_dict, stem.with_name(stem.name + ".safetensors"), dtype)]
    names = [f"{stem.name}-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)]
    for name, group in zip(names, groups):
        save({key: state_dict[key] for key in group}, stem.with_name(name), dtype)
    homes = {key: name for name, group in zip(names, groups) for key in group}
    with replacing(stem.with_name(stem.name + ".safetensors.index.json")) as temporary:
        temporary.write_text(json.dumps({"metadata": {}, "weight_map": homes}, indent=1))
    return [stem.with_name(name) for name in names]


def write(
    path: str | Path,
    tensors: Mapping[str, Callable[[], Tensor]],
    sketch: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a safetensors file with no more than one tensor in memory; sketch has their shapes.

    The format: the header's length in 8 bytes, the header in JSON, and the numbers without gaps.
    Raises OutputError.
    """
    plain = {name: tensor.to(dtype) for name, tensor in sketch.items()} if dtype else dict(sketch)
    order = sorted(plain, key=lambda name: -plain[name].itemsize)  # keeps all aligned
    text = json.dumps(_new_header({name: plain[name] for name in order})).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            content = tensors[name]().detach().to("cpu", plain[name].dtype).contiguous()
            file.write(content.flatten().view(torch.uint8).numpy())
    return Path(path)


def _new_header(sketch: StateDict) -> dict[str, object]:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sketch.items():
        start, end = end, end + tensor.nbytes
        place = {"shape": list(tensor.shape), "data_offsets": [start, end]}
        header[name] = {"dtype": codes[tensor.dtype], **place}
    return header


def _grouped(state: Mapping[str, Tensor], dtype: torch.dtype | None, limit: int) -> list[list[str]]:
    """Names in order, cut where the next tensor would exceed the limit of bytes."""
    groups: list[list[str]] = [[]]
    room = limit
    for name, tensor in state.items():
        size = tensor.numel() * (dtype or tensor.dtype).itemsize
        if size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def fingerprint(path: str | Path) -> str:
    """Which weights a file or folder holds, as `files.fingerprint` tells: 64 hex digits."""
    return file_fingerprint(files(path))


def files(path: str | Path) -> list[Path]:
    """One file, or the shards in a folder as diffusers lays them out. Raises WeightsError."""
    path = Path(path)
    if exists(path):
        return [path]
    if not is_folder(path):
        raise WeightsError(
            f"No weights at {str(path)[:200]}. Give a .safetensors file or a folder with one."
        )
    there = inside(path)
    indices = [x.name for x in there if x.name.endswith(".safetensors.index.json")]
    if len(indices) > 1:
        raise WeightsError(f"{path} holds {shorten_list(indices)}: keep the index of one model.")
    if indices:
        return _indexed(path / indices[0])
    found = [x for x in there if x.suffix.lower() in SUFFIXES]
    if not found and (others := [x for x in there if x.suffix.lower() in FOREIGN]):
        raise WeightsError(diagnose(others[0], "it is of another format"))
    if not found:
        raise WeightsError(
            f"The folder {path} lacks a .safetensors file. "
            "Complete the download, or give the folder that holds the file."
        )
    return found


def _indexed(index: Path) -> list[Path]:
    """The shards that an index names, after a check that each holds what the index says."""
    if not exists(index) or index.stat().st_size > LARGEST_INDEX:
        raise WeightsError(f"{index} is no file of a plausible size. Download it again.")
    homes = _weight_map(index)
    shards = {name: index.parent / name for name in sorted(set(homes.values()))}
    absent = [name for name, file in shards.items() if not exists(file)]
    if absent:
        raise WeightsError(f"{index.parent} lacks {shorten_list(absent)}. Complete the download.")
    for shard, file in shards.items():
        listed = {name for name, home in homes.items() if home == shard}
        if odd := listed ^ _header(file).keys():
            raise WeightsError(
                f"{index} is wrong about {shard}: {shorten_list(sorted(odd))} is in one of them "
                "only. Download the index and its shards again, from one place."
            )
    return list(shards.values())


def _weight_map(index: Path) -> dict[str, str]:
    """Read an index: names of tensors to names of files in the same folder, nowhere else."""
    try:
        homes = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        outside = [name for name in homes.values() if Path(name).name != name or "\\" in name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"Cannot read {index}: {error!r}. Download it again.") from error
    if outside:
        raise WeightsError(
            f"{index} points outside of its folder: {shorten_list(map(repr, outside))}. "
            "Expected plain file names: do not use weights from this source."
        )
    return homes


class Reader:
    """The tensors of a file or of a folder of shards by bare name, one shard mapped at a time.

    part: which one to read of a file that may hold several: "transformer" or "autoencoder".
    """

    def __init__(self, path: str | Path, part: str | None = None) -> None:
        self.path, self._stored = path, inspect(path)
        self._files = {name: file for file in files(path) for name in _header(file)}
        self._said = {k: v for file in files(path) for k, v in _notes(file).items()}
        self._names = stored.sort_names({**self._stored, **self._said}, part, path)
        self._open: tuple[Path | None, safe_open | packed.GgufFile | None] = (None, None)
        self._lease: Lease | None = None
        self.header = {name: self._effective(name) for name in self._names.stored}

    def _effective(self, name: str) -> TensorInfo:
        """What a tensor is once it is read: scaled float8 needs more digits than it has."""
        info = self._stored[self._names.stored[name]]
        if beside := self._names.beside.get(name):
            with packed.sound(self.path, name):
                near = {end: self._raw(stored_as) for end, stored_as in beside.items()}
                return TensorInfo("BF16", packed.shape(info.shape, near))
        scaled = name in self._names.scales and info.dtype in stored.SCALED
        return TensorInfo("BF16", info.shape) if scaled or info.packed else info

    @contextmanager
    def leased(self) -> Iterator[Reader]:
        """For a block: who wants to write to the files waits, and reading ends in WeightsError."""
        try:
            with Lease({*self._files.values()}) as self._lease:
                yield self
        finally:
            self._lease = None

    def __getitem__(self, name: str) -> Tensor:
        """One tensor in its stored dtype, on the CPU."""
        return self.read(name)

    def read(
        self, name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> Tensor:
        """One tensor on a device; dtype None keeps the stored one, bfloat16 for scaled float8.

        On a CPU without a change of dtype it stays memory-mapped, if its file is large.
        """
        mapped = self._raw(self._names.stored[name])
        tensor = mapped.to(device)
        if self.header[name].dtype != self.dtype(name):
            tensor = self._unpacked(name, tensor)
            dtype = dtype or torch.bfloat16
        tensor = tensor.to(dtype or tensor.dtype)
        small = self._files[self._names.stored[name]].stat().st_size <= MAPPED_FROM
        return tensor.clone() if small and tensor.data_ptr() == mapped.data_ptr() else tensor

    def dtype(self, name: str) -> str:
        """The stored dtype of a bare name; "nothing" if there is no such tensor."""
        found = self._stored.get(self._names.stored.get(name, ""))
        return found.dtype if found else "nothing"

    def _unpacked(self, name: str, tensor: Tensor) -> Tensor:
        """float32: of packed numbers, what they stand for; a GGUF file has unpacked its own."""
        if name in self._names.scales:
            scale = self._raw(self._names.scales[name]).to(tensor.device)
            return packed.unpack_float8(tensor, scale, f"{self.path}: the scale of {name}")
        if name not in self._names.beside:
            return tensor
        with packed.sound(self.path, name):
            beside = self._names.beside[name].items()
            return packed.unpack(tensor, {k: self._raw(n).to(tensor.device) for k, n in beside})

    def _raw(self, name: str) -> Tensor:
        """A tensor as it is mapped; what was mapped before is let go unless it is in use."""
        file = self._files[name]
        if self._lease:
            self._lease.check()
        if file != self._open[0]:
            self._open = (file, opened(file))
        try:
            tensor = self._open[1].get_tensor(name)
        except (SafetensorError, ValueError, LookupError, TypeError) as error:  # or torch's lack
            raise WeightsError(f"Cannot read {name} from {file}: {error}.") from error
        if tuple(tensor.shape) != self._stored[name].shape:
            raise WeightsError(f"{file} was replaced while it was read. Load it again.")
        return tensor

    def sketch(self) -> StateDict:
        """The same tensors without their numbers, on the meta device.

        Raises WeightsError for a LoRA and for weights that a quantiser has packed.
        """
        stored.refuse_lora(self.header, self.path)
        stored.refuse_quantised(self._stored, self.path)
        said = {name: self._format(at) for name, at in self._names.formats.items()}
        stored.refuse_formats(said, {name: self.dtype(name) for name in said}, self.path)
        _require_floats(self.header, self.path)
        self.check_scales()
        return {
            name: torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")
            for name, info in self.header.items()
        }

    def check_scales(self) -> None:
        """Raise WeightsError unless what is packed has its scales and tables, and they fit."""
        info = {name: self._stored[at] for name, at in self._names.stored.items()}
        stored.require_scales(self._names, info, self.path)

    def _format(self, name: str) -> object:
        """What ComfyUI's note of a matrix, JSON in bytes or in the header, says of its packing."""
        if name not in self._stored:
            return self._said[name]
        info = self._stored[name]
        if info.dtype != "U8" or math.prod(info.shape) > 4096:
            return f"{info.dtype} {info.shape}"
        try:
            return parse_json(bytes(self._raw(name).flatten().tolist()))["format"]
        except (ValueError, KeyError, TypeError):
            return "no JSON"


def _header(path: Path) -> dict[str, TensorInfo]:
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            k: TensorInfo(s.get_dtype(), tuple(s.get_shape()), getattr(s, "packed", False))
            for k, s in slices.items()
        }


def _notes(path: Path) -> dict[str, object]:
    with opened(path) as file:
        return stored.notes(file.metadata() or {}, path)


def opened(path: Path) -> safe_open | packed.GgufFile:
    """Open a file; safetensors checks its header, that the bytes it promises are there included."""
    if not exists(path):  # a pipe, say, at which opening would wait for ever
        raise WeightsError(diagnose(path, ""))
    try:
        if packed.is_gguf(path):
            return packed.GgufFile(path)
        return safe_open(path, framework="pt")
    except WeightsError:  # of GGUF, which says more
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(diagnose(path, str(error))) from error


# ---- checks ---------------------------------------------------------------------------------
def _require_floats(header: Mapping[str, TensorInfo], path: str | Path) -> None:
    odd = {name: info.dtype for name, info in header.items() if info.dtype not in DTYPES}
    if odd:
        raise WeightsError(
            f"{path} stores {shorten_list(f'{k} as {v}' for k, v in odd.items())}. "
            f"Expected one of {', '.join(DTYPES)}: use weights that are not quantised."
        )
