"""The student's copy of the course: answers stay, the shipped notebooks stay clean."""

import json
import sys
from pathlib import Path

import pytest

from minikontext.cli import app, lab
from minikontext.errors import ConfigError, OutputError

sys.path.insert(0, str(Path(__file__).parent))
from children import full_disk, snapshot

START = lab.START


def notebook(*sources):
    cells = [
        {"cell_type": "code", "id": f"cell-{i:02}", "source": [source], "metadata": {},
         "outputs": [], "execution_count": None}
        for i, source in enumerate(sources)
    ]  # fmt: skip
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def sources(book):
    return ["".join(cell["source"]) for cell in book["cells"]]


@pytest.fixture
def course(tmp_path):
    """A small course as it is shipped, and the folder of a student."""
    shipped = tmp_path / "shipped" / "notebooks"
    shipped.mkdir(parents=True)
    write(shipped / START, notebook("a", "answer = None", "c"))
    write(shipped / "01_more.ipynb", notebook("x"))
    (shipped / "glossary.md").write_text("words")
    return shipped, tmp_path / "mine"


def write(path, book):
    path.write_text(json.dumps(book))


def read(path):
    return json.loads(path.read_text())


def test_a_first_start_copies_everything_and_changes_nothing_shipped(course):
    shipped, mine = course
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    assert lab.deliver(shipped, mine) == []
    assert {path.name: path.read_bytes() for path in (mine / "notebooks").iterdir()} == before
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before


def test_a_second_start_leaves_what_was_run_alone(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / START, notebook("a", "answer = 42", "c"))
    run = (mine / "notebooks" / START).read_bytes()
    assert lab.deliver(shipped, mine) == []
    assert (mine / "notebooks" / START).read_bytes() == run


def test_an_update_keeps_the_answer_though_cells_move(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / START, notebook("a", "answer = 42", "my own", "c"))
    write(shipped / START, notebook("new", "a", "answer = None", "c, better", "d"))
    (told,) = lab.deliver(shipped, mine)
    found = read(mine / "notebooks" / START)
    assert sources(found) == ["new", "a", "answer = 42", "my own", "c, better", "d"]
    assert len({cell["id"] for cell in found["cells"]}) == 6
    assert "brought up to date" in told and "beside" not in told
    (kept,) = (mine / lab.DELIVERED / "before").iterdir()
    assert sources(read(kept)) == ["a", "answer = 42", "my own", "c"]
    assert lab.deliver(shipped, mine) == []  # once


def test_where_both_changed_a_cell_both_are_there(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / START, notebook("a", "answer = 42", "c"))
    write(shipped / START, notebook("a", "answer = ...", "c"))
    (told,) = lab.deliver(shipped, mine)
    assert sources(read(mine / "notebooks" / START)) == ["a", "answer = 42", "answer = ...", "c"]
    assert "1 of your cells" in told


def test_reset_starts_one_notebook_anew_and_keeps_the_old_one(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    for name in (START, "01_more.ipynb"):
        write(mine / "notebooks" / name, notebook("mine"))
    lab.deliver(shipped, mine, ["00"])
    assert sources(read(mine / "notebooks" / START)) == ["a", "answer = None", "c"]
    assert sources(read(mine / "notebooks" / "01_more.ipynb")) == ["mine"]
    (kept,) = (mine / lab.DELIVERED / "before").iterdir()
    assert sources(read(kept)) == ["mine"]


@pytest.mark.parametrize("broken", ["", '{"cells": [', "[]", '{"cells": [{}]}'])
def test_a_notebook_that_is_cut_short_is_kept_and_the_course_goes_on(course, broken):
    shipped, mine = course
    lab.deliver(shipped, mine)
    (mine / "notebooks" / START).write_text(broken)
    write(shipped / START, notebook("a", "better"))
    (told,) = lab.deliver(shipped, mine)
    (kept,) = (mine / lab.DELIVERED / "before").iterdir()
    assert "is no sound notebook" in told and kept.read_text() == broken
    assert sources(read(mine / "notebooks" / START)) == ["a", "better"]
    assert lab.deliver(shipped, mine) == []


@pytest.mark.parametrize("broken", ["", '{"cells": [', "[" * 200_000, '{"cells": [{"source": 1}]}'])
def test_a_broken_copy_of_what_was_delivered_costs_no_answer(course, broken):
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / START, notebook("a", "answer = 42"))
    (mine / lab.DELIVERED / START).write_text(broken)
    (told,) = lab.deliver(shipped, mine)
    assert "brought up to date" in told
    assert "answer = 42" in sources(read(mine / "notebooks" / START))


