"""Weights in and out: safetensors only, checked before loading; official and diffusers names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minikontext.configs import parse_json
from minikontext.errors import OutputError, WeightsError
from minikontext.files import exists, is_folder, replacing, sha256

StateDict = dict[str, Tensor]

PREFIX = "model.diffusion_model."  # some tools put it before every key of a transformer
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
                f"Two files in {path} hold {few(sorted(twice))}. Expected the shards of one "
                "model: move the other files away."
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
        tensor = _build(reader, rule, device, dtype)
        state[rule.official] = prepare(rule.official, tensor) if prepare else tensor
    module.load_state_dict(state, assign=True)
    return module


def check(
    module: nn.Module, reader: Reader, rules: Callable[[StateDict], list[Rule]] | None = None
) -> list[Rule]:
    """How a file fills a module, every name and shape accounted for. Raises WeightsError."""
    sketch = reader.sketch()
    plan = (rules or official_rules)(sketch)
    _require_fit(_join(sketch, plan), module, reader.path)
    return plan


def official_sketch(path: str | Path) -> StateDict:
    """A file's tensors under official names, without their numbers. Raises WeightsError."""
    sketch = Reader(path).sketch()
    return _join(sketch, official_rules(sketch))


def _join(state: StateDict, rules: Iterable[Rule]) -> StateDict:
    return {r.official: to_official([state[n] for n in r.diffusers], r.how) for r in rules}


