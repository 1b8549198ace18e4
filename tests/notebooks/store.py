"""Execute notebooks and store their outputs: `python tests/notebooks/store.py notebooks/00*.ipynb`.

Runs top to bottom in a fresh kernel, notes how long it took, and drops what a reader without a
kernel cannot see: widget state, live widget views, timings. Plots for dense screens are stored at
half of their pixels: a notebook has 500 KB. On a busy machine the clock says little: then the
kernel's processor time counts, what one core of its own would need.
"""

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"
# Plots are sharp on dense screens; what is stored has a pixel for a pixel, a third of the size.
PLAIN = """import matplotlib_inline.config as c
c.InlineBackend.instance().figure_formats = {'png'}
mk.course.plots.with_texts()"""
UNSEEN = 8  # of 255: a difference that nobody sees, if few pixels have a larger one


def store(path: Path) -> float:
    """Execute one notebook in its folder, write it back, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, startup_timeout=900, kernel_name="python3",
                            record_timing=False,
                            store_widget_state=False,
                            resources={"metadata": {"path": str(path.parent)}})  # fmt: skip
    client.on_cell_executed = lambda cell, **_: (
        "mk.course.setup(" in cell.source and client.kc.execute(PLAIN, silent=True)
    )
    began, before = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as nothing:  # the map as a new student sees it
        os.environ["MINIKONTEXT_PROGRESS"] = str(Path(nothing, "progress.json"))
        client.execute()
    elapsed = time.perf_counter() - began
    seconds = round(min(elapsed, processor_seconds() - before), 1)
    clean(notebook)
    notebook.metadata["measured_seconds"] = seconds
    beside = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, beside)
    beside.replace(path)
    return seconds


def processor_seconds() -> float:
    """What all kernels that have ended used of the processor so far."""
    used = os.times()
    return used.children_user + used.children_system


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep what every reader can see and nothing that changes from run to run."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3"
    }  # fmt: skip
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if "image/png" in data:
                data["image/png"] = squeeze(data["image/png"])


def squeeze(png: str) -> str:
    """Store a plot with 64 or 256 colours if that changes nothing one can see: a third of it."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer, kept = io.BytesIO(), image
    for colours in (256, 64):
        few = image.quantize(colours, kmeans=1, dither=Image.Dither.NONE)
        error = np.abs(np.asarray(few.convert("RGB"), int) - np.asarray(image, int))
        kept = few if np.quantile(error, 0.97) <= UNSEEN else kept
    kept.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {store(Path(name))} s")
