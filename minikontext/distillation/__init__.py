"""Distillation from a config file: `minikontext distill ladd configs/toy_pro.toml`."""

from __future__ import annotations

from pathlib import Path

from minikontext.errors import ConfigError

KINDS = ("guidance", "ladd", "rollout")


def main(kind: str, path: str | Path, resume: bool = True) -> Path:
    """Run the distillation that a config describes; returns the weights folder it wrote.

    Raises ConfigError for a config of another kind, TrainingError when training goes wrong.
    """
    from minikontext.distillation import recipes
    from minikontext.training import check_entries, parallel, read_config

    config = read_config(path, KINDS)
    if config["kind"] != kind:
        raise ConfigError(f"{path} describes {config['kind']}; run distill {config['kind']}")
    check_entries(config, f"{path}: ")
    try:
        return getattr(recipes, f"distill_{kind}")(config, resume=resume)
    finally:
        parallel.stop()
