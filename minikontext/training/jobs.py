"""A config file as a typed job: parsed once, at the door, and checked whole before any work.

`read_job("configs/toy.toml")` is an `EditorJob`; what a kind may say stands in its class. Unknown
sections and keys are refused with the nearest known one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional, get_args, get_type_hints

from annotated_types import Interval

from minikontext.autoencoder import AutoEncoderConfig
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError, WeightsError
from minikontext.pretrained.lora import BLOCKS
from minikontext.pretrained.lora_files import check_pattern
from minikontext.runtime import files, memory_plan
from minikontext.runtime.bounds import Count, Level, Seed
from minikontext.runtime.config import Preset, build_config, check_sections
from minikontext.runtime.device import parse_dtype
from minikontext.safety.clip import ClipConfig
from minikontext.text import ToyTextConfig
from minikontext.toyworld import vocabulary
from minikontext.toyworld.attacks import Mix
from minikontext.training.editor import EditorLossConfig
from minikontext.training.folders import FolderLossConfig
from minikontext.training.loop import LoopConfig
from minikontext.training.parallel import ParallelConfig
from minikontext.training.pictures import PictureTraining
from minikontext.training.reading import Reading
from minikontext.training.safety import SafetyLossConfig
from minikontext.training.stream import WORDS, Stream, StreamConfig
from minikontext.training.words import WordsTraining
from minikontext.training.world_editor import WorldEditorTraining
from minikontext.transformer import TransformerConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Preset(TransformerConfig, ("toy", "flux_dev", "flux_schnell"), "toy")
Values = Mapping[str, Any]


# ------------------------------------------------------------------------------------ sections


@dataclass(frozen=True)
class ToyData:
    """[data] of a training on the toy world.

    level, count, seed: which cases, and how many. folder: where the encoded pairs are kept, for
    several trainings; else in the run's.
    validation, tries: held-out cases for the loss, and to be edited, with `validate_every`.
    mix: attacks on the forbidden concept.
    """

    level: Level
    count: Count
    seed: Seed = 0
    folder: str | None = None
    validation: Annotated[int, Interval(ge=1, le=2**20)] = 64
    tries: Annotated[int, Interval(ge=0, le=2**20)] = 0
    mix: Mix | None = None


@dataclass(frozen=True, kw_only=True)
class FolderData(Reading):
    """[data] of a training on your own pictures, with what `sources.Reading` says of them.

    source, validation: folders of triplets. side: pictures have about side × side pixels.
    repeats: beginnings of samples' names -> how often an epoch shows them, "" for all others.
    tries: so many samples, of validation if there is one, are made with `validate_every` and shown
    in the run's folder. contexts, text_tokens: what a plan counts with.
    """

    source: str
    validation: str | None = None
    repeats: dict[str, Annotated[int, Interval(ge=1, le=1000)]] = field(default_factory=dict)
    tries: Annotated[int, Interval(ge=0, le=256)] = 0
    side: Annotated[int, Interval(ge=16, le=2**14)] = 1024
    contexts: Annotated[int, Interval(ge=0, le=64)] = 1
    text_tokens: Annotated[int, Interval(ge=1, le=2**14)] = 512


@dataclass(frozen=True)
class LoraSection:
    """[lora]: rank, alpha, and a regular expression over official layer names.

    alpha: updates are multiplied by alpha / rank; by 1 without it. The file holds the product, so
    whoever opens it need not know alpha. keep: with `validate_every`, write the LoRA as it is then,
    to the folder `loras` of the run.
    """

    rank: Annotated[int, Interval(ge=1, le=2**14)] = 8
    layers: str = BLOCKS
    alpha: Annotated[float, Interval(ge=1e-3, le=2**20)] | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        try:
            check_pattern(self.layers)
        except WeightsError as error:
            raise ConfigError(f"layers: {error}") from error

    @property
    def factor(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


# ---------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every config says.

    run: the folder of checkpoints, log and encoded data. output: where the result goes. seed: of
    first weights. device: "cpu", "cuda", "mps"; the best there is by default.
    """

    kind: str
    run: str
    output: str
    loop: LoopConfig
    seed: Seed = 0
    device: str | None = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    output_is_file: ClassVar[bool] = False
    in_parts: ClassVar[bool] = True  # whether the loss can be computed for some rows of a batch

    def __post_init__(self) -> None:
        if self.loop.accumulate > 1 and not self.in_parts:
            raise ConfigError(f"[loop] accumulate: kind = {self.kind!r} takes its batches whole")
        if self.loop.validate_every and not self.checked:
            raise ConfigError("[loop] validate_every: there is nothing to validate, see the section"
                              " [data] of the kinds editor, folder and lora")  # fmt: skip

    @property
    def checked(self) -> object:
        """What `validate_every` does, if anything."""
        return None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run)

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """Sections that change something: a `Preset`, or an instance."""
        return {}


