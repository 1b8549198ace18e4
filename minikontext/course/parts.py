"""Small parts that the widgets of the course are made of, their one look, and their base."""

from __future__ import annotations

import base64
import html
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as W
from IPython.display import display
from PIL import Image

from minikontext import images as image_io
from minikontext.course import browser, style
from minikontext.course.samples import Example
from minikontext.errors import Cancelled, MinikontextError
from minikontext.sampler import StepInfo

# A light arrow for the dark theme, where that of a select is black on black.
ARROW = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='%23ddd' d='M5 7l4 4 4-4z'/%3E%3C/svg%3E"
)
CSS = f"""<style>
.mk {{ max-width: 700px; padding: 16px 18px; border-radius: 10px; gap: 8px;
  border: 1px solid var(--jp-border-color2, #d8dee6); background: var(--jp-layout-color1, #fff); }}
.mk .widget-html-content {{ line-height: 1.45; }}
.mk .mk-shown {{ margin: 0; }}
.mk .mk-shown .widget-html-content {{ line-height: 0; height: 100%; }}
.mk .mk-shown img {{ width: 100%; height: 100%; object-fit: contain; overflow: clip;
  border-radius: inherit; }}
.mk .mk-picture {{ border-radius: 8px !important; background: var(--jp-layout-color2, #f1f4f8);
  width: 256px; max-width: 100%; height: auto; aspect-ratio: 1; margin: 0; }}
.mk .mk-sharp img {{ image-rendering: pixelated; }}
.mk .mk-thumb {{ width: 72px; height: 72px; border-radius: 6px !important; margin: 5px; }}
.mk .mk-faded {{ opacity: .35; }}
.mk .mk-caption {{ font-size: 12px; color: var(--jp-ui-font-color2, #5b6674); text-align: center;
  max-width: 256px; white-space: normal; line-height: 1.3; overflow-wrap: anywhere; }}
.mk .mk-ends {{ display: flex; justify-content: space-between; font-size: 12px; line-height: 1.2;
  color: var(--jp-ui-font-color2, #5b6674); }}
.mk .mk-label {{ height: 24px; line-height: 22px; padding: 0 4px; font-size: 12px; border: none;
  background: transparent; color: var(--jp-ui-font-color2, #5b6674); box-shadow: none; }}
.mk .mk-label:hover {{ text-decoration: underline; box-shadow: none; }}
.mk .mk-tile {{ position: relative; width: 108px; align-items: center; }}
.mk .mk-tile .mk-label::after {{ content: ""; position: absolute; inset: 0; }}
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
  border: 1px solid currentColor; border-radius: 6px; color: var(--jp-ui-font-color1, {style.INK});
  font-size: 13px; text-decoration: none; }}
.mk a.mk-save:hover {{ background: {style.BLUE}1c; }}
.mk .mk-status {{ color: var(--jp-ui-font-color1, {style.INK}); }}
.mk .mk-plot {{ margin: 0; background: #fff; border-radius: 6px; }}
.mk .noUi-handle {{ background: {style.BLUE}; border-color: {style.BLUE}; }}
.mk :is(input, select, button, a, .noUi-handle, .widget-readout):focus-visible {{
  outline: 2px solid var(--mk-focus, {style.BLUE}) !important; outline-offset: 2px; }}
[data-jp-theme-light="false"] .mk {{ --mk-focus: {style.GOLD}; }}
[data-jp-theme-light="false"] .mk .mk-plot {{ filter: {style.DARK}; }}
[data-jp-theme-light="false"] .mk .widget-dropdown > select {{ color-scheme: dark;
  background-image: url("{ARROW}"); }}
.jp-OutputArea-child:has(.mk-fallback):has(+ .jp-OutputArea-child .mk) {{ display: none; }}
</style>"""
NAMES = browser.script(browser.NAMES)
SHARP_BELOW = 129  # pixels: smaller pictures show their pixels, larger ones are smoothed
SHOWN = 512  # pixels: the longest side of what is sent to the page, twice as large as it is shown
REPR = "A widget: run this cell to use it."  # all that a reader without a kernel sees
# Stands above a widget, and in its place in a notebook that is opened without a kernel: there the
# front end can only say that it finds no model, so that line goes.
FALLBACK = f"""<div class="mk-fallback">{REPR}</div><style>
.jp-OutputArea-child:has(.mk-fallback) + .jp-OutputArea-child:not(:has(.mk)) {{ display: none; }}
</style>"""
NOTHING = "no picture"
TIGHT = {"description_width": "initial"}
THIRD = "210px"  # three dials of this width stand side by side
SEEDS = 2**31 - 1


