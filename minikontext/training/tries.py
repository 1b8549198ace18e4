"""Held-out cases edited while an editor of the first edition trains, scored by its oracle."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from minikontext.autoencoder import AutoEncoder
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.device import mixed_precision
from minikontext.toyworld import Case, sample_edit, score
from minikontext.training.data import held_out
from minikontext.training.editor import Editor, validate_editor
from minikontext.training.jobs import ToyData
from minikontext.training.parallel import DistContext
from minikontext.training.watch import Metrics


def held_out_check(
    model: Editor, autoencoder: AutoEncoder, data: ToyData, run: Path, bf16: bool,
    world: DistContext,
) -> Callable[[int], Metrics]:  # fmt: skip
    """What to measure on cases that no training sees: `validation` of them for the loss, `tries` to
    be edited, shown as a sheet in the run's folder and scored by the oracle."""
    folder = run / "samples"
    unseen = held_out(data.level, data.validation, autoencoder, model.text, bf16)
    stream = (sample_edit(i, data.level, split="test") for i in itertools.count())
    cases = list(itertools.islice((c for c in stream if len(c.contexts) == 1), data.tries))

    def check(step: int) -> Metrics:
        found = validate_editor(model, unseen, bf16, world.device)
        if not cases:
            return found
        with mixed_precision(world.device, bf16):
            made = try_edits(model, autoencoder, cases)
        if world.rank == 0:
            rows = [(c.context_images()[0], c.target_image(), one) for c, one in zip(cases, made)]
            folder.mkdir(exist_ok=True)
            sheet([image for row in rows for image in row]).save(folder / f"step-{step:08d}.png")
        good = sum(score(one, case).success for one, case in zip(made, cases))
        return found | {"success": good / len(cases)}

    return check


def try_edits(model: Editor, autoencoder: AutoEncoder, cases: list[Case]) -> list[Image.Image]:
    """Edit cases of one context each with the weights as they are; all processes must call it."""
    before = model.training
    pipe = KontextPipeline(model.transformer, autoencoder, model.text)
    given = [case.context_images() for case in cases]
    out = pipe(
        [case.prompt for case in cases], image=given, seed=list(range(len(cases))),
        num_inference_steps=8, progress=False,
    )  # fmt: skip
    model.train(before)
    return out.images


def sheet(images: list[Image.Image], columns: int = 3) -> Image.Image:
    """Pictures of one size side by side: before, the right answer, what came out."""
    width, height = images[0].size
    page = Image.new("RGB", (columns * width, len(images) // columns * height))
    for i, image in enumerate(images):
        page.paste(image, (i % columns * width, i // columns * height))
    return page
