"""The course as a book: Sphinx with the notebooks' stored outputs; nothing is run to build it."""

import re

from sphinx.application import Sphinx

import minikontext

project = "minikontext"
author = "the minikontext authors"
copyright = "the minikontext authors, Apache-2.0"
release = version = minikontext.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
nb_execution_mode = "off"  # what is shown is what was stored, and what the tests compare
nb_merge_streams = True
myst_enable_extensions = ["html_image"]  # formulas are written in plain characters
myst_heading_anchors = 3
# Widgets need a kernel: the sheet above them shows what they do.
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
default_role = "code"  # docstrings write `name`

html_theme = "furo"
html_title = "minikontext"
html_static_path = ["book.css", "book.js"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f4fb3", "color-brand-content": "#2f4fb3"},
    "dark_css_variables": {"color-brand-primary": "#9db4ff", "color-brand-content": "#9db4ff"},
}
copybutton_exclude = ".linenos, .gp, .go"


def plain(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Our docstrings are plain text with `names`: escape what would be markup in them."""
    paragraphs = "\n".join(lines).strip("\n").split("\n\n")
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).split("\n")


def _paragraph(text: str) -> str:
    rows = text.split("\n")
    if any(row.startswith(" ") for row in rows):  # a table or a formula: as it stands
        return "::\n\n" + "\n".join(f"   {row}" for row in rows)
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", p) for p in parts)


BOUNDED = re.compile(
    r"(?:~?typing\.)?Annotated\[([^][,()]+(?:\[[^][]*\])?)(?:, ~?[\w.]+\([^()]*\))+\]"
)


def unbounded(signature: str) -> str:
    """A signature whose types have no bounds: `Annotated[int, Interval(ge=1)]` is `int`."""
    while (shorter := BOUNDED.sub(r"\1", signature)) != signature:
        signature = shorter  # from the inside out
    return signature


def setup(app: Sphinx) -> None:
    """Register the reading of docstrings and signatures."""
    app.connect("autodoc-process-docstring", plain)
    app.connect(
        "autodoc-process-signature",  # a module has none
        lambda app, what, name, thing, options, given, result: (
            (unbounded(given), result) if given else None
        ),
    )
