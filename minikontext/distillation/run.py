"""From a config file to a student's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minikontext.distillation import recipes
from minikontext.distillation.jobs import JOBS, DistillJob
from minikontext.errors import ConfigError
from minikontext.training import jobs, parallel
from minikontext.training import run as training

DISTIL: dict[str, Callable[..., Path]] = {
    "guidance": recipes.distill_guidance,
    "ladd": recipes.distill_ladd,
    "rollout": recipes.distill_rollout,
}


def main(kind: str, path: str | Path, resume: bool = True) -> Path:
    """Run the distillation that a config describes; returns the weights folder it wrote.

    Raises ConfigError for a config of another kind, TrainingError when training goes wrong.
    """
    found = jobs.read_config(path, tuple(JOBS))["kind"]
    if found != kind:
        raise ConfigError(f"{path} describes {found}; run distill {found}")
    try:
        return run_job(jobs.read_job(path, JOBS), resume)
    finally:
        parallel.stop()


def build_job(values: Mapping[str, Any], where: str = "") -> DistillJob:
    """The job of a config's values, checked whole. Raises ConfigError."""
    return jobs.build_job(values, where, JOBS)


def run_job(
    job: DistillJob, resume: bool = True, on_log: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """Distil as a job says, in its run's folder; returns the weights folder it wrote."""
    return training.run_job(job, resume, on_log, DISTIL)
