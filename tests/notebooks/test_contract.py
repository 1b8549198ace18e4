"""What every notebook of the course must be (the course's contract), and that exercises work."""

import ast
import base64
import io
import re
import runpy
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from PIL import Image

import minikontext as mk
import minikontext.course.exercises  # fills the tables of exercises
from minikontext.course import live, progress
from minikontext.course.checks import KNOWN, REGISTRY, SOLVED
from minikontext.course.map import BOXES

ROOT = Path(__file__).resolve().parents[2]
READING = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "reading.py")))
markdown, prose, lines_of_code = READING.markdown, READING.prose, READING.lines_of_code
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
WORDS = (3, 10)  # for each line of code

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="there are no notebooks yet")


def load(path):
    return nbformat.read(path, as_version=4)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind and cell.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def pngs(cell):
    for output in cell.get("outputs", []):
        data = output.get("data", {}).get("image/png")
        if data:
            yield Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(autouse=True)
def progress_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIKONTEXT_PROGRESS", str(tmp_path / "progress.json"))


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


def test_all_notebooks_together_run_in_25_minutes():
    assert sum(load(path).metadata["measured_seconds"] for path in NOTEBOOKS) <= 25 * 60


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
    assert max(len(cell.source.splitlines()) for cell in cells(notebook, "code")) <= 20
    words, lines = len(prose(markdown(notebook))), len(lines_of_code(notebook))
    low, high = WORDS
    text = f"{words} words for {lines} lines of code"
    assert low <= words / lines <= high, text


def test_every_figure_has_a_title(notebook):
    """A title states the finding; in figures of several panels it is the figure's."""
    for cell in cells(notebook, "code"):
        if "plt.show()" in cell.source:
            assert re.search(r"plt\.title\(|suptitle\(|set_title\(", cell.source), cell.source
        for node in ast.walk(ast.parse(cell.source)):
            name = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
            if name in ("show_images", "show_sequence", "show_latents"):
                assert "title" in {word.arg for word in node.keywords}, cell.source


def test_every_stored_picture_has_a_text_for_who_cannot_see_it(path, notebook):
    outputs = [output for cell in cells(notebook, "code") for output in cell.outputs]
    drawn = [o.metadata for o in outputs if "image/png" in o.get("data", {})]
    texts = [metadata.get("image/png", {}).get("alt", "") for metadata in drawn]
    assert all(len(text.split()) > 2 for text in texts), texts


# ---- rhythm


def test_header_and_setup(path, notebook):
    head = cells(notebook, "markdown")[0].source
    first = notebook.cells.index(cells(notebook, "code")[0])
    before = "\n".join(cell.source for cell in notebook.cells[:first])
    assert head.startswith(f"# {path.stem[:2]} · ")
    assert before.count("\n- ") >= 3 and "two CPU cores" in before
    assert cells(notebook, "code")[0].source == SETUP
    assert READING.stated(path) in " ".join(head.split())  # and that it is an estimate
    assert any("mk.course.show_system(" in cell.source for cell in cells(notebook, "code"))


def test_all_sections_in_order(notebook):
    text = markdown(notebook)
    found = [text.find(f"\n{section}") for section in SECTIONS]
    assert [s for s, at in zip(SECTIONS, found) if at < 0] == []
    assert found == sorted(found)


def test_a_prediction_comes_before_the_measurement(notebook):
    text = "\n\n".join(cell.source for cell in notebook.cells)  # `mk.course.predict` is code
    broken = text[text.find("\n## Break it") : text.find("\n## Play")]
    assert "predict" in broken.lower() and "<details>" in broken


def test_a_sheet_of_pictures_comes_before_the_widget(notebook):
    play = next(i for i, c in enumerate(notebook.cells) if "## Play" in c.source)
    rest = [cell for cell in notebook.cells[play:] if cell.cell_type == "code"]
    assert list(pngs(rest[0])), "the first cell of Play stores a sheet"
    assert "Widget(" in rest[1].source


