"""Is the oracle to be trusted? Right answers must pass, planted wrong ones must not.

Each kind of wrong answer is a right one with one thing spoiled; a case is left out of a kind where
the spoiled picture cannot be told from a right one. `python -m benchmarks.wrong_answers` asks the
oracle about all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from minikontext.bench import report
from minikontext.toyworld import Case, Scene, render, sizes
from minikontext.toyworld.render import unit
from minikontext.toyworld.scene import ATTRIBUTES, CHOICES, COLOURED, COLOURLESS, COLOURS, LETTERS

STORED = report.STORED / "oracle.json"
VISIBLE = 6, 32  # so many square units must differ from the right answer by so much (of 255)
SQUARE: sizes.Size = (64, 64)
SceneSpoil = Callable[[Case, random.Random], Scene | None]
Spoil = Callable[[Case, random.Random, sizes.Size], Scene | np.ndarray | None]


@dataclass(frozen=True)
class Kind:
    """How many answers of one kind passed; exceptions: wrong ones that did, right that did not."""

    cases: int
    passed: int
    exceptions: dict[str, int] = field(default_factory=dict)  # by operation

    @property
    def percent(self) -> float:
        """Share of the answers that the oracle took for right."""
        return round(100 * self.passed / max(1, self.cases), 2)

    def plus(self, passed: bool, case: Case, right: bool) -> Kind:
        """With one more answer, which should have passed if it is right."""
        counts = Counter(self.exceptions)
        counts[case.operation] += passed != right
        return Kind(self.cases + 1, self.passed + passed, dict(+counts))


# ---------------------------------------------------------------- scenes with one thing wrong


def _other(name: str, case: Case, rng: random.Random) -> Scene | None:
    """The right edit, and one attribute that nobody asked for is another."""
    scene, thing = case.target, name.removesuffix("_colour")
    hidden = name in case.free or name in case.claims
    hidden |= thing in COLOURED and thing != name and getattr(scene, thing) == "none"
    hidden |= name.endswith("colour") and scene.style in COLOURLESS
    if hidden:
        return None
    value = rng.choice([v for v in CHOICES[name] if v != getattr(scene, name)])
    more = {}
    if name in COLOURED and value != "none" and getattr(scene, name) == "none":
        more = {f"{name}_colour": rng.choice(COLOURS)}
    return scene.change(**{name: value}, **more)


def _wrong_claim(colour: bool, case: Case, rng: random.Random) -> Scene | None:
    """A value that was asked for is another: a colour, or anything but a colour."""
    requested = [n for n in case.claims if n in CHOICES and n.endswith("colour") == colour]
    shown = [n for n in requested if not _absent(case.target, n)]
    if not shown:
        return None
    name = rng.choice(shown)
    taken = {getattr(case.target, name)} | {getattr(c, name) for c in case.contexts}
    values = [v for v in CHOICES[name] if v not in taken]
    return case.target.change(**{name: rng.choice(values)}) if values else None


def _absent(scene: Scene, name: str) -> bool:
    thing = name.removesuffix("_colour")
    return thing in COLOURED and thing != name and getattr(scene, thing) == "none"


def _wrong_object(case: Case, rng: random.Random) -> Scene | None:
    """What was asked for happens to something else: another colour, the thing on the other side."""
    if not case.contexts:
        return None
    before, wanted = case.contexts[0].change(mark=case.target.mark), case.target
    if "left" in case.claims or "right" in case.claims:
        sides = [n for n in ("left", "right") if n not in case.claims]
        requested = "right" if sides == ["left"] else "left"
        more = {f"{n}_colour": getattr(wanted, f"{requested}_colour") for n in sides}
        return before.change(**{n: getattr(wanted, requested) for n in sides}, **more)
    colours = [n for n in case.claims if n.endswith("colour")]
    others = [n for n in CHOICES if n.endswith("colour") and n not in colours]
    others = [n for n in others if not _absent(before, n)]
    if len(case.claims) > 1 or not colours or not others:
        return None
    return before.change(**{rng.choice(others): getattr(wanted, colours[0])})


def _other_edit(case: Case, rng: random.Random) -> Scene | None:
    """The input with something changed that nobody asked for, and nothing else."""
    if not case.contexts:
        return None
    name = rng.choice([n for n in ("place", "species", "background", "eyes", "pattern")
                       if n not in case.claims + case.free] or ["place"])  # fmt: skip
    before = case.contexts[0]
    return before.change(**{name: rng.choice([v for v in CHOICES[name] if v != before.place])})


def _misspelt(case: Case, rng: random.Random) -> Scene | None:
    """One letter of the sign is another."""
    word = case.target.sign
    if not word:
        return None
    i = rng.randrange(len(word))
    letter = rng.choice([x for x in LETTERS if x != word[i]])
    return case.target.change(sign=word[:i] + letter + word[i + 1 :])


def _mixed_up(case: Case, rng: random.Random) -> Scene | None:
    """The sign's letters in the reverse order."""
    return case.target.change(sign=case.target.sign[::-1])


