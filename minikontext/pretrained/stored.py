"""How other programs store a model: prefixes, several parts in one file, float8 with a scale.

Only names are looked at here. Tools put a prefix before every name, once or twice; an all-in-one
file holds transformer, autoencoder and text encoders under a prefix each; ComfyUI's scaled float8
keeps a number beside each matrix, by which it is to be multiplied, and bitsandbytes its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minikontext.errors import WeightsError, shorten_list
from minikontext.pretrained import packed
from minikontext.runtime.config import parse_json

# What a name may begin with and mean the same: a trainer's wrapper, a tool's word for the model.
PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "_forward_module.",
)  # fmt: skip
COMPILED = "_orig_mod."  # torch.compile puts it before the part that is compiled, anywhere
# An all-in-one file's prefixes, and the part of a pipeline each is for.
PARTS = {
    "model.diffusion_model.": "transformer",
    "vae.": "autoencoder",
    "first_stage_model.": "autoencoder",
    "text_encoders.": "text_encoder",
    "cond_stage_model.": "text_encoder",
}
_SCALES = {".scale_weight": ".weight", ".weight_scale": ".weight"}
_MARK, NOTE = "scaled_fp8", ".comfy_quant"  # of a whole file, and of one matrix
_DROPPED = (".scale_input", ".input_scale", NOTE, ".weight_format", _MARK)
SCALED = ("F8_E4M3", "F8_E5M2")
FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}  # of ComfyUI, and ours
# Names that a quantiser leaves beside its packed numbers, which are no floats any more.
_QUANTISERS = {
    ".weight_scale_2": "NVFP4 weights",
    ".qweight": "packed integers (SVDQuant, GPTQ or AWQ)",
}
INSTEAD = (
    "Take the same model in bfloat16 or float8; offload='4-bit' or '8-bit' makes it as small while "
    "it is loaded."
)


def bare_name(name: str) -> str:
    """A tensor's name without what tools put before it."""
    name, at = name.replace(COMPILED, ""), 0  # not cut one by one: a name may have a million
    while step := next((len(prefix) for prefix in PREFIXES if name.startswith(prefix, at)), 0):
        at += step
    return name[at:]


def parts_in(names: Iterable[str]) -> list[str]:
    """The parts of an all-in-one file; none for a file of one part."""
    found = {part for name in names for start, part in PARTS.items() if name.startswith(start)}
    return sorted(found) if len(found) > 1 else []


@dataclass
class Names:
    """Bare names of the tensors that count, and where each is stored.

    scales: the stored name of the number by which a matrix is multiplied. formats: of the text that
    says how a matrix is packed. beside: what bitsandbytes stores beside a matrix, by the end of its
    name. marked: the file says that its float8 has scales.
    """

    stored: dict[str, str] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    beside: dict[str, dict[str, str]] = field(default_factory=dict)
    marked: bool = False


def sort_names(names: Iterable[str], part: str | None, place: object) -> Names:
    """Sort a file's names for one part of a pipeline; None takes a file of one part as it is.

    Raises WeightsError if two names mean the same tensor.
    """
    names, found = list(names), Names()
    several = parts_in(names)
    for name in names:
        plain = name
        if several and part:
            start = next((s for s, p in PARTS.items() if p == part and name.startswith(s)), None)
            if start is None:
                if not name.startswith(tuple(PARTS)) and not name.endswith(_DROPPED):
                    raise WeightsError(
                        f"{place} holds several parts, and {name:.80} is of none of them. Expected "
                        f"{', '.join(PARTS)} before every name: get the file again."
                    )
                continue
            plain = name[len(start) :]
        plain = name if several and not part else bare_name(plain.removeprefix("vae."))
        _sort(plain, name, found, place)
    return found


def _sort(plain: str, name: str, found: Names, place: object) -> None:
    if plain.endswith(NOTE):
        found.formats[plain.removesuffix(NOTE) + ".weight"] = name
    found.marked |= plain.endswith((_MARK, NOTE))
    if plain.endswith(_DROPPED):
        return
    for end, of in _SCALES.items():
        if plain.endswith(end):
            if (matrix := plain.removesuffix(end) + of) in found.scales:
                raise WeightsError(f"{place} has two scales for {matrix}. Get the file again.")
            found.scales[matrix] = name
            return
    for end in (*packed.FOUR_BITS, packed.EIGHT_BITS):
        if plain.endswith(f".{end}"):
            matrix = plain.removesuffix(f".{end}") + ".weight" * (end == packed.EIGHT_BITS)
            found.beside.setdefault(matrix, {})[end] = name
            return
    if plain in found.stored:
        raise WeightsError(
            f"{place} holds {plain} twice, as {found.stored[plain]} and {name}. Expected one "
            "model: get the file again."
        )
    found.stored[plain] = name


def refuse_quantised(names: Iterable[str], place: object) -> None:
    """Raise WeightsError that names the quantiser, if any tensor's name gives one away."""
    for name in names:
        for mark, what in _QUANTISERS.items():
            if mark in name:
                raise WeightsError(f"{place} holds {what} ({name:.80}). {INSTEAD}")


def refuse_lora(names: Iterable[str], place: object) -> None:
    """Raise WeightsError for updates of a model in the place of one."""
    if any(".lora_" in name for name in names):
        raise WeightsError(f"{place} holds a LoRA, expected a whole model. Load its base model.")


def require_scales(names: Names, stored: Mapping[str, Any], place: object) -> None:
    """Raise WeightsError unless scales and tables stand beside what they are for, and all do."""
    again, dtypes = "Get the file again.", {name: info.dtype for name, info in stored.items()}
    if odd := [name for name in names.scales if dtypes.get(name) not in SCALED]:
        what = dtypes.get(odd[0], "nothing")
        raise WeightsError(
            f"{place} has a scale beside {shorten_list(odd)}, stored as {what}; expected float8 "
            f"there. {again}"
        )
    narrow = [n for n, info in stored.items() if info.dtype in SCALED and len(info.shape) == 2]
    narrow = [name for name in narrow if name not in names.scales]
    if narrow and (names.scales or names.marked):
        raise WeightsError(
            f"{place} has no scale beside {shorten_list(narrow)}, but says that its float8 is "
            f"scaled. {again}"
        )
    if odd := sorted(names.beside.keys() - dtypes.keys()):
        raise WeightsError(
            f"{place} has tables of bitsandbytes beside {shorten_list(odd)}, which is not there. "
            f"{again}"
        )


def refuse_formats(formats: Mapping[str, object], dtypes: Mapping[str, str], place: object) -> None:
    """Raise WeightsError for a packing that is no float8 with scales, or not what is stored."""
    if odd := sorted({str(x) for x in formats.values() if str(x) not in FORMATS}):
        raise WeightsError(f"{place} says that it is packed as {shorten_list(odd)}. {INSTEAD}")
    for name, said in formats.items():
        if dtypes[name] != FORMATS[str(said)]:
            raise WeightsError(
                f"{place} says that {name} is {said}, and stores {dtypes[name]}. Get the file "
                "again."
            )


def notes(header: Mapping[str, str], place: object) -> dict[str, object]:
    """How matrices are packed, as ComfyUI says it in a file's header, by the names of its notes.

    Raises WeightsError for what is said in other words.
    """
    try:
        layers = parse_json(header.get("_quantization_metadata", '{"layers": {}}'))["layers"]
        return {f"{layer}{NOTE}": facts["format"] for layer, facts in layers.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{place} says in its header how it is packed, in words that are not known "
            f"({error!s:.80}). {INSTEAD}"
        ) from error
