"""FLUX weights as they are published: diffusers folders and official single files.

Sizes come from config.json where there is one and from the tensors' shapes where there is none.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext import configs, files, memory, weights
from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.device import use_flash_attention_3
from minikontext.errors import ConfigError, WeightsError
from minikontext.images import KONTEXT_SIZES
from minikontext.text import (
    FluxTextEncoder,
    ToyTextConfig,
    ToyTextEncoder,
    check_encoder,
    load_tokenizers,
    require_encoders,
)
from minikontext.transformer import KontextTransformer, TransformerConfig
from minikontext.weights import StateDict

AUTOENCODER = "ae.safetensors"
# In the names of files that only paint. The shapes do not tell: Kontext has those of [dev].
PAINTERS = re.compile(r"schnell|krea|flux\W?1?\W?dev", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a FLUX model lie: each a file, or a folder in diffusers' layout.

    encoders: the folder that holds text_encoder, text_encoder_2, tokenizer and tokenizer_2.
    edits: takes context images (Kontext). shifted: the schedule moves with the number of tokens.
    """

    name: str
    transformer: Path
    autoencoder: Path
    encoders: Path
    edits: bool
    shifted: bool

    @property
    def files(self) -> list[Path]:
        """The weights files of transformer and autoencoder, which decide what a picture is."""
        return [*weights.files(self.transformer), *weights.files(self.autoencoder)]


def find(place: str | Path) -> Checkpoint | None:
    """Recognise published weights: a folder, or one official file in it. None for anything else.

    Raises WeightsError for a folder that lacks a part or holds several models.
    """
    place = Path(place)
    if not (files.exists(place) or files.is_folder(place)):
        return None
    folder = place if place.is_dir() else place.parent
    transformer = None if _own_config(folder) else _transformer_place(place)
    if transformer is None:
        return None
    kind = _read_json(folder / "model_index.json").get("_class_name", "")
    schedule = _read_json(folder / "scheduler" / "scheduler_config.json")
    guided = transformer_config(transformer).guidance_embed
    return Checkpoint(
        name=folder.name if transformer.is_dir() else transformer.stem,
        transformer=transformer,
        autoencoder=_autoencoder_place(folder),
        encoders=folder,
        edits=kind != "FluxPipeline" if kind else guided and not is_painter(transformer.stem),
        shifted=bool(schedule.get("use_dynamic_shifting", guided)),
    )


def is_painter(name: str) -> bool:
    """Whether an official single file's name says that it takes no context images."""
    return "kontext" not in name.lower() and bool(PAINTERS.search(name))


def load(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, offload: str = "auto"
) -> dict[str, nn.Module]:
    """The three parts of a pipeline, each tensor read straight to where the plan wants it.

    The plan is chosen and printed before anything is read: see `memory.PLANS`. Raises
    WeightsError if a file does not fit the model, NotEnoughMemoryError if no plan fits the device.
    """
    transformer, autoencoder = _sketches(checkpoint)
    available = memory.available_bytes(device)
    plan = memory.choose(plans(checkpoint, dtype), available, offload)
    print(f"{checkpoint.name}: {'edits pictures' if checkpoint.edits else 'only paints'}")
    print(f"memory: {available / memory.GB:.1f} GB on {device}; plan {plan}")
    if use_flash_attention_3(device):
        print("attention: FlashAttention 3")
    return {
        "text_encoder": _load_text(checkpoint, device, dtype, plan),
        "autoencoder": weights.load_into(autoencoder, checkpoint.autoencoder, device, dtype),
        "transformer": _load_transformer(transformer, checkpoint, device, dtype, plan),
    }


def plans(checkpoint: Checkpoint, dtype: torch.dtype) -> list[memory.Plan]:
    """What each memory plan would take for these weights at 1024 × 1024 with one context."""
    return memory.predict(*_sketches(checkpoint), encoder_sizes(checkpoint, dtype), dtype)


def _sketches(checkpoint: Checkpoint) -> tuple[KontextTransformer, AutoEncoder]:
    with torch.device("meta"):
        transformer = KontextTransformer(transformer_config(checkpoint.transformer))
        return transformer, AutoEncoder(autoencoder_config(checkpoint.autoencoder))


def _load_text(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, plan: memory.Plan
) -> FluxTextEncoder:
    folder, length = checkpoint.encoders, text_length(checkpoint)
    if plan.stream_encoders:  # as stored: memory-mapped, and so no load on the host
        return FluxTextEncoder.from_folder(folder, None, length, "cpu").stream(device, dtype)
    return FluxTextEncoder.from_folder(folder, dtype, length, device)


