"""A flow fine-tuning step of FLUX.1 Kontext on a GPU: all 12 B parameters, or the deepest cut.

python benchmarks/gpu_training.py --json gpu_training.json     # one CUDA GPU, 9 minutes
torchrun --nproc-per-node 8 benchmarks/gpu_training.py         # sharded over eight
python benchmarks/gpu_training.py --tiny                       # half a minute on any computer

The recipe is configs/flux_dev_finetune.toml, the step that of `train_folder`: the flow loss for
1024 × 1024 pixels and one context of that size, backward pass, clipping, Muon and AdamW. Latents
and texts are random, and so are the weights. Where not all blocks fit into the free memory, fewer
of either kind are taken, as many as `training.plan` says; sizes within a block stay.

tflops: what the model needs, a forward pass three times, for each GPU; share_of_rate: of the rate
of one large matrix product in the same run. computed_tflops: with what checkpointing makes again
and Muon's products. predicted_gb is the plan's peak without its reserve, measured_gb that of
torch's allocator.

Under torchrun, a process that fails alone leaves the others waiting until NCCL gives up.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import gpu_full as gpu
import torch
import torch.distributed as dist
from gpu_full import GB, TINY, Report
from torch import Tensor, nn

from minikontext.denoiser import PATCH
from minikontext.errors import NotEnoughMemoryError
from minikontext.runtime import memory_plan
from minikontext.training import models, parallel, plan, read_config
from minikontext.training.folders import folder_loss
from minikontext.training.jobs import FolderJob, build_job
from minikontext.training.loop import Loop
from minikontext.training.parallel import DistContext
from minikontext.training.plan import Workload
from minikontext.training.workload import workload
from minikontext.transformer import TransformerConfig

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "flux_dev_finetune.toml"
VARIANTS = {
    f"{level}{' compiled' * compiled}": {"checkpointing": level, "compile": compiled}
    for level in ("full", "selective")
    for compiled in (False, True)
}
WARM_UP = 2  # steps: the first makes the optimiser's memory, and compiles


def main() -> None:
    """Measure each variant, print the table."""
    parser = gpu.options(__doc__, rounds=3)
    parser.add_argument("--batch", type=int, default=1, help="samples on each GPU")
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=[*VARIANTS])
    args = parser.parse_args()
    world = parallel.start(args.device)
    gpu.ready(world.device, args.tiny)
    report = Report(args, world.device, partial(anywhere, world), writes=world.rank == 0)
    report.facts["setting"]["gpus"] = world.size
    for name in args.only:
        report.attempt(name, partial(measure, name, report, world, args))
    if world.rank == 0:
        show(report.facts)
    parallel.stop()
    report.finish()


# ---- what is trained


def settings(name: str, samples: int, tiny: bool) -> dict[str, Any]:
    """The recipe as a training's config, for a variant and a batch of so many samples."""
    config = read_config(RECIPE)
    del config["start"]  # random weights
    config["parallel"] = VARIANTS[name]
    config["training"] |= {"batch": samples}
    # One part; no step may be left out for its gradient: random weights have a wild one.
    config["loop"] |= {"accumulate": 1, "spike": 0.0}
    config["data"] |= {"side": 64, "text_tokens": 8} if tiny else {"side": 1024}
    return config


def cut(whole: TransformerConfig, depth: int) -> TransformerConfig:
    """The same net with `depth` double blocks, and single blocks in the same ratio."""
    single = round(depth * whole.depth_single_blocks / whole.depth)
    return replace(whole, depth=depth, depth_single_blocks=single)


def deepest(config: dict[str, Any], whole: TransformerConfig, free: float, gpus: int) -> Workload:
    """The job with the most blocks whose plan fits into `free` bytes of each GPU; sets config's.

    Raises NotEnoughMemoryError where one double block is too much.
    """
    for depth in range(whole.depth, 0, -1):
        config["transformer"] = asdict(cut(whole, depth))
        job = workload(build_job(config))
        needed = plan.memory(job, gpus)["peak"] + plan.RESERVE
        if needed <= free:
            return job
    raise NotEnoughMemoryError(
        f"One double block takes {needed / GB:.1f} GB, and {free / GB:.1f} are free."
    )


