"""The editing widget in a real Chromium, for the tools beside this file: `minikontext demo`."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, sync_playwright

PATIENCE = 600  # seconds


@contextmanager
def opened(weights: str, width: int, height: int, scale: float = 1) -> Iterator[Page]:
    """A page of so many pixels that shows the widget with such weights."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "minikontext", "demo", "--no-browser", f"--port={port}",
               f"--weights={weights}"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    chromium = os.environ.get("MINIKONTEXT_CHROMIUM") or shutil.which("chromium")
    try:
        wait_for(server, port)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, device_scale_factor=scale)
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(f"http://127.0.0.1:{port}/")
            widget(page).locator(".mk-status").wait_for()
            page.wait_for_load_state("networkidle")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait(PATIENCE)


def wait_for(server: subprocess.Popen, port: int) -> None:
    """Until the server listens. Raises RuntimeError if it ends before."""
    for _ in range(10 * PATIENCE):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("`minikontext demo` does not start: is Voilà installed?")


def widget(page: Page) -> Locator:
    """The one widget of the page."""
    return page.locator(".mk").first
