"""The plan's arithmetic against the real thing: counted, and measured on the CPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minikontext import training
from minikontext.cli import app
from minikontext.errors import ConfigError
from minikontext.pretrained import lora
from minikontext.runtime.memory_plan import PeakMemory
from minikontext.training import models, plan
from minikontext.training.loop import LoopConfig
from minikontext.training.optimizer import MuonAdamW, is_matrix
from minikontext.training.parallel import LEVELS, DistContext, ParallelConfig, prepare
from minikontext.training.workload import workload
from minikontext.transformer import KontextTransformer, TransformerConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = TransformerConfig(16, 16, 12, 16, 64, 4.0, 2, 2, 3, (8, 12, 12), 10_000, True, False)
B, N, M = 2, 240, 60  # samples, image tokens, text tokens


def config(name):
    return training.read_job(CONFIGS / f"{name}.toml")


@pytest.mark.parametrize("sizes", [SIZES, TransformerConfig.toy(), TransformerConfig.flux_dev()])
def test_parameters_are_counted_right(sizes):
    with torch.device("meta"):
        model = KontextTransformer(sizes)
    counted, named = plan.parameters(sizes), dict(model.named_parameters())
    assert counted.total == sum(p.numel() for p in named.values())
    assert counted.matrices == sum(p.numel() for n, p in named.items() if is_matrix(n, p))
    blocks = [
        sum(p.numel() for p in b.parameters())
        for b in (model.double_blocks[0], model.single_blocks[0])
    ]
    assert counted.largest_block == max(blocks)
    if sizes == TransformerConfig.flux_dev():
        assert counted.total == 11_901_408_320


def inputs(device="cpu"):
    shapes = (B, N, 16), (N, 3), (B, M, 16), (M, 3), (B,), (B, 12)
    return [torch.randn(*shape, device=device) for shape in shapes]


def ready(level):
    flags = ParallelConfig(checkpointing=level)
    model = KontextTransformer(SIZES).init_weights()
    return prepare(model, DistContext(torch.device("cpu"), config=flags))


@pytest.mark.parametrize("level", LEVELS)
def test_activations_are_as_large_as_foreseen(level):
    model, given = ready(level), inputs()
    with PeakMemory() as memory:
        v = model(*given)
        kept = memory.alive
    foreseen = plan.activations(SIZES, B * (N + M), level, bf16=False)
    ends = 4 * B * (4 * N + M) * 64  # inputs and outputs of the blocks, the last layer
    assert kept == pytest.approx(foreseen + ends, rel=0.06)
    assert v.requires_grad


@pytest.mark.parametrize("level", LEVELS)
def test_the_peak_of_a_step_is_foreseen(level):
    """Everything that a step makes: activations, gradients, the optimiser's numbers."""
    model, given = ready(level), inputs()
    optimizer = MuonAdamW(model, 1e-3, 1e-3)
    job = plan.Workload(
        SIZES, LoopConfig(1), ParallelConfig(checkpointing=level), B, N, 0, M, bf16=False
    )
    held = plan.memory(job, 1)
    with PeakMemory() as memory:
        model(*given).square().mean().backward()
        passes = memory.peak
        optimizer.step(1.0)
    foreseen = held["peak"] - held["weights"] - held["moving average"] - held["optimiser"]
    assert 0.75 * foreseen < passes < 1.1 * foreseen  # not all of a block lives at once
    states = sum(x.nbytes for x in optimizer.tensors().values())
    assert states == pytest.approx(held["optimiser"], rel=0.01)


def test_the_forward_pass_has_the_published_products():
    sizes = TransformerConfig.flux_dev()
    tera = [plan.forward_flops(sizes, n * 4096, 512) / 1e12 for n in (1, 2, 3)]
    assert tera == pytest.approx([74, 165.5, 280], rel=0.01)


def test_twelve_billion_need_two_gpus_and_small_needs_one():
    full, small = (workload(config(name)) for name in ("flux_dev_finetune", "small"))
    assert 2.5e8 < plan.parameters(small.sizes).total < 3.5e8
    assert plan.make(small, plan.Machine(gpus=1)).fits
    assert not plan.make(full, plan.Machine(gpus=1)).fits
    assert plan.make(full, plan.Machine(gpus=2)).fits
    kept = replace(full, loop=replace(full.loop, ema=0.999))
    assert not plan.make(kept, plan.Machine(gpus=2)).fits
    assert plan.make(
        replace(kept, loop=replace(kept.loop, accumulate=2)), plan.Machine(gpus=8)
    ).fits
    with pytest.raises(ConfigError, match="must divide"):
        plan.make(full, plan.Machine(gpus=3))


