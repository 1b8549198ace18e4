"""LoRA: small updates of large matrices (Hu and others, arXiv 2106.09685), from and to files.

A linear layer `W x` becomes `W x + scale · up (down x)`; `down` (rank, in) and `up` (out, rank) are
thin. Files come in three namings: peft and diffusers (`transformer.….lora_A.weight`), kohya
(`lora_unet_….lora_down.weight`, `.alpha`) and official names with `.lora_A.weight`. All become one
thing here: a thin pair for each official layer.

    pipe.load_lora("style.safetensors", scale=0.8)
    pipe.unload_lora()
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minikontext import errors
from minikontext.errors import ConfigError, WeightsError
from minikontext.pretrained import key_mapping, safetensors_io, stored
from minikontext.runtime import quantization
from minikontext.runtime.config import parse_json, read_json
from minikontext.transformer import KontextTransformer

# What a LoRA is usually given: all projections inside of the blocks.
BLOCKS = r"(double|single)_blocks\..*(qkv|proj|mlp\.[02]|linear[12])$"
KOHYA = "lora_unet_"
_LEAF = re.compile(
    r"(?P<layer>.+?)\.(?P<leaf>lora_A|lora_B|lora_down|lora_up|alpha|dora_scale)"
    r"(\.default)?(?P<kind>\.weight|\.bias)?$"
)
_LEAVES = {"lora_down": "lora_A", "lora_up": "lora_B"}


class Thin(nn.Module):
    """The update of one layer: x (…, in) -> up (down x), (…, out)."""

    def __init__(self, down: Tensor, up: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), in the layer's number format."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        return F.linear(F.linear(x, down), up, None if self.bias is None else self.bias.to(x.dtype))

    @property
    def delta(self) -> Tensor:
        """What is added to the layer's weight at scale 1, (out, in), float32."""
        return self.up.float() @ self.down.float()


class Lora(nn.Module):
    """Updates of some layers of one transformer, by official name; `scale` turns all of them."""

    def __init__(self, layers: Mapping[str, Thin], name: str = "lora", scale: float = 1.0) -> None:
        super().__init__()
        self.names, self.thin = tuple(layers), nn.ModuleList(layers.values())
        self.name, self.scale = name, scale
        self._handles: list[RemovableHandle] = []
        self._merged: list[float] = []  # the scales at which it is in a model's weights

    @property
    def layers(self) -> dict[str, Thin]:
        """The updates by the layer's official name."""
        return dict(zip(self.names, self.thin, strict=True))

    def __str__(self) -> str:
        return f"{self.name} {self.scale:g}"

    def attach(self, model: KontextTransformer) -> Lora:
        """Let the model's layers add these updates from now on; several LoRAs add up.

        No weight of the model changes, so it works with quantised and streamed weights, and
        `detach` gives the very model back. Raises WeightsError if a layer has another shape.
        """
        self.detach()
        _require_shapes(self, model)
        device = next(model.parameters()).device
        for name, thin in self.to(device).layers.items():
            layer = model.get_submodule(name)
            self._handles.append(layer.register_forward_hook(self._adder(thin)))
        return self

    def _adder(self, thin: Thin):  # noqa: ANN202
        return lambda layer, given, out: out + self.scale * thin(given[0])

    def detach(self) -> Lora:
        """Undo `attach`."""
        while self._handles:
            self._handles.pop().remove()
        return self

    @torch.no_grad()
    def merge(self, model: KontextTransformer, sign: float = 1.0) -> Lora:
        """Add the updates into the model's own weights: nothing is computed twice any more.

        `merge(model, -1)` takes out what was merged last, up to rounding, whatever `scale` is by
        now. Raises WeightsError for another model's shapes, and ConfigError for quantised weights,
        which take no sums, and where nothing of this is merged; nothing has changed then.
        """
        _require_shapes(self, model)
        if packed := [
            n for n in self.names if quantization.is_packed(model.get_submodule(n).weight)
        ]:
            raise ConfigError(f"{packed[0]} is quantised. Use attach() instead of merge().")
        amount = self._amount(sign)
        self.detach()
        for name, thin in self.layers.items():
            layer = model.get_submodule(name)
            layer.weight.copy_(layer.weight.float() + amount * thin.delta.to(layer.weight.device))
            if thin.bias is not None:
                layer.bias.copy_(layer.bias.float() + amount * thin.bias.to(layer.bias.device))
        return self

    def _amount(self, sign: float) -> float:
        """What is added of the updates: `sign` times the scale, or less of what was merged."""
        if sign >= 0:
            self._merged.append(self.scale)
            return sign * self.scale
        if not self._merged:
            raise ConfigError(f"LoRA {self.name!r} is not merged, so it cannot be taken out again.")
        return sign * self._merged.pop()


