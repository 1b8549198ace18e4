"""No notebook says that one measurement is better than another unless `bench.compare` decided it.

What a notebook says, it prints, writes over a figure or gives a kept prediction. A statement that
says a comparison must hold a value that came from the engine, directly or through a name that was
made with it; or it is in OTHER, with the reason. Prose is read by tests/bench/test_claims.py.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
COMPARES = re.compile(
    r"\b(better|worse|more|less|fewer|higher|lower|larger|smaller|nearer|wins?|won|loses?|lost"
    r"|beats?|faster|slower|twice|doubles?|improves?|best|worst|beside|as often|no difference|than"
    r"|rises|falls|surest|wider|as readable|more and more)\b",
    re.IGNORECASE,
)
SAYS = {"print", "title", "suptitle", "set_title", "show_images", "bars", "measured", "text"}
ENGINE = {"paired", "unpaired", "of_rates", "wilson", "rate", "interval", "percent_interval",
          "verdict", "word", "not_worse"}  # fmt: skip

COUNTED = "counted or computed exactly: the same on every run"
BELOW = "a heading; the engine's words stand below it"
ONE = "one picture, all of it"
NOT_SO = "the word means something else here"

OTHER = {
    "00": {"PSNR lost:": BELOW},
    "01": {
        "times fewer:": COUNTED,
        "they hold more than 9/10 of the change:": ONE,
        "Fast at first, then ever slower": "one curve, described",
    },
    "02": {
        "Attention wins when the tokens far outnumber the width": COUNTED,
        "a little worse": "one picture made twice from one noise, all of it",
        "dB better now": BELOW,
    },
    "04": {
        "double: modulation": NOT_SO,
        "block 2: heads that put more than half on the own place:": COUNTED,
    },
    "05": {
        "A larger μ draws more noise; the dotted line is uniform": COUNTED,
        "t = 0.85 in all three, averaged to 32 × 32 greys: the larger picture shows through": ONE,
    },
    "06": {
        "The larger μ, the more steps are spent in the noise": COUNTED,
        "longer than a straight line:": COUNTED,
        "Lost from turn 1 to 8:": BELOW,
    },
    "07": {
        "at t = 1 there is no difference:": COUNTED,
        "One step: the blur falls apart into answers": BELOW,
    },
    "08": {
        "gathering once costs less than half a percent:": COUNTED,
        "summing 1024 in bfloat16 costs more than ten times that:": COUNTED,
        "memory below a third, work up by a third or less:": COUNTED,
        "times less memory than the formula": COUNTED,
        "tiles need less than a fifth:": COUNTED,
        "fewer than a sixth of the operations:": COUNTED,
        "fewer than a fifth:": COUNTED,
        "products of a step, beside none:": COUNTED,
        "the whole net saves less than a tenth:": COUNTED,
    },
    "09": {
        "for some request doing nothing is nearer than the editor was for another:": "there is one",
        "No kind of wrong answer passes more often than": "the largest of a table's rows",
        "Which … The question decides who wins": BELOW,
        "The target rises, the other judge falls": BELOW,
    },
    "10": {
        "your loss and the package's differ by less than 1e-5:": COUNTED,
        "Worn pictures: the laxer the threshold, the more symbols"
        " and the more false alarms": COUNTED,
        "Worn pictures: the highest harmless score beside the lowest of a symbol": "what is shown",
    },
    "11": {"but the velocity is wrong by more than a tenth:": COUNTED},
    "12": {
        "the package has more than 100 times as many:": COUNTED,
        "float8 differs by more:": COUNTED,
    },
}


def called(node):
    """The last part of a call's name: `plt.title(…)` is title."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def calls(tree, names):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and called(n) in names]


def used(tree):
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def made(statement):
    """The names that a statement makes; those that a loop counts with say nothing."""
    own = {statement.name} if isinstance(statement, ast.FunctionDef) else set()
    loops = [n.target for n in ast.walk(statement) if isinstance(n, ast.For | ast.comprehension)]
    counted = {n.id for loop in loops for n in ast.walk(loop) if isinstance(n, ast.Name)}
    nodes = [n for n in ast.walk(statement) if isinstance(n, ast.Name)]
    return own | {n.id for n in nodes if isinstance(n.ctx, ast.Store)} - counted


def strings(tree):
    found = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return [text for text in found if isinstance(text, str)]


def undecided(notebook):
    """The comparisons that a notebook says without a value of the engine."""
    found, decided = [], set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for statement in ast.parse(cell.source).body:
            if calls(statement, ENGINE) or used(statement) & decided:
                decided |= made(statement)
                continue
            decided -= made(statement)
            for call in calls(statement, SAYS):
                found += [text.strip() for text in strings(call) if COMPARES.search(text)]
    return found


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_no_notebook_compares_what_nobody_decided(path):
    odd = set(undecided(nbformat.read(path, as_version=4)))
    known = set(OTHER.get(path.stem[:2], ()))
    assert odd <= known, "let bench.compare decide and say its word; or say in OTHER why not"
    assert known <= odd, "OTHER has sentences that the notebook lost"


@pytest.mark.parametrize(
    "planted",
    [
        'print("Heun is better than Euler:", a.mean() > b.mean())',
        'plt.title(f"Heun wins by {a.mean() - b.mean():.1f} dB")',
        'word = "better" if a.mean() > b.mean() else "worse"\nprint("Heun beside Euler:", word)',
        'guess.measured("more" if a.mean() > b.mean() else "less")',
        'def say(x, y):\n    return x > y\nprint("Heun has fewer failures:", say(a, b))',
        'mk.course.bars({"a": 1, "b": 2}, "More steps, worse edits")',
        'print(f"surest of all: {max(rates, key=rates.get)}")',
        'word = compare.paired(a, b).word()\nword = a > b\nprint("Heun beside Euler:", word)',
        "for x in runs:\n    print(compare.paired(a, runs[x]).word())\n"
        'print("the best:", min(runs, key=lambda x: runs[x]))',
    ],
)
def test_a_planted_comparison_is_caught(planted):
    cell = nbformat.v4.new_code_cell
    assert undecided(nbformat.v4.new_notebook(cells=[cell(planted)]))
    sound = (
        'def word(x, y):\n    return compare.paired(x, y).word()\nprint("a beside b:", word(a, b))'
    )
    assert not undecided(nbformat.v4.new_notebook(cells=[cell(sound)]))
