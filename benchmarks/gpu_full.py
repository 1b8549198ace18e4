"""FLUX.1 Kontext at full size with random weights on a GPU: speed, memory plans, a training step.

python benchmarks/gpu_full.py --json gpu_full.json     # a CUDA GPU with 40 GB or more, 9 minutes
python benchmarks/gpu_full.py --plans --only           # the memory plans and nothing else
python benchmarks/gpu_full.py --tiny --plans           # a minute on any computer: does it run?
python benchmarks/gpu_training.py                      # a training step: see there

Ours and diffusers' net share one set of weights. First their velocities are compared, then each
variant is timed for 1024 × 1024 pixels with no, one and two context images, ours and diffusers'
turn by turn, beside its error against ours in eager mode. The card's rate is measured in the same
run, with one large matrix product. A ratio is that of two times of one round: below 1, ours is
faster; in float8 there is none, because there diffusers' net has made room. CUDA graphs spare the
launches of kernels, which hardly counts at this size.

The JSON is written after each measurement. What fails is noted and the next variant begins; then
the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from speed import call_theirs, diffusers_net
from torch import Tensor, nn
from torch._dynamo.utils import counters

from minikontext import tokens
from minikontext.runtime import attention, files, memory_plan, offload, quantization
from minikontext.runtime.memory_plan import GB
from minikontext.training.plan import forward_flops
from minikontext.transformer import KontextTransformer, TransformerConfig

TINY = TransformerConfig(16, 16, 12, 20, 64, 4.0, 2, 2, 2, (8, 12, 12), 10_000, True, True)
# Parts of the names of kernels that compute attention: torch's, cuDNN's, FlashAttention's.
ATTENTION = ("flash", "fmha", "cudnn", "attn", "attention")
# Largest relative errors. bfloat16: nets of full depth and a sixth of the width, on a CPU, differ
# from diffusers' by 0.02, and a float8 that was only emulated from bfloat16 by 0.07; here is twice
# as much. A wrong weight or kernel gives 0.5 and more.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 4e-2, "fp8": 0.15}
NEED = 40 * GB  # weights, and activations and CUDA graphs for two contexts
WARM_UP = 3  # one compiles, and CUDA graphs are recorded in the second
Inputs = dict[str, Tensor]
Runs = dict[str, Callable[[Inputs], Tensor]]


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of both scripts."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a net of a few thousand parameters")
    parser.add_argument("--rounds", type=int, default=rounds, help="timed calls of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing begins after them")
    parser.add_argument("--json", type=Path, help="write the measurements here, as they come")
    return parser


def ready(device: torch.device, tiny: bool, need: float = 0) -> None:
    """Make the device the current one; ends the script where `need` bytes are not free on it."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what is synchronised and measured without a name
    # A block that was compiled too often would run uncompiled, and be timed as if it were not.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if tiny:
        return
    if device.type != "cuda":
        raise SystemExit(f"Full size needs a CUDA GPU, got {device}. Try --tiny.")
    free, total = torch.cuda.mem_get_info()
    if free < need:
        raise SystemExit(
            f"Full size needs {need / GB:.0f} GB, and of the {total / GB:.1f} GB of {device} "
            f"{free / GB:.1f} are free. Take a larger GPU, free some memory, or try --tiny."
        )


class NotHereError(Exception):
    """Why something cannot be measured on this machine; that is no failure."""


