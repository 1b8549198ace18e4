"""The velocity model: FLUX.1 Kontext's transformer (official name `Flux`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Interval, MaxLen
from torch import Tensor, nn

from minikontext.errors import ConfigError
from minikontext.layers import (
    DoubleStreamBlock,
    LastLayer,
    MLPEmbedder,
    RMSNorm,
    SingleStreamBlock,
    timestep_embedding,
)
from minikontext.rope import rotations

# FLUX.1 has matrices of 15 360 and 19 + 38 blocks: a file that asks for more is no FLUX.
Width = Annotated[int, Interval(ge=1, le=2**18)]
Depth = Annotated[int, Interval(ge=0, le=512)]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer, under the official field names."""

    in_channels: Width
    out_channels: Width
    vec_in_dim: Width
    context_in_dim: Width
    hidden_size: Width
    mlp_ratio: Annotated[float, Interval(gt=0, le=64)]
    num_heads: Width
    depth: Depth
    depth_single_blocks: Depth
    axes_dim: Annotated[tuple[Width, ...], MaxLen(16)]
    theta: Annotated[int, Interval(ge=1, le=2**40)]
    qkv_bias: bool
    guidance_embed: bool

    def __post_init__(self) -> None:
        head_dim, rest = divmod(self.hidden_size, self.num_heads)
        if rest or sum(self.axes_dim) != head_dim:
            got = f"{self.hidden_size / self.num_heads:g} channels a head (hidden_size / num_heads)"
            need = f"axes_dim {self.axes_dim} needs {sum(self.axes_dim)}"
            raise ConfigError(f"Got {got}, but {need}. Make them equal.")

    @classmethod
    def toy(cls) -> TransformerConfig:
        """The editor of the toy world: trains on a laptop."""
        return cls(
            in_channels=64, out_channels=64, vec_in_dim=128, context_in_dim=128,
            hidden_size=192, mlp_ratio=4.0, num_heads=4, depth=2, depth_single_blocks=4,
            axes_dim=(8, 20, 20), theta=10_000, qkv_bias=True, guidance_embed=False,
        )  # fmt: skip

    @classmethod
    def flux_dev(cls) -> TransformerConfig:
        """FLUX.1 [dev] and FLUX.1 Kontext [dev]: 11 901 408 320 parameters."""
        return cls(
            in_channels=64, out_channels=64, vec_in_dim=768, context_in_dim=4096,
            hidden_size=3072, mlp_ratio=4.0, num_heads=24, depth=19, depth_single_blocks=38,
            axes_dim=(16, 56, 56), theta=10_000, qkv_bias=True, guidance_embed=True,
        )  # fmt: skip

    @classmethod
    def flux_schnell(cls) -> TransformerConfig:
        """FLUX.1 [schnell]: [dev] without the guidance embedding."""
        return replace(cls.flux_dev(), guidance_embed=False)


