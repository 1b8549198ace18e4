"""`minikontext page FOLDER`: build the page, and serve it if asked."""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server

from minikontext.errors import ConfigError
from minikontext.page.build import build, places
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import log


def main(options: argparse.Namespace) -> int:
    """Build, say where, and serve on this machine alone until Ctrl-C."""
    with contextlib.ExitStack() as stack:
        server = None
        if options.serve is not None:
            server = stack.enter_context(listen(options.folder, options.serve))
        places(options.folder, options.runtime)  # weights take seconds
        pipe = KontextPipeline.from_pretrained(options.weights, device="cpu")
        folder = build(pipe, options.folder, options.runtime)
        log.say(f"The page lies in {folder}. Any web server can show it; it needs no network.",
                keep="")  # fmt: skip
        if server:
            print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C stops)", flush=True)
            server.serve_forever()
    return 0


def listen(folder: str, port: int) -> http.server.ThreadingHTTPServer:
    """What will show a folder at a port of this machine. Raises ConfigError for one that is taken,

    before the page is built.
    """
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ConfigError(f"Cannot serve at port {port}: {why}. Give another, or 0.") from error
