"""The trainings: from a job, in its run's folder, to weights. `run.run_job` calls them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import config_fingerprint, lora
from minikontext.runtime import files, offload
from minikontext.safety.clip import TwoTowers
from minikontext.text import ToyTextEncoder
from minikontext.training import safety, words
from minikontext.training.data import build_cache, load_cache, world_fingerprint
from minikontext.training.editor import editor_loss
from minikontext.training.folders import Encoded, encode_folder, folder_loss, validate_folder
from minikontext.training.jobs import (
    EditorJob,
    FolderJob,
    LoraJob,
    SafetyJob,
    WorldAutoEncoderJob,
    WorldEditorJob,
    WorldImitationJob,
    WorldWordsJob,
)
from minikontext.training.loop import Loop
from minikontext.training.models import (
    averaged,
    export,
    find_autoencoder,
    first_autoencoder,
    first_weights,
    for_now_averaged,
    gathered,
    load_autoencoder,
    new_editor,
    new_transformer,
    save_part,
    stored_part,
)
from minikontext.training.parallel import (
    DistContext,
    apply_activation_checkpointing,
    prepare,
)
from minikontext.training.pictures import normalised, picture_loss
from minikontext.training.runs import made_from
from minikontext.training.stream import Inputs, Stream
from minikontext.training.tries import Sheets, held_out_check, sample_sheets
from minikontext.training.watch import Metrics
from minikontext.training.workload import watched
from minikontext.transformer import KontextTransformer

OnLog = Callable[[dict], None] | None
log = logging.getLogger(__name__)


def alone(world: DistContext, what: str) -> None:
    """Raise ConfigError under torchrun, for what one process trains."""
    if world.size > 1:
        raise ConfigError(f"{what} is small: train it in one process, without torchrun")


def train_world_autoencoder(
    job: WorldAutoEncoderJob, world: DistContext, on_log: OnLog = None
) -> Path:
    """Train the autoencoder on pictures of all sizes; writes its weights and `config.json`."""
    alone(world, "an autoencoder")
    dials = job.training
    torch.manual_seed(job.seed)
    model = first_autoencoder(job.autoencoder, job.start, world.device)
    origin = made_from(job, base=model.encoder_fingerprint()[:12] if job.start else "")
    learns = model.decoder if dials.decoder_only else model
    loop = Loop(learns, job.loop, job.run, made_from=origin)
    loop.resume()
    loop.run(picture_loss(model, dials, world.device), on_log)
    averaged(loop, learns)
    if not dials.decoder_only:  # else the latents, and so their scale, are those of before
        model.config = normalised(model, dials)
    return save_part(model.eval(), "autoencoder", Path(job.output))


def train_safety(job: SafetyJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train the two towers and choose the thresholds; writes a folder that `safety.load` reads."""
    alone(world, "the classifier")
    autoencoder = load_autoencoder(find_autoencoder(job.autoencoder), world.device)
    autoencoder.requires_grad_(False)
    torch.manual_seed(job.seed)
    model = TwoTowers(replace(job.clip, text=job.text)).to(world.device)
    origin = made_from(job, base=autoencoder.encoder_fingerprint()[:12])
    loop = Loop(model, job.loop, job.run, made_from=origin)
    loop.resume()
    loop.run(safety.safety_loss(model, autoencoder, job.training, world.device), on_log)
    model = averaged(loop, model).cpu()
    return safety.finish(model, autoencoder.cpu(), Path(job.output), job.validation)