@pytest.mark.skipif(sys.platform == "win32", reason="no file can be kept small there")
def test_a_full_disk_costs_no_notebook(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / START, notebook("a", "answer = 42", "c"))
    write(shipped / START, notebook("better", "a", "answer = None", "c"))
    before = snapshot(mine)
    with full_disk(10), pytest.raises(OutputError, match="Make room"):
        lab.deliver(shipped, mine)
    assert snapshot(mine) == before


def test_what_is_as_it_is_shipped_is_trusted_and_nothing_else(course, monkeypatch, tmp_path):
    """Jupyter shows stored styles of signed notebooks alone."""
    nbformat = pytest.importorskip("nbformat")
    from nbformat.sign import NotebookNotary

    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / START, notebook("a", "answer = 42", "c"))
    write(mine / "notebooks" / "own.ipynb", notebook("own"))
    lab.trust(shipped, mine)
    trusted = {one.name: NotebookNotary().check_signature(nbformat.read(one, as_version=4))
               for one in (mine / "notebooks").glob("*.ipynb")}  # fmt: skip
    assert trusted == {START: False, "own.ipynb": False, "01_more.ipynb": True}


def test_a_notebook_that_is_gone_or_renumbered_stays_and_is_told_once(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    write(mine / "notebooks" / "01_more.ipynb", notebook("x = 42"))
    (shipped / "01_more.ipynb").rename(shipped / "02_more.ipynb")
    (told,) = lab.deliver(shipped, mine)
    assert told.startswith("01_more.ipynb: is no part") and told.endswith("yours stays")
    assert sources(read(mine / "notebooks" / "01_more.ipynb")) == ["x = 42"]
    assert sources(read(mine / "notebooks" / "02_more.ipynb")) == ["x"]
    assert lab.deliver(shipped, mine) == []


def test_mistakes(course, tmp_path):
    shipped, mine = course
    with pytest.raises(ConfigError, match="no notebook '77' to reset. Numbers are 00 to 01"):
        lab.deliver(shipped, mine, ["77"])
    assert not mine.exists()
    with pytest.raises(OutputError, match="as it is shipped"):
        lab.deliver(shipped, shipped.parent)
    other = tmp_path / "clone"  # not the one that is installed
    (other / "notebooks").mkdir(parents=True)
    (other / "pyproject.toml").touch()
    with pytest.raises(OutputError, match="as it is shipped"):
        lab.deliver(shipped, other)
    assert not list((other / "notebooks").iterdir())
    with pytest.raises(ConfigError, match="Install minikontext again"):
        lab.deliver(tmp_path, mine)


def test_a_course_is_not_put_into_a_course(course):
    shipped, mine = course
    lab.deliver(shipped, mine)
    before = snapshot(mine)
    for inner in ("notebooks", "notebooks/deep", ".course"):
        with pytest.raises(OutputError, match="lies in the course .*mine. Name that folder"):
            lab.deliver(shipped, mine / inner)
    with pytest.raises(OutputError, match="as it is shipped"):
        lab.deliver(shipped, shipped / "deep")
    assert snapshot(mine) == before and not (shipped / "deep").exists()
    lab.deliver(shipped, mine / "another")
    assert (mine / "another" / "notebooks" / START).is_file()


def test_the_real_course_is_delivered_with_what_it_links_to(tmp_path, capsys):
    assert app.main(["lab", str(tmp_path / "mine"), "--copy-only"]) == 0
    names = {path.name for path in (tmp_path / "mine" / "notebooks").iterdir()}
    assert {START, "11_full_flux_weights.ipynb", "glossary.md"} <= names
    assert (tmp_path / "mine/data/weights/toy-max/README.md").is_file()
    assert capsys.readouterr().out == f"course: {tmp_path / 'mine'}\n"
