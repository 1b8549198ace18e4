"""What is stored with a notebook's pictures, in a real kernel."""

import base64
import io
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from minikontext.course import style

STORE = runpy.run_path(str(Path(__file__).with_name("store.py")))
CELLS = (
    "import minikontext as mk\nmk.course.setup(seed=0)",
    'mk.course.show_system("rope")',
    'mk.course.bars({"cat": 2, "bunny": 3.5}, "The bunny has more", "carrots")',
    'sheet = [mk.toyworld.render(mk.toyworld.Scene())]\n'
    'mk.course.show_images(sheet, ["a\\nscene"], title="One picture")',
    "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\n"
    'axes[0].plot([1, 2], label="loss")\naxes[0].set(xlabel="steps", title="left")\n'
    'axes[0].legend()\naxes[1].set(ylabel="dB")\nfigure.suptitle("It falls")\nplt.show()',
    'mk.course.style.apply()\nmk.course.plots.with_texts()\nplt.plot([1, 2])\nplt.title("Sharp")\n'
    "plt.show()",  # as a student sees it: for dense screens
)  # fmt: skip
TEXTS = (
    "The map of the whole system; lit: rope",
    "The bunny has more; carrots; cat: 2; bunny: 3.5",
    "One picture; a scene",
    "It falls; left; x: steps; loss; y: dB",
    "Sharp",
)


def test_every_picture_has_a_text_for_a_reader_who_cannot_see_it(tmp_path):
    path = tmp_path / "00_texts.ipynb"
    cell = nbformat.v4.new_code_cell
    nbformat.write(nbformat.v4.new_notebook(cells=[cell(source) for source in CELLS]), path)
    STORE["store"](path)
    timed = nbformat.read(path, as_version=4)
    timed.metadata["measured_seconds"] = 0.5
    nbformat.write(timed, path)
    assert STORE["store"](path, busy=True) == 0.5
    outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.outputs]
    found = [o.metadata["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert tuple(one["alt"] for one in found) == TEXTS
    assert ["width" in one for one in found] == [False] * 4 + [True]  # half of its pixels
    sheet = next(o.data["image/png"] for o in outputs
                 if "One picture" in str(o.get("metadata")))  # fmt: skip
    alpha = np.unique(np.asarray(opened(sheet).convert("RGBA"))[..., 3])
    assert [*alpha] == [style.GROUND, 255]  # by this the dark theme tells pictures from sheet


def opened(png):
    return Image.open(io.BytesIO(base64.b64decode(png)))


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("grades", [(255,), (250, 255)])
@pytest.mark.parametrize("many", [False, True])
def test_a_picture_is_squeezed_to_colours_that_look_the_same_and_alpha_stays(grades, many):
    draw = np.random.default_rng(0)
    few = np.array([[255, 255, 255], [40, 80, 200], [200, 30, 30]], np.uint8)
    pixels = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8) if many else few[
        draw.integers(0, 3, (64, 64))]  # fmt: skip
    alpha = draw.choice(np.array(grades, np.uint8), (64, 64))
    found = opened(STORE["squeeze"](encoded(Image.fromarray(np.dstack([pixels, alpha])))))
    whole = np.asarray(found.convert("RGBA"))
    assert found.mode == ("P" if not many else "RGB" if grades == (255,) else "RGBA")
    assert np.array_equal(whole[..., 3], alpha) and np.array_equal(whole[..., :3], pixels)
