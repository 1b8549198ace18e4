"""The three distillations, from a job to a weights folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder
from minikontext.distillation.guidance import fixed_at, guidance_loss, student_of
from minikontext.distillation.jobs import DistillJob, GuidanceJob, LaddJob, RolloutJob, Start
from minikontext.distillation.ladd import Discriminator, Ladd, ladd_loss
from minikontext.distillation.latents import store_teacher_samples
from minikontext.distillation.rollout import rollout_loss
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.training.data import Pairs, build_cache, load_cache, world_fingerprint
from minikontext.training.editor import Editor
from minikontext.training.loop import Loop, LossFunction
from minikontext.training.models import averaged, export, find_autoencoder, load_autoencoder
from minikontext.training.parallel import DistContext, prepare
from minikontext.training.recipes import add_chains
from minikontext.training.runs import made_from
from minikontext.training.watch import Watch

OnLog = Callable[[dict], None] | None


def distill_guidance(job: GuidanceJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Distil guidance into one pass; writes a weights folder whose model takes the scale."""
    pipe, teacher = load_teacher(job, world)
    dials = job.training
    pairs = load_pairs(job, pipe, world)
    torch.manual_seed(job.seed)
    student = guided_student(job.start, _waiting(teacher, world))
    for model in (student, teacher.requires_grad_(False)):
        prepare(model, world, dials.bf16)
    null = teacher.text.tokenize([""])[0]
    loss = guidance_loss(student, teacher, pairs, null, dials, world.device)
    student = learned(student, loss, job, pipe, world, on_log)
    return export(student, pipe.autoencoder, job, world)


