"""A JupyterLab of its own for the browser's tests, and what they do with its pages."""

import inspect
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

from minikontext.cli.lab import deliver, trust
from minikontext.errors import WeightsError
from minikontext.pretrained.native import find_weights

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
START, ATTENTION = "00_start_here.ipynb", "02_sequence_concat.ipynb"
# Made here, a widget with the weights of its notebook: that all cells of the notebooks run
# is nbval's to tell, in the same environment; in the browser START does.
LOOK, DESK = "look.ipynb", "desk.ipynb"
MADE = {
    LOOK: ("import minikontext as mk\nmk.course.setup(seed=0)",
           'mk.course.AttentionWidget(mk.KontextPipeline.from_pretrained("toy"))'),
    DESK: ("import minikontext as mk\nmk.course.setup(seed=0)",
           'mk.course.SafetyWidget(mk.KontextPipeline.from_pretrained("toy", safety="none"),\n'
           '                       mk.KontextPipeline.from_pretrained("toy-safe"))'),
}  # fmt: skip
HANDS = "hands.ipynb"  # made here: the editing widget alone, with few-step weights
CELLS = (
    'import minikontext as mk\npipe = mk.KontextPipeline.from_pretrained("toy-max")\npipe',
    "mk.course.EditingWidget(pipe)",
    'pipe("make the hat red", mk.course.pictures()["cat"], seed=1, progress=False)',
)
UNRUN = "unrun.ipynb"  # ATTENTION as it is delivered and signed, of which no test runs a cell
LATE = "late.ipynb"  # the same where the kernel answers late, and thinks long about every step
LAG = """import time
import ipywidgets
from minikontext.transformer import KontextTransformer
def late(function, seconds):
    def wait(*given, **more):
        time.sleep(seconds)
        return function(*given, **more)
    return wait
ipywidgets.Widget._handle_msg = late(ipywidgets.Widget._handle_msg, 0.3)
KontextTransformer.forward = late(KontextTransformer.forward, 0.5)"""
WIDGETS = "widgets.ipynb"  # made here: every widget of the course, each after some work
ALL = (
    """import minikontext as mk
from minikontext.course import failures, live
pipe = mk.KontextPipeline.from_pretrained("toy-max")
cases = [mk.toyworld.sample_edit(i, 1) for i in range(6)]
def started(widget):
    widget.run.click()
    return widget
mk.course.setup()
mk.course.show_system("sampler")""",
    """edit = mk.course.EditingWidget(pipe)
edit.prompt.value = "make it night"
edit.second.value = "bear"
started(edit)""",
    'mk.course.predict("Which is best?", ["a", "b", "none of them"])',
    "mk.course.LatentWidget(pipe.autoencoder)",
    "started(mk.course.AttentionWidget(pipe))",
    "mk.course.RopeWidget()",
    "started(mk.course.WhoSeesWidget(pipe, steps=2))",
    """editor = live.new_editor()
pairs = live.encode_pairs(pipe.autoencoder, editor.text, count=64)
live.LiveTraining(editor, pairs, pipe.autoencoder, cases[:1]).train(steps=20)""",
    "mk.course.FlowWidget()",
    "started(mk.course.TrajectoryWidget(pipe))",
    'started(mk.course.FewStepsWidget({"toy-max": pipe}, steps=(1, 2)))',
    "mk.course.PlanWidget()",
    """leaf = mk.course.FailuresWidget(failures.answer_all(pipe, cases))
leaf.kind.value = None
leaf""",
    """desk = mk.course.SafetyWidget(pipe, mk.KontextPipeline.from_pretrained("toy-safe"))
desk.prompt.value = "make the star purple"
started(desk)""",
    "mk.course.FitsWidget()",
)
PATIENCE = 600_000  # milliseconds: for slow machines, never waited for on others
STEP = 240_000  # of these, for one thing that a page should do
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("MINIKONTEXT_CHROMIUM") or next(
    filter(None, map(shutil.which, NAMES)), ""
)
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
           "disable-background-networking", "disable-component-update")  # fmt: skip
PIXELS = """async image => {
  await image.decode();  // it may have its address, and not its pixels yet
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


def missing():
    """Why this test cannot run here, or nothing."""
    if not CHROMIUM:
        return f"no browser: none of {', '.join(NAMES)} is installed (or set MINIKONTEXT_CHROMIUM)"
    for name in (START, ATTENTION):
        if not (NOTEBOOKS / name).is_file():
            return f"there is no {name}"
    try:
        find_weights("toy")
    except WeightsError:
        return "the toy weights are not there"
    return ""


def furnish(home):
    """Put the notebooks and JupyterLab's settings into an empty folder."""
    deliver(NOTEBOOKS, home / "course")
    trust(NOTEBOOKS, home / "course")
    shutil.copy(home / "course" / "notebooks" / ATTENTION, home / UNRUN)
    shutil.copy(NOTEBOOKS / START, home)
    new, facts = nbformat.v4, {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    made = MADE | {HANDS: CELLS, LATE: (LAG, *CELLS), WIDGETS: ALL}
    for name, sources in made.items():
        cells = list(map(new.new_code_cell, sources))
        nbformat.write(new.new_notebook(cells=cells, metadata=facts), home / name)
    for name, value in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))


