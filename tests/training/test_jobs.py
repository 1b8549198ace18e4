"""A config is checked whole, at the door: before anything is opened, made or written."""

from pathlib import Path

import pytest

from minikontext import distillation, training
from minikontext.cli import app
from minikontext.errors import ConfigError
from minikontext.training import jobs

CONFIGS = Path(__file__).parents[2] / "configs"
LORA = (CONFIGS / "toy_lora.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ofload = "8-bit"\n' + LORA, "no 'ofload'; did you mean 'offload'"),
        ('offload = "foo"\n' + LORA, "offload = 'foo'; use auto, resident"),
        ('dtype = "float16"\n' + LORA, "'float16' is not supported"),
        (LORA + "\n[trainng]\nbatch = 2\n", "no 'trainng'; did you mean 'training'"),
        (LORA.replace("side = 64", "side = 64\nrepeat = 3"), "did you mean 'repeats'"),
        (LORA.replace("side = 64", "side = 64\nencoding = 'rot13'"), "expected a text encoding"),
        (LORA.replace("side = 64", "side = 64\nupscale = 0.5"), "factors from 1"),
        (LORA.replace("side = 64", "side = 64\ntries = 4"), "validate_every"),
        (LORA.replace("side = 64", "side = 64\nvalidation = 'x'"), "a validation folder, tries"),
        (LORA.replace("[loop]", "[loop]\nclip = 0"), r"\[loop\] clip = 0"),
        (LORA.replace("[loop]", "[loop]\nvalidate_every = 5"), "nothing to validate"),
        (LORA + '\n[sample]\nprompt = "x"\n', "no 'sample'"),
        (LORA.replace("steps = 800", "stesp = 800"), "did you mean 'steps'"),
        (LORA.replace("lr = 1e-3", "lr = -1"), r"\[loop\] lr = -1"),
        (LORA.replace("rank = 16", "rank = 0"), r"\[lora\] rank = 0"),
        (LORA.replace('source = "runs/sepia"', ""), r"\[data\] source is missing"),
    ],
)
def test_a_mistake_is_named_before_the_work(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        training.main("x.toml")
    assert "x.toml: " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]
    assert app.main(["train", "x.toml", "--plan"]) != 0


@pytest.mark.parametrize("kind", ["safety", "world_autoencoder", "world_imitation", "world_words"])
@pytest.mark.parametrize("dial", [{"accumulate": 2}, {"validate_every": 5}])
def test_a_kind_is_not_told_what_its_loss_cannot_do(kind, dial):
    values = {"kind": kind, "run": "r", "output": "o", "loop": {"steps": 1}}
    values |= {"safety": {"autoencoder": "a"}, "world_imitation": {"teacher": "t"}}.get(kind, {})
    assert jobs.build_job(values).kind == kind
    with pytest.raises(ConfigError, match=next(iter(dial))):
        jobs.build_job(values | {"loop": {"steps": 1} | dial})


@pytest.mark.parametrize("kind", ["editor", "folder"])
def test_what_is_done_on_the_way_needs_to_know_how_often(kind):
    """A validation folder would be encoded for nothing, and tries would not be made."""
    values = {"kind": kind, "run": "r", "output": "o", "autoencoder": "a"}
    values |= {"data": {"level": 1, "count": 1}}
    more = [{"tries": 2}]
    if kind == "folder":
        del values["autoencoder"]
        values |= {"parts": "p", "data": {"source": "s"}}
        more += [{"validation": "v"}]
    for one in more:
        data = {"data": values["data"] | one}
        assert jobs.build_job(values | data | {"loop": {"steps": 1, "validate_every": 1}}).checked
        with pytest.raises(ConfigError, match="used with validate_every"):
            jobs.build_job(values | data | {"loop": {"steps": 1}})


def test_a_distillation_that_cannot_validate_is_refused_at_the_door():
    values = {"kind": "ladd", "run": "r", "output": "o", "teacher": "toy", "stream": {"batches": 9}}
    loop = {"steps": 1, "accumulate": 2}
    assert distillation.build_job(values | {"loop": loop}).loop.accumulate == 2
    with pytest.raises(ConfigError, match="x: .*validate_every"):
        distillation.build_job(values | {"loop": loop | {"validate_every": 5}}, "x: ")


def test_every_mistake_of_a_file_is_told_at_once():
    values = jobs.tomllib.loads(LORA) | {"ofload": "8-bit", "seed": "one"}
    with pytest.raises(ConfigError) as caught:
        jobs.build_job(values | {"loop": {"steps": 3, "lr": -1.0}})
    assert all(word in str(caught.value) for word in ("ofload", "seed", "lr"))


def test_a_validation_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "1.txt").write_text("x")
    data = {"source": str(tmp_path), "validation": str(tmp_path / "missing"), "side": 64}
    values = jobs.tomllib.loads(LORA) | {"data": data, "run": str(tmp_path / "r")}
    values["loop"] |= {"validate_every": 5}
    with pytest.raises(ConfigError, match="missing' is no folder"):
        training.run_job(jobs.build_job(values))
    assert not (tmp_path / "r").exists()


def test_a_job_is_typed_and_a_section_starts_from_what_fits():
    job = training.read_job(CONFIGS / "small.toml")
    assert isinstance(job, jobs.FolderJob) and job.transformer.hidden_size == 1024
    assert job.transformer.context_in_dim == 4096  # of its preset
    values = {"kind": "editor", "autoencoder": "a", "run": "r", "output": "o"}
    values |= {"data": {"level": 1, "count": 2}, "loop": {"steps": 1}}
    editor = jobs.build_job(values | {"transformer": {"context_in_dim": 48}, "text": {"depth": 1}})
    assert editor.text.width == 48 and editor.text.depth == 1 and "red" in editor.text.vocabulary
