"""How long somebody waits in a real browser, beside what was asked.

make page && python tools/waits.py --store

A picture of 12 megapixels in the editing widget: until it is seen, and from the click on Edit until
its edit is; asked are 2 s, and 1.2 times the sampler's own time and 3 s. The editor in a web page,
four steps at 64 × 64: asked are 10 s for the first edit after loading, 2 s for further ones.

Needs what the tests install, and a Chromium. `--store` writes data/bench/waits.json and waits.md:
on a machine that does nothing else. A quick try: --pixels 0.1.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from demo_page import opened, widget
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from static_server import serving

from minikontext import KontextPipeline
from minikontext.bench import report
from minikontext.toyworld.render import render
from minikontext.toyworld.samples import SAMPLES

NAME, WORDS = "large.jpg", "make the hat red"
WISHES = (WORDS, "make it night", "make the hat blue", "move the cat to the left")
HEAD = ("", "seconds", "asked: at most", "kept")
# True once the page shows a picture that differs from an address, as loaded by the browser.
SEEN = """old => { const image = document.querySelector(".mk-top img");
  return image && image.src !== old && image.complete && image.naturalWidth > 0; }"""
ADDRESS = '() => document.querySelector(".mk-top img").src'
DONE = "/^(Done|Finished)/.test(document.getElementById('status').textContent)"


def write(path: Path, pixels: float) -> Image.Image:
    """A picture of so many megapixels as a camera would write it: the demo, with noise, as JPEG."""
    height = round((pixels * 1e6 * 3 / 4) ** 0.5)
    size = (height * 4 // 3, height)
    drawn = Image.fromarray(render(SAMPLES["demo"])).resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 6, (size[1], size[0], 3))
    picture = Image.fromarray((np.asarray(drawn) + noise).clip(0, 255).astype(np.uint8))
    picture.save(path, quality=92)
    return picture


def sampler_seconds(weights: str, picture: Image.Image) -> float:
    """From the first step to the last, of all steps, of an edit of the same picture."""
    pipe, times = KontextPipeline.from_pretrained(weights), []
    pipe(WORDS, picture, seed=0, callback=lambda _: times.append(time.perf_counter()),
         progress=False)  # fmt: skip
    return (times[-1] - times[0]) * len(times) / (len(times) - 1)


def in_widget(weights: str, path: Path) -> tuple[float, float]:
    """Seconds until the picture, then until its edit is seen."""
    with opened(weights, 800, 1100) as page:
        one = widget(page)
        # The first edit of a kernel loads what later ones have: not counted.
        one.locator(".mk-prompt input").fill(WORDS)
        one.locator(".mk-run").click()
        one.locator(".mk-status", has_text="seed").wait_for()
        old = page.evaluate(ADDRESS)
        with page.expect_file_chooser() as chooser:
            one.locator("button", has_text="Your own").click()
        began = time.perf_counter()
        chooser.value.set_files(path)
        page.wait_for_function(SEEN, arg=old)
        one.locator(".mk-status", has_text="Say what should change").wait_for()
        shown, old = time.perf_counter() - began, page.evaluate(ADDRESS)
        began = time.perf_counter()
        one.locator(".mk-run").click()
        one.locator(".mk-status", has_text="seed").wait_for()
        page.wait_for_function(SEEN, arg=old)
        return shown, time.perf_counter() - began


def in_page(folder: Path) -> list[float]:
    """Seconds of each edit in the web page, from Enter until it says that it is done."""
    chromium = os.environ.get("MINIKONTEXT_CHROMIUM") or shutil.which("chromium")
    with serving(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("!document.getElementById('run').disabled", timeout=600_000)
        page.wait_for_function("window.minikontext.state.context !== null")
        page.select_option("#steps", "4")
        times = [edit(page, wish) for wish in WISHES]
        browser.close()
    return times


def edit(page: Page, wish: str) -> float:
    page.fill("#prompt", wish)
    page.wait_for_selector("#run:enabled:not([aria-disabled=true])")
    page.evaluate("document.getElementById('status').textContent = ''")
    page.focus("#prompt")
    begun = time.perf_counter()
    page.keyboard.press("Enter")
    page.wait_for_function(DONE, timeout=600_000)
    return time.perf_counter() - begun


def text(found: dict[str, tuple[float, float]], where: dict[str, object]) -> str:
    """The page: every time beside what was asked."""
    rows = [
        [name, f"{seconds:.2f}", f"{most:.2f}", "yes" if seconds <= most else "no"]
        for name, (seconds, most) in found.items()
    ]
    return "\n\n".join([
        "# How long somebody waits in a browser",
        "Made by `python tools/waits.py --store`; not written by hand.",
        report.table(HEAD, rows),
        "Where: " + ", ".join(f"{name} {value}" for name, value in where.items()) + ".",
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; 1 if something took longer than asked."""
    parser = report.parser("python tools/waits.py", __doc__, steps=..., seed=...)
    parser.add_argument("--page", type=Path, default=Path("build", "page"), metavar="DIR",
                        help="what `make page` made (default: %(default)s)")  # fmt: skip
    parser.add_argument("--pixels", type=float, default=12.0, help="millions (default: 12)")
    options: argparse.Namespace = parser.parse_args(arguments)
    folder = report.folder(options, "" if options.pixels >= 12 else "waits of a small picture")
    where: dict[str, object] = {
        "cores": os.cpu_count(), "of": platform.processor() or platform.machine(),
        "load before": round(os.getloadavg()[0], 2), "torch": torch.__version__,
        "weights": options.weights, "megapixels": options.pixels,
    }  # fmt: skip
    warnings.simplefilter("ignore")  # that it becomes small is meant
    with tempfile.TemporaryDirectory() as place:
        alone = sampler_seconds(options.weights, write(path := Path(place, NAME), options.pixels))
        shown, edited = in_widget(options.weights, path)
    first, *further = in_page(options.page)
    found = {"upload shown": (shown, 2.0), "upload edited": (edited, 1.2 * alone + 3),
             "page, first edit": (first, 10.0),
             f"page, slowest of {len(further)} further edits": (max(further), 2.0)}  # fmt: skip
    report.write_json({"where": where, "sampler": alone, "seconds": found}, folder / "waits.json")
    report.write_text(told := text(found, where), folder / "waits.md")
    print(told)
    return int(any(seconds > most for seconds, most in found.values()))


if __name__ == "__main__":
    sys.exit(main())
