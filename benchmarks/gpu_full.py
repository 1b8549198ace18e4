"""FLUX.1 Kontext at full size with random weights on a GPU: ours and diffusers', turn by turn.

python benchmarks/gpu_full.py --json gpu_full.json     # a CUDA GPU with 40 GB or more, 9 minutes
python benchmarks/gpu_full.py --plans --only           # the memory plans and nothing else
python benchmarks/gpu_full.py --tiny --plans           # a minute on any computer: does it run?

Both nets share one set of weights in memory. First their velocities are compared, then each
variant of the net is timed for 1024 × 1024 pixels with no, one and two context images, and its
velocities are compared with those of ours in eager mode. The rate of the card is measured in the
same run, with one large matrix product. A ratio is that of two times of one round: below 1, ours is
faster; in float8 there is none, because there diffusers' net has made room.

graphs: CUDA graphs spare the launches of kernels. At 1024 × 1024 a kernel takes longer than its
launch, so they hardly help; what they save shows at small sizes.

The JSON is written after each measurement. What fails is noted and the next variant begins; then
the exit code is 1.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import gpu
import torch
from gpu import GB, TINY, NotHereError, Report, relative_error
from gpu_plans import measure_plans, predicted_bytes
from torch import Tensor, nn
from torch._dynamo.utils import counters
from versus import call_theirs, diffusers_net

from minikontext import tokens
from minikontext.runtime import attention, offload, quantization
from minikontext.training.plan import forward_flops
from minikontext.transformer import KontextTransformer, TransformerConfig

# Largest relative errors. bfloat16: nets of full depth and a sixth of the width, on a CPU, differ
# from diffusers' by 0.02, and a float8 that was only emulated from bfloat16 by 0.07; here is twice
# as much. A wrong weight or kernel gives 0.5 and more.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 4e-2, "fp8": 0.15}
NEED = 40 * GB  # weights, and activations and CUDA graphs for two contexts
WARM_UP = 3  # one compiles, and CUDA graphs are recorded in the second

Inputs = dict[str, Tensor]
Runs = dict[str, Callable[[Inputs], Tensor]]


def main() -> None:
    """Compare, measure each variant and each memory plan, print the table."""
    args = options().parse_args()
    device = torch.device(args.device)
    gpu.ready(device, args.tiny, NEED)
    gpu.strict_compiler()
    report = Report(args, device)
    report.facts["rate_tflops"] = gpu.matrix_rate(device, args.tiny)
    config = TINY if args.tiny else TransformerConfig.flux_dev()
    grid, text = (4, 8) if args.tiny else (64, 512)
    inputs = [edit_inputs(config, grid, text, n, device) for n in range(3)]
    if args.only:
        measure_variants(report, Nets.random(config, device), inputs, args)
    gpu.tidy()  # the nets are gone
    if args.plans:
        measure_plans(report, config, inputs[1])
    show(report.facts)
    report.finish()


def options() -> argparse.ArgumentParser:
    """Those of `gpu`, and what to measure."""
    parser = gpu.options(__doc__, rounds=5)
    parser.add_argument("--only", choices=VARIANTS, nargs="*", default=[*VARIANTS])
    parser.add_argument("--plans", action="store_true", help="the memory of each offload plan, too")
    return parser


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
            ours = KontextTransformer(config).to(gpu.dtype_of(device))
        ours = ours.to_empty(device=device).eval().requires_grad_(False)
        for name, weight in ours.named_parameters():
            gpu.randomise(name, weight)
        return cls(ours, diffusers_net(ours).requires_grad_(False))

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
        given = {} if next(self.ours.parameters()).is_cuda else {"backend": "eager"}
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
    numbers = {
        "img": img,
        "txt": torch.randn(1, text, config.context_in_dim),
        "pooled": torch.randn(1, config.vec_in_dim),
    }
    # Times and scales that bfloat16 holds exactly: diffusers rounds them.
    exact = {"timesteps": torch.tensor([0.5]), "guidance": torch.tensor([2.0])}
    exact |= {"img_ids": img_ids.float(), "txt_ids": torch.zeros(text, 3)}
    given = {name: tensor.to(device, gpu.dtype_of(device)) for name, tensor in numbers.items()}
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
    if not next(nets.ours.parameters()).is_cuda:
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
    if not attention.use_flash_attention_3(next(nets.ours.parameters()).device):
        raise NotHereError("not here (needs a Hopper GPU and flash_attn_interface)")
    try:
        nets.compile()
        yield nets.runs()
    finally:
        attention.leave_flash_attention_3()


@contextmanager
def fp8(nets: Nets) -> Iterator[Runs]:
    """Ours compiled, its products in float8, a scale for each row; its weights change for good."""
    if not quantization.float8_usable(next(nets.ours.parameters()).device):
        raise NotHereError("not here (needs CUDA capability 8.9 and torchao)")
    nets.theirs = None  # it holds all weights in bfloat16
    gpu.tidy()
    quantization.use_float8(nets.ours)
    nets.compile()
    yield {"minikontext": nets.runs()["minikontext"]}


# In this order: the last one leaves nothing for others.
VARIANTS = {"eager": eager, "compiled": compiled, "graphs": graphs, "fa3": flash3, "fp8": fp8}


# ---- measuring


def measure_variants(
    report: Report, nets: Nets, inputs: list[Inputs], args: argparse.Namespace
) -> None:
    """Judge ours against diffusers, then each variant against ours in eager mode."""
    with torch.no_grad():
        expected = [nets.ours(**given) for given in inputs]
    report.attempt("diffusers", lambda: compare(report, nets, inputs, expected))
    bench = Bench(report, nets, inputs, expected, args.rounds)
    for name in (name for name in VARIANTS if name in args.only):
        report.attempt(name, partial(bench.measure, name))
    nets.refresh()  # CUDA graphs keep memory of their own


@torch.no_grad()
def compare(report: Report, nets: Nets, inputs: list[Inputs], expected: list[Tensor]) -> None:
    """The error of ours against diffusers for each number of contexts."""
    limit = LIMITS[expected[0].dtype]
    for n, (given, velocity) in enumerate(zip(inputs, expected)):
        error = relative_error(velocity, call_theirs(nets.theirs, given))
        report.judge(f"ours against diffusers, {n} contexts", error, limit)
    told = [e["error"] for e in report.facts["errors"].values()]
    report.facts["relative_error"] = max(told) if None not in told else None


@dataclass
class Bench:
    """All that a variant is measured with; expected: velocities of ours in eager mode."""

    report: Report
    nets: Nets
    inputs: list[Inputs]
    expected: list[Tensor]
    rounds: int

    def __post_init__(self) -> None:
        config = self.nets.ours.config
        self.device = self.inputs[0]["img"].device
        self.foreseen = [predicted_bytes(config, None, False, given) for given in self.inputs]

    @torch.no_grad()
    def measure(self, name: str) -> None:
        """One variant, for each number of contexts."""
        self.nets.refresh()
        gpu.tidy()
        with VARIANTS[name](self.nets) as runs:
            for n in range(len(self.inputs)):
                case = f"{name}, {n} contexts"
                if self.report.has_time(case):
                    self.judge(name, case, runs["minikontext"], n)
                    self.time(runs, name, n)
            for who, run in runs.items():
                run = partial(run, self.inputs[-1])
                self.report.note_kernels(f"{who} {name}", run, self.device)

    def judge(self, name: str, case: str, run: Callable[[Inputs], Tensor], n: int) -> None:
        """The error that a variant makes."""
        if name != "eager":
            limit = LIMITS[name if name in LIMITS else self.expected[n].dtype]
            self.report.judge(case, relative_error(run(self.inputs[n]), self.expected[n]), limit)

    def time(self, runs: Runs, name: str, n: int) -> None:
        """Seconds, speed and memory of each net, and their ratio."""
        given, facts = self.inputs[n], self.report.facts
        samples = self.in_turn(runs, given)
        text = given["txt"].shape[1]
        flops = forward_flops(self.nets.ours.config, given["img"].shape[1], text)
        for who, some in samples.items():
            seconds = statistics.median(sample.seconds for sample in some)
            row = {"seconds": seconds, "tflops": flops / seconds / 1e12}
            row["share_of_rate"] = row["tflops"] / facts["rate_tflops"]
            row["peak_gb"] = some[-1].peak / GB
            row["reserved_gb"] = some[-1].reserved / GB
            row["predicted_gb"] = self.foreseen[n] / GB  # of weights in 16 bits
            self.report.add("cases", f"{who} {name}, {n} contexts", row)
        if len(samples) == 2:
            ratios = [a.seconds / b.seconds for a, b in zip(*samples.values())]
            row = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            self.report.add("ratios", f"{' / '.join(runs)} {name}, {n} contexts", row)

    def in_turn(self, runs: Runs, given: Inputs) -> dict[str, list[gpu.Sample]]:
        """Calls in turn, so that a warm or busy machine hits both; at least one round is timed."""
        samples: dict[str, list[gpu.Sample]] = {who: [] for who in runs}
        for round_ in range(WARM_UP + self.rounds):
            if round_ > WARM_UP and self.report.is_over():
                break
            for who, run in list(runs.items())[:: (-1) ** round_]:
                samples[who].append(gpu.once(partial(run, given), self.device))
        return {who: some[WARM_UP:] for who, some in samples.items()}


def show(facts: dict) -> None:
    """Print the tables."""
    print(f"{facts['setting']['card']}, matrix products at {facts['rate_tflops']:.3g} TFLOP/s")
    for name, row in facts["errors"].items():
        print(f"relative error, {name}: {row['error']} (at most {row['limit']:g})")
    columns = {"seconds": "10.4f", "tflops": "10.4g", "share_of_rate": "15.0%"}
    memory_columns = {"peak_gb": "9.1f", "reserved_gb": "13.1f", "predicted_gb": "14.1f"}
    gpu.table(facts["cases"], columns | memory_columns)
    gpu.table(facts["ratios"], {"median": "10.3f", "min": "10.3f", "max": "10.3f"}, 52)
    told = {"predicted_gb": "14.2f", "measured_gb": "13.2f", "measured_over_predicted": "25.2f"}
    gpu.table(facts.get("plans", {}), told | {"reserved_gb": "13.2f", "seconds": "10.3f"})
    for name, found in facts["attention_kernels"].items():
        print(f"attention of {name}: {', '.join(found) or 'no CUDA kernel'}")
    gpu.show_gaps(facts)


if __name__ == "__main__":
    main()
