"""The trainings, from a config file to a weights folder."""

from __future__ import annotations

import gc
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.denoiser import PATCH
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError, WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import layouts, lora, safetensors_io
from minikontext.pretrained.native import find_weights
from minikontext.runtime import files, memory_plan, offload
from minikontext.runtime.config import build_config, read_json
from minikontext.runtime.device import mixed_precision, parse_dtype
from minikontext.safety import chosen
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import OPERATIONS, Case, sample_edit, score, vocabulary
from minikontext.toyworld.attacks import Mix
from minikontext.training.answers import AnswersConfig, open_editor, stored_answers
from minikontext.training.autoencoder import (
    AutoEncoderTraining,
    autoencoder_loss,
    normalised,
)
from minikontext.training.chains import Chains, build_chains, with_chains
from minikontext.training.data import Pairs, build_cache, held_out, load_cache
from minikontext.training.editor import Editor, EditorTraining, editor_loss, validate_editor
from minikontext.training.folders import (
    Encoded,
    FolderTraining,
    encode_folder,
    folder_loss,
    validate_folder,
)
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.parallel import (
    ParallelConfig,
    World,
    lighten,
    local,
    prepare,
    start,
    whole,
)
from minikontext.training.plan import Job, model_flops
from minikontext.training.watch import Metrics, Watch
from minikontext.transformer import KontextTransformer, TransformerConfig, init_module


def read(kind: type, values: dict[str, Any], base: Any = None) -> Any:
    """A dataclass from a config's section, on top of `base`. Raises ConfigError."""
    return build_config(kind, values, base)


def _generator(config: dict[str, Any]) -> torch.Generator:
    return torch.Generator().manual_seed(int(config.get("seed", 0)))


def averaged(loop: Loop, model: nn.Module) -> nn.Module:
    """Put the moving average of the weights, if any, into the model: that is what gets shipped."""
    for name, parameter in model.named_parameters() if loop.ema else ():
        local(parameter.data).copy_(local(loop.ema[name]))
    return model.eval()


def train_autoencoder(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Train an autoencoder; writes `autoencoder.safetensors` and its `config.json`.

    `start` names the weights folder to go on from; with `decoder_only` in [training] its encoder
    stays as it is, bit for bit, and so do the latents.
    """
    world = start(config)
    if world.size > 1:
        raise ConfigError("an autoencoder is small: train it in one process, without torchrun")
    dials = read(AutoEncoderTraining, config.get("training", {}))
    torch.manual_seed(int(config.get("seed", 0)))
    model = first_autoencoder(config, world.device)
    trained = model.decoder if dials.decoder_only else model
    model.requires_grad_(False)
    trained.requires_grad_(True)
    how, watch = read(LoopConfig, config["loop"]), Watch(dials.batch)
    loop = Loop(trained, how, config["run"], watch=watch)
    if resume:
        loop.resume()
    made = None
    if dials.answers_share:
        asked = read(AnswersConfig, config.get("answers", {}))
        editor = open_editor(asked.editor, model, world.device)
        made = stored_answers(asked, editor, Path(config["run"]))
    loop.run(autoencoder_loss(model, dials, world.device, made), on_log)
    averaged(loop, trained)
    if not dials.decoder_only:
        model.config = normalised(model, seed=1)
    return save_autoencoder(model.eval(), Path(config["output"]))


def first_autoencoder(config: dict[str, Any], device: torch.device) -> AutoEncoder:
    """What an autoencoder's training starts from: the weights of `start`, or nothing."""
    if "start" in config:
        return load_autoencoder(Path(config["start"]), device)
    if config.get("training", {}).get("decoder_only"):
        raise ConfigError("decoder_only needs start = a weights folder, whose encoder stays")
    sizes = read(AutoEncoderConfig, config.get("autoencoder", {}), AutoEncoderConfig.toy())
    return AutoEncoder(sizes).to(device)


def save_autoencoder(model: AutoEncoder, folder: Path) -> Path:
    """Write the weights with their configuration: sizes, and scale and shift of the latents."""
    safetensors_io.save(model.state_dict(), folder / "autoencoder.safetensors", torch.bfloat16)
    with files.replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps({"autoencoder": asdict(model.config)}, indent=1) + "\n")
    return folder