def distill_ladd(job: LaddJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Distil the sampler into few steps; writes the student's weights folder.

    `autoencoder` names the weights whose decoder the student's folder gets; the teacher's without.
    """
    pipe, teacher = load_teacher(job, world)
    autoencoder = students_autoencoder(job.autoencoder, pipe)
    dials, asked = job.training, job.teacher_samples
    pairs = load_pairs(job, pipe, world)
    null = teacher.text.tokenize([""])[0]
    real = store_teacher_samples(
        teacher, pairs, null, job.folder / "answers", asked.steps, asked.scale,
        pipe.weights_fingerprint[:12], bf16=dials.bf16, world=world,
    )  # fmt: skip
    torch.manual_seed(job.seed)
    heads = Discriminator(teacher, dials.features)
    model = Ladd(_waiting(first_student(job.start, teacher), world), heads)
    for net in (model, teacher.requires_grad_(False)):
        prepare(net, world, dials.bf16)
    loss = ladd_loss(model, teacher, real, dials, world.device)
    model = learned(model, loss, job, pipe, world, on_log)
    return export(model.student, autoencoder, job, world)


def distill_rollout(job: RolloutJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train a few-step student on states of its own making; writes its weights folder.

    `teacher` names it: it is what is trained on, and what answers where many answers are right.
    """
    pipe, teacher = load_teacher(job, world)
    autoencoder = students_autoencoder(job.autoencoder, pipe)
    pairs = load_pairs(job, pipe, world)
    pairs = sample_where_free(teacher, pairs, job, pipe, world)
    student = _waiting(teacher, world).requires_grad_(True).train()
    prepare(student, world, job.training.bf16)
    loss = rollout_loss(student, pairs, job.training, world.device)
    student = learned(student, loss, job, pipe, world, on_log)
    return export(student, autoencoder, job, world)


def learned(
    model: nn.Module, loss: LossFunction, job: DistillJob, pipe: KontextPipeline,
    world: DistContext, on_log: OnLog,
) -> Any:  # fmt: skip
    """The model after the job's [loop], with the average of its weights."""
    origin = made_from(
        job, base=pipe.weights_fingerprint[:12],
        data=world_fingerprint(job.data.level, job.data.seed),
    )  # fmt: skip
    watch = Watch(job.training.batch)
    loop = Loop(model, job.loop, job.run, world, watch, origin)
    loop.resume()
    loop.run(loss, on_log)
    return averaged(loop, model)


def sample_where_free(
    teacher: Editor, pairs: Pairs, job: RolloutJob, pipe: KontextPipeline, world: DistContext
) -> Pairs:
    """Pairs whose targets, where many answers are right, are what the teacher makes of their noise.

    There the student keeps what it can: to learn one right answer of many would blur all of them.
    """
    rows, dials = (~pairs.determined).nonzero().flatten(), job.training
    if not len(rows):
        return pairs
    null = teacher.text.tokenize([""])[0]
    some = store_teacher_samples(
        teacher, pairs.take(rows), null, job.folder / "answers", max(dials.steps), 1.0,
        pipe.weights_fingerprint[:12], bf16=dials.bf16, world=world, shifted=dials.shifted,
    )  # fmt: skip
    pairs.target[rows] = some.target.to(pairs.target)
    pairs.tokens[rows] = some.tokens.expand_as(pairs.tokens[rows])
    return pairs


def load_teacher(job: DistillJob, world: DistContext) -> tuple[KontextPipeline, Editor]:
    """The pipeline that `teacher` names, and its text encoder and transformer as an Editor."""
    pipe = KontextPipeline.from_pretrained(job.teacher, device=world.device, dtype="float32")
    return pipe, Editor(pipe.transformer, pipe.text_encoder)


def students_autoencoder(place: str | None, teacher: KontextPipeline) -> AutoEncoder:
    """What turns the student's latents into pictures: the teacher's, or that of a weights folder.

    Raises ConfigError for one with another encoder: the student would not know its latents.
    """
    if place is None:
        return teacher.autoencoder
    other = load_autoencoder(find_autoencoder(place), teacher.device)
    if not teacher.autoencoder.same_latents(other):
        raise ConfigError(
            f"autoencoder={place!r} has another encoder than the teacher. Train "
            "its decoder alone (decoder_only), or leave it out."
        )
    return other


def first_student(start: Start | None, teacher: Editor) -> Editor:
    """What LADD starts from: a copy of the teacher, or the weights that `[start]` names.

    `[start]` has `weights`, a guidance-distilled folder or name, and the `scale` to hold it at:
    so the student needs no second pass for guidance from its first step on.
    """
    if start is None:
        return copy.deepcopy(teacher)
    if start.scale is None:
        raise ConfigError("[start] scale is missing: at which guidance is the student held?")
    return fixed_at(_stored(start.weights, teacher), start.scale)


def guided_student(start: Start | None, teacher: Editor) -> Editor:
    """What guidance distillation starts from: a copy of the teacher with an input for the scale.

    Or the student that `weights` in `[start]` names, to go on with it. Raises ConfigError if that
    takes no scale.
    """
    if start is None:
        return student_of(teacher)
    student = _stored(start.weights, teacher)
    if not student.transformer.config.guidance_embed:
        raise ConfigError(
            f"[start] weights = {start.weights!r} take no guidance scale: start without"
        )
    return student.requires_grad_(True).train()


def _stored(place: str, teacher: Editor) -> Editor:
    """The editor of a weights folder or shipped name, where the teacher is."""
    device = next(teacher.parameters()).device
    pipe = KontextPipeline.from_pretrained(place, device=device, dtype="float32")
    return Editor(pipe.transformer, pipe.text_encoder)


def _waiting(teacher: Editor, world: DistContext) -> Editor:
    """Many processes shard teacher and student from the host: two whole nets fill a device."""
    return teacher.cpu() if world.size > 1 else teacher


def load_pairs(job: DistillJob, pipe: KontextPipeline, world: DistContext) -> Pairs:
    """The training pairs of the job's level, encoded with the teacher's autoencoder."""
    data, bf16 = job.data, job.training.bf16
    folder = Path(data.folder or job.folder / "pairs")
    mark = pipe.autoencoder.encoder_fingerprint()[:12]
    build_cache(
        folder, data.level, data.count, data.seed, pipe.autoencoder, mark, bf16=bf16, world=world,
        practise=data.practise,
    )  # fmt: skip
    pairs, text = load_cache(folder, pipe.text_encoder, data.count), pipe.text_encoder
    return add_chains(pairs, data, job.folder, text, pipe.autoencoder, bf16, world)