def start_server(home, port):
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime",
               "JUPYTER_DATA_DIR": "data"}  # fmt: skip
    env = {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env["MINIKONTEXT_PROGRESS"] = str(home / "progress.json")
    env.setdefault("MINIKONTEXT_WEIGHTS", str(find_weights("toy").parent))
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=secret",
               f"--ServerApp.root_dir={home}", "--expose-app-in-browser"]  # fmt: skip
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
    page.wait_for_selector(".mk", timeout=PATIENCE)
    page.wait_for_function(  # no cell waits for its turn any more
        "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(e => e.innerText == '[*]:')",
        timeout=PATIENCE,
    )


def with_a(page, part):
    """The first widget of a notebook that has such a part: predictions are widgets, too."""
    return page.locator(".mk", has=page.locator(part)).first


def picture(widget):
    """The pixels that the browser shows as the result."""
    return widget.locator(".mk-picture img").nth(1).evaluate(PIXELS)


def settled(widget):
    """The picture once it no longer changes: the last preview may still be on its way."""
    answered(widget.page)
    seen = [""]
    until(lambda: seen.append(picture(widget)) or seen[-1] == seen[-2], pause=0.4)
    return seen[-1]


# The kernel answers a widget's messages in order, so that its answer to one more comes after all.
# Twice: letters wait in the page until the kernel has answered for earlier ones.
ANSWERED = """async (patience) => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  const comm = [...kernel._comms.values()].find((one) => one.targetName === "jupyter.widget");
  const end = new Promise((_, fail) => setTimeout(
    () => fail(new Error("the kernel answers to nothing")), patience));
  for (let i = 0; i < 2; i += 1)
    await Promise.race([comm.send({ method: "custom", content: {} }).done, end]); }"""


def answered(page):
    """Wait until the kernel has answered for all that was typed and clicked, and the page heard."""
    page.evaluate(ANSWERED, STEP)


HAS_FOCUS = "e => { e.focus(); return e === document.activeElement && e.checkVisibility({"\
            "visibilityProperty: true}) && !e.disabled; }"  # fmt: skip


def focused(part):
    """The part, with the focus. One that is hidden or disabled takes none, without a word.

    Nothing is on its way from the kernel then that could take the part, and with it a key, away.
    """
    answered(part.page)
    part.wait_for()
    until(lambda: part.evaluate(HAS_FOCUS))
    return part


def keys(part, *names):
    """Press keys on a part, which they reach: see `focused`."""
    focused(part)
    for name in names:
        part.page.keyboard.press(name)


def write(field, words):
    """Type words into a field, in the place of those in it; the kernel has them all in the end."""
    keys(field, "Control+a")
    field.page.keyboard.type(words)
    answered(field.page)


def until(condition, seconds=STEP / 1000, pause=0.1):
    """Wait for what takes a trip to the kernel and back; a failure shows what did not come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"still not so after {seconds:g} s: {inspect.getsource(condition).strip()}")
        time.sleep(pause)


def status(widget, text):
    widget.locator(".mk-status", has_text=text).wait_for()


def red(widget):
    """Where the result's picture is as red as a mark: rows and columns, from 0 to 1."""
    code = """async image => {
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [64, 64];
      canvas.getContext("2d").drawImage(image, 0, 0, 64, 64);
      return [...canvas.getContext("2d").getImageData(0, 0, 64, 64).data]; }"""
    pixels = widget.locator(".mk-top img").evaluate(code)
    rgb = np.array(pixels).reshape(64, 64, 4)[..., :3]
    rows, columns = np.nonzero((rgb[..., 0] > 200) & (rgb[..., 1:].max(-1) < 90))
    return (rows + 0.5) / 64, (columns + 0.5) / 64


def view(widget, name):
    """Turn to a view; the slider or the board is there as soon as its button is pressed."""
    answered(widget.page)
    widget.locator("button", has_text=name).click()
    widget.locator("button.mod-active", has_text=name).wait_for()


BOX = """e => new Promise((done) => {  // where it is once it stays there for two frames
  e.scrollIntoView({ block: "nearest" });
  const box = () => JSON.stringify(e.getBoundingClientRect());
  const wait = (old, still, left) => requestAnimationFrame(() => (
    still > 1 || !left ? done(JSON.parse(box()))
      : wait(box(), box() === old ? still + 1 : 0, left - 1)));
  wait("", 0, 600); })"""


def at(board, *places):
    """Where shares of a part's sides are on the screen, once nothing is on its way."""
    answered(board.page)
    board.wait_for()
    box = board.evaluate(BOX)
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]


def draw(page, board, *places):
    """Draw through places with the mouse."""
    first, *others = at(board, *places)
    page.mouse.move(*first)
    page.mouse.down()
    for place in others:
        page.mouse.move(*place)
    page.mouse.up()


def marked(widget, test):
    until(lambda: (seen := red(widget)) and len(seen[0]) and test(*seen))
    widget.locator("button", has_text="Clear").click()
    until(lambda: not len(red(widget)[0]))


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
