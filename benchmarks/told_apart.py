"""What LADD's discriminator tells apart: where, at which noise, from which jump of the student.

`python -m benchmarks.told_apart --store`

The log of a training counts logits with the right sign, over all noises and all starts: it hardly
leaves one half. But the hinge needs no sign: what teaches the student is which of two pictures has
the higher logit. So here each place is a pair: does the heads' logit of the teacher's answer lie
above that of the student's jump, at the same place, under the same noise, for the same words? One
half is a guess. Pairs are told by the time from which the student jumped, by the time at which they
are judged, and by whether the two are far apart there. The cases are of the world's training split,
and none of them was trained.

The training is the laboratory's arm "ladd" (`benchmarks.ladd_lab`), its student and heads as they
stand after the last step. It is trained if `--work` does not hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import reduce
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks import ladd_lab
from benchmarks.ladd_lab import ARMS, PRESETS, Material, Plan
from minikontext import flow
from minikontext.bench import compare, report
from minikontext.denoiser import PATCH
from minikontext.distillation.ladd import Ladd, teacher_features
from minikontext.pipeline import KontextPipeline
from minikontext.training.editor import Editor
from minikontext.training.runs import alone

JUDGED = (0.1, 0.3, 0.5, 0.7, 0.9)  # times of the noise under which real and fake are judged
FAR = 0.3  # root of the mean squared distance, latents of variance 1: what an eye sees
NAME = "told_apart"


@dataclass(frozen=True)
class Pairs:
    """One case: of its places, the share in which real lies above fake, over all heads.

    start: the student's time; judged: the noise's. far: whether these are the places in which the
    student's jump is far from the answer, or the others. signs: the share of logits with the right
    sign, which the training's log shows.
    """

    case: int
    start: float
    judged: float
    far: bool
    places: int
    above: float
    signs: float


@torch.no_grad()
def logits(model: Ladd, teacher: Editor, y: Tensor, t: float, inputs: Sequence[Any]) -> Tensor:
    """What the heads say of noised latents y (b, c, h, w) at time t, (blocks, b, n)."""
    words, contexts = inputs
    times = torch.full((len(y),), t)
    seen = teacher_features(teacher, y, times, words, contexts)
    return model.heads(seen, y.shape[-2] // PATCH, times, teacher.text(words).pooled)


@torch.no_grad()
def examine(model: Ladd, given: Material, batches: int) -> list[Pairs]:
    """All pairs of some batches of the teacher's answers."""
    found: list[Pairs] = []
    for step in tqdm(range(batches), "told apart"):
        draw = torch.Generator().manual_seed(31 + step)
        x, *inputs = given.inputs().inputs(step, draw)
        noise, again = (torch.randn(x.shape, generator=draw) for _ in range(2))
        first = step * 10_000  # cases of a batch are numbered from here, as a stream's are
        for start in given.times(4)[:-1].tolist():
            t = torch.full((len(x),), start)
            z = flow.interpolate(x, noise, t)
            jump = flow.clean_estimate(z, model.student(z, t, *inputs), t)
            apart = reduce((jump - x) ** 2, "b c (r p) (q s) -> b (r q)", "mean", p=PATCH, s=PATCH)
            for judged in JUDGED:
                at = torch.full((len(x),), judged)
                real, fake = (
                    logits(model, given.teacher, flow.interpolate(y, again, at), judged, inputs)
                    for y in (x, jump)
                )
                above = (real > fake).float().mean(0)  # over the heads, (b, n)
                signs = ((real > 0).float().mean(0) + (fake < 0).float().mean(0)) / 2
                for i, places in enumerate(apart.sqrt() > FAR):
                    for far in (False, True):
                        mine = places == far
                        if count := int(mine.sum()):
                            shares = (round(float(y[i][mine].mean()), 3) for y in (above, signs))
                            found.append(Pairs(first + i, start, judged, far, count, *shares))
    return found


def share(pairs: Sequence[Pairs], of: str = "above") -> str:
    """The mean over cases in percent with its interval, or a dash; a case is a cluster."""
    if not pairs:
        return "–"
    values = [getattr(one, of) for one in pairs]
    clusters = [one.case for one in pairs]
    mean = 100 * float(np.mean(values))
    return f"{mean:.1f} ({report.span(compare.percent_interval(values, clusters))})"


def page(pairs: Sequence[Pairs], about: str) -> str:
    """The tables in words: by start and noise, for places that are far apart and for the rest."""
    parts = [
        f"# What LADD's discriminator tells apart\n\nMade by `python -m benchmarks.{NAME}`; not "
        f"written by hand. {about} Percent of pairs in which the heads put the teacher's answer "
        "above the student's jump, 50 is a guess; 95 % intervals, a case is a cluster. In brackets "
        "behind a time: the share of such places.",
    ]
    titles = {True: f"Places where both differ by over {FAR}", False: "All other places"}
    for far, title in titles.items():
        rows = []
        for start in sorted({one.start for one in pairs}, reverse=True):
            mine = [one for one in pairs if one.start == start]
            those = [one for one in mine if one.far == far]
            part = sum(one.places for one in those) / sum(one.places for one in mine)
            cells = [share([one for one in those if one.judged == at]) for at in JUDGED]
            rows.append((f"{start:.2f} ({100 * part:.0f} %)", *cells, share(those)))
        head = ("student jumps from", *(f"judged at {at}" for at in JUDGED), "all")
        parts += [f"## {title}", report.table(head, rows)]
    parts += [f"Logits with the right sign, as the training's log counts: {share(pairs, 'signs')}."]
    return "\n\n".join(parts)


def run(plan: Plan, pipe: KontextPipeline, work: Path, batches: int) -> list[Pairs]:
    """Train the laboratory's LADD, or open it where it is trained, and examine it.

    Raises TrainingError where another process trains in its folder.
    """
    pipe = ladd_lab.sized(pipe)
    place = work / ladd_lab.folder_of(pipe)
    folder = place / "ladd" / "0"
    given = ladd_lab.gather(plan, ARMS["ladd"], pipe, place / "stream")
    with alone(folder):
        loop = ladd_lab.trained(plan, "ladd", 0, given, folder)
    unseen = replace(plan, batches=batches)
    fresh = ladd_lab.gather(unseen, ARMS["ladd"], pipe, place / "unseen", seed=1)
    assert isinstance(loop.model, Ladd)
    return examine(loop.model.eval(), fresh, batches)


def main(arguments: list[str] | None = None) -> list[Pairs]:
    """Command line: train or open, examine, store, print the page."""
    parser = report.parser(f"python -m benchmarks.{NAME}", __doc__, weights=..., steps=...,
                           seed=...)  # fmt: skip
    parser.add_argument("--batches", type=int, default=12, help="to examine (default: 12)")
    parser.add_argument("--work", type=Path, default=Path("runs/ladd_lab"), help="checkpoints")
    options = parser.parse_args(arguments)
    report.positive(options, "batches")
    part = "" if options.batches == 12 else f"{options.batches} batches"
    place = report.folder(options, part) / f"{NAME}.json"
    plan = PRESETS["small"]
    pipe = KontextPipeline.from_pretrained(plan.weights, safety="none")
    pairs = run(plan, pipe, options.work / "small", options.batches)
    about = f"{plan}. {len({one.case for one in pairs})} cases."
    columns = {f.name: [getattr(one, f.name) for one in pairs] for f in fields(Pairs)}
    report.write_json({"plan": asdict(plan), "pairs": columns}, place)
    text = page(pairs, about)
    report.write_text(text, place.with_suffix(".md"))
    print(text)
    return pairs


if __name__ == "__main__":
    main()
