"""What everybody must be able to read: names, texts for pictures, contrast, no kernel at all."""

import html
import io
import re

import ipywidgets as W
import pytest
from PIL import Image

from minikontext.course import (
    attention,
    editing,
    failures,
    few_steps,
    fits,
    flow_pictures,
    latents,
    parts,
    patches,
    positions,
    scale,
    sequence,
    style,
    trajectory,
)
from minikontext.course.parts import Picture
from minikontext.toyworld import sample_edit, score

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (64, 64), "blue")}
CASE = sample_edit(1, 1)
NAMED = (W.Dropdown, W.IntSlider, W.FloatSlider, W.SelectionSlider, W.BoundedIntText, W.FileUpload,
         W.Checkbox)  # fmt: skip
# JupyterLab's own colours of its themes: surface and text.
THEMES = {"light": ("#ffffff", "#212121"), "dark": ("#212121", "#ffffff")}


def answers():
    image = CASE.target_image()
    return [failures.Answer(CASE, image, score(image, CASE))]


WIDGETS = {
    "editing": lambda pipe: editing.EditingWidget(pipe, PICTURES, ["a sign"]),
    "attention": lambda pipe: attention.AttentionWidget(pipe, PICTURES, "a sign", steps=1),
    "trajectory": lambda pipe: trajectory.TrajectoryWidget(pipe, PICTURES, ["a sign"]),
    "few steps": lambda pipe: few_steps.FewStepsWidget({"one": pipe}, PICTURES, ["a sign"], (1,)),
    "latents": lambda pipe: latents.LatentWidget(pipe.autoencoder, PICTURES),
    "failures": lambda pipe: failures.FailuresWidget(answers()),
    "positions": lambda pipe: positions.RopeWidget(),
    "flow": lambda pipe: flow_pictures.FlowWidget(8),
    "plan": lambda pipe: scale.PlanWidget(),
    "fits": lambda pipe: fits.FitsWidget(),
}


