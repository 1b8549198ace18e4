"""`minikontext demo`: the editing widget in a page of its own, in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import minikontext as mk

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
CHROMIUM = os.environ.get("MINIKONTEXT_CHROMIUM") or shutil.which("chromium")
PATIENCE = 600_000  # milliseconds

pytestmark = [pytest.mark.browser, pytest.mark.weights]


def can_be_read(page):
    """axe-core finds nothing at all, and every text stands out from its ground."""
    assert page.evaluate(CONTRAST) == []
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


@pytest.fixture
def address(tmp_path):
    pytest.importorskip("voila", reason="voila is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "minikontext", "demo", "--no-browser", f"--port={port}",
               "--weights=toy-max"]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": paths}, stdout=log, stderr=log
        )
    for _ in range(PATIENCE // 500):
        assert server.poll() is None, (tmp_path / "log").read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait(60)


def test_the_widget_alone_edits_tries_seeds_takes_drops_and_exports(address, tmp_path, npm):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no browser is installed")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 800, "height": 1300})
        page.set_default_timeout(PATIENCE)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        widget = page.locator(".mk").first
        widget.locator(".mk-prompt input[aria-label]").fill("make it night")  # its script has run
        widget.locator(".mk-prompt input").press("Enter")
        widget.locator(".mk-status", has_text="Passes").wait_for()
        widget.locator("button", has_text="4 seeds").click()
        widget.locator(".mk-status", has_text="for 4 seeds").wait_for()
        widget.locator(".mk-thumb").nth(5).wait_for()
        with page.expect_download() as download:
            widget.locator("a.mk-save", has_text="Export").click()
        download.value.save_as(tmp_path / "session.json")

        # A result of the history becomes one more picture. `hover` waits until a part stands still.
        source, target = widget.locator(".mk-tile img[alt^='1. ']"), widget.locator(".mk-hint")
        source.hover(position={"x": 30, "y": 30})
        page.mouse.down()
        source.hover(position={"x": 40, "y": 20}, force=True)
        for x in (20, 30):  # the second one says where it is above
            target.hover(position={"x": x, "y": 5}, force=True)
        page.mouse.up()
        widget.locator(".mk-tray button", has_text="1. make it night").wait_for()

        can_be_read(page)
        dark = browser.new_page(viewport={"width": 1280, "height": 1000})
        dark.set_default_timeout(PATIENCE)
        dark.goto(f"{address}?theme=dark")
        dark.locator(".mk-prompt input[aria-label]").fill("make the haat red")
        dark.locator(".mk-chip", has_text="haat → hat").click()
        dark.locator(".mk-run").click()
        dark.locator(".mk-status", has_text="seed 0").wait_for()
        assert dark.evaluate("document.body.dataset.jpThemeLight") == "false"
        can_be_read(dark)
        # Nothing comes from elsewhere: the page works without a network.
        assert asked and [url for url in asked if not url.startswith((address, "data:"))] == []
        browser.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # other pixels are told by one
        assert len(mk.replay(tmp_path / "session.json")) == 5
