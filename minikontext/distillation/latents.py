"""The teacher's own answers, made once and stored: what LADD calls real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minikontext import sampler
from minikontext.denoiser import PATCH
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Scale, Steps
from minikontext.runtime.device import mixed_precision
from minikontext.training.data import labelled
from minikontext.training.editor import Editor
from minikontext.training.stream import Batch, Stream, kept


@dataclass(frozen=True)
class TeacherSamplesConfig:
    """[teacher_samples]: how the teacher makes what LADD calls real."""

    steps: Steps = 28
    scale: Scale = 1.0


@torch.no_grad()
def teacher_samples(
    teacher: Editor, words: Tensor, contexts: list[Tensor], noise: Tensor, null: Tensor,
    steps: int, scale: float, mu_16: float | None = None, shifted: bool = True,
) -> Tensor:  # fmt: skip
    """Sample the guided teacher from noise (b, c, h, w), for token ids (b, m): latents like it."""
    device = next(teacher.parameters()).device
    words, noise = words.to(device), noise.to(device)
    contexts = [context.float().to(device) for context in contexts]
    empty = null.to(words).expand_as(words)
    predict = sampler.guided(
        lambda z, t: teacher(z, t, words, contexts), lambda z, t: teacher(z, t, empty, contexts),
        scale,
    )  # fmt: skip
    patches = noise.shape[-2] * noise.shape[-1] // PATCH**2
    times = sampler.schedule(steps, patches, shifted=shifted, mu_16=mu_16)
    return sampler.sample(predict, noise, times)


class TeacherStream:
    """A stream whose targets are the teacher's answers, each to noise of its own.

    A batch is answered when it is first asked for, and kept in `folder`. mu_16, shifted: as the
    teacher is sampled (`sampler.schedule`). `fingerprint` names the teacher; raises TrainingError
    if the folder holds the answers of another one, or to other steps or times.
    """

    def __init__(
        self, stream: Stream, teacher: Editor, null: Tensor, folder: Path, fingerprint: str,
        config: TeacherSamplesConfig, mu_16: float | None = None, bf16: bool = False,
        shifted: bool = True,
    ) -> None:  # fmt: skip
        if not stream.config.batches:
            raise ConfigError("[stream] batches = 0: the teacher's answers need a number of them")
        self.stream, self.teacher, self.null, self.folder = stream, teacher, null, folder
        self.config, self.mu_16, self.bf16, self.shifted = config, mu_16, bf16, shifted
        times = f"{mu_16}" if shifted else "even"
        labelled(folder, f"{fingerprint} {config} {times} {stream.facts}", name="stream.txt")

    def batch(self, step: int) -> Batch:
        """Latents and words of a step; the target is what the teacher made of its first words."""
        number = self.stream.number(step)
        return self.stream.batch(step)._replace(target=self.answers(number))

    def determined(self, step: int) -> Tensor:
        """Which cases of a step have one right answer only, (b,), bool."""
        return self.stream.determined(step)

    def answers(self, number: int) -> Tensor:
        """The teacher's answers to a batch, (b, c, h, w)."""
        (found,) = kept(self.folder, number, lambda: [self._sample(number)])
        return found

    def _sample(self, number: int) -> Tensor:
        # The first wording of a batch: what is kept must not depend on the step that asks for it.
        target, contexts, prompts = self.stream.numbered(number)
        draw = torch.Generator().manual_seed(self.stream.config.seed * 1_000_003 + number)
        noise, words = (
            torch.randn(target.shape, generator=draw),
            self.teacher.text.tokenize(prompts),
        )
        with mixed_precision(next(self.teacher.parameters()).device, self.bf16):
            generated = teacher_samples(
                self.teacher, words, contexts, noise, self.null, self.config.steps,
                self.config.scale, self.mu_16, self.shifted,
            )  # fmt: skip
        return generated.float().cpu()