class Report:
    """Measurements, written whenever one is added: what fails later takes none of them along.

    facts: what becomes JSON. together: tells whether any process of a training says yes.
    """

    def __init__(
        self, args: argparse.Namespace, device: torch.device,
        together: Callable[[bool], bool] = bool, writes: bool = True,
    ) -> None:  # fmt: skip
        self.path, self.together = args.json if writes else None, together
        self.end, self.device = time.monotonic() + 60 * args.minutes, device
        card = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
        given = {name: value for name, value in vars(args).items() if name != "json"}
        versions = {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda}
        self.facts: dict[str, dict] = {"setting": given | versions}
        for name in ("errors", "cases", "ratios", "attention_kernels", "left_out", "failed"):
            self.facts[name] = {}
        self.facts["rate_tflops"] = matrix_rate(device, args.tiny)

    def attempt(self, name: str, run: Callable[[], None]) -> None:
        """Run a part if there is time; if it fails, its message is kept and the next part begins.

        Only when `except` is left are the tensors of the failed part free.
        """
        if not self.has_time(name):
            return
        try:
            run()
        except NotHereError as reason:
            self.add("left_out", name, str(reason))
        except Exception as error:
            self.add("failed", name, f"{type(error).__name__}: {error}"[:2000])
        tidy()
        self.save()

    def add(self, kind: str, name: str, value: object) -> None:
        """Note one measurement and write all of them; what fails or is left out is said at once."""
        self.facts[kind][name] = value
        if kind in ("failed", "left_out"):
            print(f"{kind.replace('_', ' ')}: {name}: {value}")
        self.save()

    def judge(self, name: str, error: float, limit: float) -> None:
        """Note a relative error; above its limit, or not a number, it is a failure."""
        told = error if math.isfinite(error) else None  # JSON has no NaN
        self.add("errors", name, {"error": told, "limit": limit})
        if not error <= limit:
            self.add("failed", f"error of {name}", f"{error:.2g} is above {limit:g}")

    def note_kernels(self, name: str, run: Callable[[], object]) -> None:
        """Which attention kernels a call ran; where nobody may profile, the times still stand."""
        what = f"profile of {name}"
        if self.device.type == "cuda" and self.has_time(what):
            try:
                self.add("attention_kernels", name, kernels(run))
            except Exception as error:
                self.add("failed", what, f"{type(error).__name__}: {error}"[:2000])

    def is_over(self) -> bool:
        """Whether the time is up, for any process."""
        return self.together(time.monotonic() >= self.end)

    def has_time(self, name: str) -> bool:
        """Whether something may begin; if not, it is named among what was left out."""
        if over := self.is_over():
            self.add("left_out", name, "no time left")
        return not over

    def save(self) -> None:
        """Write the JSON beside its place and rename it into it."""
        if self.path:
            files.write_text(self.path, json.dumps(self.facts, indent=1) + "\n")

    def finish(self) -> None:
        """End the script with exit code 1 if anything failed."""
        self.save()
        if self.facts["failed"]:
            raise SystemExit(1)


def table(rows: dict[str, dict], columns: dict[str, str], width: int = 42) -> None:
    """Print one line for each row; columns: from a key to a format, as "10.4f"."""
    if rows:
        sizes = {key: int(re.match(r"\d+", form)[0]) for key, form in columns.items()}
        print(f"{'':{width}}" + "".join(f"{key:>{size}}" for key, size in sizes.items()))
    for name, row in rows.items():
        print(f"{name:{width}}" + "".join(f"{row[key]:{form}}" for key, form in columns.items()))


# ---- measuring


class Sample(NamedTuple):
    """One call: seconds, and bytes in tensors and held by torch's allocator at their peaks.

    With CUDA graphs, tensors of a replay are not seen as allocated; they are among the reserved.
    """

    seconds: float
    peak: int
    reserved: int


def once(run: Callable[[], object], device: torch.device) -> Sample:
    """Time one call."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if not on_gpu:
        return Sample(time.perf_counter() - start, 0, 0)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return Sample(seconds, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())


@torch.no_grad()
def matrix_rate(device: torch.device, tiny: bool) -> float:
    """TFLOP/s of a product of two large square matrices, the best of ten."""
    n = 256 if tiny else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype_of(device)) for _ in range(2))
    best = min(once(lambda: a @ b, device).seconds for _ in range(10))
    return 2 * n**3 / best / 1e12


def kernels(run: Callable[[], object]) -> list[str]:
    """Names of the CUDA kernels of one call that have to do with attention."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    names = {event.name for event in profile.events() if event.device_type.name == "CUDA"}
    names = {name for name in names if not name.startswith("triton_")}  # fused, named after many
    return sorted(name[:160] for name in names if any(x in name.lower() for x in ATTENTION))


