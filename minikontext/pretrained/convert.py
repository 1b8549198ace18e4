"""Weights rewritten between official files and diffusers' folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext import errors
from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError, WeightsError
from minikontext.pretrained import key_mapping, safetensors_io
from minikontext.pretrained.config_mapping import (
    autoencoder_config,
    autoencoder_to_json,
    transformer_config,
    transformer_to_json,
)
from minikontext.pretrained.key_mapping import (
    is_diffusers,
    join_parts,
    official_rules,
    to_diffusers,
)
from minikontext.pretrained.layouts import AUTOENCODER, Checkpoint, find
from minikontext.pretrained.safetensors_io import (
    Reader,
    build_tensor,
    save_shards,
    write,
)
from minikontext.pretrained.summary import kind_of
from minikontext.pretrained.text_encoders import (
    FluxTextEncoder,
    require_encoders,
)
from minikontext.runtime import files, quantization
from minikontext.runtime.config import write_json
from minikontext.transformer import KontextTransformer

SCHEDULE = Path("scheduler", "scheduler_config.json")


def rewrite(source: str | Path, target: str | Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Rewrite one transformer or autoencoder for others; memory for one shard is enough.

    A target that ends in .safetensors becomes one official file, any other one a folder of shards
    with diffusers' names, without its config.json. Raises WeightsError and OutputError.
    """
    reader, target = Reader(source), Path(target)
    sketch = reader.sketch()
    rules = official_rules(sketch)
    with reader.leased():
        if target.suffix == ".safetensors":
            built = {rule.official: partial(build_tensor, reader, rule) for rule in rules}
            return [write(target, built, join_parts(sketch, rules), dtype)]
        # Memory-mapped, and so are the parts that it is cut into.
        state = {name: reader.read(name) for name in reader.header}
        state = state if is_diffusers(state) else to_diffusers(state)
        return save_shards(state, target / "diffusion_pytorch_model", dtype)


def save(
    parts: Mapping[str, nn.Module], folder: Path, dtype: torch.dtype, edits: bool, shifted: bool
) -> None:
    """Write the parts of a pipeline as a folder that diffusers opens.

    edits, shifted: as in `Checkpoint`. Raises ConfigError for parts that diffusers does not have,
    OutputError for a place that cannot be written.
    """
    text = parts["text_encoder"]
    if not isinstance(text, FluxTextEncoder):
        raise ConfigError(f"diffusers has no {type(text).__name__}: use layout='minikontext'.")
    if packed := [
        n for n, p in parts["transformer"].named_parameters() if quantization.is_packed(p)
    ]:
        raise ConfigError(
            f"{errors.shorten_list(packed)}: 8-bit, 4-bit and float8 weights lie in memory only. "
            "Load with offload='resident', 'encoders' or 'stream' to save."
        )
    text.save_pretrained(folder, dtype)
    for part, name, describe in (
        ("autoencoder", "vae", autoencoder_to_json),
        ("transformer", "transformer", transformer_to_json),
    ):
        write_json(folder / name / "config.json", describe(parts[part].config))
        state = key_mapping.to_diffusers(parts[part].state_dict())
        safetensors_io.save_shards(state, folder / name / "diffusion_pytorch_model", dtype)
    write_json(folder / SCHEDULE, _schedule(shifted))
    write_json(folder / "model_index.json", _model_index(edits))


def convert(source: Path, target: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Rewrite weights between official files and diffusers' layout; returns what was written.

    A folder with text encoders is rewritten as a whole into the other layout; they are copied as
    they are. One part becomes an official file if target ends in .safetensors, else a folder for
    diffusers. Raises WeightsError for what is neither a transformer nor an autoencoder, or half of
    one, and OutputError; then nothing is left of the target.
    """
    whole = find(source) if files.is_folder(source / "text_encoder") else None
    if whole is None:
        return _convert_part(source, target, dtype)
    require_encoders(whole.encoders)
    if target.suffix == ".safetensors":
        raise ConfigError(
            f"{source} is a whole model; {target} would hold one part. Name a folder."
        )
    with files.replacing_folder(target) as temporary:
        written = _convert_whole(whole, temporary, dtype)
    return [target / path.relative_to(temporary) for path in written]


def _convert_whole(whole: Checkpoint, target: Path, dtype: torch.dtype | None) -> list[Path]:
    guided = transformer_config(whole.transformer).guidance_embed
    if whole.transformer.is_dir():
        name = "kontext-dev" if whole.edits else "dev" if guided else "schnell"
        written = _convert_part(whole.transformer, target / f"flux1-{name}.safetensors", dtype)
        written += _convert_part(whole.autoencoder, target / f"{AUTOENCODER}.safetensors", dtype)
    else:
        written = _convert_part(whole.transformer, target / "transformer", dtype)
        written += _convert_part(whole.autoencoder, target / "vae", dtype)
        write_json(target / "model_index.json", _model_index(whole.edits))
    if whole.shifted != guided or not whole.transformer.is_dir():  # else it goes without saying
        write_json(target / SCHEDULE, _schedule(whole.shifted))
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        written.append(_copy_plain(whole.encoders / part, target / part, _home(whole.encoders)))
    return written


def _home(folder: Path) -> Path:
    """The folder that a model's links may lead to: its own, or its place in a hub's cache.

    There a snapshot is a folder of links to the blobs beside it.
    """
    folder = folder.resolve()
    cached = folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")
    return folder.parents[1] if cached else folder


def _copy_plain(source: Path, target: Path, home: Path) -> Path:
    """Copy the plain files of one folder. Raises WeightsError for a link that leads out of `home`,

    and for pipes and devices, at which a copy would wait for ever or fill the disk.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_dir() and not path.is_symlink():
            continue  # no encoder or tokenizer has inner folders that are read
        if not files.exists(path) or not path.resolve().is_relative_to(home):
            raise WeightsError(
                f"{path} is no file, or a link that leads out of {home}. Put the file itself there."
            )
        shutil.copyfile(path, target / path.name)
    return target


_KINDS = {
    "transformer": (transformer_config, transformer_to_json, KontextTransformer),
    "autoencoder": (autoencoder_config, autoencoder_to_json, AutoEncoder),
}


def _convert_part(source: Path, target: Path, dtype: torch.dtype | None) -> list[Path]:
    kind = kind_of(safetensors_io.inspect(source))
    if kind not in _KINDS:
        raise WeightsError(f"{source} holds a {kind}; expected a transformer or an autoencoder.")
    read_config, describe, build = _KINDS[kind]
    config = read_config(source)
    with torch.device("meta"):
        safetensors_io.check(build(config), Reader(source))
    if target.suffix == ".safetensors":
        return rewrite(source, target, dtype)
    with files.replacing_folder(target) as new:
        written = rewrite(source, new, dtype)
        write_json(new / "config.json", describe(config))
    return [target / path.name for path in written]


def _schedule(shifted: bool) -> dict[str, Any]:
    """FLUX's line of mu over the tokens, in diffusers' words; not shifted, there is none."""
    line = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256}
    line |= {"max_image_seq_len": 4096, "shift": 3.0 if shifted else 1.0}
    kind = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    return kind | line | {"use_dynamic_shifting": shifted}


def _model_index(edits: bool) -> dict[str, Any]:
    return {
        "_class_name": "FluxKontextPipeline" if edits else "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
