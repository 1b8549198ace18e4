"""Safetensors in and out: headers checked before a tensor is read, shards, whole-or-nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minikontext.errors import OutputError, WeightsError, shorten_list
from minikontext.pretrained.key_mapping import (
    Rule,
    StateDict,
    bare_name,
    join_parts,
    official_rules,
    to_official,
)
from minikontext.runtime.config import parse_json
from minikontext.runtime.files import exists, is_folder, replacing
from minikontext.runtime.files import fingerprint as file_fingerprint

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,  # these two for storage: nothing computes in them
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class TensorInfo:
    """One line of a file's header."""

    dtype: str  # "F32", "BF16", ... as the format writes it
    shape: tuple[int, ...]


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
    """Load a weights file or folder as it is, names unchanged but for `model.diffusion_model.`.

    With the stored dtype on a CPU, the tensors are memory-mapped. Raises WeightsError.
    """
    reader = Reader(path)
    return {name: reader[name].to(device, dtype) for name in reader.header}


def load_into(
    module: nn.Module,
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    rules: Callable[[StateDict], list[Rule]] | None = None,
    prepare: Callable[[str, Tensor], Tensor] | None = None,
) -> nn.Module:
    """Fill a module, best made on the meta device, from a file or folder, and return it.

    Official and diffusers names both work. Names, shapes and dtypes are checked against the
    header first, so a file that does not fit costs no memory. Then one tensor after the other
    goes to the device: the host holds no more than one shard. dtype None keeps the stored one.
    rules: other names than FLUX's. prepare(name, tensor): a last change on the device.
    Raises WeightsError.
    """
    reader = Reader(path)
    state: StateDict = {}
    for rule in check(module, reader, rules):
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
    _require_fit(join_parts(sketch, plan), module, reader.path)
    return plan


def official_sketch(path: str | Path) -> StateDict:
    """A file's tensors under official names, without their numbers. Raises WeightsError."""
    sketch = Reader(path).sketch()
    return join_parts(sketch, official_rules(sketch))


def build_tensor(
    reader: Reader, rule: Rule, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Tensor:
    """Read one official tensor; parts are joined on the device, so that the host only reads."""
    parts = [reader[name].to(device, dtype) for name in rule.diffusers]
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

    No more than one shard is copied to the host at a time. Raises OutputError.
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
    for index in sorted(path.glob("*.safetensors.index.json")):
        return _indexed(index)
    found = sorted(path.glob("*.safetensors"))
    if not found:
        raise WeightsError(
            f"The folder {path} lacks a .safetensors file. "
            "Complete the download, or give the folder that holds the file."
        )
    return found


def _indexed(index: Path) -> list[Path]:
    """The shards that an index names, after a check that each holds what the index says."""
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
    """The tensors of a file or of a folder of shards by bare name, one shard mapped at a time."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.header = path, {bare_name(k): info for k, info in inspect(path).items()}
        self._homes: dict[str, tuple[Path, str]] = {}
        for file in files(path):
            self._homes |= {bare_name(name): (file, name) for name in _header(file)}
        self._open: tuple[Path | None, safe_open | None] = (None, None)

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, memory-mapped; what was mapped before is let go unless it is in use."""
        file, stored = self._homes[name]
        if file != self._open[0]:
            self._open = (file, opened(file))
        try:
            return self._open[1].get_tensor(stored)
        except (SafetensorError, ValueError, TypeError) as error:  # a dtype that torch lacks
            raise WeightsError(f"Cannot read {stored} from {file}: {error}.") from error

    def sketch(self) -> StateDict:
        """The same tensors without their numbers, on the meta device.

        Raises WeightsError for a LoRA and for dtypes that no whole model of floats has.
        """
        _refuse_lora(self.header, self.path)
        _require_floats(self.header, self.path)
        _require_one_dtype(self.header, self.path)
        return {
            name: torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")
            for name, info in self.header.items()
        }


def _header(path: Path) -> dict[str, TensorInfo]:
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {k: TensorInfo(s.get_dtype(), tuple(s.get_shape())) for k, s in slices.items()}


def opened(path: Path) -> safe_open:
    """Open a file; safetensors checks its header, that the bytes it promises are there included."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(_diagnosis(path, str(error))) from error


def _diagnosis(path: Path, reason: str) -> str:
    """Say what a file that is no safetensors file is instead."""
    size, promised = path.stat().st_size, promised_bytes(path)
    with open(path, "rb") as file:
        start = file.read(8)
    kind = next((text for magic, text in _KINDS.items() if start.startswith(magic)), None)
    if promised:
        reason = f"its header promises {promised:,} bytes"
    return (
        f"{path} ({size:,} bytes) is {kind or f'no complete safetensors file: {reason}'}. "
        "Expected safetensors: download or copy it again, in that format."
    )


def promised_bytes(path: str | Path) -> int | None:
    """How long the header says that a safetensors file is; None without a readable header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(100 << 20, Path(path).stat().st_size):
            return None
        try:
            header = parse_json(file.read(length))
            ends = [info["data_offsets"][1] for k, info in header.items() if k != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None


_KINDS = {  # by the first bytes
    b"PK": "a pickle (PyTorch's .pt, .bin, .ckpt), which can run any code when it is loaded",
    b"\x80": "a pickle, which can run any code when it is loaded",
    b"version": "a Git LFS pointer: the weights themselves were not downloaded",
    b"<": "a web page: the download needs a login, or the address is wrong",
}


# ---- checks ---------------------------------------------------------------------------------
def _require_floats(header: Mapping[str, TensorInfo], path: str | Path) -> None:
    odd = {name: info.dtype for name, info in header.items() if info.dtype not in DTYPES}
    if odd:
        raise WeightsError(
            f"{path} stores {shorten_list(f'{k} as {v}' for k, v in odd.items())}. "
            f"Expected one of {', '.join(DTYPES)}: use weights that are not quantised."
        )


def _require_one_dtype(header: Mapping[str, TensorInfo], path: str | Path) -> None:
    """Norms and biases may be stored finer than matrices; matrices of two kinds are a mix-up."""
    kinds: dict[str, str] = {}
    for name, info in header.items():
        if len(info.shape) > 1:
            kinds.setdefault(info.dtype, name)
    if len(kinds) > 1:
        found = shorten_list(f"{dtype} ({name})" for dtype, name in kinds.items())
        raise WeightsError(
            f"{path} mixes dtypes: {found}. Only norms and "
            "biases may differ: get the file again, or convert it to one dtype."
        )


def _require_fit(state: StateDict, module: nn.Module, path: str | Path) -> None:
    """Same names, same shapes as the module, or an error that says all that is wrong."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [
        f"{name} has shape {got[name]}, expected {expected[name]}"
        for name in expected
        if name in got and got[name] != expected[name]
    ]
    missing, extra = expected.keys() - got.keys(), got.keys() - expected.keys()
    problems = [f"missing {shorten_list(sorted(missing))}"] * bool(missing)
    problems += [f"unknown {shorten_list(sorted(extra))}"] * bool(extra)
    problems += [shorten_list(wrong)] * bool(wrong)
    if problems:
        raise WeightsError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}. "
            "Use the weights of this model, or the configuration they were made with."
        )


def _refuse_lora(names: Iterable[str], path: str | Path) -> None:
    if any(".lora_" in name for name in names):
        raise WeightsError(f"{path} holds a LoRA, expected a whole model. Load its base model.")