def tidy() -> None:
    """Give back what nobody holds any more; hooks and compiled code hold each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dtype_of(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@torch.no_grad()
def randomise(name: str, weight: Tensor, draw: Callable[[Tensor], object] | None = None) -> Tensor:
    """Fill a weight with numbers that keep activations near 1; draw: fills it with N(0, 1)."""
    (draw or Tensor.normal_)(weight)
    weight.mul_(weight.shape[-1] ** -0.5 if weight.dim() > 1 else 0.1)
    return weight.add_(1) if name.endswith("norm.scale") else weight


def relative_error(a: Tensor, b: Tensor) -> float:
    """Length of the difference over the length of b."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()


# ---- the nets and what they are asked


@dataclass
class Nets:
    """Both nets with the same tensors: diffusers' are parts of ours. A variant may drop theirs."""

    ours: KontextTransformer
    theirs: nn.Module | None

    @classmethod
    def random(cls, config: TransformerConfig, device: torch.device) -> Nets:
        """Random weights, drawn on the device."""
        torch.manual_seed(0)
        with torch.device("meta"):
            ours = KontextTransformer(config).to(dtype_of(device))
        ours = ours.to_empty(device=device).eval().requires_grad_(False)
        for name, weight in ours.named_parameters():
            randomise(name, weight)
        return cls(ours, diffusers_net(ours).requires_grad_(False))

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return next(self.ours.parameters()).device

    def runs(self) -> Runs:
        """How each is called."""
        return {
            "minikontext": lambda given: self.ours(**given),
            "diffusers": lambda given: call_theirs(self.theirs, given),
        }

    def refresh(self) -> None:
        """Forget what was compiled: compiled blocks keep their attention kernel."""
        torch._dynamo.reset()
        for net in filter(None, (self.ours, self.theirs)):
            for module in net.modules():
                module._compiled_call_impl = None  # what `module.compile()` had set

    def compile(self, **ours: str) -> None:
        """Both by region: each kind of block once. On a CPU nothing is fused, so it is quick."""
        given = {} if self.device.type == "cuda" else {"backend": "eager"}
        for block in offload.transformer_blocks(self.ours):
            block.compile(**given, **ours)
        if self.theirs is not None:
            self.theirs.compile_repeated_blocks(**given)


def edit_inputs(
    config: TransformerConfig, side: int, text: int, contexts: int, device: torch.device
) -> Inputs:
    """One edit: a square target and as large contexts, side × side tokens each."""
    images = torch.randn(contexts + 1, 1, side**2, config.in_channels)
    ids = tokens.context_ids([(side, side)] * contexts)
    img, img_ids = tokens.join_context(
        images[0], tokens.position_ids(side, side), list(images[1:]), ids
    )
    words, pooled = torch.randn(1, text, config.context_in_dim), torch.randn(1, config.vec_in_dim)
    numbers = {"img": img, "txt": words, "pooled": pooled}
    # Times and scales that bfloat16 holds exactly: diffusers rounds them.
    exact = {"timesteps": torch.tensor([0.5]), "guidance": torch.tensor([2.0])}
    exact |= {"img_ids": img_ids.float(), "txt_ids": torch.zeros(text, 3)}
    given = {name: tensor.to(device, dtype_of(device)) for name, tensor in numbers.items()}
    return given | {name: tensor.to(device) for name, tensor in exact.items()}


# ---- variants: each a context that gives what to time


@contextmanager
def eager(nets: Nets) -> Iterator[Runs]:
    """As Python calls them."""
    yield nets.runs()


