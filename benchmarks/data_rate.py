"""How fast training data comes, against how fast a training step eats it, in one run.

python benchmarks/data_rate.py --threads 2 --json data_rate.json

The toy: batches of encoded pairs, and a whole step of the toy editor on them. A folder: samples of
full size (latents of two 1024 × 1024 pictures, T5's features) read from safetensors shards, checked
first; what eats them is the plan of 12 B parameters on two H100 GPUs (an estimate).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from versus import random_pairs

from minikontext.training import models, plan, read_job
from minikontext.training.editor import Batches, EditorLossConfig, editor_loss
from minikontext.training.folders import Ahead, Encoded, Order
from minikontext.training.loop import LoopConfig
from minikontext.training.optimizer import MuonAdamW
from minikontext.training.workload import workload

ROOT = Path(__file__).resolve().parents[1]


def rate(run: Callable[[int], object], samples: int, seconds: float) -> float:
    """Samples a second of run(step), after one step to warm up."""
    run(0)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        steps += 1
        run(steps)
    return steps * samples / (time.perf_counter() - start)


def toy(batch: int, seconds: float) -> dict[str, float]:
    """Samples a second: the data alone, and the training that eats them."""
    job = read_job(ROOT / "configs" / "toy.toml")
    model = models.new_editor(job.transformer, job.text, job.seed)
    model.transformer.to_empty(device="cpu").init_weights(torch.Generator().manual_seed(0))
    draw, pairs = torch.Generator().manual_seed(0), random_pairs(model.text)
    batches, loop = Batches(pairs, batch, 0), LoopConfig(steps=1)
    dials = EditorLossConfig(batch, bf16=False)
    loss = editor_loss(model, pairs, pairs.tokens[0, 0], dials, torch.device("cpu"))
    optimizer = MuonAdamW(model, loop.lr, loop.muon_lr)

    def step(number: int) -> None:
        loss(number)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1.0)

    data = rate(lambda s: batches.inputs(s, draw), batch, seconds)
    return {"data": data, "training": rate(step, batch, seconds)}


def folder(workers: int, seconds: float) -> dict[str, float]:
    """Samples a second from a folder of full-size samples, and what a plan would eat."""
    with tempfile.TemporaryDirectory() as place:
        samples = full_size(Path(place))
        order = Order(samples, batch=4, seed=0)

        def batch(step: int) -> dict[str, torch.Tensor]:
            each = [samples.sample(row) for row in order.rows(step)]
            return {name: torch.stack([one[name] for one in each]) for name in each[0]}

        data = rate(Ahead(batch, workers), 4, seconds)
    asked = workload(read_job(ROOT / "configs" / "flux_dev_finetune.toml"))
    return {"data": data, "training": asked.batch / plan.make(asked, plan.Machine(gpus=2)).seconds}


def full_size(place: Path, shards: int = 4, each: int = 16) -> Encoded:
    """A cache as `encode_folder` writes it, of random numbers."""
    for number in range(shards):
        keys = [f"{number}-{i}" for i in range(each)]
        shapes = {"0": (16, 128, 128), "1": (16, 128, 128), "tokens": (512, 4096), "pooled": (768,)}
        path = place / f"triplets-{number:06d}.safetensors"
        save_file(
            {f"{k}//{n}": torch.randn(s).bfloat16() for k in keys for n, s in shapes.items()}, path
        )
        told = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "skipped": []}
        given = [shapes["0"], shapes["1"]]
        told["samples"] = [{"key": k, "prompt": k, "shapes": given} for k in keys]
        path.with_suffix(".json").write_text(json.dumps(told))
    return Encoded(place)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2, help="threads that read the folder")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {"toy": toy(args.batch, args.seconds), "folder": folder(args.workers, args.seconds)}
    for name, row in report.items():
        row["ratio"] = row["data"] / row["training"]
        print(f"{name:8}data {row['data']:10,.1f}/s   training {row['training']:10,.1f}/s   "
              f"{row['ratio']:,.0f} times as fast")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
