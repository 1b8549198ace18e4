"""The film in the README: the editing widget in a real browser, as a small animated WebP.

python tools/film.py --weights toy --output docs/widget.webp

Needs what the tests install, and a Chromium. Frames are taken when something has changed, and each
is shown for a time of its own: so the film is as long on a slow machine as on a fast one.
"""

import argparse
import io
from pathlib import Path

from demo_page import opened, widget
from PIL import Image
from playwright.sync_api import Locator, Page

SIZE = (724, 1020)  # pixels of the window
WIDTH = 600  # pixels of the film
TICK, EDIT = 60, 2000  # milliseconds: between two letters or places of the pointer; of an edit
QUALITY = 60
POINTER = """() => {
  const arrow = document.createElement("div");
  arrow.innerHTML = `<svg width="22" height="22" viewBox="0 0 22 22"><path d="M3 1l5 17 3-7 7-3z"
    fill="#1f2a37" stroke="#fff" stroke-width="1.5"/></svg>`;
  arrow.style = "position:fixed;left:-30px;top:0;z-index:9999;pointer-events:none";
  document.body.append(arrow);
  addEventListener("mousemove", (event) => {
    [arrow.style.left, arrow.style.top] = [`${event.clientX - 3}px`, `${event.clientY - 1}px`];
  }, true);
}"""


class Film:
    """Frames of a page, and for how many milliseconds each is shown."""

    def __init__(self, page: Page) -> None:
        self.page, self.place = page, (SIZE[0] // 2, SIZE[1] - 40)
        self.frames: list[Image.Image] = []
        self.times: list[int] = []
        page.evaluate(POINTER)

    def take(self, milliseconds: int) -> None:
        """One frame; what looks like the one before makes that one longer."""
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        height = round(WIDTH * shot.height / shot.width)
        frame = shot.resize((WIDTH, height), Image.Resampling.LANCZOS)
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
        else:
            self.frames.append(frame)
            self.times.append(milliseconds)

    def go(self, x: float, y: float, steps: int = 6) -> None:
        """Move the pointer to a place, in several frames."""
        (x0, y0), self.place = self.place, (x, y)
        for i in range(1, steps + 1):
            share = i / steps
            self.page.mouse.move(x0 + share * (x - x0), y0 + share * (y - y0))
            self.take(TICK)

    def click(self, part: Locator) -> None:
        """Go to a part, and click it."""
        box = part.bounding_box()
        self.go(box["x"] + min(box["width"] / 2, 90), box["y"] + box["height"] / 2)
        self.page.mouse.click(*self.place)
        self.take(3 * TICK)

    def type(self, words: str) -> None:
        """Type words, a frame for each letter."""
        for letter in words:
            self.page.keyboard.type(letter)
            self.page.wait_for_timeout(50)
            self.take(TICK)

    def watch(self, hold: int) -> None:
        """An edit: frames of its steps, which share its time; its end is held."""
        said, seen, first = widget(self.page).locator(".mk-status"), "", len(self.frames)
        while not seen.startswith(("Done", "Finished")):
            now = said.inner_text()
            if now != seen and now.startswith("Step"):
                self.take(0)
            seen = now
        steps = len(self.frames) - first
        self.times[first:] = [EDIT // max(1, steps)] * steps
        self.page.wait_for_timeout(1000)
        self.take(hold)

    def save(self, path: Path) -> None:
        """Write it."""
        first, *others = self.frames
        first.save(path, save_all=True, append_images=others, duration=self.times, loop=0,
                   quality=QUALITY, method=4, minimize_size=True)  # fmt: skip
        size, seconds = path.stat().st_size / 1e6, sum(self.times) / 1000
        print(f"{path}: {size:.2f} MB, {seconds:.1f} s, {len(self.frames)} frames")


def play(film: Film) -> None:
    """What happens in the film."""
    one = widget(film.page)
    film.take(1200)
    film.click(one.locator(".mk-prompt input"))
    film.type("make the hat red")
    film.click(one.locator(".mk-run"))
    film.watch(1200)
    compare(film, one)
    film.click(one.locator(".mk-chip", has_text="make it night"))
    film.click(one.locator(".mk-run"))
    film.watch(1500)
    film.click(one.locator(".mk-chip", has_text="turn the cat into a frog"))
    film.click(one.locator(".mk-run"))
    film.watch(1500)
    for name in ("1. make the hat red", "3. turn the cat"):
        film.click(one.locator("button.mk-label", has_text=name))
        film.take(900)


def compare(film: Film, one: Locator) -> None:
    """The slider between before and after, there and back."""
    film.click(one.locator("button", has_text="Compare"))
    box = one.locator(".mk-board").bounding_box()
    middle = box["y"] + 0.6 * box["height"]
    film.go(box["x"] + box["width"] / 2, middle)
    film.page.mouse.down()
    for x in (0.15, 0.9):
        film.go(box["x"] + x * box["width"], middle, 8)
    film.page.mouse.up()
    film.take(300)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--weights", default="toy")
    options.add_argument("--output", type=Path, default=Path("outputs/widget.webp"))
    args = options.parse_args()
    with opened(args.weights, *SIZE) as page:
        film = Film(page)
        play(film)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    film.save(args.output)


if __name__ == "__main__":
    main()
