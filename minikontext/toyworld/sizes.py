"""The sizes of the world's pictures: what is trained, and what is kept to test the rest.

A size is (width, height) in pixels, as in PIL. One token is 16 x 16 pixels. As Kontext has its 17
sizes of one area, the toy has sizes of three areas: about 64², 96² and 128² pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

Size = tuple[int, int]

TOKEN = 16  # pixels along one side of a token
SHORTEST, LONGEST, ASPECT = 48, 160, 2.5  # pixels of a side; long side : short side
AREAS = (64 * 64, 96 * 96, 128 * 128)  # pixels


def _both(sizes: Iterable[Size]) -> tuple[Size, ...]:
    """Sizes and their transposes, smallest area first."""
    both = {(w, h) for pair in sizes for w, h in (pair, pair[::-1])}
    return tuple(sorted(both, key=lambda size: (size[0] * size[1], size)))


# 19 trained sizes of 16 to 64 tokens. Sides of 48 pixels are too small for eyes in latents of a
# pixel in eight: no autoencoder that was tried lets more than 87 of 100 right answers pass there.
TRAINED: tuple[Size, ...] = _both(
    [
        *[(64, 64), (80, 64), (96, 64), (96, 80)],
        *[(96, 96), (112, 80), (128, 64), (160, 64)],
        *[(128, 128), (144, 112), (160, 96)],
    ]
)
# Inside the same range, and never trained: what a student asks for next.
UNSEEN: tuple[Size, ...] = _both([(80, 80), (112, 64), (144, 96), (112, 112)])


def tokens(size: Size) -> int:
    """How many tokens a picture of this size is. Raises ValueError unless it is whole tokens."""
    width, height = size
    if width % TOKEN or height % TOKEN or width < TOKEN or height < TOKEN:
        raise ValueError(f"{width} x {height}: give sides that are multiples of {TOKEN} pixels")
    return width // TOKEN * (height // TOKEN)


def area(size: Size) -> int:
    """The nearest of AREAS (by ratio): what results are grouped by."""
    pixels = size[0] * size[1]
    return min(AREAS, key=lambda one: max(one / pixels, pixels / one))


def inside(size: Size) -> bool:
    """Whether a size is one that the world promises: whole tokens, sides and aspect in range."""
    short, long = sorted(size)
    whole = short % TOKEN == 0 and long % TOKEN == 0
    return whole and short >= SHORTEST and long <= LONGEST and long <= ASPECT * short


def parse(text: str) -> tuple[Size, ...]:
    """Sizes as a user writes them: trained, unseen, all, or width x height such as 64x64,96x64.

    Raises ValueError for a size that is not inside the world's range.
    """
    known = {"trained": TRAINED, "unseen": UNSEEN, "all": (*TRAINED, *UNSEEN)}
    if text in known:
        return known[text]
    found = tuple(tuple(map(int, part.split("x"))) for part in text.split(","))
    if bad := [size for size in found if len(size) != 2 or not inside(size)]:
        raise ValueError(f"{bad}: give width x height such as 96x64, or one of {[*known]}")
    return found
