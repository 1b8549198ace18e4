"""FLUX weights as they are published: diffusers folders and official single files.

Sizes come from config.json where there is one and from the tensors' shapes where there is none.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import WeightsError, WeightsWarning, shorten_list, warn
from minikontext.images.resize import KONTEXT_SIZES
from minikontext.pretrained import file_kinds, purpose, safetensors_io, stored
from minikontext.pretrained.config_mapping import autoencoder_config, transformer_config
from minikontext.pretrained.native import own_config
from minikontext.pretrained.text_encoders import (
    FluxTextEncoder,
    encoder_widths,
    require_encoders,
)
from minikontext.runtime import files, memory_plan, offload, quantization
from minikontext.runtime.attention import use_flash_attention_3
from minikontext.runtime.config import read_json_if_there
from minikontext.transformer import KontextTransformer

LOG = logging.getLogger(__name__)

AUTOENCODER = "ae"  # the name of the official file

# In the names of files that only paint. The shapes do not tell: Kontext has those of [dev].
PAINTERS = re.compile(r"schnell|krea|flux\W?1?\W?dev", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a FLUX model lie: each a file, or a folder in diffusers' layout.

    encoders: the folder that holds text_encoder, text_encoder_2, tokenizer and tokenizer_2.
    edits: takes context images (Kontext). shifted: the schedule moves with the number of tokens.
    made_for: the pipeline that a diffusers folder names for itself; empty if it does not.
    """

    name: str
    transformer: Path
    autoencoder: Path
    encoders: Path
    edits: bool
    shifted: bool
    made_for: str = ""

    @property
    def files(self) -> list[Path]:
        """The weights files of transformer and autoencoder, which decide what a picture is."""
        found = [*safetensors_io.files(self.transformer), *safetensors_io.files(self.autoencoder)]
        return list(dict.fromkeys(found))


def find(place: str | Path) -> Checkpoint | None:
    """Recognise published weights: a folder, or one official file in it. None for anything else.

    Raises WeightsError for a folder that lacks a part, holds several models, or is for another
    pipeline than FLUX.1's and Kontext's.
    """
    place = Path(place)
    if not (files.exists(place) or files.is_folder(place)):
        return None
    folder = place if place.is_dir() else place.parent
    if own_config(folder):
        return None
    kind = read_json_if_there(folder / "model_index.json").get("_class_name") or ""
    if place.is_dir() and (problem := purpose.class_problem(kind)):
        raise WeightsError(f"{folder} {problem}. {purpose.INSTEAD}")
    transformer = _transformer_place(place)
    if transformer is None:
        return None
    kind = kind if place.is_dir() else ""  # a file is what its own name says, not its neighbours
    schedule = read_json_if_there(folder / "scheduler" / "scheduler_config.json")
    if not isinstance(schedule.get("use_dynamic_shifting", True), bool):
        raise WeightsError(f"{folder}/scheduler: use_dynamic_shifting is neither true nor false.")
    if odd := purpose.odd_schedule(schedule):
        warn(WeightsWarning(f"{folder}/scheduler says {shorten_list(odd)}, which is not followed "
                            "here: pictures differ from those of its own pipeline."))  # fmt: skip
    guided = transformer_config(transformer).guidance_embed
    name = folder.name if transformer.is_dir() else transformer.stem
    return Checkpoint(
        name=name,
        transformer=transformer,
        autoencoder=_autoencoder_place(folder, transformer),
        encoders=folder,
        edits=purpose.OPENED[kind] if kind else is_editor(name, guided),
        shifted=bool(schedule.get("use_dynamic_shifting", guided)),
        made_for=kind,
    )


def require_fit(checkpoint: Checkpoint) -> None:
    """Check that the parts belong to one model, by configs and headers. Raises WeightsError."""
    purpose.require_fit(
        checkpoint.encoders,
        transformer_config(checkpoint.transformer),
        autoencoder_config(checkpoint.autoencoder),
        *encoder_widths(checkpoint.encoders),
    )


def is_editor(name: str, guided: bool) -> bool:
    """Whether weights take context images, as far as their name and their input for guidance say.

    Kontext without that input, made for few steps say, has the shapes of [schnell].
    """
    return "kontext" in name.lower() or (guided and not is_painter(name))


def is_painter(name: str) -> bool:
    """Whether an official single file's name says that it takes no context images."""
    return "kontext" not in name.lower() and bool(PAINTERS.search(name))


def load(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, offload: str = "auto"
) -> dict[str, nn.Module]:
    """The three parts of a pipeline, each tensor read straight to where the plan wants it.

    The plan is chosen and logged before anything is read: see `memory.PLANS`. Raises
    WeightsError if a file does not fit the model, NotEnoughMemoryError if no plan fits the device.
    """
    require_fit(checkpoint)
    transformer, autoencoder = sketches(checkpoint)
    available = memory_plan.available_bytes(device)
    plan = memory_plan.choose(plans(checkpoint, dtype), available, offload)
    made_for = purpose.describe(checkpoint.edits, checkpoint.made_for)
    LOG.info("%s: %s", checkpoint.name, made_for)
    LOG.info("memory: %.1f GB on %s; plan %s", available / memory_plan.GB, device, plan)
    if use_flash_attention_3(device):
        LOG.info("attention: FlashAttention 3")
    return {
        "text_encoder": _load_text(checkpoint, device, dtype, plan),
        "autoencoder": safetensors_io.load_into(
            autoencoder, checkpoint.autoencoder, device, dtype, part="autoencoder"
        ),
        "transformer": _load_transformer(transformer, checkpoint, device, dtype, plan),
    }


