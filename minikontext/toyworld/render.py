"""`render(scene)`: from named choices to pixels, deterministic and smooth-edged.

All drawing is in world units: the shorter side of a picture is 64 units, whatever its size in
pixels, so a whole character with a thing on either side fits into every picture. A wide picture
shows more of the scenery. A tall one shows more sky above the stage and more ground below it.
A shape becomes an alpha mask by its signed distance, once; the mask is remembered, so that drawing
a scene is a few dozen small blends.

Long because every thing that can be drawn is drawn here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from minikontext.toyworld.scene import Scene

UNITS = 64.0
RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 48, 48),
    "orange": (245, 138, 38),
    "yellow": (250, 214, 62),
    "green": (66, 172, 78),
    "blue": (56, 112, 226),
    "purple": (142, 72, 196),
    "pink": (248, 140, 186),
    "white": (246, 246, 246),
    "ink": (40, 34, 46),
    "wood": (240, 218, 170),
    "bark": (122, 82, 54),
    "leaf": (52, 140, 66),
}
# One 5x7 bitmap a letter, a row a number, the highest bit on the left.
GLYPHS: dict[str, tuple[int, ...]] = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 14),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "J": (7, 2, 2, 2, 2, 18, 12),
    "K": (17, 18, 20, 24, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 17, 25, 21, 19, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "Q": (14, 17, 17, 17, 21, 18, 13),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "V": (17, 17, 17, 17, 17, 10, 4),
    "W": (17, 17, 17, 21, 21, 27, 17),
    "X": (17, 17, 10, 4, 10, 17, 17),
    "Y": (17, 17, 10, 4, 4, 4, 4),
    "Z": (31, 1, 2, 4, 8, 16, 31),
}
Mask = tuple[slice, slice, np.ndarray]


def unit(height: int, width: int) -> float:
    """Pixels of a world unit in a picture of this size."""
    return min(height, width) / UNITS


def above_stage(height: int, width: int) -> float:
    """Units of sky over the stage: of what a tall picture has more, two thirds lie above."""
    return max(0, height - width) / unit(height, width) * 2 / 3


# ---------------------------------------------------------------- shapes -> masks


def _distance(shape: str, p: tuple[float, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance in units (negative inside) of a shape at the points (x, y)."""
    if shape == "ellipse":
        cx, cy, rx, ry = p
        return (np.hypot((x - cx) / rx, (y - cy) / ry) - 1) * min(rx, ry)
    if shape == "box":
        cx, cy, hx, hy, r = p
        dx, dy = np.abs(x - cx) - hx + r, np.abs(y - cy) - hy + r
        return (
            np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - r
        )
    if shape == "line":
        ax, ay, bx, by, r = p
        ux, uy = bx - ax, by - ay
        along = np.clip(((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy), 0, 1)
        return np.hypot(x - ax - along * ux, y - ay - along * uy) - r
    if shape == "polygon":  # convex, corners clockwise on screen
        corners = np.asarray(p).reshape(-1, 2)
        ahead = np.roll(corners, -1, 0) - corners
        ahead = ahead / np.hypot(ahead[:, 0], ahead[:, 1])[:, None]
        sides = [(x - c[0]) * e[1] - (y - c[1]) * e[0] for c, e in zip(corners, ahead, strict=True)]
        return np.max(sides, axis=0)
    if shape == "ring":
        cx, cy, rx, ry, w = p
        return np.abs((np.hypot((x - cx) / rx, (y - cy) / ry) - 1) * min(rx, ry)) - w
    cx, cy, r = p  # a five-pointed star with rounded valleys
    angle = np.arctan2(x - cx, cy - y)
    return np.hypot(x - cx, y - cy) - r * (0.80 + 0.24 * np.cos(5 * angle))


def _bounds(shape: str, p: tuple[float, ...]) -> tuple[float, float, float, float]:
    if shape == "line":
        ax, ay, bx, by, r = p
        return min(ax, bx) - r, max(ax, bx) + r, min(ay, by) - r, max(ay, by) + r
    if shape == "polygon":
        return min(p[::2]), max(p[::2]), min(p[1::2]), max(p[1::2])
    rx, ry = (p[2] * 1.1, p[2] * 1.1) if shape == "star" else (p[2], p[3])
    rx, ry = (rx + p[4], ry + p[4]) if shape == "ring" else (rx, ry)
    return p[0] - rx, p[0] + rx, p[1] - ry, p[1] + ry


Part = tuple[str, tuple[float, ...]]


@lru_cache(maxsize=100_000)
def _mask(
    parts: tuple[Part, ...],
    height: int,
    width: int,
    grow: float = 0.0,
    within: tuple[Part, ...] = (),
    above: float = 0.0,
) -> Mask:
    """The union of `parts`, grown by some units and cut to `within`, as a small alpha window.

    `above`: units between the picture's upper edge and y = 0 of the parts.
    """
    scale = unit(height, width)
    boxes = np.array([_bounds(*part) for part in parts])
    x0, x1 = (boxes[:, 0].min() - grow - 1) * scale, (boxes[:, 1].max() + grow + 1) * scale
    low, high = boxes[:, 2].min() + above, boxes[:, 3].max() + above
    y0, y1 = (low - grow - 1) * scale, (high + grow + 1) * scale
    xs, ys = _within(x0, x1, width), _within(y0, y1, height)
    y, x = np.mgrid[ys, xs].astype(np.float32) + 0.5
    x, y = x / scale, y / scale - above
    alpha = _alpha(parts, x, y, scale, grow)
    if within:
        alpha = alpha * _alpha(within, x, y, scale, 0.0)
    return ys, xs, alpha[..., None].astype(np.float32)


def _within(low: float, high: float, side: int) -> slice:
    """The pixels from low to high that the picture has; none where both lie beyond its edge."""
    first = min(max(0, int(low)), side)
    return slice(first, max(first, min(side, int(high) + 1)))


def _alpha(
    parts: tuple[Part, ...], x: np.ndarray, y: np.ndarray, scale: float, grow: float
) -> np.ndarray:
    distance = np.min([_distance(shape, p, x, y) for shape, p in parts], axis=0)
    return np.clip(0.5 - (distance - grow) * scale, 0, 1)


class _Canvas:
    """A float image (h, w, 3) in 0..255 with a time of day that tints every colour.

    `above`: units of sky over the stage, which is 64 units high.
    """

    def __init__(self, image: np.ndarray, time: str, above: float = 0.0) -> None:
        self.image, self.time, self.above = image, time, above
        self.height, self.width = image.shape[:2]

    def paint(
        self,
        colour: str | tuple[float, ...],
        *parts: Part,
        shade: float = 1.0,
        grow: float = 0.0,
        within: tuple[Part, ...] = (),
        opacity: float = 1.0,
    ) -> None:
        ys, xs, alpha = _mask(parts, self.height, self.width, grow, within, self.above)
        window = self.image[ys, xs]
        alpha = alpha if opacity == 1.0 else alpha * opacity
        window += (_tint(colour, shade, self.time) - window) * alpha


_TINTS = {
    "day": (np.eye(3), 0),
    "sunset": (np.diag([1.0, 0.80, 0.68]), np.array([10, 0, 4])),
    "night": (np.diag([0.56, 0.58, 0.76]), np.array([4, 6, 24])),
    "rain": (0.62 * np.eye(3) + 0.085, np.array([6, 12, 20])),
}


@lru_cache(maxsize=10_000)
def _tint(colour: str | tuple[float, ...], shade: float, time: str) -> np.ndarray:
    """A named colour, darkened (shade < 1) or lightened (> 1), as the hour's light shows it."""
    rgb = np.array(RGB[colour] if isinstance(colour, str) else colour, dtype=np.float64)
    rgb = rgb * shade if shade <= 1 else rgb + (255 - rgb) * (shade - 1)
    matrix, offset = _TINTS[time]
    return np.clip(matrix @ rgb + offset, 0, 255).astype(np.float32)


# ---------------------------------------------------------------- backgrounds

_SKIES = {
    "day": ((126, 196, 246), (212, 238, 252)),
    "sunset": ((128, 96, 176), (255, 196, 120)),
    "night": ((58, 70, 150), (110, 120, 190)),
    "rain": ((132, 146, 162), (190, 202, 212)),
}
_GROUNDS = {
    "meadow": (134, 200, 92),
    "beach": (244, 222, 166),
    "desert": (236, 178, 106),
    "snow": (236, 242, 250),
    "forest": (104, 142, 74),
    "city": (150, 152, 162),
    "sea": (226, 208, 150),
    "room": (178, 124, 84),
}
HORIZON = 42.0


@lru_cache(maxsize=800)  # every place, hour and trained size: about 70 MB
def _background(name: str, time: str, height: int, width: int) -> np.ndarray:
    """The empty stage (h, w, 3): sky, sun or moon, scenery, ground."""
    top, bottom = _SKIES[time]
    if name == "sea":
        top, bottom = (52, 132, 196), (112, 200, 220)
    if name == "room":
        top, bottom = (240, 214, 190), (250, 230, 206)
    above, scale = above_stage(height, width), unit(height, width)
    rows = (np.arange(height) + 0.5) / (scale * UNITS) * UNITS
    ramp = (rows / (above + HORIZON)).clip(0, 1)[:, None, None]
    image = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    image = np.broadcast_to(image, (height, width, 3)).astype(np.float32).copy()
    canvas = _Canvas(image, time, above)
    if name in ("sea", "room"):  # their walls take the hour's tint themselves
        matrix, offset = _TINTS[time]
        canvas.image[:] = np.clip(image @ matrix.T.astype(np.float32) + offset, 0, 255)
    wide = width / scale
    if name not in ("sea", "room"):
        _draw_sky(canvas, time, wide)
    _SCENERY[name](canvas, wide)
    return canvas.image


def _ground(canvas: _Canvas, name: str, wide: float, horizon: float = HORIZON) -> None:
    deep = max(60.0, canvas.height / unit(canvas.height, canvas.width)) / 2
    canvas.paint(_GROUNDS[name], ("box", (wide / 2, horizon + deep, wide, deep, 0)))


def _draw_sky(canvas: _Canvas, time: str, wide: float) -> None:
    sky = _Canvas(canvas.image, "day")  # lights in the sky are not tinted
    if time == "day":
        sky.paint((255, 236, 140), ("ellipse", (wide - 10, 10, 5.5, 5.5)))
    elif time == "sunset":
        sky.above = canvas.above  # the sun sets on the horizon, wherever that is
        sky.paint((255, 150, 90), ("ellipse", (wide - 10, 33, 8, 8)))
    elif time == "night":
        sky.paint((250, 246, 214), ("ellipse", (wide - 10, 10, 5.5, 5.5)))
        sky.paint((70, 82, 158), ("ellipse", (wide - 12.5, 8.8, 4.6, 4.6)))
        for x, y in ((0.72, 25), (0.93, 29), (0.6, 6), (0.08, 26)):
            sky.paint((255, 255, 230), ("ellipse", (x * wide, y, 1.1, 1.1)))
    else:
        for x, y, r in ((wide - 16, 9, 5), (wide - 9, 8, 6), (wide - 22, 11, 4)):
            sky.paint((112, 122, 138), ("ellipse", (x, y, r * 1.4, r * 0.8)))


def _meadow(canvas: _Canvas, wide: float) -> None:
    canvas.paint((112, 184, 98), ("ellipse", (wide * 0.2, HORIZON + 4, wide * 0.42, 11)))
    canvas.paint((98, 172, 92), ("ellipse", (wide * 0.85, HORIZON + 4, wide * 0.36, 8)))
    _ground(canvas, "meadow", wide)


def _beach(canvas: _Canvas, wide: float) -> None:
    canvas.paint((64, 160, 212), ("box", (wide / 2, HORIZON + 10, wide, 16, 0)))
    _ground(canvas, "beach", wide, HORIZON + 4)
    canvas.paint((250, 250, 250), ("box", (wide / 2, HORIZON + 4, wide, 1.0, 0)))


def _desert(canvas: _Canvas, wide: float) -> None:
    canvas.paint((222, 152, 90), ("ellipse", (wide * 0.75, HORIZON + 5, wide * 0.45, 12)))
    _ground(canvas, "desert", wide)
    x = wide * 0.9
    canvas.paint(
        (74, 150, 84), ("line", (x, 46, x, 30, 2.0)), ("line", (x - 5, 38, x - 5, 34, 1.5))
    )
    canvas.paint((74, 150, 84), ("line", (x - 5, 38, x, 39, 1.5)))


def _snow(canvas: _Canvas, wide: float) -> None:
    for x, h in ((0.22, 20), (0.6, 15), (0.95, 22)):
        p = (x * wide - h, HORIZON + 1, x * wide, HORIZON - h, x * wide + h, HORIZON + 1)
        q = (x * wide - h / 3, HORIZON - h * 0.66, x * wide, HORIZON - h, x * wide + h / 3)
        canvas.paint((142, 162, 192), ("polygon", p))
        canvas.paint((250, 252, 255), ("polygon", (*q, HORIZON - h * 0.66)))
    _ground(canvas, "snow", wide)


def _forest(canvas: _Canvas, wide: float) -> None:
    for i, x in enumerate((0.0, 0.18, 0.36, 0.54, 0.72, 0.9)):
        top = 20 + 5 * (i % 2)
        p = (x * wide - 8, HORIZON + 1, x * wide + 1, top, x * wide + 10, HORIZON + 1)
        canvas.paint((44, 104, 66) if i % 2 else (58, 124, 72), ("polygon", p))
    _ground(canvas, "forest", wide)


def _city(canvas: _Canvas, wide: float) -> None:
    for x, top, grey in ((0.1, 22, 118), (0.34, 30, 138), (0.6, 24, 110), (0.86, 20, 130)):
        canvas.paint((grey, grey + 6, grey + 24), ("box", (x * wide, top + 14, 7.5, 14, 0)))
        for y in (top + 5, top + 12):
            canvas.paint((252, 232, 150), ("box", (x * wide - 3, y, 1.5, 1.8, 0)))
            canvas.paint((252, 232, 150), ("box", (x * wide + 3, y, 1.5, 1.8, 0)))
    _ground(canvas, "city", wide)


def _sea(canvas: _Canvas, wide: float) -> None:
    for x, y, r in ((0.1, 30, 2.2), (0.9, 12, 2.6), (0.84, 24, 1.7), (0.6, 7, 1.8)):
        canvas.paint((206, 240, 250), ("ring", (x * wide, y, r, r, 0.6)))
    for x in (0.04, 0.95):
        canvas.paint((48, 150, 110), ("line", (x * wide, 52, x * wide + 1, 33, 1.6)))
    _ground(canvas, "sea", wide, HORIZON + 5)


def _room(canvas: _Canvas, wide: float) -> None:
    sky = _Canvas(canvas.image, "day", canvas.above)
    light = {"day": (168, 216, 248), "sunset": (255, 176, 112), "night": (44, 52, 118)}
    x = wide - 13
    canvas.paint((250, 250, 250), ("box", (x, 15, 9.5, 10.5, 1)))
    sky.paint(light.get(canvas.time, (150, 166, 184)), ("box", (x, 15, 7.8, 8.8, 0)))
    canvas.paint((250, 250, 250), ("box", (x, 15, 0.8, 9, 0)), ("box", (x, 15, 8, 0.8, 0)))
    _ground(canvas, "room", wide, HORIZON + 3)
    canvas.paint((222, 190, 164), ("box", (wide / 2, HORIZON + 2.5, wide, 1.0, 0)))


_SCENERY = {
    "meadow": _meadow,
    "beach": _beach,
    "desert": _desert,
    "snow": _snow,
    "forest": _forest,
    "city": _city,
    "sea": _sea,
    "room": _room,
}

# ---------------------------------------------------------------- the character


def _body(species: str, x: float, y: float) -> tuple[Part, ...]:
    """The silhouette, around a centre; the floor is 13 units below it."""
    round_body: Part = ("ellipse", (x, y + 1, 11.5, 11.5))
    if species == "cat":
        left = ("polygon", (x - 11, y - 2, x - 10, y - 14, x - 1, y - 9))
        right = ("polygon", (x + 1, y - 9, x + 10, y - 14, x + 11, y - 2))
        return round_body, left, right
    if species == "bunny":
        ears = [("line", (x + s * 4.5, y - 8, x + s * 6.5, y - 18, 3.0)) for s in (-1, 1)]
        return (round_body, *ears)
    if species == "bear":
        return (round_body, *[("ellipse", (x + s * 9, y - 8.5, 4.6, 4.6)) for s in (-1, 1)])
    if species == "chick":
        wings = [("line", (x + s * 10, y + 1, x + s * 14, y - 3, 2.2)) for s in (-1, 1)]
        return (
            ("ellipse", (x, y + 1, 10.5, 12)),
            ("line", (x, y - 11, x + 2.5, y - 15, 1.5)),
            *wings,
        )
    if species == "frog":
        eyes = [("ellipse", (x + s * 7, y - 6.5, 5, 5)) for s in (-1, 1)]
        return (("ellipse", (x, y + 3.5, 14.5, 9.5)), *eyes)
    if species == "ghost":
        skirt = [("ellipse", (x + dx, y + 10, 4.0, 3.6)) for dx in (-7.6, 0, 7.6)]
        return (("ellipse", (x, y - 2, 11.5, 12)), ("box", (x, y + 4, 11.5, 6, 0)), *skirt)
    if species == "robot":
        antenna = (("line", (x, y - 9, x, y - 14, 1.2)), ("ellipse", (x, y - 15.5, 2.4, 2.4)))
        arms = [("box", (x + s * 13, y + 3, 2.2, 4.5, 1)) for s in (-1, 1)]
        return (("box", (x, y + 1.5, 11, 11, 3)), *antenna, *arms)
    return (("star", (x, y + 0.5, 14.5)),)


_EYE_HEIGHT = {"frog": -6.5, "star": -1.5, "ghost": -4.0, "bunny": -2.0}
_EYE_APART = {"frog": 7.0, "star": 3.8}
_HAT_HEIGHT = {"frog": -8.0, "star": -10.5, "ghost": -12.0, "robot": -9.5, "chick": -10.0}


def _draw_character(canvas: _Canvas, scene: Scene, x: float, y: float) -> None:
    body = _body(scene.species, x, y)
    canvas.paint(scene.colour, *body, shade=0.55, grow=1.0)  # a darker rim parts it from any ground
    canvas.paint(scene.colour, *body)
    _draw_pattern(canvas, scene, body, x, y)
    if scene.species == "chick":
        beak = (x - 3, y + 2.5, x + 3, y + 2.5, x, y + 6)
        canvas.paint((250, 150, 40), ("polygon", beak))
    eye_y = y + _EYE_HEIGHT.get(scene.species, -2.5)
    _draw_eyes(canvas, scene.eyes, x, eye_y, _EYE_APART.get(scene.species, 4.6))
    if scene.species not in ("chick",):
        mouth_y = y + (4.0 if scene.species != "star" else 3.0)
        canvas.paint("ink", ("line", (x - 2.2, mouth_y, x, mouth_y + 1.2, 0.6)))
        canvas.paint("ink", ("line", (x, mouth_y + 1.2, x + 2.2, mouth_y, 0.6)))
    if scene.accessory != "none":
        _ACCESSORIES[scene.accessory](canvas, scene, x, y, eye_y)


def _draw_pattern(
    canvas: _Canvas, scene: Scene, body: tuple[Part, ...], x: float, y: float
) -> None:
    shade = 0.66 if scene.colour != "white" else 0.74
    if scene.pattern == "striped":
        bands = [("box", (x, y + dy, 16, 1.5, 0)) for dy in (-6.5, 1.0, 8.5)]
        canvas.paint(scene.colour, *bands, shade=shade, within=body)
    elif scene.pattern == "spotted":
        at = ((-8, -3), (8.5, -4.5), (-5.5, 8), (7, 5), (1, -8), (0, 10.5))
        dots = [("ellipse", (x + dx, y + dy, 2.3, 2.3)) for dx, dy in at]
        canvas.paint(scene.colour, *dots, shade=shade, within=body)
    elif scene.pattern == "bellied":
        light = 1.62 if scene.colour != "white" else 0.8
        belly = ("ellipse", (x, y + 8, 8, 5.5))
        canvas.paint(scene.colour, belly, shade=light, within=body)


def _draw_eyes(canvas: _Canvas, eyes: str, x: float, y: float, apart: float) -> None:
    if eyes == "single":
        canvas.paint("white", ("ellipse", (x, y, 4.6, 4.6)))
        canvas.paint("ink", ("ellipse", (x, y + 0.4, 2.4, 2.4)))
        return
    for side in (-1, 1):
        cx = x + side * apart
        if eyes == "round":
            canvas.paint("ink", ("ellipse", (cx, y, 1.7, 2.1)))
        elif eyes == "big":
            canvas.paint("white", ("ellipse", (cx, y, 3.6, 3.9)))
            canvas.paint("ink", ("ellipse", (cx, y + 0.6, 1.8, 2.1)))
        else:
            canvas.paint("ink", ("box", (cx, y + 0.6, 2.9, 0.8, 0.5)))


def _hat(canvas: _Canvas, scene: Scene, x: float, y: float, eye_y: float) -> None:
    top = y + _HAT_HEIGHT.get(scene.species, -9.5)
    crown, brim = ("box", (x, top - 4, 5.6, 5, 1)), ("box", (x, top + 0.5, 9.2, 1.6, 1))
    canvas.paint(scene.accessory_colour, crown, brim, shade=0.5, grow=0.8)
    canvas.paint(scene.accessory_colour, crown, brim)
    canvas.paint(scene.accessory_colour, ("box", (x, top - 1.8, 5.6, 0.8, 0)), shade=0.6)


def _scarf(canvas: _Canvas, scene: Scene, x: float, y: float, eye_y: float) -> None:
    parts = (("box", (x, y + 7.5, 10.5, 2.0, 1.8)), ("box", (x + 5, y + 11, 2.2, 4, 0.8)))
    canvas.paint(scene.accessory_colour, *parts, shade=0.5, grow=0.8)
    canvas.paint(scene.accessory_colour, *parts)


def _bow(canvas: _Canvas, scene: Scene, x: float, y: float, eye_y: float) -> None:
    cx, cy = x + 7, y + _HAT_HEIGHT.get(scene.species, -9.5) + 1.5
    left = ("polygon", (cx - 6, cy - 4, cx, cy, cx - 6, cy + 4))
    right = ("polygon", (cx, cy, cx + 6, cy - 4, cx + 6, cy + 4))
    canvas.paint(scene.accessory_colour, left, right, shade=0.5, grow=0.8)
    canvas.paint(scene.accessory_colour, left, right)
    canvas.paint(scene.accessory_colour, ("ellipse", (cx, cy, 1.8, 1.8)), shade=0.7)


def _glasses(canvas: _Canvas, scene: Scene, x: float, y: float, eye_y: float) -> None:
    apart = _EYE_APART.get(scene.species, 4.6)
    rims = [("ring", (x + s * apart, eye_y, 4.2, 4.2, 1.0)) for s in (-1, 1)]
    canvas.paint(scene.accessory_colour, *rims, shade=0.4, grow=0.6)
    canvas.paint(scene.accessory_colour, *rims)


_ACCESSORIES = {"hat": _hat, "scarf": _scarf, "bow": _bow, "glasses": _glasses}

# ---------------------------------------------------------------- things, sign, rain, mark


def _tree(c: _Canvas, colour: str, x: float) -> None:
    c.paint("bark", ("box", (x, 52, 1.8, 6, 0)))
    crown = (("ellipse", (x, 42, 7, 6.5)), ("ellipse", (x, 36.5, 5, 5)))
    c.paint(colour, *crown, shade=0.6, grow=0.8)
    c.paint(colour, *crown)


def _flower(c: _Canvas, colour: str, x: float) -> None:
    c.paint("leaf", ("line", (x, 57, x, 48, 1.1)), ("ellipse", (x + 3, 54, 2.8, 1.5)))
    around = [(np.cos(a) * 3.9, np.sin(a) * 3.9) for a in np.arange(5) * 2 * np.pi / 5 - np.pi / 2]
    petals = [("ellipse", (x + float(dx), 44 + float(dy), 2.9, 2.9)) for dx, dy in around]
    c.paint(colour, *petals, shade=0.6, grow=0.7)
    c.paint(colour, *petals)
    c.paint((250, 220, 90), ("ellipse", (x, 44, 2.3, 2.3)))


def _ball(c: _Canvas, colour: str, x: float) -> None:
    c.paint(colour, ("ellipse", (x, 51.5, 6.5, 6.5)), shade=0.55, grow=0.8)
    c.paint(colour, ("ellipse", (x, 51.5, 6.5, 6.5)))
    c.paint(colour, ("ellipse", (x - 2, 49, 2.2, 2.2)), shade=1.6)
    c.paint(
        colour, ("box", (x, 52, 7, 1.0, 0)), shade=0.7, within=(("ellipse", (x, 51.5, 6.5, 6.5)),)
    )


def _house(c: _Canvas, colour: str, x: float) -> None:
    c.paint(colour, ("box", (x, 51, 6, 6, 0)), shade=0.6, grow=0.7)
    c.paint(colour, ("box", (x, 51, 6, 6, 0)))
    c.paint((134, 70, 60), ("polygon", (x - 8, 45.5, x, 37, x + 8, 45.5)))
    c.paint("bark", ("box", (x, 54, 2, 3.2, 0)))


def _mushroom(c: _Canvas, colour: str, x: float) -> None:
    c.paint((246, 232, 206), ("box", (x, 53, 2.6, 5, 1.5)))
    dome, cut = ("ellipse", (x, 49, 7, 6.5)), ("box", (x, 45, 9, 4.5, 0))
    c.paint(colour, cut, shade=0.6, within=(("ellipse", (x, 49, 7.8, 7.3)),))
    c.paint(colour, ("box", (x, 44.5, 9, 4.3, 0)), within=(dome,))
    for dx, dy in ((-3, 46.5), (2.8, 45.6)):
        c.paint("white", ("ellipse", (x + dx, dy, 1.4, 1.3)))


def _gift(c: _Canvas, colour: str, x: float) -> None:
    c.paint(colour, ("box", (x, 52, 6, 5.5, 0.8)), shade=0.55, grow=0.8)
    c.paint(colour, ("box", (x, 52, 6, 5.5, 0.8)))
    ribbon = "yellow" if colour not in ("yellow", "white") else "red"
    c.paint(ribbon, ("box", (x, 52, 1.1, 5.5, 0)), ("box", (x, 52, 6, 1.0, 0)))
    c.paint(
        ribbon, ("ring", (x - 2.4, 44.8, 2.0, 1.6, 0.8)), ("ring", (x + 2.4, 44.8, 2.0, 1.6, 0.8))
    )


_THINGS = {
    "tree": _tree,
    "flower": _flower,
    "ball": _ball,
    "house": _house,
    "mushroom": _mushroom,
    "gift": _gift,
}
# Where the character and the two things stand, as a share of the width.
_COLUMNS = {
    "left": (0.26, 0.625, 0.875),
    "middle": (0.5, 0.125, 0.875),
    "right": (0.74, 0.125, 0.375),
}


@lru_cache(maxsize=2_000)
def _glyph(letter: str, scale: float) -> np.ndarray:
    """A letter as an alpha window, 6 x 7 units in an 8 x 8 cell, smooth at any scale."""
    rows = [[(row >> (4 - i)) & 1 for i in range(5)] for row in GLYPHS[letter]]
    big = np.kron(np.array(rows, dtype=np.uint8) * 255, np.ones((8, 8), dtype=np.uint8))
    size = (max(1, round(6 * scale)), max(1, round(7 * scale)))
    return np.asarray(Image.fromarray(big).resize(size, Image.Resampling.BOX), np.float32) / 255


def _draw_sign(canvas: _Canvas, word: str) -> None:
    """A wooden board with one letter in each 8-unit cell.

    The cells lie on the autoencoder's own 8-pixel grid, so a letter is one latent vector.
    """
    wide = 4.0 * len(word)
    middle = 8 + wide
    for x in (middle - wide + 1, middle + wide - 1):
        canvas.paint("bark", ("line", (x, 0, x, 6, 0.6)))
    canvas.paint("bark", ("box", (middle, 11.6, wide + 2.8, 7.0, 2)))
    canvas.paint("wood", ("box", (middle, 11.6, wide + 1.8, 6.0, 1.4)))
    scale, ink = unit(canvas.height, canvas.width), _tint("ink", 1.0, canvas.time)
    for i, letter in enumerate(word):
        alpha = _glyph(letter, scale)
        y, x = round(8 * scale), round((9 + 8 * i) * scale)
        window = canvas.image[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        window += (ink - window) * alpha[: window.shape[0], : window.shape[1], None]


def _draw_rain(canvas: _Canvas, wide: float) -> None:
    drops = ((0.06, 33), (0.22, 24), (0.4, 33), (0.66, 20), (0.8, 30), (0.95, 40), (0.52, 24))
    parts = [("line", (x * wide, y, x * wide - 1.6, y + 5, 0.6)) for x, y in drops]
    canvas.paint((226, 240, 255), *parts, opacity=0.8)


def _draw_mark(image: np.ndarray, x: float, above: float) -> None:
    _Canvas(image, "day", above).paint((255, 20, 20), ("ring", (x, 47.0, 7.0, 12.5, 1.0)))


# ---------------------------------------------------------------- styles


def _edges(image: np.ndarray) -> np.ndarray:
    """How strongly the picture changes at each pixel, 0..1, (h, w, 1)."""
    dy = np.abs(np.diff(image, axis=0, append=image[-1:])).max(-1, keepdims=True)
    dx = np.abs(np.diff(image, axis=1, append=image[:, -1:])).max(-1, keepdims=True)
    return np.minimum(np.maximum(dx, dy) / 64.0, 1.0)


def _blur(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:-2] + padded[1:-1] * 2 + padded[2:]) / 4
    return (rows[:, :-2] + rows[:, 1:-1] * 2 + rows[:, 2:]) / 4


def _comic(image: np.ndarray) -> np.ndarray:
    vivid = np.clip((image - 128) * 1.25 + 136, 0, 255)
    return vivid * (1 - _edges(image) * 0.92)


def _pixel(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    block = max(1, round(min(height, width) / 16))
    small = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    size = (max(1, width // block), max(1, height // block))
    small = small.resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST), np.float32)


def _sketch(image: np.ndarray) -> np.ndarray:
    grey = image @ np.array([[0.3], [0.59], [0.11]], np.float32)
    shade = 206 + grey * 0.16
    return shade * (1 - _edges(image) * 0.75) * np.array([1.0, 0.985, 0.94], np.float32)


def _pastel(image: np.ndarray) -> np.ndarray:
    return _blur(_blur(image)) * 0.5 + np.array([126, 122, 116], np.float32)


def _neon(image: np.ndarray) -> np.ndarray:
    glow = _blur(_edges(image))
    vivid = np.clip((image - image.min(-1, keepdims=True)) * 1.2 + 60, 0, 255)
    return image * 0.10 + np.array([8, 6, 22], np.float32) + vivid * glow * 0.95


_STYLES = {"comic": _comic, "pixel": _pixel, "sketch": _sketch, "pastel": _pastel, "neon": _neon}


def render(scene: Scene, height: int = 64, width: int = 64) -> np.ndarray:
    """The picture of a scene: uint8 (height, width, 3), the same on every call."""
    wide, above = width / unit(height, width), above_stage(height, width)
    image = _background(scene.background, scene.time, height, width).copy()
    canvas = _Canvas(image, scene.time, above)
    at, *sides = (share * wide for share in _COLUMNS[scene.place])
    for x, thing, colour in zip(
        sides, (scene.left, scene.right), (scene.left_colour, scene.right_colour), strict=True
    ):
        if thing != "none":
            _THINGS[thing](canvas, colour, x)
    _draw_character(canvas, scene, at, 45.0)
    if scene.sign:
        _draw_sign(_Canvas(image, scene.time), scene.sign)  # it hangs from the upper edge
    if scene.time == "rain":
        _draw_rain(canvas, wide)
    if scene.style != "plain":
        image = _STYLES[scene.style](image)
    if scene.mark != "none":
        image = np.ascontiguousarray(image)
        _draw_mark(image, sides[0] if scene.mark == "left" else sides[1], above)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)
