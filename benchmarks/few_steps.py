"""What distillation saves on the clock: teacher with guidance and students, turn by turn.

python benchmarks/few_steps.py --threads 2 --dtype bfloat16 --json few_steps.json

Beside the sampling, an edit encodes, decodes and writes down how it was made: that takes as long
with four steps as with 28, so a whole edit gains less than its sampling.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from minikontext.course import samples
from minikontext.pipeline import KontextPipeline

TEACHER = "toy, 28 steps, CFG 1.5"
WAYS = {
    TEACHER: ("toy", {"num_inference_steps": 28, "true_cfg_scale": 1.5}),
    "toy-dev, 28 steps, w = 1.5": ("toy-dev", {"num_inference_steps": 28, "guidance_scale": 1.5}),
    "toy-pro, 4 steps": ("toy-pro", {"num_inference_steps": 4, "true_cfg_scale": 1.0}),
    "toy-pro, 2 steps": ("toy-pro", {"num_inference_steps": 2, "true_cfg_scale": 1.0}),
    "toy-pro, 1 step": ("toy-pro", {"num_inference_steps": 1, "true_cfg_scale": 1.0}),
}


def main() -> None:
    """Time every way once a round; print seconds, and how many times as fast as the teacher."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--batch", type=int, default=16, help="pictures at a time")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--dtype", help="float32 or bfloat16 (default: what the device does best)")
    options.add_argument("--json", type=Path, help="keep the measurements here, beside others")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    names = dict.fromkeys(name for name, _ in WAYS.values())
    pipes = {name: KontextPipeline.from_pretrained(name, dtype=args.dtype) for name in names}
    cat = samples.pictures()["cat"]
    edits, sampling = {name: [] for name in WAYS}, {name: [] for name in WAYS}
    for round_ in range(args.rounds + 1):  # one to warm up
        for name in list(WAYS)[:: (-1) ** round_]:
            pipe, call = pipes[WAYS[name][0]], WAYS[name][1]
            whole, alone = once(pipe, [[cat]] * args.batch, call)
            edits[name].append(whole / args.batch)
            sampling[name].append(alone / args.batch)
    report = {name: summary(edits, sampling, name) for name in WAYS}
    number = str(pipes["toy"].dtype).removeprefix("torch.")
    name = f"{number}, batch {args.batch}, {args.threads} threads"
    print(f"{name}: seconds an edit, medians of {args.rounds}")
    for way, row in report.items():
        print(f"{way:28}" + "".join(f"  {k} {v:.4g}" for k, v in row.items()))
    if args.json:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        machine = {"machine": platform.machine(), "torch": torch.__version__}
        kept[name] = {**machine, "rounds": args.rounds, "results": report}
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


def once(pipe: KontextPipeline, images: list, call: dict) -> tuple[float, float]:
    """Seconds of a batch of edits, and of the sampling alone, from the first step to the last."""
    steps: list[float] = []
    start = time.perf_counter()
    pipe(["make the hat red"] * len(images), image=images, seed=0, progress=False,
         callback=lambda info: steps.append(time.perf_counter()), **call)  # fmt: skip
    whole = time.perf_counter() - start
    encoded = time.perf_counter()
    pipe.encode([row[0] for row in images])
    return whole, steps[-1] - start - (time.perf_counter() - encoded)


def summary(edits: dict, sampling: dict, name: str) -> dict[str, float]:
    """Medians without the first round, and their ratios to the teacher's of the same round."""
    ratio = [a / b for a, b in zip(edits[TEACHER][1:], edits[name][1:])]
    alone = [a / b for a, b in zip(sampling[TEACHER][1:], sampling[name][1:])]
    return {
        "seconds": statistics.median(edits[name][1:]),
        "times_as_fast": statistics.median(ratio),
        "sampling_seconds": statistics.median(sampling[name][1:]),
        "sampling_times_as_fast": statistics.median(alone),
    }


if __name__ == "__main__":
    main()
