"""The place of a result: compare it with the picture before, draw a cue on it, drop pictures on it.

What needs no kernel is done by the browser: `static/easel.js`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as W

from minikontext.course import browser, style
from minikontext.course.parts import Picture
from minikontext.runtime.config import parse_json

# What a view makes of the pointer, nothing, the slider or a pen, is up to its button in the page
# (in this order: easel.css): the slider is there at once, however late the kernel hears of it.
VIEWS = {
    "Result": "The picture after the edit",
    "Compare": "A slider between the picture before and after",
    "Difference": "What the edit changed, amplified",
    "Ellipse": "Draw a red ellipse around what you mean",
    "Brush": "Paint in red on what you mean",
}
HELP = (
    "Draw on the picture. Arrow keys move the ellipse or the brush, Shift and arrow keys change "
    "the ellipse's size, Enter draws, Escape takes all marks away."
)
CSS = style.sheet("easel")


class Easel(W.VBox):
    """The pictures `image` and `under`, a slider between them, and a board for marks.

    heard: gets what the browser says: {"mark": {"kind", "points"}}, {"clear": True}, or
    {"drop": name, "add": bool}, where no name means that files follow through the upload button.
    """

    def __init__(self, heard: Callable[[Mapping[str, Any]], None]) -> None:
        self.image, self.under = Picture("the result"), Picture("the picture before, to compare")
        self.image.add_class("mk-top")
        self.under.add_class("mk-under")
        board = W.HTML(
            f'<div class="mk-board" tabindex="0" role="application" aria-label="{HELP}">'
            '<svg aria-hidden="true" width="100%" height="100%"><path/></svg></div>'
            '<div class="mk-line" aria-hidden="true"></div><input class="mk-range" type="range" '
            'value="50" aria-label="Before and after: how much is shown of the picture before">'
            + browser.script("easel")
        )
        board.add_class("mk-easel")
        self.said = W.Text(tooltip="What the browser says", layout=W.Layout(display="none"))
        self.said.add_class("mk-said")
        self.said.observe(lambda change: heard(_message(change["new"])), "value")
        super().__init__([self.image, self.under, board, self.said])
        self.add_class("mk-stage")


def _message(text: str) -> Mapping[str, Any]:
    """What the browser said; nothing if it is no object."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
