"""The memory plans against the memory they take: one velocity under each, for gpu_full.py --plans.

Only the transformer is here, its weights and its activations: text encoders and decoding are other
moments of an edit. The weights are made as `checkpoints.load` reads them, one tensor at a time.
"""

from __future__ import annotations

import torch
from gpu import GB, NotHereError, Report, dtype_of, once, randomise, tidy
from torch import Tensor

from minikontext.runtime import memory_plan, offload, quantization
from minikontext.transformer import KontextTransformer, TransformerConfig

Inputs = dict[str, Tensor]


def measure_plans(report: Report, config: TransformerConfig, given: Inputs) -> None:
    """Measure all plans, one after the other; nothing of one is left when the next begins."""
    report.facts["plans"] = {}
    for name, bits, _, stream in memory_plan.PLANS:
        report.attempt(
            f"plan {name}",
            lambda n=name, b=bits, s=stream: report.add("plans", n, measured(config, b, s, given)),
        )


def measured(
    config: TransformerConfig, bits: int | None, stream: bool, given: Inputs
) -> dict[str, float]:
    """What one plan predicts and takes, in GB; the second of two velocities is timed."""
    if bits and not quantization.has_torchao():
        raise NotHereError("not here (needs torchao)")
    device = given["img"].device
    predicted = predicted_bytes(config, bits, stream, given)
    tidy()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    net = planned(config, bits, stream, device)
    tidy()
    with torch.no_grad():
        first, second = (once(lambda: net(**given), device) for _ in range(2))
    taken = max(0, max(first.peak, second.peak) - before)
    return {
        "predicted_gb": predicted / GB,
        "measured_gb": taken / GB,
        "measured_over_predicted": taken / predicted,
        "reserved_gb": max(first.reserved, second.reserved) / GB,
        "seconds": second.seconds,
    }


def predicted_bytes(
    config: TransformerConfig, bits: int | None, stream: bool, given: Inputs
) -> int:
    """The transformer's share of a plan, and the activations of these tokens."""
    dtype, n, text = given["img"].dtype, given["img"].shape[1], given["txt"].shape[1]
    with torch.device("meta"):
        sketch = KontextTransformer(config)
    activations = memory_plan.velocity_bytes(sketch, dtype, (n, 1), 1, text, side=1)
    return memory_plan.transformer_bytes(sketch, dtype, bits, stream) + activations


@torch.no_grad()
def planned(
    config: TransformerConfig, bits: int | None, stream: bool, device: torch.device
) -> KontextTransformer:
    """A random transformer, stored as the plan says: see `checkpoints.load`."""
    with torch.device("meta"):
        net = KontextTransformer(config).eval().requires_grad_(False)
    prepare, state = quantization.quantiser(bits), {}
    drawn = torch.Generator(device).manual_seed(0)  # on the device: a CPU would take minutes
    for name, sketch in net.named_parameters():
        weight = torch.empty(sketch.shape, dtype=dtype_of(device), device=device)
        weight = randomise(name, weight, lambda x: x.normal_(generator=drawn))
        if stream and "_blocks." in name:
            weight = weight.cpu()
        state[name] = prepare(name, weight) if prepare else weight
    net.load_state_dict(state, assign=True)
    if stream:
        offload.stream(offload.transformer_blocks(net), device, dtype_of(device), ahead=True)
    return net