def test_questions_have_folded_answers(notebook):
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
    """(name, source of the stub cell, source of the solution) of every function that is checked."""
    for cell in notebook.cells:
        if "exercise" in tags(cell):
            for name in re.findall(r"mk\.course\.check\((\w+)\)", cell.source):
                yield name, cell.source, SOLVED[name]


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
    assert 2 <= len([c for c in notebook.cells if "exercise" in tags(c)]) <= 5
    for name, stub, _ in found:
        assert "raise NotImplementedError" in stub
        space = imports(notebook)
        exec(stub.split("mk.course.check(")[0], space)
        assert "not attempted yet" in checked(space[name])


def test_stubs_and_solutions_are_those_of_the_checks(monkeypatch, capsys):
    tool = runpy.run_path(str(ROOT / "tools" / "exercises.py"))
    assert tool["main"](["--check"]) == 0, capsys.readouterr().out
    monkeypatch.setitem(SOLVED, "pack", SOLVED["pack"].replace("latents", "x"))
    assert tool["main"](["--check"]) == 1
    assert "differ: 02_sequence_concat" in capsys.readouterr().out


def test_solutions_pass(notebook):
    space = imports(notebook)
    for name, _, solution in exercises(notebook):
        exec(solution, space)  # a later one may call an earlier one
        printed = checked(space[name])
        assert "[OK]" in printed and "[FAIL]" not in printed, printed


# ---- the student's code in the model


@pytest.fixture(scope="module")
def toy():
    with redirect_stdout(io.StringIO()):
        return mk.KontextPipeline.from_pretrained("toy", device="cpu")


def solved(notebook, space):
    """Run a notebook's functions by hand and its solutions; return the stub of the last one."""
    for cell in cells(notebook, "code"):
        kept = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
        if "exercise" not in tags(cell):
            with suppress(NameError):  # a default that only the whole notebook knows
                exec(compile(ast.Module(kept, []), "<by hand>", "exec"), space)
    found = list(exercises(notebook))
    for _, _, solution in found:
        exec(solution, space)
    return found[-1][1]


def short_training(toy):
    editor = live.new_editor(seed=0)
    pairs = live.encode_pairs(toy.autoencoder, editor.text, level=1, count=64)
    tests = [mk.toyworld.sample_edit(0, 1, "test")]
    return {"editor": editor, "pairs": pairs, "live": live, "tests": tests}


def test_solutions_run_the_model_and_turn_every_box_green(toy, monkeypatch, capsys):
    """What a student does from notebook to notebook, with one file of progress."""
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    mk.course.style.apply()
    given = {"mk": mk, "pipe": toy, "picture": mk.course.pictures()["cat"], "prompt": "a hat"}
    green = set()
    for number, boxes in GREEN.items():
        (path,) = [one for one in NOTEBOOKS if one.stem.startswith(number)]
        space = imports(load(path)) | given | (short_training(toy) if number == "05" else {})
        stub, own = solved(load(path), space), "with mk.course.mine("
        runs = [c.source for c in cells(load(path), "code") if own in c.source]
        for source in runs if own in stub else [*runs, stub]:
            exec(source[max(source.find("mk.course.check("), 0) :], space)  # below the stub
        told = capsys.readouterr().out
        assert "[OK]  " in told and "[FAIL]" not in told, told
        if number < "07":
            *by_hand, last = [line for line in told.splitlines() if " ran " in line]
            assert ENDS.get(number, "byte for byte") in last, told
            assert all("the same" in line for line in by_hand), told
        else:
            assert "green on the map" in told
        green |= boxes
        assert progress.green() == green
    assert {name for name, box in BOXES.items() if box.number} - {"decode"} == green


# The boxes that a notebook's exercises complete.
GREEN = {"00": set(), "01": {"autoencoder"}, "02": {"tokens"}, "03": {"rope"},
         "04": {"transformer", "text"}, "05": {"flow", "noise"}, "06": {"sampler"},
         "07": {"distillation"}, "08": {"scale"}, "09": {"bench"}, "10": {"safety"},
         "11": {"weights"}}  # fmt: skip
# The attention that 04 builds by hand is the formula, and PyTorch's kernel adds in another order:
# it decides whether a value of 8 bits moves by one. Every solution makes the package's picture.
# In 05 a training runs: there is no picture. From 07 on nothing of the model.
ENDS = {"05": "all numbers agree"}


