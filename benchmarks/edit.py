"""How long one edit takes with the shipped weights at their default steps, all parts included.

python benchmarks/edit.py --weights toy --threads 2
"""

import argparse
import statistics
import time

import torch

from minikontext import KontextPipeline
from minikontext.toyworld.render import render
from minikontext.toyworld.samples import SAMPLES


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--weights", default="toy")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=7)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    pipe = KontextPipeline.from_pretrained(args.weights)
    picture, seconds = render(SAMPLES["demo"]), []
    for seed in range(args.rounds + 1):  # one to warm up
        start = time.perf_counter()
        pipe("make the hat red", image=picture, seed=seed, progress=False)
        seconds.append(time.perf_counter() - start)
    row = (statistics.median(seconds[1:]), min(seconds[1:]), max(seconds[1:]))
    steps = pipe.defaults.num_inference_steps
    print(f"one edit, {steps} steps, {args.threads} thread(s), {pipe.device}")
    print("median {:.3f} s, min {:.3f} s, max {:.3f} s".format(*row))


if __name__ == "__main__":
    main()
