"""The editing widget: type what should change, watch it change, go on from any result."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as W
import torch
from PIL import Image

from minikontext import images as image_io
from minikontext.course import browser, easel, samples
from minikontext.course.gallery import Gallery
from minikontext.course.parts import (
    SEEDS,
    TIGHT,
    Picture,
    about,
    blank,
    button,
    chip,
    fade,
    follow,
    html_part,
    light,
    link,
    near,
    put,
    row,
    show,
    stops,
    thumb,
    wide,
)
from minikontext.course.samples import Example
from minikontext.course.session import Mark, Session, Turn, Wish, drawn, one_more
from minikontext.course.verdict import blurred, cannot, judge, of_several
from minikontext.errors import ConfigError
from minikontext.images import provenance
from minikontext.images.change import difference
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.log import markup
from minikontext.sampler import StepInfo
from minikontext.text import ToyTextEncoder
from minikontext.toyworld import Scene

PREVIEW_SHARE = 0.25  # of the time may go into pictures of the unfinished result
AS_IT_IS = "as the picture"
STRIP = 4  # seeds that are tried in a row
SMALL = 2**20  # pixels: larger results are encoded only when their files are asked for


class EditingWidget(Gallery):
    """Type an instruction, press Edit, watch the picture change; edit the result further.

    Every result stays in the history; press one to go on from there. Works with any pipeline; the
    dial for guidance turns what its weights have. `scene(seed)` draws random pictures, `sizes`
    (width, height) are offered for the result, by default those of the weights. `scenes` says what
    pictures show, by name: there the oracle reads what became of the wish. `session` is all that
    was done; `save_session` writes it for `mk.replay`. Parts: picture, random, upload, second,
    tray, before, image, view, clear, prompt, run, cancel, tasks, presets, suggestions, seed, lock,
    size, steps, guidance, progress, status, history, undo, again, strip, download.
    """

    css = easel.CSS

    def __init__(
        self,
        pipe: KontextPipeline,
        pictures: Mapping[str, Image.Image] | None = None,
        examples: Sequence[Example | str] | None = None,
        scene: Callable[[int], Image.Image] | None = None,
        sizes: Sequence[image_io.Size] | None = None,
        scenes: Mapping[str, Scene] | None = None,
    ) -> None:
        offered = pipe.defaults.sizes if sizes is None else sizes
        self.sizes = {AS_IT_IS: (None, None)} | {f"{w} × {h}": (w, h) for w, h in offered}
        self.pipe = pipe
        self._collect(pictures, scene, scenes)
        chosen = samples.EXAMPLES if examples is None else examples
        self.examples = [Example(e) if isinstance(e, str) else e for e in chosen]
        self.marks: list[Mark] = []  # drawn on it, for the next edit
        self.head = -1  # the turn that the next edit starts from; -1 is the start
        super().__init__()
        self._connect()
        self._open(self.pictures[self.picture.value])

    # ---- parts

    def _make_controls(self) -> None:
        self._make_desk("", ("Edit", "Apply the instruction (Enter)"), nothing=True)
        self.prompt.placeholder = "What should change?"
        self._make_gallery()
        self.before, self.easel = Picture("the picture before"), easel.Easel(self._heard)
        self.image = self.easel.image
        self.before_caption, self.after_caption = html_part("mk-caption"), html_part("mk-caption")
        self.view = W.ToggleButtons(
            options=list(easel.VIEWS), style={"button_width": "88px"},
            tooltips=list(easel.VIEWS.values()),
        )  # fmt: skip
        self.view.add_class("mk-view")
        self.clear = button("Clear", "Take the marks away", "mk-quiet", "70px")
        self._make_tasks("Try", "185px")
        self.suggestions, self.history = row([]), row([])
        self._make_dials()
        self.undo = button("Undo", "Go back to the picture before", "mk-quiet", "80px")
        self.again = button("Another seed", "The same edit, drawn anew", "mk-quiet", "115px")
        self.strip = button(f"{STRIP} seeds", "The same words with seeds that follow each other",
                            "mk-quiet", "80px")  # fmt: skip
        self.prepare = button("Make the files", "Encode all in full size", "mk-quiet", "115px")
        self.download = W.HTML()

    def _make_dials(self) -> None:
        defaults, same = self.pipe.defaults, {"style": TIGHT, "layout": wide("215px")}
        self.steps = W.IntSlider(defaults.num_inference_steps, 1, 50, description="Steps", **same)
        self.lock = W.Checkbox(True, description="lock", indent=False, layout=wide("60px"),
                               tooltip="Keep the seed; else each edit draws a new one")  # fmt: skip
        self.size = stops(list(self.sizes), "Size", "300px")
        self.size.layout.display = "flex" if len(self.sizes) > 1 else "none"
        self.guidance = W.FloatSlider(
            getattr(defaults, self._guides), min=1, max=8, step=0.5, description="Guidance",
            readout_format=".1f", **same,
        )  # fmt: skip

    def _arrange(self) -> list[W.Widget]:
        arrow = W.HTML('<div class="mk-arrow" aria-hidden="true">→</div>')
        arrow.layout.align_self = "center"
        before = W.VBox([self.before, self.before_caption])
        after = W.VBox([self.easel, self.after_caption])
        shown = W.HBox(
            [before, arrow, after],
            # At the top: captions of one and two lines leave the pictures on one height.
            layout=W.Layout(
                align_items="flex-start", justify_content="space-around", grid_gap="4px"
            ),
        )
        bar = row([self.view, self.clear])
        bar.layout.justify_content = "flex-end"
        return [
            *self._gallery,
            shown,
            bar,
            self.asking,
            self.suggestions,
            self.working,
            self.status,
            row([self.tasks, self.presets]),
            row([self.seed, self.lock, self.size, self.steps, self.guidance]),
            self.history,
            row([self.undo, self.again, self.strip, self.prepare, self.download]),
        ]

    def _connect(self) -> None:
        self._connect_desk()
        self._connect_gallery()
        self.undo.on_click(lambda _: self._undo())
        self.again.on_click(lambda _: self._another_seed())
        browser.on_click(self.prompt, self.strip, lambda: self._start(count=STRIP))
        self.prepare.on_click(lambda _: self._encode())
        self.clear.on_click(lambda _: self._mark())
        follow(self._read_prompt, self.prompt)
        follow(self._show_after, self.view)

    def _dials(self) -> Iterable[W.Widget]:
        return (*super()._dials(), self.strip)

    # ---- what the user does

    @property
    def turns(self) -> list[Turn]:
        """All edits since the picture was opened."""
        return self.session.turns

    def _open(self, picture: Image.Image | None) -> None:
        """Start over with a picture, or with none."""
        self.session, self.head, self.marks = Session(picture, self.pictures), -1, []
        self.tiles: dict[int, W.VBox] = {}  # the history's
        put(self.suggestions, [])
        self._refresh()
        ask = "Say what should change" if picture else "Say what to paint"
        self._say("idle", f"{ask}, then press Edit.")

    def _heard(self, message: Mapping[str, Any]) -> None:
        """What was drawn or dropped in the browser."""
        if "mark" in message and (self.current or self.at_work):
            before = self.later if self.at_work else self.marks
            try:
                self._mark(one_more(before, message["mark"]))
            except ConfigError as error:
                self._tell("error", str(error))
        elif "clear" in message:
            self._mark()
        elif "drop" in message:
            self.adding = bool(message.get("add"))
            if message["drop"]:
                self._drop(str(message["drop"]))

    def _titled(self, name: str) -> tuple[str, Image.Image | None] | None:
        titles = {self.session.title(i): i for i in range(-1, len(self.turns))}
        titles |= {self.image.alt: self.head, self.before.alt: [-1, *self.path()][-2:][0]}
        n = titles.get(name)
        return None if n is None else (self.session.title(n), self.session.result(n))

    def _mark(self, marks: Sequence[Mark] = ()) -> None:
        """Put marks on the picture in place of those before, or take all away."""
        if self.at_work:  # they are on what comes of it
            self.later = list(marks)
            return
        self.marks = list(marks)
        self._show_after()
        self._say("idle", "The next edit sees these marks." if marks else "No marks.")

    def _use(self, example: Example) -> None:
        """Take an example's words, and its pictures where it needs certain ones."""
        if example.picture and example.picture != self.picture.value:
            self.picture.value = example.picture
        self._show_others([example.second] if example.second else [])
        self.prompt.value = example.prompt

    def _read_prompt(self) -> None:
        """Say at once what the text encoder does not understand; offer the nearest words."""
        if self.at_work:
            return
        prompt, encoder = self.prompt.value, self.pipe.text_encoder
        endings, last = encoder.complete(prompt), prompt.split(" ")[-1]
        reports = [r for r in self._reports() if not (endings and about(r, last))]
        chips = [self._replacement(r.word, word) for r in reports for word in near(r)]
        chips += [self._ending(word) for word in endings]
        put(self.suggestions, chips)
        notes = [*map(str, reports), *self._cannot(self._dialled())]
        self._say("note" if notes else "idle", " ".join(notes) or "Press Edit or Enter.")

    def _cannot(self, wish: Wish) -> list[str]:
        """What a wish asks that the toy world lacks, or that its picture does not show."""
        if not isinstance(self.pipe.text_encoder, ToyTextEncoder):
            return []
        scene = None if wish.others or wish.marks else self._scene(wish.parent)
        return [*map(str, cannot(wish.prompt, scene))]

    def _scene(self, number: int) -> Scene | None:
        """What a result, or the start, shows, if that is known."""
        if number < 0:
            return self.known.get(self.picture.value)
        verdict = self.turns[number].verdict
        return verdict.scene if verdict else None

    def _replacement(self, word: str, known: str) -> W.Button:
        part = chip(f"{word} → {known}", "mk-fill")
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        part.on_click(lambda _: self._fill(pattern.sub(known, self.prompt.value)))
        return part

    def _ending(self, word: str) -> W.Button:
        part = chip(word, "mk-fill", "mk-ending")
        part.on_click(
            lambda _: self._fill(f"{self.prompt.value.rpartition(' ')[0]} {word}".strip())
        )
        return part

    def _start(self, count: int = 1, **anew: Any) -> None:
        """Begin an edit, with `count` seeds: what the dials say now, but for what is `anew`."""
        if self.at_work:
            return
        if not self.lock.value:
            self.seed.value = int(torch.randint(SEEDS, ()).item())
        self._wish = replace(self._dialled(), **anew)
        self._count, self._before, self.later = count, len(self.turns), []
        super()._start()

    def _go(self, number: int) -> None:
        """Go on from another result of the history; -1 is the start."""
        if self.at_work:
            return
        self.head, self.marks = number, []
        self._refresh()
        found = self.turns[number].verdict if number >= 0 else None
        start = f"Go on from {number + 1 if number >= 0 else 'the start'}."
        self._say(found.kind if found else "idle", f"{start} {found.text if found else ''}".strip())

    def _undo(self) -> None:
        if self.at_work or self.head < 0:
            return
        self.prompt.value = self.turns[self.head].prompt
        self._go(self.turns[self.head].parent)
        self._say("idle", "Took back the last edit; it stays in the history.")

    def _another_seed(self) -> None:
        if self.at_work or self.head < 0:
            return
        wish = self.turns[self.head].wish
        self.prompt.value, self.steps.value = wish.prompt, wish.steps
        self.guidance.value, size = getattr(wish, self._guides), (wish.width, wish.height)
        self.size.value = next(name for name, one in self.sizes.items() if one == size)
        self._show_others(wish.others)
        self.seed.value = int(torch.randint(SEEDS, ()).item())
        self._start(parent=wish.parent, marks=wish.marks)

    # ---- the work

    def _work(self) -> None:
        for i in range(self._count):
            self.turns.append(self._edit(i))
        self._done([*map(str, self._notes), *self._cannot(self._wish)])

    def _cancelled(self) -> str:
        kept = len(self.turns) - self._before
        return f"{super()._cancelled()} {kept or 'Nothing'} {'kept' if kept else 'was changed'}."

    def _fail(self, kind: str, text: str) -> None:
        if len(self.turns) > self._before:
            self.head, self.marks = self._before, []
        self.marks = [*self.marks, *self.later]
        self._refresh()
        self._say(kind, text)

    def _dialled(self) -> Wish:
        """What the dials say: nothing that is turned or typed later changes a running edit."""
        width, height = self.sizes[self.size.value]
        return Wish(
            self.prompt.value, self.head, tuple(self.others), tuple(self.marks), self.seed.value,
            self.steps.value, width=width, height=height, **{self._guides: self.guidance.value},
        )  # fmt: skip

    def _edit(self, later: int = 0) -> Turn:
        """What was asked for, with the seed or a later one."""
        self._began, self._previewed = time.perf_counter(), 0.0
        wish = replace(self._wish, seed=(self._wish.seed + later) % SEEDS)
        turn = self.session.edit(self.pipe, wish, self._step)
        after = turn.output.images[0]
        if turn.before is None:
            known = isinstance(self.pipe.text_encoder, ToyTextEncoder) and not wish.others
            return replace(turn, verdict=blurred(wish.prompt, after) if known else None)
        # What a second picture should have lent nobody knows: then only how much changed is told.
        scene = None if wish.others else self._scene(wish.parent)
        return replace(turn, verdict=judge(wish.prompt, turn.before, after, scene))

    @property
    def _guides(self) -> str:
        """The scale that the guidance dial turns: an input of the weights, or classifier-free."""
        distilled = self.pipe.transformer.config.guidance_embed
        return "guidance_scale" if distilled else "true_cfg_scale"

    def _step(self, info: StepInfo) -> bool:
        """After each step: progress, now and then a preview; False stops the sampler."""
        goes_on = super()._step(info)
        elapsed = time.perf_counter() - self._began
        if self._previewed <= PREVIEW_SHARE * elapsed:
            began = time.perf_counter()
            show(self.image, drawn(self.pipe.decode(info.clean)[0], self.later))
            fade(self.image, False)
            self._previewed += time.perf_counter() - began
        return goes_on

    def _done(self, notes: Sequence[str]) -> None:
        self.head, self.marks = self._before, self.later
        self._refresh()
        made = self.turns[self.head :]
        spent = sum(one.seconds for one in made)
        several = f" for {self._count} seeds, from seed" if self._count > 1 else ", seed"
        text = f"{self.progress.max} steps in {spent:.1f} s{several} {made[0].output.seeds[0]}."
        kind, told = of_several([one.verdict for one in made])
        # A wish that cannot be fulfilled, or changed nothing, is not done, whatever was computed.
        lines = [f"Done: {text}" if kind == "done" and not notes else f"Finished: {text}"]
        kind = "note" if notes and kind == "done" else kind
        self._say(kind, " ".join([*lines, *told, *dict.fromkeys(notes)]))

    # ---- what the user sees

    @property
    def current(self) -> Image.Image | None:
        """The picture that the next edit starts from; None is no picture."""
        return self.session.result(self.head)

    def path(self) -> list[int]:
        """The numbers of the turns that led to the current picture, first to last."""
        numbers, number = [], self.head
        while number >= 0:
            numbers.append(number)
            number = self.turns[number].parent
        return numbers[::-1]

    def save(self, path: str | Path) -> Path:
        """Write the current result as a PNG, JPEG or WebP that knows how it was made."""
        record = self.turns[self.head].output.provenance[0] if self.head >= 0 else None
        return provenance.save(self.current or blank(), path, record)

    def save_session(self, path: str | Path) -> Path:
        """Write all edits since the picture was opened as one file, for `mk.replay`."""
        return self.session.save(path, self.pipe)

    def _refresh(self) -> None:
        turn = self.turns[self.head] if self.head >= 0 else None
        before = turn.before if turn else self.session.start
        show(self.before, before or blank(), self.easel.under)
        self._show_after()
        self.before_caption.value = "before" if before else "no picture"
        self.after_caption.value = markup(f"“{turn.prompt}”") if turn else "no edit yet"
        near_by = {*self.path(), *self.session.alike(self.head)}
        put(self.history, [self._thumb(i, i not in near_by) for i in range(-1, len(self.turns))]
            if self.turns else [])  # fmt: skip
        self.undo.disabled = self.again.disabled = turn is None
        large = any(math.prod(one.size) > SMALL for one in self.session.used())
        self.prepare.layout.display = None if large and turn else "none"
        self.download.value = self._links(turn) if turn and not large else ""

    def _show_after(self) -> None:
        """The result, or what it changed, or the picture with the marks for the next edit."""
        picture = drawn(self.current or blank(), self.marks)
        if self.view.value == "Difference" and self.head >= 0:
            picture = difference(self.turns[self.head].before or blank(), picture)
        show(self.image, picture)
        fade(self.image, self.head < 0 and not self.marks and self.view.value == "Result")
        self.clear.layout.display = None if self.marks else "none"

    def _thumb(self, number: int, faded: bool) -> W.VBox:
        title = self.session.title(number)
        if number not in self.tiles:
            self.tiles[number] = thumb(self.session.result(number) or blank(), title)
            self.tiles[number].children[1].on_click(lambda _: self._go(number))
        light(self.tiles[number], title, number == self.head, number >= 0 and faded)
        return self.tiles[number]

    def _encode(self) -> None:
        """The one time that large pictures are encoded in full size."""
        if self.head >= 0 and not self.at_work:
            self._say("busy", "Encoding all in full size …")
            self.download.value = self._links(self.turns[self.head])
            self.prepare.layout.display = "none"
            self._say("done", "The files are ready.")

    def _links(self, turn: Turn) -> str:
        png = provenance.encode(turn.output.images[0], turn.output.provenance[0])
        name = re.sub(r"\W+", "-", turn.prompt).strip("-")[:40] or "edit"
        session = self.session.encode(self.pipe)
        return link(f"{name}.png", "image/png", png, "Download PNG") + link(
            "session.json", "application/json", session, "Export session"
        )

    def _busy(self, busy: bool) -> None:
        if busy:
            self.view.value = "Result"
            put(self.suggestions, [])
        super()._busy(busy)
        self.undo.disabled = self.again.disabled = busy or self.head < 0
