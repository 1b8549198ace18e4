"""A run's folder: locked, tied to what it was made from, set aside whole, and never half right."""

import json
import multiprocessing
import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from minikontext import training
from minikontext.distillation import run as distillation
from minikontext.errors import ConfigError, OutputError, TrainingError, WeightsError
from minikontext.pretrained import lora
from minikontext.training import runs
from minikontext.training.data import build_cache, load_cache
from minikontext.training.jobs import build_job
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.parallel import ALONE
from minikontext.training.store import DamageWarning, Store, file_sum, headers

TINY = {"ch": 4, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1, "norm_groups": 2}
SMALL = {"pixels": 8192, "sizes": [[64, 64]], "bf16": False}


def config(folder, **more):
    values = {
        "kind": "world_autoencoder", "run": str(folder / "run"), "output": str(folder / "out"),
        "autoencoder": TINY, "training": SMALL,
        "loop": {"steps": 2, "warmup": 1, "log_every": 1},
    }  # fmt: skip
    return values | more


def train(values, **more):
    return training.run_job(build_job(values), **more)


def test_a_run_is_tied_to_what_it_was_made_from(tmp_path):
    train(config(tmp_path))
    longer = {"steps": 3, "warmup": 1, "log_every": 1}
    train(config(tmp_path, loop=longer))  # a run may be made longer
    for change, told in (
        ({"loop": longer | {"lr": 0.1}}, r"\[loop\] lr was 0.001, is 0.1"),
        ({"training": SMALL | {"kl": 0.1}}, r"\[training\] kl was 0.0001, is 0.1"),
        ({"seed": 7}, "seed was 0, is 7"),
        ({"autoencoder": TINY | {"norm_groups": 4}}, r"\[autoencoder\] norm_groups was 2, is 4"),
        ({"output": str(tmp_path / "other")}, "output was"),
    ):
        with pytest.raises(TrainingError, match=told) as caught:
            train(config(tmp_path, loop=longer) | change)
        assert "--restart" in str(caught.value)


def test_what_is_left_out_of_a_tie_is_left_out_by_its_place():
    values = {"kind": "rollout", "teacher": "t", "run": "r", "output": "o"}
    values |= {"loop": {"steps": 1}, "stream": {"level": 4}}
    values["training"] = {"steps": [1, 2], "shares": [0.5, 0.5]}
    few = runs.made_from(distillation.build_job(values))
    longer = runs.made_from(distillation.build_job(values | {"loop": {"steps": 9}}))
    steps = values["training"] | {"steps": [1, 4]}
    other = runs.made_from(distillation.build_job(values | {"training": steps}))
    assert few == longer and few != other


def test_a_run_that_is_beyond_its_last_step_says_so(tmp_path):
    train(config(tmp_path))
    with pytest.warns(UserWarning, match="is of step 2, beyond the config's last, 1"):
        train(config(tmp_path, loop={"steps": 1, "warmup": 1, "log_every": 1}))


def test_a_run_from_before_a_dial_goes_on_without_it(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def loop(beta):
        facts = {} if beta is missing else {"[loop] adam_beta": str(beta)}
        return Loop(model, LoopConfig(1, warmup=1), tmp_path / "run", made_from=facts)

    missing = object()
    loop(missing).run(lambda step: (model(torch.ones(1, 2)).sum(), {}))
    assert loop(None).resume() and loop(missing).resume()
    with pytest.raises(TrainingError, match="adam_beta was not there, is 0.5"):
        loop(0.5).resume()


def lora_config(folder, **more):
    """A LoRA on tiny weights; `parts`, `start` and the pictures lie in the folder."""
    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "red").save(folder / "pictures/1.png")
    (folder / "pictures/1.txt").write_text("the hat")
    return {
        "kind": "lora", "parts": str(folder / "base"), "run": str(folder / "run"),
        "output": str(folder / "x.safetensors"), "device": "cpu", "lora": {"rank": 2},
        "data": {"source": str(folder / "pictures"), "side": 64},
        "loop": {"steps": 1}, "training": {"batch": 1, "bf16": False},
    } | more  # fmt: skip


