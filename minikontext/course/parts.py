"""Small parts that the widgets of the course are made of, and their one look."""

from __future__ import annotations

import asyncio
import html
import threading
import warnings
from collections.abc import Callable, Sequence

import ipywidgets as W
from PIL import Image

from minikontext import images as image_io
from minikontext.course import style
from minikontext.errors import Cancelled, MinikontextError

CSS = f"""<style>
.mk {{ max-width: 700px; padding: 16px 18px; border-radius: 10px; gap: 8px;
  border: 1px solid var(--jp-border-color2, #d8dee6); background: var(--jp-layout-color1, #fff); }}
.mk .widget-html-content {{ line-height: 1.45; }}
.mk img {{ object-fit: contain; overflow: clip; }}
.mk .mk-picture {{ border-radius: 8px !important; background: var(--jp-layout-color2, #f1f4f8);
  width: 256px; max-width: 100%; height: auto; aspect-ratio: 1; margin: 0; }}
.mk .mk-sharp {{ image-rendering: pixelated; }}
.mk .mk-thumb {{ width: 72px; height: 72px; border-radius: 6px !important; margin: 5px; }}
.mk .mk-faded {{ opacity: .35; }}
.mk .mk-caption {{ font-size: 12px; color: var(--jp-ui-font-color2, #5b6674); text-align: center;
  max-width: 256px; white-space: normal; line-height: 1.3; overflow-wrap: anywhere; }}
.mk .mk-wide {{ overflow-x: auto; }}
.mk .mk-wide img {{ flex: none; max-width: none; }}
.mk .mk-ends {{ display: flex; justify-content: space-between; font-size: 12px; line-height: 1.2;
  color: var(--jp-ui-font-color2, #5b6674); }}
.mk .mk-label {{ height: 24px; line-height: 22px; padding: 0 4px; font-size: 12px; border: none;
  background: transparent; color: var(--jp-ui-font-color2, #5b6674); box-shadow: none; }}
.mk .mk-label:hover {{ color: {style.BLUE}; text-decoration: underline; box-shadow: none; }}
.mk .mk-here {{ color: var(--jp-ui-font-color1, {style.INK}); font-weight: 600; }}
.mk .mk-lit {{ outline: 3px solid {style.ACCENT}; outline-offset: 1px; }}
.mk .mk-view .widget-toggle-button {{ height: 26px; line-height: 24px; font-size: 12px; }}
.mk .mk-arrow {{ font-size: 26px; color: var(--jp-ui-font-color3, {style.GREY}); }}
.mk .mk-prompt input {{ font-size: 15px; height: 36px; padding: 0 10px; border-radius: 6px; }}
.mk .mk-run {{ height: 36px; border-radius: 6px; font-weight: 600;
  color: #fff; background: {style.ACCENT}; }}
.mk .mk-run:disabled {{ opacity: .45; }}
.mk .mk-chip {{ width: auto; height: 26px; line-height: 24px; border-radius: 13px; padding: 0 11px;
  font-size: 12px; background: var(--jp-layout-color2, #f1f4f8);
  color: var(--jp-ui-font-color1, {style.INK}); border: 1px solid var(--jp-border-color2, #d8dee6);
  box-shadow: none; }}
.mk .mk-chip:hover {{ border-color: {style.BLUE}; }}
.mk .mk-quiet {{ height: 28px; line-height: 26px; border-radius: 6px; }}
.mk .mk-bar .progress {{ height: 6px; border-radius: 3px; }}
.mk .mk-bar .progress-bar {{ background: {style.ACCENT}; transition: none; }}
.mk .mk-status {{ padding: 5px 10px; border-radius: 6px; font-size: 13px; }}
.mk .mk-idle {{ color: var(--jp-ui-font-color2, #5b6674); }}
.mk .mk-busy {{ background: {style.BLUE}1c; }}
.mk .mk-done {{ background: {style.GREEN}24; }}
.mk .mk-note {{ background: {style.GOLD}30; }}
.mk .mk-error {{ background: {style.ACCENT}24; font-weight: 600; }}
.mk a.mk-save {{ display: inline-block; height: 26px; line-height: 26px; padding: 0 12px;
  border: 1px solid {style.BLUE}; border-radius: 6px; color: {style.BLUE}; font-size: 13px;
  text-decoration: none; }}
.mk a.mk-save:hover {{ background: {style.BLUE}1c; }}
</style>"""
PAUSE = 0.3  # seconds
SHARP_BELOW = 129  # pixels: smaller pictures show their pixels, larger ones are smoothed
REPR = "A widget: run this cell to use it."  # all that a reader without a kernel sees
TIGHT = {"description_width": "initial"}
THIRD = "210px"  # three dials of this width stand side by side


