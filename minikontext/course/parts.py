"""Small parts that the widgets of the course are made of, their one look, and their base."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as W
from IPython.display import display
from PIL import Image

from minikontext import images as image_io
from minikontext.course import browser, style
from minikontext.course.samples import Example
from minikontext.errors import Cancelled, MinikontextError, PromptError, PromptWarning, plain
from minikontext.runtime.log import markup
from minikontext.sampler import StepInfo

CSS = style.sheet("parts")
NAMES = browser.script("names")
SHARP_BELOW = 129  # pixels: smaller pictures show their pixels, larger ones are smoothed
SHOWN = 512  # pixels: the longest side of what is sent to the page, twice as large as it is shown
REPR = "A widget: run the cell above to use it."  # all that a reader without a kernel sees
# Stands above a widget, and in its place in a notebook that is opened without a kernel: there the
# front end can only say that it finds no model, so that line goes. The same where the kernel was
# started anew: a widget that answers to nothing must not look as if work went on.
FALLBACK = f"""<div class="mk-fallback">{REPR}</div><style>
.jp-OutputArea-child:has(.mk-fallback) + .jp-OutputArea-child:not(:has(.mk)) {{ display: none; }}
</style>"""
NOTHING = "no picture"
TIGHT = {"description_width": "initial"}
THIRD = "210px"  # three dials of this width stand side by side
SEEDS = 2**31 - 1


@contextmanager
def heard() -> Iterator[list[Warning]]:
    """Collect what is warned of, in this thread alone: two widgets may work at once."""
    here: Any = threading.current_thread()
    before, here.heard = getattr(here, "heard", None), []
    try:
        yield here.heard
    finally:
        here.heard = before


class Widget(W.VBox):
    """What every widget of the course is: one look, and a word for readers without a kernel.

    A subclass sets up its parts in `_make_controls`, and gives them in order in `_arrange`.
    """

    css = ""  # further CSS of a subclass

    def __init__(self) -> None:
        self.status = html_part("mk-live")  # to `names.js`, what is read out when it changes
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
        self._notes: list[Warning] = []
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
        """Do the work; whatever goes wrong, or is warned of, is said in the status line."""
        try:
            with heard() as self._notes:
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
        notes = dict.fromkeys(map(str, self._notes))
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
        # What stood in the field at an Enter or a click: `names.js` fills it in.
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
        chips = [chip(one, "mk-fill") if one else chip("(no words)") for one in prompts]
        for part, act in zip(chips, prompts.values(), strict=True):
            part.on_click(lambda _, act=act: self.at_work or act())
        put(self.presets, chips)

    def _busy(self, busy: bool) -> None:
        """As above; a chip may open another picture, so nobody may use it meanwhile, either."""
        super()._busy(busy)
        for part in self.presets.children:
            part.disabled = busy

    def _fill(self, prompt: str) -> None:
        self.prompt.value = prompt

    def _reports(self) -> Sequence[Warning]:
        """What the text encoder does not understand, or why it takes nothing of it."""
        try:
            return self.pipe.text_encoder.report(self.prompt.value)
        except PromptError as error:
            return [PromptWarning(str(error))]

    def _say_words(self, otherwise: str) -> None:
        """Say at once what the text encoder does not understand, or another line."""
        reports = self._reports()
        self._say("note" if reports else "idle", " ".join([*map(str, reports), otherwise]).strip())


def choice(options: Any, name: str, width: str, value: Any = None, **more: Any) -> W.Dropdown:
    """A menu with a name; `value` is the first one unless it is given."""
    more |= {} if value is None else {"value": value}
    return W.Dropdown(options=options, description=name, style=TIGHT, layout=wide(width), **more)


def stops(options: Any, name: str, width: str = THIRD, **more: Any) -> W.SelectionSlider:
    """A slider whose stops have names: in the page these are read out, see `names.js`."""
    more |= {"style": TIGHT, "layout": wide(width)}
    part = W.SelectionSlider(options=options, description=name, **more)
    part.add_class("mk-stops")
    if max(len(str(one)) for one in options) > 8:
        part.add_class("mk-wide")
    return part


def follow(act: Callable[[], None], *dials: W.Widget, trait: str = "value") -> None:
    """Call `act` whenever one of the dials is turned."""
    for dial in dials:
        dial.observe(lambda _: act(), trait)


def status_line(kind: str, text: str) -> str:
    """A line of text, escaped, in the look of its kind."""
    return f'<div class="mk-status mk-{kind}">{markup(text)}</div>'


def near(report: Warning) -> Sequence[str]:
    """The known words that a report offers in place of an unknown one; most offer none."""
    return getattr(report, "suggestions", ())


def about(report: Warning, word: str) -> bool:
    """Whether a report is about the word that is just being typed."""
    return getattr(report, "word", "").lower() == word.lower()


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
    return W.HTML(f'<div class="mk-caption">{markup(text)}</div>')


def captioned(boxes: Sequence[W.Widget], names: Sequence[str], wrap: bool = False) -> W.HBox:
    """Pictures side by side, each above its name; without `wrap` they shrink where it is narrow."""
    columns = [W.VBox([box, caption(name)]) for box, name in zip(boxes, names, strict=True)]
    flow = "row wrap" if wrap else "row"
    return W.HBox(columns, layout=W.Layout(
        justify_content="space-between", align_items="flex-start", flex_flow=flow, grid_gap="8px"
    ))  # fmt: skip


def put(row: W.HBox, children: Sequence[W.Widget]) -> None:
    """Fill a row; an empty one takes no space."""
    swap(row, children)
    row.layout.display = "flex" if children else "none"


def swap(box: W.Box, children: Sequence[W.Widget]) -> None:
    """Fill a box. What goes is closed: kernel and page would keep it, with its picture, for good.

    A click that is still on its way to a closed part is lost, so parts that stay are to be kept.
    """
    gone = [one for one in box.children if one not in children]
    box.children = list(children)
    for part in gone:
        _close(part)


def _close(part: W.Widget) -> None:
    for child in getattr(part, "children", ()):
        _close(child)
    for one in (part, part.layout, getattr(part, "style", None)):
        if one is not None:
            one.close()


def row(children: Sequence[W.Widget]) -> W.HBox:
    """Widgets side by side, wrapped where there is no room."""
    layout = W.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px")
    return W.HBox(list(children), layout=layout)


def button(text: str, tip: str, css: str, width: str, kind: str = "") -> W.Button:
    """A button with a help text and a look."""
    part = W.Button(description=text, tooltip=tip, button_style=kind, layout=wide(width))
    part.add_class(css)
    return part


def chip(text: str, *css: str) -> W.Button:
    """A small round button that offers words; with "mk-fill" the page fills them in at once."""
    part = button(text, f"Use: {text}", "mk-chip", "auto")
    for name in css:
        part.add_class(name)
    return part


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
        self.value = f'<img src="{source}" alt="{markup(self.alt)}">'


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


def thumb(picture: Image.Image, caption: str, name_button: W.Button | None = None) -> W.VBox:
    """A small picture above a button with its name."""
    box = Picture(plain(caption), "mk-thumb")  # it may come from a session's file
    show(box, image_io.shrunk(picture, 144))
    label = name_button or button("", "", "mk-label", "104px")
    tile = W.VBox([box, label])
    tile.add_class("mk-tile")  # a click on the picture counts as one on its name
    return tile


def light(tile: W.VBox, caption: str, lit: bool, faded: bool) -> None:
    """Give a small picture a name, which later ones may change; the lit one is the current one."""
    (box, label), caption = tile.children, plain(caption)
    label.description, label.tooltip = caption, f"Go on from: {caption}"
    if box.alt != caption:
        box.alt = caption
        box.show(box.png)
    for part, css in ((box, "mk-lit"), (label, "mk-here")):
        part.add_class(css) if lit else part.remove_class(css)
    fade(box, faded)


def link(name: str, kind: str, content: bytes, words: str) -> str:
    """HTML of a button that downloads a file."""
    data = base64.b64encode(content).decode()
    return f'<a class="mk-save" download="{name}" href="data:{kind};base64,{data}">{words}</a> '


def blank() -> Image.Image:
    """Stands in where there is no picture."""
    return Image.new("RGB", (64, 64), "#eef1f5")
