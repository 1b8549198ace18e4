"""The invisible watermark: found where it is, not found elsewhere, and honest about its limits."""

import importlib.util
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from minikontext import images
from minikontext.cli import app
from minikontext.errors import MissingPackageError, SizeError
from minikontext.images import inspect, provenance, watermark

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("imwatermark") is None, reason="the extra 'watermark' is not installed"
)


def picture(seed=0, size=(320, 256)):
    """Coarse patches of colour, so that there is something to see and much that is flat."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def saved(image, **options):
    buffer = BytesIO()
    image.save(buffer, **options)
    return images.read(buffer.getvalue())


def test_the_mark_has_as_many_ones_as_chance():
    assert len(watermark.BITS) == 64 and 24 < watermark.BITS.sum() < 40


@needs_package
@pytest.mark.parametrize("seed", range(3))
def test_a_mark_is_found_and_survives_jpeg_and_halving(seed):
    marked = watermark.mark(picture(seed))
    error = (np.asarray(marked, dtype=float) - np.asarray(picture(seed), dtype=float)) ** 2
    assert 0 < error.mean() < 255**2 / 10**3.2  # more than 32 dB
    assert watermark.agreement(marked) == 64
    assert watermark.agreement(saved(marked, format="PNG")) == 64
    assert watermark.agreement(saved(marked, format="JPEG", quality=75)) >= watermark.ENOUGH
    half = marked.resize((160, 128), Image.Resampling.LANCZOS).resize((320, 256))
    assert watermark.agreement(half) >= watermark.ENOUGH


@needs_package
@pytest.mark.parametrize("seed", range(3))
def test_no_mark_is_found_where_there_is_none(seed):
    assert watermark.agreement(picture(seed)) < watermark.ENOUGH
    cut = watermark.mark(picture(seed)).crop((10, 10, 320, 256))
    assert watermark.agreement(cut.resize((320, 256))) < watermark.ENOUGH


@needs_package
def test_a_marked_picture_keeps_its_history(tmp_path):
    made = provenance.Provenance(prompt="make it night", seed="1", weights="toy")
    marked = watermark.mark(provenance.attach(picture(), made))
    path = provenance.save(marked, tmp_path / "a.png")
    assert inspect.inspect(path).verdict == inspect.UNCHANGED
    assert provenance.read(path).prompt == "make it night"


@pytest.mark.parametrize("function", [watermark.mark, watermark.agreement])
def test_small_pictures_cannot_hold_one(function):
    with pytest.raises(SizeError, match="64×64"):
        function(Image.new("RGB", (64, 64)))
    assert "cannot be there" in watermark.describe(Image.new("RGB", (64, 64)))


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imwatermark", None)
    with pytest.raises(MissingPackageError, match="watermark"):
        watermark.mark(picture())


@pytest.fixture
def here(tiny_pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_pipe.save_pretrained(tmp_path / "weights", name="random")
    picture(size=(288, 240)).save("fox.png")
    return tmp_path


def command(*arguments):
    return app.main([str(argument) for argument in arguments])


def edit(*options):
    return command("edit", "fox.png", "make the hat red", "--weights", "weights", "-q", *options)


@needs_package
def test_the_command_marks_and_finds(here, capsys):
    assert edit("--steps", 1, "--resize", "none", "--watermark", "-o", "a.jpg") == 0
    assert edit("--steps", 1, "--resize", "none", "-o", "b.png") == 0
    capsys.readouterr()
    assert command("inspect", "a.jpg", "--watermark") == 3  # the pixels of a JPEG
    assert "watermark: found (" in capsys.readouterr().out
    assert command("inspect", "b.png", "--watermark") == 0
    assert "watermark: not found, which proves nothing" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(), ("--width", 64, "--height", 64)])
def test_the_command_refuses_before_the_work(here, capsys, monkeypatch, size):
    if not size:
        monkeypatch.setitem(sys.modules, "imwatermark", None)
    assert edit("--steps", 10**9, "--watermark", "-o", "a.png", *size) == 2
    assert ("64×64" if size else "pip install") in capsys.readouterr().err
    assert not (here / "a.png").exists()
