"""How many wishes of newcomers are understood: words known, and claims read by a text-only editor.

`python -m benchmarks.words` prints both for the dev half of `data/bench/newcomers.jsonl`;
`--half all --store` measures the shut half, too, and stores everything.

The text-only editor is a cheap stand-in for the real one: it sees the scene as named choices and
no pixels, and says which choices the edited scene has. A wish counts only if all of them are right.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from minikontext.bench import compare, report
from minikontext.text import TextBlock, ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import Scene, language, wishes
from minikontext.toyworld.edits import Case, sample_case
from minikontext.toyworld.grammar import CLEAN, Noise, vocabulary
from minikontext.toyworld.reader import absent, clauses, unusable
from minikontext.toyworld.scene import CHOICES, LETTERS, MAX_SIGN
from minikontext.toyworld.wishes import sample_wishes
from minikontext.training.optimizer import MuonAdamW, learning_rate

NEWCOMERS = report.STORED / "newcomers.jsonl"

# ---------------------------------------------------------------- newcomers' sentences


@dataclass(frozen=True)
class Newcomer:
    """A sentence as a newcomer types it, with the pictures' scenes and the scenes that are right.

    `attributes` named in `free` may have any value. Without right scenes a warning is right.
    """

    prompt: str
    contexts: tuple[Scene, ...]
    right: tuple[Scene, ...]
    free: tuple[str, ...]

    def accepts(self, scene: Scene) -> bool:
        """Whether a scene is a right answer."""
        names = [name for name in (*CHOICES, "sign") if name not in self.free]
        return any(all(getattr(s, n) == getattr(scene, n) for n in names) for s in self.right)


def newcomers(half: str = "dev") -> list[Newcomer]:
    """The sentences of one half, or of "all"."""
    rows = [json.loads(line) for line in NEWCOMERS.read_text().splitlines()]
    return [_newcomer(row) for row in rows if half in (row["half"], "all")]


def _newcomer(row: dict) -> Newcomer:
    contexts = tuple(Scene(**values) for values in row["contexts"])
    start = contexts[0] if contexts else Scene()
    right = tuple(start.change(**values) for values in row.get("expect", ()))
    free = list(row.get("free", ()))
    if not contexts:  # a picture from nothing: what the sentence leaves out is open
        open_names = ("colour", "pattern", "eyes", "accessory", "accessory_colour", "place", "time")
        free += [name for name in open_names if name not in row["expect"][0]]
    return Newcomer(row["prompt"], contexts, right, tuple(free))


def coverage(sentences: Sequence[Newcomer], encoder: ToyTextEncoder) -> dict[str, float]:
    """Shares of the sentences whose words are all known, are so but for slips, or are reported."""
    known = near = reported = 0
    for one in sentences:
        clean = not encoder.report(one.prompt)
        exact = set(_plain_words(one.prompt)) <= set(encoder.config.vocabulary)
        lacking = any(absent(words) for words in clauses(one.prompt))
        known += exact and not lacking
        near += clean and not exact and not lacking
        reported += lacking
    total = len(sentences)
    shares = {"known": known, "letter groups": near, "named as absent": reported}
    return {name: 100 * count / total for name, count in shares.items()}


def _plain_words(prompt: str) -> list[str]:
    return [w for words in clauses(prompt) for w in words if w != "quoted" and w not in ("and",)]


# ---------------------------------------------------------------- a scene as numbers

VALUES: dict[str, tuple[str, ...]] = {
    **CHOICES,
    **{f"letter {i}": ("", *LETTERS) for i in range(MAX_SIGN)},
}
SLOTS = tuple(VALUES)
MOST = max(map(len, VALUES.values())) + 1  # one more value: there is no picture


def numbers(scene: Scene | None) -> list[int]:
    """The number of each slot's value; the last number where there is no picture."""
    if scene is None:
        return [MOST - 1] * len(SLOTS)
    letters = [scene.sign[i : i + 1] for i in range(MAX_SIGN)]
    values = [*(getattr(scene, name) for name in CHOICES), *letters]
    return [VALUES[slot].index(value) for slot, value in zip(SLOTS, values, strict=True)]


def as_scene(row: Sequence[int]) -> Scene:
    """The scene with these values; colours of what is not there are cleared."""
    values = [VALUES[slot][number] for slot, number in zip(SLOTS, row, strict=True)]
    named = dict(zip(CHOICES, values, strict=False))
    return Scene(sign="".join(values[len(CHOICES) :])).change(**named)


def pictures(contexts: Sequence[Scene]) -> list[list[int]]:
    """The numbers of two contexts, one or both of which may be missing."""
    return [numbers(contexts[i] if i < len(contexts) else None) for i in range(2)]


# ---------------------------------------------------------------- the text-only editor


