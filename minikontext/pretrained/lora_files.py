"""LoRA files of every naming: sorted by layer, with the strength that their makers meant.

    peft, diffusers     transformer.….lora_A.weight
    official names      double_blocks.0.….lora_A.weight
    kohya, OneTrainer   lora_unet_… or lora_transformer_….lora_down.weight, .alpha
    xlabs               double_blocks.0.processor.qkv_lora1.down.weight
    LyCORIS, peft       ….lokr_w1 (LoKr), ….hada_w1_a (LoHa), ….dora_scale (DoRA, with any of them)
    differences         ….diff, ….diff_b

A file may hold anything: every number is checked, and whatever is not understood is refused by
name. Nothing is applied by half.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minikontext.errors import WeightsError, WeightsWarning, shorten_list, warn
from minikontext.pretrained import safetensors_io, stored
from minikontext.pretrained.file_kinds import SUFFIXES
from minikontext.pretrained.lora_layers import (
    FullLayer,
    KroneckerLayer,
    LoraLayer,
    Update,
    hadamard,
)
from minikontext.runtime import files
from minikontext.runtime.bounds import is_number
from minikontext.runtime.config import parse_json, read_json

Tensors = dict[str, Tensor]

KOHYA = "lora_unet_"
FLAT = (KOHYA, "lora_transformer_", "lycoris_")  # before names whose dots became underscores
LEAVES = (
    "lora_A", "lora_B", "lora_down", "lora_up", "alpha", "diff", "diff_b",
    "dora_scale", "lora_magnitude_vector",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
)  # fmt: skip
_LEAF = re.compile(
    rf"(?P<layer>.+?)\.(?P<leaf>{'|'.join(sorted(LEAVES, reverse=True))})"
    r"(\.(?!(weight|bias)$)[^.]+)?(?P<kind>\.weight|\.bias)?$"  # in between: peft's adapter name
)
_XLABS = re.compile(r"(?P<layer>.+\.processor\.(qkv|proj)_lora[12]?)\.(?P<leaf>down|up)\.weight$")
_SAME = {"lora_down": "lora_A", "lora_up": "lora_B", "down": "lora_A", "up": "lora_B",
         "dora_scale": "magnitude", "lora_magnitude_vector": "magnitude"}  # fmt: skip
_TEXT = re.compile(
    r"(base_model\.model\.)?(lora_te|lora_t5|lora_clip|text_encoder|text_model|clip_l|t5xxl|"
    r"te\d?\.|bundle_emb)"
)
# What a file may be instead, by parts of its tensors' names.
_KINDS = {
    "time_in.in_layer.weight": "a whole model: give it as the weights",
    "time_text_embed.timestep_embedder.linear_1.weight": "a whole model: give it as the weights",
    "oft_": "OFT or BOFT, rotations of the base's weights: merge it into its base model",
    "lora_mid": "a LoRA of convolutions, which FLUX's transformer has not",
    "lokr_t2": "a LoKr of convolutions, which FLUX's transformer has not",
    "hada_t1": "a LoHa of convolutions, which FLUX's transformer has not",
    "ia3_": "IA3, factors of the activations: merge it into its base model",
    "query_norm.scale": "a control LoRA (FLUX.1 Canny or Depth), which wants a control picture",
}
LARGEST_ALPHA = 1e6
LARGEST_MATRIX = 1 << 28  # numbers; FLUX's largest layer has a quarter of them
MOST = 2048  # layers of a file, and patterns of its settings; FLUX has 504 linear layers
LONGEST_NAME = 300  # of a tensor; FLUX's have a third of them
# What peft and diffusers call the file in a folder of theirs.
FOLDER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def find_file(path: Path) -> Path:
    """The LoRA's file; in a folder, the one of peft's or diffusers' name, or the only one."""
    if not files.is_folder(path):
        return path
    found = [path / name for name in FOLDER_FILES if files.exists(path / name)]
    there = filter(files.exists, files.inside(path))
    found = found or [x for x in there if x.suffix.lower() in SUFFIXES]
    if len(found) > 1:
        raise WeightsError(
            f"{path} holds {shorten_list(sorted(x.name for x in found))}, and each may be the "
            "LoRA. Give the path of one file."
        )
    if not found:
        raise WeightsError(
            f"{path} is a folder without one of {' and '.join(FOLDER_FILES)}, and holds no other "
            "files of safetensors; pickles are not read. Give the LoRA's file."
        )
    return found[0]