def new(model: KontextTransformer, rank: int = 8, layers: str = BLOCKS, seed: int = 0) -> Lora:
    """A LoRA to train: random `down`, zero `up`, so that at first it changes nothing.

    layers: a regular expression over official layer names. Raises ConfigError if none matches.
    """
    draw, made = torch.Generator().manual_seed(seed), {}
    for name, layer in _linears(model):
        if re.search(layers, name):
            down = torch.empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(down, math.sqrt(5), generator=draw)
            made[name] = Thin(down, torch.zeros(layer.out_features, rank))
    if not made:
        raise ConfigError(f"layers={layers!r} matches no linear layer of the transformer")
    return Lora(made)


def named(loras: Sequence[Lora], name: str | None = None) -> list[Lora]:
    """Those of a name, or all. Raises ConfigError with the names there are."""
    if name is not None and name not in (known := [one.name for one in loras]):
        raise ConfigError(f"no LoRA is called {name!r}; loaded are {known}")
    return [one for one in loras if name in (None, one.name)]


# ---------------------------------------------------------------------------------- files
def load(path: str | Path, model: KontextTransformer, scale: float = 1.0) -> Lora:
    """Read a LoRA file of any of the three namings for a model (which is not changed).

    A folder as peft or diffusers writes it will do, too. alpha / rank, or what else peft's
    settings say of the strength, is multiplied into `up`. Raises WeightsError, with their names,
    for keys that are unknown, that have no partner, or whose layer the model does not have.
    """
    path = _file_of(Path(path))
    groups, strength = _grouped(safetensors_io.load(path), path), _strength(path)
    places, parts = _places(model), defaultdict(list)
    if unknown := [layer for layer in groups if _bare(layer) not in places]:
        raise WeightsError(
            f"{path}: this transformer has no layer {errors.shorten_list(unknown)}. Expected a "
            "LoRA of the same model, for its transformer only, under peft, kohya or official names."
        )
    for layer, tensors in groups.items():
        official, rows = places[_bare(layer)]
        parts[official].append((rows, _pair(layer, tensors, strength, path)))
    layers = {name: _joined(model, name, parts[name]) for name in parts}
    lora = Lora(layers, path.stem, scale)
    _require_shapes(lora, model)
    return lora.requires_grad_(False)


def save(lora: Lora, model: KontextTransformer, path: str | Path) -> Path:
    """Write a LoRA under diffusers' names: `load_lora_weights` and peft open it, and so do we.

    Its scale is left out: that is the user's to choose. Raises OutputError.
    """
    state, layers = {}, lora.layers
    for theirs, (official, rows) in _diffusers_places(model).items():
        if (thin := layers.get(official)) is None:
            continue
        if thin.bias is not None:
            raise ConfigError(f"{official} has a bias, which diffusers' naming cannot hold")
        state[f"transformer.{theirs}.lora_A.weight"] = thin.down.detach().cpu().clone()
        state[f"transformer.{theirs}.lora_B.weight"] = thin.up.detach().cpu()[rows]
    safetensors_io.save(state, path)
    return Path(path)


Tensors = dict[str, Tensor]
Place = tuple[str, Tensor]  # an official layer, and which of its rows, in the file's order


def _grouped(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensors]:
    """Tensors by layer and leaf: lora_A, lora_B, alpha, bias."""
    groups, strange = defaultdict(dict), []
    for name, tensor in state.items():
        found = _LEAF.match(name)
        leaf = _LEAVES.get(found["leaf"], found["leaf"]) if found else ""
        if not found or leaf == "dora_scale" or (found["kind"] == ".bias" and leaf != "lora_B"):
            strange.append(name)
            continue
        groups[found["layer"]]["bias" if found["kind"] == ".bias" else leaf] = tensor
    if strange or not groups:
        raise WeightsError(
            f"{path} holds what is no part of a LoRA: {errors.shorten_list(strange) or 'nothing'}. "
            "Expected lora_A and lora_B, or lora_down, lora_up and alpha, for each layer."
        )
    return groups


def _pair(layer: str, tensors: Tensors, strength: Strength, path: Path) -> Thin:
    """One thin pair as stored, with its strength in `up`."""
    if missing := sorted({"lora_A", "lora_B"} - tensors.keys()):
        raise WeightsError(f"{path}: {layer} has no {missing[0]}. The file is not complete.")
    if odd := [k for k in ("lora_A", "lora_B") if tensors[k].dim() < 2]:
        raise WeightsError(f"{path}: {odd[0]} of {layer} is no matrix. Get the file again.")
    down, up = (tensors[k].float().flatten(1) for k in ("lora_A", "lora_B"))
    if down.shape[0] != up.shape[1] or not len(down):
        raise WeightsError(f"{path}: {layer} has ranks {down.shape[0]} and {up.shape[1]}")
    alpha = tensors.get("alpha", torch.tensor(strength.alpha_of(layer, len(down)))).float()
    bias = tensors["bias"].float() if "bias" in tensors else None
    if alpha.numel() != 1 or (bias is not None and bias.shape != up.shape[:1]):
        raise WeightsError(f"{path}: {layer} has an alpha or a bias of an odd shape.")
    if not all(x.isfinite().all() for x in (down, up, alpha, *([] if bias is None else [bias]))):
        raise WeightsError(f"{path}: {layer} holds NaN or infinity. Get the file again.")
    return Thin(down, up * (float(alpha) / strength.over(len(down))), bias)


