"""`minikontext page FOLDER`: build the page, and serve it if asked."""

from __future__ import annotations

import argparse
import functools
import http.server
from pathlib import Path

from minikontext.page.build import build
from minikontext.pipeline import KontextPipeline


def main(options: argparse.Namespace) -> int:
    """Build, say where, and serve on this machine alone until Ctrl-C."""
    pipe = KontextPipeline.from_pretrained(options.weights, device="cpu")
    folder = build(pipe, options.folder, options.runtime)
    print(f"The page lies in {folder}. Any web server can show it; it needs no network.")
    if options.serve is not None:
        serve(folder, options.serve)
    return 0


def serve(folder: Path, port: int) -> None:
    """Show a folder at http://127.0.0.1:port/ until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C stops)", flush=True)
        server.serve_forever()
