"""FLUX.1 Kontext at full size with random weights on a GPU: ours and diffusers', turn by turn.

python benchmarks/gpu_full.py --json gpu_full.json     # a CUDA GPU with 40 GB or more, 9 minutes
python benchmarks/gpu_full.py --tiny                   # a minute on any computer: does it run?

Both nets share one set of weights in memory. First their velocities are compared, then each
variant of the net is timed for 1024 × 1024 pixels with no, one and two context images. The rate of
the card is measured in the same run, with one large matrix product.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from versus import call_theirs, diffusers_net

from minikontext import device as devices
from minikontext import float8, memory, tokens
from minikontext.training.plan import forward_flops
from minikontext.transformer import KontextTransformer, TransformerConfig

TINY = TransformerConfig(16, 16, 12, 20, 64, 4.0, 2, 2, 2, (8, 12, 12), 10_000, True, True)


def main() -> None:
    args = options().parse_args()
    config = TINY if args.tiny else TransformerConfig.flux_dev()
    grid, text = (4, 8) if args.tiny else (64, 512)
    ours, theirs = nets(config, args)
    report = {"setting": setting(args), "rate_tflops": matrix_rate(args), "cases": {}}
    inputs = [edit_inputs(config, grid, text, n, args) for n in range(3)]
    foreseen = [predicted_bytes(ours, given) / memory.GB for given in inputs]
    report["relative_error"] = relative_error(ours, theirs, inputs[1])
    for name, variant in variants(args):
        with variant(ours, theirs) as runs:
            for contexts, given in enumerate(inputs):
                flops = forward_flops(config, given["img"].shape[1], text)
                for who, row in measure(runs, given, args).items():
                    row["tflops"] = flops / row["seconds"] / 1e12
                    row["share_of_rate"] = row["tflops"] / report["rate_tflops"]
                    row["predicted_gb"] = foreseen[contexts]  # of weights in 16 bits
                    report["cases"][f"{who} {name}, {contexts} contexts"] = row
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a net of a few thousand parameters")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    names = ("eager", "compiled", "fa3", "fp8")
    parser.add_argument("--only", choices=names, nargs="+", default=names)
    return parser


# ---- the nets and what they are asked


def nets(config: TransformerConfig, args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Both nets on the device with the same tensors: diffusers' are parts of ours."""
    torch.manual_seed(0)
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    with torch.device("meta"):
        ours = KontextTransformer(config).to(dtype)
    ours = ours.to_empty(device=args.device).eval().requires_grad_(False)
    for name, p in ours.named_parameters():
        p.normal_(std=p.shape[-1] ** -0.5 if p.dim() > 1 else 0.1)
        if name.endswith("norm.scale"):
            p.add_(1)
    return ours, diffusers_net(ours)


def edit_inputs(
    config: TransformerConfig, side: int, text: int, contexts: int, args: argparse.Namespace
) -> dict[str, Tensor]:
    """One edit: a square target and as large contexts, side × side tokens each."""
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    images = torch.randn(contexts + 1, 1, side**2, config.in_channels)
    ids = tokens.context_ids([(side, side)] * contexts)
    img, img_ids = tokens.join_context(
        images[0], tokens.position_ids(side, side), list(images[1:]), ids
    )
    numbers = {
        "img": img,
        "txt": torch.randn(1, text, config.context_in_dim),
        "pooled": torch.randn(1, config.vec_in_dim),
    }
    # Times and scales that bfloat16 holds exactly: diffusers rounds them.
    exact = {"timesteps": torch.tensor([0.5]), "guidance": torch.tensor([2.0])}
    exact |= {"img_ids": img_ids.float(), "txt_ids": torch.zeros(text, 3)}
    given = {name: tensor.to(args.device, dtype) for name, tensor in numbers.items()}
    return given | {name: tensor.to(args.device) for name, tensor in exact.items()}


@torch.no_grad()
def relative_error(ours: nn.Module, theirs: nn.Module, given: dict[str, Tensor]) -> float:
    """Length of the difference of both velocities over the length of one."""
    a, b = ours(**given).double(), call_theirs(theirs, given).double()
    return ((a - b).norm() / b.norm()).item()


def predicted_bytes(net: nn.Module, given: dict[str, Tensor]) -> int:
    """What the memory plans say of bfloat16 weights and activations, for the same tokens."""
    dtype, text, n = net.img_in.weight.dtype, given["txt"].shape[1], given["img"].shape[1]
    activations = memory.velocity_bytes(net, dtype, (n, 1), 1, text, side=1)
    return memory.weight_bytes(net, dtype) + activations


