"""The reader's network: pixels of any size to one answer for every attribute of a scene.

Convolutions and group norms only, so it takes every size. A picture is first brought to a shorter
side of 64 pixels: a world unit is then a pixel, however large the picture was. Each question (which
species? which third letter?) looks at places of its own through a softmax over all positions; the
coordinates are among its inputs, since left and right are questions of place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from minikontext.errors import WeightsError
from minikontext.pretrained import safetensors_io
from minikontext.runtime.bounds import Share, Side
from minikontext.runtime.config import build_config, read_json, write_json
from minikontext.runtime.files import shipped, updating_folder
from minikontext.toyworld.scene import CHOICES, COLOURED, COLOURLESS, LETTERS, MAX_SIGN, Scene

HOME = shipped("data", "reader")
FORMAT = "minikontext-reader"
SIDE = 64  # pixels of the shorter side, as the network sees it
UNSEEN = -1  # the answer to a question that a picture cannot answer

# What is asked, and how many answers each question has.
QUESTIONS: dict[str, int] = {
    **{name: len(values) for name, values in CHOICES.items()},
    "length": MAX_SIGN + 1,
    **{f"letter_{i}": len(LETTERS) for i in range(MAX_SIGN)},
}


# Questions of one kind differ only in where they look: one layer answers them all.
KIND = {"right": "left", "right_colour": "left_colour"}
KIND |= {f"letter_{i}": "letter_0" for i in range(1, MAX_SIGN)}
ILLEGIBLE = ("pixel",)  # styles in which a sign's length can be seen, and no letter
PERIODS = (16, 32, 64, 128)  # units, of the waves that say where a place is


Far = Annotated[float, Interval(ge=0, le=4)]  # the square of two unit vectors' distance


@dataclass(frozen=True)
class Limits:
    """Between what right answers need and what bad ones get by with: see `calibration`.

    `doubt` is the least probability at which a value may still be the one that is shown; `remains`
    is how much of the input may be left in an answer (see `remains`). The others are the largest
    distances at which a picture still is what it reads as: of the feature maps at 1/2, 1/4 and 1/8
    of the side, in the mean and at the worst place (see `distances`), and of its colours.
    """

    doubt: Share
    remains: Share
    colour: Share
    fine: Far
    fine_worst: Far
    middle: Far
    middle_worst: Far
    coarse: Far
    coarse_worst: Far

    def as_tensor(self) -> Tensor:
        """The distances, in the order of `distances`, (7,)."""
        return torch.tensor(list(asdict(self).values())[2:])


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of the network and, once it is calibrated, its limits.

    widths: channels at 1/2, 1/4 and 1/8 of the picture's side. features: of the map that is looked
    at. maps: how many places a question looks at. norm_groups: of every group norm.
    """

    widths: tuple[Side, Side, Side] = (40, 80, 128)
    features: Side = 128
    maps: Side = 2
    norm_groups: Side = 8
    limits: Limits | None = None


def answers(scene: Scene) -> dict[str, int]:
    """The right answer to every question about a scene; UNSEEN where its picture shows none.

    Colours are not seen in styles without colours, nor those of things that are not there, nor
    letters that are four blocks each.
    """
    found = {name: values.index(getattr(scene, name)) for name, values in CHOICES.items()}
    found["length"] = len(scene.sign)
    for i in range(MAX_SIGN):
        shown = i < len(scene.sign) and scene.style not in ILLEGIBLE
        found[f"letter_{i}"] = LETTERS.index(scene.sign[i]) if shown else UNSEEN
    return found | dict.fromkeys(hidden_colours(scene), UNSEEN)


def hidden_colours(scene: Scene) -> list[str]:
    """Names of the colours that a scene's picture does not show for certain."""
    absent = [f"{name}_colour" for name in COLOURED if getattr(scene, name) == "none"]
    names = ["colour", *(f"{name}_colour" for name in COLOURED)]
    return names if scene.style in COLOURLESS else absent