class TextOnlyEditor(nn.Module):
    """Words and the scenes of up to two pictures to the values of the edited scene."""

    def __init__(self, encoder: ToyTextEncoder, depth: int = 2) -> None:
        super().__init__()
        width, heads = encoder.config.width, encoder.config.heads
        self.text = encoder
        self.slot = nn.Parameter(torch.randn(len(SLOTS), width) * 0.5)
        self.value = nn.Parameter(torch.randn(2, len(SLOTS), MOST, width) * 0.5)
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, MOST)
        self.keep = nn.Parameter(torch.tensor(4.0))  # how much the first picture's value counts
        allowed = torch.tensor(
            [[i < len(values) for i in range(MOST)] for values in VALUES.values()]
        )
        self.register_buffer("allowed", allowed)

    def forward(self, token_ids: Tensor, scenes: Tensor) -> Tensor:
        """Token ids (b, m) and scenes (b, 2, slots) to logits (b, slots, values)."""
        slots = torch.arange(len(SLOTS))
        x = self.slot + self.value[0, slots, scenes[:, 0]] + self.value[1, slots, scenes[:, 1]]
        x = torch.cat((self.text(token_ids).tokens, x), dim=1)  # (b, m + slots, width)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x[:, -len(SLOTS) :]))
        logits = logits + self.keep * F.one_hot(scenes[:, 0], MOST)
        return logits.masked_fill(~self.allowed, -1e4)

    @torch.no_grad()
    def edit(self, prompts: Sequence[str], contexts: Sequence[Sequence[Scene]]) -> list[Scene]:
        """The edited scene for each prompt."""
        scenes = torch.tensor([pictures(some) for some in contexts])
        return [
            as_scene(row) for row in self(self.text.tokenize(prompts), scenes).argmax(-1).tolist()
        ]


# ---------------------------------------------------------------- editions


@dataclass(frozen=True)
class Edition:
    """One way of teaching words: what is heard in training, and how words become vectors."""

    name: str
    noise: Noise | None = None  # None: the first edition's sentences
    ngrams: int = 0

    def encoder(self) -> ToyTextEncoder:
        """The text encoder at the toy's own sizes, but for the width."""
        first = self.noise is None
        words = language.vocabulary() if first else vocabulary()
        length = 20 if first else 32
        return ToyTextEncoder(ToyTextConfig(words, length, width=96, pooled=16, ngrams=self.ngrams))

    def case(self, index: int) -> Case:
        """Training's cases; the first edition knows only one wish at a time."""
        count = random.Random(index).choices((0, 1, 2), (1, 10, 1))[0]
        sample = sample_case if self.noise is None else sample_wishes
        return sample(index, contexts=count)

    def ask(self, case: Case, rng: random.Random) -> str:
        """A fresh wording."""
        if self.noise is None:
            return language.ask(case.operation, case.words, rng, held_out=False)
        return wishes.ask(case, rng, noise=self.noise)


STEPS = 2400
FILLERS = Noise(typos=0.0)
EDITIONS = (
    Edition("first edition"),
    Edition("lexicon", CLEAN),
    Edition("+ fillers", FILLERS),
    Edition("+ letter groups", FILLERS, ngrams=2048),
    Edition("+ typos", Noise(), ngrams=2048),
)


