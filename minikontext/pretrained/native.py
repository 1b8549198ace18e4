"""Weights folders in our own layout: finding one, and building its parts.

A folder has config.json and one safetensors file a part; `layouts` knows the others. Editors of
one family have the same autoencoder: config.json may name the folder beside it that has the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.editing.defaults import Defaults
from minikontext.errors import WeightsError, shorten_list
from minikontext.pretrained import PARTS, file_kinds, purpose
from minikontext.runtime import files
from minikontext.runtime.config import (
    build_config,
    fits_type,
    read_json,
    read_json_if_there,
    require_format,
    write_json,
)
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.transformer import KontextTransformer, TransformerConfig

FORMAT, FORMAT_VERSION = "minikontext", 1
ENTRIES = {"format", "format_version", "name", *PARTS, "defaults", "safety", "shares"}


def home() -> Path:
    """Where the shipped weights are; MINIKONTEXT_WEIGHTS names another place."""
    return Path(os.environ.get("MINIKONTEXT_WEIGHTS") or files.shipped("data", "weights"))


def find_weights(name: str | Path) -> Path:
    """Find a weights folder: a path, or a name in MINIKONTEXT_WEIGHTS or in data/weights.

    Raises WeightsError that lists the names there are.
    """
    places = [p for p in (Path(name), home() / name) if files.exists(p / "config.json")]
    own = [folder for folder in places if own_config(folder)]  # others have such a file, too
    if own:
        if own[0] == Path(name):
            files.tell_if_hidden(name, home())
        return own[0]
    if places:  # of ours in another version, or of somebody else: say which
        read_config(places[0])
    if files.exists(name):
        raise WeightsError(
            f"{str(name)[:200]!r} is a file of which it is not known what it holds: its name ends "
            f"in none of {', '.join(file_kinds.SUFFIXES)}. Rename it if it is of such a kind."
        )
    known = sorted(path.parent.name for path in home().glob("*/config.json"))
    raise WeightsError(
        f"No weights called {str(name)[:200]!r}: no config.json in that folder or in {home()}. "
        f"Known names: {', '.join(known) or 'none'}.{_aside(Path(name))} "
        "Set MINIKONTEXT_WEIGHTS to another home. "
        "Nothing is downloaded: of a model on a hub, download the folder and give its path."
    )


def named(place: str | Path) -> Path:
    """A place as it is; or, where nothing is there, the shipped weights of that name, if any.

    That a folder hides them is told.
    """
    shipped = home() / place
    files.tell_if_hidden(place, home())
    return shipped if not os.path.lexists(place) and own_config(shipped) else Path(place)


def _aside(path: Path) -> str:
    """What is to be said if a save was killed while it exchanged the folder."""
    if not path.name:
        return ""
    aside = files.set_aside_name(path)
    return f" A save was killed: {aside} is what was there." if files.is_folder(aside) else ""


def own_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder that `save_pretrained` wrote in our own layout, else empty."""
    if files.exists(folder / "model_index.json"):  # of diffusers: config.json is none of ours
        return {}
    config = read_json_if_there(folder / "config.json")
    return config if config.get("format") == FORMAT else {}


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check config.json. Raises WeightsError for another format or a newer version."""
    path = folder / "config.json"
    config = read_json(path, WeightsError)
    require_format(config, path, (FORMAT, FORMAT_VERSION))
    if missing := [part for part in PARTS if not isinstance(config.get(part), dict)]:
        raise WeightsError(f"{path} lacks the parts {', '.join(missing)}. Restore the file.")
    if odd := sorted(config.keys() - ENTRIES):  # a misspelt "safety" would be none
        raise WeightsError(f"{path} has {shorten_list(odd)}, which is nothing of ours. Expected "
                           f"{', '.join(sorted(ENTRIES))}. Restore the file.")  # fmt: skip
    if not fits_type(config.get("name"), str | None):
        raise WeightsError(f"{path} has name = {config['name']!r:.80}; expected text.")
    return config


def part_file(folder: Path, part: str, config: dict[str, Any]) -> Path:
    """Where the tensors of a part are: in the folder, or in another that it shares them with.

    `"shares": {"autoencoder": {"with": "toy", "fingerprint": …}}` in config.json names a folder
    beside this one, or shipped weights. Its file has to be the same one, to the byte.
    Raises WeightsError if it is another, if it is nowhere, and for a name that is a path.
    """
    shares = config.get("shares", {})
    if isinstance(shares, dict) and part not in shares:
        return folder / f"{part}.safetensors"
    match shares[part] if isinstance(shares, dict) else shares:
        case {"with": str(name), "fingerprint": str(mark)} if re.fullmatch(r"\w[\w.-]{0,99}", name):
            places = [place / name / f"{part}.safetensors" for place in (folder.parent, home())]
        case other:
            raise WeightsError(
                f"{folder / 'config.json'} shares {part} with {other!r:.80}; expected the name of "
                "another folder beside it, and its file's fingerprint."
            )
    there = [place for place in places if files.exists(place)]
    found = next((place for place in there if files.fingerprint([place]) == mark), None)
    if found is None:
        what = "is another file than when it was saved" if there else "is not there"
        raise WeightsError(
            f"{folder} shares its {part} with {name!r}, and {(there or places)[0]} {what}. Get "
            "both folders again, or save the weights whole with save_pretrained where they load."
        )
    return found


def share(folder: Path, part: str, name: str) -> None:
    """Let a folder use the same part of the folder `name` beside it, and drop its own copy.

    Raises WeightsError if the two files are not the same, or one and the same.
    """
    own = folder / f"{part}.safetensors"
    config, mark = read_config(folder), files.fingerprint([own])
    config["shares"] = config.get("shares", {}) | {part: {"with": name, "fingerprint": mark}}
    if own.resolve() == part_file(folder, part, config).resolve():
        raise WeightsError(f"{name!r} has no {part} but that of {folder}, which would be lost.")
    write_json(folder / "config.json", config)
    own.unlink()


def build_parts(config: dict[str, Any]) -> dict[str, nn.Module]:
    """Build the three parts on the meta device: checked against the files before memory is used."""
    with torch.device("meta"):
        return {
            "transformer": KontextTransformer(from_dict(TransformerConfig, config["transformer"])),
            "autoencoder": AutoEncoder(autoencoder_sizes(config["autoencoder"])),
            "text_encoder": ToyTextEncoder(from_dict(ToyTextConfig, config["text_encoder"])),
        }


def sketch(folder: Path) -> tuple[dict[str, Any], dict[str, nn.Module], dict[str, Path]]:
    """A folder's config.json, its parts without numbers, and their files; no tensor is read.

    Raises WeightsError for a config.json that makes no sense, and for parts that do not fit each
    other or are nowhere.
    """
    config = read_config(folder)
    modules = build_parts(config)
    text = modules["text_encoder"].config
    purpose.require_fit(
        folder, modules["transformer"].config, modules["autoencoder"].config,
        text.width, text.pooled,
    )  # fmt: skip
    from_dict(Defaults, config.get("defaults", {}))
    stored = {part: part_file(folder, part, config) for part in PARTS}
    if missing := [path.name for path in stored.values() if not files.exists(path)]:
        raise WeightsError(f"{folder} lacks {shorten_list(missing)}. Restore what is missing.")
    return config, modules, stored


MOST_LEVELS = 16  # of an autoencoder; each halves the sides


def autoencoder_sizes(values: dict[str, Any]) -> AutoEncoderConfig:
    """An autoencoder's config from JSON. Raises WeightsError, for more levels than sides, too."""
    levels = values.get("ch_mult", ())
    if isinstance(levels, list) and len(levels) > MOST_LEVELS:
        raise WeightsError(f"ch_mult has {len(levels)} entries; expected at most {MOST_LEVELS}.")
    return from_dict(AutoEncoderConfig, values)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Build a config from JSON. Raises WeightsError for fields that make no sense."""
    return build_config(kind, values, error=WeightsError)
