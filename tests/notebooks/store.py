"""Execute notebooks and store their outputs: `python tests/notebooks/store.py notebooks/00*.ipynb`.

Runs top to bottom in a fresh kernel, notes how long it took, and drops what a reader without a
kernel cannot see: widget state, live widget views, timings. Plots for dense screens are stored at
half of their pixels: a notebook has 500 KB. On a busy machine the clock says little: then the
kernel's processor time counts, what one core of its own would need. Where cores share what is one,
that says little, too: with --busy the seconds stay that a notebook has.
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


def store(path: Path, busy: bool = False) -> float:
    """Execute one notebook in its folder, write it back, and return the seconds that it says."""
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
    if not busy or "measured_seconds" not in notebook.metadata:
        notebook.metadata["measured_seconds"] = seconds
    beside = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, beside)
    beside.replace(path)
    return notebook.metadata["measured_seconds"]


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
    """Store a plot with few colours if that changes nothing one can see: a third of it.

    A sheet of pictures is not opaque where it is sheet (`course.plots`); that stays, to the value.
    """
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    alpha = np.asarray(image)[..., 3]
    grades, image = [*np.unique(alpha)][::-1], image.convert("RGB")  # pictures first
    options, kept, buffer = {}, image, io.BytesIO()
    for colours in (256, 64) if len(grades) <= 2 else ():
        shares = (colours - 32, 32)[: len(grades)] if len(grades) > 1 else (colours,)
        few, grade = _quantized(image, alpha, dict(zip(grades, shares)))
        error = np.abs(np.asarray(few.convert("RGB"), int) - np.asarray(image, int))
        if np.quantile(error, 0.97) <= UNSEEN:
            kept, options = few, {"transparency": grade} if min(grade) < 255 else {}
    if kept is image and min(grades) < 255:
        kept.putalpha(Image.fromarray(alpha))
    kept.save(buffer, "PNG", optimize=True, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def _quantized(image: Image.Image, alpha: np.ndarray, shares: dict) -> tuple[Image.Image, bytes]:
    """A picture with so many colours for each grade of alpha, and its palette's alphas."""
    index, palette, alphas = np.zeros(alpha.shape, np.uint8), [], b""
    for grade, colours in shares.items():
        mine, first = alpha == grade, len(palette) // 3
        row = Image.fromarray(np.asarray(image)[mine][None])  # its pixels alone, in one row
        few = row.quantize(colours, kmeans=1, dither=Image.Dither.NONE)
        used = 1 + int(np.asarray(few).max())
        index[mine] = first + np.asarray(few)[0]
        palette += few.getpalette()[: 3 * used]
        alphas += bytes([grade]) * used
    found = Image.fromarray(index, "P")
    found.putpalette(palette)
    return found, alphas


if __name__ == "__main__":
    busy = "--busy" in sys.argv
    for name in [one for one in sys.argv[1:] if one != "--busy"]:
        print(f"{name}: {store(Path(name), busy)} s")