@dataclass(frozen=True, kw_only=True)
class NetJob(Job):
    """A job that trains a transformer. peak: TFLOP/s of one device, for the log, if it is known."""

    name: str | None = None
    transformer: TransformerConfig = field(default_factory=TransformerConfig.toy)
    peak: Annotated[float, Interval(ge=0, le=1e6)] = 0.0

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The transformer's preset."""
        return {"transformer": PRESETS}


@dataclass(frozen=True, kw_only=True)
class EditorJob(NetJob):
    """`kind = "editor"`. autoencoder: a weights folder. safety: filters that the weights name."""

    autoencoder: str
    data: ToyData
    start: str | None = None
    text: ToyTextConfig = field(default_factory=ToyTextConfig)
    training: EditorLossConfig = field(default_factory=EditorLossConfig)
    defaults: Defaults = field(default_factory=Defaults)
    safety: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_every(self, self.data.tries)

    @property
    def checked(self) -> object:
        """Held-out cases."""
        return self.data.validation

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The text encoder is as wide as the transformer expects."""
        return super().bases(values, where) | {
            "text": fitting(values, where, ToyTextConfig(vocabulary()))
        }


@dataclass(frozen=True, kw_only=True)
class FolderJob(NetJob):
    """`kind = "folder"`. parts: weights whose autoencoder and text encoders are used."""

    parts: str
    data: FolderData
    start: str | None = None
    training: FolderLossConfig = field(default_factory=FolderLossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_every(self, self.checked)

    @property
    def checked(self) -> object:
        """A validation folder, or samples made on the way."""
        return self.data.validation or self.data.tries


def _require_every(job: Job, wanted: object) -> None:
    if wanted and not job.loop.validate_every:
        raise ConfigError(
            "a validation folder, tries and keep are used with validate_every in [loop], which is 0"
        )


@dataclass(frozen=True, kw_only=True)
class LoraJob(NetJob):
    """`kind = "lora"`. parts: the base. start: a LoRA file to go on from.

    dtype, offload: as `KontextPipeline.from_pretrained` takes them.
    """

    parts: str
    data: FolderData
    start: str | None = None
    lora: LoraSection = field(default_factory=LoraSection)
    training: FolderLossConfig = field(default_factory=FolderLossConfig)
    dtype: str | None = None
    offload: str | None = None

    output_is_file: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_every(self, self.checked)
        if self.dtype is not None:
            parse_dtype(self.dtype)
        if self.offload not in (None, *memory_plan.NAMES):
            raise ConfigError(f"offload = {self.offload!r}; use {', '.join(memory_plan.NAMES)}")

    @property
    def checked(self) -> object:
        """A validation folder, samples made on the way, or LoRA files."""
        return self.data.validation or self.data.tries or self.lora.keep


@dataclass(frozen=True, kw_only=True)
class SafetyJob(Job):
    """`kind = "safety"`. validation: pictures and prompts of each sort, for the thresholds."""

    autoencoder: str
    text: ToyTextConfig
    clip: ClipConfig
    training: SafetyLossConfig = field(default_factory=SafetyLossConfig)
    validation: Annotated[int, Interval(ge=1, le=2**20)] = 400

    in_parts: ClassVar[bool] = False

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The toy world's vocabulary."""
        text = ToyTextConfig(vocabulary=vocabulary(), width=96, pooled=128)
        return {"text": text, "clip": ClipConfig(text)}


@dataclass(frozen=True, kw_only=True)
class WorldJob(Job):
    """A job of the lineage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loop.minutes:
            raise ConfigError("[loop] minutes: the lineage's schedules go by step, give steps only")


@dataclass(frozen=True, kw_only=True)
class WorldAutoEncoderJob(WorldJob):
    """`kind = "world_autoencoder"`. start: a weights folder to go on from."""

    start: str | None = None
    autoencoder: AutoEncoderConfig = field(default_factory=AutoEncoderConfig.toy)
    training: PictureTraining = field(default_factory=PictureTraining)

    in_parts: ClassVar[bool] = False

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The toy's sizes."""
        return {"autoencoder": AutoEncoderConfig.toy()}


@dataclass(frozen=True, kw_only=True)
class WorldWordsJob(WorldJob):
    """`kind = "world_words"`: the text encoder alone, before any picture."""

    text: ToyTextConfig = field(default_factory=ToyTextConfig)
    training: WordsTraining = field(default_factory=WordsTraining)

    in_parts: ClassVar[bool] = False

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The grammar's vocabulary."""
        return {"text": WORDS["grammar"].encoder()}


