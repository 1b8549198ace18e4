"""The row of tokens as a picture: words, target patches and context patches with their ids."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from minikontext import tokens
from minikontext.course import plots, style

LEFT, TILE, STEP, HIGH = 80, 36, 41, 56  # pixels
COLUMNS = 16  # tiles a line
PARTS = {"text": style.GOLD, "target": style.ACCENT, "context": style.BLUE}  # one colour each


def colour_of(part: int) -> str:
    """The colour of part 0 (text), 1 (target), 2 and more (contexts)."""
    return list(PARTS.values())[min(part, 2)]


def show_sequence(
    words: Sequence[str],
    target: Image.Image,
    contexts: Sequence[Image.Image] = (),
    layout: str = "index",
    side: int = 16,
    title: str = "",
) -> None:
    """Show what the transformer reads, token by token, with the position ids below.

    side: pixels of a picture along one side of a token. layout: see `mk.tokens.context_ids`.
    """
    page = draw_sequence(words, target, contexts, layout, side, title)
    sizes = [f"{p.height // side} × {p.width // side} patches" for p in (target, *contexts)]
    names = ["target", *_numbered("context", len(contexts))]
    text = " ".join(word for word in words if word != "<pad>")
    plots.show(page, plots.told(title, f"text: {text}", *map("{}: {}".format, names, sizes)))


def draw_sequence(
    words: Sequence[str],
    target: Image.Image,
    contexts: Sequence[Image.Image] = (),
    layout: str = "index",
    side: int = 16,
    title: str = "",
) -> Image.Image:
    """Draw what `show_sequence` shows."""
    grids = [(p.height // side, p.width // side) for p in (target, *contexts)]
    ids = [tokens.position_ids(*grids[0]), *tokens.context_ids(grids[1:], layout)]
    boxes = _placed(words)
    heights = [boxes[-1][2] + HIGH, *(HIGH * -(-rows * cols // COLUMNS) for rows, cols in grids)]
    y = 26 if title else 6
    page = Image.new("RGB", (plots.PAGE + 20, y + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((10, 5), title, fill=style.INK, font=plots._font(bold=True))
    names = ["text", "target", *_numbered("context", len(contexts))]
    for i, (name, height) in enumerate(zip(names, heights)):
        _label(draw, name, colour_of(i), y)
        if i == 0:
            _words(draw, boxes, y)
        else:
            picture = (target, *contexts)[i - 1]
            _patches(page, draw, picture, grids[i - 1], ids[i - 1].tolist(), y, colour_of(i))
        y += height
    return page


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name} {i}" for i in range(1, count + 1)]


def _label(draw: ImageDraw.ImageDraw, text: str, colour: str, y: int) -> None:
    if style.contrast(colour, style.PAPER) < 4.5:  # gold: only the boxes have it
        colour = style.INK
    draw.text((10, y + TILE / 2), text, fill=colour, font=plots._font(bold=True), anchor="lm")


def _placed(words: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """Words with their x, y and width, wrapped like text; all padding is one box."""
    pads = sum(word == "<pad>" for word in words)
    shown = [word for word in words if word != "<pad>"] + [f"{pads} × <pad>"] * bool(pads)
    placed, x, y = [], LEFT, 0
    for word in shown:
        wide = plots._width(word) + 14
        if x + wide > plots.PAGE + 10:
            x, y = LEFT, y + HIGH
        placed.append((word, x, y, wide))
        x += wide + 6
    return placed


def _words(draw: ImageDraw.ImageDraw, boxes: Sequence[tuple[str, int, int, int]], top: int) -> None:
    for word, x, y, wide in boxes:
        box = (x, top + y + 4, x + wide, top + y + TILE - 4)
        draw.rounded_rectangle(box, 4, fill=style.PALE, outline=colour_of(0))
        middle = x + wide / 2
        draw.text((middle, top + y + TILE / 2), word, fill=style.INK, font=plots._font(),
                  anchor="mm")  # fmt: skip
        draw.text((middle, top + y + TILE + 1), "0 0 0", fill=style.GREY, font=_tiny(), anchor="ma")


def _patches(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Image.Image,
    grid: tuple[int, int],
    ids: Sequence[Sequence[int]],
    y: int,
    colour: str,
) -> None:
    """One tile a token, in the order of the row."""
    wide, high = picture.width / grid[1], picture.height / grid[0]
    for i, place in enumerate(ids):
        row, col = divmod(i, grid[1])
        box = (col * wide, row * high, (col + 1) * wide, (row + 1) * high)
        tile = picture.crop([round(x) for x in box]).resize((TILE, TILE), Image.Resampling.NEAREST)
        corner = (LEFT + i % COLUMNS * STEP, y + i // COLUMNS * HIGH)
        plots.paste(page, tile, corner)
        edge = (corner[0] - 1, corner[1] - 1, corner[0] + TILE, corner[1] + TILE)
        draw.rectangle(edge, outline=colour)
        middle = (corner[0] + TILE / 2, corner[1] + TILE + 1)
        draw.text(middle, " ".join(map(str, place)), fill=style.GREY, font=_tiny(), anchor="ma")


def _tiny() -> ImageFont.FreeTypeFont:
    return plots._font().font_variant(size=10)
