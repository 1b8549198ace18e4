"""What is stored of an output: a plot for dense screens at half of its pixels."""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))
from store import clean


def test_a_plot_for_dense_screens_is_stored_as_large_as_it_is_shown():
    plot = Image.new("RGB", (600, 400), "white")
    ImageDraw.Draw(plot).line((0, 0, 600, 400), fill="blue", width=4)
    plot.save(buffer := io.BytesIO(), "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    new, sizes = nbformat.v4, []
    for facts in ({"image/png": {"width": 300, "height": 200}}, {}):
        output = new.new_output("display_data", data=dict(data), metadata=dict(facts))
        notebook = new.new_notebook(cells=[new.new_code_cell("plot()", outputs=[output])])
        clean(notebook)
        (kept,) = notebook.cells[0].outputs
        sizes.append(Image.open(io.BytesIO(base64.b64decode(kept.data["image/png"]))).size)
        assert not kept.metadata
    assert sizes == [(300, 200), (600, 400)]