def read(path: Path, text_encoders: str = "skip") -> dict[str, Update]:
    """The updates in a file by the layer's stored name, their strength multiplied in.

    text_encoders: updates of CLIP or T5, which this package does not change: "skip" leaves them
    out and warns, "refuse" raises. Raises WeightsError for all else that is not understood.
    """
    state = safetensors_io.load(path)
    groups = _grouped(_without_text(state, path, text_encoders), path)
    scaling = read_scaling(path, state)
    return {name: _update(Layer(path, name), group, scaling) for name, group in groups.items()}


# ---- names ----------------------------------------------------------------------------------
def bare_layer(layer: str) -> str:
    """A layer's name without what tools put before it."""
    return stored.bare_name(layer.removeprefix("base_model.model."))


def _without_text(state: Tensors, path: Path, text_encoders: str) -> Tensors:
    text = [name for name in state if _TEXT.match(name)]
    if not text:
        return state
    what = f"{path} also changes the text encoders ({len(text)} tensors: {shorten_list(text)})"
    if text_encoders != "skip" or len(text) == len(state):
        raise WeightsError(
            f"{what}; only the transformer's part can be used. Expected a LoRA for the "
            "transformer, or text_encoders='skip' for that part of it."
        )
    warn(WeightsWarning(f"{what}. That part is left out: results differ from where both are used."))
    return {name: tensor for name, tensor in state.items() if name not in set(text)}


def _grouped(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensors]:
    """Tensors by layer and leaf: lora_A, lora_B, alpha, bias and others."""
    groups, strange = defaultdict(dict), []
    for name, tensor in state.items():
        found = _LEAF.match(name) or _XLABS.match(name)
        leaf = _leaf(found) if found else None
        if leaf is None or len(name) > LONGEST_NAME:
            strange.append(name[:LONGEST_NAME])
            continue
        if leaf in groups[found["layer"]]:
            raise WeightsError(f"{path} holds {leaf} of {found['layer']} twice. Get it again.")
        groups[found["layer"]][leaf] = tensor
    if len(groups) > MOST:
        raise WeightsError(f"{path} changes {len(groups)} layers; expected at most {MOST}.")
    if strange or not groups:
        raise WeightsError(
            f"{path} holds {_kind(strange) or 'what is no part of a LoRA'}: "
            f"{shorten_list(strange) or 'nothing'}. Expected lora_A and lora_B, or lora_down, "
            "lora_up and alpha, or the factors of a LoKr or LoHa, for each layer."
        )
    return groups


def _leaf(found: re.Match[str]) -> str | None:
    kind = found.groupdict().get("kind")
    leaf = _SAME.get(found["leaf"], found["leaf"])
    if kind == ".bias" and leaf == "lora_B":
        return "lora_bias"  # of the thin pair: its strength is the pair's
    if leaf == "diff_b":
        return "bias"
    return None if kind == ".bias" else leaf


def _kind(names: list[str]) -> str | None:
    return next((kind for mark, kind in _KINDS.items() if any(mark in n for n in names)), None)


