"""The challenge: an entry is made by one command, and what breaks a rule is refused and said."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import records
from minikontext.bench import compare
from minikontext.errors import ConfigError
from minikontext.runtime.files import shipped
from minikontext.training.jobs import read_job

HOME = Path(__file__).resolve().parents[2] / "records"
TINY = """
[transformer]
hidden_size = 32
num_heads = 2
axes_dim = [4, 6, 6]
depth = 1
depth_single_blocks = 1
context_in_dim = 16
vec_in_dim = 16
[text]
depth = 1
heads = 2
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny entry, made by the command from the baseline's config."""
    folder = tmp_path_factory.mktemp("records") / "tiny"
    folder.mkdir()
    text = (HOME / "baseline" / "config.toml").read_text().replace("40000", "40")
    text = text.replace("data/weights/toy", shipped("data", "weights", "toy").as_posix())
    text = text.replace("steps = 100000", "steps = 4\nlog_every = 1")
    (folder / "config.toml").write_text(text.replace("batch = 64", "batch = 4") + TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        threads = torch.get_num_threads()
        assert records.main(["make", "tiny/config.toml", "--cases", "3"]) == 0
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def entry(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "mine"))


def refused(entry):
    with pytest.raises(ConfigError) as told:
        records.check(entry, 2)
    return str(told.value)


def test_one_command_makes_an_entry_that_counts(made, capsys):
    assert len((made / "log.jsonl").read_text().splitlines()) == 4
    assert json.loads((made / "entry.json").read_text())["rules"] == records.rules()
    assert not (made / "result.json").exists()  # three cases are no record
    assert records.main(["check", str(made), "--cases", "3"]) == 0
    row = rf"\| tiny \| 0.0 \| 0.0 to 0.0 \| 3 \| \d+\.\d \| {records.rules()} \|"
    assert re.search(row, capsys.readouterr().out)
    with pytest.raises(ConfigError, match="holds weights, log.jsonl, entry.json already"):
        records.make(made / "config.toml")


def test_success_is_that_of_the_oracle_with_its_interval(entry, monkeypatch):
    shutil.rmtree(entry / "weights")
    shutil.copytree(shipped("data", "weights", "toy"), entry / "weights")
    monkeypatch.setattr(records, "CASES", 12)  # the rules are others, then
    facts = {"rules": records.rules(), "threads": 1}
    (entry / "entry.json").write_text(json.dumps(facts))
    result = records.check(entry, 12)
    hits = records.outcomes(records.opened(entry), records.cases(12))
    assert sum(hits) > 0 and result.success == round(100 * sum(hits) / 12, 1)
    assert result.interval == compare.percent_interval(hits)
    stored = json.loads((entry / "result.json").read_text())
    assert stored["success"] == result.success and stored["cases"] == 12


@pytest.mark.parametrize(
    "break_it, told",
    [
        (lambda e: (e / "entry.json").write_text('{"rules": "old", "threads": 2}'), "rules old"),
        (lambda e: (e / "entry.json").unlink(), "rules None"),
        (lambda e: edit_facts(e, threads=8), "8 threads"),
        (lambda e: (e / "log.jsonl").write_text('{"step": 9, "seconds": 1900}\n'), "31.7 minutes"),
        (lambda e: (e / "log.jsonl").write_text('{"step": 9, "seconds": 9}\n' * 2), "one run"),
        (lambda e: (e / "log.jsonl").unlink(), "no log"),
        (lambda e: start_from_toy(e), "starts from toy"),
        (lambda e: (e / "config.toml").unlink(), "config.toml"),
        (lambda e: (e / "weights" / "transformer.safetensors").write_bytes(b"no"), "safetensors"),
        (lambda e: other_autoencoder(e), "autoencoder is another"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_reason(entry, break_it, told):
    break_it(entry)
    assert "does not count" in refused(entry) and told in refused(entry)
    assert records.main(["check", str(entry)]) == 1


def edit_facts(entry, **facts):
    path = entry / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def start_from_toy(entry):
    path = entry / "config.toml"
    path.write_text(path.read_text().replace("seed = 0", 'seed = 0\nstart = "toy"'))


def other_autoencoder(entry):
    path = entry / "weights" / "autoencoder.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 0.001
    save_file(tensors, path)


def test_all_reasons_are_told_at_once(entry):
    (entry / "entry.json").unlink()
    (entry / "log.jsonl").unlink()
    other_autoencoder(entry)
    told = refused(entry)
    assert all(word in told for word in ("rules None", "no log", "autoencoder is another"))


def test_another_world_or_evaluation_has_other_rules(tmp_path, monkeypatch):
    before = records.rules()
    world = Path(records.toyworld.__file__).parent
    copy = Path(shutil.copytree(world, tmp_path / "toyworld"))
    monkeypatch.setattr(records.toyworld, "__file__", str(copy / "__init__.py"))
    assert records.rules() == before
    (copy / "oracle.py").write_text((copy / "oracle.py").read_text() + "\nEASY = True\n")
    assert records.rules() != before
    monkeypatch.undo()
    monkeypatch.setattr(records, "STEPS", 9)
    assert records.rules() != before


def test_a_config_that_breaks_the_rules_is_refused_before_any_work(entry):
    for name in ("log.jsonl", "entry.json"):
        (entry / name).unlink()
    shutil.rmtree(entry / "weights")
    path = entry / "config.toml"
    path.write_text(path.read_text().replace("minutes = 30", "minutes = 31"))
    with pytest.raises(ConfigError, match="minutes <= 30"):
        records.make(path)
    with pytest.raises(ConfigError, match="a file config.toml"):
        records.make(path.rename(entry / "mine.toml"))


def test_the_readme_says_whether_a_baseline_has_been_run():
    text = (HOME / "README.md").read_text(encoding="utf-8")
    result = HOME / "baseline" / records.RESULT
    assert ("No baseline has been run" in text) != result.exists()
    if result.exists():
        stored = records.Result(**json.loads(result.read_text()))
        stored = replace(stored, interval=tuple(stored.interval))
        row = records.line("baseline", stored)
        assert "| " + " | ".join(map(str, row)) + " |" in text
    job = read_job(HOME / "baseline" / "config.toml")
    assert job.loop.minutes == records.MINUTES and job.data.level == records.LEVEL
