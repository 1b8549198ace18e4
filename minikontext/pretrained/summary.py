"""What lies in weights, and is it all there? `minikontext weights list|inspect|verify`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder
from minikontext.editing.defaults import Defaults
from minikontext.errors import WeightsError
from minikontext.images.resize import show_size
from minikontext.pretrained import (
    PARTS,
    key_mapping,
    layouts,
    native,
    purpose,
    safetensors_io,
    stored,
)
from minikontext.pretrained.config_mapping import autoencoder_config, transformer_config
from minikontext.pretrained.layouts import find
from minikontext.pretrained.native import autoencoder_sizes, own_config, part_file
from minikontext.pretrained.text_encoders import (
    load_tokenizers,
    require_encoders,
    verify_encoder,
)
from minikontext.runtime import files, memory_plan
from minikontext.runtime.config import build_config
from minikontext.runtime.log import printable
from minikontext.safety import registry
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.transformer import KontextTransformer, TransformerConfig


# ---- what the command shows -----------------------------------------------------------------
@dataclass(frozen=True)
class Summary:
    """What the headers of one part say; nothing else is read."""

    place: Path
    kind: str
    names: str
    tensors: int
    parameters: int
    size: int
    dtypes: dict[str, int]

    def __str__(self) -> str:
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        return (
            f"{printable(str(self.place))}\n  {self.kind}, {self.names} names\n"
            f"  {self.tensors:,} tensors "
            f"({dtypes}), {self.parameters:,} parameters, {self.size / memory_plan.GB:.3f} GB"
        )


def shipped() -> str:
    """The weights that have a name, a line each: the name, and what they are used for."""
    found = []
    for config in sorted(native.home().glob("*/config.json")):
        own = build_config(Defaults, own_config(config.parent).get("defaults", {}))
        sizes = [show_size(size) for size in own.sizes]
        trained = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes, {sizes[0]} to {sizes[-1]}"
        kind = "edits alone" if own.min_contexts else "draws and edits"
        found.append(f"{config.parent.name:10} {kind}, up to {own.max_contexts} pictures, "
                     f"{trained}, {own.num_inference_steps} steps")  # fmt: skip
    return "\n".join([*found, f"cards and files: {native.home()}"])


def parts(place: str | Path) -> list[Path]:
    """The parts of a published model or of our own folder, or the place itself if it is one."""
    place = native.named(place)
    if own := own_config(place):
        shared = own.get("shares") if isinstance(own.get("shares"), dict) else {}
        elsewhere = [part_file(place, part, own) for part in PARTS if part in shared]
        mine = (path for path in files.inside(place) if path.match("*.safetensors"))
        return sorted([*mine, *elsewhere])
    found = None if is_part(place) else find(place)
    if found is None:
        return [place]
    encoders = (found.encoders / name for name in ("text_encoder", "text_encoder_2"))
    own = dict.fromkeys([found.transformer, found.autoencoder])  # one file may be both
    return [*own, *(x for x in encoders if x.is_dir())]


def is_part(place: Path) -> bool:
    """Whether a place is weights of one part: a file, or a folder with them beside a config.

    A whole model may hold a stray config.json, too; it holds folders of its parts besides.
    """
    if files.exists(place):
        return True
    whole = any(files.is_folder(place / name) for name in ("transformer", "text_encoder"))
    weights = files.is_folder(place) and any(place.glob("*.safetensors"))
    return not whole and weights and files.exists(place / "config.json")


def summarise(place: Path) -> Summary:
    """Read the headers of one part. Raises WeightsError."""
    reader = safetensors_io.Reader(place)
    header = reader.header
    return Summary(
        place=place,
        kind=kind_of(header),
        names="diffusers" if key_mapping.is_diffusers(header) else "official",
        tensors=len(header),
        parameters=sum(math.prod(info.shape) for info in header.values()),
        size=sum(file.stat().st_size for file in safetensors_io.files(place)),
        dtypes=dict(Counter(map(reader.dtype, header))),
    )


def kind_of(names: Iterable[str]) -> str:
    """What a part is, told by names that nothing else has."""
    names = list(names)
    if several := stored.parts_in(names):
        return f"all in one ({', '.join(several)})"
    if foreign := purpose.foreign_kind(names):
        return foreign
    return next((kind for mark, kind in _MARKS.items() if any(mark in n for n in names)), "unknown")


_MARKS = {
    "lora_": "LoRA",
    "single_blocks.": "transformer",
    "single_transformer_blocks.": "transformer",
    "encoder.block.": "T5",
    "token_embedding": "CLIP",
    "decoder.conv_in": "autoencoder",
    "pool.weight": "toy text encoder",
}


def verify_words(place: str | Path) -> Path | None:
    """Read the tokenizers of a published model, if it is one, and see whether its parts fit.

    -> the folder that they are in; None for a folder of ours, which is held to its config.json.
    Raises WeightsError for what is missing or damaged, and for parts of different models.
    """
    place = native.named(place)
    own = own_config(place)
    if own:
        _verify_own(place)
    found = None if own or is_part(place) else find(place)
    if found is None:
        return None
    require_encoders(found.encoders)
    load_tokenizers(found.encoders)
    if not any(map(_is_damaged, parts(place))):  # else that has been said of that part
        layouts.require_fit(found)
    return found.encoders


def _verify_own(folder: Path) -> None:
    """Whether a folder of ours is whole, and would load: the numbers of each part apart."""
    config, modules, stored = native.sketch(folder)
    registry.chosen(None, config.get("safety"))
    for part, file in stored.items():
        if not _is_damaged(file):  # else that has been said of that part
            safetensors_io.check(modules[part], safetensors_io.Reader(file))


def _is_damaged(part: Path) -> bool:
    try:
        return not safetensors_io.inspect(part)
    except WeightsError:
        return True


def verify(place: Path) -> int:
    """Check one part: header against file size, every tensor there and finite. -> how many.

    Raises WeightsError that says what is wrong.
    """
    reader = safetensors_io.Reader(place)
    if what := purpose.foreign_kind(reader.header):
        raise WeightsError(f"{place} holds {what}. {purpose.INSTEAD}")
    if kind_of(reader.header) in ("T5", "CLIP"):
        verify_encoder(place, reader)
        _require_finite(reader)
        return len(reader.header)
    several = [x for x in stored.parts_in(reader.header) if x != "text_encoder"]
    for part in several or [kind_of(reader.header)]:
        _verify_part(place, part)
    _require_finite(reader)
    return len(reader.header)


def _require_finite(reader: safetensors_io.Reader) -> None:
    """Read every number: loading does not look at them, a picture would end in NonFiniteError."""
    with reader.leased():
        for name in reader.header:
            if not reader[name].float().isfinite().all():
                raise WeightsError(f"{reader.path}: {name} holds NaN or infinity. Get it again.")


def _verify_part(place: Path, part: str) -> None:
    model = _sketch(place, part)
    safetensors_io.check(model, safetensors_io.Reader(place, part))
    if not isinstance(model, KontextTransformer):
        return
    if problem := purpose.transformer_problem(model.config):
        raise WeightsError(f"{place} is complete, but it {problem}. {purpose.INSTEAD}")


_OWN = {
    "transformer": (KontextTransformer, TransformerConfig),
    "text_encoder": (ToyTextEncoder, ToyTextConfig),
}


def _sketch(place: Path, kind: str) -> nn.Module:
    """The module that a part is for, on the meta device."""
    own = own_config(place.parent)
    with torch.device("meta"):
        if isinstance(own.get(place.stem), dict) and place.stem in PARTS:
            if place.stem == "autoencoder":
                return AutoEncoder(autoencoder_sizes(own[place.stem]))
            module, config = _OWN[place.stem]
            return module(build_config(config, own[place.stem], error=WeightsError))
        if kind == "autoencoder":
            return AutoEncoder(autoencoder_config(place))
        return KontextTransformer(transformer_config(place))
