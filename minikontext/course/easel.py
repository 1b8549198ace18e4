"""The place of a result: compare it with the picture before, draw a cue on it, drop pictures on it.

What needs no kernel is done by the browser: `easel.js`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as W

from minikontext.course import browser, style
from minikontext.course.parts import Picture
from minikontext.runtime.config import parse_json

# What a view makes of the pointer: nothing, the slider, or one of the pens.
VIEWS = {
    "Result": ((), "The picture after the edit"),
    "Compare": (("mk-compare",), "A slider between the picture before and after"),
    "Difference": ((), "What the edit changed, amplified"),
    "Ellipse": (("mk-draw", "mk-ellipse"), "Draw a red ellipse around what you mean"),
    "Brush": (("mk-draw",), "Paint in red on what you mean"),
}
HELP = (
    "Draw on the picture. Arrow keys move the ellipse or the brush, Shift and arrow keys change "
    "the ellipse's size, Enter draws, Escape takes all marks away."
)
CSS = f"""<style>
.mk .mk-stage {{ position: relative; width: 256px; max-width: 100%; margin: 0; overflow: visible;
  border-radius: 8px; }}
.mk .mk-stage .mk-under {{ position: absolute; inset: 0; visibility: hidden;
  clip-path: inset(0 calc(100% - var(--at, 50%)) 0 0); }}
.mk .mk-compare .mk-under {{ visibility: visible; }}
.mk .mk-easel, .mk .mk-easel .widget-html-content, .mk :is(.mk-board, .mk-range) {{
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; }}
.mk .mk-easel {{ pointer-events: none; }}
.mk :is(.mk-board, .mk-range, .mk-line) {{ visibility: hidden; }}
.mk .mk-draw .mk-board {{ visibility: visible; pointer-events: auto; cursor: crosshair;
  touch-action: none; }}
.mk .mk-board path {{ fill: none; stroke: #ff1414; stroke-linecap: round;
  stroke-linejoin: round; }}
.mk .mk-compare .mk-range {{ visibility: visible; pointer-events: auto; opacity: 0;
  cursor: ew-resize; touch-action: pan-y; }}
.mk .mk-line {{ position: absolute; top: 0; bottom: 0; left: var(--at, 50%); width: 3px;
  margin-left: -2px; background: #fff; box-shadow: 0 0 0 1px #0009; }}
.mk .mk-line::after {{ content: "↔"; position: absolute; top: calc(50% - 13px); left: -12px;
  width: 26px; height: 26px; border-radius: 13px; background: #fff; color: {style.INK};
  box-shadow: 0 0 0 1px #0009; text-align: center; font-size: 15px; line-height: 26px; }}
.mk .mk-compare .mk-line {{ visibility: visible; }}
.mk .mk-stage:has(:focus-visible) {{ outline: 2px solid var(--mk-focus, {style.BLUE});
  outline-offset: 2px; }}
.mk .mk-tray {{ border: 1px dashed var(--jp-border-color1, #98a3b0); border-radius: 6px;
  padding: 4px 8px; }}
.mk[data-easel] .mk-tile .mk-thumb {{ position: relative; z-index: 1; cursor: pointer; }}
.mk.mk-over {{ outline: 2px dashed {style.BLUE}; }}
.mk .mk-hint {{ font-size: 12px; color: var(--jp-ui-font-color2, #5b6674); }}
</style>"""
SCRIPT = Path(__file__).with_suffix(".js")


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
            + browser.script(SCRIPT.read_text(encoding="utf-8"))
        )
        board.add_class("mk-easel")
        self.said = W.Text(tooltip="What the browser says", layout=W.Layout(display="none"))
        self.said.add_class("mk-said")
        self.said.observe(lambda change: heard(_message(change["new"])), "value")
        super().__init__([self.image, self.under, board, self.said])
        self.add_class("mk-stage")

    def turn(self, view: str) -> None:
        """Take up a view: show the slider, or let the pointer draw."""
        wanted = VIEWS[view][0]
        for name in {name for names, _ in VIEWS.values() for name in names}:
            self.add_class(name) if name in wanted else self.remove_class(name)


def _message(text: str) -> Mapping[str, Any]:
    """What the browser said; nothing if it is no object."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
