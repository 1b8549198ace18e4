"""One training step of the toy editor, ours against diffusers: forward, loss, backward, AdamW.

python benchmarks/training_step.py --threads 1 --json step.json
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from versus import DTYPES, batch, call_theirs, compare, nets, parser

from minikontext import flow
from minikontext.transformer import TransformerConfig


def step(net: nn.Module, call: Callable[[], Tensor], args: argparse.Namespace) -> Callable:
    """A closure that trains `net` by one step on the target half of the sequence."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    n = args.grid**2
    dtype = DTYPES[args.dtype]

    def run() -> None:
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            velocity = call()[:, :n]
        loss = flow.loss(velocity, torch.zeros_like(velocity), torch.ones_like(velocity))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def main() -> None:
    args = parser(__doc__).parse_args()
    config = TransformerConfig.toy()
    ours, theirs = nets(config, args)
    inputs = batch(config, args)
    compare(
        step(ours, lambda: ours(**inputs), args),
        step(theirs, lambda: call_theirs(theirs, inputs), args),
        args,
        "one training step",
    )


if __name__ == "__main__":
    main()
