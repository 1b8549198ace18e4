"""The teacher's own answers, made once and stored with their conditions: what LADD calls real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from minikontext import sampler
from minikontext.denoiser import PATCH, Denoiser
from minikontext.errors import TrainingError
from minikontext.runtime import files
from minikontext.runtime.device import mixed_precision
from minikontext.text import TextFeatures
from minikontext.training.data import Pairs
from minikontext.training.editor import Editor
from minikontext.training.parallel import ALONE, DistContext


@torch.no_grad()
def teacher_samples(
    teacher: Editor, pairs: Pairs, null: Tensor, steps: int, scale: float, seed: int = 0,
    shifted: bool = True,
) -> Tensor:  # fmt: skip
    """The teacher's latents for pairs of equal numbers of contexts, (b, c, h, w).

    Each pair has its own noise, drawn from its index: the same in any batch.
    """
    device = next(teacher.parameters()).device
    shape = pairs.target.shape[1:]
    noise = own_noise(pairs, seed).to(device)
    count = int(pairs.count[0])
    contexts = [pairs.contexts[:, i].float().to(device) for i in range(count)]
    words = pairs.tokens[:, 0].to(device)
    predict = Denoiser(teacher.transformer, teacher.text(words), contexts)
    without = Denoiser(teacher.transformer, _many(teacher.text(null[None].to(words)), len(words)),
                       contexts)  # fmt: skip
    times = sampler.schedule(steps, shape[-2] * shape[-1] // PATCH**2, shifted=shifted)
    return sampler.sample(sampler.guided(predict, without, scale), noise, times)


def store_teacher_samples(
    teacher: Editor, pairs: Pairs, null: Tensor, folder: Path, steps: int, scale: float,
    mark: str, batch: int = 128, bf16: bool = False, world: DistContext = ALONE,
    shifted: bool = True,
) -> Pairs:  # fmt: skip
    """Replace every target by the teacher's answer to its first wording.

    Answers are kept in `folder`, so an interrupted run goes on; many processes share the work, each
    with a whole teacher. `mark` names the teacher; raises
    TrainingError if the folder holds another one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label, facts = folder / "teacher.txt", f"{mark} {steps} {scale}" + " unshifted" * (not shifted)
    if world.rank == 0 and not label.exists():
        label.write_text(facts)
    world.wait()
    if label.read_text() != facts:
        raise TrainingError(f"{folder} holds answers of {label.read_text()}; remove it first")
    target = pairs.target.float().clone()
    groups = [(pairs.count == k).nonzero().flatten().split(batch) for k in range(3)]
    chunks = [chunk for group in groups for chunk in group if len(chunk)]
    device = next(teacher.parameters()).device
    paths = [folder / f"answers-{number:06d}.safetensors" for number in range(len(chunks))]
    todo = list(zip(paths, chunks, strict=True))
    for path, chunk in tqdm(todo[world.rank :: world.size], desc="the teacher answers"):
        if path.exists():
            continue
        some = pairs.take(chunk)
        with mixed_precision(device, bf16):
            made = teacher_samples(teacher, some, null, steps, scale, shifted=shifted)
        with files.replacing(path) as temporary:
            save_file({"target": made.cpu().bfloat16(), "index": some.index}, temporary)
    world.wait()
    for path, chunk in todo:
        stored = load_file(path)
        if not torch.equal(stored["index"], pairs.index[chunk]):
            raise TrainingError(f"{path} answers other pairs; remove {folder} first")
        target[chunk] = stored["target"].float()
    return replace(pairs, target=target, tokens=pairs.tokens[:, :1])


def own_noise(pairs: Pairs, seed: int = 0) -> Tensor:
    """Each pair's own noise, drawn from its index, (b, c, h, w): what its answer starts from."""
    seeds = [seed * 1_000_003 + int(i) for i in pairs.index]
    shape = pairs.target.shape[1:]
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )


def _many(text: TextFeatures, count: int) -> TextFeatures:
    return TextFeatures(
        *(x.expand(count, *x.shape[1:]) for x in (text.tokens, text.pooled))
    )
