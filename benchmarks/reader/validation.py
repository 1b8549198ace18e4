"""How far is the reader to be trusted? Accuracy, planted answers, and agreement with the oracle.

`python -m benchmarks.reader --validate --store` writes data/bench/reader.json and .md.
Scenes are fresh ones; cases are held out (`--split test`), unless a choice is being made.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.reader.pictures import HARD, MILD, draw_scene, spoil
from benchmarks.reader.training import SIZES, right_answers
from minikontext.bench import report
from minikontext.bench.oracle_bench import edit_all, held_out_cases
from minikontext.bench.reader.judgement import Reader, draw, show
from minikontext.bench.reader.network import UNSEEN, ReaderNetwork
from minikontext.bench.wrong_answers import Kind, planted
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld.edits import Case, sample_case
from minikontext.toyworld.oracle import score
from minikontext.toyworld.scene import ATTRIBUTES
from minikontext.toyworld.sizes import Size

ODD: tuple[Size, ...] = ((48, 48), (144, 64), (160, 160))  # that the reader was not trained on
SHOWN: tuple[Size, ...] = ((64, 64), (96, 64), (48, 112), (64, 160), (128, 128), *ODD)
PLANTED: tuple[Size, ...] = ((64, 64), (96, 64), (128, 128))
RIGHT = ("right answer", "right answer, mildly spoiled")
SPOILS: dict[str, tuple[str, ...]] = {
    "blur": ("blur",),
    "noise": ("noise",),
    "JPEG": ("jpeg",),
    "shift and zoom": ("shift", "zoom"),
    "colour and light": ("cast", "light"),
}


# ---------------------------------------------------------------- accuracy


def accuracy(network: ReaderNetwork, count: int) -> dict[str, dict[str, float]]:
    """Percent of the attributes that are read right: by size, clean, and by what spoils them.

    A sign counts where its length and every letter is right. What a picture cannot show is not
    asked for.
    """
    found = {
        f"{w}×{h}": measured(network, count, f"size {w}x{h}", [(w, h)], None) for w, h in SHOWN
    }
    for name, kinds in SPOILS.items():
        how = HARD.only(*kinds)
        how = how if "jpeg" not in kinds else type(how)(jpeg=1.0, quality=HARD.quality)
        found[name] = measured(network, count, name, SIZES, how)
    everything = type(HARD)(**{**vars(HARD), "clean": 0.0})
    return found | {"all at once": measured(network, count, "all", SIZES, everything)}


def measured(
    network: ReaderNetwork, count: int, name: str, of: Sequence[Size], how: Any
) -> dict[str, float]:
    """Percent read right of each attribute of `count` fresh scenes, in some sizes, spoiled."""
    rng, hits, total = random.Random(f"validation/{name}"), Counter(), Counter()
    dice = torch.Generator().manual_seed(rng.randrange(2**40))
    for _ in tqdm(range(0, count, 40), name):
        scenes = [draw_scene(rng) for _ in range(40)]
        pixels = show(scenes, rng.choice(list(of)))
        pixels = spoil(pixels, how, dice) if how else pixels
        right = right_answers(scenes)
        with torch.no_grad():
            predicted = {key: value.argmax(1) for key, value in network(pixels).items()}
        for attribute, (good, seen) in _by_attribute(predicted, right).items():
            hits[attribute] += int((good & seen).sum())
            total[attribute] += int(seen.sum())
    return {name: round(100 * hits[name] / max(1, total[name]), 2) for name in ATTRIBUTES}


def _by_attribute(predicted: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, tuple]:
    """For every attribute: where it is read right, and where it can be seen, (b,) each."""
    good = {k: (predicted[k] == right[k]) | (right[k] == UNSEEN) for k in right}
    found = {name: (good[name], right[name] != UNSEEN) for name in ATTRIBUTES if name != "sign"}
    sign = torch.stack([v for k, v in good.items() if k.startswith(("length", "letter"))])
    return found | {"sign": (sign.all(0), torch.ones_like(sign[0]))}


# ---------------------------------------------------------------- right and wrong answers


def verdicts(reader: Reader, cases: Sequence[Case], size: Size) -> dict[str, dict[str, Any]]:
    """How many answers of each kind pass at a size: right ones, mildly spoiled ones, wrong ones."""
    kinds: dict[str, Kind] = {}
    for i, case in enumerate(tqdm(cases, f"{size[0]}x{size[1]}")):
        right = case.target_image(size[1], size[0])
        others = (c for c in [*cases[i + 1 :], *cases[:i]] if c.operation == case.operation)
        wrong = planted(case, next(others, case), random.Random(i), size)
        answers = dict(zip(RIGHT, (right, _spoiled(case, size, i)), strict=True)) | wrong
        for name, picture in answers.items():
            passed = reader.judge(picture, case).success
            kinds[name] = kinds.get(name, Kind(0, 0)).plus(passed, case, name in RIGHT)
    return {name: asdict(kind) for name, kind in kinds.items()}


def _spoiled(case: Case, size: Size, number: int) -> np.ndarray:
    """The right answer, mildly spoiled in its own pixels."""
    dice = torch.Generator().manual_seed(1_000_003 + number)
    x = spoil(draw([case.target], size), MILD, dice)[0]
    return (x * 255).round().byte().permute(1, 2, 0).numpy()


def summary(kinds: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Percent of right answers accepted, plain and spoiled, and of all wrong ones refused."""
    share = {name: 100 * kind["passed"] / kind["cases"] for name, kind in kinds.items()}
    wrong = [kind for name, kind in kinds.items() if name not in RIGHT]
    count, passed = (sum(kind[key] for kind in wrong) for key in ("cases", "passed"))
    return {
        "right": round(share[RIGHT[0]], 2),
        "spoiled": round(share[RIGHT[1]], 2),
        "wrong": count,
        "refused": round(100 * (1 - passed / count), 2),
    }


