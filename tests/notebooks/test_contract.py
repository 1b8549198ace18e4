"""What every notebook of the course must be (the course's contract), and that exercises work."""

import ast
import base64
import inspect
import io
import re
import runpy
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import minikontext as mk
from minikontext.course.checks import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTIONS = (
    "## By hand",
    "## The same in the package",
    "## Break it",
    "## Play",
    "## Exercises",
    "## In the real model",
    "## What the paper says",
    "## Takeaways",
    "## Questions",
    "## References",
)
SETUP = "import minikontext as mk\nmk.course.setup(seed=0)"
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|usr|opt|var|mnt)/|[A-Z]:\\\\")
DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
SOLUTION = re.compile(r"<summary>[^<]*Solution.*?```python\n(.*?)```", re.DOTALL | re.IGNORECASE)

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="there are no notebooks yet")


def load(path):
    return nbformat.read(path, as_version=4)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind and cell.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def markdown(notebook):
    return "\n\n".join(cell.source for cell in cells(notebook, "markdown"))


def code_lines(cell):
    lines = (line.strip() for line in cell.source.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def prose(text):
    """Words that a student reads in one go: no headings, tables, code or folded parts."""
    text = DETAILS.sub("", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", "|"))]
    return re.findall(r"\b[\w'’-]+\b", " ".join(lines))


def pngs(cell):
    for output in cell.get("outputs", []):
        data = output.get("data", {}).get("image/png")
        if data:
            yield Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return load(path)


# ---- form


def test_name_kernel_and_size(path, notebook):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size <= 500_000


def test_executed_top_to_bottom_without_errors(notebook):
    code = cells(notebook, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
    assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2
    assert notebook.metadata["measured_seconds"] <= 180


def test_nothing_of_one_machine_or_session_is_stored(path, notebook):
    assert "widgets" not in notebook.metadata
    text = path.read_text()
    assert "widget-view+json" not in text
    # Pictures are long strings of letters in which anything can occur.
    readable = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not ABSOLUTE.findall(readable)


def test_pictures_are_png_of_at_most_800_pixels(notebook):
    widths = [picture.width for cell in cells(notebook, "code") for picture in pngs(cell)]
    assert widths and max(widths) <= 800
    kinds = {kind for c in cells(notebook, "code") for o in c.outputs for kind in o.get("data", {})}
    assert not kinds & {"image/jpeg", "image/svg+xml", "application/pdf"}


def test_cells_are_short_and_prose_is_neither_thin_nor_thick(notebook):
    code = cells(notebook, "code")
    assert max(len(cell.source.splitlines()) for cell in code) <= 20
    first, text = notebook.cells.index(code[0]), markdown(notebook)
    head = "\n\n".join(cell.source for cell in notebook.cells[:first])
    between = text[len(head) : text.find("\n## In the real model")]  # where the code is
    words, lines = len(prose(between)), sum(len(code_lines(cell)) for cell in code)
    assert 3 <= words / lines <= 8, f"{words} words for {lines} lines of code"


# ---- rhythm


def test_header_and_setup(path, notebook):
    head = cells(notebook, "markdown")[0].source
    first = notebook.cells.index(cells(notebook, "code")[0])
    before = "\n".join(cell.source for cell in notebook.cells[:first])
    assert head.startswith(f"# {path.stem[:2]} · ")
    assert before.count("\n- ") >= 3 and "two CPU cores" in before
    assert cells(notebook, "code")[0].source == SETUP
    assert any("mk.course.show_system(" in cell.source for cell in cells(notebook, "code"))


def test_all_sections_in_order(notebook):
    text = markdown(notebook)
    found = [text.find(f"\n{section}") for section in SECTIONS]
    assert [s for s, at in zip(SECTIONS, found) if at < 0] == []
    assert found == sorted(found)


def test_a_prediction_comes_before_the_measurement(notebook):
    text = markdown(notebook)
    broken = text[text.find("\n## Break it") : text.find("\n## Play")]
    assert "predict" in broken.lower() and "<details>" in broken


def test_a_sheet_of_pictures_comes_before_the_widget(notebook):
    play = next(i for i, c in enumerate(notebook.cells) if "## Play" in c.source)
    rest = [cell for cell in notebook.cells[play:] if cell.cell_type == "code"]
    assert list(pngs(rest[0])), "the first cell of Play stores a sheet"
    assert "Widget(" in rest[1].source


def test_five_questions_have_folded_answers(notebook):
    text = markdown(notebook)
    questions = text[text.find("\n## Questions") : text.find("\n## References")]
    assert questions.count("<details>") == 5


def test_some_outputs_are_compared(notebook):
    compared = [c for c in cells(notebook, "code") if "nbval-check-output" in tags(c)]
    assert len(compared) >= 5
    assert all(cell.outputs for cell in compared)
    # Pictures are not compared, so a comparison needs text.
    text = [o for cell in compared for o in cell.outputs if o.output_type == "stream"]
    assert len(text) >= len(compared)


# ---- exercises


def exercises(notebook):
    """(name, source of the stub cell, source of the solution) of every exercise."""
    for i, cell in enumerate(notebook.cells):
        if "exercise" not in tags(cell):
            continue
        name = re.search(r"mk\.course\.check\((\w+)\)", cell.source).group(1)
        following = "\n".join(c.source for c in notebook.cells[i + 1 : i + 3])
        yield name, cell.source, SOLUTION.search(following).group(1)


def imports(notebook):
    """A namespace with all that the notebook imports."""
    space = {}
    for cell in cells(notebook, "code"):
        tree = ast.parse(cell.source)
        kept = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(kept, []), "<imports>", "exec"), space)
    return space


def checked(function):
    """What the checker prints for an answer."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        mk.course.check(function)
    return printed.getvalue()


def test_stubs_raise_and_are_not_attempted_yet(notebook):
    found = list(exercises(notebook))
    assert 2 <= len(found) <= 4
    for name, stub, _ in found:
        assert "raise NotImplementedError" in stub
        space = imports(notebook)
        exec(stub.split("mk.course.check(")[0], space)
        assert "not attempted yet" in checked(space[name])


def test_solutions_pass(notebook):
    for name, stub, solution in exercises(notebook):
        space = imports(notebook)
        exec(solution, space)
        printed = checked(space[name])
        assert "[OK]" in printed and "[FAIL]" not in printed, printed
        stub_space = imports(notebook)
        exec(stub.split("mk.course.check(")[0], stub_space)
        same = inspect.signature(stub_space[name]), inspect.signature(space[name])
        assert same[0].parameters.keys() == same[1].parameters.keys()


def test_planted_wrong_answers_fail(path, notebook):
    answers = runpy.run_path(str(HERE / f"wrong_{path.stem}.py"))
    for name, _, _ in exercises(notebook):
        wrong = {k: f for k, f in answers.items() if k.startswith(f"{name}__")}
        assert wrong, f"no wrong answer is planted for {name}"
        for key, function in wrong.items():
            function.__name__ = name
            assert "[FAIL]" in checked(function), key


@pytest.mark.parametrize("stem", ["07_ladd", "09_kontext_bench"])
def test_planted_mistakes_are_named_and_right_variants_pass(stem):
    answers = runpy.run_path(str(HERE / f"wrong_{stem}.py"))
    right = {k: f for k, f in answers.items() if k.startswith("right_")}
    wrong = {k: f for k, f in answers.items() if k.split("__")[0] in REGISTRY and "__" in k}
    assert len(right) >= 3 and len(wrong) >= 6
    for key, function in (right | wrong).items():
        function.__name__ = key.removeprefix("right_").split("__")[0]
        printed = checked(function)
        if key in right:
            assert "[FAIL]" not in printed, printed
        else:
            assert "this is what you get if" in printed, printed


def test_exercises_have_difficulty_time_and_hints(notebook):
    text = markdown(notebook)
    part = text[text.find("\n## Exercises") : text.find("\n## In the real model")]
    headings = re.findall(r"^### .*", part, flags=re.MULTILINE)
    assert len(headings) == len(list(exercises(notebook)))
    assert all("★" in heading and "minutes" in heading for heading in headings)
    assert part.count("Hint 1") == part.count("Hint 2") == len(headings)


def test_every_registered_exercise_is_in_a_notebook():
    used = {name for path in NOTEBOOKS for name, _, _ in exercises(load(path))}
    assert used == set(REGISTRY)