class Widget(W.VBox):
    """What every widget of the course is: one look, and a word for readers without a kernel.

    A subclass sets up its parts in `_make_controls`, and gives them in order in `_arrange`.
    """

    css = ""  # further CSS of a subclass

    def __init__(self) -> None:
        self.status = W.HTML()
        self._make_controls()
        hidden = W.HTML(CSS + self.css + NAMES, layout=W.Layout(display="none"))
        super().__init__([hidden, *self._arrange()])
        self.add_class("mk")

    def __repr__(self) -> str:
        return REPR

    def _ipython_display_(self) -> None:
        display({"text/html": FALLBACK, "text/plain": REPR}, raw=True)
        display(self._repr_mimebundle_() | {"text/plain": ""}, raw=True)

    def _make_controls(self) -> None:
        raise NotImplementedError

    def _arrange(self) -> list[W.Widget]:
        raise NotImplementedError

    def _say(self, kind: str, text: str) -> None:
        """Show a line: kind is idle, busy, done, note or error."""
        self.status.value = status_line(kind, text)


class Working(Widget):
    """A widget whose work runs in a thread, with progress, a Cancel and a visible status line.

    A subclass does its work in `_work`, and names in `_dials` what is disabled meanwhile.
    """

    def __init__(self) -> None:
        self._stop, self._thread = threading.Event(), threading.Thread()
        self._notes: list = []
        self.at_work = False  # clicks count again from the moment that this is False
        self.progress = W.IntProgress(0, 0, 1, layout=W.Layout(flex="1 1 auto", margin="0 8px 0 0"))
        self.progress.add_class("mk-bar")
        self.cancel = button("Cancel", "Stop after the running step", "mk-quiet", "90px")
        # Its room stays when it is not seen: nothing below may jump.
        self.working = W.HBox(
            [self.progress, self.cancel],
            layout=W.Layout(align_items="center", visibility="hidden"),
        )
        super().__init__()
        self.cancel.on_click(lambda _: self._stop.set())

    def wait(self, timeout: float = 60.0) -> Working:
        """Wait for the running work, for scripts and tests. Raises TimeoutError."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"The work still goes on after {timeout:g} s.")
        return self

    def _work(self) -> None:
        raise NotImplementedError

    def _dials(self) -> Iterable[W.Widget]:
        """What nobody may turn while the work goes on."""
        return ()

    def _start(self) -> None:
        """Do the work in a thread, so that the notebook and Cancel stay alive; never twice."""
        if self.at_work:
            return
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._stop.clear()
        self._busy(True)
        self._thread.start()

    def _guarded(self) -> None:
        """Do the work; whatever goes wrong is said in the status line."""
        try:
            with warnings.catch_warnings(record=True) as self._notes:
                warnings.simplefilter("always")
                self._work()
        except (Cancelled, KeyboardInterrupt):
            self._fail("idle", self._cancelled())
        except MinikontextError as error:
            self._fail("error", str(error))
        except Exception as error:  # a widget must show what went wrong, whatever it was
            self._fail("error", f"{type(error).__name__}: {error}")
        finally:
            self._busy(False)
            self.at_work = False
            super()._say(*self._outcome)

    def _say(self, kind: str, text: str) -> None:
        """What came of the work is shown when the parts can be used again, no sooner."""
        self._outcome = kind, text
        if kind == "busy" or not self.at_work:
            super()._say(kind, text)

    def _step(self, info: StepInfo) -> bool:
        """After each step of the sampler: progress; False stops it."""
        self.progress.max, self.progress.value = info.steps, info.step
        self._say("busy", f"Step {info.step} of {info.steps}")
        return not self._stop.is_set()

    def _cancelled(self) -> str:
        return f"Cancelled after step {self.progress.value}."

    def _fail(self, kind: str, text: str) -> None:
        self._say(kind, text)

    def _busy(self, busy: bool) -> None:
        """Work begins or ends: enable and disable parts."""
        if busy:
            self.at_work = True
            self.progress.value = 0
            self._say("busy", "Reading the picture and the prompt …")
        self.working.layout.visibility = "visible" if busy else "hidden"
        for part in self._dials():
            part.disabled = busy

    def _say_with_notes(self, kind: str, text: str) -> None:
        """Show a line behind what the work warned of, such as words that are not known."""
        notes = dict.fromkeys(str(note.message) for note in self._notes)
        self._say("note" if notes else kind, " ".join([*notes, text]))


class Desk(Working):
    """A working widget with pictures to choose from, words, chips that fill them in, and a button.

    Parts: picture, prompt, run, seed, presets. `pictures` are by name.
    """

    pictures: Mapping[str, Image.Image]
    examples: Sequence[Example]

    def _make_desk(self, prompt: str, run: tuple[str, str], nothing: bool = False) -> None:
        """run: the button's word and its help. nothing: "no picture" can be chosen, too."""
        self.picture = choice([*self.pictures, *[NOTHING] * nothing], "Picture", "190px")
        self.prompt = W.Text(
            prompt, placeholder="no words", layout=W.Layout(flex="1 1 200px", width="auto"),
            tooltip="The words that the model gets",
        )  # fmt: skip
        self.prompt.add_class("mk-prompt")
        self.run = button(*run, "mk-run", "90px", "primary")
        self.seed = W.BoundedIntText(
            0, 0, SEEDS, description="Seed", style=TIGHT, layout=wide("140px")
        )
        # What stood in the field at an Enter or a click: `browser.NAMES` fills it in.
        self.asked = W.Text(tooltip="The words at the click", layout=W.Layout(display="none"))
        self.asked.add_class("mk-asked")
        self.asking = W.HBox(
            [self.prompt, self.run, self.asked], layout=W.Layout(align_items="center")
        )
        self.presets = row([])

    def _connect_desk(self) -> None:
        follow(lambda: self._fill(self.asked.value.partition(" ")[2]), self.asked)
        browser.on_run(self.prompt, self.run, self._start)

    def _make_tasks(self, name: str, width: str) -> None:
        """A menu of tasks for the `examples`; the chips are those of the chosen one."""
        tasks = list(dict.fromkeys(example.task for example in self.examples))
        self.tasks = choice(tasks, name, width)
        self.tasks.layout.display = "flex" if len(tasks) > 1 else "none"
        follow(self._show_examples, self.tasks)
        self._show_examples()

    def _show_examples(self) -> None:
        mine = [example for example in self.examples if example.task == self.tasks.value]
        self._offer({one.prompt: lambda one=one: self._use(one) for one in mine})

    def _use(self, example: Example) -> None:
        """Take an example's words and pictures."""
        raise NotImplementedError

    def _offer(self, prompts: Mapping[str, Callable[[], None]]) -> None:
        """Fill the row of chips: words, and what a click on them does."""
        chips = [chip(prompt or "(no words)") for prompt in prompts]
        for part, act in zip(chips, prompts.values(), strict=True):
            part.on_click(lambda _, act=act: act())
        put(self.presets, chips)

    def _fill(self, prompt: str) -> None:
        self.prompt.value = prompt

    def _say_words(self, otherwise: str) -> None:
        """Say at once what the text encoder does not understand, or another line."""
        reports = self.pipe.text_encoder.report(self.prompt.value)
        self._say("note" if reports else "idle", " ".join([*map(str, reports), otherwise]).strip())


