"""Values of JSON and TOML files become dataclasses only where types and bounds fit."""

import dataclasses
import importlib
import math
import pkgutil
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal

import pytest
from annotated_types import Interval, MaxLen

import minikontext
from minikontext.autoencoder import AutoEncoderConfig
from minikontext.distillation import jobs as distilled
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError, WeightsError
from minikontext.runtime.config import (
    Preset,
    build_config,
    check_sections,
    fits_type,
    make_config,
    read_json,
    require_entries,
)
from minikontext.safety.clip import ClipConfig
from minikontext.toyworld.attacks import Mix
from minikontext.training import jobs
from minikontext.training.editor import EditorLossConfig
from minikontext.training.loop import LoopConfig
from minikontext.transformer import TransformerConfig


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Interval(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class Dials:
    steps: Annotated[int, Interval(ge=1, le=2**40)]
    lr: float = 1e-3
    name: str = ""
    on: bool = False
    sizes: Annotated[tuple[tuple[int, int], ...], MaxLen(3)] = ()
    rates: dict[str, Annotated[float, Interval(gt=0, le=9)]] = field(default_factory=dict)
    guidance_scale: float | None = None
    mode: Literal["fast", "good"] = "good"
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.name == "odd":
            raise ConfigError("name=odd: choose another")


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"steps": 1}, {"steps": 1, "lr": 1e-3}),
        ({"steps": 2, "lr": 1, "name": "x", "on": True}, {"lr": 1.0, "on": True}),
        ({"steps": 2, "sizes": [[1, 2], [3, 4]]}, {"sizes": ((1, 2), (3, 4))}),
        ({"steps": 2, "rates": {"a": 1, "b": 0.5}}, {"rates": {"a": 1.0, "b": 0.5}}),
        ({"steps": 2, "guidance_scale": None}, {"guidance_scale": None}),
        ({"steps": 2, "inner": {"share": 1}, "mode": "fast"}, {"inner": Inner(1.0)}),
    ],
)
def test_what_fits_is_taken(given, fields):
    made = build_config(Dials, given)
    assert isinstance(made, Dials)
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "steps is missing; expected a whole number from 1 to"),
        ({"steps": True}, "steps = True; expected a whole number"),
        ({"steps": 1.0}, "steps = 1.0; expected a whole number"),
        ({"steps": 2**70}, "expected a number below"),
        ({"steps": 10**5000}, "expected a number below"),
        ({"steps": 0}, "steps = 0; expected a whole number from 1 to 1 099 511 627 776"),
        ({"steps": 1, "lr": math.nan}, "lr = nan; expected a number"),
        ({"steps": 1, "lr": -math.inf}, "lr = -inf; expected a number"),
        ({"steps": 1, "lr": date(2026, 1, 1)}, "lr = datetime.*expected a number, text"),
        ({"steps": 1, "lr": "1"}, "lr = '1'; expected a number"),
        ({"steps": 1, "name": 3}, "name = 3; expected text"),
        ({"steps": 1, "name": "\ud800"}, "expected text"),
        ({"steps": 1, "name": "odd"}, "choose another"),
        ({"steps": 1, "on": 1}, "on = 1; expected true or false"),
        ({"steps": 1, "mode": "goood"}, "mode = 'goood'; expected 'fast' or 'good'"),
        ({"steps": 1, "sizes": [[1, 2, 3]]}, r"sizes\[0\] = .*expected a list of 2 times"),
        ({"steps": 1, "sizes": [[1, 2], [3, "4"]]}, r"sizes\[1\]\[1\] = '4'; expected a whole"),
        ({"steps": 1, "sizes": [[1, 2]] * 4}, "expected a list of .*, at most 3 entries"),
        ({"steps": 1, "sizes": "12"}, "expected a list"),
        ({"steps": 1, "rates": {"a": "b"}}, r"\[rates\] a = 'b'; expected a number above 0 to 9"),
        ({"steps": 1, "rates": {"\x1b[2J": 0}}, r"'\\x1b\[2J' = 0; expected"),
        ({"steps": 1, "rates": [1]}, r"rates = \[1\]; expected a table"),
        ({"steps": 1, "inner": {"share": 2}}, r"\[inner\] share = 2; expected a number from 0 to"),
        ({"steps": 1, "inner": {"shar": 2}}, r"no 'shar' in \[inner\]; did you mean 'share'"),
        ({"steps": 1, "inner": 5}, "inner = 5; expected a table"),
        ({"stpes": 1}, "no 'stpes'; did you mean 'steps'"),
        ({"steps": 1, "zzzz": 1}, "no 'zzzz'; choose from guidance_scale, inner, lr"),
        ({"steps": 1, "zz\n\u202e": 1}, r"no 'zz\\n\\u202e'"),
        ([1], "expected a table"),
    ],
)
def test_what_does_not_fit_is_named(given, words):
    with pytest.raises(WeightsError, match=f"(?s)does not fit Dials.*{words}"):
        build_config(Dials, given, error=WeightsError)