# ---- variants


Runs = dict[str, Callable[[dict[str, Tensor]], Tensor]]


def variants(args: argparse.Namespace) -> Iterator[tuple[str, Callable]]:
    """Each is a context that gives the nets to time; what it changes, the next one may keep."""
    known = {"eager": eager, "compiled": compiled, "fa3": flash3, "fp8": fp8}
    usable = {"fa3": flash3_usable(args), "fp8": fp8_usable(args)}
    for name in args.only:
        if usable.get(name, True):
            yield name, known[name]
        else:
            print(f"{name}: not here, left out")


@contextmanager
def eager(ours: nn.Module, theirs: nn.Module) -> Iterator[Runs]:
    yield runs_of(ours, theirs)


@contextmanager
def compiled(ours: nn.Module, theirs: nn.Module) -> Iterator[Runs]:
    """Both by region: each kind of block once."""
    backend = "inductor" if next(ours.parameters()).is_cuda else "eager"
    for block in memory.transformer_blocks(ours):
        block.compile(backend=backend)
    theirs.compile_repeated_blocks(backend=backend)
    yield runs_of(ours, theirs)


@contextmanager
def flash3(ours: nn.Module, theirs: nn.Module) -> Iterator[Runs]:
    devices.use_flash_attention_3(next(ours.parameters()).device)
    yield runs_of(ours, theirs)
    torch.nn.attention.restore_flash_attention_impl()


@contextmanager
def fp8(ours: nn.Module, theirs: nn.Module) -> Iterator[Runs]:
    """Ours with matrix products in float8, a scale for each row; its weights change for good."""
    float8.use(ours)
    yield {"minikontext": lambda given: ours(**given)}


def flash3_usable(args: argparse.Namespace) -> bool:
    usable = devices.use_flash_attention_3(torch.device(args.device))
    if usable:
        torch.nn.attention.restore_flash_attention_impl()
    return usable


def fp8_usable(args: argparse.Namespace) -> bool:
    return float8.is_usable(torch.device(args.device))


def runs_of(ours: nn.Module, theirs: nn.Module) -> Runs:
    return {
        "minikontext": lambda given: ours(**given),
        "diffusers": lambda given: call_theirs(theirs, given),
    }


# ---- measuring


@torch.no_grad()
def measure(runs: Runs, given: dict[str, Tensor], args: argparse.Namespace) -> dict[str, dict]:
    """Median seconds of each, called in turn so that a warm or busy machine hits both; peaks."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks = dict.fromkeys(runs, 0)
    for round_ in range(args.rounds + 2):  # two to warm up and compile
        for name, run in list(runs.items())[:: (-1) ** round_]:
            seconds, peak = once(lambda run=run: run(given), args)
            times[name].append(seconds)
            peaks[name] = peak  # of the last call: compiling needs more
    return {
        name: {"seconds": statistics.median(values[2:]), "peak_gb": peaks[name] / memory.GB}
        for name, values in times.items()
    }


def once(run: Callable[[], object], args: argparse.Namespace) -> tuple[float, int]:
    """Seconds and peak memory of one call."""
    cuda = args.device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() if cuda else 0


@torch.no_grad()
def matrix_rate(args: argparse.Namespace) -> float:
    """TFLOP/s of a product of two large square matrices, the best of ten."""
    n = 256 if args.tiny else 8192
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    a, b = (torch.randn(n, n, device=args.device, dtype=dtype) for _ in range(2))
    best = min(once(lambda: a @ b, args)[0] for _ in range(10))
    return 2 * n**3 / best / 1e12


def setting(args: argparse.Namespace) -> dict[str, object]:
    cuda = args.device.startswith("cuda")
    card = torch.cuda.get_device_name() if cuda else platform.machine()
    given = {name: value for name, value in vars(args).items() if name != "json"}
    return given | {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda}


def show(report: dict) -> None:
    """Print the table."""
    rate = report["rate_tflops"]
    print(f"{report['setting']['card']}, matrix products at {rate:.3g} TFLOP/s")
    print(f"relative error against diffusers: {report['relative_error']:.1e}")
    print(f"{'':40}{'seconds':>10}{'TFLOP/s':>10}{'share':>8}{'peak GB':>9}{'foreseen':>9}")
    for name, row in report["cases"].items():
        numbers = f"{row['seconds']:10.4f}{row['tflops']:10.4g}{row['share_of_rate']:8.0%}"
        print(f"{name:40}{numbers}{row['peak_gb']:9.1f}{row['predicted_gb']:9.1f}")


if __name__ == "__main__":
    main()