def train_world_words(job: WorldWordsJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train a text encoder to tell the facts of sentences; writes it with its `config.json`."""
    alone(world, "a text encoder")
    torch.manual_seed(job.seed)
    cases = words.sample_cases(job.training)
    model = words.FactReader(ToyTextEncoder(job.text), words.fact_names(cases)).to(world.device)
    loop = Loop(model, job.loop, job.run, made_from=made_from(job))
    loop.resume()
    loop.run(words.words_loss(model, cases, job.training), on_log)
    averaged(loop, model)
    return save_part(model.text, "text_encoder", Path(job.output))


def train_world_imitation(
    job: WorldImitationJob, world: DistContext, on_log: OnLog = None
) -> Path:
    """Teach another text encoder to an editor; writes its weights with that one.

    Raises ConfigError for an encoder whose features have other shapes than the editor's own.
    """
    alone(world, "a text encoder")
    pipe = KontextPipeline.from_pretrained(job.teacher, world.device, torch.float32)
    for name in ("max_length", "width", "pooled"):
        mine, its = (getattr(one, name) for one in (job.text, pipe.text_encoder.config))
        if mine != its:
            raise ConfigError(f"[text] {name} = {mine}; the teacher has {its}: features must fit")
    torch.manual_seed(job.seed)
    text, cases = ToyTextEncoder(job.text).to(world.device), words.single_cases(job.training)
    loss = words.imitation_loss(text, pipe.text_encoder, cases, job.training)
    origin = made_from(job, taught=files.fingerprint([stored_part(job.teacher, "text_encoder")]))
    loop = Loop(text, job.loop, job.run, made_from=origin)
    loop.resume()
    loop.run(loss, on_log)
    pipe.text_encoder, pipe.name = averaged(loop, text), job.name or pipe.name
    return pipe.save_pretrained(job.output)


def train_world_editor(job: WorldEditorJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train text encoder and transformer on the stream of all sizes; writes a weights folder."""
    autoencoder = load_autoencoder(find_autoencoder(job.autoencoder), world.device)
    dials, drawn = job.training, job.stream
    folder = job.folder / "stream" if drawn.batches else None
    stream = Stream(drawn, autoencoder, folder, dials.bf16)
    model = new_editor(job.transformer, job.text, job.seed, job.start, job.words)
    model.layout, model.isolated = dials.layout, dials.isolated
    if dials.isolated and world.size > 1:
        raise ConfigError("[training] isolated: in one process only, start it without torchrun")
    prepare(model, world, dials.bf16, first_weights(job.seed))
    origin = made_from(job, base=autoencoder.encoder_fingerprint()[:12])
    loop = Loop(model, job.loop, job.run, world, made_from=origin)
    loop.resume()
    source, null = Inputs(stream, model.text), model.text.tokenize([""])[0]
    loop.run(editor_loss(model, source, null, dials, world.device), on_log)
    return export(averaged(loop, model), autoencoder, job, world)


def train_editor(job: EditorJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train text encoder and transformer on a level of the toy world; writes a weights folder."""
    autoencoder = load_autoencoder(find_autoencoder(job.autoencoder), world.device)
    model = new_editor(job.transformer, job.text, job.seed, job.start)
    data, dials, check = job.data, job.training, None
    cache = Path(data.folder or job.folder / "pairs")
    fingerprint = autoencoder.encoder_fingerprint()[:12]
    build_cache(
        cache, data.level, data.count, data.seed, autoencoder, fingerprint, bf16=dials.bf16,
        world=world, mix=data.mix,
    )  # fmt: skip
    pairs = load_cache(cache, model.text, data.count)
    if job.loop.validate_every:
        check = held_out_check(model, autoencoder, data, job.folder, dials.bf16, world)
    prepare(model, world, dials.bf16, first_weights(job.seed))
    origin = made_from(job, base=fingerprint, data=world_fingerprint(data.level, data.seed))
    loop = Loop(model, job.loop, job.run, world, watched(job, check), origin)
    loop.resume()
    null = model.text.tokenize([""])[0]
    loop.run(editor_loss(model, pairs, null, dials, world.device), on_log)
    return export(averaged(loop, model), autoencoder, job, world)


def encoded(job: FolderJob | LoraJob, pipe: KontextPipeline, world: DistContext) -> list[Encoded]:
    """The samples of a job's folder, and those of its validation folder if there is one."""
    data, found = job.data, []
    for name, source in (("encoded", data.source), ("validation", data.validation)):
        if source:
            place = job.folder / name
            how = data if name == "encoded" else replace(data, flips=False)
            encode_folder(source, place, pipe, data.side, world=world, how=how)
            found.append(Encoded(place, data.repeats if name == "encoded" else None))
            if world.rank == 0:
                log.info("%s: %s", source, found[-1].report())
    return found


def sheets_of(job: FolderJob | LoraJob, pipe: KontextPipeline, samples: Encoded) -> Sheets:
    """What makes the `tries` of a job's data."""
    place = job.folder / "samples"
    return sample_sheets(pipe, samples, job.data.tries, place, job.training.bf16)


def train_folder(job: FolderJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train a transformer on a folder of triplets; writes a weights folder.

    `parts` names the weights whose autoencoder and text encoders are used, and stay as they are;
    `start` those that the transformer starts from, or it starts from nothing.
    """
    dials = job.training
    pipe = KontextPipeline.from_pretrained(job.parts, world.device)
    base, config = pipe.weights_fingerprint[:12], config_fingerprint(pipe)[:12]
    samples, *unseen = encoded(job, pipe, world)
    sheets = sheets_of(job, pipe, [*unseen, samples][0])
    del pipe  # makes room for the training
    gc.collect()  # its parts hold on to each other
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
    model = new_transformer(job.transformer, job.start)
    prepare(model, world, dials.bf16, first_weights(job.seed))
    on_the_way = [lambda _: validate_folder(model, *unseen, dials, world.device)] * bool(unseen)
    if job.data.tries:
        on_the_way += [lambda step: sheets(model, step, world.rank == 0) or {}]
    watch = watched(job, all_of(on_the_way), samples)
    origin = made_from(job, config, base=base, data=samples.fingerprint())
    loop = Loop(model, job.loop, job.run, world, watch, origin)
    loop.resume()
    loop.run(folder_loss(model, samples, dials, world.device), on_log)
    if one := gathered(averaged(loop, model), world):
        pipe = KontextPipeline.from_pretrained(job.parts, "cpu", "bfloat16")
        pipe.transformer, pipe.name = one.cpu(), job.name or pipe.name
        most = max(len(shapes) - 1 for shapes in samples.shapes)  # a painter has become an editor
        pipe.defaults = replace(pipe.defaults, max_contexts=max(most, pipe.defaults.max_contexts))
        pipe.save_pretrained(job.output)
    world.wait()
    return Path(job.output)


def train_lora(job: LoraJob, world: DistContext, on_log: OnLog = None) -> Path:
    """Train a LoRA of the transformer of `parts` on a folder of triplets; writes one file.

    The base stays as it is loaded: `offload = "8-bit"` or "4-bit" makes room on one GPU, and so
    does `checkpointing` in [parallel]; `--plan` tells how much.
    Raises ConfigError under torchrun: a LoRA is small, one process trains it.
    """
    alone(world, "a LoRA")
    options = {name: getattr(job, name) for name in ("dtype", "offload") if getattr(job, name)}
    pipe = KontextPipeline.from_pretrained(job.parts, world.device, **options)
    base, dials = pipe.transformer.requires_grad_(False), job.training
    # What does not fit is told before the pictures are encoded, which may take hours.
    if job.parallel.checkpointing != "none" and offload.is_streamed(base):
        raise ConfigError("streamed blocks are gone when checkpointing would make them again")
    model = lora.new(base, job.lora.rank, job.lora.layers, job.seed)
    model.scale = job.lora.factor
    if job.start:
        go_on_from(model, job.start, base)
    samples, *unseen = encoded(job, pipe, world)
    weights, config = pipe.weights_fingerprint[:12], config_fingerprint(pipe)[:12]
    origin = made_from(job, config, base=weights, data=samples.fingerprint())
    sheets = sheets_of(job, pipe, [*unseen, samples][0])
    del pipe  # the text encoders are not needed from here on
    model.to(world.device).attach(base)
    apply_activation_checkpointing(offload.transformer_blocks(base), job.parallel)

    def keep(step: int) -> Metrics:
        """What is on the way is made with the averaged weights, as the result will be."""
        with for_now_averaged(loop, model):
            if job.lora.keep:
                place = job.folder / "loras" / f"step-{step:08d}.safetensors"
                lora.save(model, base, place, model.scale)
            if job.data.tries:
                sheets(base, step, True)
        return {}

    on_the_way = [lambda _: validate_folder(base, *unseen, dials, world.device)] * bool(unseen)
    on_the_way += [keep] * bool(job.lora.keep or job.data.tries)
    watch = watched(replace(job, transformer=base.config), all_of(on_the_way), samples)
    loop = Loop(model, job.loop, job.run, world, watch, origin)
    loop.resume()
    loop.run(folder_loss(base, samples, dials, world.device), on_log)
    return lora.save(averaged(loop, model), base, job.output, model.scale)


def all_of(checks: Sequence[Callable[[int], Metrics]]) -> Callable[[int], Metrics] | None:
    """One check that makes them all, and joins what they measure; None for none."""

    def check(step: int) -> Metrics:
        return {name: value for one in checks for name, value in one(step).items()}

    return check if checks else None


def go_on_from(model: lora.Lora, path: str, base: KontextTransformer) -> None:
    """Give a new LoRA the weights of a file. Raises ConfigError for other layers or ranks."""
    stored, own = lora.load(path, base).layers, model.layers
    if stored.keys() != own.keys():
        strange = sorted(stored.keys() ^ own.keys())
        raise ConfigError(f"start = {path!r} has other layers ({strange[0]} …)")
    for name, thin in own.items():
        other = stored[name]
        if not isinstance(other, lora.LoraLayer):
            raise ConfigError(f"start = {path!r} has no plain pair lora_A, lora_B for {name}, as "
                              "those have that were trained here")  # fmt: skip
        if other.down.shape != thin.down.shape or other.bias is not None:
            got, wanted = len(other.down), len(thin.down)
            raise ConfigError(f"start = {path!r} has rank {got} in {name}; [lora] rank = {wanted}")
        thin.down.data.copy_(other.down)
        thin.up.data.copy_(other.up / model.scale)  # a file holds the product with alpha / rank
