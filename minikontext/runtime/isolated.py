"""Contexts on their own: they see only each other, at t = 0, so steps share their keys and values.

In Kontext every token sees every other, so the contexts are computed anew in each step, though
their pictures are clean and stay the same. Here context tokens attend to context tokens alone and
are modulated by t = 0, with the same weights; text and target still attend to all. What the
contexts offer in a block, keys and values, then depends on nothing that a step changes: it is
computed once and kept, and that is exact. Neither is in the paper. The weights have to be trained
for it (`isolated` in [training]); what it costs in quality is for `benchmarks.variants` to measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext.errors import ConfigError
from minikontext.layers import (
    DoubleStreamBlock,
    SingleStreamBlock,
    add_mlp,
    attend,
    attention,
    modulate,
    split_heads,
)
from minikontext.rope import rotate
from minikontext.runtime.lease import held
from minikontext.runtime.step_cache import CachedTransformer, StepCache
from minikontext.transformer import KontextTransformer

Offer = tuple[Tensor, Tensor]  # rotated keys and values of the contexts, (b, heads, c, d) each


def sampling_net(
    transformer: KontextTransformer, cache: StepCache | None, isolated: bool
) -> KontextTransformer | CachedTransformer | IsolatedContext:
    """What one sampling of one prompt calls. Raises ConfigError for two caches at once."""
    if isolated and cache:
        raise ConfigError("step_cache skips blocks that isolated contexts keep: use it without.")
    if isolated:
        return IsolatedContext(transformer, keep=True)
    return CachedTransformer(transformer, cache) if cache else transformer


@dataclass
class IsolatedContext:
    """A transformer whose contexts see only each other; called as the transformer is.

    keep: the contexts' keys and values are computed once, at the first call: for one sampling of
    one prompt. Context tokens are those whose first position id is not 0.
    """

    transformer: KontextTransformer
    keep: bool = False
    offers: list[Offer] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.rotations = self.transformer.rotations

    def __call__(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, timesteps: Tensor,
        pooled: Tensor, guidance: Tensor | None = None, rotary: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Velocity of the target alone, (b, n, out_channels); arguments as the transformer's."""
        net, n = self.transformer, int((img_ids[..., 0] == 0).sum(-1).max())
        if n == img.shape[1]:  # no contexts
            return net(img, img_ids, txt, txt_ids, timesteps, pooled, guidance, rotary)
        with held(net):
            return self._velocity(
                img, img_ids, txt, txt_ids, timesteps, pooled, guidance, rotary, n=n
            )

    def _velocity(self, *inputs: Tensor | None, n: int) -> Tensor:
        net, (timesteps, pooled, guidance) = self.transformer, inputs[4:7]
        x, txt, vec, rotary = net.embed(*inputs)
        own, theirs = rotary.split((txt.shape[1] + n, x.shape[1] - n), dim=-3)
        offers = self.offers
        if not offers:
            at_zero = net.condition(torch.zeros_like(timesteps), pooled, guidance)
            offers = self._offered(x[:, n:], at_zero, theirs)
            self.offers = offers if self.keep else []
        x, pairs = x[:, :n], iter(offers)
        for block in net.double_blocks:
            x, txt = _double(block, x, txt, vec, own, next(pairs))
        both = torch.cat((txt, x), dim=1)
        for block in net.single_blocks:
            both = _single(block, both, vec, own, next(pairs))[0]
        return net.final_layer(both[:, txt.shape[1] :], vec)

    def _offered(self, x: Tensor, vec: Tensor, rotary: Tensor) -> list[Offer]:
        """Keys and values of context tokens (b, c, d) in every block."""
        offers = []
        for block in self.transformer.double_blocks:
            shift, scale, gate, *of_mlp = block.img_mod(vec)
            q, k, v = block.img_attn.heads(modulate(x, shift, scale))
            offers.append((_turned(k, rotary), v.transpose(1, 2)))
            x = torch.addcmul(x, gate, block.img_attn.proj(attention(q, k, v, rotary)))
            x = add_mlp(x, block.img_mlp, *of_mlp)
        for block in self.transformer.single_blocks:
            x, offer = _single(block, x, vec, rotary)
            offers.append(offer)
        return offers


def _double(
    block: DoubleStreamBlock, img: Tensor, txt: Tensor, vec: Tensor, rotary: Tensor, offer: Offer
) -> tuple[Tensor, Tensor]:
    """A double-stream block of target and text that also look at the contexts."""
    streams = (txt, block.txt_mod(vec), block.txt_attn), (img, block.img_mod(vec), block.img_attn)
    heads = [attn.heads(modulate(x, *mod[:2])) for x, mod, attn in streams]
    q, k, v = (torch.cat(pair, dim=1) for pair in zip(*heads, strict=True))
    out = _look(q, k, v, rotary, offer).split((txt.shape[1], img.shape[1]), dim=1)
    txt, img = (
        torch.addcmul(x, mod[2], attn.proj(o))
        for (x, mod, attn), o in zip(streams, out, strict=True)
    )
    of_txt, of_img = (mod[3:] for _, mod, _ in streams)
    return add_mlp(img, block.img_mlp, *of_img), add_mlp(txt, block.txt_mlp, *of_txt)


def _single(
    block: SingleStreamBlock, x: Tensor, vec: Tensor, rotary: Tensor, offer: Offer | None = None
) -> tuple[Tensor, Offer]:
    """A single-stream block of tokens that also look at the contexts; and what they offer."""
    shift, scale, gate = block.modulation(vec)
    *qkv, mlp = block.linear1(modulate(x, shift, scale)).split(block.widths, dim=-1)
    q, k, v = split_heads(qkv, block.num_heads)
    q, k = block.norm(q, k)
    out = _look(q, k, v, rotary, offer)
    out = block.linear2(torch.cat((out, F.gelu(mlp, approximate="tanh")), dim=-1))
    return torch.addcmul(x, gate, out), (_turned(k, rotary), v.transpose(1, 2))


def _look(q: Tensor, k: Tensor, v: Tensor, rotary: Tensor, offer: Offer | None) -> Tensor:
    """Attention of tokens (b, n, heads, d) to themselves and to what contexts offer."""
    values = v.transpose(1, 2)
    queries, keys = _turned(q, rotary).to(v.dtype), _turned(k, rotary)
    if offer is not None:
        keys, values = torch.cat((keys, offer[0]), dim=2), torch.cat((values, offer[1]), dim=2)
    return attend(queries, keys.to(v.dtype), values).transpose(1, 2).flatten(2)


def _turned(x: Tensor, rotary: Tensor) -> Tensor:
    return rotate(x.transpose(1, 2), rotary)
