"""Widgets of the course. Their parts are attributes, so a test can press them without a browser."""

from __future__ import annotations

import base64
import html
import re
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as W
import torch
from PIL import Image

from minikontext import images as image_io
from minikontext.course import plots, samples, style
from minikontext.errors import Cancelled, MinikontextError
from minikontext.pipeline import KontextOutput, KontextPipeline
from minikontext.sampler import StepInfo

CSS = f"""<style>
.mk {{ max-width: 700px; padding: 16px 18px; border-radius: 10px; gap: 8px;
  border: 1px solid var(--jp-border-color2, #d8dee6); background: var(--jp-layout-color1, #fff); }}
.mk .widget-html-content {{ line-height: 1.45; }}
.mk img {{ object-fit: contain; overflow: clip; }}
.mk .mk-picture {{ border-radius: 8px !important; background: var(--jp-layout-color2, #f1f4f8);
  width: 256px; height: 256px; margin: 0; }}
.mk .mk-sharp {{ image-rendering: pixelated; }}
.mk .mk-thumb {{ width: 72px; height: 72px; border-radius: 6px !important; margin: 0; }}
.mk .mk-faded {{ opacity: .35; }}
.mk .mk-caption {{ font-size: 12px; color: var(--jp-ui-font-color2, #5b6674); text-align: center;
  max-width: 256px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }}
.mk .mk-label {{ max-width: 104px; }}
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
SHARP_BELOW = 129  # pixels: smaller pictures show their pixels, larger ones are smoothed
REPR = "A widget: run this cell to use it."  # all that a reader without a kernel sees
TIGHT = {"description_width": "initial"}
PREVIEW_SHARE = 0.25  # of the time may go into pictures of the unfinished result


@dataclass(frozen=True)
class Turn:
    """One finished edit."""

    prompt: str
    before: Image.Image
    output: KontextOutput
    seconds: float


class EditingWidget(W.VBox):
    """Type an instruction, press Edit, watch the picture change; edit the result further.

    Parts: picture, upload, before, image, prompt, run, cancel, presets, suggestions, seed, steps,
    guidance, progress, status, history, undo, again, download. Works with any pipeline.
    """

    def __init__(
        self,
        pipe: KontextPipeline,
        pictures: Mapping[str, Image.Image] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        self.pipe = pipe
        self.pictures = dict(pictures if pictures is not None else samples.pictures())
        self.turns: list[Turn] = []
        self._stop, self._thread = threading.Event(), threading.Thread()
        self._make_controls(prompts if prompts is not None else samples.prompts())
        super().__init__(self._arrange())
        self.add_class("mk")
        self._connect()
        self.working.layout.display = "none"
        self._open(self.pictures[self.picture.value])

    def __repr__(self) -> str:
        return REPR

    # ---- parts

    def _make_controls(self, prompts: Sequence[str]) -> None:
        defaults = self.pipe.defaults
        self.picture = W.Dropdown(options=list(self.pictures), layout=W.Layout(width="190px"))
        self.upload = W.FileUpload(accept="image/*", description="Your own", layout=_wide("120px"))
        self.before, self.image = _picture_box("the picture before"), _picture_box("the result")
        self.before_caption, self.after_caption = _html("mk-caption"), _html("mk-caption")
        self.prompt = W.Text(placeholder="What should change?", layout=W.Layout(flex="1 1 auto"))
        self.prompt.add_class("mk-prompt")
        self.run = _button("Edit", "Apply the instruction (Enter)", "mk-run", "90px", "primary")
        self.cancel = _button("Cancel", "Stop after the running step", "mk-quiet", "90px")
        self.presets = _row([_chip(prompt) for prompt in prompts])
        self.suggestions = _row([])
        self.seed = W.BoundedIntText(
            0, 0, 2**31 - 1, description="Seed", style=TIGHT, layout=_wide("140px")
        )
        self.steps = W.IntSlider(
            defaults.num_inference_steps, 1, 50, description="Steps", style=TIGHT,
            layout=_wide("215px"),
        )  # fmt: skip
        self.guidance = W.FloatSlider(
            defaults.true_cfg_scale, min=1, max=8, step=0.5, description="Guidance",
            readout_format=".1f", style=TIGHT, layout=_wide("215px"),
        )  # fmt: skip
        self.progress = W.IntProgress(0, 0, 1, layout=W.Layout(flex="1 1 auto", margin="0 8px 0 0"))
        self.progress.add_class("mk-bar")
        self.status = W.HTML()
        self.history = _row([])
        self.undo = _button("Undo", "Take back the last edit", "mk-quiet", "80px")
        self.again = _button("Another seed", "The same edit, drawn anew", "mk-quiet", "115px")
        self.download = W.HTML()

    def _arrange(self) -> list[W.Widget]:
        arrow = W.HTML('<div class="mk-arrow" aria-hidden="true">→</div>')
        shown = W.HBox(
            [
                W.VBox([self.before, self.before_caption]),
                arrow,
                W.VBox([self.image, self.after_caption]),
            ],
            layout=W.Layout(align_items="center", justify_content="space-around"),
        )
        self.working = W.HBox([self.progress, self.cancel], layout=W.Layout(align_items="center"))
        return [
            W.HTML(CSS, layout=W.Layout(display="none")),
            W.HBox([W.Label("Picture"), self.picture, self.upload]),
            shown,
            W.HBox([self.prompt, self.run], layout=W.Layout(align_items="center")),
            self.presets,
            self.working,
            self.status,
            self.suggestions,
            _row([self.seed, self.steps, self.guidance]),
            self.history,
            _row([self.undo, self.again, self.download]),
        ]

    def _connect(self) -> None:
        self.run.on_click(lambda _: self._start())
        self.cancel.on_click(lambda _: self._stop.set())
        self.undo.on_click(lambda _: self._undo())
        self.again.on_click(lambda _: self._another_seed())
        with warnings.catch_warnings():
            # The replacement ipywidgets advises also fires when the field only loses focus.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.prompt.on_submit(lambda _: self._start())
        self.prompt.observe(lambda _: self._read_prompt(), "value")
        self.picture.observe(lambda change: self._open(self.pictures[change["new"]]), "value")
        self.upload.observe(lambda change: self._open_upload(change["new"]), "value")
        for chip in self.presets.children:
            chip.on_click(lambda chip: self._fill(chip.description))

    # ---- what the user does

    def _open(self, picture: Image.Image) -> None:
        """Start over with a picture."""
        self.start, self.turns = picture, []
        _put(self.suggestions, [])
        self._refresh()
        self._say("idle", "Say what should change, then press Edit.")

    def _open_upload(self, uploads: Sequence[Mapping[str, Any]]) -> None:
        if not uploads:
            return
        try:
            picture = image_io.read(bytes(uploads[-1]["content"]))
        except MinikontextError as error:
            return self._say("error", str(error))
        name = str(uploads[-1]["name"])
        self.pictures[name] = picture
        self.picture.options = list(self.pictures)
        self.picture.value = name  # opens it
        return None

    def _fill(self, prompt: str) -> None:
        self.prompt.value = prompt

    def _read_prompt(self) -> None:
        """Say at once what the text encoder does not understand, and offer the nearest words."""
        if self._thread.is_alive():
            return
        reports = self.pipe.text_encoder.report(self.prompt.value)
        chips = [self._replacement(r.word, near) for r in reports for near in _near(r)]
        _put(self.suggestions, chips)
        if reports:
            self._say("note", " ".join(map(str, reports)))
        else:
            self._say("idle", "Press Edit or Enter.")

    def _replacement(self, word: str, near: str) -> W.Button:
        chip = _chip(f"{word} → {near}")
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        chip.on_click(lambda _: self._fill(pattern.sub(near, self.prompt.value)))
        return chip

    def _start(self) -> None:
        """Run the edit in a thread, so that the notebook and Cancel stay alive."""
        if self._thread.is_alive():
            return
        self._stop.clear()
        self._busy(True)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _undo(self) -> None:
        if self._thread.is_alive() or not self.turns:
            return
        turn = self.turns.pop()
        self.prompt.value = turn.prompt
        self._refresh()
        self._say("idle", "Took back the last edit.")

    def _another_seed(self) -> None:
        if self._thread.is_alive() or not self.turns:
            return
        self.prompt.value = self.turns.pop().prompt
        self.seed.value = int(torch.randint(2**31 - 1, ()).item())
        self._start()

    # ---- the work

    def _work(self) -> None:
        """The thread: edit, then show the result or why there is none."""
        try:
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                turn = self._edit()
            self._done(turn, [str(note.message) for note in notes])
        except Cancelled:
            self._refresh()
            self._say("idle", f"Cancelled after step {self.progress.value}. Nothing was changed.")
        except MinikontextError as error:
            self._refresh()
            self._say("error", str(error))
        except Exception as error:  # a widget must show what went wrong, whatever it was
            self._refresh()
            self._say("error", f"{type(error).__name__}: {error}")
        finally:
            self._busy(False)

    def _edit(self) -> Turn:
        self._began, self._previewed = time.perf_counter(), 0.0
        prompt = self.prompt.value
        output = self.pipe(
            prompt,
            image=self.turns[-1].output if self.turns else self.start,
            seed=self.seed.value,
            num_inference_steps=self.steps.value,
            true_cfg_scale=self.guidance.value,
            callback=self._step,
            progress=False,
        )
        return Turn(prompt, self.current, output, time.perf_counter() - self._began)

    def _step(self, info: StepInfo) -> bool:
        """After each step: progress, now and then a preview; False stops the sampler."""
        self.progress.max, self.progress.value = info.steps, info.step
        self._say("busy", f"Step {info.step} of {info.steps}")
        elapsed = time.perf_counter() - self._began
        if self._previewed <= PREVIEW_SHARE * elapsed:
            began = time.perf_counter()
            _show(self.image, self.pipe.decode(info.clean)[0])
            _fade(self.image, False)
            self._previewed += time.perf_counter() - began
        return not self._stop.is_set()

    def _done(self, turn: Turn, notes: Sequence[str]) -> None:
        self.turns.append(turn)
        self._refresh()
        steps = self.progress.max
        seed = turn.output.seeds[0]
        text = f"Done: {steps} steps in {turn.seconds:.1f} s, seed {seed}."
        self._say("note" if notes else "done", " ".join([text, *dict.fromkeys(notes)]))

    # ---- what the user sees

    @property
    def current(self) -> Image.Image:
        """The picture that the next edit starts from."""
        return self.turns[-1].output.images[0] if self.turns else self.start

    def wait(self, timeout: float = 60.0) -> EditingWidget:
        """Wait for the running edit, for scripts and tests. Raises TimeoutError."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"The edit still runs after {timeout:g} s.")
        return self

    def save(self, path: str | Path) -> Path:
        """Write the current result as a PNG that knows how it was made."""
        made = self.turns[-1].output.provenance[0] if self.turns else None
        return image_io.save_png(self.current, path, made)

    def _refresh(self) -> None:
        last = self.turns[-1] if self.turns else None
        _show(self.before, last.before if last else self.start)
        _show(self.image, self.current)
        self.before_caption.value = "before"
        self.after_caption.value = html.escape(f"“{last.prompt}”") if last else "no edit yet"
        _fade(self.image, not last)
        thumbs = [_thumb(self.start, "start")]
        thumbs += [
            _thumb(t.output.images[0], f"{i}. {t.prompt}") for i, t in enumerate(self.turns, 1)
        ]
        _put(self.history, thumbs if self.turns else [])
        self.undo.disabled = self.again.disabled = not self.turns
        self.download.value = self._download_link() if last else ""

    def _download_link(self) -> str:
        png = image_io.png_bytes(self.current, self.turns[-1].output.provenance[0])
        data = base64.b64encode(png).decode()
        name = re.sub(r"\W+", "-", self.turns[-1].prompt).strip("-")[:40] or "edit"
        href = f"data:image/png;base64,{data}"
        return f'<a class="mk-save" download="{name}.png" href="{href}">Download PNG</a>'

    def _busy(self, busy: bool) -> None:
        if busy:
            self.progress.value = 0
            _put(self.suggestions, [])
            self._say("busy", "Reading the picture and the prompt …")
        self.working.layout.display = "flex" if busy else "none"
        self.run.disabled = self.picture.disabled = self.upload.disabled = busy
        self.undo.disabled = self.again.disabled = busy or not self.turns

    def _say(self, kind: str, text: str) -> None:
        """Show a line: kind is idle, busy, done, note or error."""
        line = f'<div class="mk-status mk-{kind}" role="status">{html.escape(text)}</div>'
        self.status.value = line


