"""LADD on tokens, small enough to watch: one step, one kind of open request, under two minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count as integers
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from minikontext.bench.oracle_bench import edit_all
from minikontext.course.live import LiveLoop
from minikontext.distillation import ladd, latents
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, sample_edit, score
from minikontext.training.data import Pairs, encode
from minikontext.training.editor import Batches, Editor
from minikontext.training.loop import LoopConfig

TASK = "character reference"  # one context, and the place of the character is open
# Only whole jumps from noise are learned; the judges get a head start.
DIALS = ladd.LaddLossConfig(
    times=(1.0,), first=(1.0,), then=(1.0,), head_start=20, renoise_mu=0.0, bf16=False
)


@dataclass(frozen=True)
class Lesson:
    """One moment of the game: its step, the logits, one-step pictures, and which of them pass."""

    step: int
    on_real: float
    on_fake: float
    spread: float
    pictures: list[Image.Image]
    passed: list[bool]

    @property
    def share(self) -> float:
        """Requests that pass, in percent."""
        return 100 * sum(self.passed) / len(self.passed)


def requests(count: int, split: str = "train") -> list[Case]:
    """The first `count` open requests of a split: the context's character somewhere else."""
    cases = (sample_edit(i, 4, split=split) for i in integers())
    return list(islice((c for c in cases if c.task == TASK and len(c.contexts) == 1), count))


@torch.no_grad()
def answered(
    pipe: KontextPipeline, teacher: Editor, cases: Sequence[Case], steps: int = 8,
    scale: float = 1.5, batch: int = 64,
) -> Pairs:  # fmt: skip
    """Encoded requests, each with one answer of the guided teacher as its target."""
    words = teacher.text.tokenize([case.prompt for case in cases])[:, None]
    pairs = Pairs(tokens=words, **encode(list(cases), pipe.autoencoder, 0))
    null = teacher.text.tokenize([""])[0]
    parts = [pairs.take(rows) for rows in torch.arange(len(cases)).split(batch)]
    answers = [
        latents.teacher_samples(
            teacher, part.tokens[:, 0], [part.contexts[:, 0]], own_noise(part), null, steps, scale
        )
        for part in parts
    ]
    return replace(pairs, target=torch.cat(answers))


def own_noise(pairs: Pairs) -> Tensor:
    """Each pair's own noise, drawn from its index, (b, c, h, w): what its answer starts from."""
    draws = (torch.Generator().manual_seed(int(i)) for i in pairs.index)
    return torch.stack([torch.randn(pairs.target.shape[1:], generator=draw) for draw in draws])


def one_step(pipe: KontextPipeline, student: Editor, cases: list[Case]) -> list[Image.Image]:
    """What a student makes of cases in one step, each with its own noise."""
    mine = KontextPipeline(
        student.transformer, pipe.autoencoder, student.text, pipe.defaults, "student"
    )
    return edit_all(mine, cases, quiet=True, num_inference_steps=1, true_cfg_scale=1.0)


def play(
    pipe: KontextPipeline, model: ladd.Ladd, teacher: Editor, pairs: Pairs, held: list[Case],
    steps: int = 80, dials: ladd.LaddLossConfig = DIALS, lr: float = 3e-5,
    seen: Callable[[Lesson], None] = lambda lesson: None,
) -> list[Lesson]:  # fmt: skip
    """Play LADD's game; looks at held-out requests every 20 steps. Returns what was seen."""
    source, lessons = Batches(pairs, 16, dials.seed), []
    loss = ladd.ladd_loss(model, teacher, source, dials, torch.device("cpu"))

    def examine(step: int, logs: dict[str, float]) -> None:
        pictures = one_step(pipe, model.student, held)
        passed = [score(p, c).success for p, c in zip(pictures, held, strict=True)]
        numbers = (logs.get(name, float("nan")) for name in ("on_real", "on_fake", "spread"))
        lessons.append(Lesson(step, *numbers, pictures, passed))
        seen(lessons[-1])

    def on_step(logs: dict[str, float]) -> bool:
        if loop.step % 20 == 0 and loop.step > dials.head_start:
            examine(loop.step, logs)
        return True

    how = LoopConfig(steps, lr, 0.0, warmup=5, decay=0.4, ema=0.0, rates={"heads": 100.0})
    with tempfile.TemporaryDirectory() as folder:
        loop = LiveLoop(model, how, folder)
        examine(0, {})
        loop.run_until(loss, on_step)
    return lessons