class RandomSamples:
    """A folder's encoded samples, of one shape: see `training.folders.Encoded`."""

    def __init__(self, job: Workload, count: int) -> None:
        side, channels = PATCH * round(job.target**0.5), job.sizes.in_channels // PATCH**2
        self.shapes = [((channels, side, side),) * (1 + job.contexts // job.target)] * count
        self.repeats = [1] * count
        self.text = {
            "tokens": (job.text, job.sizes.context_in_dim),
            "pooled": (job.sizes.vec_in_dim,),
        }

    def sample(self, number: int) -> dict[str, Tensor]:
        """Latents of the picture and of its contexts, text features; the same for each number."""
        sizes = {str(i): shape for i, shape in enumerate(self.shapes[number])} | self.text
        draw = torch.Generator().manual_seed(number)
        return {n: torch.randn(size, generator=draw).bfloat16() for n, size in sizes.items()}

    def null(self) -> dict[str, Tensor]:
        """Features of the empty prompt."""
        return {name: torch.zeros(size, dtype=torch.bfloat16) for name, size in self.text.items()}


def random_weights() -> Callable[[str, nn.Module], None]:
    """Fills a module from one table of random numbers: a CPU takes minutes for billions of draws.

    Zeros, as a training from nothing starts with, would cost a GPU less power and look faster.
    """
    table = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))  # no two rows alike

    def draw(weight: Tensor) -> None:
        for piece in weight.view(-1).split(len(table)):
            piece.copy_(table[: len(piece)])

    def fill(name: str, module: nn.Module) -> None:
        for own, weight in module.named_parameters(recurse=False):
            gpu.randomise(f"{name}.{own}", weight.data, draw)

    return fill


def training(
    config: dict[str, Any], job: Workload, world: DistContext, folder: str
) -> Callable[[], dict]:
    """What does the next step, as `recipes.train_folder` does it."""
    asked: FolderJob = build_job(config)
    dials = asked.training
    world = replace(world, config=job.parallel)
    model = models.new_transformer(asked.transformer)
    parallel.prepare(model, world, dials.bf16, random_weights())
    loop = Loop(model, job.loop, folder, world)
    samples = RandomSamples(job, count=2 * job.batch)
    return partial(loop._one, folder_loss(model, samples, dials, world.device))


# ---- measuring


def measure(name: str, report: Report, world: DistContext, args: argparse.Namespace) -> None:
    """One variant: seconds of a step, speed and memory."""
    torch._dynamo.reset()
    config = settings(name, args.batch * world.size, args.tiny)
    whole = TINY if args.tiny else TransformerConfig.flux_dev()
    job = deepest(config, whole, free_everywhere(world), world.size)
    with tempfile.TemporaryDirectory() as folder:
        step = training(config, job, world, folder)
        steps = timed(step, report, args.rounds, world.device)
        report.add("cases", name, row(job, steps, report.facts["rate_tflops"], world.size))
        report.note_kernels(name, step)


def timed(
    step: Callable[[], dict], report: Report, rounds: int, device: torch.device
) -> list[gpu.Sample]:
    """Steps after those that warm up: `rounds`, or fewer when the time is up, but one."""
    samples = []
    for number in range(WARM_UP + rounds):
        if number > WARM_UP and report.is_over():
            break
        samples.append(gpu.once(step, device))
    return samples[WARM_UP:]


def row(job: Workload, steps: list[gpu.Sample], rate: float, gpus: int) -> dict[str, float]:
    """What is told of a variant; speeds and memory are those of one GPU."""
    seconds = statistics.median(step.seconds for step in steps)
    tflops = plan.model_flops(job) / gpus / seconds / 1e12
    computed = plan.step_flops(job) / gpus + plan.muon_flops(job)
    predicted, taken = plan.memory(job, gpus)["peak"], max(step.peak for step in steps)
    return {
        "double_blocks": job.sizes.depth,
        "single_blocks": job.sizes.depth_single_blocks,
        "parameters": plan.parameters(job.sizes).total,
        "batch": job.batch,
        "seconds": seconds,
        "samples_per_second": job.batch / seconds,
        "tflops": tflops,
        "share_of_rate": tflops / rate,
        "computed_tflops": computed / seconds / 1e12,
        "predicted_gb": predicted / GB,
        "measured_gb": taken / GB,
        "measured_over_predicted": taken / predicted,
        "reserved_gb": max(step.reserved for step in steps) / GB,
    }


def anywhere(world: DistContext, here: bool) -> bool:
    """Whether any process says yes: all must begin the same variants and steps."""
    return world.mean({"here": float(here)})["here"] > 0


def free_everywhere(world: DistContext) -> float:
    """Free bytes of the GPU that has the fewest: all must build the same net."""
    free = torch.tensor(float(memory_plan.available_bytes(world.device)), dtype=torch.float64)
    if world.size > 1:
        dist.all_reduce(free, dist.ReduceOp.MIN)
    return free.item()


def show(facts: dict) -> None:
    """Print the table."""
    setting = facts["setting"]
    print(
        f"{setting['gpus']} × {setting['card']}, matrix products at "
        f"{facts['rate_tflops']:.3g} TFLOP/s, {setting['batch']} sample(s) on each"
    )
    columns = {"double_blocks": "14d", "single_blocks": "14d", "parameters": "16,d"}
    columns |= {"seconds": "10.3f", "samples_per_second": "19.3f", "tflops": "10.4g"}
    columns |= {"share_of_rate": "14.0%", "computed_tflops": "16.4g", "predicted_gb": "13.1f"}
    gpu.table(facts["cases"], columns | {"measured_gb": "12.1f", "reserved_gb": "12.1f"}, 20)
    for name, found in facts["attention_kernels"].items():
        print(f"attention of {name}: {', '.join(found) or 'no CUDA kernel'}")


if __name__ == "__main__":
    main()