@dataclass(frozen=True, kw_only=True)
class WorldImitationJob(WorldWordsJob):
    """`kind = "world_imitation"`: another text encoder for an editor that stays as it is.

    teacher: the editor, a weights folder or a shipped name. name: of the result.
    """

    teacher: str
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorldEditorJob(NetJob, WorldJob):
    """`kind = "world_editor"`. autoencoder: a weights folder.

    start: weights to go on from. words: a folder with a text encoder that is taken instead of that
    of `start`.
    """

    autoencoder: str
    stream: StreamConfig
    start: str | None = None
    words: str | None = None
    text: ToyTextConfig = field(default_factory=ToyTextConfig)
    training: WorldEditorTraining = field(default_factory=WorldEditorTraining)
    defaults: Defaults = field(default_factory=Defaults)
    safety: str | None = None

    @classmethod
    def bases(cls, values: Values, where: str) -> dict[str, Any]:
        """The text encoder knows every word of the stream; [defaults] are what was trained."""
        stream = build_config(StreamConfig, values.get("stream", {}))
        dials = build_config(WorldEditorTraining, values.get("training", {}))
        trained = stream_defaults(
            stream, mu_16=dials.mu_16, context_layout=dials.layout, isolated=dials.isolated
        )
        text = fitting(values, where, WORDS[stream.words].encoder())
        return super().bases(values, where) | {"text": text, "defaults": trained}


def fitting(values: Values, where: str, text: ToyTextConfig) -> ToyTextConfig:
    """A text encoder as wide as the transformer of a config expects."""
    section = {"transformer": values["transformer"]} if "transformer" in values else {}
    sizes = check_sections(section, {}, {"transformer": PRESETS}, where)["transformer"]
    return replace(text, width=sizes.context_in_dim, pooled=sizes.vec_in_dim)


def stream_defaults(stream: StreamConfig, **more: Any) -> Defaults:
    """What a call of weights uses that were trained on a stream."""
    counts = Stream.context_counts(stream.level, stream.contexts)
    return Defaults(
        sizes=tuple(dict.fromkeys(stream.sizes)),  # a stream may name one twice, to see more of it
        max_contexts=max(counts),
        min_contexts=min(counts),
        **more,
    )


JOBS: dict[str, type[Job]] = {
    "editor": EditorJob, "folder": FolderJob, "lora": LoraJob, "safety": SafetyJob,
    "world_autoencoder": WorldAutoEncoderJob, "world_editor": WorldEditorJob,
    "world_imitation": WorldImitationJob, "world_words": WorldWordsJob,
}  # fmt: skip


# ------------------------------------------------------------------------------------- reading


NOTES = ("about", "smoke")  # what `minikontext reproduce` reads of a config, and nobody else


def read_config(path: str | Path, kinds: Iterable[str] = tuple(JOBS)) -> dict[str, Any]:
    """A config file as nested dicts. Raises ConfigError for a file that is none."""
    path = Path(path)
    try:
        config = tomllib.loads(files.read_text(path))
        built_on = "'stage:" in repr(config)
    except (OSError, ValueError, RecursionError) as error:  # brackets in brackets without end
        raise ConfigError(f"{path} cannot be read as a training config: {error}") from error
    if config.get("kind") not in kinds:
        expected = " or ".join(kinds)
        raise ConfigError(f"{path}: kind = {config.get('kind')!r:.80}; expected {expected}")
    if built_on:
        raise ConfigError(
            f"{path} builds on other stages: run `minikontext reproduce {path.stem}`, which makes "
            "them first."
        )
    return {name: value for name, value in config.items() if name not in NOTES}


def read_job(path: str | Path, jobs: Mapping[str, type[Job]] = JOBS) -> Any:
    """The job of a config file. Raises ConfigError that names every mistake in it."""
    return build_job(read_config(path, tuple(jobs)), f"{path}: ", jobs)


def build_job(values: Values, where: str = "", jobs: Mapping[str, type[Job]] = JOBS) -> Any:
    """The job of a config's values, checked whole. Raises ConfigError, which starts with `where`.

    jobs: kind -> class.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in jobs:
        raise ConfigError(f"{where}kind = {kind!r:.80}; expected {' or '.join(jobs)}")
    cls = jobs[kind]
    hints, bases = get_type_hints(cls, include_extras=True), cls.bases(values, where)
    keys: dict[str, Any] = {}
    sections = dict(bases)
    for one in (one for one in fields(cls) if one.name not in bases):
        hint = hints[one.name]
        needed = one.default is MISSING and one.default_factory is MISSING
        if any(isinstance(one, type) and is_dataclass(one) for one in (hint, *get_args(hint))):
            if needed and one.name not in values:
                raise ConfigError(f"{where}{one.name} is missing; expected a table [{one.name}]")
            sections[one.name] = hint
        else:
            keys[one.name] = hint if needed else Optional[hint]  # noqa: UP045 - Annotated has no |
    found = check_sections(values, keys, sections, where)
    try:
        return cls(**{name: value for name, value in found.items() if value is not None})
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
