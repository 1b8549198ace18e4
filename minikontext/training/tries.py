"""What a training can do by now, in pictures: samples made with its weights as they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from minikontext import sampler
from minikontext.autoencoder import AutoEncoder
from minikontext.denoiser import Denoiser, grid_ids
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.device import mixed_precision
from minikontext.text import TextFeatures
from minikontext.toyworld import Case, sample_edit
from minikontext.training.data import held_out
from minikontext.training.editor import Editor, validate_editor
from minikontext.training.folders import Encoded
from minikontext.training.jobs import ToyData
from minikontext.training.parallel import DistContext
from minikontext.training.watch import Metrics
from minikontext.transformer import KontextTransformer


def held_out_check(
    model: Editor, autoencoder: AutoEncoder, data: ToyData, run: Path, bf16: bool,
    world: DistContext,
) -> Callable[[int], Metrics]:  # fmt: skip
    """What to measure on cases that no training sees: `validation` of them for the loss; `tries`
    are edited and shown as a sheet in the run's folder. No judge is asked: it stays for the end."""
    folder = run / "samples"
    unseen = held_out(data.level, data.validation, autoencoder, model.text, bf16)
    stream = (sample_edit(i, data.level, split="test") for i in itertools.count())
    cases = list(itertools.islice((c for c in stream if len(c.contexts) == 1), data.tries))

    def check(step: int) -> Metrics:
        found = validate_editor(model, unseen, bf16, world.device)
        if not cases:
            return found
        with mixed_precision(world.device, bf16):
            results = try_edits(model, autoencoder, cases)
        if world.rank == 0:
            rows = [
                [c.context_images()[0], c.target_image(), one] for c, one in zip(cases, results)
            ]
            write_sheet(rows, folder, step)
        return found

    return check


def try_edits(model: Editor, autoencoder: AutoEncoder, cases: list[Case]) -> list[Image.Image]:
    """Edit cases of one context each with the weights as they are; all processes must call it."""
    before = model.training
    pipe = KontextPipeline(model.transformer, autoencoder, model.text)
    inputs = [case.context_images() for case in cases]
    out = pipe(
        [case.prompt for case in cases], image=inputs, seed=list(range(len(cases))),
        num_inference_steps=8, progress=False,
    )  # fmt: skip
    model.train(before)
    return out.images


Sheets = Callable[[KontextTransformer, int, bool], None]


def sample_sheets(
    pipe: KontextPipeline, samples: Encoded, count: int, folder: Path, bf16: bool
) -> Sheets:
    """What makes the first `count` samples again with a transformer: sheets(model, step, write).

    All processes must call it; the one that is to `write` puts a sheet into the folder. Of the
    pipeline only the autoencoder and the defaults are kept: text features are in the samples.
    """
    codec, defaults = pipe.codec, pipe.defaults
    null = samples.null() if defaults.true_cfg_scale != 1 else {}
    rows = range(min(count, len(samples)))

    def paint(model: KontextTransformer, row: int) -> list[Image.Image]:
        one = {k: x[None].to(codec.device, torch.float32) for k, x in samples.sample(row).items()}
        contexts = [one[str(i)] for i in range(1, len(one) - 2)]
        guidance = (defaults.guidance_scale or 1.0) if model.config.guidance_embed else None

        def denoise(words: Mapping[str, Tensor]) -> Denoiser:
            text = TextFeatures(*(words[n].to(one["0"]) for n in ("tokens", "pooled")))
            return Denoiser(model, text, contexts, defaults.context_layout, guidance)

        denoiser: sampler.Predict = denoise(one)
        if null:
            empty = denoise({name: x[None] for name, x in null.items()})
            denoiser = sampler.guided(denoiser, empty, defaults.true_cfg_scale)
        z = torch.randn(one["0"].shape, generator=torch.Generator().manual_seed(row))
        z = z.to(codec.device)
        steps, shifted, mu_16 = defaults.schedule
        times = sampler.schedule(steps, len(grid_ids(z)), shifted=shifted, mu_16=mu_16)
        z = sampler.sample(denoiser, z, times, None, False)
        return [codec.decode(latents)[0] for latents in (*contexts, one["0"], z)]

    @torch.no_grad()
    def sheets(model: KontextTransformer, step: int, write: bool) -> None:
        before = model.training
        with mixed_precision(codec.device, bf16):
            results = [paint(model.eval(), row) for row in rows]
        model.train(before)
        if write:
            write_sheet(results, folder, step)

    return sheets


def write_sheet(rows: Sequence[Sequence[Image.Image]], folder: Path, step: int) -> Path:
    """Rows of pictures as one: the contexts, the right answer, what came out."""
    tops = list(itertools.accumulate((max(p.height for p in row) for row in rows), initial=0))
    page = Image.new("RGB", (max(sum(p.width for p in row) for row in rows), tops[-1]))
    for row, top in zip(rows, tops):
        for picture, left in zip(row, itertools.accumulate((p.width for p in row), initial=0)):
            page.paste(picture, (left, top))
    place = folder / f"step-{step:08d}.png"
    with files.replacing(place) as temporary:
        page.save(temporary, "PNG")
    return place
