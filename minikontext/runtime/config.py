"""Dataclasses from the values of a JSON or TOML file, which may hold anything.

A value must have the type that its field declares and lie within bounds: a file that asks for a
billion layers is refused before the first is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from minikontext.errors import ConfigError, MinikontextError, WeightsError
from minikontext.runtime import files


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_json_if_there(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return read_json(path, WeightsError, "Download it again.") if files.exists(path) else {}


WIDE, MANY = 2**18, 512  # FLUX.1 has matrices of 15 360 and 19 + 38 blocks

# What a field of this name may be, in any file. An entry of a tuple counts like a number.
BOUNDS: dict[str, tuple[float, float]] = {
    # models
    "in_channels": (1, WIDE),
    "out_channels": (1, WIDE),
    "vec_in_dim": (1, WIDE),
    "context_in_dim": (1, WIDE),
    "hidden_size": (1, WIDE),
    "mlp_ratio": (1e-3, 64),
    "num_heads": (1, WIDE),
    "depth": (0, MANY),
    "depth_single_blocks": (0, MANY),
    "axes_dim": (2, WIDE),
    "theta": (1, 2**40),
    "resolution": (1, WIDE),
    "ch": (1, WIDE),
    "out_ch": (1, WIDE),
    "ch_mult": (1, 64),
    "num_res_blocks": (1, 64),
    "z_channels": (1, WIDE),
    "scale_factor": (1e-6, 1e6),
    "shift_factor": (-1e6, 1e6),
    "norm_groups": (1, WIDE),
    "max_length": (1, 2**14),
    "width": (1, 2**14),
    "heads": (1, WIDE),
    "pooled": (1, WIDE),
    # calls
    "num_inference_steps": (1, 1_000_000),
    "guidance_scale": (0, 10_000),
    "true_cfg_scale": (0, 10_000),
    "height": (1, 2**14),
    "multiple": (1, 1024),
    "max_contexts": (0, 64),
    "min_contexts": (0, 64),
    "sizes": (1, WIDE),
    # trainings
    "steps": (1, 2**40),
    "batch": (1, 2**24),
    "seed": (-(2**40), 2**40),
    "accumulate": (1, 2**20),
    "replicate": (1, 2**20),
    "workers": (1, 1024),
    "log_every": (1, 2**40),
    "save_every": (0, 2**40),
    "validate_every": (0, 2**40),
    "warmup": (0, 2**40),
    "empty_prompts": (0, 1),
    "ema": (0, 1),
    "decay": (0, 1),
    "sign_share": (0, 1),
    "fine_share": (0, 1),
    "answers_share": (0, 1),
    "shares": (0, 1),
    "final": (0, 1),
}


def build_config(
    kind: type,
    values: Mapping[str, Any],
    base: Any = None,
    error: type[MinikontextError] = ConfigError,
) -> Any:
    """A dataclass of a file's values, on top of `base` if there is one.

    Raises `error` for fields that are unknown, missing, of another type or out of bounds.
    """
    if not isinstance(values, Mapping):
        raise error(f"{values!r:.80} does not fit {kind.__name__}: expected a table")
    try:
        _check(kind, values)
        return replace(base, **values) if base is not None else kind(**values)
    except (TypeError, ConfigError) as problem:
        raise error(f"A section does not fit {kind.__name__}: {problem}") from problem


def make_config(kind: type, **values: Any) -> Any:
    """`build_config` with the values as arguments. Raises ConfigError."""
    return build_config(kind, values)


def require_entries(values: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> None:
    """Check that a table of a config has entries of certain types.

    wanted: a type, or a union with None for an entry that may be left out. Raises ConfigError.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}got {values!r:.80}; expected a table")
    for name, hint in wanted.items():
        if not fits_type(values.get(name), hint):
            got = f"got {name} = {values[name]!r:.80}" if name in values else f"{name} is missing"
            raise ConfigError(f"{where}{got}; expected {_said(hint)}")


def fits_type(value: object, hint: Any) -> bool:
    """Whether a JSON or TOML value is what a type says; a list fits a tuple, an int a float."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits_type(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and _fits_tuple(value, inner)
    if origin is dict:
        return isinstance(value, dict) and all(fits_type(one, inner[1]) for one in value.values())
    if hint in (int, float):
        return _is_number(value, hint)
    return isinstance(value, hint)


def require_format(config: dict[str, Any], path: Path, expected: tuple[str, int]) -> None:
    """Raise WeightsError for a config.json of another format or a newer version."""
    found = (config.get("format"), config.get("format_version"))
    if found != expected:
        raise WeightsError(f"{path} says format and version {found}; expected {expected}.")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError for any that cannot be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path, error: type[MinikontextError], what: str = "Restore the file.") -> dict:
    """A file's JSON object. Raises `error` for a file that cannot be read or holds something else.

    what: what the user can do about it.
    """
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise error(f"Cannot read {path}: {problem}. {what}") from problem
    if not isinstance(found, dict):
        raise error(f"{path} holds no JSON object, but one was expected. {what}")
    return found


def _check(kind: type, values: Mapping[str, Any]) -> None:
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"there is no {name!r:.80}; choose from {', '.join(sorted(known))}")
        if not fits_type(value, hints[name]):
            raise ConfigError(f"got {name} = {value!r:.80}; expected {_said(hints[name])}")
        least, most = BOUNDS.get(name, (-math.inf, math.inf))
        if not all(least <= number <= most for number in _numbers(value)):
            raise ConfigError(f"got {name} = {value!r:.80}; expected {least} to {most}")


def _fits_tuple(value: list | tuple, inner: tuple) -> bool:
    if inner[-1] is Ellipsis:
        return all(fits_type(one, inner[0]) for one in value)
    return len(value) == len(inner) and all(map(fits_type, value, inner))


def _is_number(value: object, hint: type) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) < 2**63
    return hint is float and isinstance(value, float) and math.isfinite(value)


def _numbers(value: object) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _said(hint: Any) -> str:
    """A type in words that fit a file."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_said(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is tuple:
        return f"a list of {_said(get_args(hint)[0])}"
    return _WORDS.get(get_origin(hint) or hint, str(hint))


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_WORDS |= {dict: "a table"}
