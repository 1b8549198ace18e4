"""One training step of the toy editor, ours against diffusers' transformer in our place.

python benchmarks/training_step.py --threads 2                      # forward, backward, AdamW
python benchmarks/training_step.py --threads 2 --recipe             # the recipe of configs/toy.toml
python benchmarks/training_step.py --threads 2 --recipe --compile   # its blocks compiled as well

The recipe is a whole step of `Loop`: drawing the batch, text encoder, transformer, backward pass,
clipping, Muon and AdamW, moving average. Both sides share all of it but the transformer. On a CPU
in bfloat16, diffusers' attention gets the kernel that is faster there (benchmarks/attention.py).
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from versus import DTYPES, batch, call_theirs, compare, diffusers_net, nets, parser, random_pairs

from minikontext import flow
from minikontext.training import models, parallel, read_job
from minikontext.training.editor import Editor, EditorLossConfig, editor_loss
from minikontext.training.loop import Loop
from minikontext.training.optimizer import MuonAdamW, is_matrix
from minikontext.transformer import TransformerConfig

TOY = Path(__file__).resolve().parents[1] / "configs" / "toy.toml"
NAMES = ("img", "img_ids", "txt", "txt_ids", "timesteps", "pooled", "guidance")


def step(net: nn.Module, call: Callable[[], Tensor], args: argparse.Namespace) -> Callable:
    """A closure that trains `net` by one step on the target half of the sequence."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    n = args.grid**2
    dtype = DTYPES[args.dtype]

    def run() -> None:
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            velocity = call()[:, :n]
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
    """A closure that does the next step of the toy's recipe."""
    job, device = read_job(TOY), torch.device(args.device)
    model, bf16 = models.new_editor(job.transformer, job.text, job.seed), args.dtype == "bfloat16"
    flags = parallel.ParallelConfig(compile=compiled and not theirs)
    world = parallel.DistContext(device, config=flags)
    parallel.prepare(model, world, bf16, models.first_weights(job.seed))
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


def main() -> None:
    options = parser(__doc__, batch=96)
    options.add_argument("--recipe", action="store_true", help="a whole step of configs/toy.toml")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    if args.recipe:
        sides = {"minikontext": recipe(args), "diffusers": recipe(args, theirs=True)}
        if args.compile:
            sides["minikontext compiled"] = recipe(args, compiled=True)
            sides["diffusers compiled"] = recipe(args, theirs=True, compiled=True)
        return compare(sides, args, "one step of the recipe")
    config = TransformerConfig.toy()
    ours, theirs = nets(config, args)
    inputs = batch(config, args)
    sides = {
        "minikontext": step(ours, lambda: ours(**inputs), args),
        "diffusers": step(theirs, lambda: call_theirs(theirs, inputs), args),
    }
    return compare(sides, args, "one training step")


if __name__ == "__main__":
    main()
