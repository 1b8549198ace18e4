"""Real JupyterLab in a real browser: notebook 00 runs, and its widget obeys mouse and keyboard."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pytest

from minikontext.errors import WeightsError
from minikontext.images import provenance
from minikontext.pretrained.native import find_weights

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
START, ATTENTION = "00_start_here.ipynb", "02_sequence_concat.ipynb"
SAFETY = "10_safety.ipynb"
HANDS = "hands.ipynb"  # made here: the editing widget alone, with few-step weights
CELLS = (
    'import minikontext as mk\npipe = mk.KontextPipeline.from_pretrained("toy-max")\npipe',
    "mk.course.EditingWidget(pipe)",
    'pipe("make the hat red", mk.course.pictures()["cat"], seed=1, progress=False)',
)
PATIENCE = 600_000  # milliseconds: for slow machines, never waited for on others
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("MINIKONTEXT_CHROMIUM") or next(
    filter(None, map(shutil.which, NAMES)), ""
)
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
           "disable-background-networking", "disable-component-update")  # fmt: skip
PIXELS = """image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""
SETTINGS = {
    # Without these, cells out of sight do not exist and a question covers the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

pytestmark = pytest.mark.browser


def missing():
    """Why this test cannot run here, or nothing."""
    if not CHROMIUM:
        return f"no browser: none of {', '.join(NAMES)} is installed (or set MINIKONTEXT_CHROMIUM)"
    for name in (START, ATTENTION, SAFETY):
        if not (NOTEBOOKS / name).is_file():
            return f"there is no {name}"
    try:
        find_weights("toy")
    except WeightsError:
        return "the toy weights are not there"
    return ""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own, on copies of the notebooks; gives the address of one by name."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if reason := missing():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("lab")
    for name in (START, ATTENTION, SAFETY):
        shutil.copy(NOTEBOOKS / name, home)
    new, kernel = nbformat.v4, {"name": "python3", "display_name": "Python 3"}
    cells, facts = list(map(new.new_code_cell, CELLS)), {"kernelspec": kernel}
    nbformat.write(new.new_notebook(cells=cells, metadata=facts), home / HANDS)
    for name, value in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))
    server = start_server(home, port := free_port())
    # Reset: JupyterLab would open the notebooks of the last visit again, and run one of those.
    yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token=secret&reset".format
    server.terminate()
    server.wait(30)