def plans(checkpoint: Checkpoint, dtype: torch.dtype) -> list[memory_plan.Plan]:
    """What each memory plan would take for these weights at 1024 × 1024 with one context."""
    return memory_plan.predict(*sketches(checkpoint), encoder_sizes(checkpoint, dtype), dtype)


def sketches(checkpoint: Checkpoint) -> tuple[KontextTransformer, AutoEncoder]:
    """Transformer and autoencoder of the right sizes, without numbers (on the meta device)."""
    with torch.device("meta"):
        transformer = KontextTransformer(transformer_config(checkpoint.transformer))
        return transformer, AutoEncoder(autoencoder_config(checkpoint.autoencoder))


def _load_text(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, plan: memory_plan.Plan
) -> FluxTextEncoder:
    folder, length = checkpoint.encoders, text_length(checkpoint)
    if plan.stream_encoders:  # as stored: memory-mapped, and so no load on the host
        return FluxTextEncoder.from_folder(folder, None, length, "cpu").stream(device, dtype)
    return FluxTextEncoder.from_folder(folder, dtype, length, device)


def _load_transformer(
    transformer: KontextTransformer,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    plan: memory_plan.Plan,
) -> KontextTransformer:
    path = checkpoint.transformer
    if not plan.stream_blocks:
        prepare = quantization.quantiser(plan.bits)
        return safetensors_io.load_into(
            transformer, path, device, dtype, prepare=prepare, part="transformer"
        )
    safetensors_io.load_into(transformer, path, "cpu", None, part="transformer")
    offload.stream(offload.transformer_blocks(transformer), device, dtype, within=transformer)
    for name, part in transformer.named_children():
        if not name.endswith("_blocks"):
            part.to(device, dtype)
    return transformer


def encoder_sizes(checkpoint: Checkpoint, dtype: torch.dtype) -> memory_plan.Encoders:
    """Bytes of the text encoders in dtype, read off the headers: CLIP, and T5 layer by layer."""
    require_encoders(checkpoint.encoders)
    pieces: Counter[str] = Counter()
    for folder, depth in (("text_encoder", 0), ("text_encoder_2", 3)):
        for name, info in safetensors_io.inspect(checkpoint.encoders / folder).items():
            piece = ".".join([folder, *name.split(".")[:depth]])  # "encoder.block.7" of T5
            pieces[piece] += math.prod(info.shape) * dtype.itemsize
    return memory_plan.Encoders(pieces.total(), max(pieces.values(), default=0))


def defaults(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a call uses where it says nothing: the official steps, guidance and sizes.

    Kontext was published with one context image; that it takes two is known from use.
    """
    guided = transformer_config(checkpoint.transformer).guidance_embed
    return {
        "num_inference_steps": 28 if guided else 4,
        "guidance_scale": (2.5 if checkpoint.edits else 3.5) if guided else None,
        "width": 1024,
        "height": 1024,
        "max_contexts": 2 if checkpoint.edits else 0,
        "shifted": checkpoint.shifted,
        "sizes": KONTEXT_SIZES,
    }


def text_length(checkpoint: Checkpoint) -> int:
    """T5 tokens of a prompt: 512, and 256 for [schnell]."""
    return 512 if transformer_config(checkpoint.transformer).guidance_embed else 256


# ---- places ---------------------------------------------------------------------------------
def _transformer_place(place: Path) -> Path | None:
    if files.exists(place):
        return _model_file(place)
    if files.is_folder(place / "transformer"):
        return place / "transformer"
    names = [x for x in files.inside(place) if files.exists(x) and x.stem != AUTOENCODER]
    singles = [file for file in names if file.suffix.lower() in file_kinds.SUFFIXES]
    if len(singles) > 1:
        found = ", ".join(file.name for file in singles)
        raise WeightsError(f"{place} holds several models ({found}). Give the path of one file.")
    if not singles and files.exists(place / "model_index.json"):
        raise WeightsError(f"{place} lacks the folder transformer. Complete the download.")
    others = [file for file in names if file.suffix.lower() in file_kinds.FOREIGN]
    if not singles and others:
        return _model_file(others[0])
    return singles[0] if singles else None


def _model_file(file: Path) -> Path | None:
    """A file if it is safetensors, else None. Raises WeightsError for weights in other formats."""
    if file.suffix.lower() in file_kinds.FOREIGN:
        raise WeightsError(file_kinds.diagnose(file, "it is of another format"))
    return file if file.suffix.lower() in file_kinds.SUFFIXES else None


def _autoencoder_place(folder: Path, transformer: Path) -> Path:
    """Where the autoencoder is: in the transformer's file, if that holds all; else beside it."""
    names = safetensors_io.inspect(transformer) if transformer.is_file() else ()
    if "autoencoder" in stored.parts_in(names):
        return transformer
    singles = (folder / f"{AUTOENCODER}{suffix}" for suffix in file_kinds.SUFFIXES)
    for place in (folder / "vae", *singles):
        if place.exists():
            return place
    raise WeightsError(
        f"{folder} has neither the folder vae nor {AUTOENCODER}.safetensors: download one."
    )