@contextmanager
def compiled(nets: Nets) -> Iterator[Runs]:
    """Both with compiled blocks."""
    nets.compile()
    yield nets.runs()


@contextmanager
def graphs(nets: Nets) -> Iterator[Runs]:
    """Ours with compiled blocks as CUDA graphs, against diffusers' compiled without."""
    if nets.device.type != "cuda":
        raise NotHereError("not here (needs a CUDA GPU)")
    nets.compile(mode="reduce-overhead")

    def ours(given: Inputs) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # from here on old outputs may be overwritten
        return nets.ours(**given)

    skipped = counters["inductor"]["cudagraph_skips"]
    yield {"minikontext": ours, "diffusers without": nets.runs()["diffusers"]}
    if counters["inductor"]["cudagraph_skips"] > skipped:
        raise RuntimeError("torch left CUDA graphs out: what was timed is compiled without them")


@contextmanager
def flash3(nets: Nets) -> Iterator[Runs]:
    """Both compiled, with FlashAttention 3."""
    if not attention.use_flash_attention_3(nets.device):
        raise NotHereError("not here (needs a Hopper GPU and flash_attn_interface)")
    try:
        nets.compile()
        yield nets.runs()
    finally:
        attention.leave_flash_attention_3()


@contextmanager
def fp8(nets: Nets) -> Iterator[Runs]:
    """Ours compiled, its products in float8, a scale for each row; its weights change for good."""
    if not quantization.float8_usable(nets.device):
        raise NotHereError("not here (needs CUDA capability 8.9 and torchao)")
    nets.theirs = None  # it holds all weights in bfloat16
    tidy()
    quantization.use_float8(nets.ours)
    nets.compile()
    yield {"minikontext": nets.runs()["minikontext"]}


# In this order: the last one leaves nothing for others.
VARIANTS = {"eager": eager, "compiled": compiled, "graphs": graphs, "fa3": flash3, "fp8": fp8}


@dataclass
class Bench:
    """All that a variant is measured with; expected: velocities of ours in eager mode."""

    report: Report
    nets: Nets
    inputs: list[Inputs]
    rounds: int

    @torch.no_grad()
    def compare(self) -> None:
        """The error of ours against diffusers for each number of contexts."""
        for n, given in enumerate(self.inputs):
            error = relative_error(self.expected[n], call_theirs(self.nets.theirs, given))
            limit = LIMITS[self.expected[n].dtype]
            self.report.judge(f"ours against diffusers, {n} contexts", error, limit)

    @torch.no_grad()
    def run(self, names: list[str]) -> None:
        """Judge ours against diffusers, then each variant against ours in eager mode."""
        self.expected = [self.nets.ours(**given) for given in self.inputs]
        self.report.attempt("diffusers", self.compare)
        for name in (name for name in VARIANTS if name in names):
            self.report.attempt(name, partial(self.measure, name))
        self.nets.refresh()  # CUDA graphs keep memory of their own

    @torch.no_grad()
    def measure(self, name: str) -> None:
        """One variant, for each number of contexts."""
        self.nets.refresh()
        tidy()
        with VARIANTS[name](self.nets) as runs:
            for n, given in enumerate(self.inputs):
                case = f"{name}, {n} contexts"
                if self.report.has_time(case):
                    if name != "eager":
                        limit = LIMITS[name if name in LIMITS else self.expected[n].dtype]
                        error = relative_error(runs["minikontext"](given), self.expected[n])
                        self.report.judge(case, error, limit)
                    self.time(runs, case, given)
            for who, run in runs.items():
                self.report.note_kernels(f"{who} {name}", partial(run, self.inputs[-1]))

    def time(self, runs: Runs, case: str, given: Inputs) -> None:
        """Seconds, speed and memory of each net, and their ratio."""
        samples, config = self.in_turn(runs, given), self.nets.ours.config
        flops = forward_flops(config, given["img"].shape[1], given["txt"].shape[1])
        for who, some in samples.items():
            seconds = statistics.median(sample.seconds for sample in some)
            rate = flops / seconds / 1e12
            row = {"seconds": seconds, "tflops": rate}
            row["share_of_rate"] = rate / self.report.facts["rate_tflops"]
            row |= {"peak_gb": some[-1].peak / GB, "reserved_gb": some[-1].reserved / GB}
            row["predicted_gb"] = predicted_bytes(config, None, False, given) / GB  # in 16 bits
            self.report.add("cases", f"{who} {case}", row)
        if len(samples) == 2:
            ratios = [a.seconds / b.seconds for a, b in zip(*samples.values())]
            row = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            self.report.add("ratios", f"{' / '.join(runs)} {case}", row)

    def in_turn(self, runs: Runs, given: Inputs) -> dict[str, list[Sample]]:
        """Calls in turn, so that a warm or busy machine hits both; at least one round is timed."""
        samples: dict[str, list[Sample]] = {who: [] for who in runs}
        for round_ in range(WARM_UP + self.rounds):
            if round_ > WARM_UP and self.report.is_over():
                break
            for who, run in list(runs.items())[:: (-1) ** round_]:
                samples[who].append(once(partial(run, given), self.nets.device))
        return {who: some[WARM_UP:] for who, some in samples.items()}


