"""The lineage's trainings, from a config file to a weights folder: all sizes, schedules by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minikontext.errors import ConfigError
from minikontext.toyworld import several, vocabulary
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.pictures import PictureTraining, normalised, picture_loss
from minikontext.training.recipes import (
    averaged,
    export,
    find_autoencoder,
    first_autoencoder,
    first_weights,
    load_autoencoder,
    new_editor,
    prepare,
    read,
    save_autoencoder,
    start,
)
from minikontext.training.stream import Stream, StreamConfig
from minikontext.training.world_editor import WorldEditorTraining, world_editor_loss


def by_step(config: dict[str, Any]) -> LoopConfig:
    """The loop of a config. Raises ConfigError for a schedule that follows the clock."""
    how = read(LoopConfig, config["loop"])
    if how.minutes:
        raise ConfigError("[loop] minutes: the lineage's schedules go by step, give steps only")
    return how


def train_world_autoencoder(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Train the autoencoder on pictures of all sizes; writes its weights and `config.json`."""
    world = start(config)
    if world.size > 1:
        raise ConfigError("an autoencoder is small: train it in one process, without torchrun")
    dials = read(PictureTraining, config.get("training", {}))
    torch.manual_seed(int(config.get("seed", 0)))
    model = first_autoencoder(config, world.device)
    loop = Loop(model, by_step(config), config["run"])
    if resume:
        loop.resume()
    loop.run(picture_loss(model, dials, world.device), on_log)
    averaged(loop, model)
    model.config = normalised(model, dials)
    return save_autoencoder(model.eval(), Path(config["output"]))


def train_world_editor(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Train text encoder and transformer on the stream of all sizes; writes a weights folder."""
    world = start(config)
    autoencoder = load_autoencoder(find_autoencoder(config), world.device)
    dials = read(WorldEditorTraining, config.get("training", {}))
    drawn = read(StreamConfig, config["stream"])
    folder = Path(config["run"]) / "stream" if drawn.batches else None
    stream = Stream(drawn, autoencoder, folder, dials.bf16)
    model, how = new_editor(with_words(config)), by_step(config)
    model.layout = dials.layout
    prepare(model, world, dials.bf16, first_weights(config))
    loop = Loop(model, how, config["run"], world)
    if resume:
        loop.resume()
    loop.run(world_editor_loss(model, stream, model.text, dials, world.device), on_log)
    return export(averaged(loop, model), autoencoder, with_trained(config, drawn, dials), world)


def with_words(config: dict[str, Any]) -> dict[str, Any]:
    """The config whose [text] knows every word of the stream, unless it names its own."""
    known = {"vocabulary": sorted({*vocabulary(), *several.words()})}
    return config | {"text": known | config.get("text", {})}


def with_trained(
    config: dict[str, Any], drawn: StreamConfig, dials: WorldEditorTraining
) -> dict[str, Any]:
    """The config whose [defaults] say what was trained: sizes, number of contexts, mu, layout."""
    most = max(Stream.context_counts(drawn.level))
    trained = {"sizes": drawn.sizes, "mu_16": dials.mu_16, "max_contexts": most}
    trained["context_layout"] = dials.layout
    return config | {"defaults": trained | config.get("defaults", {})}
