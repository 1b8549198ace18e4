"""Training from a config file: `minikontext train configs/toy.toml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minikontext.errors import ConfigError
from minikontext.runtime.config import require_entries

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


PLACES = {"run": str, "output": str, "loop": dict}
CASES = {"level": int, "count": int, "seed": int | None, "practise": tuple[str, ...] | None}
CASES |= {"validation": int | None, "tries": int | None, "chains": dict | None}
CASES |= {"folder": str | None}
FOLDER = {"source": str, "validation": str | None, "side": int | None}
FOLDER |= {"contexts": int | None, "text_tokens": int | None}

# What a config of a kind must have beside sections with a dataclass of their own; None: may have.
ENTRIES: dict[str, dict[str, Any]] = {
    "autoencoder": PLACES | {"autoencoder": dict | None, "start": str | None},
    "editor": PLACES | {"autoencoder": str, "data": dict, "start": str | None},
    "world_autoencoder": PLACES | {"autoencoder": dict | None, "start": str | None},
    "world_editor": PLACES | {"autoencoder": str, "stream": dict, "start": str | None},
    "folder": PLACES | {"parts": str, "data": dict, "start": str | None},
    "lora": PLACES | {"parts": str, "data": dict},
    "guidance": PLACES | {"teacher": str, "data": dict, "start": dict | None},
    "ladd": PLACES
    | {"teacher": str, "data": dict, "start": dict | None, "autoencoder": str | None},
    "rollout": PLACES | {"teacher": str, "data": dict, "autoencoder": str | None},
}
COMMON = dict.fromkeys(("training", "transformer", "text", "defaults", "parallel"), dict | None)
COMMON |= {"name": str | None, "seed": int | None, "device": str | None, "peak": float | None}
COMMON |= {"answers": dict | None, "lora": dict | None, "offload": str | None, "dtype": str | None}

KINDS = ("autoencoder", "editor", "folder", "lora", "safety", "world_autoencoder", "world_editor")


def read_config(path: str | Path, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """A training config as nested dicts. Raises ConfigError for a file that is none."""
    path = Path(path)
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # brackets in brackets without end
        raise ConfigError(f"{path} cannot be read as a training config: {error}") from error
    if config.get("kind") not in kinds:
        expected = " or ".join(kinds)
        raise ConfigError(f"{path}: kind = {config.get('kind')!r:.80}; expected {expected}")
    return config


def check_entries(config: Mapping[str, Any], where: str = "") -> None:
    """Check that a config has what its kind needs, before anything is loaded. Raises ConfigError.

    Sections that become a dataclass are checked entry by entry when they do.
    """
    kind = config["kind"]
    if kind not in ENTRIES:
        return
    require_entries(config, COMMON | ENTRIES[kind], where)
    if "data" in ENTRIES[kind]:
        wanted = FOLDER if kind in ("folder", "lora") else CASES
        require_entries(config["data"], wanted, f"{where}[data] ")
        for name, (least, most) in SIZES.items():
            got = config["data"].get(name)
            if isinstance(got, int) and not least <= got <= most:  # a folder is no number
                raise ConfigError(f"{where}[data] got {name} = {got}; expected {least} to {most}")


SIZES = {"level": (1, 4), "count": (1, 2**40), "side": (16, 2**14), "contexts": (0, 64)}
SIZES |= {"text_tokens": (1, 2**14), "validation": (1, 2**20), "tries": (0, 2**20)}


def main(path: str | Path, resume: bool = True) -> Path:
    """Run the training that a config describes; returns the weights folder it wrote.

    Under torchrun, each of its processes calls this.

    Raises ConfigError for a config that does not fit, TrainingError when training goes wrong.
    """
    from minikontext.training import lineage, parallel, recipes, safety

    config = read_config(path)
    check_entries(config, f"{path}: ")
    homes = {"safety": safety, "world_autoencoder": lineage, "world_editor": lineage}
    home = homes.get(config["kind"], recipes)
    try:
        return getattr(home, f"train_{config['kind']}")(config, resume=resume)
    finally:
        parallel.stop()