def scene_of(found: Mapping[str, int]) -> Scene:
    """The scene that answers describe; colours of absent things are left out."""
    sign = "".join(LETTERS[found[f"letter_{i}"]] for i in range(found["length"]))
    return Scene().change(sign=sign, **{k: v[found[k]] for k, v in CHOICES.items()})


def to_units(pixels: Tensor) -> Tensor:
    """Pixels (b, 3, h, w) at a shorter side of 64: a pixel is a world unit."""
    height, width = pixels.shape[-2:]
    scale = SIDE / min(height, width)
    size = (round(height * scale), round(width * scale))
    if size == (height, width):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def _coordinates(like: Tensor, rows: float, columns: float) -> Tensor:
    """Four maps (b, 4, h, w): units from the top and from the left, shares of height and width.

    rows, columns: the picture's size in units.
    """
    batch, _, height, width = like.shape
    y = ((torch.arange(height, device=like.device) + 0.5) / height)[:, None].expand(height, width)
    x = ((torch.arange(width, device=like.device) + 0.5) / width)[None].expand(height, width)
    maps = torch.stack((y * rows / SIDE, x * columns / SIDE, y, x)) * 2 - 1
    return maps.to(like.dtype).expand(batch, 4, height, width)


def _waves(like: Tensor, rows: float, columns: float) -> Tensor:
    """Sines and cosines (1, 32, h, w) of each place's distance from the four edges, in units."""
    height, width = like.shape[-2:]
    y = ((torch.arange(height, device=like.device) + 0.5) * rows / height)[:, None]
    x = ((torch.arange(width, device=like.device) + 0.5) * columns / width)[None]
    edges = [one.expand(height, width) for one in (y, rows - y, x, columns - x)]
    angles = torch.stack([2 * math.pi * edge / period for edge in edges for period in PERIODS])
    return torch.cat((angles.sin(), angles.cos()))[None]


def _conv(inner: int, outer: int, groups: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2), nn.GroupNorm(groups, outer), nn.SiLU()
    )


class Residual(nn.Module):
    """Two convolutions around which the input is passed."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width, groups), _conv(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to the same shape."""
        return x + self.second(self.first(x))