def load_autoencoder(folder: Path, device: torch.device) -> AutoEncoder:
    """The autoencoder of a weights folder, as it will be used: from its bfloat16 file."""
    values = read_json(folder / "config.json", WeightsError).get("autoencoder")
    with torch.device("meta"):
        model = AutoEncoder(build_config(AutoEncoderConfig, values, error=WeightsError))
    path = folder / "autoencoder.safetensors"
    return safetensors_io.load_into(model, path, device, torch.float32).eval()


def train_editor(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Train text encoder and transformer on a level of the toy world; writes a weights folder."""
    world = start(config)
    source = find_autoencoder(config)
    autoencoder = load_autoencoder(source, world.device)
    model = new_editor(config)
    data = config["data"]
    cache = Path(data.get("folder", Path(config["run"]) / "pairs"))
    mark = autoencoder.encoder_mark()[:12]
    dials = read(EditorTraining, config.get("training", {}))
    level = (data["level"], data["count"], data.get("seed", 0))
    asked = {"practise": practised(data)}
    if "mix" in data:
        asked["mix"] = read(Mix, data["mix"])
    build_cache(cache, *level, autoencoder, mark, bf16=dials.bf16, world=world, **asked)
    pairs = load_cache(cache, model.text, data["count"])
    pairs = add_chains(pairs, config, model.text, autoencoder, dials.bf16, world)
    how, check = read(LoopConfig, config["loop"]), None
    if how.validate_every:
        check = held_out_check(model, autoencoder, config, dials.bf16, world)
    prepare(model, world, dials.bf16, first_weights(config))
    loop = Loop(model, how, config["run"], world, watched(config, check))
    if resume:
        loop.resume()
    null = model.text.tokenize([""])[0]
    loop.run(editor_loss(model, pairs, null, dials, world.device), on_log)
    return export(averaged(loop, model), autoencoder, config, world)


def add_chains(
    pairs: Pairs, config: dict[str, Any], text: ToyTextEncoder, autoencoder: AutoEncoder,
    bf16: bool, world: World, mistakes: bool = False,
) -> Pairs:  # fmt: skip
    """The pairs, with those of [data.chains] if the config has it. Raises ConfigError."""
    if "chains" not in config["data"]:
        return pairs
    chains = read(Chains, config["data"]["chains"])
    folder = Path(chains.folder or Path(config["run"]) / "chains")
    build_chains(folder, chains, config["data"]["level"], autoencoder, bf16, world, mistakes)
    return with_chains(pairs, folder, chains.share, text)


def held_out_check(
    model: Editor, autoencoder: AutoEncoder, config: dict[str, Any], bf16: bool, world: World
) -> Callable[[int], Metrics]:
    """What to measure on cases that no training sees: `validation` of them for the loss, `tries` to
    be edited, shown as a sheet in the run's folder and scored by the oracle."""
    data, folder = config["data"], Path(config["run"]) / "samples"
    unseen = held_out(data["level"], data.get("validation", 64), autoencoder, model.text, bf16)
    stream = (sample_edit(i, data["level"], split="test") for i in itertools.count())
    cases = list(
        itertools.islice((c for c in stream if len(c.contexts) == 1), data.get("tries", 0))
    )

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


def practised(data: dict[str, Any]) -> list[str]:
    """The operations that a config's data asks for more often than the world does."""
    practise = list(data.get("practise", []))
    if unknown := sorted(set(practise) - set(OPERATIONS)):
        raise ConfigError(f"practise: no such operation {unknown}; choose from {[*OPERATIONS]}")
    return practise


def find_autoencoder(config: dict[str, Any]) -> Path:
    """The folder with the trained autoencoder that an editor's config names."""
    folder = Path(config["autoencoder"])
    if not (folder / "autoencoder.safetensors").exists():
        raise ConfigError(
            f"{folder} holds no trained autoencoder; train configs/toy_autoencoder.toml"
        )
    return folder


def new_editor(config: dict[str, Any]) -> Editor:
    """An editor of the config's sizes: the weights of `start`, a folder, or none yet (meta).

    Stored weights stay in their file until `prepare` moves them, block by block.
    """
    torch.manual_seed(int(config.get("seed", 0)))
    sizes = transformer_sizes(config)
    words = ToyTextConfig(
        vocabulary=vocabulary(), width=sizes.context_in_dim, pooled=sizes.vec_in_dim
    )
    text = ToyTextEncoder(read(ToyTextConfig, config.get("text", {}), words))
    with torch.device("meta"):
        model = Editor(KontextTransformer(sizes), text)
    if "start" in config:
        for part, module in (("transformer", model.transformer), ("text_encoder", model.text)):
            safetensors_io.load_into(module, Path(config["start"]) / f"{part}.safetensors")
    return model


def transformer_sizes(config: dict[str, Any]) -> TransformerConfig:
    """The sizes of a config's [transformer], on top of its `preset`: "toy" unless it says so."""
    values = dict(config.get("transformer") or {})
    preset = values.pop("preset", "toy")
    known = ("toy", "flux_dev", "flux_schnell")
    if not isinstance(preset, str) or preset not in known:
        raise ConfigError(f"preset={preset!r}: choose one of {known}")
    return read(TransformerConfig, values, getattr(TransformerConfig, preset)())


def first_weights(config: dict[str, Any]) -> Callable[[str, nn.Module], None]:
    """What sets the weights of a transformer that starts from nothing, module by module."""
    generator = _generator(config)
    return lambda name, module: init_module(name, module, generator)


def train_folder(
    config: dict[str, Any], resume: bool = True, on_log: Callable | None = None
) -> Path:
    """Train a transformer on a folder of triplets; writes a weights folder.

    `parts` names the weights whose autoencoder and text encoders are used, and stay as they are;
    `start` those that the transformer starts from, or it starts from nothing.
    """
    world = start(config)
    dials = read(FolderTraining, config.get("training", {}))
    data, cache = config["data"], Path(config["run"]) / "encoded"
    pipe = KontextPipeline.from_pretrained(config["parts"], world.device)
    encode_folder(data["source"], cache, pipe, data.get("side", 1024), world=world)
    samples, unseen = Encoded(cache), None
    if "validation" in data:
        place = Path(config["run"]) / "validation"
        encode_folder(data["validation"], place, pipe, data.get("side", 1024), world=world)
        unseen = Encoded(place)
    if world.rank == 0:
        print(samples.report())
    del pipe  # makes room for the training
    gc.collect()  # its parts hold on to each other
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
    model = new_transformer(config)
    prepare(model, world, dials.bf16, first_weights(config))
    check = (lambda _: validate_folder(model, unseen, dials, world.device)) if unseen else None
    watch = watched(config, check, samples)
    loop = Loop(model, read(LoopConfig, config["loop"]), config["run"], world, watch)
    if resume:
        loop.resume()
    loop.run(folder_loss(model, samples, dials, world.device), on_log)
    if one := gathered(averaged(loop, model), world):
        pipe = KontextPipeline.from_pretrained(config["parts"], "cpu", "bfloat16")
        pipe.transformer, pipe.name = one.cpu(), config.get("name", pipe.name)
        most = max(len(shapes) - 1 for shapes in samples.shapes)  # a painter has become an editor
        pipe.defaults = replace(pipe.defaults, max_contexts=max(most, pipe.defaults.max_contexts))
        pipe.save_pretrained(config["output"])
    world.wait()
    return Path(config["output"])


def train_lora(config: dict[str, Any], resume: bool = True, on_log: Callable | None = None) -> Path:
    """Train a LoRA of the transformer of `parts` on a folder of triplets; writes one file.

    The base stays as it is loaded: `offload = "8-bit"` or "4-bit" makes room on one GPU, and so
    does `checkpointing` in [parallel]; `--plan` tells how much.
    Raises ConfigError under torchrun: a LoRA is small, one process trains it.
    """
    world = start(config)
    if world.size > 1:
        raise ConfigError("a LoRA is small: train it in one process, without torchrun")
    dials, data = read(FolderTraining, config.get("training", {})), config["data"]
    cache, sizes = Path(config["run"]) / "encoded", dict(config.get("lora", {}))
    given = {name: config[name] for name in ("dtype", "offload") if name in config}
    pipe = KontextPipeline.from_pretrained(config["parts"], world.device, **given)
    encode_folder(data["source"], cache, pipe, data.get("side", 1024), world=world)
    samples = Encoded(cache)
    print(samples.report())
    base = pipe.transformer.requires_grad_(False)
    del pipe  # only the transformer is needed from here on
    try:
        model = lora.new(base, seed=int(config.get("seed", 0)), **sizes)
    except TypeError as error:
        raise ConfigError(f"[lora]: {error}") from error
    model.to(world.device).attach(base)
    flags = read(ParallelConfig, config.get("parallel", {}))
    if flags.checkpointing != "none" and offload.is_streamed(base):
        raise ConfigError("streamed blocks are gone when checkpointing would make them again")
    lighten(offload.transformer_blocks(base), flags)
    known = {"kind": "lora", "transformer": asdict(base.config)}
    watch = watched(config | known, samples=samples)
    loop = Loop(model, read(LoopConfig, config["loop"]), config["run"], world, watch)
    if resume:
        loop.resume()
    loop.run(folder_loss(base, samples, dials, world.device), on_log)
    return lora.save(averaged(loop, model), base, config["output"])


def new_transformer(config: dict[str, Any]) -> KontextTransformer:
    """A transformer of the config's sizes: the weights of `start`, or none yet (meta)."""
    with torch.device("meta"):
        model = KontextTransformer(transformer_sizes(config))
    if "start" in config:
        found = layouts.find(config["start"])
        own = find_weights(config["start"]) / "transformer.safetensors" if not found else None
        safetensors_io.load_into(model, own or found.transformer)
    return model


def watched(
    config: dict[str, Any],
    validate: Callable[[int], Metrics] | None = None,
    samples: Encoded | None = None,
) -> Watch:
    """What the log needs to tell the speed of a config's steps; `peak` in TFLOP/s is optional.

    samples: of a folder, whose pictures and prompts may be smaller than the config foresaw.
    """
    asked = job(config)
    flops = model_flops(asked) if samples is None else folder_flops(asked, samples)
    return Watch(asked.batch, flops, validate, config.get("peak", 0.0))


def folder_flops(asked: Job, samples: Encoded) -> float:
    """Of a batch of a folder's samples, on average."""
    counts = Counter(samples.shapes)
    text = len(samples.null()["tokens"])
    each = 0.0
    for (target, *contexts), count in counts.items():
        sizes = [shape[-2] * shape[-1] // PATCH**2 for shape in (target, *contexts)]
        one = replace(asked, batch=1, target=sizes[0], contexts=sum(sizes[1:]), text=text)
        each += count * model_flops(one)
    return asked.batch * each / len(samples)


def job(config: dict[str, Any]) -> Job:
    """What of a config decides memory and time; see `plan`."""
    sizes, data = transformer_sizes(config), config["data"]
    folder = config["kind"] != "editor"
    dials = read(FolderTraining if folder else EditorTraining, config.get("training", {}))
    side = data.get("side", 1024) if folder else 64
    text, beside = data.get("text_tokens", 512), 0
    if not folder:
        encoder = new_editor({k: v for k, v in config.items() if k != "start"}).text
        text, beside = encoder.max_length, sum(p.numel() for p in encoder.parameters())
    target = (side // (8 * PATCH)) ** 2
    return Job(
        sizes, read(LoopConfig, config["loop"]), read(ParallelConfig, config.get("parallel", {})),
        dials.batch, target, data.get("contexts", 1) * target, text, beside, dials.bf16,
        **lora_base(config, sizes),
    )  # fmt: skip


def lora_base(config: dict[str, Any], sizes: TransformerConfig) -> dict[str, int]:
    """A LoRA's rank, and the bytes of the frozen transformer as `dtype` and `offload` keep it."""
    if config["kind"] != "lora":
        return {}
    bits = {"8-bit": 8, "4-bit": 4}.get(config.get("offload", ""))
    dtype = parse_dtype(config.get("dtype") or "bfloat16")
    with torch.device("meta"):
        base = memory_plan.weight_bytes(KontextTransformer(sizes), dtype, bits)
    return {"rank": config.get("lora", {}).get("rank", 8), "base": base}


def gathered(model: nn.Module, world: World) -> nn.Module | None:
    """A whole copy of a sharded editor or transformer for the first process.

    All processes must ask; the others get None.
    """
    if world.size == 1:
        return model
    with torch.device("meta"):
        if isinstance(model, Editor):
            net, text = KontextTransformer(model.transformer.config), model.text
            copy = Editor(net, type(text)(text.config))
        else:
            copy = KontextTransformer(model.config)
    state = {}
    for name, tensor in model.state_dict().items():
        one = whole(tensor)
        if world.rank == 0:
            state[name] = one.cpu()
    if world.rank > 0:
        return None
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def export(model: Editor, autoencoder: AutoEncoder, config: dict[str, Any], world: World) -> Path:
    """Write the trained parts as a weights folder that `from_pretrained` opens."""
    defaults = read(Defaults, config.get("defaults", {}))
    name = config.get("name", "toy")
    if one := gathered(model, world):
        pipe = KontextPipeline(one.transformer, autoencoder, one.text, defaults, name)
        pipe.safety = chosen(None, config.get("safety"))
        pipe.save_pretrained(config["output"])
    world.wait()
    return Path(config["output"])