def test_a_run_is_tied_to_what_its_start_and_its_base_hold(tiny, tmp_path):
    pipe = tiny()
    pipe.save_pretrained(tmp_path / "base")
    first = lora.save(lora.new(pipe.transformer, 2), pipe.transformer, tmp_path / "first")
    values = lora_config(tmp_path, start=str(first))
    train(values)
    train(values)
    state = load_file(first)
    save_file({name: tensor + 1 for name, tensor in state.items()}, first)
    with pytest.raises(TrainingError, match="start's content was"):
        train(values)
    save_file(state, first)
    path = tmp_path / "base/config.json"
    facts = json.loads(path.read_text())
    facts["autoencoder"]["scale_factor"] = 3.0
    path.write_text(json.dumps(facts))
    with pytest.raises(TrainingError, match="encoded was made as"):  # with other latents
        train(values)
    shutil.rmtree(tmp_path / "run/encoded")
    with pytest.raises(TrainingError, match="base's config was"):
        train(values)


@pytest.mark.parametrize("what", ["another picture", "another caption", "one more"])
def test_a_run_that_was_stopped_is_tied_to_its_pictures(tiny, tmp_path, what):
    tiny().save_pretrained(tmp_path / "base")
    values = lora_config(tmp_path, loop={"steps": 3, "log_every": 1})

    def stop(facts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(values, on_log=stop)
    if what == "another picture":
        Image.new("RGB", (64, 64), "blue").save(tmp_path / "pictures/1.png")
    elif what == "another caption":
        (tmp_path / "pictures/1.txt").write_text("the sign")
    else:
        shutil.copy(tmp_path / "pictures/1.png", tmp_path / "pictures/2.png")
        (tmp_path / "pictures/2.txt").write_text("a sign")
    with pytest.raises(TrainingError, match="data was .* start over with --restart"):
        train(values)


def test_a_checkpoint_from_before_knows_of_no_contents(tmp_path):
    before = {"seed": "0"}
    runs.require_same(tmp_path, before, before | dict.fromkeys(runs.LATER, "abc"))
    with pytest.raises(TrainingError, match="start's content was abc, is not there"):
        runs.require_same(tmp_path, before | {runs.LATER[0]: "abc"}, before)


def test_a_training_never_replaces_or_moves_what_it_reads(tiny, tmp_path):
    tiny().save_pretrained(tmp_path / "base")
    values = lora_config(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}
    for change, told in (
        ({"output": str(tmp_path / "base/transformer.safetensors")}, "is no LoRA"),
        ({"output": str(tmp_path / "pictures/1.png")}, "is no LoRA"),
        ({"output": str(tmp_path / "run")}, "one place|is a folder"),
        ({"run": str(tmp_path / "pictures")}, "run holds what source names"),
        ({"run": str(tmp_path)}, "run holds what parts names"),
        ({"output": str(tmp_path / "old"), "start": str(tmp_path / "old")}, "start names"),
    ):
        with pytest.raises(OutputError, match=told):
            train(values | change, resume=False)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}
    train(values)
    train(values, resume=False)  # a LoRA of before is replaced


def test_a_model_of_matrices_alone_is_trained_by_muon_alone(tmp_path):
    model = torch.nn.Linear(3, 3, bias=False)
    one = Loop(model, LoopConfig(2, warmup=1, ema=0.0), tmp_path)
    one.run(lambda step: (model(torch.ones(1, 3)).square().sum(), {}))
    again = Loop(torch.nn.Linear(3, 3, bias=False), LoopConfig(2, warmup=1, ema=0.0), tmp_path)
    assert again.resume()
    assert again.optimizer.tensors().keys() == {"momentum_buffer.weight"}


def test_a_restart_sets_the_old_run_aside_whole(tmp_path):
    train(config(tmp_path))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}

    def stop(facts):
        raise KeyboardInterrupt

    other = config(tmp_path, seed=5)
    with pytest.raises(KeyboardInterrupt):
        train(other, resume=False, on_log=stop)
    aside = {p.name: p.read_bytes() for p in (tmp_path / "run.1").iterdir()}
    assert aside == before
    steps = []
    train(other, on_log=lambda facts: steps.append(facts["step"]))  # goes on with the new one
    assert steps == [2]
    train(other, resume=False)
    assert (tmp_path / "run.2").is_dir()


