"""The editing widget: type what should change, watch it change, go on from any result."""

from __future__ import annotations

import base64
import html
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as W
import torch
from PIL import Image

from minikontext import images as image_io
from minikontext.course import samples
from minikontext.course.parts import (
    NOTHING,
    SEEDS,
    TIGHT,
    Desk,
    Picture,
    blank,
    button,
    chip,
    choice,
    fade,
    follow,
    html_part,
    near,
    put,
    row,
    show,
    thumb,
    wide,
)
from minikontext.course.samples import Example
from minikontext.course.verdict import AMPLIFIED, Verdict, difference, judge
from minikontext.editing.output import KontextOutput
from minikontext.errors import MinikontextError
from minikontext.images import provenance
from minikontext.pipeline import KontextPipeline
from minikontext.sampler import StepInfo
from minikontext.text import ToyTextEncoder
from minikontext.toyworld import Scene, render
from minikontext.toyworld.reader import unusable

PREVIEW_SHARE = 0.25  # of the time may go into pictures of the unfinished result
AS_IT_IS = "as the picture"
SMALL = 2**20  # pixels: a larger result is encoded only when its download is asked for


@dataclass(frozen=True)
class Turn:
    """One finished edit. `parent` is the number of the turn it started from, -1 for the start.

    verdict: what became of the wish; None where there was no picture, or a second one.
    """

    prompt: str
    before: Image.Image | None
    output: KontextOutput
    seconds: float
    parent: int
    verdict: Verdict | None = None