def inside(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


@pytest.fixture(params=WIDGETS)
def widget(request, tiny_pipe):
    return WIDGETS[request.param](tiny_pipe)


def test_everything_has_a_name_and_every_picture_a_text(widget):
    pictures = [part for part in inside(widget) if isinstance(part, Picture)]
    assert not [part for part in inside(widget) if isinstance(part, W.Image)]
    for part in pictures:
        assert part.alt
        assert not part.value or re.match(r'<img src="data:image/png;base64,\S+" alt="[^"]+">$',
                                          part.value)  # fmt: skip
    for part in inside(widget):
        if isinstance(part, NAMED):
            assert part.description.strip(), part
        if isinstance(part, W.Text):
            assert part.description or part.tooltip
        if isinstance(part, W.Button):
            assert part.description or part.tooltip


def test_what_happens_is_read_out_by_a_region_that_stays(widget):
    """A live region is heard when its text changes; one that comes with its text is not."""
    assert "mk-live" in widget.status._dom_classes
    assert "role=" not in widget.status.value
    script = html.unescape(parts.NAMES)
    assert 'querySelectorAll(".mk-live")) box.setAttribute("role", "status")' in script


def test_without_a_kernel_a_word_stands_in_its_place(widget, monkeypatch):
    seen = []
    monkeypatch.setattr(parts, "display", lambda data, raw: seen.append(data))
    widget._ipython_display_()
    first, second = seen
    assert parts.REPR in first["text/html"] and first["text/plain"] == parts.REPR
    assert second["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    assert "mk-fallback" in widget.children[0].value  # hides the word where the widget lives


def test_work_does_not_push_what_is_below(tiny_pipe):
    demo = editing.EditingWidget(tiny_pipe, PICTURES, ["a sign"])
    demo._busy(True)
    assert demo.working.layout.visibility == "visible" and demo.working.layout.display is None
    demo._busy(False)
    assert demo.working.layout.visibility == "hidden" and demo.working.layout.display is None


# ---------------------------------------------------------------- contrast


def over(colour, alpha, ground):
    """A see-through colour on a ground."""
    mixed = (
        round(int(colour[i : i + 2], 16) * alpha + int(ground[i : i + 2], 16) * (1 - alpha))
        for i in (1, 3, 5)
    )
    return "#" + "".join(f"{x:02x}" for x in mixed)


def test_contrast_by_hand():
    assert style.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert style.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_status_lines_can_be_read(theme):
    ground, text = THEMES[theme]
    tints = re.findall(r"\.mk-(busy|done|note|error) \{ background: (#\w{6})(\w\w)", parts.CSS)
    assert len(tints) == 4
    for _, colour, alpha in tints:
        assert style.contrast(text, over(colour, int(alpha, 16) / 255, ground)) >= 4.5


@pytest.mark.parametrize("colour", [style.ACCENT, style.BLUE, style.GREEN, style.GOLD, style.VIOLET,
                                    style.GREY, style.PALE])  # fmt: skip
def test_text_on_every_colour_of_the_palette_can_be_read(colour):
    assert style.contrast(style.text_on(colour), colour) >= 4.5


def test_text_in_colour_can_be_read_on_paper():
    for colour in (style.INK, style.GREY, style.ACCENT, style.BLUE, style.GREEN):
        assert style.contrast(colour, style.PAPER) >= 4.5


def test_the_names_beside_a_sequence_can_be_read_on_paper():
    picture = Image.new("RGB", (64, 64))
    page = sequence.draw_sequence(["a"], picture, [picture])  # three rows, each with its name
    for row in range(3):
        y = 6 + row * sequence.HIGH
        names = page.crop((0, y, sequence.LEFT - 2, y + sequence.HIGH))
        ink = min((colour for _, colour in names.getcolors(10_000)), key=sum)  # no soft edge
        assert style.contrast("#" + bytes(ink).hex(), style.PAPER) >= 4.5


def test_bars_and_words_take_the_readable_ink():
    for name, colour in sequence.PARTS.items():
        bar = patches.share_bar([name], [1.0], list(sequence.PARTS).index(name))
        assert f"background: {colour}; color: {style.text_on(colour)}" in bar
    for weight in (0.0, 0.1, 0.5, 1.0):
        ink, ground = re.search(r"color: (#\w{6}); background: (#\w{6})",
                                patches.chips(["hat"], [weight])).groups()  # fmt: skip
        assert style.contrast(ink, ground) >= 4.5


def test_the_dark_theme_turns_plots_dark_and_they_can_still_be_read():
    found = re.search(r'theme-light="false"\] \.mk \.mk-plot \{ filter: invert\((\S+)\)', parts.CSS)
    share = float(found[1])

    def inverted(colour):
        numbers = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return "#" + "".join(f"{round(share * (255 - x) + (1 - share) * x):02x}" for x in numbers)

    assert inverted(style.PAPER) == THEMES["dark"][0]
    assert style.contrast(inverted(style.INK), inverted(style.PAPER)) >= 4.5
    assert "mk-plot" in fits.FitsWidget().image._dom_classes


# ---------------------------------------------------------------- large pictures


def test_a_large_picture_is_shown_small_and_encoded_once_on_download(tiny_pipe, monkeypatch):
    sizes = []
    real = parts.image_io.png_bytes
    monkeypatch.setattr(parts.image_io, "png_bytes", lambda p: sizes.append(p.size) or real(p))
    encoded = []
    whole = editing.provenance.encode
    monkeypatch.setattr(
        editing.provenance, "encode", lambda p, *a: encoded.append(p.size) or whole(p, *a)
    )
    hashed, checksum = [], editing.provenance.checksum
    monkeypatch.setattr(
        editing.provenance, "checksum", lambda p: hashed.append(p.size) or checksum(p)
    )
    buffer = io.BytesIO()
    Image.new("RGB", (1600, 1200), "red").save(buffer, "PNG")
    demo = editing.EditingWidget(tiny_pipe, PICTURES, ["a sign"])
    demo._open_upload([{"name": "large.png", "content": memoryview(buffer.getvalue())}])
    demo.prompt.value = "a sign"
    demo.run.click()
    demo.wait()
    assert demo.current.size == (1600, 1200), demo.status.value
    assert hashed == [(1600, 1200)] * 2  # of the picture and of the result, each once
    demo.view.value = "Difference"
    assert max(max(size) for size in sizes) <= parts.SHOWN
    assert not encoded and demo.download.value == "" and demo.prepare.layout.display is None
    said = []
    demo.status.observe(lambda change: said.append((change["new"], len(encoded))), "value")
    demo.prepare.click()
    assert encoded == [(1600, 1200)] and "mk-save" in demo.download.value
    assert [("mk-busy" in text, count) for text, count in said] == [(True, 0), (False, 1)]
    assert demo.prepare.layout.display == "none"  # once is enough