def test_two_trainings_never_write_into_one_run(tmp_path):
    job = build_job(config(tmp_path))
    started, go = multiprocessing.Event(), multiprocessing.Event()

    def hold():
        with runs.opened(job, ALONE):
            started.set()
            go.wait()

    other = multiprocessing.get_context("fork").Process(target=hold)
    other.start()
    assert started.wait(120)
    try:
        with pytest.raises(TrainingError, match="Another training works in"):
            train(config(tmp_path))
    finally:
        go.set()
        other.join()
    assert train(config(tmp_path))  # a lock does not outlive who held it


def test_whoever_trains_by_itself_holds_its_folder_as_a_run_does(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    told = pytest.raises(TrainingError, match="Another training works in")
    with runs.alone(run):
        with told:
            train(config(tmp_path))
        with told, runs.alone(other, run):
            pytest.fail("both were held")
        with runs.alone(other):  # what was taken before the refusal is free again
            pass
    with runs.opened(build_job(config(tmp_path)), ALONE), told, runs.alone(run):
        pytest.fail("a run was held twice")
    (tmp_path / ".run.lock").write_text("theirs")
    with pytest.raises(OutputError, match="it is no lock"), runs.alone(run):
        pass
    assert (tmp_path / ".run.lock").read_text() == "theirs"
    with pytest.raises(OutputError, match="Cannot write"), runs.alone("/proc/no/such"):
        pass


def test_that_a_run_replaces_the_output_of_another_is_told(tmp_path, caplog):
    def told(**more):
        caplog.clear()
        train(config(tmp_path, **more))
        return "is there, and this run did not write it" in caplog.text

    def longer(steps):
        return {"steps": steps, "warmup": 1, "log_every": 1}

    other = {"run": str(tmp_path / "other"), "seed": 5}
    assert not told() and not told(loop=longer(3))  # its own, once more
    assert told(**other) and not told(**other)
    assert told(loop=longer(4)) and not told(loop=longer(5))  # the other one's, now
    caplog.clear()
    train(config(tmp_path), resume=False)
    assert "did not write it" not in caplog.text  # of the run that is set aside
    (tmp_path / "run/output.json").unlink()  # a run of before there was such a note
    assert not told()
    (tmp_path / "run/output.json").write_bytes(b"\xff")
    assert not told()


def test_two_trainings_never_write_one_output(tmp_path):
    held = [config(tmp_path, run=str(tmp_path / f"run{i}"), seed=i) for i in range(2)]
    with runs.opened(build_job(held[0]), ALONE):
        other = multiprocessing.get_context("spawn").Process(target=second, args=(held[1],))
        other.start()
        other.join(300)
        assert other.exitcode == 3 and not (tmp_path / "run1").exists()
    assert not (tmp_path / ".out.lock").exists()  # nothing is left beside it
    assert train(held[1])


def second(values):
    """Train in a process of its own, which ends with 3 where it is told of another training."""
    try:
        train(values)
    except TrainingError as error:
        os._exit(3 if f"works in {values['output']}" in str(error) else 4)


@pytest.mark.parametrize("name", [".run.lock", ".out.lock"])
def test_what_is_no_lock_is_neither_emptied_nor_removed(tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(OutputError, match="it is no lock"):
        train(config(tmp_path))
    assert (tmp_path / name).read_text() == "theirs"
    (tmp_path / name).write_text("")  # of a training that was killed
    assert train(config(tmp_path))


def test_a_run_by_a_link_is_the_same_run(tmp_path, caplog):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    job = build_job(config(tmp_path, run=str(tmp_path / "real")))
    told = pytest.raises(TrainingError, match="Another training works in")
    with runs.opened(job, ALONE), told:
        train(config(tmp_path))
    train(config(tmp_path))
    train(config(tmp_path), resume=False)
    assert (tmp_path / "run").is_symlink() and (tmp_path / "real.1/log.jsonl").exists()
    assert f"The run of before is now {tmp_path / 'real.1'}" in caplog.text


@pytest.mark.parametrize("place", ["out", "run"])
def test_what_cannot_be_written_is_said_before_the_work(tmp_path, place):
    key = {"out": "output", "run": "run"}[place]
    (tmp_path / "file").write_text("x")
    for name in ("x" * 300, "file", "file/below", "/proc/no/such"):
        values = config(tmp_path) | {key: str(tmp_path / name)}
        with pytest.raises(OutputError, match="Cannot write"):
            train(values, on_log=lambda facts: pytest.fail("a step was done"))


def test_no_name_of_a_config_ends_in_a_traceback(tiny, tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "base")
    values = lora_config(tmp_path, loop={"steps": 1, "validate_every": 1})
    values["lora"] |= {"keep": True}
    here = tmp_path / "in/here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for change, told in (
        *(({name: "a\0b"}, ".") for name in ("run", "output", "parts", "start")),
        *(({"data": values["data"] | {name: "a\0b"}}, "no folder")
          for name in ("source", "validation")),
        ({"output": ""}, "Cannot write|must be named"), ({"run": ""}, "must be named"),
        ({"run": str(tmp_path / "in")}, "hold the folder you are in"),
        ({"output": str(tmp_path / "x.ckpt")}, "a name with .safetensors"),
        ({"lora": {"layers": "("}}, "no expression"),
        ({"lora": {"layers": "(a|[a-z]+)+x"}}, "could take for ever"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, OutputError, WeightsError), match=told):
            train(values | change, on_log=lambda facts: pytest.fail("a step was done"))
    assert not list(here.iterdir())


def test_a_source_that_is_none_is_said_before_the_work(tmp_path):
    values = {
        "kind": "lora", "parts": "no such weights", "run": str(tmp_path / "r"),
        "output": str(tmp_path / "x.safetensors"), "loop": {"steps": 1},
    }  # fmt: skip
    for data in ({"source": "nowhere"}, {"source": str(tmp_path)}):
        with pytest.raises(ConfigError, match="is no folder|holds neither"):
            train(values | {"data": data})


def small(folder, steps=6, **more):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)

    def loss(step):
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - 1).square().mean(), {}

    return Loop(model, LoopConfig(steps, warmup=1, save_every=3, log_every=1), folder, **more), loss


