"""The lineage's trainings: from a config to weights of all sizes, by step, resumed exactly."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import sizes as bench
from benchmarks import variants
from minikontext import training
from minikontext.errors import ConfigError, OutputError, TrainingError, WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import grammar, wishes
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.sizes import TRAINED
from minikontext.toyworld.wishes import sample_wishes
from minikontext.training import words
from minikontext.training.models import load_autoencoder

TINY = {"ch": 4, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1, "norm_groups": 2}
SMALL = [[64, 64], [80, 64], [64, 80]]
LOOP = {"steps": 4, "warmup": 1, "log_every": 1, "ema": 0.5}
NET = {"hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
       "axes_dim": [4, 6, 6], "context_in_dim": 16, "vec_in_dim": 16}  # fmt: skip


def train(values, **more):
    """Run a config's training as the command does."""
    return training.run_job(training.build_job(values), **more)


def autoencoder_config(folder, **loop):
    return {
        "kind": "world_autoencoder", "run": str(folder / "run"), "output": str(folder / "out"),
        "autoencoder": TINY, "training": {"pixels": 8192, "sizes": SMALL, "bf16": False},
        "loop": LOOP | loop,
    }  # fmt: skip


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A tiny autoencoder's folder."""
    return train(autoencoder_config(tmp_path_factory.mktemp("ae")))


def editor_config(folder, autoencoder, **loop):
    return {
        "kind": "world_editor", "name": "tiny", "autoencoder": str(autoencoder),
        "run": str(folder / "run"), "output": str(folder / "out"), "transformer": NET,
        "text": {"heads": 2, "depth": 1, "max_length": 32},
        "stream": {"tokens": 200, "batches": 3, "level": 4},
        "training": {"mu_16": 0.4, "bf16": False}, "loop": LOOP | loop,
    }  # fmt: skip


def stop_at(step):
    def on_log(facts):
        if facts["step"] == step:
            raise KeyboardInterrupt

    return on_log


def same(one, two, name):
    left, right = (load_file(folder / f"{name}.safetensors") for folder in (one, two))
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_an_autoencoder_that_was_interrupted_ends_in_the_same_weights(tmp_path, autoencoder):
    config = autoencoder_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_log=stop_at(2))
    folder = train(config)
    assert same(folder, autoencoder, "autoencoder")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").open()]
    assert steps == [1, 2, 3, 4]


def test_its_latents_have_about_unit_variance(autoencoder):
    from minikontext.training.pictures import PictureTraining, pixels, step_scenes

    model = load_autoencoder(autoencoder, torch.device("cpu"))
    drawn = [step_scenes(i, PictureTraining(pixels=25600)) for i in range(6)]
    with torch.no_grad():
        found = torch.cat([model.encode(pixels(s, size)).flatten() for size, s in drawn])
    assert 0.7 < float(found.std()) < 1.4


def test_an_editor_that_was_interrupted_ends_in_the_same_weights(tmp_path, autoencoder):
    whole = train(editor_config(tmp_path / "a", autoencoder))
    config = editor_config(tmp_path / "b", autoencoder)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_log=stop_at(3))
    again = train(config)
    assert same(whole, again, "transformer") and same(whole, again, "text_encoder")


def test_the_weights_say_what_was_trained_and_are_measured_at_each_size(
    tmp_path, autoencoder, capsys
):
    folder = train(editor_config(tmp_path, autoencoder, steps=2))
    defaults = KontextPipeline.from_pretrained(folder).defaults
    assert defaults.sizes == TRAINED and defaults.mu_16 == 0.4 and defaults.max_contexts == 4
    assert (defaults.width, defaults.height) == (64, 64)
    for own in ([], ["--own"]):
        options = ["--weights", str(folder), "--cases", "3", "--steps", "1",
                   "--sizes", "64x64,112x64", "--json", str(tmp_path / "rows.json")]  # fmt: skip
        rows = bench.main([*options, *own])
        assert [(r.width, r.height, r.seen) for r in rows] == [(64, 64, True), (112, 64, False)]
        assert all(r.cases == 3 for r in rows)
        assert "| 112 × 64 | no | 3 |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 2


def test_the_scale_of_guidance_is_that_of_the_edits():
    options = ["--weights", "toy", "--cases", "1", "--steps", "1", "--sizes", "64x64"]
    own, same, strong = (bench.main([*options, *more])[0].psnr
                         for more in ([], ["--scale", "1"], ["--scale", "6"]))  # fmt: skip
    assert own == same != strong