@dataclass(frozen=True)
class Strength:
    """peft's settings of how strong an update is: alpha / rank; rooted: alpha / sqrt(rank).

    patterns: another alpha for the layers whose name ends in a match.
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    rooted: bool = False

    def alpha_of(self, layer: str, rank: int) -> float:
        """The alpha of a layer; its rank where nothing is said."""
        for pattern, alpha in self.patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return alpha
        return float(rank if self.alpha is None else self.alpha)

    def over(self, rank: int) -> float:
        """What alpha is divided by."""
        return math.sqrt(rank) if self.rooted else float(rank)


# What peft and diffusers call the file in a folder of theirs.
FOLDER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def _file_of(path: Path) -> Path:
    """The LoRA's file; in a folder, the one of peft's or diffusers' name."""
    if not path.is_dir():
        return path
    found = [path / name for name in FOLDER_FILES if (path / name).exists()]
    if len(found) != 1:
        raise WeightsError(
            f"{path} is a folder without one of {' and '.join(FOLDER_FILES)}. Give the LoRA's file."
        )
    return found[0]


def _strength(path: Path) -> Strength:
    """The settings in peft's adapter_config.json beside the file, or in diffusers' metadata."""
    beside = path.parent / "adapter_config.json"
    try:
        if path.name == FOLDER_FILES[0] and beside.exists():
            facts = read_json(beside, WeightsError)
        else:
            with safetensors_io.opened(path) as file:
                stored = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
            facts = parse_json(stored)
        facts = {name.removeprefix("transformer."): value for name, value in facts.items()}
        alpha, patterns = facts.get("lora_alpha"), facts.get("alpha_pattern") or {}
        return Strength(
            None if alpha is None else float(alpha),
            {re.compile(name).pattern: float(value) for name, value in patterns.items()},
            bool(facts.get("use_rslora")),
        )
    except (ValueError, AttributeError, TypeError, re.error) as error:
        raise WeightsError(f"{path}: its settings by peft are no JSON of numbers") from error


def _joined(model: KontextTransformer, name: str, parts: Sequence[tuple[Tensor, Thin]]) -> Thin:
    """One pair for an official layer from those of its parts (q, k, v …).

    Ranks add up, but for parts that share their `down`, as those do that we have cut ourselves.
    """
    out, bias = model.get_submodule(name).weight.shape[0], None
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for rows, thin in parts:
        if len(thin.up) != len(rows):
            raise WeightsError(
                f"{name}: expected {len(rows)} rows, got {len(thin.up)}: of another model"
            )
        same = [i for i, down in enumerate(downs) if torch.equal(down, thin.down)]
        if downs and downs[0].shape[1] != thin.down.shape[1]:
            raise WeightsError(f"{name}: its parts have inputs of two sizes: of another model")
        if not same:
            downs.append(thin.down.detach())
            ups.append(torch.zeros(out, len(thin.down)))
        ups[same[0] if same else -1][rows] += thin.up.detach()
        if thin.bias is not None:
            bias = torch.zeros(out) if bias is None else bias
            bias[rows] += thin.bias.detach()
    return Thin(torch.cat(downs), torch.cat(ups, dim=1), bias)


def _require_shapes(lora: Lora, model: KontextTransformer) -> None:
    known = {name: tuple(layer.weight.shape) for name, layer in _linears(model)}
    for name, thin in lora.layers.items():
        got = (len(thin.up), thin.down.shape[1])
        if known.get(name) != got:
            raise WeightsError(
                f"LoRA {lora.name!r} is of another model: {name} is {known.get(name)} here and "
                f"{got} in the LoRA"
            )


# ---------------------------------------------------------------------------------- names
def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))


def _bare(layer: str) -> str:
    return stored.bare_name(layer.removeprefix("base_model.model."))


def _places(model: KontextTransformer) -> dict[str, Place]:
    """Where an update goes, by every name that a layer has: official, diffusers and kohya."""
    own = {name: (name, torch.arange(len(layer.weight))) for name, layer in _linears(model)}
    places = own | _diffusers_places(model)
    return places | {KOHYA + name.replace(".", "_"): place for name, place in places.items()}


def _diffusers_places(model: KontextTransformer) -> dict[str, Place]:
    """The same by diffusers' names: cut the numbers of the rows as the weight itself is cut."""
    state, places = model.state_dict(), {}
    sizes = {f"{name}.weight": len(layer.weight) for name, layer in _linears(model)}
    for rule in key_mapping.transformer_rules(state):
        if rule.official in sizes:
            parts = key_mapping.to_parts(torch.arange(sizes[rule.official]), rule, state)
            official = rule.official.removesuffix(".weight")
            for name, rows in zip(rule.diffusers, parts, strict=True):
                places[name.removesuffix(".weight")] = official, rows
    return places
