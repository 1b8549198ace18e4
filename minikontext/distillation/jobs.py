"""The distillations' jobs: what their configs may say. See `training.jobs`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minikontext.distillation.guidance import GuidanceLossConfig
from minikontext.distillation.ladd import LaddLossConfig
from minikontext.distillation.latents import TeacherSamplesConfig
from minikontext.distillation.rollout import RolloutLossConfig
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Scale, Share
from minikontext.runtime.config import build_config
from minikontext.training.jobs import Job, Values, WorldJob, stream_defaults
from minikontext.training.stream import Stream, StreamConfig
from minikontext.transformer import Depth


@dataclass(frozen=True)
class Start:
    """[start]: weights of a student to start from, and the guidance scale that LADD holds it at."""

    weights: str
    scale: Scale | None = None


@dataclass(frozen=True, kw_only=True)
class DistillJob(WorldJob):
    """A distillation on the lineage's stream. teacher: a weights folder or a shipped name.

    blend: how far the weights that are written lie on the way from where the student started to
    what it learned; at 0.5, half-way (WiSE-FT, arXiv 2109.01903).
    """

    teacher: str
    stream: StreamConfig
    training: Any
    blend: Share = 1.0
    name: str | None = None
    defaults: Defaults = field(default_factory=Defaults)

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """[defaults] are what the stream trains; few-step times are shifted as they are trained."""
        dials = values.get("training", {})
        mu_16 = dials.get("mu_16") if isinstance(dials, dict) else None
        stream = build_config(StreamConfig, values.get("stream", {}))
        return {"defaults": stream_defaults(stream, mu_16=mu_16, shifted=mu_16 is not None)}


@dataclass(frozen=True, kw_only=True)
class GuidanceJob(DistillJob):
    """`kind = "guidance"`, of edits alone. start: a student of this kind to go on with."""

    training: GuidanceLossConfig = field(default_factory=GuidanceLossConfig)
    start: Start | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 in Stream.context_counts(self.stream.level, self.stream.contexts):
            raise ConfigError("[stream] contexts: say [1, 2], without 0: this is of edits alone")

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The student samples in many steps, at shifted times."""
        stream = build_config(StreamConfig, values.get("stream", {}))
        dials = build_config(GuidanceLossConfig, values.get("training", {}))
        return {"defaults": stream_defaults(stream, mu_16=dials.mu_16)}


@dataclass(frozen=True, kw_only=True)
class LaddJob(DistillJob):
    """`kind = "ladd"`."""

    training: LaddLossConfig = field(default_factory=LaddLossConfig)
    start: Start | None = None
    teacher_samples: TeacherSamplesConfig = field(default_factory=TeacherSamplesConfig)


@dataclass(frozen=True, kw_only=True)
class RolloutJob(DistillJob):
    """`kind = "rollout"`; the student starts as `teacher`, and may grow to more `single_blocks`."""

    training: RolloutLossConfig = field(default_factory=RolloutLossConfig)
    single_blocks: Depth | None = None


JOBS: dict[str, type[Job]] = {"guidance": GuidanceJob, "ladd": LaddJob, "rollout": RolloutJob}
