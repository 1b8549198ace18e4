"""Attention for training on this machine: PyTorch's kernels, and the formula written out.

python benchmarks/attention.py --threads 1

It measures forward and backward passes at the toy's size, turn by turn: why `device.attend` does
not always take the kernel.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from versus import CLOCKS, DTYPES


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out, with its n × n weights."""
    return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1) @ v


def kernel(backend: SDPBackend) -> Callable[..., Tensor]:
    """Attention by one of PyTorch's kernels."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return run


WAYS = {
    "fused": kernel(SDPBackend.FLASH_ATTENTION),
    "plain": kernel(SDPBackend.MATH),
    "formula": formula,
}


def passes(way: Callable[..., Tensor], given: list[Tensor], clock: Callable) -> tuple[float, float]:
    """Milliseconds of a forward and of a backward pass."""
    inputs = [x.detach().requires_grad_() for x in given]
    start = clock()
    out = way(*inputs)
    middle = clock()
    out.sum().backward()
    return 1000 * (middle - start), 1000 * (clock() - middle)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=52)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, dtype in DTYPES.items():
        shape = args.batch, args.tokens, 4, 48  # the toy's heads, as the blocks hand them over
        given = [torch.randn(shape, dtype=dtype).transpose(1, 2) for _ in range(3)]
        times = {way: [] for way in WAYS}
        for _ in range(args.rounds + 1):  # one to warm up
            for way, run in WAYS.items():
                times[way].append(passes(run, given, CLOCKS[args.clock]))
        for way, rows in times.items():
            forward, backward = (statistics.median(row[i] for row in rows[1:]) for i in (0, 1))
            print(f"{name:10}{way:10}forward {forward:7.1f} ms   backward {backward:7.1f} ms")


if __name__ == "__main__":
    main()
