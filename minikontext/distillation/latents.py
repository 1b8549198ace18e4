"""The teacher's own answers, made once and stored with their conditions: what LADD calls real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from minikontext import files, sampler
from minikontext.device import mixed_precision
from minikontext.errors import TrainingError
from minikontext.text import TextFeatures
from minikontext.training.data import Pairs
from minikontext.training.editor import Editor
from minikontext.velocity import PATCH, Velocity


@torch.no_grad()
def answers(
    teacher: Editor, pairs: Pairs, null: Tensor, steps: int, scale: float, seed: int = 0
) -> Tensor:
    """The teacher's latents for pairs of equal numbers of contexts, (b, c, h, w).

    Each pair has its own noise, drawn from its index: the same in any batch.
    """
    device = next(teacher.parameters()).device
    shape = pairs.target.shape[1:]
    noise = torch.stack([_noise(seed, int(i), shape) for i in pairs.index]).to(device)
    count = int(pairs.count[0])
    contexts = [pairs.contexts[:, i].float().to(device) for i in range(count)]
    words = pairs.tokens[:, 0].to(device)
    predict = Velocity(teacher.transformer, teacher.text(words), contexts)
    without = Velocity(teacher.transformer, _many(teacher.text(null[None].to(words)), len(words)),
                       contexts)  # fmt: skip
    times = sampler.schedule(steps, shape[-2] * shape[-1] // PATCH**2)
    return sampler.sample(sampler.guided(predict, without, scale), noise, times)


def answer_all(
    teacher: Editor, pairs: Pairs, null: Tensor, folder: Path, steps: int, scale: float,
    mark: str, batch: int = 128, bf16: bool = False,
) -> Pairs:  # fmt: skip
    """Replace every target by the teacher's answer to its first wording.

    Answers are kept in `folder`, so an interrupted run goes on. `mark` names the teacher; raises
    TrainingError if the folder holds another one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label, facts = folder / "teacher.txt", f"{mark} {steps} {scale}"
    if label.exists() and label.read_text() != facts:
        raise TrainingError(f"{folder} holds answers of {label.read_text()}; remove it first")
    label.write_text(facts)
    target = pairs.target.float().clone()
    groups = [(pairs.count == k).nonzero().flatten().split(batch) for k in range(3)]
    rows = [part for group in groups for part in group if len(part)]
    device = next(teacher.parameters()).device
    for number, part in enumerate(tqdm(rows, desc="the teacher answers")):
        path = folder / f"answers-{number:06d}.safetensors"
        some = pairs.take(part)
        if not path.exists():
            with mixed_precision(device, bf16):
                made = answers(teacher, some, null, steps, scale)
            with files.replacing(path) as temporary:
                save_file({"target": made.cpu().bfloat16(), "index": some.index}, temporary)
        stored = load_file(path)
        if not torch.equal(stored["index"], some.index):
            raise TrainingError(f"{path} answers other pairs; remove {folder} first")
        target[part] = stored["target"].float()
    return replace(pairs, target=target, tokens=pairs.tokens[:, :1])


def _noise(seed: int, index: int, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    return torch.randn(shape, generator=generator)


def _many(text: TextFeatures, count: int) -> TextFeatures:
    return TextFeatures(
        *(part.expand(count, *part.shape[1:]) for part in (text.tokens, text.pooled))
    )