# ---- numbers --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Layer:
    """A layer by its stored name; as text, for messages, with its file."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


def _update(where: Layer, tensors: Tensors, scaling: LoraScaling) -> Update:
    """One update as stored, with its strength multiplied in."""
    whole = [k for k, x in tensors.items() if not x.is_floating_point()]
    if odd := [k for k in whole if k != "alpha" or tensors[k].dtype == torch.bool]:
        raise WeightsError(f"{where}: {odd[0]} is stored as integers. Get the file again.")
    if not all(bool(x.float().isfinite().all()) for x in tensors.values()):
        raise WeightsError(f"{where} holds NaN or infinity. Get the file again.")
    apart = ("alpha", "bias", "lora_bias", "magnitude")
    rest = {k: x for k, x in tensors.items() if k not in apart}
    odd = [k for k, x in rest.items() if x.dim() < 2 or not x.numel() or x[0, 0].numel() != 1]
    if odd:
        raise WeightsError(f"{where}: {odd[0]} is no matrix. Get the file again.")
    rest = {name: tensor.flatten(1).float() for name, tensor in rest.items()}
    kinds = {name.partition("_")[0] for name in rest}
    if len(kinds) != 1:
        what = f"is {' and '.join(sorted(kinds))} at once" if kinds else "changes no matrix"
        raise WeightsError(f"{where} {what}. Expected one update of a layer's matrix.")
    build = {"lora": _thin, "lokr": _kronecker, "hada": _hadamard, "diff": _full}[kinds.pop()]
    if scaling.kind not in (None, said := _PEFT.get(build)):
        raise WeightsError(f"{where} is a {said or 'difference'}, and its settings are of a "
                           f"{scaling.kind!r:.40}. Get both again.")  # fmt: skip
    bias = tensors["bias"].float() if "bias" in tensors else None
    if "lora_bias" in tensors:
        if bias is not None or "lora_A" not in rest:
            raise WeightsError(f"{where} has a bias beside no thin pair, or two. Get it again.")
        scale = scaling.factor(where.name, len(rest["lora_A"]), tensors.get("alpha"))
        bias = tensors["lora_bias"].float() * scale
    update = build(where, rest, tensors.get("alpha"), scaling, bias)
    if bias is not None and bias.shape != update.shape[:1]:
        raise WeightsError(f"{where} has a bias of the shape {tuple(bias.shape)}. Get it again.")
    update.magnitude = tensors.get("magnitude")
    if scaling.dora and update.magnitude is None:
        raise WeightsError(f"{where} has no magnitude, but its settings say DoRA. Get it again.")
    return update


def _need(where: Layer, tensors: Tensors, names: tuple[str, ...]) -> list[Tensor]:
    if missing := [name for name in names if name not in tensors]:
        raise WeightsError(f"{where} has no {missing[0]}. The file is not complete.")
    if odd := sorted(tensors.keys() - set(names)):
        raise WeightsError(f"{where} has {odd[0]} besides {', '.join(names)}. Get it again.")
    return [tensors[name] for name in names]


def _thin(
    where: Layer, tensors: Tensors, alpha: Tensor | None, scaling: LoraScaling, bias: Tensor | None
) -> Update:
    down, up = _need(where, tensors, ("lora_A", "lora_B"))
    if down.shape[0] != up.shape[1]:
        raise WeightsError(f"{where} has ranks {down.shape[0]} and {up.shape[1]}")
    _require_rank(where, len(down), scaling)
    return LoraLayer(down, up * scaling.factor(where.name, len(down), alpha), bias)


def _require_rank(where: Layer, rank: int, scaling: LoraScaling) -> None:
    """A file whose settings say another rank has those of another file, with another alpha."""
    if (said := scaling.rank_of(where.name)) not in (None, rank):
        raise WeightsError(f"{where} has rank {rank}, and its settings say {said}: they are of "
                           "another file. Get both again.")  # fmt: skip


def _hadamard(
    where: Layer, tensors: Tensors, alpha: Tensor | None, scaling: LoraScaling, bias: Tensor | None
) -> Update:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    a1, b1, a2, b2 = _need(where, tensors, names)
    sizes = (a1.shape[1], a2.shape[1], len(a1), b1.shape[1])
    if sizes != (len(b1), len(b2), len(a2), b2.shape[1]):
        raise WeightsError(f"{where} has factors that do not fit each other. Get it again.")
    _require_rank(where, len(b1), scaling)
    _require_size(where, a1, b1)
    return hadamard(a1 * scaling.factor(where.name, len(b1), alpha), b1, a2, b2, bias)


def _kronecker(
    where: Layer, tensors: Tensors, alpha: Tensor | None, scaling: LoraScaling, bias: Tensor | None
) -> Update:
    """Each factor is a matrix, or thin; the strength counts by the rank of a thin one."""
    (left, rank), (right, other) = (_factor(where, tensors, f"lokr_w{n}") for n in (1, 2))
    rank = other or rank or scaling.rank_of(where.name)
    factor = 1.0 if rank is None else scaling.factor(where.name, rank, alpha)
    return KroneckerLayer(left * factor, right, bias)


def _factor(where: Layer, tensors: Tensors, name: str) -> tuple[Tensor, int | None]:
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(name)}
    if name in own:
        return _need(where, own, (name,))[0], None
    a, b = _need(where, own, (f"{name}_a", f"{name}_b"))
    if a.shape[1] != len(b):
        raise WeightsError(f"{where} has ranks {a.shape[1]} and {len(b)}")
    _require_size(where, a, b)
    return a @ b, len(b)


def _require_size(where: Layer, a: Tensor, b: Tensor) -> None:
    """Thin factors may be small in a file, and their product fill the memory."""
    if len(a) * b.shape[1] > LARGEST_MATRIX:
        raise WeightsError(f"{where} makes a matrix of {len(a)} × {b.shape[1]}, more than any "
                           "layer has. Get the file again.")  # fmt: skip


_PEFT = {_thin: "LORA", _hadamard: "LOHA", _kronecker: "LOKR"}  # what peft calls them


def _full(
    where: Layer, tensors: Tensors, alpha: Tensor | None, scaling: LoraScaling, bias: Tensor | None
) -> Update:
    return FullLayer(*_need(where, tensors, ("diff",)), bias)


# ---- strength -------------------------------------------------------------------------------
@dataclass(frozen=True)
class LoraScaling:
    """peft's settings of how strong an update is: alpha / rank; rslora: alpha / sqrt(rank).

    patterns: another alpha, ranks: another rank, for the layers whose name ends in a match. dora:
    every layer has a magnitude. kind: which form of update they are of, as peft calls it.
    """

    alpha: float | None = None
    rank: int | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    kind: str | None = None

    def factor(self, layer: str, rank: int, own: Tensor | None = None) -> float:
        """What an update is multiplied by. own: the alpha that the file has for this layer."""
        if own is not None and own.numel() != 1:
            raise WeightsError(f"{layer} has an alpha of {own.numel()} numbers; expected one.")
        alpha = self.alpha if own is None else float(own)
        if own is None:
            alpha = _matched(self.patterns, layer, alpha)
        alpha = _bounded(rank if alpha is None else alpha, f"alpha of {layer}")
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def rank_of(self, layer: str) -> int | None:
        """The rank that the settings give a layer; None where nothing is said."""
        found = _matched(self.ranks, layer, self.rank)
        return None if found is None else int(found)


def _matched(patterns: Mapping[str, float], layer: str, default: float | None) -> float | None:
    for pattern, value in patterns.items():
        if _ending(pattern).match(layer):
            return value
    return default


@lru_cache(maxsize=4 * MOST)  # re's own has room for 512, and every layer is asked of all
def _ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _bounded(value: float, what: str) -> float:
    least = 1 if what.startswith("rank") else -LARGEST_ALPHA
    if not is_number(value) or not least <= value <= LARGEST_ALPHA:
        raise WeightsError(f"The {what} is {value!r:.40}; expected a number of at most "
                           f"{LARGEST_ALPHA:g}.")  # fmt: skip
    return float(value)


def read_scaling(path: Path, names: Mapping[str, Any]) -> LoraScaling:
    """The settings in peft's adapter_config.json beside the file, or in diffusers' metadata.

    peft's own files are known by their names of tensors, whatever the file is called.
    """
    beside = path.parent / "adapter_config.json"
    peft = path.name == FOLDER_FILES[0] or any(n.startswith("base_model.model.") for n in names)
    with safetensors_io.opened(path) as file:
        inside = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        if peft and os.path.lexists(beside):
            facts = read_json(beside, WeightsError)
        else:
            facts = parse_json(inside)
            if peft and not facts and not any(name.endswith(".alpha") for name in names):
                warn(WeightsWarning(f"{path} has no adapter_config.json beside it: its alpha is "
                                    "not known and taken to be its rank."))  # fmt: skip
        return _scaling({n.removeprefix("transformer."): value for n, value in facts.items()})
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: its settings by peft are no JSON of numbers") from error


# Settings by which peft computes something else with the same tensors.
_OTHERS = ("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config",
           "monteclora_config", "arrow_config")  # fmt: skip
# Ways to begin a LoRA that change the base's weights: it counts from other weights than the base's.
_MOVED = ("pissa", "olora", "corda", "lora_ga", "loftq", "milora")


def _scaling(facts: Mapping[str, Any]) -> LoraScaling:
    begun = facts.get("init_lora_weights", facts.get("init_weights"))
    moved = isinstance(begun, str) and begun.lower().startswith(_MOVED)
    if moved or facts.get("layer_replication"):
        what = f"init_lora_weights = {begun!r:.40}" if moved else "layer_replication"
        raise WeightsError(
            f"The settings say {what}: this LoRA is for a base whose weights were changed. Convert "
            "it with peft (path_initial_model_for_weight_conversion), or merge it there."
        )
    if odd := [name for name in _OTHERS if facts.get(name)]:
        raise WeightsError(f"The settings say {odd[0]} = {facts[odd[0]]!r:.40}, by which peft does "
                           "something else with it. Merge it into its base model.")  # fmt: skip
    flags = {name: facts.get(name) or False for name in ("use_rslora", "use_dora")}
    if odd := [name for name, value in flags.items() if not isinstance(value, bool)]:
        raise WeightsError(f"The settings say {odd[0]} = {flags[odd[0]]!r:.40}; expected a bool.")
    alpha, rank = facts.get("lora_alpha", facts.get("alpha")), facts.get("r")
    return LoraScaling(
        None if alpha is None else _bounded(alpha, "alpha"),
        None if rank is None else int(_bounded(rank, "rank")),
        dict(_patterns(facts.get("alpha_pattern") or {}, "alpha")),
        dict(_patterns(facts.get("rank_pattern") or {}, "rank")),
        *flags.values(),
        facts.get("peft_type"),
    )


def check_pattern(pattern: str) -> None:
    """Raise WeightsError for what is no expression, or could take hours: it is refused unseen."""
    repeats = len(re.findall(r"(?<!\\)[*+?{]", pattern))
    if len(pattern) > 300 or repeats > 2 or re.search(r"[)}*+?][*+?{]", pattern):
        raise WeightsError(
            f"The settings name layers by {pattern!r:.80}, which could take for ever to match. "
            "Expected names, or expressions with at most two simple repeats."
        )
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise WeightsError(f"The settings' {pattern!r:.80} is no expression.") from error


def _patterns(table: Mapping[str, Any], what: str) -> Iterator[tuple[str, float]]:
    if len(table) > MOST:
        raise WeightsError(f"The settings have {len(table)} patterns; expected at most {MOST}.")
    for pattern, value in table.items():
        check_pattern(pattern)
        yield pattern, _bounded(value, f"{what} of {pattern!r:.80}")
