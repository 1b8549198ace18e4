"""What the benchmarks share: the same net twice, ours and diffusers', timed turn by turn."""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minikontext import tokens
from minikontext.pretrained.config_mapping import transformer_to_json
from minikontext.pretrained.key_mapping import to_diffusers
from minikontext.text import ToyTextEncoder
from minikontext.training.data import Pairs
from minikontext.transformer import KontextTransformer, TransformerConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parser(description: str, **defaults: object) -> argparse.ArgumentParser:
    """The options that both benchmarks take."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--batch", type=int, default=defaults.get("batch", 32))
    options.add_argument("--grid", type=int, default=4, help="tokens along a side of one image")
    options.add_argument("--text", type=int, default=16, help="text tokens")
    options.add_argument("--rounds", type=int, default=defaults.get("rounds", 15))
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of autocast")
    options.add_argument("--compile", action="store_true", help="both nets with torch.compile")
    options.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    options.add_argument("--json", type=Path, help="write the measurements here")
    return options


def nets(config: TransformerConfig, args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Our transformer and diffusers' with the same random weights."""
    ours = KontextTransformer(config).to(args.device)
    both = ours, diffusers_net(copy.deepcopy(ours))  # each trains its own weights
    return tuple(map(torch.compile, both)) if args.compile else both


def diffusers_net(ours: KontextTransformer) -> nn.Module:
    """diffusers' transformer with the weights of ours: the same memory, seen in its parts."""
    from diffusers import FluxTransformer2DModel

    config = transformer_to_json(ours.config)
    del config["_class_name"]
    with torch.device("meta"):
        theirs = FluxTransformer2DModel(**config).eval()
    theirs.load_state_dict(to_diffusers(ours.state_dict()), assign=True)
    theirs.pos_embed = type(theirs.pos_embed)(ours.config.theta, list(ours.config.axes_dim))
    return theirs


def batch(config: TransformerConfig, args: argparse.Namespace) -> dict[str, Tensor]:
    """An edit with one context image as large as the target, under our argument names."""
    side, draw = args.grid, torch.Generator().manual_seed(0)
    image = torch.randn(args.batch, side * side, config.in_channels, generator=draw)
    contexts = tokens.context_ids([(side, side)])
    img, img_ids = tokens.join_context(
        image, tokens.position_ids(side, side), [image.flip(0)], contexts
    )
    inputs = {
        "img": img,
        "img_ids": img_ids.float(),
        "txt": torch.randn(args.batch, args.text, config.context_in_dim, generator=draw),
        "txt_ids": torch.zeros(args.text, 3),
        "timesteps": torch.rand(args.batch, generator=draw),
        "pooled": torch.randn(args.batch, config.vec_in_dim, generator=draw),
    }
    return {name: tensor.to(args.device) for name, tensor in inputs.items()}


def call_theirs(net: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The same call in diffusers' words."""
    with _fast_attention(inputs["img"].device):
        return net(
            hidden_states=inputs["img"],
            encoder_hidden_states=inputs["txt"],
            pooled_projections=inputs["pooled"],
            timestep=inputs["timesteps"],
            img_ids=inputs["img_ids"],
            txt_ids=inputs["txt_ids"],
            guidance=inputs.get("guidance"),
            return_dict=False,
        )[0]


def _fast_attention(device: torch.device) -> AbstractContextManager:
    """Training in bfloat16 on a CPU, the fused kernel has a slow backward pass: be fair."""
    slow = device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


def random_pairs(text: ToyTextEncoder, count: int = 2000) -> Pairs:
    """Encoded pairs of one context each, of the toy's sizes; their numbers mean nothing."""
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(len(text.words), (count, 8, text.max_length), generator=draw)
    target, contexts = (torch.randn(count, *n, 16, 8, 8, generator=draw) for n in ((), (2,)))
    ones = torch.ones(count).long()
    return Pairs(target.bfloat16(), contexts.bfloat16(), ones, words, torch.arange(count))


PAIRS = (
    ("minikontext", "diffusers"),
    ("minikontext compiled", "diffusers"),
    ("minikontext compiled", "diffusers compiled"),
)


def compare(sides: dict[str, Callable], args: argparse.Namespace, what: str) -> None:
    """Time all in turn, print a table of milliseconds and ratios, write JSON if asked.

    A ratio is that of two times of one round: below 1, the first is faster.
    """
    torch.set_num_threads(args.threads)
    times = {name: [] for name in sides}
    for round_ in range(args.rounds + 2):  # two to warm up
        for name, run in [*sides.items()][:: (-1) ** round_]:
            times[name].append(_milliseconds(run, args))
    times = {name: values[2:] for name, values in times.items()}
    ratios = {
        f"{a} / {b}": [x / y for x, y in zip(times[a], times[b])]
        for a, b in PAIRS
        if a in times and b in times
    }
    report = {name: _summary(values) for name, values in (times | ratios).items()}
    _print(report, args, what)
    if args.json:
        setting = {k: v for k, v in vars(args).items() if k != "json"}
        setting |= {"torch": torch.__version__, "machine": platform.machine()}
        args.json.write_text(
            json.dumps({"what": what, "setting": setting, "results": report}, indent=2) + "\n"
        )


def _milliseconds(run: Callable, args: argparse.Namespace) -> float:
    clock = CLOCKS[args.clock]
    start = clock()
    run()
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1000 * (clock() - start)


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _print(report: dict[str, dict[str, float]], args: argparse.Namespace, what: str) -> None:
    print(
        f"{what}: batch {args.batch}, {args.dtype}, {args.device}, {args.threads} thread(s), "
        f"{args.clock} clock"
    )
    print(f"{'':42}{'median':>10}{'min':>10}{'max':>10}")
    for name, row in report.items():
        unit = "" if "/" in name else " ms"
        print(f"{name:42}" + "".join(f"{row[k]:10.3f}" for k in ("median", "min", "max")) + unit)
