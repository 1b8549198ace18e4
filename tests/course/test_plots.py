"""Plots and map: right sizes, all forms of pictures, no display needed."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minikontext import course
from minikontext.course import map as system_map
from minikontext.course import style


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
        np.zeros((32, 48, 3), dtype=np.uint8),
        torch.zeros(3, 16, 16),
        torch.zeros(5, 3, 16, 16),
        [Image.new("RGB", (64, 64)), torch.zeros(2, 3, 16, 16)],
    ],
)
def test_every_form_of_picture_can_be_shown(pictures):
    course.show_images(pictures, ["a"], title="Title")
    assert width() <= 800


def test_many_pictures_wrap():
    course.show_images([Image.new("RGB", (8, 8))] * 11, columns=4)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert len(shown) == 11 and len(plt.gcf().axes) == 12 and width() <= 800


def test_latents_show_one_panel_a_channel():
    course.show_latents(torch.randn(1, 16, 8, 8))
    assert sum(bool(ax.images) for ax in plt.gcf().axes) == 16


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


def test_small_pictures_grow_by_whole_factors():
    assert course.upscale(Image.new("RGB", (64, 64))).size == (192, 192)
    assert course.upscale(Image.new("RGB", (100, 60))).size == (100, 60)
    assert course.upscale(Image.new("RGB", (500, 500))).size == (500, 500)


def test_setup_says_one_line(capsys):
    course.setup(seed=3)
    first = torch.rand(1)
    course.setup(seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0] == lines[1] and lines[0].endswith("seed 3")
    assert torch.equal(first, torch.rand(1))
