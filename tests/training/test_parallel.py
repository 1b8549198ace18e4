"""Many processes do what one does: real ones, two and four, over gloo on the CPU."""

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minikontext.errors import ConfigError, TrainingError
from minikontext.training import parallel
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.store import DamageWarning
from minikontext.transformer import KontextTransformer, TransformerConfig, init_module

sys.path.insert(0, str(Path(__file__).parents[1]))
from children import programs

PROGRAM = Path(__file__).with_name("processes.py")
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo"
)


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("processes", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(count, folder):
    """The cases of `count` processes: the loss and the gradient's norm at each step."""
    # Float32: else Muon rounds to bfloat16 where the hardware has it.
    started = programs(count, PROGRAM, folder, MINIKONTEXT_DTYPE="float32")
    for one in started:
        said = one.communicate(timeout=3600)[1]
        assert one.returncode == 0, said[-4000:]
    return json.loads((folder / f"{count}.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Four processes, then two that go on with the first half of what the four did."""
    folder = tmp_path_factory.mktemp("processes")
    four = launch(4, folder)
    last = folder / "moved" / "checkpoints" / "step-00000020"
    shards = sorted(last.glob("*.safetensors"))
    assert len(shards) == 4
    shards[2].write_bytes(shards[2].read_bytes()[:-5])  # damaged: the one before is taken
    shutil.copytree(folder / "moved", folder / "damaged")
    return folder, four, launch(2, folder)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("MINIKONTEXT_DTYPE", "float32")


@pytest.fixture(scope="module")
def alone(program, tmp_path_factory):
    """The losses of one process, without a process group."""

    def run(kind, until=None, **dials):
        return program.train(kind, parallel.ALONE, tmp_path_factory.mktemp(kind), until, **dials)[0]

    return run


def apart(some, others):
    """The largest difference between the losses of two runs."""
    return max(abs(a[0] - b[0]) for a, b in zip(some, others, strict=True))


def test_two_and_four_processes_have_the_losses_of_one(found, alone):
    _, four, two = found
    flow = alone("flow")
    assert apart(four["flow"], flow) < 1e-5 and apart(two["flow"], flow) < 1e-5
    guidance, ladd, rollout = alone("guidance"), alone("ladd", muon_lr=0.0), alone("rollout")
    for many in (two, four):
        assert apart(many["guidance"], guidance) < 1e-5
        assert apart(many["ladd"], ladd) < 1e-5
        assert apart(many["rollout"], rollout) < 1e-5
    assert apart(flow[:10], flow[10:]) > 1e-2  # a run that learns nothing agrees with itself


def test_a_run_goes_on_with_fewer_processes(found, program, tmp_path):
    folder, four, two = found
    assert len(two["moved"]) == 5  # 4 -> 2, from step 10: step 20 is damaged
    assert apart(two["moved"], four["flow"][10:15]) < 1e-6
    place = shutil.copytree(folder / "moved", tmp_path / "moved")
    one, _ = program.train("flow", parallel.ALONE, place)  # 2 -> 1
    assert apart(one, four["flow"][15:]) < 1e-6
    assert (place / "checkpoint.safetensors").exists()
    assert [one.name for one in (place / "checkpoints").iterdir()] == ["step-00000015"]


def test_whole_weights_are_gathered_for_export(found, program, tmp_path):
    folder, _, _ = found
    place = shutil.copytree(folder / "moved", tmp_path / "moved")
    model, _ = program.parts("flow", parallel.ALONE)
    loop = Loop(model, LoopConfig(steps=15), place)
    assert loop.resume() and loop.step == 15
    gathered = load_file(folder / "gathered.safetensors")
    for name, value in loop.ema.items():
        assert torch.equal(value, gathered[name]), name


def test_gathering_in_bfloat16_rounds_as_one_process_does(found, alone, monkeypatch):
    _, four, two = found
    monkeypatch.setenv("MINIKONTEXT_DTYPE", "bfloat16")
    one = alone("flow", 3, bf16=True)
    assert apart(two["bf16"], one) < 1e-2  # the stated tolerance, at losses of 3 to 4
    assert 0 < apart(one, four["flow"][:3]) < 5e-2  # and bfloat16 against float32


def test_no_damaged_store_is_loaded(found, program):
    folder, _, _ = found
    model, _ = program.parts("flow", parallel.ALONE)
    loop = Loop(model, LoopConfig(steps=20), folder / "damaged")
    assert loop.resume() and loop.step == 10
    for file in (folder / "damaged" / "checkpoints" / "step-00000010").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(TrainingError, match="damaged"):
        Loop(model, LoopConfig(steps=20), folder / "damaged").resume()


def swapped(last, before):
    one, two = sorted(last.glob("*.safetensors"))[:2]
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def mixed(last, before):
    one, other = (sorted(place.glob("*.safetensors"))[0] for place in (last, before))
    shutil.copy(other, one)


def one_more(last, before):
    shutil.copy(sorted(before.glob("*.safetensors"))[0], last / "shard-9.safetensors")


def facts_of_a_pipe(last, before):
    os.mkfifo(last.parent / "pipe")
    stored = json.loads((last / "facts.json").read_text())
    stored.pop("sha256")
    stored["files"]["../pipe"], stored["sums"]["../pipe"] = 0, "x"
    digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    (last / "facts.json").write_text(json.dumps(stored | {"sha256": digest}))


@pytest.mark.parametrize("damage", [swapped, mixed, one_more, facts_of_a_pipe])
def test_shards_of_another_process_or_step_are_passed_over_and_told(
    found, program, tmp_path, damage
):
    place = shutil.copytree(found[0] / "moved", tmp_path / "moved")
    before, last = sorted((place / "checkpoints").glob("step-*"))
    damage(last, before)
    model, _ = program.parts("flow", parallel.ALONE)
    loop = Loop(model, LoopConfig(steps=20), place)
    with pytest.warns(DamageWarning, match="step-00000015: damaged"):
        assert loop.resume()
    assert loop.step == 10


def test_edits_are_tried_with_sharded_weights_in_bfloat16(found):
    told = found[2]["tried"]
    assert told["validation"] < 1


@pytest.mark.parametrize("how", ["full", "full behind"])
def test_a_full_disk_leaves_the_checkpoint_before(found, how):
    said, step = found[2][how]
    assert "Make room" in said[0] and step == 0


def test_a_store_holds_no_pickle(found):
    folder, _, _ = found
    names = {file.suffix for file in folder.rglob("checkpoints/*/*")}
    assert names == {".safetensors", ".json"}


def test_parts_make_up_the_batch():
    x = torch.arange(8)
    worlds = [parallel.DistContext(torch.device("cpu"), rank, 2) for rank in range(2)]
    assert torch.cat([p.of(x) for w in worlds for p in w.microbatches(2)]).tolist() == x.tolist()
    with pytest.raises(ConfigError, match="equal microbatches"):
        parallel.Microbatch(0, 3).of(x)


def test_weights_made_block_by_block_are_those_made_at_once(program):
    sizes = TransformerConfig(16, 16, 12, 16, 32, 2.0, 2, 1, 1, (4, 6, 6), 10_000, True, True)
    at_once = KontextTransformer(sizes).init_weights(torch.Generator().manual_seed(5))
    with torch.device("meta"):
        model = KontextTransformer(sizes)
    draw = torch.Generator().manual_seed(5)
    parallel.prepare(model, parallel.ALONE, fill=lambda n, m: init_module(n, m, draw))
    for (name, a), b in zip(at_once.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("level", ["selective", "full"])
def test_checkpointing_changes_no_gradient(program, level):
    gradients = []
    for chosen in ("none", level):
        flags = parallel.ParallelConfig(checkpointing=chosen)
        model, loss = program.parts("flow", parallel.DistContext(torch.device("cpu"), config=flags))
        loss(0)[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
    with pytest.raises(ConfigError, match="choose one of"):
        parallel.ParallelConfig(checkpointing="half")


@pytest.mark.parametrize("level", parallel.LEVELS)
def test_compiled_blocks_have_the_same_gradients(program, level, monkeypatch):
    """With a backend that fuses nothing, so that no C++ compiler is needed."""
    gradients, graphs = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for compiled in (False, True):
        flags = parallel.ParallelConfig(checkpointing=level, compile=compiled)
        model, loss = program.parts("flow", parallel.DistContext(torch.device("cpu"), config=flags))
        assert compiled or not graphs
        loss(0)[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert len(graphs) >= 2  # a double and a single block
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
