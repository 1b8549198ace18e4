"""What test_parallel.py starts: tiny trainings whose losses every process notes. By hand:

python -m torch.distributed.run --nproc-per-node 2 tests/training/processes.py FOLDER
"""

import copy
import json
import os
import resource
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import build_tiny_pipeline

from minikontext.distillation.guidance import GuidanceLossConfig, guidance_loss, student_of
from minikontext.distillation.ladd import Discriminator, Ladd, LaddLossConfig, ladd_loss
from minikontext.distillation.rollout import RolloutLossConfig, rollout_loss
from minikontext.errors import OutputError
from minikontext.training import jobs, models, parallel
from minikontext.training.data import Pairs
from minikontext.training.editor import Batches, Editor, EditorLossConfig, editor_loss
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.models import averaged, gathered, load_autoencoder
from minikontext.training.tries import held_out_check

STEPS = 20  # checkpoints of 10 and 15 are gone on from
UNTIL = {"flow": STEPS, "guidance": 8, "ladd": 12, "rollout": 8}  # of ladd, past its phases
TOY = Path(__file__).parents[2] / "data" / "weights" / "toy"


class Noted(Loop):
    """The loop, with the loss and the gradient's norm of every step unrounded."""

    def _one(self, loss):
        metrics = super()._one(loss)
        self.noted = [*getattr(self, "noted", []), (metrics["loss"], metrics["norm"])]
        return metrics


def teacher():
    pipe = build_tiny_pipeline()
    return Editor(pipe.transformer, pipe.text_encoder).eval()


def pairs(model):
    """Twelve random pairs, four of each number of contexts; every second one has one answer."""
    draw = torch.Generator().manual_seed(3)
    words = model.text.tokenize(["make the hat red", "a sign"] * 6)[:, None]
    target = torch.randn(12, 4, 8, 8, generator=draw)
    contexts = torch.randn(12, 2, 4, 8, 8, generator=draw)
    rows = torch.arange(12)
    return Pairs(target, contexts, rows // 4, words, rows, rows % 2 == 0)


def parts(kind, world, bf16=False):
    """Model and loss of one of the four trainings, sharded if the world is large."""
    model = teacher()
    data, null = pairs(model), model.text.tokenize([""])[0]
    how, batches = {"batch": 8, "bf16": bf16}, Batches(data, 8, 0)
    if kind == "flow":
        parallel.prepare(model, world, bf16)
        return model, editor_loss(model, data, null, EditorLossConfig(**how), world.device)
    if kind == "rollout":
        parallel.prepare(model, world, bf16)
        return model, rollout_loss(model, batches, RolloutLossConfig(bf16=bf16), world.device)
    frozen = copy.deepcopy(model).requires_grad_(False)
    torch.manual_seed(0)
    model = student_of(model) if kind == "guidance" else Ladd(model, Discriminator(model))
    for net in (model, frozen):
        parallel.prepare(net, world, bf16)
    if kind == "guidance":
        dials = GuidanceLossConfig(bf16=bf16)
        edits = data.take((data.count > 0).nonzero().flatten())
        batches = Batches(edits, 8, 0)
        return model, guidance_loss(model, frozen, batches, null, dials, world.device)
    dials = LaddLossConfig(bf16=bf16, head_start=4, switch=8)
    return model, ladd_loss(model, frozen, batches, dials, world.device)


def train(kind, world, folder, until=None, bf16=False, **dials):
    """The losses of a run up to a step; it goes on where the folder's last run ended."""
    model, loss = parts(kind, world, bf16)
    config = LoopConfig(steps=until or UNTIL[kind], warmup=2, decay=0.0, **dials)
    loop = Noted(model, config, folder, world)
    loop.resume()
    loop.run(loss)
    return loop.noted, averaged(loop, model)


def case(kind, folder, until=None, bf16=False, **dials):
    """A training in this process and its neighbours; the flags of [parallel] go by their names."""
    flags = {k: dials.pop(k) for k in ("checkpointing", "replicate", "background") if k in dials}
    world = parallel.start("cpu", parallel.ParallelConfig(**flags))
    return *train(kind, world, folder, until, bf16, **dials), world


def full_disk(world, folder):
    """What a save says when no file can grow any more, and the step that is there afterwards."""
    model, _ = parts("flow", world)
    loop, said = Loop(model, LoopConfig(steps=2), folder, world), []
    loop.save()
    loop.store.finish()
    loop.step = 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        loop.save()
        loop.store.finish()
    except OutputError as error:
        said.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return said, int(loop.store.newest()[1]["step"])


def tried(world, folder):
    """Validation with edits of a net that is sharded and gathered in bfloat16."""
    data = {"level": 4, "count": 1, "validation": 2, "tries": 2}
    config = {"kind": "editor", "data": data, "run": str(folder), "output": str(folder)}
    job = jobs.build_job(
        config | {"autoencoder": str(TOY), "loop": {"steps": 1, "validate_every": 1}}
    )
    folder.mkdir(exist_ok=True)
    model = models.new_editor(job.transformer, job.text, start=str(TOY)).float()
    model = parallel.prepare(model, world, bf16=True)
    autoencoder = load_autoencoder(TOY, world.device)
    return held_out_check(model, autoencoder, job.data, folder, True, world)(1)


def main(folder):
    """Every case that needs many processes, in two launches: of four, then of two."""
    found = {}
    size = parallel.start("cpu").size
    if size == 4:
        four = {"replicate": 2, "checkpointing": "full", "save_every": 10}
        found["flow"], *_ = case("flow", folder / "moved", **four)
        found["guidance"], *_ = case("guidance", folder / "guidance4", checkpointing="selective")
        found["ladd"], *_ = case("ladd", folder / "ladd4", muon_lr=0.0, replicate=2)
        found["rollout"], *_ = case("rollout", folder / "rollout4", checkpointing="full")
    else:
        two = {"checkpointing": "selective", "accumulate": 2}
        found["flow"], *_ = case("flow", folder / "flow", **two)
        found["guidance"], *_ = case("guidance", folder / "guidance", checkpointing="full")
        found["ladd"], *_ = case("ladd", folder / "ladd", muon_lr=0.0, checkpointing="selective")
        found["rollout"], *_ = case("rollout", folder / "rollout")
        found["moved"], model, world = case("flow", folder / "moved", 15, background=False)
        if one := gathered(model, world):
            save_file(one.state_dict(), folder / "gathered.safetensors")
        found["full"] = full_disk(world, folder / "full")
        behind = parallel.start("cpu", parallel.ParallelConfig(background=True))
        found["full behind"] = full_disk(behind, folder / "behind")
        os.environ["MINIKONTEXT_DTYPE"] = "bfloat16"  # emulated here
        found["bf16"], *_ = case("flow", folder / "bf16", 3, bf16=True)
        found["tried"] = tried(world, folder / "tried")
    if torch.distributed.get_rank() == 0:
        (folder / f"{size}.json").write_text(json.dumps(found))
    parallel.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
