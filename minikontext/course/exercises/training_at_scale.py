"""Exercises of notebook 08."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def my_slice(report: Report, answer: Callable[..., Any]) -> None:
    """The rows of a matrix that one process keeps, as FSDP2 cuts them."""
    w = torch.arange(12.0).reshape(6, 2)
    report.equal("6 rows, 2 processes, the first", answer, (w, 0, 2), w[:3])
    report.equal("6 rows, 3 processes, the last", answer, (w, 2, 3), w[4:])
    report.equal("6 rows, 4 processes: 2, 2, 2 and none", answer, (w, 1, 4), w[2:4])
    report.equal("… and the fourth has nothing", answer, (w, 3, 4), w[6:])
    size = report.whole(3, 6)
    rows, rank = size * report.whole(2, 5) + 1, report.whole(0, 1)
    parts = report.normal(rows, 3).split(-(-rows // size))
    text = f"{rows} rows, {size} processes, number {rank}"
    report.equal(text, answer, (torch.cat(parts), rank, size), parts[rank])
    report.equal("7 rows, 2 processes: 4 and 3", answer, (torch.arange(7.0)[:, None], 1, 2),
                 torch.tensor([[4.0], [5.0], [6.0]]))  # fmt: skip


@exercise
def gib_each(report: Report, answer: Callable[..., Any]) -> None:
    """What each GPU keeps between two steps of AdamW, and while gradients are there."""
    gib = 2**30
    report.equal("a parameter for each byte of a GiB, one GPU", answer, (gib, 1, False), 16.0)
    report.equal("with an average of the weights", answer, (gib, 1, True), 20.0)
    report.equal("12 B on 8 GPUs", answer, (11_901_408_320, 8, True), 27.710126)
    count, gpus = 10**6 * report.whole(100, 9000), 8 * report.whole(1, 9)
    report.equal(f"{count:,} parameters on {gpus} GPUs", answer, (count, gpus, False))


@exercise
def step_seconds(report: Report, answer: Callable[..., Any]) -> None:
    """Products and exchange at the same time: the longer one decides."""
    report.equal("all products: 400 TFLOP at 400 TFLOP/s", answer, (400e12, 0.0, 400e12, 50e9), 1.0)
    report.equal("all exchange: 100 GB at 50 GB/s", answer, (0.0, 100e9, 400e12, 50e9), 2.0)
    report.equal("both: not their sum", answer, (400e12, 25e9, 400e12, 50e9), 1.0)
    flops, sent = 1e12 * report.whole(100, 900), 1e9 * report.whole(90, 900)
    report.equal("a slow network", answer, (flops, sent, 400e12, 12.5e9))


Step = Callable[..., torch.Tensor]


def _processes(step: Step) -> Callable[..., torch.Tensor]:
    """All processes of a step, one after another; returns the rows of all of them, (rows, in).

    In a first round each says what it sends. In the second each gets its rows of the sum.
    """

    def run(shards: list, xs: list, ys: list, rate: float) -> torch.Tensor:
        size, sent = len(shards), []

        def one(rank: int, total: torch.Tensor | None) -> torch.Tensor:
            def all_gather(rows: torch.Tensor) -> torch.Tensor:
                if rows.dtype != torch.bfloat16:
                    raise TypeError(f"all_gather was given {rows.dtype}, not torch.bfloat16")
                return torch.cat([shard.to(rows.dtype) for shard in shards])

            def reduce_scatter(whole: torch.Tensor) -> torch.Tensor:
                if total is None:
                    sent.append(whole.detach().clone())
                return (whole.detach() if total is None else total).chunk(size)[rank].clone()

            given = shards[rank].clone(), xs[rank].clone(), ys[rank].clone()
            return step(*given, rate, all_gather, reduce_scatter, size)

        rows = [one(rank, None) for rank in range(size)]
        if sent:
            total = torch.stack(sent).sum(0)  # in the digits in which they were sent
            rows = [one(rank, total) for rank in range(size)]
        return torch.cat(rows)

    return run


@exercise
def sharded_step(report: Report, answer: Callable[..., Any]) -> None:
    """Gather in bfloat16, compute, sum in float32, keep my rows: all processes together."""
    answer = report.through(_processes, answer)
    for size in (2, report.whole(3, 5)):
        rows, samples = 2 * size, 3 * size
        parts = [list(report.normal(n, d).chunk(size)) for n, d in
                 ((rows, 4), (samples, 4), (samples, rows))]  # fmt: skip
        given = (*parts, 0.1)
        report.equal(f"{size} processes, two rows each", answer, given)
    zero = ([torch.zeros(2, 3)] * 2, [torch.ones(1, 3)] * 2, [torch.ones(1, 4)] * 2, 1.0)
    report.equal("equal samples: what one process would learn", answer, zero)
