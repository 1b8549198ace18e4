"""Two towers, as in CLIP (Radford et al., 2021): pictures and captions as arrows in one space.

A picture and what is said of it point the same way. To classify, nothing is trained any more: the
classes are written down as captions, and the nearest one wins. Here that is the toy world's safety
filter; `ZeroShot` works for any other classes just as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import MaxLen
from PIL import Image
from torch import Tensor, nn

from minikontext import images
from minikontext.errors import ConfigError, WeightsError
from minikontext.pretrained import safetensors_io
from minikontext.runtime import files
from minikontext.runtime.bounds import Side
from minikontext.runtime.config import build_config, write_json
from minikontext.runtime.tiling import starts
from minikontext.safety.filters import FORMAT, FORMAT_VERSION, Safety, read_threshold
from minikontext.text import LETTERS, ToyTextConfig, ToyTextEncoder, split_prompt

KIND = "clip"  # in config.json: of the filter, of its sizes, and the name of the file
OLD_KIND = "towers"  # what version 0.1 wrote
MAX_SCALE = 100.0  # CLIP's bound: the temperature is never below 1/100
MAX_SIDE = 1024  # pixels: what classifies thumbnails needs no more


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of both encoders; `text.pooled` is the dimension of the shared space."""

    text: ToyTextConfig = field(default_factory=ToyTextConfig)
    side: Side = 64
    channels: Annotated[tuple[Side, ...], MaxLen(16)] = (32, 64, 128, 192)
    groups: Side = 8

    def __post_init__(self) -> None:
        groups = self.groups > 0 and all(c > 0 and c % self.groups == 0 for c in self.channels)
        if not groups or not self.channels or not 0 < self.side <= MAX_SIDE:
            raise ConfigError(
                f"side {self.side}, channels {self.channels}, groups {self.groups}: expected up to "
                f"{MAX_SIDE} pixels, and whole groups of channels."
            )


