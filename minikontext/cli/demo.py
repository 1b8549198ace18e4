"""`minikontext demo`: the editing widget as a page of its own, with a kernel behind it (Voilà)."""

from __future__ import annotations

import argparse
import json
import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from minikontext.errors import ConfigError, MissingPackageError

CELL = """import minikontext as mk
pipe = mk.KontextPipeline.from_pretrained({weights!r})
mk.course.EditingWidget(pipe)"""
# Voilà's page asks a content network for icons that its own files bring: ours leaves those out.
TEMPLATE = """{% extends "voila/templates/lab/index.html.j2" %}
{% block notebook_css %}{% for line in super().splitlines() if "//cdn" not in line %}{{ line }}
{% endfor %}<style>#rendered_cells .mk { margin: 0 auto; }</style>{% endblock %}
{% block body_header %}{{ super().replace("<div id=", "<div role='main' id=") }}{% endblock %}"""


def add(commands: argparse._SubParsersAction) -> None:
    """Describe `demo`."""
    demo = commands.add_parser("demo", help="the editing widget in a page of its own (needs Voilà)")
    demo.add_argument("--weights", default="toy", help="a shipped name or a folder (default: toy)")
    demo.add_argument("--port", type=int, default=8866, metavar="N", help="(default: %(default)s)")
    demo.add_argument("--theme", choices=("light", "dark"), default="light")
    demo.add_argument("--no-browser", action="store_true", help="print the address, only")
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    if find_spec("voila") is None:
        raise MissingPackageError(
            'The page needs Voilà: pip install "minikontext[demo]" (from a clone: pip install -e '
            '".[demo]"). Without it, `minikontext lab` has the same widget in notebook 00, and '
            "`minikontext page FOLDER` writes an editor that needs no kernel."
        )
    if not 0 <= options.port < 2**16:
        raise ConfigError(f"--port {options.port}: ports go from 0 to {2**16 - 1}.")
    from minikontext.pretrained import loader

    loader.require(options.weights)  # the page would show nothing but a traceback
    from voila.app import Voila

    with TemporaryDirectory() as folder:
        path = Path(folder, "minikontext.ipynb")
        path.write_text(json.dumps(notebook(options.weights)), encoding="utf-8")
        _add_template(Path(folder, "voila", "templates", "minikontext"))
        paths = filter(None, [folder, os.environ.get("JUPYTER_PATH")])
        os.environ["JUPYTER_PATH"] = os.pathsep.join(paths)
        more = ["--no-browser"] if options.no_browser else []
        port, theme = f"--port={options.port}", f"--theme={options.theme}"
        Voila.launch_instance(
            [str(path), port, theme, "--template=minikontext", "--Voila.ip=127.0.0.1", *more]
        )
    return 0


def _add_template(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
    (folder / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")


def notebook(weights: str) -> dict:
    """A notebook of one cell: the widget."""
    weights = str(Path(weights).resolve()) if Path(weights).is_dir() else weights
    cell = {
        "cell_type": "code", "execution_count": None, "id": "widget", "metadata": {},
        "outputs": [], "source": CELL.format(weights=weights),
    }  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    facts = {"kernelspec": kernel, "title": "minikontext"}
    return {"cells": [cell], "metadata": facts, "nbformat": 4, "nbformat_minor": 5}
