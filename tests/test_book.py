"""What the book checks of itself; `make book` builds it, and CI does."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import minikontext

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def book():
    spec = importlib.util.spec_from_file_location("book", ROOT / "tools" / "book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prose_leads_to_the_reference(book):
    prose = "`mk.flow.loss` and `mk.images.read()`, `mk.nonsense`, `mk.course.setup`, `x`"
    notebook = {"cells": [{"cell_type": kind, "source": [prose]} for kind in ("markdown", "code")]}
    markdown, code = json.loads(book.linked(json.dumps(notebook)))["cells"]
    assert markdown["source"] == (
        "{py:obj}`mk.flow.loss <minikontext.flow.loss>` and "
        "{py:obj}`mk.images.read() <minikontext.images.read.read>`, `mk.nonsense`, "
        "`mk.course.setup`, `x`"
    )
    assert code["source"] == [prose]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem
)
def test_the_same_in_the_package_leads_to_the_source(book, path):
    text = book.linked(path.read_text(encoding="utf-8"))
    within, found = False, []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        for line in source.splitlines() if cell["cell_type"] == "markdown" else ():
            within = line.startswith("## The same in the package") or (
                within and not line.startswith("## ")
            )
            found += re.findall(r"\{py:obj\}`[^`]* <minikontext\.([\w.]+)>`", line) * within
    assert found, path.name


def test_a_link_leads_only_where_the_reference_has_a_page(book):
    """A module has one, a constant and a folder have none."""
    prose = "`mk.bench.compare`, `minikontext.flow`, `mk.toyworld`, `mk.toyworld.scene.CHOICES`"
    cells = [{"cell_type": "markdown", "source": [prose]}]
    assert json.loads(book.linked(json.dumps({"cells": cells})))["cells"][0]["source"] == (
        "{py:obj}`mk.bench.compare <minikontext.bench.compare>`, "
        "{py:obj}`minikontext.flow <minikontext.flow>`, `mk.toyworld`, `mk.toyworld.scene.CHOICES`"
    )


def test_plots_keep_their_width_and_pictures_have_a_text(book):
    def output(text):
        return {"data": {"image/png": "…", "text/plain": [text]}, "metadata": {}}

    plot = output("<Figure size 550x330 with 1 Axes>")
    picture = output("<IPython.core.display.Image>")
    notebook = {"cells": [
        {"cell_type": "markdown", "source": ["# A\n", "text\n", "## 2 · Look `here`\n"]},
        {"cell_type": "markdown", "source": ["More."]},
        {"cell_type": "code", "source": ["x"], "metadata": {}, "outputs": [plot, picture]},
    ]}  # fmt: skip
    cell = json.loads(book.linked(json.dumps(notebook)))["cells"][-1]
    assert [o["metadata"] for o in cell["outputs"]] == [{"image/png": {"width": 550}}, {}]
    assert cell["metadata"]["mystnb"]["image"]["alt"].endswith(": 2 · Look here")
    for one, text in ((plot, "It falls"), (picture, "before; after")):
        one["metadata"] = {"image/png": {"alt": text}}
    cell = json.loads(book.linked(json.dumps(notebook)))["cells"][-1]
    assert cell["metadata"]["mystnb"]["image"]["alt"] == "It falls · before; after"


def test_plots_and_sheets_are_dark_in_the_dark_theme_as_in_the_lab():
    from minikontext.course.style import DARK, SHEET

    rules = (ROOT / "docs" / "book.css").read_text(encoding="utf-8")
    assert rules.count(f"filter: {DARK};") == rules.count(f"filter: {SHEET};") == 2


def test_every_notebook_and_wing_has_its_page(book, tmp_path):
    book.gather(tmp_path / "source")
    front = (tmp_path / "source" / "index.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{path.stem}" in front for path in (ROOT / "notebooks").glob("*.ipynb"))
    pages = {path.stem for path in (tmp_path / "source" / "api").glob("*.md")}
    assert pages == {"index", "0-the-paper", *book.DOCUMENTED}
    for page in (tmp_path / "source" / "data").rglob("*.md"):
        assert page.read_text(encoding="utf-8").startswith("#"), page


def test_signatures_are_read_without_the_bounds_of_their_types(monkeypatch):
    pytest.importorskip("sphinx", reason="sphinx is not installed: make book brings it")
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    side = "~typing.Annotated[int, ~annotated_types.Interval(gt=None, ge=1, lt=None, le=64)]"
    several = f"~typing.Annotated[tuple[{side}, ...], ~annotated_types.MaxLen(max_length=16)]"
    given = f"(a: {side}, b: {several} = (), c: str)"
    assert conf.unbounded(given) == "(a: int, b: tuple[int, ...] = (), c: str)"
    assert conf.unbounded(f"(a: {side} | None = None) -> list[{side}]") == (
        "(a: int | None = None) -> list[int]"
    )


PAGES = (ROOT / "README.md", ROOT / "DEPENDENCIES.md", *sorted((ROOT / "docs").glob("*.md")))


def anchors(page):
    """The headings of a page, as links name them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        file, _, anchor = link.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


def test_a_newcomer_reads_the_readme_in_half_a_minute():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, tree = text.split("## Where things are")  # which is looked up, not read
    assert len(before.splitlines()) <= 60 and len(before.split()) <= 450
    assert len(tree.splitlines()) <= 40
    assert "make lab" in text and all(f"docs/{one.name}" in text for one in PAGES[2:])


def test_the_readme_shows_the_tree_of_the_package_in_the_order_to_read_it():
    drawn = [line.split(maxsplit=1) for line in minikontext.__doc__.splitlines()
             if line.startswith("    ")]  # fmt: skip
    names = {name.rstrip("/") for name, _ in drawn}
    assert names == {*minikontext.IDEAS, *minikontext.WINGS} - {"errors"}
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[-2]
    assert [line.split(maxsplit=1) for line in shown.strip().splitlines()] == drawn


def test_what_asks_the_network_and_dead_links_are_found(book, tmp_path):
    (tmp_path / "good.html").write_text(
        '<a href="other.html#x">x</a> <a href="https://x.org">y</a>'
    )
    (tmp_path / "other.html").write_text('<pre><span href="code.html"></pre> <img src="data:,">')
    assert book.dead_links(tmp_path) == [] and book.asked_from_elsewhere(tmp_path) == []
    (tmp_path / "bad.html").write_text(
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//c.d/x.css">'
        '<a href="gone.html">z</a>'
    )
    assert len(book.asked_from_elsewhere(tmp_path)) == 2
    assert book.dead_links(tmp_path) == ["bad.html leads to gone.html, which is not there"]


def test_every_link_of_a_page_leads_to_a_page_or_file_of_the_book(book, tmp_path):
    """Sphinx says so too, but only `make book` asks it: here the suite fails first."""
    book.gather(tmp_path / "source")
    dead = [
        f"{page.relative_to(tmp_path)}: {link}"
        for page in (tmp_path / "source").rglob("*.md")
        for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not dead
