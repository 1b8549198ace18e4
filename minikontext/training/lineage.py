"""The lineage's trainings, from a config file to a weights folder: all sizes, schedules by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from minikontext.errors import ConfigError
from minikontext.training.jobs import WorldAutoEncoderJob, WorldEditorJob
from minikontext.training.loop import Loop
from minikontext.training.models import (
    averaged,
    export,
    find_autoencoder,
    first_autoencoder,
    first_weights,
    load_autoencoder,
    new_editor,
    save_autoencoder,
)
from minikontext.training.parallel import DistContext, prepare
from minikontext.training.pictures import normalised, picture_loss
from minikontext.training.runs import made_from
from minikontext.training.stream import Inputs, Stream
from minikontext.training.world_editor import world_editor_loss


def train_world_autoencoder(
    job: WorldAutoEncoderJob, world: DistContext, on_log: Callable | None = None
) -> Path:
    """Train the autoencoder on pictures of all sizes; writes its weights and `config.json`."""
    if world.size > 1:
        raise ConfigError("an autoencoder is small: train it in one process, without torchrun")
    dials = job.training
    torch.manual_seed(job.seed)
    model = first_autoencoder(job, world.device)
    origin = made_from(job, base=model.encoder_fingerprint()[:12] if job.start else "")
    loop = Loop(model, job.loop, job.run, made_from=origin)
    loop.resume()
    loop.run(picture_loss(model, dials, world.device), on_log)
    averaged(loop, model)
    model.config = normalised(model, dials)
    return save_autoencoder(model.eval(), Path(job.output))


def train_world_editor(
    job: WorldEditorJob, world: DistContext, on_log: Callable | None = None
) -> Path:
    """Train text encoder and transformer on the stream of all sizes; writes a weights folder."""
    autoencoder = load_autoencoder(find_autoencoder(job.autoencoder), world.device)
    dials, drawn = job.training, job.stream
    folder = job.folder / "stream" if drawn.batches else None
    stream = Stream(drawn, autoencoder, folder, dials.bf16)
    model = new_editor(job.transformer, job.text, job.seed, job.start)
    model.layout, model.isolated = dials.layout, dials.isolated
    if dials.isolated and world.size > 1:
        raise ConfigError("[training] isolated: in one process only, start it without torchrun")
    prepare(model, world, dials.bf16, first_weights(job.seed))
    origin = made_from(job, base=autoencoder.encoder_fingerprint()[:12])
    loop = Loop(model, job.loop, job.run, world, made_from=origin)
    loop.resume()
    loop.run(world_editor_loss(model, Inputs(stream, model.text), dials, world.device), on_log)
    return export(averaged(loop, model), autoencoder, job, world)
