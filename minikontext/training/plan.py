"""Will it fit, and how long will it take? The arithmetic of a training, before a GPU is rented.

Everything is counted from the config: parameters, the bytes that each GPU holds, the products of a
step, the bytes that travel. Two numbers are assumptions, and said to be: the share of its peak that
a GPU reaches, and a reserve for what nobody counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from minikontext.errors import ConfigError
from minikontext.training.loop import LoopConfig
from minikontext.training.parallel import ParallelConfig
from minikontext.transformer import TransformerConfig

GIB = 2**30  # the vendors' "80 GB"
FLOAT, HALF = 4, 2  # bytes
RESERVE = 2 * GIB  # CUDA's context, NCCL's buffers, gaps between tensors: an assumption


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind; the defaults are the vendor's numbers for an H100 SXM.

    memory: GiB of each. peak: TFLOP/s of bfloat16 products, of which a training reaches `share`:
    an assumption; what yours reaches is in its log. link, network: GB/s that one GPU receives from
    its `host` neighbours and from elsewhere.
    """

    gpus: int = 8
    memory: float = 80.0
    peak: float = 989.0
    share: float = 0.4
    link: float = 450.0
    network: float = 50.0
    host: int = 8

    def __post_init__(self) -> None:
        if min(self.gpus, self.memory, self.peak, self.share, self.link, self.network) <= 0:
            raise ConfigError(f"every number of a machine must be above 0, got {self}")

    def speed(self, neighbours: int) -> float:
        """Bytes a second that a GPU receives in a group of so many."""
        return 1e9 * (self.link if neighbours <= self.host else self.network)


@dataclass(frozen=True)
class Workload:
    """What of a training decides its memory and time.

    target, contexts, text: tokens of one sample. beside: parameters outside the transformer.
    rank: of a LoRA, 0 where the transformer itself learns; base: bytes of the frozen one, then.
    """

    sizes: TransformerConfig
    loop: LoopConfig
    parallel: ParallelConfig
    batch: int
    target: int
    contexts: int
    text: int
    beside: int = 0
    bf16: bool = True
    rank: int = 0
    base: int = 0

    @property
    def learning(self) -> int:
        """Parameters that are trained."""
        if self.rank:
            return self.rank * lora_width(self.sizes)
        return parameters(self.sizes).total + self.beside

    @property
    def tokens(self) -> int:
        """Tokens of one sample, all of them."""
        return self.target + self.contexts + self.text