def flipped(path):
    """A bit of the file's last tensor is another one."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def another_step(path):
    path.write_bytes(path.read_bytes().replace(b'"step":"5"', b'"step":"8"'))


def stripped(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        facts = json.loads(file.read(size))["__metadata__"]
    kept = {k: v for k, v in load_file(path).items() if not k.startswith("optimizer.")}
    save_file(kept, path, metadata=facts)


@pytest.mark.parametrize("damage", [flipped, another_step, stripped])
def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path, damage):
    loop, loss = small(tmp_path, steps=5)
    loop.run(loss)
    place = tmp_path / "checkpoint.safetensors"
    copy = tmp_path / "copy"
    copy.write_bytes(place.read_bytes())
    os.replace(copy, place)  # the last one may be the same file under another name
    sound = place.read_bytes()
    damage(place)
    assert place.read_bytes() != sound
    again, _ = small(tmp_path)
    with pytest.warns(DamageWarning, match="damaged, so the training goes on from step 3"):
        assert again.resume() and again.step == 3
    (tmp_path / "checkpoint.last.safetensors").unlink()
    with pytest.raises(TrainingError, match="no other checkpoint is left"):
        small(tmp_path)[0].resume()


def test_a_damaged_checkpoint_never_takes_the_place_of_the_last_whole_one(tmp_path):
    loop, loss = small(tmp_path, steps=5)
    loop.run(loss)
    place, last = tmp_path / "checkpoint.safetensors", tmp_path / "checkpoint.last.safetensors"
    whole = last.read_bytes()
    place.write_bytes(place.read_bytes()[:-3] + b"xyz")
    again, _ = small(tmp_path)
    with pytest.warns(DamageWarning):
        again.resume()
    again.save()
    assert last.read_bytes() == whole  # the one that it went on from
    place.write_bytes(place.read_bytes()[:-3] + b"xyz")
    assert small(tmp_path)[0].resume()
    fresh, _ = small(tmp_path)
    fresh.save()  # without a look at what is there
    assert last.read_bytes() == whole
    fresh.save()
    assert last.read_bytes() != whole


def test_a_checkpoint_that_is_gone_is_told(tmp_path):
    loop, loss = small(tmp_path, steps=5)
    loop.run(loss)
    (tmp_path / "checkpoint.safetensors").unlink()
    again, _ = small(tmp_path)
    with pytest.warns(DamageWarning, match=r"checkpoint.safetensors \(gone\): .* from step 3"):
        assert again.resume() and again.step == 3
    (tmp_path / "checkpoint.last.safetensors").unlink()
    with pytest.warns(UserWarning, match="log.jsonl tells of steps, and no checkpoint is there"):
        assert not small(tmp_path)[0].resume()


def stored(store, step, names="x"):
    """Publish a store as many processes would have written it; returns its place."""
    place = store.stores / f".step-{step:08d}.tmp"
    place.mkdir(parents=True)
    for name in names:
        save_file({name: torch.full((1,), float(step))}, place / f"{name}.safetensors")
        (place / f"{name}.sum").write_text(file_sum(place / f"{name}.safetensors"))
    store._publish(place, {"step": str(step), "made_from": "{}"})
    return store.stores / f"step-{step:08d}"


@pytest.mark.parametrize("gone", ["x.safetensors", "y.safetensors", "facts.json"])
def test_a_store_that_has_lost_a_file_is_passed_over_and_told(tmp_path, gone):
    first, second = (stored(Store(tmp_path, ALONE), step, "xy") for step in (3, 6))
    assert Store(tmp_path, ALONE).newest()[0] == second
    (second / gone).unlink()
    with pytest.warns(DamageWarning, match="step-00000006: damaged"):
        assert Store(tmp_path, ALONE).newest()[0] == first
    (first / gone).unlink()
    with pytest.raises(TrainingError, match="no other checkpoint is left"):
        Store(tmp_path, ALONE).newest()


def test_two_checkpoints_are_there_whoever_wrote_the_one_before(tmp_path):
    """One process goes on with what many wrote, and many with what one wrote."""

    def there():
        return sorted(place.name for place in headers(tmp_path))

    def save(store, step):
        store.save({"x": torch.zeros(1)}, {"step": str(step), "made_from": "{}"})

    many = Store(tmp_path, ALONE)
    stored(many, 3), stored(many, 6)
    one, names = Store(tmp_path, ALONE), ("checkpoint.last.safetensors", "checkpoint.safetensors")
    assert one.newest()[1]["step"] == "6"
    save(one, 9)
    assert there() == ["checkpoint.safetensors", "step-00000006"]
    save(one, 12)
    assert there() == [*names] and not one.stores.exists()
    many = Store(tmp_path, ALONE)
    assert many.newest()[1]["step"] == "12"
    stored(many, 15)
    assert there() == ["checkpoint.safetensors", "step-00000015"]
    stored(many, 18)
    assert there() == ["step-00000015", "step-00000018"]
    other = Store(tmp_path, ALONE)  # of a run that did not look at what is there
    save(other, 1)
    assert there() == ["checkpoint.safetensors"]
    stored(Store(tmp_path, ALONE), 1)
    assert there() == ["step-00000001"]


def test_a_log_that_was_cut_is_gone_on_with_at_a_new_line(tmp_path):
    loop, loss = small(tmp_path)
    loop.run(loss)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-7])
    longer, loss = small(tmp_path, steps=8)
    longer.resume()
    longer.run(loss)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 7, 8]


def test_a_log_that_cannot_be_written_is_a_typed_error(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    loop, loss = small(tmp_path)
    with pytest.raises(OutputError, match=r"Cannot write .*log.jsonl"):
        loop.run(loss)


def flipped_pairs(folder):
    flipped(folder / "pairs-00000000.safetensors")


def other_wordings(folder):
    path = folder / "pairs-00000000.txt"
    path.write_text(path.read_text().replace("e", "a", 1))


@pytest.mark.parametrize("damage", [flipped_pairs, other_wordings])
def test_encoded_pairs_that_changed_are_told(tiny, tmp_path, damage):
    pipe = tiny()
    build_cache(tmp_path, 1, 4, 0, pipe.autoencoder, "mark")
    load_cache(tmp_path, pipe.text_encoder)
    damage(tmp_path)
    with pytest.raises(TrainingError, match="is damaged.*not .* written.*Remove it"):
        load_cache(tmp_path, pipe.text_encoder)
    path = tmp_path / "pairs-00000000.safetensors"
    save_file(load_file(path), path)  # as before there were sums
    load_cache(tmp_path, pipe.text_encoder)


def test_a_cache_grows_when_more_is_asked_for(tiny, tmp_path):
    pipe = tiny()
    for count in (4, 8, 6):
        build_cache(tmp_path, 1, count, 0, pipe.autoencoder, "mark", shard=10)
        pairs = load_cache(tmp_path, pipe.text_encoder, count)
        assert pairs.index.tolist() == list(range(count))
