"""The three distillations, from a config file to a weights folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder
from minikontext.distillation.guidance import GuidanceTraining, fixed_at, guidance_loss, student_of
from minikontext.distillation.ladd import Discriminator, Ladd, LaddTraining, ladd_loss
from minikontext.distillation.latents import answer_all
from minikontext.distillation.rollout import RolloutTraining, rollout_loss
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.training.data import Pairs, build_cache, load_cache
from minikontext.training.editor import Editor
from minikontext.training.loop import Loop, LoopConfig, LossFunction
from minikontext.training.parallel import World, prepare, start
from minikontext.training.recipes import (
    add_chains,
    averaged,
    export,
    find_autoencoder,
    load_autoencoder,
    practised,
    read,
)
from minikontext.training.watch import Watch


def distill_guidance(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Distil guidance into one pass; writes a weights folder whose model takes the scale."""
    world = start(config)
    pipe, teacher = load_teacher(config, world)
    dials = read(GuidanceTraining, config.get("training", {}))
    pairs = load_pairs(config, pipe, dials.bf16, world)
    torch.manual_seed(int(config.get("seed", 0)))
    student = guided_student(config, _waiting(teacher, world))
    for model in (student, teacher.requires_grad_(False)):
        prepare(model, world, dials.bf16)
    null = teacher.text.tokenize([""])[0]
    loss = guidance_loss(student, teacher, pairs, null, dials, world.device)
    student = learned(student, loss, dials.batch, config, world, resume, on_log)
    return export(student, pipe.autoencoder, config, world)


