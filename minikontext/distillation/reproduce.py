"""`minikontext reproduce NAME`: the lineage of a set of weights, made again stage by stage.

A stage is a config in configs/lineage. Where it names what it starts from, it says "stage:NAME"; so
the stages form a graph, and what NAME needs is made first. Each stage is keyed by a hash of its
config, of the code's format and of the keys that it builds on: what is there is not made twice,
what has changed is made anew beside the old, and nothing that is shipped is touched.

    [about]   result, minutes (on two cores), samples: what to expect
    [smoke]   what replaces the config's values in a walk through all of it in minutes (--smoke)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minikontext.distillation import KINDS
from minikontext.distillation import run as distillation
from minikontext.errors import ConfigError, shorten_list
from minikontext.runtime import files
from minikontext.runtime.config import read_json, write_json
from minikontext.training import run as training
from minikontext.training.jobs import build_job, tomllib

FORMAT = 1  # of what the code makes of a config: raise it when the same config gives other weights
STAGE = "stage:"
NOTE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One training of the lineage: its config, and the stages that it builds on."""

    name: str
    config: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def needs(self) -> list[str]:
        """Names of the stages that its config names, each once."""
        return list(dict.fromkeys(name for name in _named(self.config)))

    def resolved(self, folders: Mapping[str, Path], folder: Path) -> dict[str, Any]:
        """The config with folders in the places of stages, and its own run and output."""
        places = {name: str(folders[name]) for name in self.needs}
        values = _replaced(self.config, places)
        return values | {"run": str(folder / "run"), "output": str(folder / "weights")}


@dataclass(frozen=True)
class Made:
    """A stage that is to be made, or is: its key, its folder, and whether it is done."""

    stage: Stage
    key: str
    folder: Path

    @property
    def weights(self) -> Path:
        """What the stages after it start from."""
        return self.folder / "weights"

    @property
    def done(self) -> bool:
        """Whether it was made to its end."""
        return files.exists(self.folder / NOTE)

    @property
    def minutes(self) -> float | None:
        """How long it took, if it is done."""
        return read_json(self.folder / NOTE, ConfigError)["minutes"] if self.done else None


