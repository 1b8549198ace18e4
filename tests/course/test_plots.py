"""Plots and map: right sizes, all forms of pictures, no display needed."""

from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minikontext import course
from minikontext.course import map as system_map
from minikontext.course import plots, sequence, style


@pytest.fixture(autouse=True)
def clean():
    style.apply()
    plt.close("all")
    yield
    plt.close("all")
    matplotlib.rcdefaults()


def width():
    return plt.gcf().get_figwidth() * plt.gcf().dpi


@pytest.mark.parametrize(
    "pictures",
    [
        Image.new("RGB", (64, 64)),
        Image.new("RGB", (1600, 900)),
        np.zeros((32, 48, 3), dtype=np.uint8),
        torch.zeros(3, 16, 16),
        torch.zeros(5, 3, 16, 16),
        [Image.new("RGB", (64, 64)), torch.zeros(2, 3, 16, 16)],
        [Image.new("RGB", (64, 64))] * 40,
    ],
)
@pytest.mark.parametrize("columns", [None, 1, 8])
def test_every_form_of_picture_fits_the_page(pictures, columns):
    page = course.sheet(pictures, ["a", "a long caption that needs lines"], columns, "Title")
    assert page.width <= 800 and page.height > 64


def test_pixels_stay_sharp_and_exact():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    page = np.asarray(course.sheet([picture] * 4))  # tiles of 128 pixels, a factor of 2
    tile = page[plots.GAP : plots.GAP + 128, plots.GAP : plots.GAP + 128]
    assert np.array_equal(tile[::2, ::2], np.asarray(picture))
    assert np.array_equal(tile[1::2, 1::2], np.asarray(picture))


def test_sheets_and_latents_are_displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    course.show_images([Image.new("RGB", (8, 8))] * 11, columns=4)
    course.show_latents(torch.randn(1, 16, 8, 8), title="Latents")
    assert len(shown) == 2 and all(image.data.startswith(b"\x89PNG") for image in shown)


def test_of_a_sheet_the_pictures_alone_are_opaque(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    pictures = [Image.new("RGB", (64, 64), "white")] * 2
    course.show_images(pictures, ["one", "two"], title="Title")
    course.show_sequence(["a", "<pad>"], *pictures[:1], pictures[1:])
    for image, side, number in zip(shown, (192, sequence.TILE), (2, 32)):
        opaque = np.asarray(Image.open(BytesIO(image.data)))[..., 3]
        assert set(np.unique(opaque)) == {style.GROUND, 255}
        assert (opaque == 255).sum() == number * side**2


def test_latents_are_blue_below_zero_and_red_above():
    picture = np.asarray(plots.colours(torch.tensor([[-9.0, 0.0, 9.0]]), 1.0)).astype(int)
    blue, white, red = picture[0]
    assert blue[2] > blue[0] + 50 and red[0] > red[2] + 50 and white.min() > 240


def test_captions_wrap():
    lines = plots.wrap("make the hat red and the scarf blue", 120)
    assert len(lines) > 1 and " ".join(lines) == "make the hat red and the scarf blue"
    assert plots.wrap("one\ntwo", 500) == ["one", "two"]


def test_bars_and_map_fit_the_page():
    course.bars({"one": 1.0, "two": 2.0}, "Two is more", lit=["two"])
    assert width() <= 800
    for name in [*system_map.BOXES, *system_map.TOGETHER]:
        plt.close("all")
        course.show_system(name)
        assert width() <= 800
    with pytest.raises(KeyError, match="No box"):
        course.show_system("engine room")


def test_boxes_of_the_map_do_not_overlap():
    boxes = list(system_map.BOXES.values())
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a.y != b.y or abs(a.x - b.x) >= (a.width + b.width) / 2


def test_setup_says_one_line(capsys):
    course.setup(seed=3)
    first = torch.rand(1)
    course.setup(seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0] == lines[1] and lines[0].endswith("seed 3")
    assert torch.equal(first, torch.rand(1))
