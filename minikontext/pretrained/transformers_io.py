"""The one door to `transformers`: local folders only, safetensors only, and no code but its own.

A folder of weights is data. Its JSON files can name more than sizes: classes to import
(`auto_map`), attention kernels to fetch from a hub (`attn_implementation`), a base model elsewhere
(an adapter), a quantiser. Nothing of that is followed: classes are never imported from a folder,
and the others are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.errors import MissingPackageError, WeightsError, shorten_list
from minikontext.pretrained import key_mapping, safetensors_io, stored
from minikontext.runtime import files
from minikontext.runtime.config import read_json
from minikontext.runtime.lease import Lease

VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
# Attention that comes with PyTorch and transformers. Any other name can be one of a hub's kernels.
BUILT_IN = (None, "eager", "sdpa")
# Entries by which transformers takes other layers, kernels or files than it would by itself.
CHANGES = ("quantization_config", "compression_config", "kernel_config", "use_kernels",
           "fusion_config", "distributed_config", "transformers_weights", "gguf_file")  # fmt: skip
# A group that is repeated, in an expression: some texts then take for ever to match.
ENDLESS = re.compile(r"(?<!\\)\)[*+{]")
LARGEST = 64 << 20  # bytes of a configuration; published ones have a few thousand


def import_transformers() -> Any:
    """Import `transformers` only when it is asked for. Raises MissingPackageError."""
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            "FLUX's text encoders and CLIP need transformers: pip install 'minikontext[flux]'"
        ) from error
    return transformers


def read_local(kind: Any, folder: Path, **options: Any) -> Any:
    """A tokenizer, configuration or model of transformers from a folder, and from nowhere else.

    Raises WeightsError for a folder that is damaged or names code, kernels or other places.
    """
    require_data_only(folder)
    return _made(kind, folder, str(folder), **options)


def _made(kind: Any, folder: Path, place: str | None, **options: Any) -> Any:
    """What transformers makes of a place; what it says of `folder` becomes a WeightsError."""
    try:
        return kind.from_pretrained(
            place, local_files_only=True, trust_remote_code=False, **options
        )
    except BaseException as error:  # tokenizers raise a bare Exception, and damaged files any
        if not _is_failure(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"Cannot read {kind.__name__} from {folder}: {reason:.300}. Complete the download."
        ) from error


def _is_failure(error: BaseException) -> bool:
    """Whether a library failed: a panic of Rust, as tokenizers have them, is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def require_data_only(folder: Path) -> None:
    """Raise WeightsError if a configuration in a folder names what would have to be fetched."""
    if not files.is_folder(folder):
        raise WeightsError(f"There is no folder {folder}. Complete the download.")
    for path in (path for path in files.inside(folder) if path.match("*config*.json")):
        if not files.exists(path) or path.stat().st_size > LARGEST:
            raise WeightsError(f"{path} is no plain file of at most {LARGEST >> 20} MiB.")
        if path.name == "adapter_config.json":
            raise WeightsError(
                f"{folder} holds an adapter, whose base model lies elsewhere. Merge it into the "
                "base model, and save that."
            )
        if odd := list(_fetched(read_json(path, WeightsError, "Complete the download."))):
            raise WeightsError(
                f"{path} says {shorten_list(odd)}: it names kernels or quantised weights, which "
                "are neither fetched nor run. Take weights that need none, or remove the entry."
            )


