"""Pixels to latents and back: FLUX's KL autoencoder (official name `AutoEncoder`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Interval, MaxLen
from einops import rearrange
from torch import Tensor, nn

from minikontext.errors import ConfigError
from minikontext.layers import attend

Width = Annotated[int, Interval(ge=1, le=2**18)]


@dataclass(frozen=True)
class AutoEncoderConfig:
    """Sizes of an autoencoder, under the official field names."""

    resolution: Width
    in_channels: Width
    ch: Width
    out_ch: Width
    ch_mult: Annotated[tuple[Annotated[int, Interval(ge=1, le=64)], ...], MaxLen(16)]
    num_res_blocks: Annotated[int, Interval(ge=1, le=64)]
    z_channels: Width
    scale_factor: Annotated[float, Interval(gt=0, le=1e6)]
    shift_factor: Annotated[float, Interval(ge=-1e6, le=1e6)]
    norm_groups: Width = 32

    def __post_init__(self) -> None:
        if not self.ch_mult or self.ch % self.norm_groups:
            got = f"ch {self.ch} over norm_groups {self.norm_groups}, ch_mult {self.ch_mult}"
            raise ConfigError(f"{got}: expected whole groups, and one multiple a level.")

    @property
    def downsample(self) -> int:
        """Pixels along one side of a latent pixel."""
        return 2 ** (len(self.ch_mult) - 1)

    @classmethod
    def toy(cls) -> AutoEncoderConfig:
        """The autoencoder of the toy world: trains on a laptop."""
        return cls(
            resolution=64, in_channels=3, ch=16, out_ch=3, ch_mult=(1, 2, 4, 8),
            num_res_blocks=1, z_channels=16, scale_factor=1.0, shift_factor=0.0, norm_groups=4,
        )  # fmt: skip

    @classmethod
    def flux(cls) -> AutoEncoderConfig:
        """The autoencoder that all FLUX.1 models share."""
        return cls(
            resolution=256, in_channels=3, ch=128, out_ch=3, ch_mult=(1, 2, 4, 4),
            num_res_blocks=2, z_channels=16, scale_factor=0.3611, shift_factor=0.1159,
        )  # fmt: skip


def silu(x: Tensor) -> Tensor:
    """SiLU in the memory of a norm's fresh result: large pictures wait for memory, not for sums."""
    return F.silu(x, inplace=True)


class ResnetBlock(nn.Module):
    """Two convolutions around a shortcut, (b, c_in, h, w) -> (b, c_out, h, w)."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-6)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions found to `x`."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head attention over all pixels; its linear maps are stored as 1x1 convolutions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Let every pixel look at every other, (b, c, h, w) -> (b, c, h, w)."""
        n = self.norm(x)
        q, k, v = (rearrange(f(n), "b c h w -> b 1 (h w) c") for f in (self.q, self.k, self.v))
        out = attend(q, k, v)  # (b, 1, h*w, c)
        return x + self.proj_out(rearrange(out, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    """Halve height and width with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only: symmetric would shift


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution and, if there is a next one, the step to it."""

    def __init__(self, c_in: int, c_out: int, blocks: int, groups: int, step: str | None) -> None:
        super().__init__()
        widths = [c_in] + [c_out] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, groups) for a, b in pairwise(widths))
        if step:
            self.add_module(step, {"downsample": Downsample, "upsample": Upsample}[step](c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Run the children in the order they were added."""
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    """The coarsest resolution: the only place where the autoencoder uses attention."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels (b, 3, h, w) -> mean and log-variance of the latents, (b, 2 z, h/f, w/f)."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        c, groups = config, config.norm_groups
        widths = [c.ch] + [c.ch * m for m in c.ch_mult]
        last = len(c.ch_mult) - 1
        self.conv_in = nn.Conv2d(c.in_channels, c.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], c.num_res_blocks, groups, "downsample" * (i < last))
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * c.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels in [-1, 1]."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (b, z, h/f, w/f) -> pixels (b, 3, h, w); one residual block a level more."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        c, groups = config, config.norm_groups
        widths = [c.ch * m for m in c.ch_mult]
        widths.append(widths[-1])  # the middle
        self.conv_in = nn.Conv2d(c.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups)
        # up[i] works at the resolution of down[i], so the decoder runs through it backwards.
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], c.num_res_blocks + 1, groups, "upsample" * (i > 0))
            for i in range(len(c.ch_mult))
        )
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], c.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents that are no longer normalised."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(silu(self.norm_out(x)))


class AutoEncoder(nn.Module):
    """FLUX's KL autoencoder with normalised latents, `z = scale_factor * (mean - shift_factor)`.

    Height and width of the pixels are divisible by `config.downsample`.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents, both (b, z, h/f, w/f), not normalised."""
        mean, logvar = self.encoder(pixels).chunk(2, dim=1)
        return mean, logvar

    def normalize(self, z: Tensor) -> Tensor:
        """Bring latents to about unit variance: the scale on which the transformer works."""
        return self.config.scale_factor * (z - self.config.shift_factor)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (b, 3, h, w) in [-1, 1] -> normalised latents (b, z, h/f, w/f), the mean."""
        return self.normalize(self.moments(pixels)[0])

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (b, z, h/f, w/f) -> pixels (b, 3, h, w), about [-1, 1]."""
        return self.decoder(latents / self.config.scale_factor + self.config.shift_factor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode and decode: the round trip, (b, 3, h, w) -> (b, 3, h, w)."""
        return self.decode(self.encode(pixels))

    def encoder_fingerprint(self) -> str:
        """A checksum of what latents depend on, hex digits; equal for the same latents."""
        digest = hashlib.sha256(repr(self.config).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) averaged over all elements, a scalar in nats."""
    return 0.5 * (mean.pow(2) + logvar.exp() - 1.0 - logvar).mean()