def read_stages(home: Path, smoke: bool = False) -> dict[str, Stage]:
    """All stages of a folder of configs, by name. Raises ConfigError."""
    stages = {}
    for path in sorted(home.glob("*.toml")):
        try:
            values = tomllib.loads(files.read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as a config: {error}") from error
        about, small = values.pop("about", {}), values.pop("smoke", {})
        for place in ("run", "output"):  # decided here, and no part of what a stage is
            values.pop(place, None)
        if about:  # a config without it is no stage
            config = _merged(values, small) if smoke else values
            stages[path.stem] = Stage(path.stem, config, about)
    if not stages:
        raise ConfigError(f"{home} holds no stages: configs with a section [about].")
    return stages


def graph(name: str, stages: Mapping[str, Stage]) -> list[Stage]:
    """A stage and all that it builds on, first things first. Raises ConfigError."""
    order: dict[str, Stage] = {}

    def visit(one: str, path: tuple[str, ...]) -> None:
        if one in path:
            raise ConfigError(f"The stages {' -> '.join((*path, one))} form a circle.")
        if one not in stages:
            raise ConfigError(f"No stage is called {one!r}; there are {shorten_list(stages, 20)}.")
        for other in stages[one].needs:
            visit(other, (*path, one))
        order.setdefault(one, stages[one])

    visit(name, ())
    return list(order.values())


def plan(name: str, stages: Mapping[str, Stage], home: Path) -> list[Made]:
    """What has to be there for a stage, in order, each with its key and its folder in `home`."""
    keys: dict[str, str] = {}
    for stage in graph(name, stages):
        inputs = {one: keys[one] for one in stage.needs}
        facts = {"format": FORMAT, "config": stage.config, "inputs": inputs}
        keys[stage.name] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return [Made(stages[one], key, home / f"{one}-{key[:10]}") for one, key in keys.items()]


def describe(one: Made) -> str:
    """A stage in two lines: where it lies or will lie, and what to expect."""
    state = f"done in {one.minutes} minutes" if one.done else "not made"
    about = one.stage.about
    return (
        f"{one.stage.name}: {state}, {one.weights}\n"
        f"    {about.get('samples', '')}; about {about.get('minutes', '?')} minutes on two cores; "
        f"expected: {about.get('result', '')}"
    )


def reproduce(
    name: str, configs: Path, home: Path, smoke: bool = False, resume: bool = True,
    workers: int = 0,
) -> list[Made]:  # fmt: skip
    """Make a stage and what it needs; returns all of them, the wanted one last.

    It can be interrupted: the same call goes on. What only a stage needs that is there already is
    not made. Every config is checked before the first stage starts. resume: False makes the wanted
    stage, and only that, from its beginning. workers: see `StreamConfig`; the stages become the
    same with any number of them.
    Raises ConfigError, TrainingError, and OutputError for a place that cannot be written.
    """
    wanted = plan(name, read_stages(configs, smoke), home)
    folders = {one.stage.name: one.weights for one in wanted}
    for one in wanted:  # a mistake in the last stage is told before hours of the first
        _check(one.stage.resolved(folders, one.folder), f"{one.stage.name}: ")
    missing = _missing(wanted, resume)
    for one in missing:
        files.try_writing(one.folder / "metadata")
    for one in missing:
        _make(one, wanted, resume or one is not wanted[-1], workers)
    return wanted


def _missing(wanted: list[Made], resume: bool) -> list[Made]:
    """What has to be made, in order: a stage that is there needs nothing of before it any more."""
    needed = {wanted[-1].stage.name}
    missing = []
    for one in reversed(wanted):  # a stage comes before those that it builds on
        if one.stage.name in needed and (not one.done or (one is wanted[-1] and not resume)):
            missing.insert(0, one)
            needed.update(one.stage.needs)
    return missing


def _make(one: Made, wanted: list[Made], resume: bool, workers: int) -> None:
    folders = {other.stage.name: other.weights for other in wanted}
    values = config = one.stage.resolved(folders, one.folder)
    if workers and "stream" in values:
        values = _merged(values, {"stream": {"workers": workers}})
    one.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if values["kind"] in KINDS:
        distillation.run_job(distillation.build_job(values, f"{one.stage.name}: "), resume)
    else:
        training.run_job(build_job(values, f"{one.stage.name}: "), resume)
    keys = {other.stage.name: other.key for other in wanted[: wanted.index(one) + 1]}
    if files.is_folder(one.weights):  # the weights say what they came from, wherever they go
        write_json(one.weights / "lineage.json", {"format": FORMAT, "stages": keys})
    minutes = round((time.monotonic() - began) / 60, 1)  # of this call; a resumed one says less
    write_json(one.folder / NOTE, {"key": one.key, "minutes": minutes, "config": config})


def _check(values: Mapping[str, Any], where: str) -> None:
    build = distillation.build_job if values.get("kind") in KINDS else build_job
    try:
        build(values, where)
    except ConfigError as error:
        raise error if where in str(error) else ConfigError(f"{where}{error}") from error


def _named(value: Any) -> Iterator[str]:
    """Every stage that a config names, in the order in which it does."""
    if isinstance(value, str) and value.startswith(STAGE):
        yield value.removeprefix(STAGE)
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (Mapping, list)):
        for one in inner:
            yield from _named(one)


def _replaced(value: Any, places: Mapping[str, str]) -> Any:
    """A config with folders where it names stages."""
    if isinstance(value, str) and value.startswith(STAGE):
        return places[value.removeprefix(STAGE)]
    if isinstance(value, Mapping):
        return {name: _replaced(one, places) for name, one in value.items()}
    return [_replaced(one, places) for one in value] if isinstance(value, list) else value


def _merged(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of values with those of another laid over them, table by table."""
    both = dict(values)
    for name, one in other.items():
        old = both.get(name)
        deep = isinstance(old, Mapping) and isinstance(one, Mapping)
        both[name] = _merged(old, one) if deep else one
    return both
