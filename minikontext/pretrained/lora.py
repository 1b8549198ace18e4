"""LoRA: small updates of large matrices (Hu and others, arXiv 2106.09685), from and to files.

A linear layer `W x` becomes `W x + scale · up (down x)`; `down` (rank, in) and `up` (out, rank) are
thin. Files come in many namings and some other forms, see `lora_files` and `lora_layers`. All
become one thing here: an update for each official layer.

    pipe.load_lora("style.safetensors", scale=0.8)
    pipe.unload_lora()
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minikontext import errors
from minikontext.errors import ConfigError, WeightsError, WeightsWarning, warn
from minikontext.pretrained import key_mapping, lora_files, lora_layers, purpose, safetensors_io
from minikontext.pretrained.lora_layers import LoraLayer, Update
from minikontext.runtime import quantization
from minikontext.runtime.bounds import is_number, shown
from minikontext.transformer import KontextTransformer

# The layers that a LoRA usually updates: all projections inside of the blocks.
BLOCKS = r"(double|single)_blocks\..*(qkv|proj|mlp\.[02]|linear[12])$"


class Lora(nn.Module):
    """Updates of some layers of one transformer, by official name; `scale` turns all of them."""

    def __init__(
        self, layers: Mapping[str, Update], name: str = "lora", scale: float = 1.0
    ) -> None:
        super().__init__()
        self.names, self.updates = tuple(layers), nn.ModuleList(layers.values())
        self.name, self.scale, self.fingerprint = name, scale, ""  # the last is of its file
        self._handles: list[RemovableHandle] = []
        self._merged: list[float] = []  # how much of it is in a model's weights, by merges

    @property
    def layers(self) -> dict[str, Update]:
        """The updates by the layer's official name."""
        return dict(zip(self.names, self.updates, strict=True))

    def __str__(self) -> str:
        return f"{self.name} {self.scale:g}{self.fingerprint and f' [{self.fingerprint[:12]}]'}"

    def attach(self, model: KontextTransformer) -> Lora:
        """Let the model's layers add these updates from now on; several LoRAs add up.

        No weight of the model changes, so it works with quantised and streamed weights, and
        `detach` gives the very model back. Raises WeightsError if a layer has another shape.
        """
        self.detach()
        _require_shapes(self, model)
        device = next(model.parameters()).device
        for name, update in self.to(device).layers.items():
            layer = model.get_submodule(name)
            self._handles.append(layer.register_forward_hook(self._adder(update)))
        return self

    def _adder(self, update: Update):  # noqa: ANN202
        return lambda layer, inputs, out: out + self.scale * update(inputs[0])

    def detach(self) -> Lora:
        """Undo `attach`."""
        while self._handles:
            self._handles.pop().remove()
        return self

    @torch.no_grad()
    def merge(self, model: KontextTransformer, sign: float = 1.0) -> Lora:
        """Add `sign * scale` of the updates into the model's weights: nothing is computed twice.

        `merge(model, -1)` takes out what was merged last, up to rounding, whatever `scale` is by
        now; `merge(model, -0.5)` half of it. Raises WeightsError for another model's shapes, and
        ConfigError for quantised weights and float8, which take no sums, and where nothing of this
        is merged; nothing has changed then.
        """
        _require_shapes(self, model)
        if packed := [
            n for n in self.names if not quantization.takes_sums(model.get_submodule(n).weight)
        ]:
            raise ConfigError(
                f"{packed[0]} is quantised, or in float8. Use attach() instead of merge()."
            )
        amount = self._amount(sign)
        self.detach()
        for name, update in self.layers.items():
            layer = model.get_submodule(name)
            layer.weight.copy_(layer.weight.float() + amount * update.delta.to(layer.weight.device))
            if update.bias is not None:
                layer.bias.copy_(layer.bias.float() + amount * update.bias.to(layer.bias.device))
        return self

    def _amount(self, sign: float) -> float:
        """What is added of the updates: `sign` times the scale, or less of what was merged."""
        if sign >= 0:
            self._merged.append(sign * self.scale)
            return self._merged[-1]
        if not self._merged:
            raise ConfigError(f"LoRA {self.name!r} is not merged, so it cannot be taken out again.")
        last = self._merged.pop()
        if sign > -1:
            self._merged.append((1 + sign) * last)
        return sign * last