def _load_transformer(
    transformer: KontextTransformer,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    plan: memory.Plan,
) -> KontextTransformer:
    path = checkpoint.transformer
    if not plan.stream_blocks:
        prepare = memory.quantiser(plan.bits)
        return weights.load_into(transformer, path, device, dtype, prepare=prepare)
    weights.load_into(transformer, path, "cpu", None)
    memory.stream(memory.transformer_blocks(transformer), device, dtype, ahead=True)
    for name, part in transformer.named_children():
        if not name.endswith("_blocks"):
            part.to(device, dtype)
    return transformer


def encoder_sizes(checkpoint: Checkpoint, dtype: torch.dtype) -> memory.Encoders:
    """Bytes of the text encoders in dtype, read off the headers: CLIP, and T5 layer by layer."""
    require_encoders(checkpoint.encoders)
    pieces: Counter[str] = Counter()
    for folder, depth in (("text_encoder", 0), ("text_encoder_2", 3)):
        for name, info in weights.inspect(checkpoint.encoders / folder).items():
            piece = ".".join([folder, *name.split(".")[:depth]])  # "encoder.block.7" of T5
            pieces[piece] += math.prod(info.shape) * dtype.itemsize
    return memory.Encoders(pieces.total(), max(pieces.values()))


def save(parts: Mapping[str, nn.Module], folder: Path, dtype: torch.dtype, edits: bool) -> None:
    """Write the parts of a pipeline as a folder that diffusers opens.

    Raises ConfigError for parts that diffusers does not have, OutputError for a place that cannot
    be written.
    """
    text = parts["text_encoder"]
    if not isinstance(text, FluxTextEncoder):
        raise ConfigError(f"diffusers has no {type(text).__name__}: use layout='minikontext'.")
    if packed := [n for n, p in parts["transformer"].named_parameters() if memory.is_packed(p)]:
        raise ConfigError(
            f"{weights.few(packed)}: 8-bit, 4-bit and float8 weights lie in memory only. Load with "
            "offload='resident', 'encoders' or 'stream' to save."
        )
    text.save_pretrained(folder, dtype)
    for part, name, describe in (
        ("autoencoder", "vae", autoencoder_to_json),
        ("transformer", "transformer", transformer_to_json),
    ):
        write_json(folder / name / "config.json", describe(parts[part].config))
        state = weights.to_diffusers(parts[part].state_dict())
        weights.save_shards(state, folder / name / "diffusion_pytorch_model", dtype)
    guided = parts["transformer"].config.guidance_embed
    write_json(folder / "scheduler" / "scheduler_config.json", _schedule(guided))
    write_json(folder / "model_index.json", _model_index(edits))


