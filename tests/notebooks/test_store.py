"""What is stored with a notebook's pictures, in a real kernel."""

import runpy
from pathlib import Path

import nbformat

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
    outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.outputs]
    found = [o.metadata["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert tuple(one["alt"] for one in found) == TEXTS
    assert ["width" in one for one in found] == [False] * 4 + [True]  # half of its pixels
