"""How long things take on this computer, each beside what it is to be compared with, turn by turn.

python benchmarks/speed.py edit --weights toy          # one edit, all parts included
python benchmarks/speed.py few_steps --batch 16        # teacher with guidance against students
python benchmarks/speed.py sizes --weights toy-pro     # one edit by size and steps: notebook 09
python benchmarks/speed.py isolated --weights toy-any  # contexts computed once, or in each step
python benchmarks/speed.py sampling --batch 1          # the loop, ours against diffusers'
python benchmarks/speed.py training_step [--recipe]    # ours against diffusers' in our place
python benchmarks/speed.py attention                   # PyTorch's kernels and the formula
python benchmarks/speed.py data                        # training data against what eats it
python benchmarks/speed.py imports                     # the package against torch
python benchmarks/speed.py start                       # what `import minikontext`, --help cost

All take --rounds, --threads, --device, --dtype, --compile and --json. A ratio is that of two times
of one round: below 1, the first is faster. The recipe is a whole step of `Loop`: drawing the batch,
text encoder, transformer, backward pass, clipping, Muon and AdamW, moving average; both sides share
all of it but the transformer. On a CPU in bfloat16, diffusers' attention gets the kernel that is
faster there. A folder's samples are of full size (latents of two 1024 × 1024 pictures, T5's
features) in safetensors shards; what eats them is the plan of 12 B parameters on two H100 GPUs, an
estimate.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minikontext import KontextPipeline, flow, sampler, tokens
from minikontext.bench.report import write_json
from minikontext.denoiser import Denoiser
from minikontext.pretrained.config_mapping import transformer_to_json
from minikontext.pretrained.key_mapping import to_diffusers
from minikontext.text import ToyTextEncoder
from minikontext.toyworld import render
from minikontext.toyworld.samples import SAMPLES
from minikontext.training import models, parallel, plan, read_job
from minikontext.training.data import Pairs
from minikontext.training.editor import Batches, Editor, EditorLossConfig, editor_loss
from minikontext.training.folders import Ahead, Encoded, Order
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.optimizer import MuonAdamW, is_matrix
from minikontext.training.workload import workload
from minikontext.transformer import KontextTransformer, TransformerConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NAMES = ("img", "img_ids", "txt", "txt_ids", "timesteps", "pooled", "guidance")
Sides = dict[str, Callable[[], object]]

# ---- the same net twice


def nets(config: TransformerConfig, args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Our transformer and diffusers' with the same random weights."""
    ours = KontextTransformer(config).to(args.device)
    both = ours, diffusers_net(copy.deepcopy(ours))  # each trains its own weights
    return tuple(map(torch.compile, both)) if args.compile else both


def diffusers_net(ours: KontextTransformer) -> nn.Module:
    """diffusers' transformer with the weights of ours: the same memory, seen in its parts."""
    from diffusers import FluxTransformer2DModel

    config = transformer_to_json(ours.config)
    del config["_class_name"]
    with torch.device("meta"):
        theirs = FluxTransformer2DModel(**config).eval()
    theirs.load_state_dict(to_diffusers(ours.state_dict()), assign=True)
    theirs.pos_embed = type(theirs.pos_embed)(ours.config.theta, list(ours.config.axes_dim))
    return theirs


