"""The parts of a pipeline from a name, a folder or a file, and back; whatever the layout."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError
from minikontext.pretrained import PARTS, convert, layouts, mapped, safetensors_io
from minikontext.pretrained.native import (
    FORMAT,
    FORMAT_VERSION,
    find_weights,
    from_dict,
    home,
    own_config,
    sketch,
)
from minikontext.pretrained.text_encoders import FluxTextEncoder
from minikontext.runtime import files, memory_plan, offload, quantization
from minikontext.runtime.config import write_json
from minikontext.runtime.device import select_device
from minikontext.safety import registry
from minikontext.safety.filters import Safety
from minikontext.text import ToyTextEncoder


class Editor(Protocol):
    """What is saved: a pipeline, as far as this file knows it."""

    modules: dict[str, nn.Module]
    defaults: Defaults
    name: str
    safety: Safety | None


def load(
    name: str | Path = "toy",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    offload: str = "auto",
    safety: Safety | str | Path | None = None,
) -> dict[str, Any]:
    """Load shipped weights by name ("toy"), or any weights folder: what a pipeline is made of.

    Published FLUX weights, too: a folder in diffusers' layout, a folder with official single
    files and the encoders' folders, or the path of one official file in such a folder. For
    these, `offload` says what does not stay on the device, see `memory_plan.PLANS`; "auto" takes
    the first plan that fits and prints it.
    safety: filters, or the name or folder of some; "none" for none. By default those that the
    weights' config.json names.
    Raises ConfigError for a plan that does not exist, WeightsError if there is no such folder or a
    file in it does not fit, and NotEnoughMemoryError if the device is too small.
    """
    memory_plan.check(offload)
    published = not own_config(Path(name)) and layouts.find(name)
    if published:
        files.tell_if_hidden(name, home())
        return _load_published(published, device, dtype, offload, safety)
    return _load_native(find_weights(name), device, dtype, safety)


def require(*names: str | Path) -> None:
    """Raises WeightsError, as `load` does, where one of the names stands for no weights.

    For work that begins with something else.
    """
    for name in names:
        own_config(Path(name)) or layouts.find(name) or find_weights(name)


def _load_native(
    folder: Path,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    safety: Safety | str | Path | None,
) -> dict[str, Any]:
    config, modules, stored = sketch(folder)
    filters = registry.chosen(safety, config.get("safety"))
    device, dtype = select_device(device, dtype)
    loaded = {p: safetensors_io.load_into(modules[p], stored[p], device, dtype) for p in PARTS}
    codec = loaded["autoencoder"]
    watched = (loaded["transformer"], loaded["text_encoder"], codec.encoder, codec.decoder)
    mapped.watch(watched, stored.values())
    return loaded | {
        "defaults": from_dict(Defaults, config.get("defaults", {})),
        "name": config.get("name") or folder.name,
        "folder": folder,
        "weight_files": list(stored.values()),
        "safety": filters,
    }


def _load_published(
    found: layouts.Checkpoint,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    offload: str,
    safety: Safety | str | Path | None,
) -> dict[str, Any]:
    filters = registry.chosen(safety)
    loaded = layouts.load(found, *select_device(device, dtype), offload)
    if filters is None and loaded["transformer"].config.guidance_embed:
        registry.tell_once()
    weight_files = [*found.files, *_encoder_files(found.encoders)]
    text, codec = loaded["text_encoder"], loaded["autoencoder"]
    watched = (loaded["transformer"], text.t5, text.clip, codec.encoder, codec.decoder)
    mapped.watch(watched, weight_files)
    return loaded | {
        "defaults": Defaults(**layouts.defaults(found)),
        "name": found.name,
        "folder": found.encoders,
        "weight_files": weight_files,
        "safety": filters,
    }


def _encoder_files(folder: Path) -> list[Path]:
    places = (folder / name for name in ("text_encoder", "text_encoder_2"))
    return [file for place in places for file in safetensors_io.files(place)]


def config_fingerprint(pipe: Editor) -> str:
    """64 hex digits that change with what decides a picture beside the weights' numbers.

    That is sizes, scale factors, vocabulary, defaults, and 8 or 4 bits, as they are in memory.
    """
    facts: list[object] = [asdict(pipe.defaults)]
    for part in pipe.modules.values():
        config = getattr(part, "config", None)
        sizes = asdict(config) if is_dataclass(config) else type(part).__name__
        facts.append(part.described() if isinstance(part, FluxTextEncoder) else sizes)
        packed = filter(quantization.is_packed, part.parameters())
        facts += sorted({type(weight.data).__name__ for weight in packed})
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def computed(pipe: Editor) -> tuple[str, str]:
    """`config_fingerprint`, and how the weights lie in memory: "bfloat16 on cuda, Int8Tensor"."""
    net = pipe.modules["transformer"]
    first = next(net.parameters())
    facts = [f"{first.dtype} on {first.device.type}".removeprefix("torch.")]
    packed = filter(quantization.is_packed, net.parameters())
    facts += sorted({type(weight.data).__name__ for weight in packed})
    facts += ["streamed"] * offload.is_streamed(net)
    return config_fingerprint(pipe), ", ".join(facts)


def save(
    pipe: Editor,
    folder: str | Path,
    name: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    layout: str | None = None,
) -> Path:
    """Write a folder that `load` reads, whole or not at all; bfloat16 unless told otherwise.

    Weights that are there already are replaced; other files of the folder stay.

    layout: "minikontext" is config.json and one safetensors file a part; "diffusers" is a folder
    that diffusers' FluxKontextPipeline opens, too, and the default for FLUX's text encoders.
    Raises ConfigError for a layout that these parts do not have, and OutputError if the place
    cannot be written.
    """
    folder, modules = Path(folder), pipe.modules
    toy = isinstance(modules["text_encoder"], ToyTextEncoder)
    layout = layout or ("minikontext" if toy else "diffusers")
    if layout == "diffusers":
        with files.updating_folder(folder, "model_index.json") as new:
            edits = pipe.defaults.max_contexts > 0
            convert.save(modules, new, dtype, edits, pipe.defaults.shifted)
        return folder
    if layout != "minikontext" or not toy:
        raise ConfigError(f"Got layout={layout!r}; these weights go into 'diffusers'.")
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": name or pipe.name}
    config |= {part: asdict(module.config) for part, module in modules.items()}
    config["defaults"] = asdict(pipe.defaults)
    if pipe.safety is not None and pipe.safety.shipped:
        config["safety"] = pipe.safety.name
    with files.updating_folder(folder, without=["model_index.json"]) as new:  # of diffusers
        for part, module in modules.items():
            safetensors_io.save(module.state_dict(), new / f"{part}.safetensors", dtype)
        write_json(new / "config.json", config)
    return folder