# ---------------------------------------------------------------- the two judges together


def agreement(reader: Reader, weights: str, steps: int, count: int, split: str) -> dict[str, Any]:
    """Both judges on the answers of shipped weights to cases of 64 × 64."""
    pipe = KontextPipeline.from_pretrained(weights)
    cases = held_out_cases(count, 4) if split == "test" else _dev(count)
    pictures = edit_all(pipe, cases, num_inference_steps=steps)
    table: Counter[tuple[bool, bool]] = Counter()
    rows = []
    for picture, case in tqdm(list(zip(pictures, cases, strict=True)), "both judges"):
        one, two = score(picture, case), reader.judge(picture, case)
        table[one.success, two.success] += 1
        if one.success != two.success:
            rows.append(_apart(case, one, two))
    return {
        "weights": weights, "steps": steps, "cases": count,
        "both": table[True, True], "only oracle": table[True, False],
        "only reader": table[False, True], "neither": table[False, False],
        "kappa": kappa(table), "disagreements": rows,
    }  # fmt: skip


def _dev(count: int) -> list[Case]:
    cases = (sample_case(i, 4, "dev") for i in range(10 * count))
    return [case for _, case in zip(range(count), (c for c in cases if len(c.contexts) < 3))]


def _apart(case: Case, one: Any, two: Any) -> dict[str, Any]:
    """One case on which the judges differ, in words."""
    wanted = vars(case.target)
    other = {k: v for k, v in vars(two.read).items() if v != wanted[k] and k not in case.free}
    verdicts = ("followed", "preserved", "identity")
    return {
        "operation": case.operation, "prompt": case.prompt,
        "oracle": [p for p in verdicts if not getattr(one, p)],
        "reader": [p for p in verdicts if not getattr(two, p)],
        "reads": other, "distance": two.distance, "remains": two.remains,
    }  # fmt: skip


def kappa(table: Counter[tuple[bool, bool]]) -> float:
    """Cohen's kappa of two judges' verdicts: agreement beyond what their rates alone would give."""
    total = sum(table.values())
    observed = (table[True, True] + table[False, False]) / total
    one = (table[True, True] + table[True, False]) / total
    two = (table[True, True] + table[False, True]) / total
    chance = one * two + (1 - one) * (1 - two)
    return round((observed - chance) / (1 - chance), 3) if chance < 1 else 1.0


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Counts:
    """How much is asked: scenes a column, cases a size, answers of weights; and of which split."""

    scenes: int = 1000
    cases: int = 150
    answers: int = 400
    split: str = "test"

    @property
    def part(self) -> str:
        """What part of the whole validation this is; "" for all of it."""
        return "" if self == Counts() else f"reader {self.split} {self.cases} cases"


def validate(reader: Reader, folder: Path, counts: Counts, weights: str) -> str:
    """Measure everything, and write it as JSON with a page of tables beside it; returns those."""
    content: dict[str, Any] = asdict(counts)
    content["accuracy"] = accuracy(reader.network, counts.scenes)
    known = [sample_case(i, 4, counts.split) for i in range(counts.cases)]
    content["verdicts"] = {f"{w}×{h}": verdicts(reader, known, (w, h)) for w, h in PLANTED}
    content["agreement"] = agreement(reader, weights, 4, counts.answers, counts.split)
    report.write_json(content, folder / "reader.json")
    report.write_text(page(content), folder / "reader.md")
    return page(content)


def page(content: dict[str, Any]) -> str:
    """The tables as Markdown."""
    return "\n\n".join(
        [
            "# The reader, the second judge",
            "Made by `python -m benchmarks.reader --validate --store`; not written by hand.",
            "## Percent read right, by attribute",
            f"{content['scenes']} fresh scenes a column: clean at eight sizes (it never saw the "
            "last three), then at any size, spoiled by up to the most that its training knows.",
            _accuracy_table(content["accuracy"]),
            "## Right answers and planted wrong ones",
            f"{content['cases']} {content['split']} cases at each size, and every kind of wrong "
            "answer of `bench.wrong_answers`: the share that passes.",
            _verdict_table(content["verdicts"]),
            "## The two judges together",
            _agreement_table(content["agreement"]),
        ]
    )


def _accuracy_table(found: dict[str, dict[str, float]]) -> str:
    rows = ([name, *(column[name] for column in found.values())] for name in ATTRIBUTES)
    return report.table(["attribute", *found], rows)


def _verdict_table(found: dict[str, dict[str, Any]]) -> str:
    names = dict.fromkeys(name for kinds in found.values() for name in kinds)
    rows = [[name, *(_percent(kinds.get(name)) for kinds in found.values())] for name in names]
    refused = [summary(kinds)["refused"] for kinds in found.values()]
    return report.table(
        ["passes, %", *found], [*rows, ["**all wrong ones: refused, %**", *refused]]
    )


def _percent(kind: dict[str, Any] | None) -> str:
    return f"{100 * kind['passed'] / kind['cases']:.1f} of {kind['cases']}" if kind else ""


def _agreement_table(found: dict[str, Any]) -> str:
    rows = [
        ["oracle: success", found["both"], found["only oracle"]],
        ["oracle: no", found["only reader"], found["neither"]],
    ]
    intro = (
        f"The answers of `{found['weights']}` in {found['steps']} steps to {found['cases']} "
        f"cases of 64×64. Cohen's kappa {found['kappa']}."
    )
    return intro + "\n\n" + report.table(["", "reader: success", "reader: no"], rows)
