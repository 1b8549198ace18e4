"""How different are the pictures that one open prompt gives? Read by the oracle over many seeds.

`minikontext bench diversity --weights toy toy-pro`

An open case leaves attributes free: any value is right. A student that distillation has narrowed
still passes the oracle, but shows the same place, eyes or hat again and again.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from minikontext.bench import compare, report
from minikontext.bench.oracle_bench import called, held_out_cases
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Score, score
from minikontext.toyworld.scene import CHOICES


@dataclass(frozen=True)
class Diversity:
    """Means over the prompts, of right answers only: a wrong picture is no variety.

    distinct: different answers of all that are free. values, bits: of one free attribute, how many
    of its values occur and their entropy (possible: how many there are). spread: standard
    deviation of a pixel over the seeds, of 255. each: of every prompt, its distinct answers, and
    the bits of each attribute that it leaves free. questions: what the prompts are told apart by.
    """

    prompts: int
    seeds: int
    right: float
    distinct: float
    spread: float
    values: dict[str, float]
    bits: dict[str, float]
    possible: dict[str, int]
    each: dict[str, list[float]] = field(default_factory=dict)
    questions: str = ""  # of results of before, unknown

    @property
    def comparable(self) -> tuple[str, int, int]:
        """Equal for equal prompts and numbers of seeds: more seeds find more answers."""
        return self.questions, self.prompts, self.seeds


def open_prompts(count: int, edits: bool = False) -> list[Case]:
    """The first held-out cases with something free; `edits`: only those with a context image."""
    cases = held_out_cases(40 * count, 4)
    found = [c for c in cases if c.free and (c.contexts or not edits)]
    return found[:count]


def diversity(
    pipe: KontextPipeline,
    prompts: Sequence[Case],
    seeds: Iterable[int],
    batch: int = 32,
    **call: object,
) -> Diversity:
    """Draw every open prompt with every seed, in batches, and count what differs.

    `call` goes to the pipeline. Raises ValueError for a case that leaves nothing free.
    """
    if not prompts or not all(case.free for case in prompts):
        raise ValueError("diversity needs prompts that leave something free: see open_prompts()")
    seeds, found, spreads = list(seeds), [], []
    for case in tqdm(prompts, "open prompts"):
        pictures = _draw(pipe, case, seeds, batch, call)
        spreads.append(float(np.std(pictures, axis=0).mean()))
        found.append([score(picture, case) for picture in pictures])
    return _summary(prompts, found, spreads, len(seeds))


def answers(
    pipe: KontextPipeline, case: Case, seeds: Iterable[int], batch: int = 32, **call: object
) -> list[Score]:
    """What the oracle says of one case's pictures, one a seed; the case may be closed."""
    return [score(picture, case) for picture in _draw(pipe, case, list(seeds), batch, call)]


def distinct(case: Case, scores: Iterable[Score]) -> int:
    """How many different answers there are among the right ones, in what the case leaves free."""
    right = (s.read for s in scores if s.success)
    return len({tuple(getattr(scene, n) for n in case.free) for scene in right})


def _draw(
    pipe: KontextPipeline, case: Case, seeds: list[int], batch: int, call: dict
) -> list[np.ndarray]:
    contexts, pictures = case.context_images() or None, []
    for first in range(0, len(seeds), batch):
        some = seeds[first : first + batch]
        images = [contexts] * len(some) if contexts else None
        out = pipe([case.prompt] * len(some), image=images, seed=some, progress=False, **call)
        pictures += [np.asarray(image) for image in out.images]
    return pictures


def _summary(
    prompts: Sequence[Case], found: list[list[Score]], spreads: list[float], seeds: int
) -> Diversity:
    right = [[s.read for s in scores if s.success] for scores in found]
    different = [distinct(case, scores) for case, scores in zip(prompts, found)]
    free = [n for n in CHOICES if any(n in case.free for case in prompts)]
    pairs = list(zip(prompts, right))
    shown = {n: [[getattr(s, n) for s in r] for c, r in pairs if n in c.free] for n in free}
    return Diversity(
        prompts=len(prompts),
        seeds=seeds,
        right=round(100 * sum(map(len, right)) / (len(prompts) * seeds), 2),
        distinct=round(float(np.mean(different)), 2),
        spread=round(float(np.mean(spreads)), 2),
        values={n: round(float(np.mean([len(set(x)) for x in shown[n]])), 2) for n in free},
        bits={n: round(float(np.mean([entropy(x) for x in shown[n]])), 3) for n in free},
        possible={n: len(CHOICES[n]) for n in free},
        each={"distinct": different, **{n: [round(entropy(x), 4) for x in shown[n]] for n in free}},
        questions=hashlib.sha256(repr([(c.prompt, c.contexts) for c in prompts]).encode())
        .hexdigest()[:12],
    )  # fmt: skip


