"""From a config file to weights: `main` reads it, checks it, and starts what its kind names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minikontext.training import parallel, recipes, runs
from minikontext.training.jobs import Job, read_job
from minikontext.training.sources import check_source

Train = Callable[..., Path]

TRAIN: dict[str, Train] = {
    "editor": recipes.train_editor, "folder": recipes.train_folder, "lora": recipes.train_lora,
    "safety": recipes.train_safety, "world_autoencoder": recipes.train_world_autoencoder,
    "world_editor": recipes.train_world_editor, "world_imitation": recipes.train_world_imitation,
    "world_words": recipes.train_world_words,
}  # fmt: skip


def main(path: str | Path, resume: bool = True) -> Path:
    """Run the training that a config describes; returns what it wrote: a folder, or a LoRA file.

    Under torchrun, each of its processes calls this. resume: False sets aside what is there.

    Raises ConfigError for a config that does not fit, TrainingError when training goes wrong.
    """
    try:
        return run_job(read_job(path), resume)
    finally:
        parallel.stop()


def run_job(
    job: Job, resume: bool = True, on_log: Callable[[dict[str, Any]], None] | None = None,
    train: Mapping[str, Train] = TRAIN,
) -> Path:  # fmt: skip
    """Train as a job says, in its run's folder; returns what it wrote.

    on_log: gets each line of the log. train: kind -> function of job, processes and on_log.
    """
    runs.check_places(job)
    data = getattr(job, "data", None)
    for source in filter(None, (getattr(data, "source", None), _folder(data))):
        check_source(source, data)
    world = parallel.start(job.device, job.parallel)
    with runs.opened(job, world, resume):
        runs.require_same_config(job)
        return train[job.kind](job, world, on_log)


def _folder(data: object) -> str | None:
    """The validation folder of a [data] section, whose `validation` may be a number elsewhere."""
    validation = getattr(data, "validation", None)
    return validation if isinstance(validation, str) else None