def test_a_table_without_an_end_is_refused():
    deep = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(ConfigError, match="at most 32"):
        build_config(Dials, {"steps": 1, "sizes": deep})


def test_all_mistakes_are_told_and_few_of_very_many():
    with pytest.raises(ConfigError, match=r"(?s)steps = 0.*lr = 'x'.*no 'nmae'; did you mean"):
        build_config(Dials, {"steps": 0, "lr": "x", "nmae": 1})
    with pytest.raises(ConfigError, match="and 9996 more") as caught:
        build_config(Dials, {f"x{i}": i for i in range(10_000)})
    assert len(str(caught.value)) < 1000


def test_values_go_on_top_of_a_base():
    base = make_config(Dials, steps=3, lr=2.0, inner={"share": 0.25})
    assert build_config(Dials, {"lr": 1.0}, base) == Dials(3, 1.0, inner=Inner(0.25))
    with pytest.raises(ConfigError, match="steps = 0"):
        build_config(Dials, {"steps": 0}, base)


def test_entries_that_are_needed_or_may_be_there():
    wanted = {"run": str, "seed": int | None}
    require_entries({"run": "x", "other": 1}, wanted)
    for given, words in (({}, "run is missing"), ({"run": "x", "seed": "1"}, "seed = '1'")):
        with pytest.raises(ConfigError, match=f"a.toml: .*{words}"):
            require_entries(given, wanted, "a.toml: ")


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        ([1, 2], tuple[int, ...], True),
        ([1, 2.5], tuple[int, ...], False),
        (1, float, True),
        (True, int, False),
        (math.inf, float, False),
        ({"a": "b"}, dict[str, str], True),
        ({"a": 1}, dict[str, str], False),
        ({"a": 1}, dict, True),
        (None, str | None, True),
        (None, str, False),
    ],
)
def test_types_of_values(value, hint, fits):
    assert fits_type(value, hint) is fits


# ------------------------------------------------------------------------------------ a whole file

KEYS = {"run": str, "seed": int | None}
SECTIONS = {
    "loop": LoopConfig,
    "training": EditorLossConfig,
    "transformer": Preset(TransformerConfig, ("toy", "flux_dev"), "toy"),
    "defaults": Defaults(height=96),
    "mix": Inner | None,
}


def check(values):
    return check_sections(values, KEYS, SECTIONS, "a.toml: ")


def test_a_whole_file_becomes_its_keys_and_dataclasses():
    given = {"run": "x", "loop": {"steps": 5}, "defaults": {"width": 32}}
    found = check(given | {"transformer": {"preset": "flux_dev", "depth": 3}})
    assert found["run"] == "x" and found["seed"] is None and found["mix"] is None
    assert found["loop"] == LoopConfig(5) and found["training"] == EditorLossConfig()
    flux = TransformerConfig.flux_dev()
    assert found["transformer"] == dataclasses.replace(flux, depth=3)
    assert (found["defaults"].width, found["defaults"].height) == (32, 96)
    assert check(given)["transformer"] == TransformerConfig.toy()
    assert check(given | {"mix": {"share": 1}})["mix"] == Inner(1.0)
    assert given["defaults"] == {"width": 32}  # as it was


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"run": 3}, "run = 3; expected text"),
        ({"ofload": "8-bit"}, "no 'ofload'; choose from"),
        ({"trainng": {"batch": 2}}, "no 'trainng'; did you mean 'training'"),
        ({"loop": {"steps": 5, "minuts": 1}}, r"no 'minuts' in \[loop\]; did you mean 'minutes'"),
        ({"loop": {}}, r"\[loop\] steps is missing"),
        ({"loop": 5}, r"loop = 5; expected a section \[loop\]"),
        ({"loop": {"steps": 5, "lr": -1}}, r"\[loop\] lr = -1; expected a number from 0 to"),
        ({"loop": {"steps": 5, "rates": {"a": -1}}}, r"\[loop.rates\] a = -1; expected"),
        ({"training": {"timesteps": "x"}}, r"training: timesteps='x': choose one of"),
        ({"transformer": {"preset": "tiny"}}, r"\[transformer\] preset = 'tiny'; expected 'toy'"),
        ({"transformer": {"deph": 1}}, r"no 'deph' in \[transformer\]; did you mean 'depth'"),
        ({"defaults": {"width": -1}}, r"\[defaults\] width = -1; expected a whole number from 1"),
        ({"mix": {"share": 2}}, r"\[mix\] share = 2; expected a number from 0 to 1"),
    ],
)
def test_a_mistake_anywhere_in_a_file_is_told_with_its_section(more, words):
    with pytest.raises(ConfigError, match=f"(?s)a.toml: .*{words}"):
        check({"run": "x", "loop": {"steps": 5}} | more)


