"""Guidance distillation, the paper's [dev]: one pass that knows how strongly to follow the words.

Classifier-free guidance asks the model twice at every step. A student with the scale `w` as an
input learns to give the combined answer at once (Meng and others, arXiv 2210.03142). The range of w
that FLUX.1 Kontext [dev] was trained with is not published; ours is a dial.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from minikontext import flow
from minikontext.denoiser import PATCH
from minikontext.distillation import losses
from minikontext.errors import ConfigError
from minikontext.layers import timestep_embedding
from minikontext.runtime.bounds import Scale
from minikontext.runtime.device import mixed_precision
from minikontext.training.editor import Batches, Editor
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.stream import Inputs
from minikontext.training.world_editor import TimesBySize
from minikontext.transformer import KontextTransformer


@dataclass(frozen=True)
class GuidanceLossConfig(TimesBySize):
    """The dials of the distillation: w is drawn uniformly from `low` to `high`.

    Contexts lie where the teacher has learned to see them.
    """

    low: Scale = 1.0
    high: Scale = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high:
            raise ConfigError(f"low={self.low}, high={self.high}: expected 0 <= low < high")


def student_of(teacher: Editor) -> Editor:
    """A copy of the teacher with an input for w, which at first changes nothing."""
    sizes = replace(teacher.transformer.config, guidance_embed=True)
    text = type(teacher.text)(teacher.text.config)
    student = Editor(KontextTransformer(sizes), text, teacher.layout)
    weights = student.state_dict() | teacher.state_dict()
    student.load_state_dict(weights)
    # Zeros at the end, as in LoRA: at first the student answers as the teacher does.
    last = student.transformer.guidance_in.out_layer
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return student.to(next(teacher.parameters()).device)


@torch.no_grad()
def fixed_at(student: Editor, w: float) -> Editor:
    """The student with its dial held at w: an editor without that input, and the same answers.

    What w adds to the modulation is then a constant, so it moves into the bias of the time's part.
    """
    old = student.transformer
    sizes = replace(old.config, guidance_embed=False)
    text = type(student.text)(student.text.config)
    held = Editor(KontextTransformer(sizes), text, student.layout)
    weights = student.state_dict()
    held.load_state_dict({k: v for k, v in weights.items() if ".guidance_in." not in k})
    scale = torch.tensor([w], device=next(old.parameters()).device)
    constant = old.guidance_in(timestep_embedding(scale))[0]
    held.transformer.time_in.out_layer.bias.add_(constant.cpu())
    return held.to(scale.device)


@torch.no_grad()
def guided_velocity(
    teacher: Editor, z: Tensor, t: Tensor, words: Tensor, null: Tensor, contexts: list[Tensor],
    w: Tensor,
) -> Tensor:  # fmt: skip
    """What two passes of the teacher give: `v_0 + w (v_c - v_0)`, (b, c, h, w).

    v_c has the words, v_0 the empty prompt `null` (m,); both see the contexts. w (b,).
    """
    with_words = teacher(z, t, words, contexts)
    without = teacher(z, t, null.to(words).expand_as(words), contexts)
    return losses.guided(without, with_words, w)


def guidance_loss(
    student: Editor, teacher: Editor, source: Inputs | Batches, null: Tensor,
    config: GuidanceLossConfig, device: torch.device,
) -> LossFunction:  # fmt: skip
    """The loss of a step: mean square between one pass of the student and two of the teacher.

    Like [dev], the student learns image-to-image alone: raises ConfigError for text-to-image.
    """

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 9_000_011 + step)
        x, words, contexts = source.inputs(step, draw)
        if not contexts:
            raise ConfigError("[stream] contexts: leave out 0, this distillation is of edits alone")
        noise = torch.randn(x.shape, generator=draw)
        t = config.times(len(x), x.shape[-2] * x.shape[-1] // PATCH**2, draw)
        w = config.low + (config.high - config.low) * torch.rand(len(x), generator=draw)
        x, words, noise, t, w, *contexts = microbatch.to(device, x, words, noise, t, w, *contexts)
        z = flow.interpolate(x, noise, t)
        with mixed_precision(device, config.bf16):
            right = guided_velocity(teacher, z, t, words, null, contexts, w)
            v = student(z, t, words, contexts, guidance=w)
        value = losses.guidance_loss(v, right)
        return value, {"mse": float(value.detach())}

    return loss