class EditingWidget(Desk):
    """Type an instruction, press Edit, watch the picture change; edit the result further.

    Every result stays in the history; press one to go on from there. Works with any pipeline; the
    dial for guidance turns what its weights have. `scene(seed)` draws random pictures, `sizes`
    (width, height) are offered for the result, if given. `scenes` says what pictures show, by
    name: there the oracle reads what became of the wish. Parts: picture, random, upload, second,
    before, image, view, prompt, run, cancel, tasks, presets, suggestions, seed, size, steps,
    guidance, progress, status, history, undo, again, download.
    """

    def __init__(
        self,
        pipe: KontextPipeline,
        pictures: Mapping[str, Image.Image] | None = None,
        examples: Sequence[Example | str] | None = None,
        scene: Callable[[int], Image.Image] | None = None,
        sizes: Sequence[image_io.Size] = (),
        scenes: Mapping[str, Scene] | None = None,
    ) -> None:
        toy = pictures is None
        self.known = dict(samples.SCENES | samples.MORE if toy else scenes or {})
        self.sizes = {AS_IT_IS: (None, None)} | {f"{w} × {h}": (w, h) for w, h in sizes}
        self.pipe = pipe
        self.pictures = dict(samples.pictures() | samples.more_pictures() if toy else pictures)
        self.scene, self.own_scenes = scene, toy and scene is None
        given = samples.EXAMPLES if examples is None else examples
        self.examples = [Example(e) if isinstance(e, str) else e for e in given]
        self.turns: list[Turn] = []
        self.head = -1  # the turn that the next edit starts from; -1 is the start
        self.drawn = 0
        super().__init__()
        self._connect()
        self._open(self.pictures[self.picture.value])

    # ---- parts

    def _make_controls(self) -> None:
        self._make_desk("", ("Edit", "Apply the instruction (Enter)"), nothing=True)
        self.prompt.placeholder = "What should change?"
        self.random = button("Random", "A new random picture", "mk-quiet", "80px")
        self.random.layout.display = None if self.scene or self.own_scenes else "none"
        self.upload = W.FileUpload(
            accept="image/*", description="Your own", layout=wide("122px"),
            tooltip="Open a picture of your own",
        )  # fmt: skip
        self.second = choice([NOTHING, *self.pictures], "Second", "190px")
        self.before, self.image = Picture("the picture before"), Picture("the result")
        self.before_caption, self.after_caption = html_part("mk-caption"), html_part("mk-caption")
        self.view = W.ToggleButtons(
            options=["Result", "Difference"], style={"button_width": "90px"}, tooltips=[
                "The picture after the edit", f"What the edit changed, {AMPLIFIED} times as strong"]
        )  # fmt: skip
        self.view.add_class("mk-view")
        self._make_tasks("Try", "185px")
        self.suggestions, self.history = row([]), row([])
        self._make_dials()
        self.undo = button("Undo", "Go back to the picture before", "mk-quiet", "80px")
        self.again = button("Another seed", "The same edit, drawn anew", "mk-quiet", "115px")
        self.prepare = button("Make a PNG", "Encode the result in full size", "mk-quiet", "115px")
        self.download = W.HTML()

    def _make_dials(self) -> None:
        defaults, same = self.pipe.defaults, {"style": TIGHT, "layout": wide("215px")}
        self.steps = W.IntSlider(defaults.num_inference_steps, 1, 50, description="Steps", **same)
        self.size = choice(list(self.sizes), "Size", "190px")
        self.size.layout.display = "flex" if len(self.sizes) > 1 else "none"
        self.guidance = W.FloatSlider(
            getattr(defaults, self._guides), min=1, max=8, step=0.5, description="Guidance",
            readout_format=".1f", **same,
        )  # fmt: skip

    def _arrange(self) -> list[W.Widget]:
        arrow = W.HTML('<div class="mk-arrow" aria-hidden="true">→</div>')
        shown = W.HBox(
            [
                W.VBox([self.before, self.before_caption]),
                arrow,
                W.VBox([self.image, self.after_caption]),
            ],
            layout=W.Layout(align_items="center", justify_content="space-around", grid_gap="4px"),
        )
        return [
            row([self.picture, self.random, self.upload, self.second]),
            shown,
            W.HBox([self.view], layout=W.Layout(justify_content="flex-end")),
            self.asking,
            self.suggestions,
            self.working,
            self.status,
            row([self.tasks, self.presets]),
            row([self.seed, self.size, self.steps, self.guidance]),
            self.history,
            row([self.undo, self.again, self.prepare, self.download]),
        ]

    def _connect(self) -> None:
        self._connect_desk()
        self.undo.on_click(lambda _: self._undo())
        self.again.on_click(lambda _: self._another_seed())
        self.random.on_click(lambda _: self._random())
        self.prepare.on_click(lambda _: self._encode())
        follow(self._read_prompt, self.prompt)
        self.picture.observe(lambda change: self._open(self.pictures.get(change["new"])), "value")
        self.upload.observe(lambda change: self._open_upload(change["new"]), "value")
        follow(self._show_after, self.view)

    def _dials(self) -> Iterable[W.Widget]:
        return (self.run, self.picture, self.random, self.upload, self.second)

    # ---- what the user does

    def _open(self, picture: Image.Image | None) -> None:
        """Start over with a picture, or with none."""
        self.start, self.turns, self.head = picture, [], -1
        put(self.suggestions, [])
        self._refresh()
        ask = "Say what should change" if picture else "Say what to paint"
        self._say("idle", f"{ask}, then press Edit.")

    def _open_upload(self, uploads: Sequence[Mapping[str, Any]]) -> None:
        if not uploads:
            return
        try:
            picture = image_io.read(bytes(uploads[-1]["content"]))
        except MinikontextError as error:
            return self._say("error", str(error))
        self._add(str(uploads[-1]["name"]), picture)
        return None

    def _random(self) -> None:
        if self.at_work:
            return
        self.drawn += 1
        name = f"random {self.drawn}"
        if self.own_scenes:
            self.known[name] = samples.random_scene(self.drawn)
            self._add(name, Image.fromarray(render(self.known[name])))
        else:
            self._add(name, self.scene(self.drawn))

    def _add(self, name: str, picture: Image.Image) -> None:
        """Add a picture to both menus and open it."""
        self.pictures[name] = picture
        chosen = self.second.value
        self.picture.options = [*self.pictures, NOTHING]
        self.second.options = [NOTHING, *self.pictures]
        self.second.value = chosen
        self.picture.value = name  # opens it

    def _use(self, example: Example) -> None:
        """Take an example's words, and its pictures where it needs certain ones."""
        if example.picture and example.picture != self.picture.value:
            self.picture.value = example.picture
        self.second.value = example.second or NOTHING
        self.prompt.value = example.prompt

    def _read_prompt(self) -> None:
        """Say at once what the text encoder does not understand; offer the nearest words."""
        if self.at_work:
            return
        prompt, encoder = self.prompt.value, self.pipe.text_encoder
        endings = encoder.complete(prompt)
        last = prompt.split(" ")[-1]
        reports = [r for r in encoder.report(prompt) if not (endings and _about(r, last))]
        chips = [self._replacement(r.word, word) for r in reports for word in near(r)]
        chips += [self._ending(word) for word in endings]
        put(self.suggestions, chips)
        notes = [*map(str, reports), *self._cannot(prompt)]
        self._say("note" if notes else "idle", " ".join(notes) or "Press Edit or Enter.")

    def _cannot(self, prompt: str) -> list[str]:
        """What a prompt asks that the toy world lacks, or that this picture does not show."""
        if not isinstance(self.pipe.text_encoder, ToyTextEncoder):
            return []
        scene = self._scene(self.head)
        return [*map(str, unusable(prompt, scene if self.second.value == NOTHING else None))]

    def _scene(self, number: int) -> Scene | None:
        """What a result, or the start, shows, if that is known."""
        if number < 0:
            return self.known.get(self.picture.value)
        made = self.turns[number].verdict
        return made.scene if made else None

    def _replacement(self, word: str, known: str) -> W.Button:
        part = chip(f"{word} → {known}")
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        part.on_click(lambda _: self._fill(pattern.sub(known, self.prompt.value)))
        return part

    def _ending(self, word: str) -> W.Button:
        part = chip(word)
        part.on_click(
            lambda _: self._fill(f"{self.prompt.value.rpartition(' ')[0]} {word}".strip())
        )
        return part

    def _start(self, parent: int | None = None) -> None:
        if not self.at_work:
            self._parent = self.head if parent is None else parent
            super()._start()

    def _go(self, number: int) -> None:
        """Go on from another result of the history; -1 is the start."""
        if self.at_work:
            return
        self.head = number
        self._refresh()
        self._say("idle", f"Go on from {number + 1}." if number >= 0 else "Go on from the start.")

    def _undo(self) -> None:
        if self.at_work or self.head < 0:
            return
        self.prompt.value = self.turns[self.head].prompt
        self._go(self.turns[self.head].parent)
        self._say("idle", "Took back the last edit; it stays in the history.")

    def _another_seed(self) -> None:
        if self.at_work or self.head < 0:
            return
        self.prompt.value = self.turns[self.head].prompt
        self.seed.value = int(torch.randint(SEEDS, ()).item())
        self._start(parent=self.turns[self.head].parent)

    # ---- the work

    def _work(self) -> None:
        turn = self._edit()
        notes = [str(note.message) for note in self._notes]
        self._done(turn, [*notes, *self._cannot(turn.prompt)])

    def _cancelled(self) -> str:
        return f"{super()._cancelled()} Nothing was changed."

    def _fail(self, kind: str, text: str) -> None:
        self._refresh()
        self._say(kind, text)

    def _edit(self) -> Turn:
        self._began, self._previewed = time.perf_counter(), 0.0
        prompt, parent = self.prompt.value, self._parent
        output = self.pipe(
            prompt,
            image=self._contexts(parent),
            seed=self.seed.value,
            num_inference_steps=self.steps.value,
            callback=self._step,
            progress=False,
            **dict(zip(("width", "height"), self.sizes[self.size.value])),
            **{self._guides: self.guidance.value},
        )
        seconds = time.perf_counter() - self._began
        before = self._result(parent)
        return Turn(prompt, before, output, seconds, parent, self._judge(prompt, before, output))

    def _judge(
        self, prompt: str, before: Image.Image | None, output: KontextOutput
    ) -> Verdict | None:
        """What became of a wish for one picture."""
        if before is None or self.second.value != NOTHING:
            return None
        return judge(prompt, before, output.images[0], self._scene(self._parent))

    @property
    def _guides(self) -> str:
        """The scale that the guidance dial turns: an input of the weights, or classifier-free."""
        distilled = self.pipe.transformer.config.guidance_embed
        return "guidance_scale" if distilled else "true_cfg_scale"

    def _contexts(self, parent: int) -> Any:
        """What the model gets to see: the picture so far, and the second one if there is one."""
        first = self.turns[parent].output if parent >= 0 else self.start
        second = self.pictures.get(self.second.value)
        if second is None:
            return first
        return second if first is None else [self._result(parent), second]

    def _step(self, info: StepInfo) -> bool:
        """After each step: progress, now and then a preview; False stops the sampler."""
        goes_on = super()._step(info)
        elapsed = time.perf_counter() - self._began
        if self._previewed <= PREVIEW_SHARE * elapsed:
            began = time.perf_counter()
            show(self.image, self.pipe.decode(info.clean)[0])
            fade(self.image, False)
            self._previewed += time.perf_counter() - began
        return goes_on

    def _done(self, turn: Turn, notes: Sequence[str]) -> None:
        self.turns.append(turn)
        self.head = len(self.turns) - 1
        self._refresh()
        text = f"{self.progress.max} steps in {turn.seconds:.1f} s, seed {turn.output.seeds[0]}."
        kind = turn.verdict.kind if turn.verdict else "done"
        # A wish that cannot be fulfilled, or changed nothing, is not done, whatever was computed.
        told = [f"Done: {text}" if kind == "done" and not notes else f"Finished: {text}"]
        told += [turn.verdict.text] if turn.verdict else []
        self._say(
            "note" if notes and kind == "done" else kind, " ".join([*told, *dict.fromkeys(notes)])
        )

    # ---- what the user sees

    @property
    def current(self) -> Image.Image | None:
        """The picture that the next edit starts from; None is no picture."""
        return self._result(self.head)

    def path(self) -> list[int]:
        """The numbers of the turns that led to the current picture, first to last."""
        numbers, number = [], self.head
        while number >= 0:
            numbers.append(number)
            number = self.turns[number].parent
        return numbers[::-1]

    def save(self, path: str | Path) -> Path:
        """Write the current result as a PNG, JPEG or WebP that knows how it was made."""
        made = self.turns[self.head].output.provenance[0] if self.head >= 0 else None
        return provenance.save(self.current or blank(), path, made)

    def _result(self, number: int) -> Image.Image | None:
        return self.turns[number].output.images[0] if number >= 0 else self.start

    def _refresh(self) -> None:
        turn = self.turns[self.head] if self.head >= 0 else None
        show(self.before, (turn.before if turn else self.start) or blank())
        self._show_after()
        self.before_caption.value = (
            "before" if (turn.before if turn else self.start) else "no picture"
        )
        self.after_caption.value = html.escape(f"“{turn.prompt}”") if turn else "no edit yet"
        fade(self.image, not turn)
        path = self.path()
        put(self.history, [self._thumb(i, path) for i in range(-1, len(self.turns))]
            if self.turns else [])  # fmt: skip
        self.undo.disabled = self.again.disabled = turn is None
        large = bool(turn) and math.prod(turn.output.images[0].size) > SMALL
        self.prepare.layout.display = None if large else "none"
        self.download.value = self._download_link(turn) if turn and not large else ""

    def _show_after(self) -> None:
        """The result, or what it changed."""
        picture = self.current or blank()
        if self.view.value == "Difference" and self.head >= 0:
            picture = difference(self.turns[self.head].before or blank(), picture)
        show(self.image, picture)

    def _thumb(self, number: int, path: Sequence[int]) -> W.VBox:
        name = f"{number + 1}. {self.turns[number].prompt}" if number >= 0 else "start"
        part = thumb(self._result(number) or blank(), name, lit=number == self.head)
        fade(part.children[0], number >= 0 and number not in path)
        part.children[1].on_click(lambda _: self._go(number))
        return part

    def _encode(self) -> None:
        """The one time that a large picture is encoded in full size."""
        if self.head >= 0 and not self.at_work:
            self.download.value = self._download_link(self.turns[self.head])

    def _download_link(self, turn: Turn) -> str:
        png = provenance.encode(turn.output.images[0], turn.output.provenance[0])
        data = base64.b64encode(png).decode()
        name = re.sub(r"\W+", "-", turn.prompt).strip("-")[:40] or "edit"
        href = f"data:image/png;base64,{data}"
        return f'<a class="mk-save" download="{name}.png" href="{href}">Download PNG</a>'

    def _busy(self, busy: bool) -> None:
        if busy:
            self.view.value = "Result"
            put(self.suggestions, [])
        super()._busy(busy)
        self.undo.disabled = self.again.disabled = busy or self.head < 0


def _about(report: Warning, word: str) -> bool:
    """Whether a report is about the word that is just being typed."""
    return getattr(report, "word", "").lower() == word.lower()
