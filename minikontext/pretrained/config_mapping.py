"""Sizes of a model: from diffusers' config.json, or read off the tensors' shapes; and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minikontext.autoencoder import AutoEncoderConfig
from minikontext.errors import ConfigError, WeightsError
from minikontext.pretrained import key_mapping, purpose, safetensors_io
from minikontext.pretrained.key_mapping import StateDict
from minikontext.runtime.config import make_config, read_json_if_there, require_entries
from minikontext.transformer import TransformerConfig


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
    return make_config(
        TransformerConfig,
        in_channels=in_channels,
        out_channels=state["final_layer.linear.weight"].shape[0],
        vec_in_dim=state["vector_in.in_layer.weight"].shape[1],
        context_in_dim=state["txt_in.weight"].shape[1],
        hidden_size=width,
        mlp_ratio=state["double_blocks.0.img_mlp.0.weight"].shape[0] / width,
        num_heads=width // head,
        depth=key_mapping.count(state, "double_blocks."),
        depth_single_blocks=key_mapping.count(state, "single_blocks."),
        axes_dim=(head // 8, head * 7 // 16, head * 7 // 16),
        theta=10_000,
        qkv_bias=first + "qkv.bias" in state,
        guidance_embed="guidance_in.in_layer.weight" in state,
    )


def autoencoder_from_shapes(state: StateDict) -> AutoEncoderConfig:
    """Read the sizes off the shapes; the two factors are those of all FLUX.1 models."""
    ch, in_channels = state["encoder.conv_in.weight"].shape[:2]
    levels = key_mapping.count(state, "encoder.down.")
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    flux = AutoEncoderConfig.flux()
    return make_config(
        AutoEncoderConfig,
        resolution=flux.resolution,
        in_channels=in_channels,
        ch=ch,
        out_ch=state["decoder.conv_out.weight"].shape[0],
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=key_mapping.count(state, "encoder.down.0.block."),
        z_channels=state["decoder.conv_in.weight"].shape[1],
        scale_factor=flux.scale_factor,
        shift_factor=flux.shift_factor,
    )


def _transformer_from_json(c: Mapping[str, Any]) -> TransformerConfig:
    require_entries(c, {"num_attention_heads": int, "attention_head_dim": int})
    _require_usual(c, patch_size=1)
    return make_config(
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
    require_entries(c, {"block_out_channels": tuple[int, ...]})
    _require_usual(c, act_fn="silu", latents_mean=None, latents_std=None)
    widths = c["block_out_channels"]
    if not 1 <= len(widths) <= 16:
        raise ConfigError(f"{len(widths)} levels; expected 1 to 16")
    return make_config(
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


def _require_usual(c: Mapping[str, Any], **usual: Any) -> None:
    """Raise ConfigError for an entry that would change the result, and is not looked at here."""
    for name, value in usual.items():
        if c.get(name, value) != value:
            raise ConfigError(f"{name} = {c[name]!r:.80}; FLUX.1 has {value!r}")


def _from_json(folder: Path, kind: str, build: Any) -> Any:
    config = read_json_if_there(folder / "config.json")
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
    if what := purpose.foreign_kind(safetensors_io.inspect(file)):
        raise WeightsError(f"{file} holds {what}. {purpose.INSTEAD}")
    state = safetensors_io.official_sketch(file, kind)
    try:
        return build(state)
    except (LookupError, ArithmeticError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        wanted = f".{error.args[0]}" if isinstance(error, KeyError) else "."
        if longer := next((name for name in state if name.endswith(wanted)), None):
            raise WeightsError(
                f"{file} has names that begin with {longer.removesuffix(wanted[1:])!r:.80}, as no "
                "tool does that is known here. Save it without that beginning."
            ) from error
        raise WeightsError(f"{file} holds no FLUX {kind}, or half of one: {error}") from error