class ReaderNetwork(nn.Module):
    """Pixels (b, 3, h, w) in 0..1 to logits of every question."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config, groups = config, config.norm_groups
        fine, middle, coarse = config.widths
        self.conv_in = _conv(3 + 4, fine, groups, 2, 5)
        self.fine = _conv(fine, fine, groups)
        self.to_middle, self.middle = _conv(fine, middle, groups, 2), Residual(middle, groups)
        self.to_coarse, self.coarse = _conv(middle, coarse, groups, 2), Residual(coarse, groups)
        self.join = _conv(middle + coarse + 4, config.features, groups, kernel=1)
        maps = config.maps * len(QUESTIONS)
        self.places = nn.Conv2d(config.features, maps, 1)
        self.positions = nn.Conv2d(8 * len(PERIODS), maps, 1, bias=False)
        inner = config.features * (config.maps + 2)
        self.questions = nn.ModuleDict(
            {
                # Named so that AdamW trains it: Muon moves a layer that knows nothing yet as far as
                # any other, by noise alone, and a hidden one before it died of that.
                name: nn.ModuleDict({"final_layer": nn.Linear(inner, count)})
                for name, count in QUESTIONS.items()
                if name not in KIND
            }
        )

    def extract_features(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feature maps of pixels at a shorter side of 64, at 1/2, 1/4 and 1/8 of its size."""
        where = _coordinates(pixels, *pixels.shape[-2:])
        fine = self.fine(self.conv_in(torch.cat((pixels * 2 - 1, where), 1)))
        middle = self.middle(self.to_middle(fine))
        return fine, middle, self.coarse(self.to_coarse(middle))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits (b, answers) of every question. Pixels (b, 3, h, w) in 0..1, any size."""
        pixels = to_units(pixels)
        return self.ask(self.extract_features(pixels), pixels.shape[-2:])[0]

    def ask(self, maps: Sequence[Tensor], size: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """What the feature maps of pictures of `size` = (height, width) units tell.

        Returns the logits of every question, and where each of them looks: the logarithm of the
        weight of every place, (b, questions, maps, h, w).
        """
        _, middle, coarse = maps
        coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear")
        joined = self.join(torch.cat((middle, coarse, _coordinates(middle, *size)), 1))
        looks = self.places(joined).float() + self.positions(_waves(middle, *size)).float()
        looks, flat = looks.flatten(2).log_softmax(-1), joined.float().flatten(2)
        seen = torch.einsum("bqp,bcp->bqc", looks.exp(), flat)
        seen = seen.unflatten(1, (len(QUESTIONS), self.config.maps)).flatten(2)
        whole = torch.cat((flat.mean(-1), flat.amax(-1)), -1)
        logits = {
            name: self._answer(name, torch.cat((seen[:, i], whole), -1)).float()
            for i, name in enumerate(QUESTIONS)
        }
        shape = (len(QUESTIONS), self.config.maps, *middle.shape[-2:])
        return logits, looks.reshape(len(middle), *shape)

    def _answer(self, name: str, seen: Tensor) -> Tensor:
        return self.questions[KIND.get(name, name)]["final_layer"](seen)


Seen = tuple[Tensor, Sequence[Tensor]]  # pixels (1, 3, h, w) in world units, their feature maps


def distances(one: Seen, other: Seen) -> Tensor:
    """How far two pictures lie apart, (7,): in colour, and in every feature map twice.

    Colour is compared in cells of 8 x 8 units, in the mean. Features are divided by their length at
    each place, as LPIPS does, and compared in the mean and in the worst window of 8 x 8 units.
    """
    cells = (F.avg_pool2d(pixels, 8) for pixels in (one[0], other[0]))
    found = [torch.sub(*cells).abs().mean()]
    for stride, a, b in zip((2, 4, 8), _directions(one), _directions(other), strict=True):
        apart = (a - b).square().sum(1, keepdim=True)
        window = 8 // stride
        found += [apart.mean(), F.avg_pool2d(apart, window, max(1, window // 2)).max()]
    return torch.stack(found)


def remains(answer: Seen, right: Seen, before: Seen) -> float:
    """How much of the input is left in an answer: 0 in a right one, 1 in a copy of the input.

    The answer's features, projected on the way from the right answer to the input; what else is
    odd about it lies across that way and does not count. Mean of the three maps.
    """
    found = []
    for a, r, b in zip(*map(_directions, (answer, right, before)), strict=True):
        way = b - r
        found.append(float(((a - r) * way).sum() / way.square().sum().clamp(min=1e-6)))
    return sum(found) / len(found)


def _directions(seen: Seen) -> list[Tensor]:
    return [F.normalize(x.float(), dim=1) for x in seen[1]]


# ---------------------------------------------------------------- files


def save(model: ReaderNetwork, folder: Path) -> Path:
    """Write `reader.safetensors` in float16 and `config.json`; returns the folder."""
    with updating_folder(folder) as new:
        safetensors_io.save(model.state_dict(), new / "reader.safetensors", torch.float16)
        write_json(new / "config.json", {"format": FORMAT, "reader": asdict(model.config)})
    return folder


def load_network(folder: Path = HOME) -> ReaderNetwork:
    """The network of a folder, ready to read. Raises WeightsError for a folder that holds none."""
    content = read_json(folder / "config.json", WeightsError, "Train it: see its card.")
    if content.get("format") != FORMAT:
        raise WeightsError(f"{folder}/config.json: format {content.get('format')!r:.80}; "
                           f"expected {FORMAT!r}")  # fmt: skip
    config = build_config(ReaderConfig, content.get("reader"), error=WeightsError)
    try:
        with torch.device("meta"):
            model = ReaderNetwork(config)
    except (ValueError, RuntimeError) as error:  # groups that do not divide channels
        raise WeightsError(f"{folder}/config.json: no sizes of a reader: {error}") from error
    path = folder / "reader.safetensors"
    return safetensors_io.load_into(model, path, "cpu", torch.float32).eval().requires_grad_(False)
