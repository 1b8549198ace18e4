"""Is the oracle to be trusted? Right answers must pass, planted wrong ones must not.

`python -m minikontext.bench.wrong_answers --json data/bench/oracle.json`; with `--right` only the
former, which is what there is to ask of another autoencoder.

Right answers go in as rendered, and once through the autoencoder: what an editor in its latents
can reach. Each kind of wrong answer is a right one with one thing spoiled; a case is left out of a
kind where the spoiled picture cannot be told from a right one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from tqdm.auto import tqdm

from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.files import shipped
from minikontext.toyworld import Case, Scene, render
from minikontext.toyworld.oracle import succeeds
from minikontext.toyworld.scene import ATTRIBUTES, CHOICES, COLOURED, COLOURLESS, COLOURS, LETTERS

STORED = shipped("data", "bench", "oracle.json")
VISIBLE = 6, 32  # so many pixels must differ from the right answer by so much (of 255)
Spoil = Callable[[Case, random.Random], Scene | np.ndarray | None]


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
    asked = [n for n in case.claims if n in CHOICES and n.endswith("colour") == colour]
    shown = [n for n in asked if not _absent(case.target, n)]
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
        asked = "right" if sides == ["left"] else "left"
        more = {f"{n}_colour": getattr(wanted, f"{asked}_colour") for n in sides}
        return before.change(**{n: getattr(wanted, asked) for n in sides}, **more)
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


def _shifted(right: int, case: Case, rng: random.Random) -> np.ndarray:
    return np.roll(_right(case), right, axis=1)


def _noisy(case: Case, rng: random.Random) -> np.ndarray:
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 64, (64, 64, 3))
    return _bytes(_right(case) + noise)


def _blurred(case: Case, rng: random.Random) -> np.ndarray:
    return np.asarray(Image.fromarray(_right(case)).filter(ImageFilter.GaussianBlur(3)))


def _zoomed(case: Case, rng: random.Random) -> np.ndarray:
    return np.asarray(Image.fromarray(_right(case)).resize((64, 64), box=(8, 8, 56, 56)))


def _faded(keep: float, case: Case, rng: random.Random) -> np.ndarray:
    """A part of the input over the answer: the edit is half applied."""
    return _bytes(keep * _input(case) + (1 - keep) * _right(case)) if case.contexts else None


def _halved(case: Case, rng: random.Random) -> np.ndarray | None:
    """The upper half of what changes is still the input."""
    if not case.contexts:
        return None
    right, before = _right(case), _input(case)
    change = np.square(right.astype(float) - before).sum((1, 2)).cumsum()
    middle = int(np.searchsorted(change, change[-1] / 2)) + 1
    return np.concatenate((before[:middle], right[middle:]))


def _second_context(case: Case, rng: random.Random) -> np.ndarray | None:
    return render(case.contexts[1]) if len(case.contexts) > 1 else None


def _right(case: Case) -> np.ndarray:
    return render(case.target)


def _input(case: Case) -> np.ndarray:
    return render(case.contexts[0]) if case.contexts else _right(case)


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


SPOILED: dict[str, Spoil] = {
    "copy of the input": lambda case, rng: _input(case),
    "the second picture": _second_context,
    "another value than asked": partial(_wrong_claim, False),
    "another colour than asked": partial(_wrong_claim, True),
    "another object changed": _wrong_object,
    "another edit": _other_edit,
    "sign misspelt": _misspelt,
    "sign reversed": _mixed_up,
    "sign cut off": _cut_off,
    "sign nobody asked for": _extra_sign,
    "ellipse still there": _marked,
    **{f"right edit, other {name.replace('_', ' ')}": partial(_other, name)
       for name in CHOICES if name != "mark"},
    "half faded in": partial(_faded, 0.5),
    "upper half missing": _halved,
    "shifted by 2 pixels": partial(_shifted, 2),
    "shifted by 6 pixels": partial(_shifted, 6),
    "mirrored": lambda case, rng: None if case.free else _right(case)[:, ::-1],
    "upside down": lambda case, rng: _right(case)[::-1],
    "zoomed": _zoomed,
    "noise": _noisy,
    "blurred": _blurred,
    "black": lambda case, rng: np.zeros_like(_right(case)),
    "its mean colour": lambda case, rng: _bytes(_right(case).mean((0, 1)) + 0.0 * _right(case)),
    "negative": lambda case, rng: 255 - _right(case),
    "half the contrast": lambda case, rng: _bytes(64 + _right(case) / 2),
    "red cast": lambda case, rng: _bytes(_right(case) + np.array([60.0, 0, 0])),
}  # fmt: skip
ANOTHER = "another case's answer"
# Outlines in comic style are finer than what the toy autoencoder keeps: counted apart as well.
RIGHT = ("right answer", "right, through the autoencoder", "the same, not in comic style")


# ---------------------------------------------------------------- asking the oracle


def planted(case: Case, donor: Case, rng: random.Random) -> dict[str, np.ndarray]:
    """Every kind of wrong answer that is visibly wrong for this case, as pictures (64, 64, 3)."""
    found = {name: spoil(case, rng) for name, spoil in SPOILED.items()} | {ANOTHER: donor.target}
    shown = {k: render(v) if isinstance(v, Scene) else v for k, v in found.items()}
    agreeing = {k for k, v in found.items() if isinstance(v, Scene) and _agrees(case, v)}
    return {
        k: v for k, v in shown.items()
        if v is not None and k not in agreeing and _visible(v, _right(case))
    }  # fmt: skip


def _agrees(case: Case, scene: Scene) -> bool:
    """Whether a scene is a right answer: equal to the target but for what is free."""
    free = {f"{n}_colour" for n in case.free} | set(case.free)
    return all(getattr(scene, n) == getattr(case.target, n) for n in ATTRIBUTES if n not in free)


def _visible(a: np.ndarray, b: np.ndarray) -> bool:
    pixels, by = VISIBLE
    return bool((np.abs(a.astype(int) - b).max(-1) > by).sum() >= pixels)


def examine(
    cases: list[Case],
    pipe: KontextPipeline,
    known: dict[str, Kind] | None = None,
    first: int = 0,
    note: Callable[[int, dict[str, Kind]], None] | None = None,
    wrong: bool = True,
) -> dict[str, Kind]:
    """Ask the oracle about all answers to the cases from number `first` on, on top of `known`.

    wrong: about wrong answers as well, not only the right ones.
    note: is told how many cases are done, and the result so far, every few cases.
    """
    kinds = dict(known or {})
    for i, case in enumerate(tqdm(cases[first:], "asking the oracle"), first):
        others = (c for c in cases[i + 1 :] + cases[:i] if c.operation == case.operation)
        donor = next(others, case) if wrong else None
        for name, passed in _verdicts(case, donor, random.Random(i), pipe).items():
            kinds[name] = kinds.get(name, Kind(0, 0)).plus(passed, case, name in RIGHT)
        if note and ((i + 1) % 20 == 0 or i + 1 == len(cases)):
            note(i + 1, kinds)
    return {name: kinds[name] for name in (*RIGHT, *SPOILED, ANOTHER) if name in kinds}


def _verdicts(
    case: Case, donor: Case | None, rng: random.Random, pipe: KontextPipeline
) -> dict[str, bool]:
    """What the oracle says of each kind of answer to one case; without a donor of right ones."""
    rendered, coded, edged = RIGHT
    verdicts = {rendered: succeeds(case.target_image(), case)}
    verdicts[coded] = succeeds(pipe.decode(pipe.encode(case.target_image()))[0], case)
    if case.target.style != "comic":
        verdicts[edged] = verdicts[coded]
    wrong = planted(case, donor, rng) if donor else {}
    return verdicts | {name: succeeds(picture, case) for name, picture in wrong.items()}


def table(kinds: dict[str, Kind]) -> str:
    """All kinds as a Markdown table; the last column names the operations of the exceptions."""
    lines = ["| answers | cases | pass % | exceptions |", "|---|---|---|---|"]
    for name, kind in kinds.items():
        shown = ", ".join(f"{op} {n}" for op, n in sorted(kind.exceptions.items()))
        lines.append(f"| {name} | {kind.cases} | {kind.percent:.2f} | {shown} |")
    return "\n".join(lines)


def save(weights: str, done: int, kinds: dict[str, Kind], path: Path) -> None:
    """Write the result so far as JSON, and its table beside it."""
    content = {"weights": weights, "cases": done, "kinds": {k: asdict(v) for k, v in kinds.items()}}
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    with files.replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(table(kinds) + "\n", encoding="utf-8")


def load(path: Path = STORED) -> tuple[int, dict[str, Kind]]:
    """How many cases were asked about, and what came out; (0, {}) if there is no such file."""
    if not path.exists():
        return 0, {}
    stored = json.loads(path.read_text())
    return stored["cases"], {name: Kind(**values) for name, values in stored["kinds"].items()}


def main(arguments: list[str] | None = None) -> None:
    """Command line: ask about MiniKontextBench's cases, in a shuffled order, and go on later."""
    from minikontext.bench import mini

    parser = argparse.ArgumentParser(prog="python -m minikontext.bench.wrong_answers")
    parser.add_argument("--weights", default="toy", help="whose autoencoder (default: toy)")
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--again", action="store_true", help="start over, though there are results")
    parser.add_argument("--json", type=Path, default=STORED, help="results, also to go on from")
    parser.add_argument("--right", action="store_true", help="ask about right answers only")
    options = parser.parse_args(arguments)
    known = [case for *_, case in mini.cases(more=True)]
    cases = random.Random(0).sample(known, len(known))[: options.cases]
    done, kinds = (0, {}) if options.again else load(options.json)
    pipe = KontextPipeline.from_pretrained(options.weights)

    def note(done: int, kinds: dict[str, Kind]) -> None:
        save(options.weights, done, kinds, options.json)

    print(table(examine(cases, pipe, kinds, done, note, not options.right)))


if __name__ == "__main__":
    main()