def convert(source: Path, target: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Rewrite weights between official files and diffusers' layout; returns what was written.

    A folder with text encoders is rewritten as a whole into the other layout; they are copied as
    they are. One part becomes an official file if target ends in .safetensors, else a folder for
    diffusers. Raises WeightsError for what is neither a transformer nor an autoencoder, and
    OutputError; then nothing is left of the target.
    """
    whole = find(source) if files.is_folder(source / "text_encoder") else None
    if whole is None:
        return _convert_part(source, target, dtype)
    if target.suffix == ".safetensors":
        raise ConfigError(
            f"{source} is a whole model; {target} would hold one part. Name a folder."
        )
    with files.replacing_folder(target) as temporary:
        written = _convert_whole(whole, temporary, dtype)
    return [target / path.relative_to(temporary) for path in written]


def _convert_whole(whole: Checkpoint, target: Path, dtype: torch.dtype | None) -> list[Path]:
    guided = transformer_config(whole.transformer).guidance_embed
    if whole.transformer.is_dir():
        name = "kontext-dev" if whole.edits else "dev" if guided else "schnell"
        written = _convert_part(whole.transformer, target / f"flux1-{name}.safetensors", dtype)
        written += _convert_part(whole.autoencoder, target / AUTOENCODER, dtype)
    else:
        written = _convert_part(whole.transformer, target / "transformer", dtype)
        written += _convert_part(whole.autoencoder, target / "vae", dtype)
        write_json(target / "scheduler" / "scheduler_config.json", _schedule(guided))
        write_json(target / "model_index.json", _model_index(whole.edits))
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        written.append(shutil.copytree(whole.encoders / part, target / part))
    return written


def _convert_part(source: Path, target: Path, dtype: torch.dtype | None) -> list[Path]:
    kind = kind_of(weights.inspect(source))
    if kind == "transformer":
        config, describe = transformer_config(source), transformer_to_json
    elif kind == "autoencoder":
        config, describe = autoencoder_config(source), autoencoder_to_json
    else:
        raise WeightsError(f"{source} holds a {kind}; expected a transformer or an autoencoder.")
    written = weights.convert(source, target, dtype)
    if target.suffix != ".safetensors":
        write_json(target / "config.json", describe(config))
    return written


def _schedule(shifted: bool) -> dict[str, Any]:
    """FLUX's line of mu over the tokens, in diffusers' words; [schnell] has none."""
    line = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256}
    line |= {"max_image_seq_len": 4096, "shift": 3.0 if shifted else 1.0}
    kind = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    return kind | line | {"use_dynamic_shifting": shifted}


def _model_index(edits: bool) -> dict[str, Any]:
    return {
        "_class_name": "FluxKontextPipeline" if edits else "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def defaults(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a call uses where it says nothing: the official steps, guidance and sizes.

    Kontext was published with one context image; that it takes two is known from use.
    """
    guided = transformer_config(checkpoint.transformer).guidance_embed
    return {
        "num_inference_steps": 28 if guided else 4,
        "guidance_scale": (2.5 if checkpoint.edits else 3.5) if guided else None,
        "width": 1024,
        "height": 1024,
        "max_contexts": 2 if checkpoint.edits else 0,
        "shifted": checkpoint.shifted,
        "sizes": KONTEXT_SIZES,
    }


def text_length(checkpoint: Checkpoint) -> int:
    """T5 tokens of a prompt: 512, and 256 for [schnell]."""
    return 512 if transformer_config(checkpoint.transformer).guidance_embed else 256


# ---- places ---------------------------------------------------------------------------------


def _transformer_place(place: Path) -> Path | None:
    if place.suffix == ".safetensors" and files.exists(place):
        return place
    if files.is_folder(place / "transformer"):
        return place / "transformer"
    singles = [file for file in sorted(place.glob("*.safetensors")) if file.name != AUTOENCODER]
    if len(singles) > 1:
        names = ", ".join(file.name for file in singles)
        raise WeightsError(f"{place} holds several models ({names}). Give the path of one file.")
    if not singles and files.exists(place / "model_index.json"):
        raise WeightsError(f"{place} lacks the folder transformer. Complete the download.")
    return singles[0] if singles else None


def _autoencoder_place(folder: Path) -> Path:
    for place in (folder / "vae", folder / AUTOENCODER):
        if place.exists():
            return place
    raise WeightsError(f"{folder} has neither the folder vae nor {AUTOENCODER}: download one.")


# ---- what the command shows -----------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What the headers of one part say; nothing else is read."""

    place: Path
    kind: str
    names: str
    tensors: int
    parameters: int
    size: int
    dtypes: dict[str, int]

    def __str__(self) -> str:
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        return (
            f"{self.place}\n  {self.kind}, {self.names} names\n  {self.tensors:,} tensors "
            f"({dtypes}), {self.parameters:,} parameters, {self.size / memory.GB:.3f} GB"
        )


def parts(place: str | Path) -> list[Path]:
    """The parts of a published model or of our own folder, or the place itself if it is one."""
    place = Path(place)
    if _own_config(place):
        return sorted(place.glob("*.safetensors"))
    found = None if weights.is_part(place) else find(place)
    if found is None:
        return [place]
    encoders = (found.encoders / name for name in ("text_encoder", "text_encoder_2"))
    return [found.transformer, found.autoencoder, *(x for x in encoders if x.is_dir())]


def summarise(place: Path) -> Summary:
    """Read the headers of one part. Raises WeightsError."""
    header = weights.Reader(place).header
    return Summary(
        place=place,
        kind=kind_of(header),
        names="diffusers" if weights.is_diffusers(header) else "official",
        tensors=len(header),
        parameters=sum(math.prod(info.shape) for info in header.values()),
        size=sum(file.stat().st_size for file in weights.files(place)),
        dtypes=dict(Counter(info.dtype for info in header.values())),
    )


def kind_of(names: Iterable[str]) -> str:
    """What a part is, told by names that nothing else has."""
    names = list(names)
    return next((kind for mark, kind in _MARKS.items() if any(mark in n for n in names)), "unknown")


_MARKS = {
    "lora_": "LoRA",
    "single_blocks.": "transformer",
    "single_transformer_blocks.": "transformer",
    "encoder.block.": "T5",
    "token_embedding": "CLIP",
    "decoder.conv_in": "autoencoder",
}


def verify_words(place: str | Path) -> Path | None:
    """Read the tokenizers of a published model, if it is one, and look for its text encoders.

    -> the folder that they are in. Raises WeightsError for what is missing or damaged.
    """
    found = None if _own_config(Path(place)) or weights.is_part(Path(place)) else find(place)
    if found is None:
        return None
    require_encoders(found.encoders)
    load_tokenizers(found.encoders)
    return found.encoders


def verify(place: Path) -> int:
    """Check one part: header against file size, every tensor accounted for. -> how many tensors.

    Raises WeightsError that says what is wrong.
    """
    reader = weights.Reader(place)
    if kind_of(reader.header) in ("T5", "CLIP"):
        check_encoder(place, reader)
    else:
        weights.check(_sketch(place, kind_of(reader.header)), reader)
    return len(reader.header)


_OWN = {
    "transformer": (KontextTransformer, TransformerConfig),
    "autoencoder": (AutoEncoder, AutoEncoderConfig),
    "text_encoder": (ToyTextEncoder, ToyTextConfig),
}


def _sketch(place: Path, kind: str) -> nn.Module:
    """The module that a part is for, on the meta device."""
    own = _own_config(place.parent)
    with torch.device("meta"):
        if isinstance(own.get(place.stem), dict) and place.stem in _OWN:
            module, config = _OWN[place.stem]
            return module(configs.build(config, own[place.stem], error=WeightsError))
        if kind == "autoencoder":
            return AutoEncoder(autoencoder_config(place))
        return KontextTransformer(transformer_config(place))


def _own_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder that `save_pretrained` wrote in our own layout, else empty."""
    config = _read_json(folder / "config.json")
    return config if config.get("format") == "minikontext" else {}


# ---- sizes ----------------------------------------------------------------------------------


def transformer_config(place: Path) -> TransformerConfig:
    """Sizes of a transformer: from a folder's config.json, or from a file's shapes.

    Raises WeightsError if it is no FLUX transformer.
    """
    if place.is_dir():
        return _from_json(place, "FluxTransformer2DModel", _transformer_from_json)
    return _from_shapes(place, "transformer", transformer_from_shapes)


def autoencoder_config(place: Path) -> AutoEncoderConfig:
    """Sizes of an autoencoder: from a folder's config.json, or from a file's shapes.

    Raises WeightsError if it is no autoencoder of FLUX's kind.
    """
    if place.is_dir():
        return _from_json(place, "AutoencoderKL", _autoencoder_from_json)
    return _from_shapes(place, "autoencoder", autoencoder_from_shapes)


def transformer_from_shapes(state: StateDict) -> TransformerConfig:
    """Read the sizes off the shapes of official tensors, (out, in) for a linear layer.

    The rotary axes leave no trace in the shapes: they take FLUX's shares, 1/8 and twice 7/16.
    """
    first = "double_blocks.0.img_attn."
    width, in_channels = state["img_in.weight"].shape
    head = state[first + "norm.query_norm.scale"].shape[0]
    if head % 32:
        raise WeightsError(f"Heads of {head} channels: FLUX's rotary axes need a multiple of 32.")
    return configs.make(
        TransformerConfig,
        in_channels=in_channels,
        out_channels=state["final_layer.linear.weight"].shape[0],
        vec_in_dim=state["vector_in.in_layer.weight"].shape[1],
        context_in_dim=state["txt_in.weight"].shape[1],
        hidden_size=width,
        mlp_ratio=state["double_blocks.0.img_mlp.0.weight"].shape[0] / width,
        num_heads=width // head,
        depth=weights.count(state, "double_blocks."),
        depth_single_blocks=weights.count(state, "single_blocks."),
        axes_dim=(head // 8, head * 7 // 16, head * 7 // 16),
        theta=10_000,
        qkv_bias=first + "qkv.bias" in state,
        guidance_embed="guidance_in.in_layer.weight" in state,
    )


def autoencoder_from_shapes(state: StateDict) -> AutoEncoderConfig:
    """Read the sizes off the shapes; the two factors are those of all FLUX.1 models."""
    ch, in_channels = state["encoder.conv_in.weight"].shape[:2]
    levels = weights.count(state, "encoder.down.")
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    flux = AutoEncoderConfig.flux()
    return configs.make(
        AutoEncoderConfig,
        resolution=flux.resolution,
        in_channels=in_channels,
        ch=ch,
        out_ch=state["decoder.conv_out.weight"].shape[0],
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=weights.count(state, "encoder.down.0.block."),
        z_channels=state["decoder.conv_in.weight"].shape[1],
        scale_factor=flux.scale_factor,
        shift_factor=flux.shift_factor,
    )


def _transformer_from_json(c: Mapping[str, Any]) -> TransformerConfig:
    configs.require(c, {"num_attention_heads": int, "attention_head_dim": int})
    return configs.make(
        TransformerConfig,
        in_channels=c["in_channels"],
        out_channels=c.get("out_channels") or c["in_channels"],
        vec_in_dim=c["pooled_projection_dim"],
        context_in_dim=c["joint_attention_dim"],
        hidden_size=c["num_attention_heads"] * c["attention_head_dim"],
        mlp_ratio=4.0,
        num_heads=c["num_attention_heads"],
        depth=c["num_layers"],
        depth_single_blocks=c["num_single_layers"],
        axes_dim=c.get("axes_dims_rope") or (16, 56, 56),  # absent from the first published files
        theta=10_000,
        qkv_bias=True,
        guidance_embed=c.get("guidance_embeds", False),
    )


def transformer_to_json(c: TransformerConfig) -> dict[str, Any]:
    """diffusers' config.json of a FluxTransformer2DModel. Raises ConfigError for other shapes."""
    if (c.mlp_ratio, c.theta, c.qkv_bias) != (4.0, 10_000, True):
        raise ConfigError(f"diffusers has no place for mlp_ratio, theta or qkv_bias of {c}.")
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "pooled_projection_dim": c.vec_in_dim,
        "joint_attention_dim": c.context_in_dim,
        "num_attention_heads": c.num_heads,
        "attention_head_dim": c.hidden_size // c.num_heads,
        "num_layers": c.depth,
        "num_single_layers": c.depth_single_blocks,
        "axes_dims_rope": c.axes_dim,
        "guidance_embeds": c.guidance_embed,
    }