def _fetched(entry: Any) -> Iterator[str]:
    """Entries, at any depth, that make transformers run something else than its own layers."""
    if isinstance(entry, dict):
        for name, value in entry.items():
            if name.strip("_").startswith(("attn_implementation", "experts_implementation")):
                values = value.values() if isinstance(value, dict) else [value]
                if any(one not in BUILT_IN and not isinstance(one, bool) for one in values):
                    yield f"{name:.40} = {value!r:.80}"
            elif name in CHANGES and value:
                yield f"{name} = {value!r:.80}"
            else:
                yield from _fetched(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _fetched(value)


def load_tokenizer(kind: Any, folder: Path) -> Any:
    """A tokenizer from a folder; transformers would make up an empty one."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise WeightsError(
            f"{folder} holds no vocabulary, none of {', '.join(VOCABULARIES)}. Complete the "
            "download."
        )
    return read_tokenizer(kind, folder)


def read_tokenizer(kind: Any, folder: Path) -> Any:
    """As `read_local`; expressions that some prompts would keep busy for ever are refused, too."""
    path = folder / "tokenizer.json"
    words = read_json(path, WeightsError, "Download it again.") if files.exists(path) else {}
    for part in ("normalizer", "pre_tokenizer"):
        for pattern in filter(ENDLESS.search, _expressions(words.get(part))):
            raise WeightsError(
                f"{path} splits words by {pattern!r:.80}, which could take for ever. Download the "
                "tokenizer as it was published."
            )
    return read_local(kind, folder)


def _expressions(entry: Any) -> Iterator[str]:
    """The regular expressions of a tokenizer's part, at any depth."""
    if isinstance(entry, dict) and isinstance(entry.get("Regex"), str):
        yield entry["Regex"]
    inside = entry.values() if isinstance(entry, dict) else entry
    for one in inside if isinstance(entry, (dict, list)) else ():
        yield from _expressions(one)


def tokenize(tokenizer: Any, texts: str | list[str], **options: Any) -> Any:
    """What a tokenizer makes of texts. Raises WeightsError where its own rules fail it."""
    try:
        return tokenizer(texts, **options)
    except BaseException as error:
        if not _is_failure(error):
            raise
        raise WeightsError(
            f"The tokenizer cannot read this prompt: {error!s:.200}. Download its folder again."
        ) from error


# ---- encoders -------------------------------------------------------------------------------
def load_encoder(
    kind: Any, folder: Path, device: str | torch.device, dtype: torch.dtype | None
) -> nn.Module:
    """A text encoder of transformers; dtype None keeps the stored one, bfloat16 for float8.

    On a CPU, in the stored dtype, large files stay memory-mapped; for another device the weights
    go there one by one. Raises WeightsError if a tensor is missing, left over or of another shape:
    that is asked of the headers first, since transformers would fill in random numbers.
    """
    reader = safetensors_io.Reader(folder)
    rules = check_encoder(kind, folder, reader)
    kinds = {safetensors_io.DTYPES[info.dtype] for info in reader.header.values()}
    own = kinds.pop() if len(kinds) == 1 else torch.float32
    own = own if own.itemsize > 1 else torch.bfloat16  # nothing is built or computes in float8
    config = read_local(kind.config_class, folder)
    with reader.leased():  # read as all weights are: with scales, without prefixes
        state = {r.official: safetensors_io.build_tensor(reader, r, dtype=own) for r in rules}
        encoder = _made(kind, folder, None, config=config, state_dict=state, dtype=own)
        return encoder.to(device, dtype or own)


def read_model(kind: Any, folder: Path) -> nn.Module:
    """Any model of transformers from a folder, as `read_local`, with all its tensors, unmapped.

    Raises WeightsError where one is missing, for which transformers would take random numbers, and
    for packed ones, which it would take as they are.
    """
    with Lease(folder.glob("*.safetensors")) as lease:
        model, found = read_local(kind, folder, use_safetensors=True, output_loading_info=True)
        for tensor in (*model.parameters(), *model.buffers()):  # mapped until now: others may write
            tensor.data = tensor.data.clone()
        lease.check()
    missing = {*found["missing_keys"], *(one[0] for one in found["mismatched_keys"])}
    names = stored.sort_names(found["unexpected_keys"], None, folder)
    if missing or names.scales or names.beside or names.marked:
        what = f"lacks {shorten_list(sorted(missing))}" if missing else "holds packed numbers"
        raise WeightsError(f"{folder} {what}, so its {kind.__name__} would be another. Download "
                           "it again, as it was published.")  # fmt: skip
    narrow = any(p.is_floating_point() and p.itemsize == 1 for p in model.parameters())
    return model.float() if narrow else model


def check_encoder(kind: Any, folder: Path, reader: safetensors_io.Reader) -> list[key_mapping.Rule]:
    """How a folder fills its CLIP or T5, every tensor accounted for. Raises WeightsError."""
    module = _sketch_encoder(kind, folder)
    named: dict[str, str] = {}
    for name in reader.header:
        first = named.setdefault(_plain(name), name)
        if first != name and not torch.equal(reader.read(first), reader.read(name)):
            raise WeightsError(f"{folder} holds {first} and {name}, which differ and mean one "
                               "tensor. Download it again.")  # fmt: skip
    return safetensors_io.check(module, reader, lambda state: _encoder_rules(module, state))


def _sketch_encoder(kind: Any, folder: Path) -> nn.Module:
    config = read_local(kind.config_class, folder)
    if odd := {k: v for k, v in config.to_dict().items() if type(v) is int and abs(v) > 2**18}:
        raise WeightsError(f"{folder}/config.json has {odd!r:.200}, more than any encoder has.")
    layers = max(getattr(config, name, 0) or 0 for name in ("num_hidden_layers", "num_layers"))
    if layers > 128:
        raise WeightsError(f"{folder}/config.json has {layers} layers. Complete the download.")
    try:
        with torch.device("meta"):
            return kind(config)
    except Exception as error:  # whatever sizes of no sense lead to in transformers
        raise WeightsError(
            f"{folder}/config.json describes no {kind.__name__}: {error!r:.200}."
        ) from error


def _encoder_rules(module: nn.Module, state: safetensors_io.StateDict) -> list[key_mapping.Rule]:
    """Match a file's names with those of this version of transformers; others stay as they are."""
    stored = {_plain(name): name for name in state}
    wanted = [name for name in module.state_dict() if _plain(name) in stored]
    rules = [key_mapping.Rule(name, (stored[_plain(name)],)) for name in wanted]
    used = {rule.diffusers[0] for rule in rules}
    return rules + [key_mapping.Rule(key, (key,)) for key in stored.values() if key not in used]


def _plain(name: str) -> str:
    """CLIP's tensors once had a prefix; T5's embedding is stored under one of two names."""
    tied = name == "encoder.embed_tokens.weight"
    return "shared.weight" if tied else name.removeprefix("text_model.")
