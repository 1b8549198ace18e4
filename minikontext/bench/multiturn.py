"""Eight edits in a row: what is left of the character, and of the picture?

`minikontext bench multiturn --chains 24`

Each edit starts from the last result, handed on in one of three ways: as pixels, as latents, or as
pixels with everything that hardly changed pasted back from the picture before. The characters are
held out; the way "known" is latents once more, with characters and edits that training may show.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm.auto import tqdm

from minikontext.bench import compare, report
from minikontext.bench.mini import LEVEL, base_scenes
from minikontext.editing.output import KontextOutput
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Scene, held_out, psnr, read, render, score
from minikontext.toyworld.edits import make_case
from minikontext.toyworld.scene import CHOICES, IDENTITY

TURNS = 8
# Edits that leave the character's identity alone, so that it should survive all of them.
OPERATIONS = (
    "move_character", "add_accessory", "remove_accessory", "replace_accessory",
    "recolour_accessory", "add_thing", "remove_thing", "replace_thing", "recolour_thing",
    "change_background", "change_time", "change_sign", "add_sign", "remove_sign",
)  # fmt: skip
PASTE = 20  # of 255: what the blurred difference must exceed to count as changed
Hand = Callable[[KontextOutput, int, Image.Image], object]  # output, number, picture before


@dataclass(frozen=True)
class Drift:
    """One way of chaining; each list has a number a turn. Shares are in percent.

    identity: the character reads as in the first picture. followed: the turn's edit happened.
    psnr: against the picture that the edits so far should have made, dB. cosine: of the latents,
    to the first picture; right_cosine: the same for pictures without any error. outcomes: of
    identity and followed, for each turn one 0 or 1 a chain. first: the number of the first chain.
    """

    chains: int
    identity: list[float]
    followed: list[float]
    psnr: list[float]
    cosine: list[float]
    right_cosine: list[float]
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    first: int = 0


def chain(number: int, turns: int = TURNS, known: bool = False) -> list[Case]:
    """Chain number `number`: each case starts at the scene where the one before should end.

    known: with another character, one that is not held out, and with edits that are not, either.
    """
    rng = random.Random(f"multiturn/{number}")
    scene, cases = base_scenes()[number % len(base_scenes())].change(style="plain"), []
    if known:
        scene = with_known_character(scene, rng)
    while len(cases) < turns:
        case = make_case(rng.choice(OPERATIONS), rng, scene, LEVEL)
        fits = case.contexts[0] == scene and not (known and case.unseen)
        if fits and case.target not in [c.target for c in cases]:
            cases.append(case)
            scene = case.target
    return cases


def with_known_character(scene: Scene, rng: random.Random) -> Scene:
    """The scene with a random character that is not held out; without its sign, which may be."""
    while True:
        drawn = scene.change(**{name: rng.choice(CHOICES[name]) for name in IDENTITY}, sign="")
        if not held_out("identity", *drawn.identity):
            return drawn


# ---------------------------------------------------------------- three ways to hand on


def as_pixels(out: KontextOutput, i: int, before: Image.Image) -> Image.Image:
    """The picture: it loses a little in every round trip through the autoencoder."""
    return out.images[i]


def as_latents(out: KontextOutput, i: int, before: Image.Image) -> KontextOutput:
    """The latents as they were sampled: no round trip."""
    return out[i]


def as_pasted(out: KontextOutput, i: int, before: Image.Image) -> Image.Image:
    """The picture, with the one before pasted back where it hardly differs."""
    return paste_back(before, out.images[i])


def paste_back(before: Image.Image, after: Image.Image, limit: float = PASTE) -> Image.Image:
    """`after` only where it differs from `before`; single pixels do not count as a difference."""
    difference = np.abs(np.asarray(before).astype(np.float32) - np.asarray(after)).max(-1)
    blurred = Image.fromarray(difference.astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    mask = Image.fromarray((np.asarray(blurred) > limit).astype(np.uint8) * 255)
    return Image.composite(after, before, mask.filter(ImageFilter.MaxFilter(5)))


WAYS: dict[str, Hand] = {
    "pixels": as_pixels, "latents": as_latents, "paste-back": as_pasted, "known": as_latents,
}  # fmt: skip


# ---------------------------------------------------------------- running and measuring


def run(
    pipe: KontextPipeline, chains: list[list[Case]], way: str, seed: int = 0, **call: object
) -> list[list[Image.Image]]:
    """Edit all chains turn by turn; returns the pictures shown, by turn and chain."""
    before = [chain[0].context_images()[0] for chain in chains]
    inputs, shown = list(before), []
    for turn in range(len(chains[0])):
        prompts = [chain[turn].prompt for chain in chains]
        seeds = [seed * 1_000_003 + 1000 * turn + i for i in range(len(chains))]
        images = [[one] for one in inputs]
        out = pipe(prompts, image=images, seed=seeds, progress=False, **call)
        inputs = [WAYS[way](out, i, before[i]) for i in range(len(chains))]
        before = [g if isinstance(g, Image.Image) else g.images[0] for g in inputs]
        shown.append(before)
    return shown


def measure(
    pipe: KontextPipeline, chains: list[list[Case]], shown: list[list[Image.Image]], number: int = 0
) -> Drift:
    """Score what `run` has shown; `number` is that of the first chain."""
    first = features(pipe, [chain[0].context_images()[0] for chain in chains])
    columns: dict[str, list[float]] = {
        name: [] for name in ("identity", "followed", "psnr", "cosine", "right_cosine")
    }
    outcomes: dict[str, list[str]] = {"identity": [], "followed": []}
    for turn, pictures in enumerate(shown):
        cases = [chain[turn] for chain in chains]
        right = [case.target_image() for case in cases]
        pairs = list(zip(pictures, cases, strict=True))
        hits = {
            "identity": [same_character(p, c.target) for p, c in pairs],
            "followed": [score(p, c).followed for p, c in pairs],
        }
        for name, found in hits.items():
            outcomes[name].append("".join(str(int(hit)) for hit in found))
        row = {
            **{name: 100 * np.mean(found) for name, found in hits.items()},
            "psnr": np.mean([psnr(np.asarray(p), render(c.target)) for p, c in pairs]),
            "cosine": _cosine(first, features(pipe, pictures)),
            "right_cosine": _cosine(first, features(pipe, right)),
        }
        for name, value in row.items():
            columns[name].append(round(float(value), 4))
    return Drift(len(chains), **columns, outcomes=outcomes, first=number)


def same_character(picture: Image.Image, scene: Scene) -> bool:
    """Whether species, colour, pattern and eyes read as in a scene."""
    return read(picture, scene, IDENTITY).identity == scene.identity


def features(pipe: KontextPipeline, pictures: list[Image.Image]) -> Tensor:
    """An embedding (n, d) of pictures: the autoencoder's latents, each channel's mean removed.

    The paper compares faces by a face embedding; the toy world has no such thing. Latents also see
    the scene around the character, so right edits lower this cosine, too: hence `right_cosine`.
    """
    latents = pipe.encode(pictures)  # (n, c, h, w)
    return (latents - latents.mean((2, 3), keepdim=True)).flatten(1)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b).mean())


# ---------------------------------------------------------------- what came out


def beside(first: Drift, second: Drift, turn: int, name: str = "identity") -> compare.Comparison:
    """Two ways of chaining after so many turns: chain for chain, where outcomes are stored.

    Chains of one base scene are a cluster. Stored without outcomes, or with other chains, they
    count as if the chains had nothing in common: see `compare.of_rates`.
    """
    if first.outcomes and second.outcomes and first.first == second.first:
        one, two = ([int(x) for x in way.outcomes[name][turn - 1]] for way in (first, second))
        scenes = [(first.first + i) % len(base_scenes()) for i in range(len(one))]
        return compare.paired(one, two, scenes)
    shares = ((getattr(way, name)[turn - 1] / 100, way.chains) for way in (first, second))
    return compare.of_rates(*(compare.wilson(p * n, n) for p, n in shares))


def decided(drifts: dict[str, Drift], turns: Sequence[int] = (6, TURNS)) -> str:
    """Each way beside handing on pixels, in identity: a list in Markdown, and what it rests on."""
    base = drifts.get("pixels")
    if base is None:
        return ""
    others = {way: drifts[way] for way in ("latents", "paste-back") if way in drifts}
    lines = [
        f"- after {turn} turns, {beside(drift, base, turn).verdict(way, 'pixels')}"
        for turn in turns if turn <= len(base.identity) for way, drift in others.items()
    ]  # fmt: skip
    known = all(drift.outcomes for drift in drifts.values())
    note = "" if known else (
        " Stored before outcomes by chain were kept, so compared as if the chains had nothing in "
        "common; the next run stores them."
    )  # fmt: skip
    return "\n".join([f"Identity, decided by `bench.compare`.{note}", "", *lines])


def table(drifts: dict[str, Drift]) -> str:
    """Identity, quality and cosine by turn as a Markdown table."""
    turns = max(len(d.identity) for d in drifts.values())
    labels = {
        "identity": ("identity %", "{:.1f}"), "followed": ("followed %", "{:.1f}"),
        "psnr": ("PSNR dB", "{:.1f}"), "cosine": ("cosine", "{:.3f}"),
    }  # fmt: skip
    rows = [
        [way, label, *map(form.format, getattr(drift, name))]
        for way, drift in drifts.items()
        for name, (label, form) in labels.items()
    ]
    for label, right in right_answers(drifts).items():
        rows.append([label, "cosine", *map("{:.3f}".format, right)])
    return report.table(["chaining", "measure", *range(1, turns + 1)], rows)


def right_answers(drifts: dict[str, Drift]) -> dict[str, list[float]]:
    """The cosine of pictures without any error; the way "known" has chains of its own."""
    labels = {way: "right answers" + ", known" * (way == "known") for way in drifts}
    return {labels[way]: drift.right_cosine for way, drift in drifts.items()}


def plot(drifts: dict[str, Drift]) -> Figure:
    """Drift curves: identity, PSNR and cosine against the turn."""
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    names = {"identity": "identity kept, %", "psnr": "PSNR, dB", "cosine": "cosine to the input"}
    for axes, (name, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for way, drift in drifts.items():
            values = getattr(drift, name)
            axes.plot(range(1, len(values) + 1), values, marker="o", label=way)
        if name == "cosine":
            for answers, right in right_answers(drifts).items():
                dots = "k-." if answers.endswith("known") else "k:"
                axes.plot(range(1, len(right) + 1), right, dots, label=answers)
        axes.set(xlabel="turn", ylabel=label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def save(drifts: dict[str, Drift], facts: dict[str, object], folder: Path) -> None:
    """Write multiturn.json, .md and .png into a folder."""
    content = facts | {"ways": {way: asdict(drift) for way, drift in drifts.items()}}
    report.write_json(content, folder / "multiturn.json")
    report.write_text(f"{table(drifts)}\n\n{decided(drifts)}", folder / "multiturn.md")
    report.write_figure(plot(drifts), folder / "multiturn.png")


def load(path: Path) -> dict[str, Drift]:
    """The drifts in multiturn.json."""
    return {way: Drift(**d) for way, d in report.read_json(path)["ways"].items()}


def main(
    arguments: list[str] | None = None, prog: str = "python -m minikontext.bench.multiturn"
) -> None:
    """Command line: run all chains in every way and write the results."""
    parser = report.parser(prog, "Eight edits in a row.")
    parser.add_argument("--chains", type=int, default=24, help="how many (default: 24)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default: 0)")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"edits a chain ({TURNS})")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args(arguments)
    report.positive(options, "chains", "turns", "steps")
    whole = (options.first, options.turns, set(options.ways)) == (0, TURNS, set(WAYS))
    part = "" if whole and options.chains >= 24 else f"{options.chains} chains"
    place = report.folder(options, part)
    pipe = KontextPipeline.from_pretrained(options.weights)
    steps = options.steps or pipe.defaults.num_inference_steps
    drifts = {}
    for way in tqdm(options.ways, "ways of chaining"):
        numbers = range(options.first, options.first + options.chains)
        chains = [chain(i, options.turns, way == "known") for i in numbers]
        shown = run(pipe, chains, way, options.seed, num_inference_steps=steps)
        drifts[way] = measure(pipe, chains, shown, options.first)
    facts = {"weights": pipe.name, "fingerprint": pipe.weights_fingerprint, "steps": steps}
    save(drifts, facts | {"seed": options.seed, "first": options.first}, place)
    print(table(drifts), decided(drifts), sep="\n\n")


if __name__ == "__main__":
    main()
