"""What weights are for, and whether their parts fit each other: asked before anything is loaded.

FLUX.1's files look alike. Kontext edits, [dev] and [schnell] paint; Fill, Canny, Depth and other
Control models take a mask or a picture of edges beside the noise in their first matrix, and Redux
and ControlNets are further nets. What a diffusers folder is for stands in its model_index.json;
of a single file the first matrix tells, or names of tensors that nothing else has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from minikontext.autoencoder import AutoEncoderConfig
from minikontext.denoiser import PATCH
from minikontext.errors import WeightsError
from minikontext.transformer import TransformerConfig

# `_class_name` of model_index.json: whether such a folder edits (True) or only paints (False).
# Img2Img and Inpaint run text-to-image weights in another loop, so their weights paint.
OPENED = {
    "FluxKontextPipeline": True,
    "FluxKontextInpaintPipeline": True,
    "FluxPipeline": False,
    "FluxImg2ImgPipeline": False,
    "FluxInpaintPipeline": False,
}
INSTEAD = "Use FLUX.1 Kontext to edit pictures, or FLUX.1 [dev] or [schnell] to paint them."
FILL = "FLUX.1 Fill, which fills a mask"
CONTROL = "FLUX.1 Canny, Depth or another Control model, which follows a picture of edges or depths"
REDUX = "FLUX.1 Redux, which turns a picture into a prompt"
CONTROLNET = "a ControlNet, which runs beside a whole model"
_REFUSED = {
    "FluxFill": FILL,
    "FluxControlNet": CONTROLNET,
    "FluxControl": CONTROL,
    "FluxPriorRedux": REDUX,
}
# Names of tensors, or parts of them, that only a model of another kind has.
_FOREIGN = {
    "redux_up.": REDUX,
    "redux_down.": REDUX,
    "controlnet_": CONTROLNET,
    "input_hint_block.": CONTROLNET,
    "ip_adapter": "an IP adapter, which runs beside a whole model",
    "double_stream_modulation_": "FLUX.2",
    "joint_blocks.": "Stable Diffusion 3",
    "input_blocks.": "a U-Net of Stable Diffusion",
    "down_blocks.0.attentions.": "a U-Net of Stable Diffusion",
    "distilled_guidance_layer.": "Chroma",
}


def foreign_kind(names: Iterable[str]) -> str | None:
    """What a file holds that this package does not run, by its tensors' names; None if unknown."""
    names = list(names)
    marks = (mark for mark in _FOREIGN if any(mark in name for name in names))
    mark = next(marks, None)
    return None if mark is None else _FOREIGN[mark]


def describe(edits: bool, made_for: str = "") -> str:
    """What opened weights are used for here, and what of their own pipeline is left out."""
    what = "edits pictures" if edits else "only paints"
    left = next((text for name, text in _LEFT_OUT.items() if name in made_for), None)
    return f"{what} (made for {made_for}, whose {left})" if left else what


_LEFT_OUT = {
    "Inpaint": "masks are not used here",
    "Img2Img": "start from a picture is not used here",
}


# What a scheduler's config may say: FLUX's Euler steps. All else is another sampler.
_SCHEDULE = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000,
    "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096,
    "invert_sigmas": False, "use_karras_sigmas": False, "use_exponential_sigmas": False,
    "use_beta_sigmas": False, "shift_terminal": None, "time_shift_type": "exponential",
    "stochastic_sampling": False,
}  # fmt: skip


def odd_schedule(schedule: Mapping[str, Any]) -> list[str]:
    """What a scheduler_config.json says that is not followed here; pictures then differ."""
    usual = _SCHEDULE if schedule.get("use_dynamic_shifting") else _SCHEDULE | {"shift": 1.0}
    found = [name for name, value in usual.items() if schedule.get(name, value) != value]
    return [f"{name} = {schedule[name]!r:.60}" for name in found]


def class_problem(class_name: Any) -> str | None:
    """Why a folder whose model_index.json says this is not opened; None if it is."""
    if not class_name or (isinstance(class_name, str) and class_name in OPENED):
        return None
    starts = (s for s in _REFUSED if isinstance(class_name, str) and class_name.startswith(s))
    what = next((_REFUSED[start] for start in starts), "another model than FLUX.1")
    return f"is for {class_name!r:.80}: {what}"


def transformer_problem(c: TransformerConfig) -> str | None:
    """Why a transformer cannot be sampled: its tokens go in wider than they come out.

    Fill's tokens hold noise, masked picture and mask (64 + 64 + 256 channels), those of Control
    models noise and control picture (64 + 64).
    """
    if c.in_channels == c.out_channels:
        return None
    kinds = {6: FILL, 2: CONTROL}
    whole = c.in_channels % c.out_channels == 0
    what = kinds.get(c.in_channels // c.out_channels) if whole else None
    text = f"takes tokens of {c.in_channels} channels and gives back {c.out_channels}"
    return f"{text}: {what or 'no editor and no painter'}"


def require_fit(
    place: object,
    transformer: TransformerConfig,
    autoencoder: AutoEncoderConfig,
    tokens: int | None,
    pooled: int | None,
) -> None:
    """Check that parts belong together before any is loaded; a width None is not known.

    tokens, pooled: channels of the text encoders' two outputs. Raises WeightsError that says which
    two parts do not fit.
    """
    if problem := transformer_problem(transformer):
        raise WeightsError(f"{place}: the transformer {problem}. {INSTEAD}")
    z, wide = autoencoder.z_channels, autoencoder.z_channels * PATCH**2
    if transformer.in_channels != wide:
        raise WeightsError(
            f"{place}: the autoencoder has {z} channels, {wide} in a token of {PATCH} × {PATCH}, "
            f"but the transformer takes {transformer.in_channels}. Use parts of one model."
        )
    for what, got, wanted in (
        ("T5's features", tokens, transformer.context_in_dim),
        ("CLIP's vector", pooled, transformer.vec_in_dim),
    ):
        if got not in (None, wanted):
            raise WeightsError(
                f"{place}: {what} {'have' if what[0] == 'T' else 'has'} {got} channels, but the "
                f"transformer takes {wanted}. Use the text encoders of this model."
            )