def distill_ladd(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Distil the sampler into few steps; writes the student's weights folder.

    `autoencoder` names the weights whose decoder the student's folder gets; the teacher's without.
    """
    world = start(config)
    pipe, teacher = load_teacher(config, world)
    autoencoder = students_autoencoder(config, pipe)
    dials = read(LaddTraining, config.get("training", {}))
    pairs = load_pairs(config, pipe, dials.bf16, world)
    given = config.get("answers", {})
    null = teacher.text.tokenize([""])[0]
    real = answer_all(
        teacher, pairs, null, Path(config["run"]) / "answers", given.get("steps", 28),
        given.get("scale", 1.0), pipe.weights_fingerprint[:12], bf16=dials.bf16, world=world,
    )  # fmt: skip
    torch.manual_seed(int(config.get("seed", 0)))
    heads = Discriminator(teacher, dials.features)
    model = Ladd(_waiting(first_student(config, teacher), world), heads)
    for net in (model, teacher.requires_grad_(False)):
        prepare(net, world, dials.bf16)
    loss = ladd_loss(model, teacher, real, dials, world.device)
    model = learned(model, loss, dials.batch, config, world, resume, on_log)
    return export(model.student, autoencoder, config, world)


def distill_rollout(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Train a few-step student on states of its own making; writes its weights folder.

    `teacher` names it: it is what is trained on, and what answers where many answers are right.
    """
    world = start(config)
    pipe, teacher = load_teacher(config, world)
    autoencoder = students_autoencoder(config, pipe)
    dials = read(RolloutTraining, config.get("training", {}))
    pairs = load_pairs(config, pipe, dials.bf16, world, mistakes=True)
    pairs = answer_untold(teacher, pairs, config, pipe, dials, world)
    student = _waiting(teacher, world).requires_grad_(True).train()
    prepare(student, world, dials.bf16)
    loss = rollout_loss(student, pairs, dials, world.device)
    student = learned(student, loss, dials.batch, config, world, resume, on_log)
    return export(student, autoencoder, config, world)


def learned(
    model: nn.Module, loss: LossFunction, batch: int, config: dict[str, Any], world: World,
    resume: bool, on_log: Callable | None,
) -> Any:  # fmt: skip
    """The model after the config's [loop], with the average of its weights."""
    loop = Loop(model, read(LoopConfig, config["loop"]), config["run"], world, Watch(batch))
    if resume:
        loop.resume()
    loop.run(loss, on_log)
    return averaged(loop, model)


def answer_untold(
    teacher: Editor, pairs: Pairs, config: dict[str, Any], pipe: KontextPipeline,
    dials: RolloutTraining, world: World,
) -> Pairs:  # fmt: skip
    """Pairs whose targets, where many answers are right, are what the teacher makes of their noise.

    There the student keeps what it can: to learn one right answer of many would blur all of them.
    """
    rows = (~pairs.told).nonzero().flatten()
    if not len(rows):
        return pairs
    null = teacher.text.tokenize([""])[0]
    some = answer_all(
        teacher, pairs.take(rows), null, Path(config["run"]) / "answers", max(dials.steps), 1.0,
        pipe.weights_fingerprint[:12], bf16=dials.bf16, world=world, shifted=dials.shifted,
    )  # fmt: skip
    pairs.target[rows] = some.target.to(pairs.target)
    pairs.tokens[rows] = some.tokens.expand_as(pairs.tokens[rows])
    return pairs


def load_teacher(config: dict[str, Any], world: World) -> tuple[KontextPipeline, Editor]:
    """The pipeline that `teacher` names, and its text encoder and transformer as an Editor."""
    if "teacher" not in config:
        raise ConfigError("a distillation needs teacher = a weights folder or a shipped name")
    pipe = KontextPipeline.from_pretrained(config["teacher"], device=world.device, dtype="float32")
    return pipe, Editor(pipe.transformer, pipe.text_encoder)


def students_autoencoder(config: dict[str, Any], teacher: KontextPipeline) -> AutoEncoder:
    """What turns the student's latents into pictures: the teacher's, or that of `autoencoder`.

    Raises ConfigError for one with another encoder: the student would not know its latents.
    """
    if "autoencoder" not in config:
        return teacher.autoencoder
    other = load_autoencoder(find_autoencoder(config), teacher.device)
    if not teacher.autoencoder.same_latents(other):
        raise ConfigError(
            f"autoencoder={config['autoencoder']!r} has another encoder than the teacher. Train "
            "its decoder alone (decoder_only), or leave it out."
        )
    return other


def first_student(config: dict[str, Any], teacher: Editor) -> Editor:
    """What LADD starts from: a copy of the teacher, or the weights that `[start]` names.

    `[start]` has `weights`, a guidance-distilled folder or name, and the `scale` to hold it at:
    so the student needs no second pass for guidance from its first step on.
    """
    if "start" not in config:
        return copy.deepcopy(teacher)
    given = config["start"]
    return fixed_at(_stored(given["weights"], teacher), given["scale"])


def guided_student(config: dict[str, Any], teacher: Editor) -> Editor:
    """What guidance distillation starts from: a copy of the teacher with an input for the scale.

    Or the student that `weights` in `[start]` names, to go on with it. Raises ConfigError if that
    takes no scale.
    """
    if "start" not in config:
        return student_of(teacher)
    student = _stored(place := config["start"]["weights"], teacher)
    if not student.transformer.config.guidance_embed:
        raise ConfigError(f"[start] weights = {place!r} take no guidance scale: start without")
    return student.requires_grad_(True).train()


def _stored(place: str, teacher: Editor) -> Editor:
    """The editor of a weights folder or shipped name, where the teacher is."""
    device = next(teacher.parameters()).device
    pipe = KontextPipeline.from_pretrained(place, device=device, dtype="float32")
    return Editor(pipe.transformer, pipe.text_encoder)


def _waiting(teacher: Editor, world: World) -> Editor:
    """Many processes shard teacher and student from the host: two whole nets fill a device."""
    return teacher.cpu() if world.size > 1 else teacher


def load_pairs(
    config: dict[str, Any], pipe: KontextPipeline, bf16: bool, world: World, mistakes: bool = False
) -> Pairs:
    """The training pairs of the config's level, encoded with the teacher's autoencoder."""
    data = config["data"]
    folder = Path(data.get("folder", Path(config["run"]) / "pairs"))
    mark = pipe.autoencoder.encoder_mark()[:12]
    level = (data["level"], data["count"], data.get("seed", 0))
    asked = {"practise": practised(data), "mistakes": mistakes}
    build_cache(folder, *level, pipe.autoencoder, mark, bf16=bf16, world=world, **asked)
    pairs, text = load_cache(folder, pipe.text_encoder, data["count"]), pipe.text_encoder
    return add_chains(pairs, config, text, pipe.autoencoder, bf16, world, mistakes)