def _autoencoder_from_json(c: Mapping[str, Any]) -> AutoEncoderConfig:
    configs.require(c, {"block_out_channels": tuple[int, ...]})
    widths = c["block_out_channels"]
    return configs.make(
        AutoEncoderConfig,
        resolution=c.get("sample_size", 1024),
        in_channels=c["in_channels"],
        ch=widths[0],
        out_ch=c["out_channels"],
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=c["layers_per_block"],
        z_channels=c["latent_channels"],
        scale_factor=c["scaling_factor"],
        shift_factor=c["shift_factor"],
        norm_groups=c["norm_num_groups"],
    )


def autoencoder_to_json(c: AutoEncoderConfig) -> dict[str, Any]:
    """diffusers' config.json of an AutoencoderKL."""
    levels = len(c.ch_mult)
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": c.resolution,
        "in_channels": c.in_channels,
        "out_channels": c.out_ch,
        "block_out_channels": [c.ch * m for m in c.ch_mult],
        "layers_per_block": c.num_res_blocks,
        "latent_channels": c.z_channels,
        "scaling_factor": c.scale_factor,
        "shift_factor": c.shift_factor,
        "norm_num_groups": c.norm_groups,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def _from_json(folder: Path, kind: str, build: Any) -> Any:
    config = _read_json(folder / "config.json")
    if config.get("_class_name") != kind:
        raise WeightsError(
            f"{folder} should hold a {kind}, but its config.json says "
            f"{config.get('_class_name')!r}. Use FLUX.1 weights, completely downloaded."
        )
    try:
        return build(config)
    except (LookupError, ArithmeticError, TypeError, ConfigError) as error:
        raise WeightsError(
            f"{folder}/config.json does not describe a {kind}: {error!r}."
        ) from error


def _from_shapes(file: Path, kind: str, build: Any) -> Any:
    state = weights.official_sketch(file)
    try:
        return build(state)
    except (LookupError, ArithmeticError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{file} holds no FLUX {kind}, or half of one: {error}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return configs.read_json(path, WeightsError, "Download it again.") if files.exists(path) else {}
