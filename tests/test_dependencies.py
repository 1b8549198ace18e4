"""DEPENDENCIES.md names exactly what pyproject.toml asks for, in the versions that are tested."""

import re
import sys
from datetime import date
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| ([\w-]+) \| ([\w, ]+) \|" + r" ([^|]+) \|" * 4 + "$", re.MULTILINE)


@pytest.fixture(scope="module")
def table():
    """Rows of the table: package -> (extras, why, licence, version, released)."""
    rows = ROW.findall((ROOT / "DEPENDENCIES.md").read_text(encoding="utf-8"))
    found = {name: rest for name, *rest in rows if name != "package"}
    assert len(found) == len(rows) - 1, "a package stands there twice"
    return found


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def test_every_dependency_is_explained_and_nothing_else(table):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {"core": project["dependencies"], **project["optional-dependencies"]}
    asked = {(name_of(one), extra) for extra, those in wanted.items() for one in those}
    told = {(name, extra) for name, row in table.items() for extra in row[0].split(", ")}
    assert told == asked


def test_versions_are_the_tested_ones(table):
    """The newest of constraints.txt, where there are several for several Pythons."""
    locked = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([\w-]+)==([\w.]+)", line):
            locked.setdefault(found[1], []).append(found[2])
    for name, (*_, version, _) in table.items():
        newest = max(locked[name], key=as_numbers)
        assert version.strip() == newest, f"{name} is tested at {newest}"


def as_numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_every_row_says_why_and_under_which_licence(table):
    for name, (_, why, licence, _, released) in table.items():
        assert len(why) > 10 and licence.strip(), name
        assert date.fromisoformat(released.strip()).year >= 2023, name


def test_the_readme_leads_there():
    assert "(DEPENDENCIES.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
