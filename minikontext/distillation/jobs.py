"""The distillations' jobs: what their configs may say. See `training.jobs`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minikontext.distillation.guidance import GuidanceLossConfig
from minikontext.distillation.ladd import LaddLossConfig
from minikontext.distillation.rollout import RolloutLossConfig
from minikontext.editing.defaults import Defaults
from minikontext.runtime.bounds import Scale, Steps
from minikontext.training.jobs import Job, ToyData


@dataclass(frozen=True)
class Start:
    """[start]: weights of a student to start from, and the guidance scale that LADD holds it at."""

    weights: str
    scale: Scale | None = None


@dataclass(frozen=True)
class TeacherSamplesConfig:
    """[teacher_samples]: how the teacher makes what LADD calls real."""

    steps: Steps = 28
    scale: Scale = 1.0


@dataclass(frozen=True, kw_only=True)
class DistillJob(Job):
    """A distillation. teacher: a weights folder or a shipped name."""

    teacher: str
    data: ToyData
    training: Any
    name: str | None = None
    defaults: Defaults = field(default_factory=Defaults)


@dataclass(frozen=True, kw_only=True)
class GuidanceJob(DistillJob):
    """`kind = "guidance"`."""

    training: GuidanceLossConfig = field(default_factory=GuidanceLossConfig)
    start: Start | None = None


@dataclass(frozen=True, kw_only=True)
class LaddJob(DistillJob):
    """`kind = "ladd"`. autoencoder: weights whose decoder the student gets."""

    training: LaddLossConfig = field(default_factory=LaddLossConfig)
    start: Start | None = None
    teacher_samples: TeacherSamplesConfig = field(default_factory=TeacherSamplesConfig)
    autoencoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutJob(DistillJob):
    """`kind = "rollout"`. autoencoder: weights whose decoder the student gets."""

    training: RolloutLossConfig = field(default_factory=RolloutLossConfig)
    autoencoder: str | None = None


JOBS: dict[str, type[Job]] = {"guidance": GuidanceJob, "ladd": LaddJob, "rollout": RolloutJob}