def test_a_measurement_that_is_stopped_keeps_what_it_has(tmp_path, autoencoder, monkeypatch):
    folder, rows = train(editor_config(tmp_path, autoencoder, steps=2)), tmp_path / "rows.json"
    measured = bench.measure

    def stopped(pipe, cases, size, *own, **call):
        if size == (112, 64):
            raise KeyboardInterrupt
        return measured(pipe, cases, size, *own, **call)

    monkeypatch.setattr(bench, "measure", stopped)
    options = ["--weights", str(folder), "--cases", "2", "--steps", "1", "--json", str(rows)]
    with pytest.raises(KeyboardInterrupt):
        bench.main([*options, "--sizes", "64x64,112x64"])
    assert [row["height"] for row in json.loads(rows.read_text())] == [64]


def test_schedules_go_by_step(tmp_path, autoencoder):
    for config in (
        autoencoder_config(tmp_path, minutes=1),
        editor_config(tmp_path, autoencoder, minutes=1),
    ):
        with pytest.raises(ConfigError, match="by step"):
            train(config)


def test_a_config_is_checked_before_anything_is_loaded(tmp_path):
    config = editor_config(tmp_path, "nowhere")
    del config["stream"]
    with pytest.raises(ConfigError, match="stream"):
        train(config)


def test_variants_are_trained_alike_and_compared_in_pairs(tmp_path, autoencoder, monkeypatch):
    config = editor_config(tmp_path, autoencoder, steps=2)
    config["training"]["layout"] = "scaled"
    toml = tmp_path / "config.toml"
    toml.write_text(as_toml(config))
    options = [str(toml), "--set", 'training.layout="index","scaled"', "--seeds", "2",
               "--cases", "2", "--steps", "1", "--output", str(tmp_path / "found")]  # fmt: skip
    results = variants.main(options)
    assert [(r.value, r.seed) for r in results] == [
        ("index", 0), ("scaled", 0), ("index", 1), ("scaled", 1)
    ]  # fmt: skip
    folders = {"index": "training.layout=index", "scaled": "base"}  # what the config says itself
    runs = [tmp_path / "run" / folders[r.value] / f"seed-{r.seed}" for r in results]
    for result, run in zip(results, runs, strict=True):
        layout = KontextPipeline.from_pretrained(run / "weights").defaults.context_layout
        assert layout == result.value
    shared = {(run / "stream").resolve() for run in runs}  # encoded once for all of them
    assert len(shared) == 1 and len([*shared.pop().glob("batch-*")]) == 3
    text = variants.table(results)
    assert "| training.layout = scaled | 2 |" in text and "+0.0 to +0.0), not decided" in text
    page = (tmp_path / "found/variants.md").read_text()
    assert text in page and "| task | cases | index | scaled |" in page
    assert variants.by_task(results).count("\n") == 1 + len(set(results[0].tasks))
    monkeypatch.setattr(variants, "run_job", None)  # a second call trains nothing
    assert variants.main(options) == results
    toml.write_text(as_toml(config | {"loop": config["loop"] | {"lr": 0.1}}))
    with pytest.raises(TrainingError, match=r"\[loop\] lr was"):  # one old, one new: no comparison
        variants.main(options)
    toml.write_text(as_toml(config | {"loop": config["loop"] | {"steps": 3}}))
    with pytest.raises(TypeError):  # more steps: all of them are trained on
        variants.main(options)
    with pytest.raises(ConfigError, match="section.name"):
        variants.variants("training.mu_16=,")
    with pytest.raises(ConfigError, match="few cases few seeds"):
        variants.main([*options[:-2], "--store"])


def test_a_difference_is_decided_by_cases_not_by_seeds():
    def result(value, seed, outcomes):
        row = bench.Row(64, 64, True, len(outcomes), 0, (0, 0), 0, 0, 0, 30.0, outcomes)
        return variants.Result("x", value, seed, [row])

    low, high = "0" * 12 + "1" * 12, "1" * 20 + "0" * 4
    one, two = ([result(v, seed, o) for seed in (0, 1)] for v, o in (("1", low), ("2", high)))
    assert variants.against(one, two) == "+33.3 (+4.2 to +62.5), not decided"
    better = [result("2", seed, "1" * 24) for seed in (0, 1)]
    assert variants.against(one, better).endswith("decided") and "not" not in variants.against(
        one, better
    )
    lines = variants.table([*one, *better]).splitlines()
    assert lines[2].startswith("| x = 1 | 2 |") and lines[2].endswith("|  |")


def as_toml(config, prefix=""):
    """A nested dict as TOML."""
    plain = {k: v for k, v in config.items() if not isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in plain.items()]
    for name, section in config.items():
        if isinstance(section, dict):
            lines += [f"[{prefix}{name}]", as_toml(section, f"{prefix}{name}.")]
    return "\n".join(lines)


# ------------------------------------------------------------------ words before pictures