def test_code_that_a_notebook_gives_turns_no_box_green(toy, monkeypatch, capsys):
    """Run All of a student who has written nothing: no piece is kept, and no box is green."""
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    mk.course.style.apply()
    given = {"mk": mk, "pipe": toy, "picture": mk.course.pictures()["cat"], "prompt": "a hat"}
    own = "with mk.course.mine("
    for number in GREEN:
        (path,) = [one for one in NOTEBOOKS if one.stem.startswith(number)]
        runs = [c for c in cells(load(path), "code") if own in c.source]
        space = imports(load(path)) | given
        if any("exercise" not in tags(cell) for cell in runs):
            solved(load(path), space)
        for cell in runs:
            if "exercise" not in tags(cell):
                exec(cell.source, space)
                assert "[OK]" in capsys.readouterr().out
            else:  # what stands behind `with` are the stubs of this cell
                text = "".join(o.get("text", "") for o in cell.outputs)
                assert "not attempted yet" in text and "[OK]" not in text
    assert not progress.load("pieces") and not progress.green()


def test_no_wrong_ids_run_the_model_as_the_right_ones_do(toy, monkeypatch):
    """Two contexts and a wide target: an index, or rows for columns, cannot stay unseen."""
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    mk.course.style.apply()
    check = "mk.course.check(number_tokens)"
    (source,) = [c.source for path in NOTEBOOKS for c in load(path).cells if check in c.source]
    run = source.split(check)[1].replace("seed=0", "seed=0, num_inference_steps=2")
    given = {"mk": mk, "pipe": toy, "picture": mk.course.pictures()["cat"], "prompt": "a hat"}
    for told, wrong in KNOWN["number_tokens"].items():
        with suppress(RuntimeError):  # ids are missing
            exec(run, given | {"number_tokens": wrong})
        assert not progress.load("pieces"), told


def test_exercises_have_difficulty_time_and_hints(notebook):
    text = markdown(notebook)
    part = text[text.find("\n## Exercises") : text.find("\n## In the real model")]
    headings = re.findall(r"^### .*", part, flags=re.MULTILINE)
    assert len(headings) == len([c for c in notebook.cells if "exercise" in tags(c)])
    assert all("★" in heading and "minutes" in heading for heading in headings)
    assert part.count("Hint 1") == part.count("Hint 2") == len(headings)
    *others, last = [heading.count("★") for heading in headings]
    assert last == 3 and max(others) < 3, "the last exercise, and no other, builds a piece"


def formula(code):
    """Whether code computes in two steps or more: a hint asks for the formula, it has none."""
    with suppress(SyntaxError):
        return sum(isinstance(node, ast.BinOp) for node in ast.walk(ast.parse(code))) > 1
    return False


def says_how(code, solution):
    """Whether a hint's code is a whole thought of the solution: more than the name of a tool."""
    if formula(code):
        return True
    plain = "".join(code.split())
    if len(plain) <= 24 or plain not in "".join(solution.split()):
        return False
    nodes = [type(node) for node in ast.walk(ast.parse(code))]
    return bool({ast.Assign, ast.BinOp, ast.Compare} & {*nodes}) or nodes.count(ast.Call) > 1


def test_no_hint_is_a_line_of_the_solution(notebook):
    for cell, fold in zip(notebook.cells, notebook.cells[1:]):
        if "exercise" in tags(cell):
            hints, solution = fold.source.split("<summary>Solution</summary>")
            told = re.findall(r"`([^`]+)`", hints)
            assert not [code for code in told if says_how(code, solution)]


def test_every_registered_exercise_is_in_a_notebook():
    used = {name for path in NOTEBOOKS for name, _, _ in exercises(load(path))}
    assert used == set(REGISTRY)


# ---- glossary


def test_the_glossary_is_sorted_and_leads_to_notebooks():
    text = (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\*\*(.+?)\.?\*\*", text[text.index("## Words") :], flags=re.MULTILINE)
    assert [word.lower() for word in words] == sorted({word.lower() for word in words})
    links = set(re.findall(r"\]\(([^)#]+)\)", text))
    assert links and all((ROOT / "notebooks" / link).is_file() for link in links)


def test_links_between_notebooks_are_not_dead(path, notebook):
    links = re.findall(r"\]\(([^)#:]+\.(?:ipynb|md))\)", markdown(notebook))
    assert all((path.parent / link).is_file() for link in links), links