class KontextTransformer(nn.Module):
    """Predict the velocity of every image token from noisy target, context, text and time."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim, heads, ratio = config.hidden_size, config.num_heads, config.mlp_ratio
        self.img_in = nn.Linear(config.in_channels, dim)
        self.time_in = MLPEmbedder(256, dim)
        self.vector_in = MLPEmbedder(config.vec_in_dim, dim)
        if config.guidance_embed:
            self.guidance_in = MLPEmbedder(256, dim)
        self.txt_in = nn.Linear(config.context_in_dim, dim)
        numbers = range(config.depth), range(config.depth_single_blocks)
        double = (DoubleStreamBlock(dim, heads, ratio, config.qkv_bias) for _ in numbers[0])
        single = (SingleStreamBlock(dim, heads, ratio) for _ in numbers[1])
        self.double_blocks, self.single_blocks = nn.ModuleList(double), nn.ModuleList(single)
        self.final_layer = LastLayer(dim, config.out_channels)

    def forward(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, timesteps: Tensor,
        pooled: Tensor, guidance: Tensor | None = None, rotary: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Velocity of the sequence [target, context], (b, n, out_channels); cut it to the target.

        img (b, n, in_channels), txt (b, m, context_in_dim), ids (n, 3) or (b, n, 3) and
        (m, 3) or (b, m, 3), timesteps (b,) in [0, 1], pooled (b, vec_in_dim), guidance (b,).
        rotary: the ids' `rotations`, for who knows them from the step before.
        Raises ConfigError if guidance is missing where the model was trained with it.
        """
        img, txt, vec, rotary = self.embed(
            img, img_ids, txt, txt_ids, timesteps, pooled, guidance, rotary
        )
        return self.final_layer(self.blocks(img, txt, vec, rotary), vec)

    def embed(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, timesteps: Tensor,
        pooled: Tensor, guidance: Tensor | None = None, rotary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """What the blocks work on: img (b, n, d), txt (b, m, d), vec (b, d) and rotations."""
        vec = self.condition(timesteps, pooled, guidance)  # (b, d)
        rotary = self.rotations(img_ids, txt_ids) if rotary is None else rotary
        return self.img_in(img), self.txt_in(txt), vec, rotary

    def rotations(self, img_ids: Tensor, txt_ids: Tensor) -> Tensor:
        """Rotations of all tokens, text first, (m + n, d/2, 2): the same at every time."""
        return rotations(_join_ids(txt_ids, img_ids), self.config.axes_dim, self.config.theta)

    def blocks(
        self, img: Tensor, txt: Tensor, vec: Tensor, rotary: Tensor, start: int = 0
    ) -> Tensor:
        """Run the blocks, without the first `start` double ones: -> img (b, n, d)."""
        for block in list(self.double_blocks)[start:]:
            img, txt = block(img, txt, vec, rotary)
        x = torch.cat((txt, img), dim=1)  # (b, m + n, d)
        for block in self.single_blocks:
            x = block(x, vec, rotary)
        return x[:, txt.shape[1] :]

    def condition(self, timesteps: Tensor, pooled: Tensor, guidance: Tensor | None) -> Tensor:
        """Add up what modulates every token: time, guidance and the pooled text, (b, d)."""
        vec = self.time_in(timestep_embedding(timesteps).to(pooled.dtype)) + self.vector_in(pooled)
        if not self.config.guidance_embed:
            return vec
        if guidance is None:
            text = "This model was trained with guidance as an input, but got none."
            raise ConfigError(f"{text} Give guidance of shape (b,), say 2.5 for each picture.")
        return vec + self.guidance_in(timestep_embedding(guidance).to(pooled.dtype))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> KontextTransformer:
        """Set weights to train from nothing, and return self.

        FLUX's initialisation is not published; this is our choice, after DiT's: Xavier for linear
        maps, N(0, 0.02) for the conditioning, and zero for modulations and the last projection,
        so that every block starts as the identity (adaLN-zero) and the first velocity is 0.
        """
        for name, module in self.named_modules():
            init_module(name, module, generator)
        return self


@torch.no_grad()
def init_module(name: str, module: nn.Module, generator: torch.Generator | None) -> None:
    """Set the weights that a module itself owns, as `init_weights` does for all."""
    if isinstance(module, RMSNorm):
        module.scale.fill_(1.0)
    if not isinstance(module, nn.Linear):
        return
    if module.bias is not None:
        module.bias.zero_()
    if name.startswith("final_layer") or name.endswith(("_mod.lin", "modulation.lin")):
        module.weight.zero_()
    elif name.startswith(("time_in", "vector_in", "guidance_in")):
        module.weight.normal_(std=0.02, generator=generator)
    else:
        nn.init.xavier_uniform_(module.weight, generator=generator)


def _join_ids(txt_ids: Tensor, img_ids: Tensor) -> Tensor:
    """Text first, as everywhere; ids without a batch dimension hold for the whole batch."""
    batch = torch.broadcast_shapes(txt_ids.shape[:-2], img_ids.shape[:-2])
    return torch.cat([ids.expand(*batch, -1, -1) for ids in (txt_ids, img_ids)], dim=-2)