def new(model: KontextTransformer, rank: int = 8, layers: str = BLOCKS, seed: int = 0) -> Lora:
    """A LoRA to train: random `down`, zero `up`, so that at first it changes nothing.

    layers: a regular expression over official layer names. Raises ConfigError if it is none, or
    none matches.
    """
    draw, layers_by_name = torch.Generator().manual_seed(seed), {}
    try:
        wanted = re.compile(layers)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"layers={layers!r:.80} is no expression: {error}") from error
    for name, layer in _linears(model):
        if wanted.search(name):
            down = torch.empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(down, math.sqrt(5), generator=draw)
            layers_by_name[name] = LoraLayer(down, torch.zeros(layer.out_features, rank))
    if not layers_by_name:
        raise ConfigError(f"layers={layers!r} matches no linear layer of the transformer")
    return Lora(layers_by_name)


def named(loras: Sequence[Lora], name: str | None = None) -> list[Lora]:
    """Those of a name, or all. Raises ConfigError with the names there are."""
    if name is not None and name not in (known := [one.name for one in loras]):
        raise ConfigError(f"no LoRA is called {name!r}; loaded are {known}")
    return [one for one in loras if name in (None, one.name)]


def distinct(one: Lora, loaded: Sequence[Lora]) -> Lora:
    """Give a LoRA a name of its own among those loaded; warns if one of them is the same."""
    for other in loaded:
        if _same_updates(one, other):
            warn(WeightsWarning(
                f"LoRA {one.name!r} is loaded already, as {other.name!r}: both together act as one "
                "with the sum of their scales."
            ))  # fmt: skip
    taken, stem, number = {other.name for other in loaded}, one.name, 2
    while one.name in taken:
        one.name, number = f"{stem}-{number}", number + 1
    return one


def _same_updates(one: Lora, other: Lora) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    if one.names != other.names or mine.keys() != theirs.keys():
        return False
    return all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine)


# ---------------------------------------------------------------------------------- files
def load(
    path: str | Path, model: KontextTransformer, scale: float = 1.0, text_encoders: str = "skip"
) -> Lora:
    """Read a LoRA file of any naming, see `lora_files`, for a model (which is not changed).

    A folder as peft or diffusers writes it will do, too. alpha / rank, or what else peft's
    settings say of the strength, is multiplied in. text_encoders: what to do with updates of CLIP
    or T5 in the same file: "skip" warns and leaves them out, "refuse" raises.
    Raises WeightsError, with their names, for keys that are unknown, that have no partner, or
    whose layer the model does not have, and ConfigError for a scale that is no number.
    """
    if not is_number(scale):
        raise ConfigError(f"Got scale={shown(scale)} for a LoRA; expected a finite number.")
    path = lora_files.find_file(Path(path))
    found, places = lora_files.read(path, text_encoders), _places(model)
    if unknown := [layer for layer in found if lora_files.bare_layer(layer) not in places]:
        raise WeightsError(
            f"{path}: this transformer has no layer {errors.shorten_list(unknown)}. Expected a "
            "LoRA of the same model, for its transformer only, under peft, kohya or official names."
        )
    parts: dict[str, list[tuple[Tensor, Update]]] = defaultdict(list)
    for layer, update in found.items():
        official, rows = places[lora_files.bare_layer(layer)]
        _require_part(path, layer, update, rows, model, official)
        if any(torch.isin(rows, other).any() for other, _ in parts[official]):
            raise WeightsError(f"{path} holds {layer} under two names. Get the file again.")
        base = model.get_submodule(official).weight
        parts[official].append((rows, _turned(f"{path}: {layer}", update, base, rows)))
    layers = {n: lora_layers.join(parts[n], len(model.get_submodule(n).weight)) for n in parts}
    lora = Lora(layers, path.stem, scale)
    if all(map(lora_layers.is_idle, layers.values())):
        warn(WeightsWarning(f"{path} changes nothing: its numbers, or all alphas, are 0."))
    lora.fingerprint = safetensors_io.fingerprint(path)
    _require_shapes(lora, model)
    return lora.requires_grad_(False)


def names(pipe: Any, before: str = "") -> str:
    """A pipeline's name and those of its LoRAs; a WeightsWarning if they were others `before`."""
    now = " + ".join([pipe.name, *map(str, pipe.loras)])
    if before not in ("", now):
        warn(WeightsWarning("A LoRA was added, turned or taken off in the midst of this edit."))
    return now


