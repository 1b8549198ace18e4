"""Names of tensors: official FLUX names, and those of diffusers, one table for both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minikontext.errors import WeightsError, shorten_list

StateDict = dict[str, Tensor]
SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")  # the end of the name of one of several files


def join_parts(state: StateDict, rules: Iterable[Rule]) -> StateDict:
    """Official tensors from those that diffusers keeps in several parts."""
    return {r.official: to_official([state[n] for n in r.diffusers], r.how) for r in rules}


# ---- names ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """One official tensor and the diffusers tensors that make it up, joined in order."""

    official: str
    diffusers: tuple[str, ...]
    how: str = "join"  # or "swap": halves change places; or "linear": a 1x1 convolution


def from_diffusers(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename diffusers' FluxTransformer2DModel or AutoencoderKL to official names, any size.

    The halves of norm_out.linear are swapped: diffusers stores (scale, shift). Forgetting it
    costs a tenth of the output and raises nothing. Raises WeightsError for unknown names.
    """
    if not is_diffusers(state_dict):
        _require_empty(state_dict, "diffusers")
    return join_parts(state_dict, official_rules(state_dict))


def to_diffusers(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename official names to those of diffusers: the exact inverse of `from_diffusers`.

    Raises WeightsError for unknown names.
    """
    left, renamed = dict(state_dict), {}
    for rule in _rules(left):
        if rule.official in left:
            parts = to_parts(left.pop(rule.official), rule, state_dict)
            renamed.update(zip(rule.diffusers, parts, strict=True))
    _require_empty(left, "official")
    return renamed


def is_diffusers(names: Iterable[str]) -> bool:
    """Tell diffusers' names from official ones."""
    marks = ("transformer_blocks.", "single_transformer_blocks.", "mid_block.", "x_embedder.")
    return any(mark in name for name in names for mark in marks)


def official_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules that build every official tensor from what a file of either naming holds.

    Raises WeightsError for names that belong to neither.
    """
    if not is_diffusers(state):
        return [Rule(name, (name,)) for name in state]
    rules, left = [], dict.fromkeys(state)
    for rule in _rules(state):
        parts = [name for name in rule.diffusers if name in left]
        if parts:
            _require_all(rule, parts)
            rules.append(rule)
        for name in parts:
            del left[name]
    _require_empty(left, "diffusers")
    return rules


def to_official(parts: list[Tensor], how: str = "join") -> Tensor:
    """Build one official tensor from its parts under diffusers names.

    Of parts in several dtypes, one of them float8, those become bfloat16: torch joins no others.
    """
    if how == "swap":
        return _swap_halves(parts[0])
    if how == "linear" and parts[0].dim() == 2:
        return parts[0][:, :, None, None]  # (c, c) -> (c, c, 1, 1)
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1:] for part in parts}) > 1 or not all(part.dim() for part in parts):
        raise WeightsError(f"Tensors of {_shapes(parts)} make no matrix. Get the file again.")
    if len({part.dtype for part in parts}) > 1:
        parts = [part if part.itemsize > 1 else part.to(torch.bfloat16) for part in parts]
    return torch.cat(parts)


def to_parts(tensor: Tensor, rule: Rule, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Cut one official tensor into those of diffusers: the inverse of `to_official`."""
    if rule.how == "swap":
        return [_swap_halves(tensor)]
    if rule.how == "linear" and tensor.dim() == 4:
        return [tensor[:, :, 0, 0]]  # (c, c, 1, 1) -> (c, c)
    if len(rule.diffusers) == 1:
        return [tensor]
    dim = state["img_in.weight"].shape[0]
    rest = (len(tensor) if tensor.dim() else 0) - 3 * dim  # the MLP's share of linear1
    if rest < 0 or (rest and len(rule.diffusers) == 3):
        raise WeightsError(f"{rule.official} of {_shapes([tensor])} holds no 3 × {dim} rows.")
    return list(tensor.split([dim, dim, dim] + [rest] * (len(rule.diffusers) == 4)))


def _shapes(tensors: Iterable[Tensor]) -> str:
    return f"shapes {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}"


def _swap_halves(tensor: Tensor) -> Tensor:
    if not tensor.dim():
        raise WeightsError("A modulation of one number has no halves. Get the file again.")
    return torch.cat(tensor.chunk(2)[::-1])


def _require_all(rule: Rule, parts: list[str]) -> None:
    if len(parts) != len(rule.diffusers):
        raise WeightsError(
            f"Got {len(parts)} of the {len(rule.diffusers)} tensors that make up {rule.official}: "
            f"expected {', '.join(rule.diffusers)}. The file is not complete."
        )


def _require_empty(left: Iterable[str], kind: str) -> None:
    if left := sorted(left):
        raise WeightsError(
            f"Got names that are no {kind} names of FLUX: {shorten_list(left)}. "
            f"Expected all tensors of one transformer or autoencoder under {kind} names."
        )


def _rules(state: Mapping[str, Tensor]) -> Iterator[Rule]:
    """All rules that can apply to these tensors; sizes are read off the names."""
    autoencoder = any(name.startswith(("encoder.", "decoder.")) for name in state)
    return _autoencoder_rules(state) if autoencoder else transformer_rules(state)


def count(state: Iterable[str], *stems: str) -> int:
    """How many numbered children follow a stem, whichever naming is used.

    Children are counted, not their numbers believed: one name must not ask for a billion blocks.
    """
    heads = (
        name.removeprefix(s).split(".")[0] for name in state for s in stems if name.startswith(s)
    )
    return len({head for head in heads if head.isdecimal()})


def _both(official: str, *diffusers: str, how: str = "join") -> Iterator[Rule]:
    """Weight and bias of one layer."""
    for leaf in (".weight", ".bias"):
        yield Rule(official + leaf, tuple(name + leaf for name in diffusers), how)


def transformer_rules(state: Mapping[str, Tensor]) -> Iterator[Rule]:
    """The rules of FLUX's transformer; its numbers of blocks are read off the names."""
    yield from _both("img_in", "x_embedder")
    yield from _both("txt_in", "context_embedder")
    for ours, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        for layer, number in (("in", 1), ("out", 2)):
            embedder = f"time_text_embed.{theirs}_embedder.linear_{number}"
            yield from _both(f"{ours}_in.{layer}_layer", embedder)
    for i in range(count(state, "double_blocks.", "transformer_blocks.")):
        yield from _double_rules(f"double_blocks.{i}.", f"transformer_blocks.{i}.")
    for i in range(count(state, "single_blocks.", "single_transformer_blocks.")):
        yield from _single_rules(f"single_blocks.{i}.", f"single_transformer_blocks.{i}.")
    yield from _both("final_layer.linear", "proj_out")
    yield from _both("final_layer.adaLN_modulation.1", "norm_out.linear", how="swap")


def _double_rules(ours: str, theirs: str) -> Iterator[Rule]:
    # stream, modulation, queries-keys-values, their norms, projection, MLP
    streams = (
        ("img", "norm1", "to_{}", "norm_{}", "to_out.0", "ff"),
        ("txt", "norm1_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
    )
    for stream, mod, qkv, norm, proj, mlp in streams:
        yield from _both(f"{ours}{stream}_mod.lin", f"{theirs}{mod}.linear")
        parts = (f"{theirs}attn.{qkv.format(part)}" for part in "qkv")
        yield from _both(f"{ours}{stream}_attn.qkv", *parts)
        yield from _norm_rules(f"{ours}{stream}_attn.norm.", f"{theirs}attn.{norm}.weight")
        yield from _both(f"{ours}{stream}_attn.proj", f"{theirs}attn.{proj}")
        yield from _both(f"{ours}{stream}_mlp.0", f"{theirs}{mlp}.net.0.proj")
        yield from _both(f"{ours}{stream}_mlp.2", f"{theirs}{mlp}.net.2")


def _single_rules(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _both(f"{ours}modulation.lin", f"{theirs}norm.linear")
    parts = (f"{theirs}attn.to_{part}" for part in "qkv")
    yield from _both(f"{ours}linear1", *parts, f"{theirs}proj_mlp")
    yield from _norm_rules(f"{ours}norm.", f"{theirs}attn.norm_{{}}.weight")
    yield from _both(f"{ours}linear2", f"{theirs}proj_out")


def _norm_rules(ours: str, theirs: str) -> Iterator[Rule]:
    yield Rule(f"{ours}query_norm.scale", (theirs.format("q"),))
    yield Rule(f"{ours}key_norm.scale", (theirs.format("k"),))


def _autoencoder_rules(state: Mapping[str, Tensor]) -> Iterator[Rule]:
    levels = count(state, "encoder.down.", "encoder.down_blocks.")
    levels = levels or count(state, "decoder.up.", "decoder.up_blocks.")
    for i in range(levels):
        yield from _level_rules(state, f"encoder.down.{i}.", f"encoder.down_blocks.{i}.", "down")
        # diffusers counts the decoder's levels from the coarsest on.
        theirs = f"decoder.up_blocks.{levels - 1 - i}."
        yield from _level_rules(state, f"decoder.up.{i}.", theirs, "up")
    for half in ("encoder.", "decoder."):
        yield from _both(f"{half}conv_in", f"{half}conv_in")
        yield from _both(f"{half}norm_out", f"{half}conv_norm_out")
        yield from _both(f"{half}conv_out", f"{half}conv_out")
        yield from _middle_rules(f"{half}mid.", f"{half}mid_block.")


def _level_rules(
    state: Mapping[str, Tensor], ours: str, theirs: str, direction: str
) -> Iterator[Rule]:
    for j in range(count(state, f"{ours}block.", f"{theirs}resnets.")):
        yield from _resnet_rules(f"{ours}block.{j}.", f"{theirs}resnets.{j}.")
    yield from _both(f"{ours}{direction}sample.conv", f"{theirs}{direction}samplers.0.conv")


def _middle_rules(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _resnet_rules(f"{ours}block_1.", f"{theirs}resnets.0.")
    yield from _resnet_rules(f"{ours}block_2.", f"{theirs}resnets.1.")
    yield from _both(f"{ours}attn_1.norm", f"{theirs}attentions.0.group_norm")
    for part, name in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield from _both(f"{ours}attn_1.{part}", f"{theirs}attentions.0.{name}", how="linear")


def _resnet_rules(ours: str, theirs: str) -> Iterator[Rule]:
    for layer in ("norm1", "conv1", "norm2", "conv2"):
        yield from _both(ours + layer, theirs + layer)
    yield from _both(f"{ours}nin_shortcut", f"{theirs}conv_shortcut")


def require_fit(state: StateDict, module: nn.Module, path: object) -> None:
    """Same names, same shapes as the module, or an error that says all that is wrong."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [
        f"{name} has shape {got[name]}, expected {expected[name]}"
        for name in expected
        if name in got and got[name] != expected[name]
    ]
    missing, extra = expected.keys() - got.keys(), got.keys() - expected.keys()
    problems = [f"missing {shorten_list(sorted(missing))}"] * bool(missing)
    problems += [f"unknown {shorten_list(sorted(extra))}"] * bool(extra)
    problems += [shorten_list(wrong)] * bool(wrong)
    problems += ["it is one of several files: give their folder"] * bool(SHARD.search(str(path)))
    if problems:
        raise WeightsError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}. "
            "Use the weights of this model, or the configuration they were made with."
        )
