"""No training, data stream or sampler knows what a judge looks for."""

import ast
from pathlib import Path

import pytest

import minikontext

PACKAGE = Path(minikontext.__file__).parent
JUDGES = {"minikontext.toyworld.oracle", "minikontext.toyworld.judge"}
JUDGES |= {f"minikontext.toyworld.{name}" for name in ("score", "read", "succeeds")}
JUDGES |= {"minikontext.bench.reader"}  # trained in a module of its own, for no other training


def imported(path: Path) -> set[str]:
    """Every module and every name that a file imports, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def judges(path: Path) -> set[str]:
    """The judges that a file imports."""
    return {
        name for name in imported(path) for judge in JUDGES if f"{name}.".startswith(f"{judge}.")
    }


@pytest.mark.parametrize("wing", ["training", "distillation"])
def test_no_training_imports_a_judge(wing):
    files = list(PACKAGE.glob(f"{wing}/**/*.py"))
    assert len(files) > 3
    assert {file.name: found for file in files if (found := judges(file))} == {}


def test_the_two_judges_share_nothing():
    """The reader knows scenes and drawings, not the oracle; only its validation asks both."""
    places = (PACKAGE / "bench" / "reader", PACKAGE.parent / "benchmarks" / "reader")
    files = [f for place in places for f in place.glob("*.py") if f.stem != "validation"]
    oracle = {name for name in JUDGES if "toyworld" in name} | {"minikontext.bench.wrong_answers"}
    found = {f.name: {n for n in imported(f) if n in oracle or "oracle" in n} for f in files}
    assert len(files) >= 5 and not any(found.values()), found
    assert not any("reader" in n for n in imported(PACKAGE / "toyworld" / "oracle.py"))


@pytest.mark.parametrize("name", ["sampler.py", "flow.py"])
def test_neither_sampler_nor_loss_imports_the_world(name):
    assert not any("toyworld" in module for module in imported(PACKAGE / name))


@pytest.mark.parametrize(
    "line",
    [
        "from minikontext.toyworld import score",
        "from minikontext.toyworld import oracle",
        "import minikontext.toyworld.oracle",
        "from minikontext.toyworld.oracle import MIN_EXPLAINED",
        "from minikontext.bench import reader",
        "from minikontext.bench.reader import judge",
        "from minikontext.bench.reader.network import load_network",
    ],
)
def test_every_way_to_import_a_judge_is_seen(line, tmp_path):
    file = tmp_path / "cheat.py"
    file.write_text(f"def f():\n    {line}\n")
    assert judges(file)