@pytest.mark.parametrize("name", ["small", "flux_dev_finetune"])
def test_recipes_accept_the_large_configs(name):
    """A whole step on the meta device, which has shapes and no numbers."""
    told = config(name)
    model, job, loop = models.new_transformer(told.transformer), workload(told), told.loop
    assert sum(p.numel() for p in model.parameters()) == plan.parameters(job.sizes).total
    optimizer = MuonAdamW(model, loop.lr, loop.muon_lr, half=loop.half_momentum)
    c, n = job.sizes, job.target + job.contexts
    shapes = (1, n, c.in_channels), (n, 3), (1, job.text, c.context_in_dim), (job.text, 3)
    rest = (1,), (1, c.vec_in_dim), *[(1,)] * c.guidance_embed
    given = [torch.empty(shape, device="meta") for shape in (*shapes, *rest)]
    world = DistContext(torch.device("meta"), config=ParallelConfig(checkpointing="full"))
    model = prepare(model, world)
    model(*given).mean().backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())
    assert set(optimizer.names) == {n for n, _ in model.named_parameters()}


def test_the_command_prints_a_plan_and_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", str(CONFIGS / "flux_dev_finetune.toml"), "--plan", "--gpus"]
    assert app.main([*command, "2"]) == 0
    told = capsys.readouterr().out
    assert "11,901,408,320 parameters on 2 GPU(s)" in told and "it fits" in told
    assert app.main([*command, "2", "--memory", "40"]) == 0
    assert "IT DOES NOT FIT" in capsys.readouterr().out
    assert app.main(["train", str(CONFIGS / "toy_autoencoder.toml"), "--plan"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "gpus"), [("toy", 8), ("small", 8), ("flux_dev_finetune", 2), ("flux_dev_lora", 1)]
)
def test_every_config_can_be_planned_without_saying_on_what(name, gpus, capsys):
    assert app.main(["train", str(CONFIGS / f"{name}.toml"), "--plan"]) == 0
    assert f"on {gpus} GPU(s)" in capsys.readouterr().out


def test_the_most_gpus_divide_the_batch_and_hold_whole_copies():
    job = workload(config("small"))
    job = replace(job, loop=replace(job.loop, accumulate=1))
    batch, flags = (replace(job, batch=n) for n in (12, 7)), replace(job.parallel, replicate=3)
    assert [plan.most_gpus(one) for one in batch] == [6, 7]
    assert plan.most_gpus(replace(job, batch=12, parallel=flags)) == 6
    assert plan.most_gpus(replace(job, batch=20, parallel=replace(flags, replicate=10))) == 10


def test_the_clock_ends_a_planned_run():
    job, machine = workload(config("small")), plan.Machine(gpus=1)
    whole = plan.make(job, machine)
    short = plan.make(replace(job, loop=replace(job.loop, minutes=30)), machine)
    assert short.hours == 0.5 < whole.hours and whole.steps == job.loop.steps
    assert short.steps == round(1800 / short.seconds) and f" {short.steps:,} steps" in str(short)
    endless = plan.make(replace(job, loop=replace(job.loop, minutes=1e9)), machine)
    assert endless.hours == whole.hours


def test_a_lora_of_the_full_model_fits_one_gpu_if_blocks_are_made_again(capsys):
    command = ["train", str(CONFIGS / "flux_dev_lora.toml"), "--plan", "--gpus", "1", "--memory"]
    assert app.main([*command, "24"]) == 0
    told = capsys.readouterr().out
    assert "beside 11,901,408,320 on 1 GPU(s)" in told and "it fits" in told
    job = workload(config("flux_dev_lora"))
    with torch.device("meta"):
        counted = lora.new(KontextTransformer(job.sizes), rank=16)
    assert job.learning == sum(p.numel() for p in counted.parameters())
    kept = replace(job, parallel=replace(job.parallel, checkpointing="none"))
    assert not plan.make(kept, plan.Machine(gpus=1, memory=80)).fits
    assert app.main([*command[:-2], "2", "--memory", "80"]) == 2


def test_without_an_average_and_with_half_a_momentum(tmp_path):
    """What makes room for 12 B; a run goes on without an average and with its momentum."""
    from minikontext.training.loop import Loop

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    dials = LoopConfig(4, ema=0.0, half_momentum=True, warmup=1)
    for until in (2, 4):
        loop = Loop(model, replace(dials, steps=until), tmp_path)
        assert loop.resume() == (until == 4)
        loop.run(lambda step: ((model(torch.eye(4)) - 1).square().mean(), {}))
    assert loop.step == 4 and not loop.ema
    momentum = loop.optimizer.tensors()["momentum_buffer.weight"]
    assert momentum.dtype == torch.bfloat16 and momentum.abs().max() > 0
