"""What the package's code must not contain, and how many inputs were fed."""

import ast
from pathlib import Path

import harness
import pytest

from minikontext.course import solutions

PACKAGE = Path(__file__).resolve().parents[2] / "minikontext"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each can run what a file says. `model.eval()` is another thing: only bare names count here.
NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
# The course keeps its solutions as text: source of the package's own, and no other file is taken.
OWN = {"course/solutions.py": ["exec(compile(source, f'<{name}>', 'exec'), scope)",
                               "compile(source, f'<{name}>', 'exec')"]}  # fmt: skip
CALLS = {"torch.load", "np.load", "numpy.load", "yaml.load", "os.system", "os.popen"}


def offences(text):
    """Each place in a source text that could run what a file says."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [name for name in names if name and name.split(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            told = {word.arg: ast.unparse(word.value) for word in node.keywords}
            risky = (name in CALLS, name in NAMES, told.get("shell") == "True",
                     told.get("trust_remote_code") == "True", told.get("weights_only") == "False",
                     told.get("allow_pickle") == "True")  # fmt: skip
            found += [ast.unparse(node)[:80]] if any(risky) else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_runs_what_a_file_says(path):
    own = OWN.get(path.relative_to(PACKAGE).as_posix(), [])
    assert offences(path.read_text(encoding="utf-8")) == own


def test_solutions_are_read_from_the_package_alone(tmp_path):
    (tmp_path / "ladd.toml").write_text("[one]\nsolution = 'raise SystemExit'\nmistakes = {}")
    with pytest.raises(ValueError, match="none of the package's own tables"):
        solutions.load(tmp_path / "ladd.toml", "one")


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "torch.load(f)", "eval(x)", "exec(x)",
        "yaml.load(x)", "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "import yaml",
    ],
)  # fmt: skip
def test_the_check_sees_each_of_them(text):
    assert offences(text) and not offences("model.eval(); load_file(path); re.compile('x')")


def test_at_least_ten_thousand_inputs_are_fed():
    assert sum(harness.COUNTS.values()) >= 10_000
    told = "".join(p.read_text("utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    for name in harness.COUNTS:
        assert f'feed("{name}", ' in told, f"{name!r} is counted and not fed"
    for name, count in harness.FED.items():  # of the tests that ran before this one
        assert count == harness.COUNTS[name]