class LatentWidget(W.VBox):
    """Turn the knobs of a picture's latents and see what the decoder makes of them.

    Parts: picture, channel, push, noise, reset, before, image, latents, status.
    """

    def __init__(
        self, autoencoder: torch.nn.Module, pictures: Mapping[str, Image.Image] | None = None
    ) -> None:
        self.autoencoder = autoencoder
        self.pictures = dict(pictures if pictures is not None else samples.pictures())
        self._make_controls(autoencoder.config.z_channels)
        super().__init__(self._arrange())
        self.add_class("mk")
        for part in (self.picture, self.channel, self.push, self.noise):
            part.observe(lambda _: self.show(), "value")
        self.reset.on_click(lambda _: self._reset())
        self.show()

    def __repr__(self) -> str:
        return REPR

    def _make_controls(self, channels: int) -> None:
        self.picture = W.Dropdown(options=list(self.pictures), layout=W.Layout(width="190px"))
        same = {"style": TIGHT, "layout": _wide("210px")}
        self.channel = W.IntSlider(0, 0, channels - 1, description="Channel", **same)
        self.push = W.FloatSlider(0, min=-4, max=4, description="Add", **same)
        self.noise = W.FloatSlider(0, min=0, max=2, description="Noise", **same)
        self.reset = _button("Reset", "Back to the latents of the picture", "mk-quiet", "80px")
        self.before, self.image, self.latents = (
            _picture_box(name) for name in ("the picture", "the decoded latents", "one channel")
        )
        self.status = W.HTML()

    def _arrange(self) -> list[W.Widget]:
        names = ("picture", "latents, this channel", "decoded")
        boxes = (self.before, self.latents, self.image)
        shown = [
            W.VBox([box, W.HTML(f'<div class="mk-caption">{name}</div>')])
            for box, name in zip(boxes, names)
        ]
        for box in boxes:
            box.layout.width = box.layout.height = "200px"
        return [
            W.HTML(CSS, layout=W.Layout(display="none")),
            W.HBox([W.Label("Picture"), self.picture, self.reset]),
            W.HBox(shown, layout=W.Layout(justify_content="space-between")),
            _row([self.channel, self.push, self.noise]),
            self.status,
        ]

    def _reset(self) -> None:
        self.push.value = self.noise.value = 0.0

    @torch.no_grad()
    def show(self) -> None:
        """Encode the picture, push one channel, add noise, decode, and show all three."""
        picture = self.pictures[self.picture.value]
        weight = next(self.autoencoder.parameters())
        pixels = image_io.to_tensor(picture).to(weight)
        latents = self.autoencoder.encode(pixels)  # (1, c, h, w)
        changed = latents.clone()
        changed[:, self.channel.value] += self.push.value
        seeded = torch.Generator().manual_seed(0)
        changed += self.noise.value * torch.randn(latents.shape, generator=seeded).to(weight)
        decoded = self.autoencoder.decode(changed)
        _show(self.before, picture)
        _show(self.image, image_io.to_pil(decoded)[0])
        _show(self.latents, plots.colours(changed[0, self.channel.value].float().cpu(), 4.0))
        error = (decoded.clamp(-1, 1) - pixels).square().mean().clamp_min(1e-8)
        db = 10 * torch.log10(4 / error).item()
        text = f"channel {self.channel.value}: against the picture {db:.1f} dB"
        self.status.value = f'<div class="mk-status mk-idle" role="status">{text}</div>'


