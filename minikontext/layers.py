"""The parts of FLUX's transformer, under their official names."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minikontext.rope import rotate


def timestep_embedding(t: Tensor, dim: int = 256, max_period: float = 10_000) -> Tensor:
    """Describe 1000 t by cosines, then sines, of falling frequency: (b,) -> (b, dim), float32."""
    half = torch.arange(dim // 2, dtype=torch.float32, device=t.device) / (dim // 2)
    frequencies = torch.exp(-math.log(max_period) * half)
    angles = 1000 * t.float()[:, None] * frequencies  # (b, dim/2)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention, `softmax(q k^T / sqrt(d)) v`: (b, heads, n, d) -> (b, heads, n, d).

    PyTorch's kernel, but for training in bfloat16 on a CPU: there its backward pass takes several
    times as long as that of the formula, which keeps n × n weights (benchmarks/speed.py).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attention(q: Tensor, k: Tensor, v: Tensor, rotations: Tensor) -> Tensor:
    """Rotate queries and keys to their positions and attend: (b, n, heads, d) -> (b, n, heads * d).

    No mask: text, target and context all see each other.
    """
    q, k, v = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
    # Values are not rotated: a position decides who attends to whom, not what is handed over.
    q, k = rotate(q, rotations).to(v.dtype), rotate(k, rotations).to(v.dtype)
    return rearrange(attend(q, k, v), "b h n d -> b n (h d)")


def split_heads(tensors: Iterable[Tensor], num_heads: int) -> list[Tensor]:
    """Give each head its share of the channels: (b, n, heads * d) -> (b, n, heads, d)."""
    return [rearrange(x, "b n (h d) -> b n h d", h=num_heads) for x in tensors]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each token, then `(1 + scale) x + shift`; x (b, n, d), the others (b, 1, d)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class MLPEmbedder(nn.Module):
    """Linear, SiLU, Linear: brings a time, a scale or a pooled text to the width of the model."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_dim)
        self.out_layer = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_dim) -> (b, hidden_dim)."""
        return self.out_layer(F.silu(self.in_layer(x)))


class RMSNorm(nn.Module):
    """Divide by the root mean square, multiply by a learned `scale`; always in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim), float32."""
        return F.rms_norm(x.float(), self.scale.shape, self.scale.float(), eps=1e-6)


class QKNorm(nn.Module):
    """Normalise queries and keys per head, so that attention logits cannot grow without bound."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, heads, dim) -> the same, float32."""
        return self.query_norm(q), self.key_norm(k)


class SelfAttention(nn.Module):
    """One stream's weights for the attention that both streams share."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (b, n, dim), each (b, n, heads, dim/heads)."""
        q, k, v = split_heads(self.qkv(x).chunk(3, dim=-1), self.num_heads)
        return *self.norm(q, k), v


class Modulation(nn.Module):
    """Read `sets` triples (shift, scale, gate) off the conditioning vector: adaLN."""

    def __init__(self, dim: int, sets: int) -> None:
        super().__init__()
        self.sets = sets
        self.lin = nn.Linear(dim, 3 * sets * dim)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        """(b, dim) -> 3 * sets tensors of (b, 1, dim): one vector a sample for all its tokens."""
        return self.lin(F.silu(vec))[:, None].chunk(3 * self.sets, dim=-1)


class DoubleStreamBlock(nn.Module):
    """Text and image keep their own weights and meet in one attention."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qkv_bias: bool) -> None:
        super().__init__()
        hidden = int(hidden_size * mlp_ratio)
        self.img_mod = Modulation(hidden_size, sets=2)  # one set for attention, one for the MLP
        self.img_attn = SelfAttention(hidden_size, num_heads, qkv_bias)
        self.img_mlp = _mlp(hidden_size, hidden)
        self.txt_mod = Modulation(hidden_size, sets=2)
        self.txt_attn = SelfAttention(hidden_size, num_heads, qkv_bias)
        self.txt_mlp = _mlp(hidden_size, hidden)

    def forward(
        self, img: Tensor, txt: Tensor, vec: Tensor, rotations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """img (b, n, d), txt (b, m, d), vec (b, d) -> img, txt."""
        shift_i, scale_i, gate_i, *img_mlp_mod = self.img_mod(vec)
        shift_t, scale_t, gate_t, *txt_mlp_mod = self.txt_mod(vec)
        img_qkv = self.img_attn.heads(modulate(img, shift_i, scale_i))
        txt_qkv = self.txt_attn.heads(modulate(txt, shift_t, scale_t))

        # Text comes first; `rotations` follow this order, and the split below undoes it.
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(txt_qkv, img_qkv))
        out = attention(q, k, v, rotations)  # (b, m + n, d)
        txt_out, img_out = out.split((txt.shape[1], img.shape[1]), dim=1)

        img = torch.addcmul(img, gate_i, self.img_attn.proj(img_out))
        txt = torch.addcmul(txt, gate_t, self.txt_attn.proj(txt_out))
        return add_mlp(img, self.img_mlp, *img_mlp_mod), add_mlp(txt, self.txt_mlp, *txt_mlp_mod)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    # Places 0 and 2 of a Sequential are official names: `img_mlp.0.weight`, `img_mlp.2.weight`.
    up, down = nn.Linear(width, hidden), nn.Linear(hidden, width)
    return nn.Sequential(up, nn.GELU(approximate="tanh"), down)


def add_mlp(x: Tensor, mlp: nn.Module, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """Add what the MLP makes of modulated tokens, gated; x (b, n, d), the others (b, 1, d)."""
    return torch.addcmul(x, gate, mlp(modulate(x, shift, scale)))


class SingleStreamBlock(nn.Module):
    """One set of weights for all tokens; attention and MLP run side by side."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.widths = [hidden_size] * 3 + [int(hidden_size * mlp_ratio)]  # q, k, v, MLP
        self.linear1 = nn.Linear(hidden_size, sum(self.widths))
        self.linear2 = nn.Linear(hidden_size + self.widths[-1], hidden_size)
        self.norm = QKNorm(hidden_size // num_heads)
        self.modulation = Modulation(hidden_size, sets=1)

    def forward(self, x: Tensor, vec: Tensor, rotations: Tensor) -> Tensor:
        """x (b, m + n, d), vec (b, d) -> (b, m + n, d)."""
        shift, scale, gate = self.modulation(vec)
        # One wide product instead of four: attention and MLP read the same modulated tokens.
        *qkv, mlp = self.linear1(modulate(x, shift, scale)).split(self.widths, dim=-1)
        q, k, v = split_heads(qkv, self.num_heads)
        q, k = self.norm(q, k)
        out = attention(q, k, v, rotations)
        out = self.linear2(torch.cat((out, F.gelu(mlp, approximate="tanh")), dim=-1))
        return torch.addcmul(x, gate, out)


class LastLayer(nn.Module):
    """Modulate once more and project to a velocity; here the order is (shift, scale)."""

    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        """x (b, n, d), vec (b, d) -> (b, n, out_channels)."""
        # diffusers stores (scale, shift): swapped by mistake, a tenth of the output is wrong.
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(x, shift, scale))
