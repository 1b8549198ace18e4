"""The package loads lazily, and the files that install it agree with each other."""

import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import pytest
import yaml

import minikontext
from minikontext import errors

ROOT = Path(__file__).resolve().parent.parent

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins():
    """Name -> versions in constraints.txt."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==([\w.+]+)", line):
            found.setdefault(match[1].lower().replace("_", "-"), []).append(match[2])
    return found


def modules_after(code):
    """Names of the modules that a fresh Python has loaded after `code`."""
    run = [sys.executable, "-c", f"{code}\nimport sys; print('', *sys.modules)"]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    return set(out.splitlines()[-1].split())


def test_import_alone_loads_one_module():
    """10 ms are asked; the clock is docs/inside.md's matter, here is what takes the time."""
    new = modules_after("import minikontext") - modules_after("import importlib, typing")
    assert new - {"collections.abc"} == {"minikontext"}


def test_help_loads_nothing_heavy():
    """0.3 s are asked: the texts of the command line need the table of commands alone."""
    code = (
        "import contextlib\nfrom minikontext.cli import main\nwith contextlib.suppress(SystemExit):"
    )
    loaded = modules_after(f"{code} main(['--help'])")
    assert "minikontext.cli.app" in loaded
    heavy = {"torch", "numpy", "PIL", "pydantic", "matplotlib", "minikontext.pipeline"}
    assert not loaded & heavy
    # What Python has loaded by itself depends on how the package was installed.
    assert len(loaded - modules_after("import argparse, importlib, typing")) < 100


def test_the_pipeline_loads_neither_plots_nor_widgets_nor_transformers():
    loaded = modules_after("import minikontext as mk; mk.KontextPipeline")
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "ipywidgets", "transformers", "diffusers", "IPython"}


@pytest.mark.parametrize("name", sorted(minikontext._HOMES))
def test_every_public_name_loads(name):
    value = getattr(minikontext, name)
    assert value.__module__ == f"minikontext.{minikontext._HOMES[name]}"
    assert name in dir(minikontext)


@pytest.mark.parametrize("name", (*minikontext.IDEAS, *minikontext.WINGS))
def test_every_listed_module_loads(name):
    assert getattr(minikontext, name) is importlib.import_module(f"minikontext.{name}")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = minikontext.nonsense


def test_every_error_is_also_a_builtin_one():
    from minikontext import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = [kind for kind in kinds if issubclass(kind, errors.MinikontextError)]
    builtin = (ValueError, OSError, ArithmeticError, RuntimeError, ImportError, MemoryError)
    assert len(ours) > 5
    assert all(issubclass(kind, builtin) for kind in ours if kind is not errors.MinikontextError)


def requirements():
    project = pyproject()["project"]
    extras = project["optional-dependencies"].values()
    return sum(extras, project["dependencies"])


@pytest.mark.parametrize("line", requirements())
def test_every_requirement_is_pinned_within_its_range(line):
    name, minimum = re.match(r"([\w-]+)>=([\d.]+)", line).groups()
    numbers = [[int(part) for part in re.findall(r"\d+", version)] for version in pins()[name]]
    wanted = [int(part) for part in minimum.split(".")]
    assert numbers and all(version >= wanted for version in numbers)


def test_the_tested_torch_is_the_pinned_one():
    assert pins()["torch"] == ["2.13.0"]
    assert pyproject()["tool"]["uv"]["constraint-dependencies"] == ["torch==2.13.0"]


def test_constraints_name_no_place():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"file:|https?:|@|--|/", text)