class Block(nn.Module):
    """Halve the sides, then one residual convolution: (b, c, h, w) -> (b, d, h/2, w/2)."""

    def __init__(self, c: int, d: int, groups: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(c, d, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(groups, d), nn.GroupNorm(groups, d)
        self.conv = nn.Conv2d(d, d, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of half the sides."""
        x = F.silu(self.norm1(self.down(x)))
        return x + F.silu(self.norm2(self.conv(x)))


class ImageTower(nn.Module):
    """Pixels (b, 3, side, side) in [-1, 1] to features (b, dim): convolutions, then two poolings.

    The mean sees how much of something there is, the maximum whether it is anywhere.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        sizes = (3, *config.channels)
        self.blocks = nn.ModuleList(
            Block(c, d, config.groups) for c, d in zip(sizes, config.channels)
        )
        self.out = nn.Linear(2 * config.channels[-1], config.text.pooled)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features that are not yet of length 1."""
        x = pixels
        for block in self.blocks:
            x = block(x)
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


class TwoTowers(nn.Module):
    """Image tower, caption tower and the learned scale (one over the temperature)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.text = ImageTower(config), ToyTextEncoder(config.text)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by before the softmax."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (b, 3, side, side) in [-1, 1] to arrows of length 1, (b, dim)."""
        return F.normalize(self.image(pixels).float(), dim=-1)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Token ids (b, m) to arrows of length 1, (b, dim)."""
        return F.normalize(self.text(token_ids).pooled.float(), dim=-1)

    @torch.no_grad()
    def embed_images(self, pictures: Sequence[Image.Image], batch: int = 256) -> Tensor:
        """Pictures of any size, squeezed to the tower's square so that nothing is cut away."""
        side = (self.config.side,) * 2
        small = [
            p.convert("RGB") if p.size == side else p.convert("RGB").resize(side, Image.BICUBIC)
            for p in pictures
        ]
        batches = [small[i : i + batch] for i in range(0, len(small), batch)]
        where = self.log_scale.device
        return torch.cat([self.embed_pixels(images.to_tensor(some).to(where)) for some in batches])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Captions or prompts; words that it does not know count as unknown ones."""
        return self.embed_tokens(self.text.tokenize(texts).to(self.log_scale.device))


def contrastive_loss(a: Tensor, b: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: row i of a (n, d) belongs to row i of b, and to no other.

    L = (CE(scale a b^T) + CE(scale b a^T)) / 2. `same` (n, n) marks further rows that are the same
    and so no wrong answers; they share the target.
    """
    eye = torch.eye(len(a), device=a.device) if same is None else same.float()
    target = eye / eye.sum(1, keepdim=True)
    logits = scale * a @ b.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class ZeroShot:
    """The share of forbidden captions among all captions, as a softmax over cosines: a score.

    With `of="image"` it scores pictures, with "text" prompts by the caption tower alone.
    """

    def __init__(
        self, clip: TwoTowers, forbidden: Sequence[str], others: Sequence[str],
        threshold: float = 0.5, of: str = "image",
    ) -> None:  # fmt: skip
        self.clip, self.threshold, self.of = clip.eval(), threshold, of
        self.forbidden, self.others = tuple(forbidden), tuple(others)
        self.reason = " or ".join(self.forbidden)
        self.classes = clip.embed_texts([*self.forbidden, *self.others])

    def score(self, items: Sequence[Any]) -> list[float]:
        """How likely each picture shows, or each prompt asks for, one of the forbidden captions.

        A prompt longer than the tower reads is scored in overlapping pieces, and the worst counts:
        an editor may read further than its filter.
        """
        parts = [[one] if self.of == "image" else self._pieces(one) for one in items]
        shares = self.probabilities([part for some in parts for part in some])
        scores = shares[:, : len(self.forbidden)].sum(1)
        return [float(some.max()) for some in scores.split([len(some) for some in parts])]

    def _pieces(self, prompt: str) -> list[str]:
        """A prompt as it is, or in parts that the caption tower reads to their ends."""
        text = self.clip.text
        found, room = split_prompt(prompt, text.config.vocabulary), text.max_length - 1  # an <end>
        if len(found) <= room or room < 1:
            return [prompt]
        words = [f'"{one.source}"' if one.token in LETTERS else one.source for one in found]
        return [" ".join(words[i : i + room]) for i in starts(len(words), room, room // 2)]

    @torch.no_grad()
    def probabilities(self, items: Sequence[Any]) -> Tensor:
        """For each item the share of every caption, forbidden ones first, (n, classes)."""
        embed = self.clip.embed_images if self.of == "image" else self.clip.embed_texts
        return (self.clip.scale * embed(items) @ self.classes.T).softmax(dim=-1)


# ---------------------------------------------------------------- files
def load_clip(folder: Path, config: dict[str, Any]) -> TwoTowers:
    """The model of a filter's folder. Raises WeightsError if file and sizes do not fit."""
    kind = OLD_KIND if config.get("kind") == OLD_KIND else KIND
    try:
        sizes = build_config(ClipConfig, config[kind])
        with torch.device("meta"):
            model = TwoTowers(sizes)
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder}/config.json: no sizes of a CLIP: {error}.") from error
    path = folder / f"{kind}.safetensors"
    return safetensors_io.load_into(model, path, "cpu", torch.float32).eval()


def load_safety(folder: Path, config: dict[str, Any]) -> Safety:
    """The toy's filters: both encoders on pictures, the caption encoder alone on prompts."""
    model = load_clip(folder, config)
    lists = [config.get("forbidden"), config.get("others")]
    if not all(isinstance(x, list) and x and all(isinstance(t, str) for t in x) for x in lists):
        raise WeightsError(f"{folder}/config.json lacks the captions 'forbidden' and 'others'.")
    limits = config.get("thresholds")
    if not isinstance(limits, dict):
        raise WeightsError(f"{folder}/config.json has thresholds {limits!r:.80}; expected two.")
    prompt, image = (
        read_threshold(limits.get(name), f"{folder}/config.json, {name}")
        for name in ("prompt", "image")
    )
    return Safety(
        ZeroShot(model, *lists, prompt, of="text"), ZeroShot(model, *lists, image), name=folder.name
    )


def save_safety(
    model: TwoTowers, folder: Path, forbidden: Sequence[str], others: Sequence[str],
    thresholds: dict[str, float],
) -> Path:  # fmt: skip
    """Write a folder that `safety.load` reads: config.json and clip.safetensors in bfloat16."""
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": KIND}
    config |= {"forbidden": list(forbidden), "others": list(others), "thresholds": thresholds}
    config |= {KIND: asdict(model.config)}
    with files.updating_folder(folder) as new:
        safetensors_io.save(model.state_dict(), new / f"{KIND}.safetensors", torch.bfloat16)
        write_json(new / "config.json", config)
    return folder