def _build(
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


def convert(source: str | Path, target: str | Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Rewrite one transformer or autoencoder for others; memory for one shard is enough.

    A target that ends in .safetensors becomes one official file, any other one a folder of shards
    with diffusers' names, without its config.json. Raises WeightsError and OutputError.
    """
    reader, target = Reader(source), Path(target)
    sketch = reader.sketch()
    rules = official_rules(sketch)
    if target.suffix == ".safetensors":
        built = {rule.official: partial(_build, reader, rule) for rule in rules}
        return [write(target, built, _join(sketch, rules), dtype)]
    state = load(source)  # memory-mapped, and so are the parts that it is cut into
    state = state if is_diffusers(state) else to_diffusers(state)
    return save_shards(state, target / "diffusion_pytorch_model", dtype)


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
    """The SHA-256 of a weights file or folder, in hexadecimal: which weights made a picture."""
    return sha256(files(path))


def is_part(path: str | Path) -> bool:
    """Whether a place is weights of one part: a file, or a folder with them beside a config."""
    path = Path(path)
    return exists(path) or (exists(path / "config.json") and any(path.glob("*.safetensors")))


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
        raise WeightsError(f"{index.parent} lacks {few(absent)}. Complete the download.")
    for shard, file in shards.items():
        listed = {name for name, home in homes.items() if home == shard}
        if odd := listed ^ _header(file).keys():
            raise WeightsError(
                f"{index} is wrong about {shard}: {few(sorted(odd))} is in one of them only. "
                "Download the index and its shards again, from one place."
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
            f"{index} points outside of its folder: {few(map(repr, outside))}. "
            "Expected plain file names: do not use weights from this source."
        )
    return homes


class Reader:
    """The tensors of a file or of a folder of shards by bare name, one shard mapped at a time."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.header = path, {_bare(k): info for k, info in inspect(path).items()}
        self._homes: dict[str, tuple[Path, str]] = {}
        for file in files(path):
            self._homes |= {_bare(name): (file, name) for name in _header(file)}
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


def _bare(name: str) -> str:
    return name.removeprefix(PREFIX)


# ---- checks ---------------------------------------------------------------------------------


def _require_floats(header: Mapping[str, TensorInfo], path: str | Path) -> None:
    odd = {name: info.dtype for name, info in header.items() if info.dtype not in DTYPES}
    if odd:
        raise WeightsError(
            f"{path} stores {few(f'{k} as {v}' for k, v in odd.items())}. "
            f"Expected one of {', '.join(DTYPES)}: use weights that are not quantised."
        )


def _require_one_dtype(header: Mapping[str, TensorInfo], path: str | Path) -> None:
    """Norms and biases may be stored finer than matrices; matrices of two kinds are a mix-up."""
    kinds: dict[str, str] = {}
    for name, info in header.items():
        if len(info.shape) > 1:
            kinds.setdefault(info.dtype, name)
    if len(kinds) > 1:
        raise WeightsError(
            f"{path} mixes dtypes: {few(f'{k} ({v})' for k, v in kinds.items())}. Only norms and "
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
    problems = [f"missing {few(sorted(missing))}"] * bool(missing)
    problems += [f"unknown {few(sorted(extra))}"] * bool(extra)
    problems += [few(wrong)] * bool(wrong)
    if problems:
        raise WeightsError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}. "
            "Use the weights of this model, or the configuration they were made with."
        )


def _refuse_lora(names: Iterable[str], path: str | Path) -> None:
    if any(".lora_" in name for name in names):
        raise WeightsError(f"{path} holds a LoRA, expected a whole model. Load its base model.")


def few(items: Iterable[str], limit: int = 3) -> str:
    """The first names of many, for a message."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


# ---- names ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One official tensor and the diffusers tensors that make it up, joined in order."""

    official: str
    diffusers: tuple[str, ...]
    how: str = "join"  # or "swap": halves change places; or "linear": a 1x1 convolution


def from_diffusers(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename diffusers' FluxTransformer2DModel or AutoencoderKL to official names, any size.

    The halves of norm_out.linear are swapped: diffusers stores (scale, shift). Forgetting it
    costs a tenth of the output and raises nothing. Raises WeightsError for unknown names.
    """
    if not is_diffusers(state_dict):
        _require_empty(state_dict, "diffusers")
    return _join(state_dict, official_rules(state_dict))


def to_diffusers(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename official names to those of diffusers: the exact inverse of `from_diffusers`.

    Raises WeightsError for unknown names.
    """
    left, renamed = dict(state_dict), {}
    for rule in _rules(left):
        if rule.official in left:
            parts = to_parts(left.pop(rule.official), rule, state_dict)
            renamed.update(zip(rule.diffusers, parts, strict=True))
    _require_empty(left, "official")
    return renamed


def is_diffusers(names: Iterable[str]) -> bool:
    """Tell diffusers' names from official ones."""
    marks = ("transformer_blocks.", "single_transformer_blocks.", "mid_block.", "x_embedder.")
    return any(mark in name for name in names for mark in marks)


def official_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules that build every official tensor from what a file of either naming holds.

    Raises WeightsError for names that belong to neither.
    """
    if not is_diffusers(state):
        return [Rule(name, (name,)) for name in state]
    rules, left = [], dict.fromkeys(state)
    for rule in _rules(state):
        parts = [name for name in rule.diffusers if name in left]
        if parts:
            _require_all(rule, parts)
            rules.append(rule)
        for name in parts:
            del left[name]
    _require_empty(left, "diffusers")
    return rules


def to_official(parts: list[Tensor], how: str = "join") -> Tensor:
    """Build one official tensor from its parts under diffusers names."""
    if how == "swap":
        return _swap_halves(parts[0])
    if how == "linear" and parts[0].dim() == 2:
        return parts[0][:, :, None, None]  # (c, c) -> (c, c, 1, 1)
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1:] for part in parts}) > 1 or not all(part.dim() for part in parts):
        raise WeightsError(f"Tensors of {_shapes(parts)} make no matrix. Get the file again.")
    return torch.cat(parts)


def to_parts(tensor: Tensor, rule: Rule, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Cut one official tensor into those of diffusers: the inverse of `to_official`."""
    if rule.how == "swap":
        return [_swap_halves(tensor)]
    if rule.how == "linear" and tensor.dim() == 4:
        return [tensor[:, :, 0, 0]]  # (c, c, 1, 1) -> (c, c)
    if len(rule.diffusers) == 1:
        return [tensor]
    dim = state["img_in.weight"].shape[0]
    rest = len(tensor) - 3 * dim  # the MLP's share of linear1
    if rest < 0 or (rest and len(rule.diffusers) == 3):
        raise WeightsError(f"{rule.official} of {_shapes([tensor])} holds no 3 × {dim} rows.")
    return list(tensor.split([dim, dim, dim] + [rest] * (len(rule.diffusers) == 4)))


def _shapes(tensors: Iterable[Tensor]) -> str:
    return f"shapes {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}"


def _swap_halves(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _require_all(rule: Rule, parts: list[str]) -> None:
    if len(parts) != len(rule.diffusers):
        raise WeightsError(
            f"Got {len(parts)} of the {len(rule.diffusers)} tensors that make up {rule.official}: "
            f"expected {', '.join(rule.diffusers)}. The file is not complete."
        )


def _require_empty(left: Iterable[str], kind: str) -> None:
    if left := sorted(left):
        raise WeightsError(
            f"Got names that are no {kind} names of FLUX: {few(left)}. "
            f"Expected all tensors of one transformer or autoencoder under {kind} names."
        )


def _rules(state: Mapping[str, Tensor]) -> Iterator[Rule]:
    """All rules that can apply to these tensors; sizes are read off the names."""
    autoencoder = any(name.startswith(("encoder.", "decoder.")) for name in state)
    return _autoencoder_rules(state) if autoencoder else transformer_rules(state)


def count(state: Iterable[str], *stems: str) -> int:
    """How many numbered children follow a stem, whichever naming is used.

    Children are counted, not their numbers believed: one name must not ask for a billion blocks.
    """
    heads = (
        name.removeprefix(s).split(".")[0] for name in state for s in stems if name.startswith(s)
    )
    return len({head for head in heads if head.isdecimal()})


def _both(official: str, *diffusers: str, how: str = "join") -> Iterator[Rule]:
    """Weight and bias of one layer."""
    for leaf in (".weight", ".bias"):
        yield Rule(official + leaf, tuple(name + leaf for name in diffusers), how)


def transformer_rules(state: Mapping[str, Tensor]) -> Iterator[Rule]:
    """The rules of FLUX's transformer; its numbers of blocks are read off the names."""
    yield from _both("img_in", "x_embedder")
    yield from _both("txt_in", "context_embedder")
    for ours, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        for layer, number in (("in", 1), ("out", 2)):
            embedder = f"time_text_embed.{theirs}_embedder.linear_{number}"
            yield from _both(f"{ours}_in.{layer}_layer", embedder)
    for i in range(count(state, "double_blocks.", "transformer_blocks.")):
        yield from _double_rules(f"double_blocks.{i}.", f"transformer_blocks.{i}.")
    for i in range(count(state, "single_blocks.", "single_transformer_blocks.")):
        yield from _single_rules(f"single_blocks.{i}.", f"single_transformer_blocks.{i}.")
    yield from _both("final_layer.linear", "proj_out")
    yield from _both("final_layer.adaLN_modulation.1", "norm_out.linear", how="swap")


def _double_rules(ours: str, theirs: str) -> Iterator[Rule]:
    # stream, modulation, queries-keys-values, their norms, projection, MLP
    streams = (
        ("img", "norm1", "to_{}", "norm_{}", "to_out.0", "ff"),
        ("txt", "norm1_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
    )
    for stream, mod, qkv, norm, proj, mlp in streams:
        yield from _both(f"{ours}{stream}_mod.lin", f"{theirs}{mod}.linear")
        parts = (f"{theirs}attn.{qkv.format(part)}" for part in "qkv")
        yield from _both(f"{ours}{stream}_attn.qkv", *parts)
        yield from _norm_rules(f"{ours}{stream}_attn.norm.", f"{theirs}attn.{norm}.weight")
        yield from _both(f"{ours}{stream}_attn.proj", f"{theirs}attn.{proj}")
        yield from _both(f"{ours}{stream}_mlp.0", f"{theirs}{mlp}.net.0.proj")
        yield from _both(f"{ours}{stream}_mlp.2", f"{theirs}{mlp}.net.2")


def _single_rules(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _both(f"{ours}modulation.lin", f"{theirs}norm.linear")
    parts = (f"{theirs}attn.to_{part}" for part in "qkv")
    yield from _both(f"{ours}linear1", *parts, f"{theirs}proj_mlp")
    yield from _norm_rules(f"{ours}norm.", f"{theirs}attn.norm_{{}}.weight")
    yield from _both(f"{ours}linear2", f"{theirs}proj_out")


def _norm_rules(ours: str, theirs: str) -> Iterator[Rule]:
    yield Rule(f"{ours}query_norm.scale", (theirs.format("q"),))
    yield Rule(f"{ours}key_norm.scale", (theirs.format("k"),))


def _autoencoder_rules(state: Mapping[str, Tensor]) -> Iterator[Rule]:
    levels = count(state, "encoder.down.", "encoder.down_blocks.")
    levels = levels or count(state, "decoder.up.", "decoder.up_blocks.")
    for i in range(levels):
        yield from _level_rules(state, f"encoder.down.{i}.", f"encoder.down_blocks.{i}.", "down")
        # diffusers counts the decoder's levels from the coarsest on.
        theirs = f"decoder.up_blocks.{levels - 1 - i}."
        yield from _level_rules(state, f"decoder.up.{i}.", theirs, "up")
    for half in ("encoder.", "decoder."):
        yield from _both(f"{half}conv_in", f"{half}conv_in")
        yield from _both(f"{half}norm_out", f"{half}conv_norm_out")
        yield from _both(f"{half}conv_out", f"{half}conv_out")
        yield from _middle_rules(f"{half}mid.", f"{half}mid_block.")


def _level_rules(
    state: Mapping[str, Tensor], ours: str, theirs: str, direction: str
) -> Iterator[Rule]:
    for j in range(count(state, f"{ours}block.", f"{theirs}resnets.")):
        yield from _resnet_rules(f"{ours}block.{j}.", f"{theirs}resnets.{j}.")
    yield from _both(f"{ours}{direction}sample.conv", f"{theirs}{direction}samplers.0.conv")


def _middle_rules(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _resnet_rules(f"{ours}block_1.", f"{theirs}resnets.0.")
    yield from _resnet_rules(f"{ours}block_2.", f"{theirs}resnets.1.")
    yield from _both(f"{ours}attn_1.norm", f"{theirs}attentions.0.group_norm")
    for part, name in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield from _both(f"{ours}attn_1.{part}", f"{theirs}attentions.0.{name}", how="linear")


def _resnet_rules(ours: str, theirs: str) -> Iterator[Rule]:
    for layer in ("norm1", "conv1", "norm2", "conv2"):
        yield from _both(ours + layer, theirs + layer)
    yield from _both(f"{ours}nin_shortcut", f"{theirs}conv_shortcut")
