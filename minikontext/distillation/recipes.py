"""The three distillations, from a job to a weights folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from minikontext.distillation.guidance import fixed_at, guidance_loss, student_of
from minikontext.distillation.jobs import DistillJob, GuidanceJob, LaddJob, RolloutJob, Start
from minikontext.distillation.ladd import Discriminator, Ladd, ladd_loss
from minikontext.distillation.latents import TeacherStream
from minikontext.distillation.rollout import rollout_loss
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import config_fingerprint
from minikontext.training.editor import Editor
from minikontext.training.loop import Loop, LossFunction
from minikontext.training.models import averaged, deepen, export
from minikontext.training.parallel import DistContext, prepare
from minikontext.training.runs import made_from
from minikontext.training.stream import Inputs, Stream

OnLog = Callable[[dict], None] | None


def distill_guidance(job: GuidanceJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Distil guidance into one pass; writes a weights folder whose model takes the scale."""
    pipe, teacher = load_teacher(job, world)
    source = Inputs(load_stream(job, pipe), teacher.text)
    torch.manual_seed(job.seed)
    student = guided_student(job.start, _waiting(teacher, world))
    for model in (student, teacher.requires_grad_(False)):
        prepare(model, world, job.training.bf16)
    null = teacher.text.tokenize([""])[0]
    loss = guidance_loss(student, teacher, source, null, job.training, world.device)
    return learned(student, student, loss, job, pipe, world, on_log)


def distill_ladd(job: LaddJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Distil the sampler into few steps; writes the student's weights folder."""
    pipe, teacher = load_teacher(job, world)
    dials, null = job.training, teacher.text.tokenize([""])[0]
    answers = TeacherStream(
        load_stream(job, pipe), copy.deepcopy(teacher) if world.size > 1 else teacher, null,
        job.folder / "answers", pipe.weights_fingerprint[:12], job.teacher_samples,
        pipe.defaults.mu_16, dials.bf16, pipe.defaults.shifted,
    )  # fmt: skip
    torch.manual_seed(job.seed)
    heads = Discriminator(teacher, dials.features)
    model = Ladd(_waiting(first_student(job.start, teacher), world), heads)
    for net in (model, teacher.requires_grad_(False)):
        prepare(net, world, dials.bf16)
    loss = ladd_loss(model, teacher, Inputs(answers, answers.teacher.text), dials, world.device)
    return learned(model, model.student, loss, job, pipe, world, on_log)


def distill_rollout(job: RolloutJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train a few-step student on states of its own making; writes its weights folder."""
    pipe, teacher = load_teacher(job, world)
    source = Inputs(load_stream(job, pipe), teacher.text)
    if job.single_blocks is not None:
        deepen(teacher.transformer, job.single_blocks)
    student = _waiting(teacher, world).requires_grad_(True).train()
    prepare(student, world, job.training.bf16)
    loss = rollout_loss(student, source, job.training, world.device)
    return learned(student, student, loss, job, pipe, world, on_log)


def learned(
    model: nn.Module, student: Editor, loss: LossFunction, job: DistillJob, pipe: KontextPipeline,
    world: DistContext, on_log: OnLog,
) -> Path:  # fmt: skip
    """Run the job's [loop] on the model, and write its student's averaged weights as a folder."""
    config = config_fingerprint(pipe)[:12]
    origin = made_from(job, config, base=pipe.weights_fingerprint[:12])
    begun = {n: p.detach().clone() for n, p in student.named_parameters() if job.blend < 1}
    loop = Loop(model, job.loop, job.run, world, made_from=origin)
    loop.resume()
    loop.run(loss, on_log)
    averaged(loop, model)
    for name, weight in begun.items():
        found = student.get_parameter(name)
        found.data.copy_(weight.lerp(found.detach(), job.blend))
    defaults = replace(job.defaults, context_layout=student.layout)
    return export(student, pipe.autoencoder, replace(job, defaults=defaults), world)


def load_teacher(job: DistillJob, world: DistContext) -> tuple[KontextPipeline, Editor]:
    """The pipeline that `teacher` names, and its text encoder and transformer as an Editor.

    Raises ConfigError for one that takes guidance as an input, or has isolated contexts.
    """
    pipe = KontextPipeline.from_pretrained(job.teacher, device=world.device, dtype="float32")
    if pipe.transformer.config.guidance_embed:
        raise ConfigError(
            f"teacher = {job.teacher!r} takes the guidance scale as an input: name weights that "
            "are guided by two passes."
        )
    return pipe, _editor(pipe)


def load_stream(job: DistillJob, pipe: KontextPipeline) -> Stream:
    """The job's stream in the teacher's latents; encoded batches are kept in the run's folder."""
    folder = job.folder / "stream" if job.stream.batches else None
    return Stream(job.stream, pipe.autoencoder, folder, job.training.bf16)


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
    return _editor(KontextPipeline.from_pretrained(place, device=device, dtype="float32"))


def _editor(pipe: KontextPipeline) -> Editor:
    if pipe.defaults.isolated:  # what it has learned to see is not what a distillation shows it
        raise ConfigError(f"{pipe.name} has isolated contexts: distillation is for joint ones.")
    return Editor(pipe.transformer, pipe.text_encoder, pipe.defaults.context_layout)


def _waiting(teacher: Editor, world: DistContext) -> Editor:
    """Many processes shard teacher and student from the host: two whole nets fill a device."""
    return teacher.cpu() if world.size > 1 else teacher
