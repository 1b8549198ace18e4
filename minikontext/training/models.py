"""What is trained: made or opened before, averaged, gathered and written after."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.errors import ConfigError, WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import layouts, safetensors_io
from minikontext.pretrained.native import find_weights, home, own_config, part_file
from minikontext.runtime import files
from minikontext.runtime.config import build_config, read_json, write_json
from minikontext.safety import chosen
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.training.editor import Editor
from minikontext.training.loop import Loop
from minikontext.training.parallel import DistContext, full_tensor, to_local
from minikontext.transformer import KontextTransformer, TransformerConfig, init_module

# ------------------------------------------------------------------------------- autoencoders


def find_autoencoder(place: str | Path) -> Path:
    """The folder with the trained autoencoder that a config names, or a shipped one of that name.

    Raises ConfigError.
    """
    for folder in (Path(place), home() / place):
        if files.exists(part_file(folder, "autoencoder", own_config(folder))):
            files.tell_if_hidden(place, home())
            return folder
    raise ConfigError(
        f"{place} holds no trained autoencoder, and none is shipped under that name; train "
        "configs/toy_autoencoder.toml, or name data/weights/toy"
    )


def load_autoencoder(folder: Path, device: torch.device) -> AutoEncoder:
    """The autoencoder of a weights folder, as it will be used: from its bfloat16 file."""
    config = read_json(folder / "config.json", WeightsError)
    with torch.device("meta"):
        model = AutoEncoder(
            build_config(AutoEncoderConfig, config.get("autoencoder"), error=WeightsError)
        )
    path = part_file(folder, "autoencoder", config)
    return safetensors_io.load_into(model, path, device, torch.float32).eval()


def first_autoencoder(
    config: AutoEncoderConfig, start: str | None, device: torch.device
) -> AutoEncoder:
    """What an autoencoder's training starts from: the weights of `start`, or nothing."""
    if start:
        return load_autoencoder(find_autoencoder(start), device)
    return AutoEncoder(config).to(device)


def save_part(model: AutoEncoder | ToyTextEncoder, part: str, folder: Path) -> Path:
    """Write one part, "autoencoder" or "text_encoder", with its configuration."""
    with files.updating_folder(folder) as new:
        safetensors_io.save(model.state_dict(), new / f"{part}.safetensors", torch.bfloat16)
        write_json(new / "config.json", {part: asdict(model.config)})
    return folder


# ------------------------------------------------------------------------- editors and transformers


def new_editor(
    sizes: TransformerConfig, text: ToyTextConfig, seed: int = 0, start: str | None = None,
    words: str | None = None,
) -> Editor:  # fmt: skip
    """An editor of some sizes: the weights of `start`, a folder, or none yet (meta).

    words: a folder with a text encoder that is taken instead, whose vocabulary has to be `text`'s.
    Stored weights stay in their file until `prepare` moves them, block by block.
    """
    torch.manual_seed(seed)
    encoder = ToyTextEncoder(text)
    with torch.device("meta"):
        model = Editor(KontextTransformer(sizes), encoder)
    if start:
        for name, module in (("transformer", model.transformer), ("text_encoder", model.text)):
            safetensors_io.load_into(module, stored_part(start, name))
    if words:
        safetensors_io.load_into(model.text, Path(words) / "text_encoder.safetensors")
    return model


def stored_part(start: str, part: str) -> Path:
    """The file of a part of the weights that a training starts from."""
    folder = find_weights(start)
    return part_file(folder, part, own_config(folder))


def new_transformer(sizes: TransformerConfig, start: str | None = None) -> KontextTransformer:
    """A transformer of some sizes: the weights of `start`, or none yet (meta)."""
    with torch.device("meta"):
        model = KontextTransformer(sizes)
    if start:
        if found := layouts.find(start):
            files.tell_if_hidden(start, home())
        own = stored_part(start, "transformer") if not found else None
        safetensors_io.load_into(model, own or found.transformer)
    return model


@torch.no_grad()
def deepen(net: KontextTransformer, single_blocks: int) -> None:
    """Bring a trained transformer to so many single blocks, without changing what it computes.

    The new ones lie evenly between the old, as copies of the one before. Their gates start at 0
    (weight and bias of the last third of their modulation), so each is the identity at first and
    only its gate has a gradient: as adaLN-zero, but from weights that have learned to look. Block
    expansion: LLaMA Pro, arXiv 2401.02415. Raises ConfigError for fewer blocks than there are.
    """
    old, blocks = list(net.single_blocks), []
    more = single_blocks - len(old)
    if more < 0 or (more and not old):
        raise ConfigError(f"single_blocks = {single_blocks}: the teacher has {len(old)}; blocks "
                          "are copied between these, and none is taken away")  # fmt: skip
    for i, block in enumerate(old):
        blocks.append(block)
        for _ in range(i * more // len(old), (i + 1) * more // len(old)):
            blocks.append(copy.deepcopy(block))
            for parameter in blocks[-1].modulation.lin.parameters():
                parameter.chunk(3)[-1].zero_()
    net.single_blocks = nn.ModuleList(blocks)
    net.config = replace(net.config, depth_single_blocks=single_blocks)


def first_weights(seed: int) -> Callable[[str, nn.Module], None]:
    """What sets the weights of a transformer that starts from nothing, module by module."""
    generator = torch.Generator().manual_seed(seed)
    return lambda name, module: init_module(name, module, generator)


# --------------------------------------------------------------------------------------- after


def averaged(loop: Loop, model: nn.Module) -> nn.Module:
    """Put the moving average of the weights, if any, into the model: that is what gets shipped."""
    for name, parameter in model.named_parameters() if loop.ema else ():
        to_local(parameter.data).copy_(to_local(loop.ema[name]))
    return model.eval()


@contextmanager
def for_now_averaged(loop: Loop, model: nn.Module) -> Iterator[nn.Module]:
    """`averaged` within a block; then the live weights are back, bit for bit."""
    before, live = model.training, [p.detach().clone() for p in model.parameters()]
    try:
        yield averaged(loop, model)
    finally:
        for parameter, own in zip(model.parameters(), live, strict=True):
            parameter.data.copy_(own)
        model.train(before)


def gathered(model: nn.Module, world: DistContext) -> nn.Module | None:
    """A whole copy of a sharded editor or transformer for the first process.

    All processes must ask; the others get None.
    """
    if world.size == 1:
        return model
    with torch.device("meta"):
        if isinstance(model, Editor):
            net, text = KontextTransformer(model.transformer.config), model.text
            whole = Editor(net, type(text)(text.config))
        else:
            whole = KontextTransformer(model.config)
    state = {}
    for name, tensor in model.state_dict().items():
        one = full_tensor(tensor)
        if world.rank == 0:
            state[name] = one.cpu()
    if world.rank > 0:
        return None
    whole.load_state_dict(state, assign=True)
    return whole.eval()


def export(model: Editor, autoencoder: AutoEncoder, job: Any, world: DistContext) -> Path:
    """Write the trained modules as a weights folder that `from_pretrained` opens.

    job: gives `output`, `name`, `defaults` and, where it has it, `safety`.
    """
    if one := gathered(model, world):
        name = job.name or "toy"
        pipe = KontextPipeline(one.transformer, autoencoder, one.text, job.defaults, name)
        pipe.safety = chosen(None, getattr(job, "safety", None))
        pipe.save_pretrained(job.output)
    world.wait()
    return Path(job.output)