def save(lora: Lora, model: KontextTransformer, path: str | Path, scale: float = 1.0) -> Path:
    """Write a LoRA under diffusers' names: `load_lora_weights` and peft open it, and so do we.

    `scale` is multiplied in; the LoRA's own is left out: that is the user's to choose. Raises
    OutputError, and ConfigError for updates that are no thin pairs, or that change a bias.
    """
    state, layers = {}, lora.layers
    for theirs, (official, rows) in _diffusers_places(model).items():
        if (layer := layers.get(official)) is None:
            continue
        if layer.bias is not None or not isinstance(layer, LoraLayer):
            what = "changes a bias" if layer.bias is not None else f"is a {type(layer).__name__}"
            raise ConfigError(f"{official} {what}, which diffusers' naming cannot hold")
        state[f"transformer.{theirs}.lora_A.weight"] = layer.down.detach().cpu().clone()
        state[f"transformer.{theirs}.lora_B.weight"] = scale * layer.up.detach().cpu()[rows]
    safetensors_io.save(state, path)
    return Path(path)


Place = tuple[str, Tensor]  # an official layer, and which of its rows, in the file's order


def _require_part(
    path: Path, layer: str, update: Update, rows: Tensor, model: KontextTransformer, official: str
) -> None:
    """Raise WeightsError if an update has other sizes than the rows that it is for."""
    got, expected = update.shape, (len(rows), model.get_submodule(official).weight.shape[1])
    if got == expected:
        return
    if official == "img_in" and got[0] == expected[0] and got[1] == 2 * expected[1]:
        raise WeightsError(
            f"{path} is a control LoRA (FLUX.1 Canny or Depth): it takes tokens of {got[1]} "
            f"channels, the picture of edges or depths among them. {purpose.INSTEAD}"
        )
    raise WeightsError(f"{path}: {layer} is {got}, expected {expected}: it is of another model")


def _turned(where: str, update: Update, base: Tensor, rows: Tensor) -> Update:
    """A DoRA's update of these rows of a layer; any other as it is."""
    if update.magnitude is None:
        return update
    base = base.dequantize() if quantization.is_packed(base) else base.detach()
    try:
        return lora_layers.turned(update, base[rows.to(base.device)], update.magnitude)
    except ValueError as error:
        raise WeightsError(f"{where} is a DoRA with {error}. Get the file again.") from error


def _require_shapes(lora: Lora, model: KontextTransformer) -> None:
    known = dict(_linears(model))
    for name, update in lora.layers.items():
        expected = tuple(known[name].weight.shape) if name in known else None
        if expected != update.shape:
            raise WeightsError(
                f"LoRA {lora.name!r} is of another model: {name} is {expected} here and "
                f"{update.shape} in the LoRA"
            )
        if update.bias is not None and known[name].bias is None:
            raise WeightsError(f"LoRA {lora.name!r} changes a bias that {name} does not have.")


# ---------------------------------------------------------------------------------- names
def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))


def _places(model: KontextTransformer) -> dict[str, Place]:
    """Where an update goes, by every name of a layer: official, diffusers, kohya and xlabs."""
    own = {name: (name, torch.arange(len(layer.weight))) for name, layer in _linears(model)}
    places = own | _diffusers_places(model)
    flat = {
        prefix + name.replace(".", "_"): place
        for name, place in places.items()
        for prefix in lora_files.FLAT
    }
    return places | flat | _xlabs_places(own, model.config.hidden_size)


def _xlabs_places(own: Mapping[str, Place], width: int) -> dict[str, Place]:
    """xlabs names the attention's processors; of a single block it changes q, k and v only."""
    places: dict[str, Place] = {}
    for name, (official, rows) in own.items():
        block, _, layer = name.partition("_attn.")
        if layer in ("qkv", "proj"):
            start, _, stream = block.rpartition(".")
            places[f"{start}.processor.{layer}_lora{1 + (stream == 'txt')}"] = official, rows
        elif name.startswith("single_blocks.") and "linear" in name:
            start, _, layer = name.rpartition(".")
            first = layer == "linear1"
            key = f"{start}.processor.{'qkv' if first else 'proj'}_lora"
            places[key] = official, rows[: 3 * width] if first else rows
    return places


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