def call_theirs(net: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The same call in diffusers' words."""
    with _fast_attention(inputs["img"].device):
        return net(
            hidden_states=inputs["img"],
            encoder_hidden_states=inputs["txt"],
            pooled_projections=inputs["pooled"],
            timestep=inputs["timesteps"],
            img_ids=inputs["img_ids"],
            txt_ids=inputs["txt_ids"],
            guidance=inputs.get("guidance"),
            return_dict=False,
        )[0]


def _fast_attention(device: torch.device) -> AbstractContextManager:
    """Training in bfloat16 on a CPU, the fused kernel has a slow backward pass: be fair."""
    slow = device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


def edit_batch(config: TransformerConfig, args: argparse.Namespace) -> dict[str, Tensor]:
    """An edit with one context image as large as the target, under our argument names."""
    side, draw = args.grid, torch.Generator().manual_seed(0)
    image = torch.randn(args.batch, side * side, config.in_channels, generator=draw)
    ids = tokens.position_ids(side, side), tokens.context_ids([(side, side)])
    img, img_ids = tokens.join_context(image, ids[0], [image.flip(0)], ids[1])
    txt = torch.randn(args.batch, args.text, config.context_in_dim, generator=draw)
    times = torch.rand(args.batch, generator=draw)
    pooled = torch.randn(args.batch, config.vec_in_dim, generator=draw)
    values = (img, img_ids.float(), txt, torch.zeros(args.text, 3), times, pooled)
    return {name: tensor.to(args.device) for name, tensor in zip(NAMES, values)}


def random_pairs(text: ToyTextEncoder, count: int = 2000) -> Pairs:
    """Encoded pairs of one context each, of the toy's sizes; their numbers mean nothing."""
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(len(text.words), (count, 8, text.max_length), generator=draw)
    target, contexts = (torch.randn(count, *n, 16, 8, 8, generator=draw) for n in ((), (2,)))
    ones = torch.ones(count).long()
    return Pairs(target.bfloat16(), contexts.bfloat16(), ones, words, torch.arange(count))


# ---- what is timed: each gives its sides by name


def edit(args: argparse.Namespace) -> Sides:
    """One edit with the weights' own steps."""
    pipe, picture = KontextPipeline.from_pretrained(args.weights), render(SAMPLES["demo"])
    return {f"{pipe.name}, {pipe.defaults.num_inference_steps} steps": lambda: pipe(
        "make the hat red", image=picture, seed=0, progress=False)}  # fmt: skip


def few_steps(args: argparse.Namespace) -> Sides:
    """A batch of edits by teacher and students, and their sampling alone.

    An edit also encodes, decodes and writes down how it was made, which few steps do not shorten.
    """
    settings = {"toy, 28 steps, CFG 1.5": ("toy", 28, 1.5, None)}
    settings["toy-dev, 28 steps, w = 1.5"] = ("toy-dev", 28, 1.0, 1.5)
    settings |= {f"toy-pro, {n} steps": ("toy-pro", n, 1.0, None) for n in (4, 2, 1)}
    pipes = {
        name: KontextPipeline.from_pretrained(name, dtype=args.dtype)
        for name in ("toy", "toy-dev", "toy-pro")
    }
    picture, prompts = render(SAMPLES["demo"]), ["make the hat red"] * args.batch

    def whole(name: str, steps: int, cfg: float, w: float | None) -> object:
        scales = {"true_cfg_scale": cfg, "guidance_scale": w, "num_inference_steps": steps}
        images = [[picture]] * args.batch
        return pipes[name](prompts, image=images, seed=0, progress=False, **scales)

    def alone(name: str, steps: int, cfg: float, w: float | None) -> Callable[[], object]:
        pipe = pipes[name]
        context = pipe.encode([Image.fromarray(picture)] * args.batch)
        noise, times = torch.randn_like(context), sampler.schedule(steps, num_target_tokens=16)
        given, nothing = (
            Denoiser(pipe.transformer, pipe.text_encoder.encode(words).to(pipe.device, pipe.dtype),
                     [context], guidance_scale=w)
            for words in (prompts, [""] * args.batch)
        )  # fmt: skip
        return lambda: sampler.sample(sampler.guided(given, nothing, cfg), noise, times)

    sides = {label: partial(whole, *given) for label, given in settings.items()}
    return sides | {f"sampling: {label}": alone(*given) for label, given in settings.items()}


def sizes(args: argparse.Namespace) -> Sides:
    """One edit by size and steps; weights may know fewer sizes, here only the time counts."""
    pipe = KontextPipeline.from_pretrained(args.weights)

    def one(side: int, steps: int) -> object:
        shape = {"width": side, "height": side, "resize": "none"}
        return pipe("make the hat red", image=render(SAMPLES["demo"], side, side), seed=0,
                    num_inference_steps=steps, progress=False, **shape)  # fmt: skip

    return {f"{side} x {side}, {steps} steps": partial(one, side, steps)
            for side in (64, 96, 128) for steps in (1, 4, 28)}  # fmt: skip


def isolated(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One edit with joint attention and with contexts on their own (`runtime.isolated`), in turn.

    By size, context pictures and steps; the same weights run both, for only the time counts.
    """
    joint = KontextPipeline.from_pretrained(args.weights)
    alone = KontextPipeline.from_pretrained(args.weights)
    alone.defaults = replace(alone.defaults, isolated=True)
    rows: dict[str, dict[str, float]] = {}
    for side, pictures, steps in product((64, 128), (1, 3), (1, 4, 28)):
        picture = render(SAMPLES["demo"], side, side)
        call = {"image": [picture] * pictures, "width": side, "height": side, "seed": 0,
                "num_inference_steps": steps, "progress": False}  # fmt: skip
        label = f"{side} x {side}, {pictures} pictures, {steps} steps"
        pipes = {"joint": joint, "isolated": alone}
        rows |= in_turn({f"{label}, {name}": partial(pipe, "make the hat red", **call)
                         for name, pipe in pipes.items()}, args)  # fmt: skip
    return rows


def sampling(args: argparse.Namespace) -> Sides:
    """Every step of the loop: `sampler.sample`, and FluxKontextPipeline's with its scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    config, n = TransformerConfig.toy(), args.grid**2
    ours, theirs = nets(config, args)
    inputs = edit_batch(config, args)
    target, context = inputs["img"][:, :n], inputs["img"][:, n:]
    times = sampler.schedule(args.steps, num_target_tokens=n)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)

    def given(z: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {**inputs, "img": torch.cat((z, context), dim=1), "timesteps": t}

    def run_ours() -> Tensor:
        predict = lambda z, t: tokens.cut_target(ours(**given(z, t)), n)  # noqa: E731
        with _autocast(args):
            return sampler.sample(predict, target, times)

    @torch.no_grad()
    def run_theirs() -> Tensor:
        sigmas = torch.linspace(1, 1 / args.steps, args.steps).tolist()
        scheduler.set_timesteps(sigmas=sigmas, mu=0.5, device=target.device)
        z = target
        with _autocast(args):
            for t in scheduler.timesteps:
                v = call_theirs(theirs, given(z, t.expand(len(z)) / 1000))[:, :n]
                z = scheduler.step(v, t, z, return_dict=False)[0]
        return z

    return {"minikontext": run_ours, "diffusers": run_theirs}


def _autocast(args: argparse.Namespace) -> AbstractContextManager:
    return torch.autocast(args.device, DTYPES[args.dtype], enabled=args.dtype != "float32")


def training_step(args: argparse.Namespace) -> Sides:
    """Forward, backward and AdamW; with --recipe a whole step of configs/toy.toml."""
    if args.recipe:
        sides = {"minikontext": recipe(args), "diffusers": recipe(args, theirs=True)}
        if args.compile:
            sides["minikontext compiled"] = recipe(args, compiled=True)
            sides["diffusers compiled"] = recipe(args, theirs=True, compiled=True)
        return sides
    config = TransformerConfig.toy()
    ours, theirs = nets(config, args)
    inputs = edit_batch(config, args)
    return {
        "minikontext": _step(ours, lambda: ours(**inputs), args),
        "diffusers": _step(theirs, lambda: call_theirs(theirs, inputs), args),
    }


def _step(net: nn.Module, call: Callable[[], Tensor], args: argparse.Namespace) -> Callable:
    """Trains `net` by one step on the target half of the sequence."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        with _autocast(args):
            velocity = call()[:, : args.grid**2]
        loss = flow.loss(velocity, torch.zeros_like(velocity), torch.ones_like(velocity))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


class Theirs(nn.Module):
    """diffusers' transformer, called as ours is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Tensor) -> Tensor:
        """The velocity of all image tokens."""
        return call_theirs(self.net, dict(zip(NAMES, given)))

    def rotations(self, *ids: Tensor) -> None:
        """None are known: it computes its own in every pass."""


def is_their_matrix(name: str, parameter: Tensor) -> bool:
    """`optimizer.is_matrix` for diffusers' names: the same weights get Muon."""
    _, within, inner = name.partition("transformer.net.")
    if not within:  # the text encoder is ours
        return is_matrix(name, parameter)
    return parameter.ndim >= 2 and "blocks." in inner and "norm" not in inner


def recipe(args: argparse.Namespace, theirs: bool = False, compiled: bool = False) -> Callable:
    """Does the next step of the toy's recipe."""
    job, device = read_job(CONFIGS / "toy.toml"), torch.device(args.device)
    model, bf16 = models.new_editor(job.transformer, job.text, job.seed), args.dtype == "bfloat16"
    flags = parallel.ParallelConfig(compile=compiled and not theirs)
    parallel.prepare(
        model, parallel.DistContext(device, config=flags), bf16, models.first_weights(job.seed)
    )
    how = job.loop
    if theirs:
        net = diffusers_net(copy.deepcopy(model.transformer)).train()
        for block in (*net.transformer_blocks, *net.single_transformer_blocks) * compiled:
            block.forward = torch.compile(block.forward)
        model = Editor(Theirs(net), model.text)
    pairs, null = random_pairs(model.text), model.text.tokenize([""])[0]
    loss = editor_loss(model, pairs, null, EditorLossConfig(args.batch, bf16=bf16), device)
    loop = Loop(model, how, tempfile.mkdtemp())
    if theirs:
        loop.optimizer = MuonAdamW(model, how.lr, how.muon_lr, matrix=is_their_matrix)
    return partial(loop._one, loss)


def attention(args: argparse.Namespace) -> Sides:
    """Forward and backward at the toy's size: why `layers.attend` does not always take a kernel."""
    shape = args.batch, 52, 4, 48  # the toy's tokens and heads, as the blocks hand them over
    given = [torch.randn(shape, dtype=DTYPES[args.dtype]).transpose(1, 2) for _ in range(3)]

    def kernel(backend: SDPBackend) -> Callable[..., Tensor]:
        def run(*qkv: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*qkv)

        return run

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1) @ v

    def passes(attend: Callable[..., Tensor]) -> None:
        attend(*(x.detach().requires_grad_() for x in given)).sum().backward()

    ways = {"fused": kernel(SDPBackend.FLASH_ATTENTION), "plain": kernel(SDPBackend.MATH),
            "formula": formula}  # fmt: skip
    return {name: partial(passes, way) for name, way in ways.items()}


# ---- rates and imports, which have a clock of their own


def data(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Samples a second: the data alone, and the training that eats them."""
    job = read_job(CONFIGS / "toy.toml")
    model = models.new_editor(job.transformer, job.text, job.seed)
    model.transformer.to_empty(device="cpu").init_weights(torch.Generator().manual_seed(0))
    draw, pairs = torch.Generator().manual_seed(0), random_pairs(model.text)
    batches, loop = Batches(pairs, args.batch, 0), LoopConfig(steps=1)
    how = EditorLossConfig(args.batch, bf16=False)
    loss = editor_loss(model, pairs, pairs.tokens[0, 0], how, torch.device("cpu"))
    optimizer = MuonAdamW(model, loop.lr, loop.muon_lr)

    def step(number: int) -> None:
        loss(number)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1.0)

    asked = workload(read_job(CONFIGS / "flux_dev_finetune.toml"))
    eats = asked.batch / plan.make(asked, plan.Machine(gpus=2)).seconds
    rows = {
        "toy": (_rate(lambda s: batches.inputs(s, draw), args.batch, args.seconds),
                _rate(step, args.batch, args.seconds)),
        "folder": (_folder_rate(args.seconds), eats),
    }  # fmt: skip
    return {name: {"data": a, "training": b, "ratio": a / b} for name, (a, b) in rows.items()}


def _rate(run: Callable[[int], object], samples: int, seconds: float) -> float:
    """Samples a second of run(step), after one step to warm up."""
    run(0)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        steps += 1
        run(steps)
    return steps * samples / (time.perf_counter() - start)


def _folder_rate(seconds: float, workers: int = 2) -> float:
    with tempfile.TemporaryDirectory() as place:
        samples = _full_size(Path(place))
        order = Order(samples, batch=4, seed=0)

        def batch(step: int) -> dict[str, Tensor]:
            each = [samples.sample(row) for row in order.rows(step)]
            return {name: torch.stack([one[name] for one in each]) for name in each[0]}

        return _rate(Ahead(batch, workers), 4, seconds)


def _full_size(place: Path, shards: int = 4, each: int = 16) -> Encoded:
    """A cache as `encode_folder` writes it, of random numbers."""
    shapes = {"0": (16, 128, 128), "1": (16, 128, 128), "tokens": (512, 4096), "pooled": (768,)}
    for number in range(shards):
        keys = [f"{number}-{i}" for i in range(each)]
        path = place / f"triplets-{number:06d}.safetensors"
        save_file(
            {f"{k}//{n}": torch.randn(s).bfloat16() for k in keys for n, s in shapes.items()}, path
        )
        told = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "skipped": []}
        given = [shapes["0"], shapes["1"]]
        told["samples"] = [{"key": k, "prompt": k, "shapes": given} for k in keys]
        path.with_suffix(".json").write_text(json.dumps(told))
    return Encoded(place)


def imports(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Processor time of importing in fresh interpreters, which other work changes least."""
    code = {"torch": "import torch", "minikontext": "import torch, minikontext",
            "KontextPipeline": "import minikontext as mk; mk.KontextPipeline"}  # fmt: skip
    return fresh(code, args.rounds)


def start(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Processor time of a bare Python, of importing the package alone, and of the first answer."""
    help_ = "import sys, minikontext.cli as cli; sys.argv[1:] = ['--help']; cli.main()"
    code = {"python": "", "import minikontext": "import minikontext", "--help": help_}
    return fresh(code, args.rounds)


def fresh(code: dict[str, str], rounds: int) -> dict[str, dict[str, float]]:
    """The least processor time of each in interpreters of its own, and beyond the first."""

    def used(code: str) -> float:
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    times = [{name: used(text) for name, text in code.items()} for _ in range(rounds + 1)][1:]
    rows = {name: min(one[name] for one in times) for name in code}
    first = rows[next(iter(rows))]
    return {name: {"seconds": t, "more": t - first} for name, t in rows.items()}


# ---- turns


def in_turn(sides: Sides, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of all sides, and ratios of the first to the others; two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    clock = CLOCKS[args.clock]
    for round_ in range(args.rounds + 2):
        for name, run in [*sides.items()][:: (-1) ** round_]:
            start = clock()
            run()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            times[name].append(1000 * (clock() - start))
    times = {name: values[2:] for name, values in times.items()}
    first = next(iter(times))
    alone = next((name for name in times if name.startswith("sampling: ")), first)
    ratios = {
        f"{base} / {name}": [a / b for a, b in zip(times[base], times[name])]
        for name in times
        if name not in (first, alone)
        for base in [alone if name.startswith("sampling: ") else first]
    }
    return {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v)}
        for name, v in (times | ratios).items()
    }


TIMED = {f.__name__: f for f in (edit, few_steps, sizes, sampling, training_step, attention)}
OWN = {f.__name__: f for f in (isolated, data, imports, start)}  # these say what they return
BATCH = {"training_step": 96, "attention": 96, "data": 96, "few_steps": 16}


def options() -> argparse.ArgumentParser:
    """What can be asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*TIMED, *OWN])
    parser.add_argument("--weights", default="toy")
    parser.add_argument("--batch", type=int, help="samples at a time")
    parser.add_argument("--grid", type=int, default=4, help="tokens along a side of one image")
    parser.add_argument("--text", type=int, default=16, help="text tokens")
    parser.add_argument("--steps", type=int, default=28, help="of sampling")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of autocast")
    parser.add_argument("--recipe", action="store_true", help="a whole step of configs/toy.toml")
    parser.add_argument("--compile", action="store_true", help="both nets with torch.compile")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return parser


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Measure, print a table, write JSON if asked to."""
    args = options().parse_args(arguments)
    args.batch = args.batch or BATCH.get(args.what, 1)
    torch.set_num_threads(args.threads)
    own = OWN.get(args.what)
    found = own(args) if own else in_turn(TIMED[args.what](args), args)
    unit = ", milliseconds and ratios" if args.what in (*TIMED, "isolated") else ""
    print(f"{args.what}: batch {args.batch}, {args.dtype}, {args.device}, {args.threads} "
          f"thread(s), {args.clock} clock{unit}")  # fmt: skip
    for name, row in found.items():
        print(f"{name:44}" + "".join(f"  {key} {value:.4g}" for key, value in row.items()))
    if args.json:
        setting = {k: str(v) for k, v in vars(args).items() if k != "json"}
        setting |= {"torch": torch.__version__, "machine": platform.machine()}
        write_json({"what": args.what, "setting": setting, "results": found}, args.json)
    return found


if __name__ == "__main__":
    main()