def choice(options: Any, name: str, width: str, value: Any = None, **more: Any) -> W.Dropdown:
    """A menu with a name; `value` is the first one unless it is given."""
    more |= {} if value is None else {"value": value}
    return W.Dropdown(options=options, description=name, style=TIGHT, layout=wide(width), **more)


def follow(act: Callable[[], None], *dials: W.Widget, trait: str = "value") -> None:
    """Call `act` whenever one of the dials is turned."""
    for dial in dials:
        dial.observe(lambda _: act(), trait)


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


class Picture(W.HTML):
    """A place for a picture with a text for those who cannot see it; `png` are its bytes.

    An Image of ipywidgets has no such text in the page. css: its look, "mk-picture" or "mk-plot".
    """

    def __init__(self, alt: str, css: str = "mk-picture", **more: Any) -> None:
        self.alt, self.png = alt, b""
        super().__init__(**more)
        for name in ("mk-shown", css):
            self.add_class(name)

    def show(self, png: bytes) -> None:
        """Show the bytes of a PNG."""
        self.png = png
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        self.value = f'<img src="{source}" alt="{html.escape(self.alt, quote=True)}">'


def plot_box(alt: str, width: str = f"{100 * style.PLOT:.0f}px") -> Picture:
    """A place for a plot, which the dark theme turns dark; never wider than the widget."""
    return Picture(alt, "mk-plot", layout=W.Layout(width=width, max_width="100%"))


def show(box: Picture, picture: Image.Image, *more: Picture) -> None:
    """Put a picture into its place, in the size of the screen; small ones show their pixels.

    more: further places of the same picture, for which nothing is encoded again.
    """
    png = image_io.png_bytes(image_io.shrunk(picture, SHOWN))
    for one in (box, *more):
        one.show(png)
        small = max(picture.size) < SHARP_BELOW
        one.add_class("mk-sharp") if small else one.remove_class("mk-sharp")


def fade(box: Picture, faded: bool) -> None:
    """A picture that is only a placeholder is faded."""
    box.add_class("mk-faded") if faded else box.remove_class("mk-faded")


def thumb(
    picture: Image.Image, caption: str, lit: bool = False, name_button: W.Button | None = None
) -> W.VBox:
    """A small picture above a button with its name; the lit one is the current one."""
    box = Picture(caption, "mk-thumb")
    show(box, image_io.shrunk(picture, 144))
    label = name_button or button(caption, f"Go on from: {caption}", "mk-label", "104px")
    if lit:
        box.add_class("mk-lit")
        label.add_class("mk-here")
    tile = W.VBox([box, label])
    tile.add_class("mk-tile")  # a click on the picture counts as one on its name
    return tile


def blank() -> Image.Image:
    """Stands in where there is no picture."""
    return Image.new("RGB", (64, 64), "#eef1f5")