def start_server(home, port):
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}  # fmt: skip
    env = {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env.setdefault("MINIKONTEXT_WEIGHTS", str(find_weights("toy").parent))
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=secret",
               f"--ServerApp.root_dir={home}"]  # fmt: skip
    log = (home / "server.log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options]
    server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    for _ in range(PATIENCE // 500):
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended: {(home / 'server.log').read_text()[-2000:]}")
        if answers(port):
            return server
        time.sleep(0.5)
    server.terminate()
    pytest.fail("JupyterLab did not start")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{option}" for option in OPTIONS]
        )
        page = browser.new_page(
            viewport={"width": 1200, "height": 1000}, accept_downloads=True, has_touch=True
        )
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def open_and_run(page, address):
    """Open a notebook and run all of its cells."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("| Idle").wait_for()
    begun = """() => document.querySelector('.mk') || [...document.querySelectorAll(
        '.jp-InputPrompt')].some(e => e.innerText == '[*]:')"""
    for _ in range(10):  # cells started before the kernel is ready are dropped without a word
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        with suppress(PlaywrightTimeout):
            page.wait_for_function(begun, timeout=30_000)
            break
    page.wait_for_selector(".mk")
    page.wait_for_function(  # no cell waits for its turn any more
        "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(e => e.innerText == '[*]:')"
    )


def with_a(page, part):
    """The first widget of a notebook that has such a part: predictions are widgets, too."""
    return page.locator(".mk", has=page.locator(part)).first


def picture(widget):
    """The pixels that the browser shows as the result."""
    return widget.locator(".mk-picture img").nth(1).evaluate(PIXELS)


def settled(widget):
    """The picture once it no longer changes: the last preview may still be on its way."""
    seen = [""]
    until(lambda: seen.append(picture(widget)) or seen[-1] == seen[-2], pause=0.4)
    return seen[-1]


def until(condition, seconds=PATIENCE / 1000, pause=0.1):
    """Wait for what takes a trip to the kernel and back."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(pause)


def status(widget, text):
    widget.locator(".mk-status", has_text=text).wait_for()


def test_notebook_runs_and_its_widget_edits(page, lab, tmp_path):
    open_and_run(page, lab(START))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-picture")
    widget.scroll_into_view_if_needed()
    start = picture(widget)

    # Keyboard: a word that is not known, its suggestion, Enter.
    prompt = widget.locator(".mk-prompt input")
    prompt.click()
    page.keyboard.type("make the haat red")
    status(widget, "Unknown word")
    widget.locator(".mk-chip", has_text="haat → hat").click()
    until(lambda: prompt.input_value() == "make the hat red")
    prompt.press("Enter")
    status(widget, "Done")
    red = settled(widget)
    assert red != start

    # Mouse: a preset, then the button; the edit goes on from the result.
    widget.locator(".mk-chip", has_text="make it night").click()
    widget.locator(".mk-run").click()
    widget.locator(".mk-thumb").nth(2).wait_for()
    status(widget, "Done")
    night = settled(widget)
    assert night not in (start, red)

    # Cancel: a long edit, stopped; nothing has changed.
    for slider in (0, 1):
        widget.locator(".noUi-handle").nth(slider).press("End")
    widget.locator(".mk-run").click()
    status(widget, "Step")
    widget.locator("button", has_text="Cancel").click()
    status(widget, "Cancelled after step")
    until(lambda: picture(widget) == night)
    assert widget.locator(".mk-thumb").count() == 3

    # Download: the file knows how it was made.
    with page.expect_download() as download:
        widget.locator("a.mk-save", has_text="PNG").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "make-it-night.png" and provenance.read(file).prompt == "make it night"

    # Undo: back to the red hat.
    widget.locator("button", has_text="Undo").click()
    status(widget, "Took back")
    until(lambda: picture(widget) == red and prompt.input_value() == "make it night")

    # The keyboard alone: to a result of the history, back to the words, another edit.
    widget.locator("button", has_text="start").focus()
    page.keyboard.press("Enter")
    status(widget, "Go on from the start")
    until(lambda: picture(widget) == start)
    prompt.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("make the cat striped")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    status(widget, "Done")
    widget.locator(
        ".mk-caption", has_text="“make the cat striped”"
    ).wait_for()  # to the last letter
    assert settled(widget) not in (start, red, night)
    assert widget.locator(".mk-thumb").count() == 4


def test_the_attention_widget_answers_a_click(page, lab):
    open_and_run(page, lab(ATTENTION))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-patch")
    before = widget.locator(".mk-status").inner_text()
    widget.locator(".mk-stack").nth(0).locator(".mk-patch").nth(6).click()  # row 2, column 3
    status(widget, "row 2, column 3 looks")
    for key, place in (("ArrowRight", "row 2, column 4"), ("ArrowDown", "row 3, column 4")):
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        status(widget, f"{place} looks")
    # All patches of a picture together are one stop for Tab.
    patches = "e => [...e.querySelectorAll('.mk-patch')].filter(x => x.tabIndex === 0).length"
    assert widget.locator(".mk-stack").nth(0).evaluate(patches) == 1
    assert widget.locator(".mk-status").inner_text() != before
    widget.locator(".mk-stack").nth(-1).locator(".mk-patch").nth(20).click()
    status(widget, "block 6, head 1")

    # Words that are not known are named before and after; Enter takes the last letter, too.
    widget.locator(".mk-prompt input").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("make the haat red")
    page.keyboard.press("Enter")
    widget.locator(".mk-words", has_text="<unk>").wait_for()
    status(widget, "Unknown word 'haat'")


def test_the_desk_of_safety_obeys_its_switches(page, lab):
    open_and_run(page, lab(SAFETY))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-layer")
    widget.scroll_into_view_if_needed()
    switch = {name: widget.locator("button.mk-layer", has_text=name) for name in
              ("prompt filter", "input filter", "trained model", "output filter")}  # fmt: skip
    widget.locator("select").first.select_option("no picture")
    widget.locator(".mk-prompt input").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("a purple star in the forest")
    page.keyboard.press("Enter")
    status(widget, "Stopped by the prompt filter")
    for one in switch.values():
        one.click()
    widget.locator(".mk-run").click()
    status(widget, "It got through")
    switch["output filter"].click()
    widget.locator(".mk-run").click()
    status(widget, "Withheld by the output filter")
    assert widget.locator(".mk-log tr").count() == 4  # a head and three attempts
    widget.locator("button", has_text="Clear the log").click()
    widget.locator(".mk-log", has_text="The log is empty").wait_for()


# ---------------------------------------------------------------- the editing widget by hand


def red(widget):
    """Where the result's picture is as red as a mark: rows and columns, from 0 to 1."""
    code = """image => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [64, 64];
      canvas.getContext("2d").drawImage(image, 0, 0, 64, 64);
      return [...canvas.getContext("2d").getImageData(0, 0, 64, 64).data]; }"""
    pixels = widget.locator(".mk-top img").evaluate(code)
    rgb = np.array(pixels).reshape(64, 64, 4)[..., :3]
    rows, columns = np.nonzero((rgb[..., 0] > 200) & (rgb[..., 1:].max(-1) < 90))
    return (rows + 0.5) / 64, (columns + 0.5) / 64


def view(widget, name):
    widget.locator("button", has_text=name).click()
    widget.locator("button.mod-active", has_text=name).wait_for()


def at(board, x, y):
    box = board.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def draw(page, board, *places):
    """Draw through places with the mouse."""
    page.mouse.move(*at(board, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(board, *place))
    page.mouse.up()


def marked(widget, test):
    until(lambda: len(red(widget)[0]) and test(*red(widget)))
    widget.locator("button", has_text="Clear").click()
    until(lambda: not len(red(widget)[0]))


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_cue_is_drawn_by_mouse_finger_and_keyboard(page, lab):
    open_and_run(page, lab(HANDS))
    widget = page.locator(".mk").first
    widget.scroll_into_view_if_needed()
    board = widget.locator(".mk-board")
    assert not board.is_visible() and not len(red(widget)[0])

    view(widget, "Ellipse")
    draw(page, board, (0.25, 0.25), (0.5, 0.5), (0.75, 0.75))
    status(widget, "sees these marks")

    def ring(rows, columns):
        far = np.hypot(rows - 0.5, columns - 0.5)
        return far.min() > 0.2 and far.max() < 0.3

    marked(widget, ring)

    view(widget, "Brush")
    finger = page.context.new_cdp_session(page)
    for kind, place in (("touchStart", (0.2, 0.8)), ("touchMove", (0.5, 0.8)),
                        ("touchMove", (0.8, 0.8)), ("touchEnd", None)):  # fmt: skip
        points = [dict(zip("xy", at(board, *place), strict=True))] if place else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    marked(widget, lambda rows, columns: abs(rows - 0.8).max() < 0.06 and np.ptp(columns) > 0.5)

    view(widget, "Ellipse")
    board.focus()
    for key in (*["ArrowLeft"] * 5, *["Shift+ArrowUp"] * 3, "Enter"):
        page.keyboard.press(key)
    marked(widget, lambda rows, columns: abs(columns.mean() - 0.3) < 0.05)
    board.focus()
    page.keyboard.press("Enter")
    until(lambda: len(red(widget)[0]))
    page.keyboard.press("Escape")
    until(lambda: not len(red(widget)[0]))


def test_the_slider_compares_and_a_dropped_file_is_one_more_picture(page, lab):
    open_and_run(page, lab(HANDS))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    # The pipeline is a table of its parts, an output its picture.
    table = page.locator("table", has_text="KontextTransformer")
    assert table.locator("tbody tr").count() == 3
    assert page.locator("figure img[alt='make the hat red']").count() == 1

    widget = page.locator(".mk").first
    widget.scroll_into_view_if_needed()
    board = widget.locator(".mk-board")
    view(widget, "Ellipse")
    draw(page, board, (0.2, 0.2), (0.8, 0.8))
    status(widget, "sees these marks")
    widget.locator(".mk-prompt input").fill("make it night")
    widget.locator(".mk-prompt input").press("Enter")
    widget.locator(".mk-thumb").nth(1).wait_for()

    # The slider, by keyboard and by mouse: what is left of it is the picture before.
    view(widget, "Compare")
    cut = "e => getComputedStyle(e.querySelector('.mk-under')).clipPath"
    stage, slider = widget.locator(".mk-stage"), widget.locator(".mk-range")
    slider.focus()
    page.keyboard.press("Home")
    until(lambda: stage.evaluate(cut) == "inset(0px 100% 0px 0px)")
    page.mouse.click(*at(board, 0.75, 0.5))
    until(lambda: slider.input_value() not in ("0", "50"))
    assert abs(int(slider.input_value()) - 75) <= 3

    # A file on the tray is one more picture.
    file = page.evaluate_handle("""async () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [64, 64];
        const blob = await new Promise((done) => canvas.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([blob], "black.png", { type: "image/png" }));
        return data; }""")
    tray = widget.locator(".mk-tray")
    tray.dispatch_event("dragover", {"dataTransfer": file})
    tray.dispatch_event("drop", {"dataTransfer": file})
    tray.locator("button", has_text="black.png").wait_for()
