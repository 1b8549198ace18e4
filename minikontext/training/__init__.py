"""Training from a config file: `minikontext train configs/toy.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minikontext.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


KINDS = ("autoencoder", "editor", "folder", "lora", "safety")


def read_config(path: str | Path, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """A training config as nested dicts. Raises ConfigError for a file that is none."""
    path = Path(path)
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a training config: {error}") from error
    if config.get("kind") not in kinds:
        expected = " or ".join(kinds)
        raise ConfigError(f"{path}: kind = {config.get('kind')!r}; expected {expected}")
    return config


def main(path: str | Path, resume: bool = True) -> Path:
    """Run the training that a config describes; returns the weights folder it wrote.

    Under torchrun, each of its processes calls this.

    Raises ConfigError for a config that does not fit, TrainingError when training goes wrong.
    """
    from minikontext.training import parallel, recipes, safety

    config = read_config(path)
    home = safety if config["kind"] == "safety" else recipes
    try:
        return getattr(home, f"train_{config['kind']}")(config, resume=resume)
    finally:
        parallel.stop()