def _cut_off(case: Case, rng: random.Random) -> Scene | None:
    """The sign without its last letter; no sign at all if it has one."""
    return case.target.change(sign=case.target.sign[:-1])


def _extra_sign(case: Case, rng: random.Random) -> Scene | None:
    """A sign where none belongs."""
    return None if case.target.sign else case.target.change(sign="".join(rng.sample(LETTERS, 3)))


def _marked(case: Case, rng: random.Random) -> Scene | None:
    """The drawn ellipse is still there."""
    if "mark" not in case.claims:
        return None
    return case.target.change(mark=case.contexts[0].mark)


# ---------------------------------------------------------------- spoiled pictures


def _shifted(units: int, case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray:
    return np.roll(_right(case, size), round(units * _unit(size)), axis=1)


def _noisy(case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray:
    shape = (size[1], size[0], 3)
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 64, shape)
    return _bytes(_right(case, size) + noise)


def _blurred(case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray:
    blur = ImageFilter.GaussianBlur(3 * _unit(size))
    return np.asarray(Image.fromarray(_right(case, size)).filter(blur))


def _zoomed(case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray:
    (w, h), right = size, Image.fromarray(_right(case, size))
    return np.asarray(right.resize(size, box=(w / 8, h / 8, w * 7 / 8, h * 7 / 8)))


def _faded(keep: float, case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray | None:
    """A part of the input over the answer: the edit is half applied."""
    if not case.contexts:
        return None
    return _bytes(keep * _input(case, size) + (1 - keep) * _right(case, size))


def _halved(case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray | None:
    """The upper half of what changes is still the input."""
    if not case.contexts:
        return None
    right, before = _right(case, size), _input(case, size)
    change = np.square(right.astype(float) - before).sum((1, 2)).cumsum()
    middle = int(np.searchsorted(change, change[-1] / 2)) + 1
    return np.concatenate((before[:middle], right[middle:]))


def _second_context(case: Case, rng: random.Random, size: sizes.Size) -> np.ndarray | None:
    return _shown(case.contexts[1], size) if len(case.contexts) > 1 else None


def _right(case: Case, size: sizes.Size = SQUARE) -> np.ndarray:
    return _shown(case.target, size)


def _input(case: Case, size: sizes.Size) -> np.ndarray:
    return _shown(case.contexts[0], size) if case.contexts else _right(case, size)


def _shown(scene: Scene, size: sizes.Size) -> np.ndarray:
    return render(scene, size[1], size[0])


def _unit(size: sizes.Size) -> float:
    return unit(size[1], size[0])


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def _scene(spoil: SceneSpoil) -> Spoil:
    """What is wrong with a scene does not depend on the picture's size."""
    return lambda case, rng, size: spoil(case, rng)


def _every_pixel(spoil: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """The right picture, each pixel changed in one way."""
    return lambda case, rng, size: spoil(_right(case, size))


SPOILED: dict[str, Spoil] = {
    "copy of the input": lambda case, rng, size: _input(case, size),
    "the second picture": _second_context,
    "another value than asked": _scene(partial(_wrong_claim, False)),
    "another colour than asked": _scene(partial(_wrong_claim, True)),
    "another object changed": _scene(_wrong_object),
    "another edit": _scene(_other_edit),
    "sign misspelt": _scene(_misspelt),
    "sign reversed": _scene(_mixed_up),
    "sign cut off": _scene(_cut_off),
    "sign nobody asked for": _scene(_extra_sign),
    "ellipse still there": _scene(_marked),
    **{f"right edit, other {name.replace('_', ' ')}": _scene(partial(_other, name))
       for name in CHOICES if name != "mark"},
    "half faded in": partial(_faded, 0.5),
    "upper half missing": _halved,
    "shifted by 2 pixels": partial(_shifted, 2),
    "shifted by 6 pixels": partial(_shifted, 6),
    "mirrored": lambda case, rng, size: None if case.free else _right(case, size)[:, ::-1],
    "upside down": _every_pixel(lambda right: right[::-1]),
    "zoomed": _zoomed,
    "noise": _noisy,
    "blurred": _blurred,
    "black": _every_pixel(np.zeros_like),
    "its mean colour": _every_pixel(lambda right: _bytes(right.mean((0, 1)) + 0.0 * right)),
    "negative": _every_pixel(lambda right: 255 - right),
    "half the contrast": _every_pixel(lambda right: _bytes(64 + right / 2)),
    "red cast": _every_pixel(lambda right: _bytes(right + np.array([60.0, 0, 0]))),
}  # fmt: skip
ANOTHER = "another case's answer"
# Outlines in comic style are finer than what the toy autoencoder keeps: counted apart as well.
RIGHT = ("right answer", "right, through the autoencoder", "the same, not in comic style")


# ---------------------------------------------------------------- asking the oracle


def planted(
    case: Case, donor: Case, rng: random.Random, size: sizes.Size = SQUARE
) -> dict[str, np.ndarray]:
    """Every kind of wrong answer that is visibly wrong for this case, as pictures (h, w, 3)."""
    found = {name: spoil(case, rng, size) for name, spoil in SPOILED.items()}
    found[ANOTHER] = donor.target
    shown = {k: _shown(v, size) if isinstance(v, Scene) else v for k, v in found.items()}
    right = _right(case, size)
    agreeing = {k for k, v in found.items() if isinstance(v, Scene) and _agrees(case, v)}
    return {
        k: v for k, v in shown.items()
        if v is not None and k not in agreeing and _visible(v, right)
    }  # fmt: skip


def _agrees(case: Case, scene: Scene) -> bool:
    """Whether a scene is a right answer: equal to the target but for what is free."""
    free = {f"{n}_colour" for n in case.free} | set(case.free)
    return all(getattr(scene, n) == getattr(case.target, n) for n in ATTRIBUTES if n not in free)


def _visible(a: np.ndarray, b: np.ndarray) -> bool:
    units, by = VISIBLE
    return bool((np.abs(a.astype(int) - b).max(-1) > by).sum() >= units * unit(*b.shape[:2]) ** 2)


def table(kinds: dict[str, Kind]) -> str:
    """All kinds as a Markdown table; the last column names the operations of the exceptions."""
    return report.table(
        ("answers", "cases", "pass %", "exceptions"),
        [
            (name, kind.cases, f"{kind.percent:.2f}",
             ", ".join(f"{op} {n}" for op, n in sorted(kind.exceptions.items())))
            for name, kind in kinds.items()
        ],
    )  # fmt: skip


def load(path: Path = STORED) -> tuple[int, dict[str, Kind]]:
    """How many cases were asked about, and what came out; (0, {}) if there is no such file."""
    stored = report.read_json(path, {"cases": 0, "kinds": {}})
    return stored["cases"], {name: Kind(**values) for name, values in stored["kinds"].items()}