def train(
    edition: Edition, steps: int, batch: int = 32, pool: int = 20000, seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> TextOnlyEditor:  # fmt: skip
    """A text-only editor after `steps` batches of fresh wordings of `pool` wishes."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = TextOnlyEditor(edition.encoder())
    heard = [edition.case(i) for i in range(pool)]
    optimiser = MuonAdamW(model, lr=3e-3, muon_lr=6e-3, weight_decay=0.01, matrix=_is_matrix)
    for step in range(steps):
        loss = _loss(model, edition, rng.sample(heard, batch), rng)
        loss.backward()
        optimiser.step(learning_rate(step, steps, warmup=steps // 20, decay=0.7))
        progress(step, loss.item())
    return model.eval()


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return "blocks" in name and parameter.ndim == 2


def _loss(
    model: TextOnlyEditor, edition: Edition, cases: Sequence[Case], rng: random.Random
) -> Tensor:
    """Cross-entropy of every slot that is not open."""
    tokens = model.text.tokenize([edition.ask(case, rng) for case in cases])
    scenes = torch.tensor([pictures(case.contexts) for case in cases])
    wanted = torch.tensor([numbers(case.target) for case in cases])
    settled = torch.tensor([[slot not in case.free for slot in SLOTS] for case in cases])
    loss = F.cross_entropy(model(tokens, scenes).flatten(0, 1), wanted.flatten(), reduction="none")
    return (loss * settled.flatten()).sum() / len(cases)


# ---------------------------------------------------------------- measuring


def understood(model: TextOnlyEditor, sentences: Sequence[Newcomer]) -> list[bool]:
    """For each sentence, whether the edited scene is right, or the right warning is given."""
    scenes = model.edit([s.prompt for s in sentences], [s.contexts for s in sentences])
    return [
        one.accepts(scene) if one.right else bool(unusable(one.prompt, one.contexts))
        for one, scene in zip(sentences, scenes, strict=True)
    ]


def held_out_share(model: TextOnlyEditor, count: int = 500) -> float:
    """Per cent of dev's wishes, asked in templates kept from training, that are understood."""
    rng = random.Random(1)
    cases = [sample_wishes(i, split="dev", contexts=1) for i in range(count)]
    said = [wishes.ask(case, rng, unheard=True, noise=CLEAN) for case in cases]
    scenes = model.edit(said, [case.contexts for case in cases])
    return 100 * sum(_matches(s, case) for s, case in zip(scenes, cases, strict=True)) / count


def _matches(scene: Scene, case: Case) -> bool:
    names = [name for name in (*CHOICES, "sign") if name not in case.free]
    return all(getattr(scene, name) == getattr(case.target, name) for name in names)


def measure(model: TextOnlyEditor, halves: Sequence[str]) -> dict[str, object]:
    """One row of the table: words known, and sentences understood."""
    row: dict[str, object] = {
        "words": len(model.text.config.vocabulary),
        "parameters": sum(p.numel() for p in model.text.parameters()),
        "held-out wishes": held_out_share(model),
    }
    for half in halves:
        sentences = newcomers(half)
        right = compare.rate(understood(model, sentences))
        usable = [one for one in sentences if one.right]
        row[half] = {
            "sentences": right.of,
            "understood": right.count,
            "interval": (right.low, right.high),
            "coverage": coverage(sentences, model.text),
            "false alarms": sum(bool(unusable(one.prompt, one.contexts)) for one in usable),
        }
    return row


HEAD = ("", "words", "parameters", "held-out wishes %", "half", "understood %", "95 % interval",
        "all words known %", "by letter groups %", "named as absent %", "false alarms")  # fmt: skip


def page(stored: dict) -> str:
    """The stored table as Markdown."""
    lines = []
    for name, row in stored["rows"].items():
        for half in (half for half in ("dev", "shut") if half in row):
            part = row[half]
            share = 100 * part["understood"] / part["sentences"]
            cells = [name, row["words"], row["parameters"], f"{row['held-out wishes']:.1f}", half]
            cells += [f"{share:.1f}", "{:.1f} to {:.1f}".format(*part["interval"])]
            cells += [f"{value:.1f}" for value in part["coverage"].values()]
            lines.append([*cells, part["false alarms"]])
    return (
        "# Words: newcomers' sentences\n\n"
        "Made by `python -m benchmarks.words --store`; not written by hand. A text-only "
        f"editor ({stored['steps']} steps, one seed) reads scenes instead of pictures: it measures "
        "words, not images. All wording was chosen on the dev half. The lexicon's author wrote "
        "both halves of the sentences, so strangers' sentences will be understood less often.\n\n"
    ) + report.table(HEAD, lines)


def save(name: str, row: dict[str, object], steps: int, folder: Path) -> None:
    """Put a row into a folder's table. Rows of another number of steps are dropped."""
    stored = report.read_json(folder / "words.json", {})
    rows = stored.get("rows", {}) if stored.get("steps") == steps else {}
    known = {edition.name: rows.get(edition.name) for edition in EDITIONS} | {name: row}
    stored = {"steps": steps, "rows": {key: value for key, value in known.items() if value}}
    report.write_json(stored, folder / "words.json")
    report.write_text(page(stored), folder / "words.md")


def main(arguments: list[str] | None = None) -> None:
    """Train the text-only editor for each edition asked for, and print what it understands."""
    parser = report.parser(
        "python -m benchmarks.words", __doc__, weights=..., steps=STEPS, seed=...
    )
    names = [edition.name for edition in EDITIONS]
    parser.add_argument("--edition", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--half", choices=("dev", "all"), default="dev")
    parser.add_argument("--missed", action="store_true", help="list dev's missed sentences")
    options = parser.parse_args(arguments)
    part = "" if options.half == "all" else "dev half"
    part += f" {options.steps} steps" if options.steps != STEPS else ""
    folder = report.folder(options, part.strip())
    for edition in (edition for edition in EDITIONS if edition.name in options.edition):
        with tqdm(total=options.steps, desc=edition.name) as bar:
            model = train(edition, options.steps, progress=lambda *_, bar=bar: bar.update())
        row = measure(model, ("dev", "shut") if options.half == "all" else ("dev",))
        print(json.dumps({edition.name: row}))
        if options.missed:
            print(*missed(model), sep="\n")
        save(edition.name, row, options.steps, folder)


def missed(model: TextOnlyEditor) -> list[str]:
    """Dev's sentences that are not understood."""
    sentences = newcomers("dev")
    verdicts = zip(sentences, understood(model, sentences), strict=True)
    return [one.prompt for one, right in verdicts if not right]


if __name__ == "__main__":
    main()