# ---- the memory plans against the memory they take: one velocity under each


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
    """What one plan predicts and takes, in GB; the second of two velocities is timed.

    Only the transformer is here, its weights and its activations.
    """
    if bits and not quantization.has_torchao():
        raise NotHereError("not here (needs torchao)")
    device, predicted = given["img"].device, predicted_bytes(config, bits, stream, given)
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
    """A random transformer, stored as the plan says, one tensor at a time as a loader reads it."""
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
        offload.stream(offload.transformer_blocks(net), device, dtype_of(device), within=net)
    return net


def show(facts: dict) -> None:
    """Print the tables."""
    print(f"{facts['setting']['card']}, matrix products at {facts['rate_tflops']:.3g} TFLOP/s")
    for name, row in facts["errors"].items():
        print(f"relative error, {name}: {row['error']} (at most {row['limit']:g})")
    columns = {"seconds": "10.4f", "tflops": "10.4g", "share_of_rate": "15.0%"}
    table(facts["cases"], columns | {"peak_gb": "9.1f", "reserved_gb": "13.1f",
                                     "predicted_gb": "14.1f"})  # fmt: skip
    table(facts["ratios"], {"median": "10.3f", "min": "10.3f", "max": "10.3f"}, 52)
    told = {"predicted_gb": "14.2f", "measured_gb": "13.2f", "measured_over_predicted": "25.2f"}
    table(facts.get("plans", {}), told | {"reserved_gb": "13.2f", "seconds": "10.3f"})
    for name, found in facts["attention_kernels"].items():
        print(f"attention of {name}: {', '.join(found) or 'no CUDA kernel'}")


def main() -> None:
    """Compare, measure each variant and each memory plan, print the table."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--only", choices=VARIANTS, nargs="*", default=[*VARIANTS])
    parser.add_argument("--plans", action="store_true", help="the memory of each offload plan, too")
    args = parser.parse_args()
    device = torch.device(args.device)
    ready(device, args.tiny, NEED)
    report = Report(args, device)
    config = TINY if args.tiny else TransformerConfig.flux_dev()
    grid, text = (4, 8) if args.tiny else (64, 512)
    inputs = [edit_inputs(config, grid, text, n, device) for n in range(3)]
    if args.only:
        Bench(report, Nets.random(config, device), inputs, args.rounds).run(args.only)
    tidy()  # the nets are gone
    if args.plans:
        measure_plans(report, config, inputs[1])
    show(report.facts)
    report.finish()


if __name__ == "__main__":
    main()