class Working(W.VBox):
    """A widget whose work runs in a thread, with a Cancel and a visible status line.

    A subclass has the parts `status` and `progress`, and says in `_busy` what work disables.
    """

    def __init__(self, children: Sequence[W.Widget]) -> None:
        self._stop, self._thread = threading.Event(), threading.Thread()
        super().__init__(children)
        self.add_class("mk")

    def __repr__(self) -> str:
        return REPR

    @property
    def at_work(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def wait(self, timeout: float = 60.0) -> Working:
        """Wait for the running work, for scripts and tests. Raises TimeoutError."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self.at_work:
            raise TimeoutError(f"The work still goes on after {timeout:g} s.")
        return self

    def _begin(self, work: Callable[[], None]) -> None:
        """Do the work in a thread, so that the notebook and Cancel stay alive; never twice."""
        if self.at_work:
            return
        self._thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        self._stop.clear()
        self._busy(True)
        self._thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do the work; whatever goes wrong is said in the status line."""
        try:
            with warnings.catch_warnings(record=True) as self._notes:
                warnings.simplefilter("always")
                work()
        except (Cancelled, KeyboardInterrupt):
            self._fail("idle", self._cancelled())
        except MinikontextError as error:
            self._fail("error", str(error))
        except Exception as error:  # a widget must show what went wrong, whatever it was
            self._fail("error", f"{type(error).__name__}: {error}")
        finally:
            self._busy(False)

    def _cancelled(self) -> str:
        return f"Cancelled after step {self.progress.value}."

    def _fail(self, kind: str, text: str) -> None:
        self._say(kind, text)

    def _busy(self, busy: bool) -> None:
        """Work begins or ends: enable and disable parts."""

    def _say(self, kind: str, text: str) -> None:
        """Show a line: kind is idle, busy, done, note or error."""
        self.status.value = status_line(kind, text)

    def _say_with_notes(self, kind: str, text: str) -> None:
        """Show a line behind what the work warned of, such as words that are not known."""
        notes = dict.fromkeys(str(note.message) for note in self._notes)
        self._say("note" if notes else kind, " ".join([*notes, text]))


def status_line(kind: str, text: str) -> str:
    """A line of text, escaped, in the look of its kind."""
    return f'<div class="mk-status mk-{kind}" role="status">{html.escape(text)}</div>'


def near(report: Warning) -> Sequence[str]:
    """The known words that a report offers in place of an unknown one; most offer none."""
    return getattr(report, "suggestions", ())


def wide(width: str) -> W.Layout:
    """A fixed width."""
    return W.Layout(width=width)


def html_part(css: str) -> W.HTML:
    """An empty piece of HTML of a class."""
    part = W.HTML()
    part.add_class(css)
    return part


def caption(text: str) -> W.HTML:
    """A line below a picture."""
    return W.HTML(f'<div class="mk-caption">{html.escape(text)}</div>')


def captioned(boxes: Sequence[W.Widget], names: Sequence[str], wrap: bool = False) -> W.HBox:
    """Pictures side by side, each above its name; without `wrap` they shrink where it is narrow."""
    columns = [W.VBox([box, caption(name)]) for box, name in zip(boxes, names, strict=True)]
    flow = "row wrap" if wrap else "row"
    return W.HBox(columns, layout=W.Layout(
        justify_content="space-between", align_items="flex-start", flex_flow=flow, grid_gap="8px"
    ))  # fmt: skip


def on_run(field: W.Text, run: W.Button, act: Callable[[], None]) -> None:
    """Call `act` when Enter is pressed in a text field or its button is clicked.

    The browser holds letters back until the kernel has answered for the earlier ones, but never an
    Enter or a click: these arrive first. So `act` waits until no letter has come for `PAUSE`.
    """
    waiting: list[asyncio.TimerHandle] = []

    def later() -> None:
        for handle in waiting:
            handle.cancel()
        try:
            waiting[:] = [asyncio.get_running_loop().call_later(PAUSE, now)]
        except RuntimeError:  # a script: nothing is on its way
            now()

    def now() -> None:
        waiting.clear()
        act()

    run.on_click(lambda _: later())
    field.observe(lambda _: later() if waiting else None, "value")
    with warnings.catch_warnings():
        # The replacement ipywidgets advises also fires when the field only loses focus.
        warnings.simplefilter("ignore", DeprecationWarning)
        field.on_submit(lambda _: later())


def put(row: W.HBox, children: Sequence[W.Widget]) -> None:
    """Fill a row; an empty one takes no space."""
    row.children = list(children)
    row.layout.display = "flex" if children else "none"


def row(children: Sequence[W.Widget]) -> W.HBox:
    """Widgets side by side, wrapped where there is no room."""
    layout = W.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px")
    return W.HBox(list(children), layout=layout)


def button(text: str, tip: str, css: str, width: str, kind: str = "") -> W.Button:
    """A button with a help text and a look."""
    part = W.Button(description=text, tooltip=tip, button_style=kind, layout=wide(width))
    part.add_class(css)
    return part


def chip(text: str) -> W.Button:
    """A small round button that offers words."""
    return button(text, f"Use: {text}", "mk-chip", "auto")


def picture_box(alt: str) -> W.Image:
    """A place for a picture; `alt` is for those who cannot see it."""
    box = W.Image(format="png")
    box.add_class("mk-picture")
    box.alt = alt
    return box


def show(box: W.Image, picture: Image.Image) -> None:
    """Put a picture into its place; small ones show their pixels."""
    box.value = image_io.png_bytes(picture)
    box.add_class("mk-sharp") if max(picture.size) < SHARP_BELOW else box.remove_class("mk-sharp")


def fade(box: W.Image, faded: bool) -> None:
    """A picture that is only a placeholder is faded."""
    box.add_class("mk-faded") if faded else box.remove_class("mk-faded")


def thumb(picture: Image.Image, caption: str, lit: bool = False) -> W.VBox:
    """A small picture above a button with its name; the lit one is the current one."""
    box = W.Image(format="png")
    box.add_class("mk-thumb")
    show(box, picture)
    label = button(caption, f"Go on from: {caption}", "mk-label", "104px")
    if lit:
        box.add_class("mk-lit")
        label.add_class("mk-here")
    return W.VBox([box, label], layout=W.Layout(width="108px", align_items="center"))