# ------------------------------------------------------------------------------------ parameters


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: the blocks' matrices (Muon's), and everything else (AdamW's)."""

    matrices: int
    rest: int
    largest_block: int
    largest_matrix: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.rest


def parameters(c: TransformerConfig) -> Parameters:
    """Count a transformer's parameters from its sizes; d = hidden_size, r = mlp_ratio.

    A double block has 2 (4 + 2r) d² in its matrices and 12 d² in its modulations, a single block
    (4 + 2r) d² and 3 d²; the rest is biases, norms, and what lies before and after the blocks.
    """
    d, hidden = c.hidden_size, int(c.hidden_size * c.mlp_ratio)
    norms, block = 2 * d // c.num_heads, 4 * d**2 + 2 * d * hidden
    stream = (6 * d + 6) * d + 3 * d * c.qkv_bias + norms + d + hidden + d
    single = (3 * d + 3) * d + norms + 3 * d + hidden + d
    embedder = 257 * d + (d + 1) * d
    ends = (c.in_channels + c.context_in_dim + 2) * d + embedder * (1 + c.guidance_embed)
    ends += (c.vec_in_dim + 1) * d + (d + 1) * d  # the pooled text
    ends += (d + 1) * c.out_channels + 2 * (d + 1) * d  # the final layer
    return Parameters(
        matrices=block * (2 * c.depth + c.depth_single_blocks),
        rest=2 * stream * c.depth + single * c.depth_single_blocks + ends,
        largest_block=max(2 * (block + stream) * bool(c.depth), block + single),
        largest_matrix=d * (3 * d + hidden),
    )


def lora_width(c: TransformerConfig) -> int:
    """Parameters of a LoRA of rank 1 on all projections of the blocks: inputs and outputs."""
    double, single = 2 * (8 + 2 * c.mlp_ratio), 6 + 2 * c.mlp_ratio
    return int(c.hidden_size * (c.depth * double + c.depth_single_blocks * single))


# ----------------------------------------------------------------------------------- activations


@dataclass(frozen=True)
class Kept:
    """What one step of a block leaves for the backward pass.

    width: in multiples of d, for each token. precise: how many of these stay in float32 when the
    products are in bfloat16. dear: kept by selective checkpointing.
    """

    what: str
    width: float
    precise: float = 0.0
    dear: bool = False

    def bytes(self, bf16: bool) -> float:
        """For each token and channel."""
        return HALF * (self.width + self.precise) if bf16 else FLOAT * self.width


def kept_by_single(r: float) -> list[Kept]:
    """The parts of a single block; r = mlp_ratio."""
    return [
        Kept("its input, normalised and modulated", 3, 2),
        Kept("queries, keys, values, MLP", 3 + r, dear=True),
        Kept("queries and keys, normalised", 2, 6),
        Kept("queries and keys, rotated", 2),
        Kept("attention", 1, dear=True),
        Kept("attention and MLP, joined", 1 + r),
        Kept("the last product", 1, dear=True),
    ]


def kept_by_double(r: float) -> list[Kept]:
    """The parts of a double block, for the tokens of either stream."""
    return [
        Kept("its input, normalised and modulated", 3, 2),
        Kept("queries, keys, values", 3, dear=True),
        Kept("queries and keys, normalised", 2, 6),
        Kept("queries and keys, rotated; values, joined", 3),
        Kept("attention", 1, dear=True),
        Kept("attention, cut into streams", 1),
        Kept("the projection", 1, dear=True),
        Kept("its sum, normalised and modulated", 3, 2),
        Kept("MLP, before its activation", r, dear=True),
        Kept("MLP, after its activation", r),
        Kept("the last product", 1, dear=True),
    ]


def kept(parts: list[Kept], level: str, bf16: bool) -> float:
    """Bytes for each token and channel that a block keeps at a level of checkpointing."""
    if level == "none":
        return sum(part.bytes(bf16) for part in parts)
    dear = sum(part.bytes(bf16) for part in parts if part.dear)
    entry = HALF if bf16 else FLOAT  # the block's input
    return entry + (dear if level == "selective" else 0)


def activations(c: TransformerConfig, tokens: int, level: str, bf16: bool) -> float:
    """Bytes that all blocks keep for the backward pass of `tokens` tokens."""
    double, single = (part(c.mlp_ratio) for part in (kept_by_double, kept_by_single))
    each = c.depth * kept(double, level, bf16) + c.depth_single_blocks * kept(single, level, bf16)
    return each * tokens * c.hidden_size


def at_work(c: TransformerConfig, tokens: int, level: str, bf16: bool) -> float:
    """Bytes that one block needs beside: what was not kept, made again, and its gradients."""
    double, single = (part(c.mlp_ratio) for part in (kept_by_double, kept_by_single))
    blocks = [double] * bool(c.depth) + [single] * bool(c.depth_single_blocks)
    again = max(kept(b, "none", bf16) - kept(b, level, bf16) for b in blocks)
    gradients = (2 + 2 * c.mlp_ratio) * (HALF if bf16 else FLOAT)
    return (again + gradients) * tokens * c.hidden_size


# ---------------------------------------------------------------------------------------- memory


def memory(job: Workload, gpus: int) -> dict[str, float]:
    """Bytes that each of so many GPUs holds, by what they are, and their `peak`.

    A gradient comes when its activations go, so of the two the larger counts, unless gradients
    wait for the next part of the batch. The optimiser's own numbers come when activations are gone.
    """
    if job.rank:
        return lora_memory(job)
    p, loop, flags = parameters(job.sizes), job.loop, job.parallel
    shards = gpus // flags.replicate
    muon = p.matrices if loop.muon_lr > 0 else 0
    adam = p.total + job.beside - muon
    rows = -(-job.batch // (gpus * loop.accumulate))  # samples at a time
    tokens = rows * job.tokens
    held = {
        "weights": FLOAT * (muon + adam) / shards,
        "moving average": FLOAT * (muon + adam) / shards * bool(loop.ema),
        "optimiser": ((HALF if loop.half_momentum else FLOAT) * muon + 2 * FLOAT * adam) / shards,
        "gradients": FLOAT * (muon + adam) / shards,
        "activations": activations(job.sizes, tokens, flags.checkpointing, job.bf16),
        "block at work": at_work(job.sizes, tokens, flags.checkpointing, job.bf16),
        "whole blocks": _whole_blocks(p, job, shards),
    }
    step = FLOAT * adam / shards + (3 * FLOAT * p.largest_matrix if muon else 0)
    pair = held["gradients"], held["activations"]
    passes = sum(pair) if loop.accumulate > 1 else max(pair)
    passes += held["block at work"] + held["whole blocks"]
    fixed = held["weights"] + held["moving average"] + held["optimiser"]
    held["optimiser at work"] = step
    return held | {"peak": fixed + max(passes, held["gradients"] + step)}


def lora_memory(job: Workload) -> dict[str, float]:
    """The same for a LoRA, on one GPU: the base only lies there, and what learns is small.

    A quantised matrix is unpacked to be multiplied, and autograd keeps what was unpacked: all of
    it, or with checkpointing that of one block.
    """
    p, level = parameters(job.sizes), job.parallel.checkpointing
    tokens = -(-job.batch // job.loop.accumulate) * job.tokens
    number = HALF if job.bf16 else FLOAT
    packed = job.base < number * p.total
    unpacked = p.matrices if level == "none" else p.largest_block
    held = {
        "base": float(job.base),
        "weights": FLOAT * job.learning,
        "moving average": FLOAT * job.learning * bool(job.loop.ema),
        "optimiser": 2.0 * FLOAT * job.learning,
        "gradients": FLOAT * job.learning,
        "activations": activations(job.sizes, tokens, level, job.bf16),
        "block at work": at_work(job.sizes, tokens, level, job.bf16),
        "unpacked": float(number * unpacked * packed),
    }
    return held | {"peak": sum(held.values())}


def _whole_blocks(p: Parameters, job: Workload, shards: int) -> float:
    """Gathered weights of the block at work and the next, and the gradient that is being sent."""
    number = HALF if job.bf16 and job.parallel.bf16 else FLOAT
    if shards > 1:
        return p.largest_block * (3 * number + 2 * FLOAT)
    return HALF * p.total if job.bf16 else 0.0  # autocast's copies of the weights


# ------------------------------------------------------------------------------------------ time


def forward_flops(c: TransformerConfig, image_tokens: int, text_tokens: int) -> float:
    """Multiplications and additions of one velocity: matrix products and attention."""
    n, d = image_tokens + text_tokens, c.hidden_size
    linear = 2 * n * d**2 * (4 + 2 * c.mlp_ratio)  # queries, keys, values, projection, MLP
    attention = 4 * n**2 * d
    ends = 2 * d * (2 * image_tokens * c.in_channels + text_tokens * c.context_in_dim)
    return (c.depth + c.depth_single_blocks) * (linear + attention) + ends


def model_flops(job: Workload) -> float:
    """Of the whole batch: a backward pass is two forward passes; one where no matrix learns."""
    forward = forward_flops(job.sizes, job.target + job.contexts, job.text)
    return job.batch * forward * (2 if job.rank else 3)


def step_flops(job: Workload) -> float:
    """With what is computed twice: checkpointing "full" adds a forward pass."""
    again = 1 if job.parallel.checkpointing == "full" else 0
    return model_flops(job) + again * job.batch * forward_flops(
        job.sizes, job.target + job.contexts, job.text
    )


def muon_flops(job: Workload) -> float:
    """Of each GPU: it makes every gathered matrix (d × k d) orthogonal, in five iterations."""
    if not job.loop.muon_lr or job.rank:
        return 0.0
    return 5 * (4 + 1) * job.sizes.hidden_size * parameters(job.sizes).matrices


def exchanged(job: Workload, gpus: int) -> tuple[float, float]:
    """Bytes that each GPU receives in a step: from its shard group, and from the other copies.

    Weights are gathered for the forward and for the backward pass, gradients summed in float32,
    for each part of the batch. Muon gathers its matrices once more.
    """
    if job.rank:
        return 0.0, 0.0
    p, flags = parameters(job.sizes), job.parallel
    shards, total = gpus // flags.replicate, p.total + job.beside
    number = HALF if job.bf16 and flags.bf16 else FLOAT
    each = (2 * number + FLOAT) * total * job.loop.accumulate
    each += FLOAT * p.matrices * bool(job.loop.muon_lr)
    between = 2 * FLOAT * total / shards * (1 - 1 / flags.replicate) * job.loop.accumulate
    return each * (1 - 1 / shards), between


@dataclass(frozen=True)
class Plan:
    """A job on a machine: bytes by what they are, and the seconds of a step."""

    job: Workload
    machine: Machine
    held: Mapping[str, float]
    compute: float
    optimiser: float
    exchange: float

    @property
    def fits(self) -> bool:
        """Whether the peak and the reserve are below the memory of a GPU."""
        return self.held["peak"] + RESERVE <= self.machine.memory * GIB

    @property
    def seconds(self) -> float:
        """Of a step: what is sent travels while products are computed; the longer one counts."""
        return max(self.compute, self.exchange) + self.optimiser

    @property
    def hours(self) -> float:
        """Of the whole run; a config's `minutes` end it."""
        whole, loop = self.seconds * self.job.loop.steps / 3600, self.job.loop
        return min(whole, loop.minutes / 60) if loop.minutes else whole

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return min(self.job.loop.steps, round(3600 * self.hours / self.seconds))

    def __str__(self) -> str:
        job, machine, p = self.job, self.machine, parameters(self.job.sizes)
        rows = [(name, size / GIB) for name, size in self.held.items() if name != "peak"]
        rows += [("reserve", RESERVE / GIB), ("peak", (self.held["peak"] + RESERVE) / GIB)]
        flops = step_flops(job) / 1e12
        lines = [
            f"{job.learning:,} parameters{f' beside {p.total:,}' if job.rank else ''} on "
            f"{machine.gpus} GPU(s) of {machine.memory:g} GiB, checkpointing "
            f"{job.parallel.checkpointing!r}",
            f"a sample: {job.target} + {job.contexts} + {job.text} tokens (target, contexts, text)",
            "",
            *(f"{name:<18}{size:9.2f} GiB" for name, size in rows),
            f"{'':18}{'it fits' if self.fits else 'IT DOES NOT FIT':>13}",
            "",
            f"{'a step':<18}{job.batch} samples, {flops:,.1f} TFLOP",
            f"{'products':<18}{self.compute:9.3f} s at {machine.share:.0%} of {machine.peak:g} "
            "TFLOP/s",
            f"{'exchange':<18}{self.exchange:9.3f} s, meanwhile",
            f"{'Muon':<18}{self.optimiser:9.3f} s",
            f"{'the step':<18}{self.seconds:9.3f} s, {job.batch / self.seconds:,.2f} samples/s",
            f"{'the run':<18}{self.hours:9.1f} h for {self.steps:,} steps, "
            f"{self.hours * machine.gpus:,.0f} GPU hours",
        ]
        return "\n".join(lines)


def fits_config(job: Workload, gpus: int) -> bool:
    """Whether so many GPUs can share a job's batch and its copies of the model."""
    whole = gpus % job.parallel.replicate == 0 and job.batch % (gpus * job.loop.accumulate) == 0
    return whole and (gpus == 1 or not job.rank)


def most_gpus(job: Workload, host: int = 8) -> int:
    """The most GPUs of one host that a job can use, or the fewest it needs if that is more."""
    rest = range(host + 1, job.batch + 1)
    return next((n for n in (*range(host, 0, -1), *rest) if fits_config(job, n)), host)


def make(job: Workload, machine: Machine) -> Plan:
    """The plan of a job. Raises ConfigError for a number of GPUs that does not fit the config."""
    gpus, copies = machine.gpus, job.parallel.replicate
    if job.rank and gpus > 1:
        raise ConfigError("a LoRA is small: one process trains it, plan it with --gpus 1")
    if not fits_config(job, gpus):
        raise ConfigError(
            f"{gpus} GPUs: replicate={copies} must divide them, and they times accumulate="
            f"{job.loop.accumulate} must divide batch={job.batch}"
        )
    speed = 1e12 * machine.peak * machine.share
    inside, between = exchanged(job, gpus)
    exchange = inside / machine.speed(gpus // copies) + between / machine.speed(gpus)
    return Plan(
        job=job,
        machine=machine,
        held=memory(job, gpus),
        compute=step_flops(job) / gpus / speed,
        optimiser=muon_flops(job) / speed,
        exchange=exchange,
    )