def test_mistakes_of_several_sections_are_told_together():
    with pytest.raises(ConfigError, match=r"(?s)run is missing.*\[loop\] clip = -3.*ema = 2"):
        check({"loop": {"steps": 5, "clip": -3, "ema": 2}})


# ----------------------------------------------------------------------------------------- bounds


def config_classes():
    """Every dataclass that a file can fill: all in a job's types, and those named as configs.

    Names alone would leave out a section with a name of its own, types those of a config.json.
    """
    found, waiting = set(), [*named_configs(), *jobs.JOBS.values(), *distilled.JOBS.values()]
    while waiting:
        if (kind := waiting.pop()) not in found:
            found.add(kind)
            waiting += [one for hint in hints_of(kind).values() for one in dataclasses_in(hint)]
    return sorted(found, key=lambda kind: kind.__name__)


def dataclasses_in(hint):
    """The dataclasses in a type, however deep."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [one for inner in typing.get_args(hint) for one in dataclasses_in(inner)]


def named_configs():
    """The dataclasses of the package with the house's names for configs."""
    found = set()
    for module in pkgutil.walk_packages(minikontext.__path__, "minikontext."):
        if not module.name.endswith(("__main__",)):
            for kind in vars(importlib.import_module(module.name)).values():
                named = isinstance(kind, type) and kind.__module__.startswith("minikontext.")
                if named and dataclasses.is_dataclass(kind) and kind.__name__.endswith(
                    ("Config", "Training", "Defaults", "Chains", "Mix")
                ):  # fmt: skip
                    found.add(kind)
    return found


def unbounded(hint, bounds=()):
    """The numbers in a type that have no bounds at both ends."""
    if typing.get_origin(hint) is Annotated:
        return unbounded(hint.__origin__, hint.__metadata__)
    if hint in (int, float):
        ends = [b for b in bounds if isinstance(b, Interval)]
        low = any(b.ge is not None or b.gt is not None for b in ends)
        return [] if low and any(b.le is not None for b in ends) else [hint]
    return [one for inner in typing.get_args(hint) for one in unbounded(inner)]


def test_every_number_of_every_config_has_bounds():
    kinds = config_classes()
    assert {LoopConfig, EditorLossConfig, TransformerConfig, AutoEncoderConfig} <= {*kinds}
    assert {Defaults, ClipConfig, jobs.ToyData, jobs.FolderData, jobs.LoraSection} <= {*kinds}
    assert {jobs.LoraJob, Mix, distilled.Start, distilled.LaddJob} <= {*kinds}
    hints = [(k, name, h) for k in kinds for name, h in hints_of(k).items()]
    assert not [f"{k.__name__}.{name}" for k, name, h in hints if unbounded(h)]


def hints_of(kind):
    return typing.get_type_hints(kind, include_extras=True)


def in_bounds(value, hint):
    return fits_type(value if not isinstance(value, tuple) else list(value), hint)


def test_the_defaults_lie_in_the_bounds():
    for kind in config_classes():
        for one in dataclasses.fields(kind):
            if one.default is not dataclasses.MISSING:
                assert in_bounds(one.default, hints_of(kind)[one.name]), (kind, one.name)


@pytest.mark.parametrize(
    "values", [{"lr": -1}, {"clip": -3}, {"clip": 0}, {"minutes": -5}, {"ema": 1.5}]
)
def test_a_loop_out_of_bounds_is_refused(values):
    with pytest.raises(ConfigError, match="expected a number (from|above) 0 to"):
        build_config(LoopConfig, {"steps": 1} | values)


def test_pydantic_is_imported_with_the_first_check():
    code = "import minikontext.runtime.config, minikontext.pipeline, sys; print([*sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'pydantic'" not in run.stdout and "'torch'" in run.stdout


DEEP = '{"a": ' + "[" * 200 + "]" * 200 + "}"  # Python reads that


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, DEEP, '"' + "x", '{"a": 1, "a": 2}']
)
def test_a_file_without_an_object_is_refused(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"a\.json.*Download"):
        read_json(path, WeightsError, "Download it again.")
