"""The book that `make book` has built, for eyes: axe and narrow windows, in both themes."""

from pathlib import Path

import pytest
from static_server import serving

BOOK = Path(__file__).resolve().parents[2] / "build" / "book"
PAGES = ["index", "notebooks/00_start_here", "notebooks/03_rope_offsets", "notebooks/glossary",
         "api/0-the-paper", "data/bench/README", "data/weights/toy/README", "docs/install",
         "README", "search", "genindex", "_modules/minikontext/flow"]  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BOOK / "index.html").is_file(), reason="`make book` has not run"),
]


@pytest.fixture(scope="module")
def address():
    """The book as any static server would show it."""
    with serving(BOOK) as address:
        yield address


def test_the_first_page_is_an_editor_that_edits_and_has_the_books_theme(page, address):
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{address}index.html")
    frame = page.frame_locator("iframe.editor")
    editor = next(one for one in page.frames if one.url.endswith("page/index.html"))
    editor.wait_for_function("!document.getElementById('run').disabled", timeout=120_000)
    grounds = {}
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.body.dataset.theme = theme }", theme)
        page.wait_for_timeout(300)
        grounds[theme] = editor.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds["light"] != grounds["dark"]
    frame.locator("#prompt").fill("make it night")
    frame.locator("#run").click()
    said = "document.getElementById('status').textContent"
    editor.wait_for_function(f"/^(Done|Finished)/.test({said})", timeout=120_000)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_book(page, npm, address, theme):
    page.emulate_media(color_scheme=theme)
    for name in PAGES:
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.goto(f"{address}{name}.html")
        page.evaluate((npm / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(name, v["id"], v["nodes"][0]["html"]) for v in grave] == []
        for width in (1280, 800):  # what is too wide scrolls in its own box
            page.set_viewport_size({"width": width, "height": 1000})
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