def entropy(values: Sequence[object]) -> float:
    """Of the values' frequencies, in bits: 0 if they are all the same."""
    shares = [n / len(values) for n in Counter(values).values()]
    return -sum(p * math.log2(p) for p in shares) + 0.0


def table(results: dict[str, Diversity]) -> str:
    """Weights side by side as a Markdown table."""
    names = list(dict.fromkeys(n for d in results.values() for n in d.possible))
    rows = {"right %": [d.right for d in results.values()]}
    rows["distinct answers"] = [f"{d.distinct} of {d.seeds} seeds" for d in results.values()]
    rows["spread of a pixel, of 255"] = [d.spread for d in results.values()]
    for n in names:
        rows[f"{n.replace('_', ' ')}: values"] = [
            f"{d.values[n]} of {d.possible[n]} ({d.bits[n]} bits)" if n in d.values else ""
            for d in results.values()
        ]
    return report.side_by_side(results, rows)


def beside(
    first: Diversity, second: Diversity, name: str = "distinct", share: float = 1.0
) -> compare.Comparison:
    """Distinct answers, or an attribute's bits, beside a share of the second's, prompt by prompt.

    Raises ConfigError where they were stored without each prompt's.
    """
    one, two = (value.each.get(name, []) for value in (first, second))
    return compare.paired(one, [share * number for number in two])


def compared(results: dict[str, Diversity]) -> list[str]:
    """Every result beside the first of equal prompts and numbers of seeds, prompt by prompt.

    A list in Markdown.
    """
    words, lines = {"better": "more varied", "worse": "less varied"}, []
    firsts: dict[tuple[str, int, int], str] = {}
    for name, one in results.items():
        base = firsts.setdefault(one.comparable, name)
        if (known := results[base]) is one:
            continue
        found = {n: beside(one, known, n).word() for n in one.each if n in known.each}
        verdicts = [f"{n.replace('_', ' ')} {words.get(word, word)}" for n, word in found.items()]
        lines += [f"- {name} beside {base}, by prompt: {', '.join(verdicts)}."] * bool(verdicts)
    return lines


def save(results: dict[str, Diversity], path: Path) -> None:
    """Write results by name as JSON; others in the file stay."""
    known = load(path) if path.exists() else {}
    report.write_json({name: asdict(value) for name, value in (known | results).items()}, path)


def load(path: Path) -> dict[str, Diversity]:
    """The results in a file."""
    return {name: Diversity(**values) for name, values in report.read_json(path).items()}


def main(
    arguments: list[str] | None = None, prog: str = "python -m minikontext.bench.diversity"
) -> None:
    """Command line: measure some weights on the same prompts and seeds."""
    parser = report.parser(prog, "Do equal prompts differ by seed?", weights=..., seed=...)
    parser.add_argument("--weights", nargs="+", default=["toy"], help="names or folders")
    parser.add_argument("--prompts", type=int, default=8, help="open prompts (default: 8)")
    parser.add_argument("--seeds", type=int, default=64, help="of each prompt (default: 64)")
    parser.add_argument("--edits", action="store_true", help="prompts with a context image only")
    options = parser.parse_args(arguments)
    report.positive(options, "prompts", "seeds", "steps")
    few = options.prompts < 8 or options.seeds < 64
    part = f"{options.prompts} prompts {options.seeds} seeds" if few else ""
    place = report.folder(options, part) / "diversity.json"
    prompts, results = open_prompts(options.prompts, options.edits), {}
    for name in options.weights:
        pipe = KontextPipeline.from_pretrained(name)
        steps = options.steps or pipe.defaults.num_inference_steps
        label = f"{called(pipe, name)}, {steps} steps" + (", edits" if options.edits else "")
        seeds = range(options.seeds)
        results[label] = diversity(pipe, prompts, seeds, num_inference_steps=steps)
    save(results, place)
    print(table(results))


if __name__ == "__main__":
    main()
