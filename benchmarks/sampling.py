"""Sampling one toy edit, ours against diffusers: every step of the loop and the whole schedule.

python benchmarks/sampling.py --batch 1 --threads 2 --json sampling.json
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from versus import DTYPES, batch, call_theirs, compare, nets, parser

from minikontext import sampler, tokens
from minikontext.transformer import TransformerConfig


def edit_ours(net: Callable, inputs: dict[str, Tensor], args: argparse.Namespace) -> Callable:
    """Our loop: `sampler.sample` over the target's tokens."""
    n = args.grid**2
    target, context = inputs["img"][:, :n], inputs["img"][:, n:]
    times = sampler.schedule(args.steps, num_target_tokens=n)

    def predict(z: Tensor, t: Tensor) -> Tensor:
        img = torch.cat((z, context), dim=1)
        return tokens.cut_target(net(**{**inputs, "img": img, "timesteps": t}), n)

    return lambda: sampler.sample(predict, target, times)


def edit_theirs(net: Callable, inputs: dict[str, Tensor], args: argparse.Namespace) -> Callable:
    """The loop of diffusers' FluxKontextPipeline, with its scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    n = args.grid**2
    target, context = inputs["img"][:, :n], inputs["img"][:, n:]
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)

    @torch.no_grad()
    def run() -> Tensor:
        sigmas = torch.linspace(1, 1 / args.steps, args.steps).tolist()
        scheduler.set_timesteps(sigmas=sigmas, mu=0.5, device=target.device)
        z = target
        for t in scheduler.timesteps:
            img, time = torch.cat((z, context), dim=1), t.expand(len(z)) / 1000
            v = call_theirs(net, {**inputs, "img": img, "timesteps": time})[:, :n]
            z = scheduler.step(v, t, z, return_dict=False)[0]
        return z

    return run


def main() -> None:
    options = parser(__doc__, batch=1, rounds=7)
    options.add_argument("--steps", type=int, default=28)
    args = options.parse_args()
    config = TransformerConfig.toy()
    dtype = DTYPES[args.dtype]
    ours, theirs = nets(config, args)
    inputs = batch(config, args)
    with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
        compare(
            {
                "minikontext": edit_ours(ours, inputs, args),
                "diffusers": edit_theirs(theirs, inputs, args),
            },
            args,
            f"sampling in {args.steps} steps",
        )


if __name__ == "__main__":
    main()
