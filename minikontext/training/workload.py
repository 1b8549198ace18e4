"""What of a job decides memory and time: the numbers that a plan and the log count with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch

from minikontext.denoiser import PATCH
from minikontext.errors import ConfigError
from minikontext.runtime import memory_plan
from minikontext.runtime.device import parse_dtype
from minikontext.text import ToyTextEncoder
from minikontext.training.folders import Encoded
from minikontext.training.jobs import EditorJob, FolderJob, Job, LoraJob
from minikontext.training.plan import Workload, model_flops
from minikontext.training.watch import Metrics, Watch
from minikontext.transformer import KontextTransformer


def workload(job: Job) -> Workload:
    """What a job asks for. Raises ConfigError for one that trains no transformer of its own."""
    if isinstance(job, EditorJob):
        encoder, side, contexts = ToyTextEncoder(job.text), 64, 1
        text, beside = encoder.max_length, sum(p.numel() for p in encoder.parameters())
    elif isinstance(job, (FolderJob, LoraJob)):
        side, contexts, text, beside = job.data.side, job.data.contexts, job.data.text_tokens, 0
    else:
        raise ConfigError(f"there is no plan for kind = {job.kind!r}: it is small")
    target = (side // (8 * PATCH)) ** 2
    frozen = {"rank": job.lora.rank, "base": frozen_bytes(job)} if isinstance(job, LoraJob) else {}
    return Workload(
        job.transformer, job.loop, job.parallel, job.training.batch, target, contexts * target,
        text, beside, job.training.bf16, **frozen,
    )  # fmt: skip


def frozen_bytes(job: LoraJob) -> int:
    """Bytes of the transformer under a LoRA, as `dtype` and `offload` keep it."""
    bits = {"8-bit": 8, "4-bit": 4}.get(job.offload or "")
    dtype = parse_dtype(job.dtype or "bfloat16")
    with torch.device("meta"):
        return memory_plan.weight_bytes(KontextTransformer(job.transformer), dtype, bits)


def watched(
    job: EditorJob | FolderJob | LoraJob,
    validate: Callable[[int], Metrics] | None = None,
    samples: Encoded | None = None,
) -> Watch:
    """What the log needs to tell the speed of a job's steps; `peak` in TFLOP/s is optional.

    samples: of a folder, whose pictures and prompts may be smaller than the config foresaw.
    """
    work = workload(job)
    flops = model_flops(work) if samples is None else folder_flops(work, samples)
    return Watch(work.batch, flops, validate, job.peak)


def folder_flops(work: Workload, samples: Encoded) -> float:
    """Of a batch of a folder's samples, on average."""
    counts = Counter(samples.shapes)
    text = len(samples.null()["tokens"])
    each = 0.0
    for (target, *contexts), count in counts.items():
        sizes = [shape[-2] * shape[-1] // PATCH**2 for shape in (target, *contexts)]
        one = replace(work, batch=1, target=sizes[0], contexts=sum(sizes[1:]), text=text)
        each += count * model_flops(one)
    return work.batch * each / len(samples)