TEXT = {"heads": 2, "depth": 1, "max_length": 32, "width": 16, "pooled": 16}


def words_config(folder, **loop):
    return {
        "kind": "world_words", "run": str(folder / "run"), "output": str(folder / "out"),
        "text": TEXT, "training": {"cases": 40, "batch": 8}, "loop": LOOP | loop,
    }  # fmt: skip


def test_facts_say_what_the_sentence_says():
    drawn = (sample_case(i, 4, "train", 0, 1) for i in range(10_000))
    case = next(x for x in drawn if x.operation == "recolour_accessory")
    colour, accessory = case.words["colour"], case.words["accessory"]
    assert {*words.facts(case)} >= {
        "recolour_accessory",
        f"recolour_accessory/colour={colour}",
        f"recolour_accessory/accessory={accessory}",
        f"accessory_colour={colour}",
    }
    drawn = (sample_case(i, 4, "train", 0, 1) for i in range(10_000))
    case = next(x for x in drawn if x.operation == "add_sign")
    assert [x for x in words.facts(case) if x.startswith("sign")] == [
        f"sign[{i}]={letter}" for i, letter in enumerate(case.words["sign"])
    ]


def test_of_several_pictures_only_the_words_are_facts():
    drawn = (sample_case(i, 4, "train", 0, 2) for i in range(100))
    case = next(x for x in drawn if x.operation == "borrow_accessory")
    found = [*words.facts(case)]
    assert not any(x.startswith("accessory_colour") for x in found)  # the second picture says it
    assert f"borrow_accessory/accessory={case.words['accessory']}" in found


def test_both_wishes_of_a_sentence_are_facts():
    case = next(x for x in (sample_wishes(i) for i in range(1000)) if x.wishes)
    assert {wish.operation for wish in case.wishes} <= {*words.facts(case)}


def test_nothing_held_out_is_read():
    assert {case.split for case in words.sample_cases(words.WordsTraining(cases=200))} == {"train"}


def test_an_encoder_learns_to_tell_facts():
    torch.manual_seed(0)
    dials = words.WordsTraining(cases=60, batch=32, level=1)
    cases = words.sample_cases(dials)
    text = ToyTextEncoder(ToyTextConfig(grammar.vocabulary(), **TEXT))
    model = words.FactReader(text, words.fact_names(cases))
    loss = words.words_loss(model, cases, dials)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    values = []
    for step in range(120):
        value, facts = loss(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert 0 <= facts["understood"] <= 1
    assert sum(values[-5:]) < 0.6 * sum(values[10:15])
    assert float(text.embedding.weight.grad.abs().sum()) > 0
    stated = [{*words.facts(case)} for case in cases]
    with torch.no_grad():
        found, _ = model(text.tokenize([wishes.ask(case, random.Random(0)) for case in cases]))
    right = torch.tensor([[name in some for name in model.names] for some in stated])
    assert found[right].mean() > found[~right].mean() + 1


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A tiny text encoder's folder."""
    return train(words_config(tmp_path_factory.mktemp("words")))


def test_a_training_that_was_interrupted_ends_in_the_same_encoder(read, tmp_path):
    config = words_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_log=stop_at(2))
    assert same(train(config), read, "text_encoder")
    assert "understood" in json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])


def test_an_editor_begins_with_the_words_that_were_learned(read, tmp_path, autoencoder):
    config = editor_config(tmp_path, autoencoder, lr=0.0, muon_lr=0.0) | {"words": str(read)}
    config["text"] = TEXT
    folder = train(config)
    assert same(folder, read, "text_encoder")
    config = editor_config(tmp_path / "two", autoencoder) | {"words": str(read)}
    config["text"] = TEXT | {"ngrams": 0}
    with pytest.raises(WeightsError, match="ngrams"):
        train(config)


def test_a_run_is_tied_to_the_words_that_it_began_with(read, tmp_path, autoencoder):
    config = editor_config(tmp_path, autoencoder) | {"words": str(read), "text": TEXT}
    with pytest.raises(KeyboardInterrupt):
        train(config, on_log=stop_at(2))
    other = train(words_config(tmp_path / "other") | {"seed": 5})
    path = Path(read) / "text_encoder.safetensors"
    mine = path.read_bytes()
    path.write_bytes((other / "text_encoder.safetensors").read_bytes())
    try:
        with pytest.raises(TrainingError, match="language was"):
            train(config)
    finally:
        path.write_bytes(mine)


def test_a_training_never_replaces_the_words_that_it_reads(read, tmp_path, autoencoder):
    config = editor_config(tmp_path, autoencoder) | {"words": str(read), "output": str(read)}
    with pytest.raises(OutputError, match="output is what words names"):
        train(config | {"text": TEXT})