def test_conda_installs_this_package_under_the_same_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, installed = environment["dependencies"]
    assert pip == "pip"
    assert installed == {"pip": ["--constraint constraints.txt", "--editable .[flux]"]}
    minor = int(re.fullmatch(r"python=3\.(\d+)", python)[1])
    supported = pyproject()["project"]["requires-python"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", supported).groups()
    assert int(low) <= minor < int(high)


def test_the_makefile_installs_under_the_same_constraints():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [
        line for line in text.splitlines() if "pip install" in line and "--editable" in line
    ]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in line for line in installs)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_parts_of_make_test_are_the_whole():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule = re.search(r"^test:.*\n(?:\t.*\n)*?\t.*--jobs=2 (course .*)\n", makefile, re.M)
    parts = rule[1].split()
    command = ["make", "--dry-run", *parts]
    env = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=env)
    course, *others = re.findall(r"-m pytest (.*?)(?: > .*)?$", run.stdout, re.M)
    units = next(one for one in others if one.startswith("tests "))
    others = [one for one in others if one is not units]
    ignored = re.findall(r"--ignore=(\S+)", units)
    assert ignored and sorted(ignored) == sorted(" ".join(others).split())
    assert all(f"notebooks/{one.name} " in course for one in (ROOT / "notebooks").glob("*.ipynb"))
    # In the environment of `make lab`: what only tests bring is not there.
    assert "--nbval-kernel-name=minikontext-lab" in course
    assert "$(LAB)/bin/python -m ipykernel install" in makefile


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_notebooks_environment_is_what_make_lab_installs_and_costs_no_second_install(tmp_path):
    """Beside a new environment it is made of links; beside one with the tests' packages, anew."""
    here, lab = tmp_path / "here", tmp_path / "lab"
    venv.create(here, symlinks=True)
    site = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    for place in (here / site / "core.py", here / "share/one", here / "etc/two"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"answer = {place.stem!r}")
    command = ["make", "--no-print-directory", f"VENV={here}", f"LAB={lab}", f"{lab}/.installed"]
    env = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    make = partial(subprocess.run, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    (here / ".installed").touch()
    make(command)
    code = "import core, sys; print(sys.prefix, core.answer, core.__file__)"
    found = subprocess.check_output([lab / "bin" / "python", "-c", code], text=True).split()
    assert found == [str(lab), "core", str(lab / site / "core.py")]
    for part in (site / "core.py", "share/one", "etc/two"):
        assert (lab / part).samefile(here / part)
    assert "pip install" not in make([*command, "--dry-run"]).stdout  # it is there
    (lab / ".installed").unlink()
    (here / ".installed-test").touch()
    assert f"{lab}/bin/python -m pip install" in make([*command, "--dry-run"]).stdout
    # The tests' packages wait for the links, or they would be among them.
    (here / ".installed-test").unlink()
    told = make([*command[:-1], "--dry-run", "--jobs=2", f"{here}/.installed-test"]).stdout
    assert 0 < told.index("copytree") < told.index('--editable ".[test]"')


def test_the_command_is_installed():
    assert pyproject()["project"]["scripts"] == {"minikontext": "minikontext.cli:main"}


def test_what_opens_the_course_installs_what_notebook_10_imports():
    """It loads T5 and CLIP with transformers, which only the extra `flux` brings."""
    rule = (ROOT / "Makefile").read_text(encoding="utf-8").split("$(CORE): ")[1].split("@touch")[0]
    assert '--editable ".[flux]"' in rule
    assert any(
        line.startswith("transformers")
        for line in pyproject()["project"]["optional-dependencies"]["flux"]
    )


EVIL = "a\x1b[31m\u202e\x9b\u2028b"


@pytest.mark.parametrize("kind", errors.MinikontextError.__subclasses__())
def test_what_an_error_quotes_of_a_file_is_written_out(kind):
    assert str(kind(EVIL)) == "a\\x1b[31m\\u202e\\x9b\\u2028b"
    assert str(kind("two\nlines")) == "two\nlines"


def test_what_a_warning_quotes_of_a_file_is_written_out():
    with pytest.warns(errors.WeightsWarning) as caught:
        errors.warn(errors.WeightsWarning(EVIL))
    assert str(caught[0].message) == "a\\x1b[31m\\u202e\\x9b\\u2028b"
    assert errors.shorten_list(["a\nb", EVIL]) == "a\\nb, a\\x1b[31m\\u202e\\x9b\\u2028b"


def test_rows_of_installs_stay_when_a_column_comes():
    stored = runpy.run_path(str(ROOT / "tools" / "installs.py"))["stored"]
    rows = ["| clone | 3.10.13 | 2.13.0 | yes | yes |", "| git | 3.11.7 | 2.1 | yes | yes | 1.4 |"]
    found = stored("\n".join(["<!-- installs -->", "| way | Python |", *rows, "<!-- end -->"]))
    assert found == {("clone", "3.10"): rows[0] + "  |", ("git", "3.11"): rows[1]}
    assert {line.count("|") for line in found.values()} == {7}


def test_the_readme_says_of_every_install_what_was_tried():
    """Each way under each Python, and whether the picture was edited and the course opened."""
    stored = runpy.run_path(str(ROOT / "tools" / "installs.py"))["stored"]
    lines = stored((ROOT / "docs" / "install.md").read_text(encoding="utf-8"))
    said = re.search(r"Tried: (.*?) packages; each under Python (.*?): \[all (\d+)\]",
                     (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)  # fmt: skip
    named = {(way, version) for way in said[1].split(", ") for version in said[2].split(", ")}
    assert {key for key, line in lines.items() if line.count("| yes ") == 2} == named
    assert len(lines) == len(named) == int(said[3])


def test_ci_is_not_green_without_the_page_and_the_book():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in lines and any(line.startswith("make book") for line in lines)  # no `if`
