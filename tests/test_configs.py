"""Values of JSON and TOML files become dataclasses only where types and bounds fit."""

from dataclasses import dataclass, field

import pytest

from minikontext.errors import ConfigError, WeightsError
from minikontext.runtime.config import build_config, make_config, read_json, require_entries


@dataclass(frozen=True)
class Dials:
    steps: int
    lr: float = 1e-3
    name: str = ""
    on: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    rates: dict[str, float] = field(default_factory=dict)
    guidance_scale: float | None = None


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 1},
        {"steps": 2, "lr": 1, "name": "x", "on": True},
        {"steps": 2, "sizes": [[1, 2], [3, 4]], "rates": {"a": 1, "b": 0.5}},
        {"steps": 2, "guidance_scale": None},
    ],
)
def test_what_fits_is_taken_as_it_is(given):
    made = build_config(Dials, given)
    assert all(getattr(made, name) == value for name, value in given.items())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "steps"),
        ({"steps": True}, "steps = True; expected a whole number"),
        ({"steps": 1.0}, "steps = 1.0; expected a whole number"),
        ({"steps": 2**70}, "expected a whole number"),
        ({"steps": 0}, "steps = 0; expected 1 to"),
        ({"steps": 1, "lr": float("nan")}, "lr = nan; expected a number"),
        ({"steps": 1, "name": 3}, "name = 3; expected text"),
        ({"steps": 1, "on": 1}, "on = 1; expected true or false"),
        ({"steps": 1, "sizes": [[1, 2, 3]]}, "expected a list"),
        ({"steps": 1, "sizes": "12"}, "expected a list"),
        ({"steps": 1, "rates": {"a": "b"}}, "expected a table"),
        ({"steps": 1, "stpes": 1}, "no 'stpes'; choose from guidance_scale, lr"),
        ([1], "expected a table"),
    ],
)
def test_what_does_not_fit_is_named(given, words):
    with pytest.raises(WeightsError, match=f"does not fit Dials.*{words}"):
        build_config(Dials, given, error=WeightsError)


def test_values_go_on_top_of_a_base():
    base = make_config(Dials, steps=3, lr=2.0)
    assert build_config(Dials, {"lr": 1.0}, base) == Dials(3, 1.0)


def test_entries_that_are_needed_or_may_be_there():
    wanted = {"run": str, "seed": int | None}
    require_entries({"run": "x", "other": 1}, wanted)
    for given, words in (({}, "run is missing"), ({"run": "x", "seed": "1"}, "seed = '1'")):
        with pytest.raises(ConfigError, match=f"a.toml: .*{words}"):
            require_entries(given, wanted, "a.toml: ")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\ufeff{}", '"' + "x"])
def test_a_file_without_an_object_is_refused(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"a\.json.*Download"):
        read_json(path, WeightsError, "Download it again.")