# -------------------------------------------------------------------------------- small parts


def _near(report: Warning) -> Sequence[str]:
    """The known words that a report offers in place of an unknown one; most offer none."""
    return getattr(report, "suggestions", ())


def _wide(width: str) -> W.Layout:
    return W.Layout(width=width)


def _html(css: str) -> W.HTML:
    part = W.HTML()
    part.add_class(css)
    return part


def _put(row: W.HBox, children: Sequence[W.Widget]) -> None:
    """Fill a row; an empty one takes no space."""
    row.children = list(children)
    row.layout.display = "flex" if children else "none"


def _row(children: Sequence[W.Widget]) -> W.HBox:
    layout = W.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px")
    return W.HBox(list(children), layout=layout)


def _button(text: str, tip: str, css: str, width: str, kind: str = "") -> W.Button:
    button = W.Button(description=text, tooltip=tip, button_style=kind, layout=_wide(width))
    button.add_class(css)
    return button


def _chip(text: str) -> W.Button:
    return _button(text, f"Use: {text}", "mk-chip", "auto")


def _picture_box(alt: str) -> W.Image:
    box = W.Image(format="png")
    box.add_class("mk-picture")
    box.alt = alt
    return box


def _show(box: W.Image, picture: Image.Image) -> None:
    box.value = image_io.png_bytes(picture)
    box.add_class("mk-sharp") if max(picture.size) < SHARP_BELOW else box.remove_class("mk-sharp")


def _fade(box: W.Image, faded: bool) -> None:
    """A picture that is only a placeholder is faded."""
    box.add_class("mk-faded") if faded else box.remove_class("mk-faded")


def _thumb(picture: Image.Image, caption: str) -> W.VBox:
    box = W.Image(format="png")
    box.add_class("mk-thumb")
    _show(box, picture)
    text = html.escape(caption)
    label = W.HTML(
        f'<div class="mk-caption mk-label" title="{text}">{text}</div>', layout=_wide("108px")
    )
    return W.VBox([box, label], layout=W.Layout(width="112px", align_items="center"))
