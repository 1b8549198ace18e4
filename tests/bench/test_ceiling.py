"""The ceiling: what right answers lose in an autoencoder, by size."""

import json

import pytest
import torch

from benchmarks import ceiling
from minikontext.bench import autoencoder_bench
from minikontext.errors import ConfigError
from minikontext.toyworld.edits import sample_case
from minikontext.training.models import find_autoencoder, load_autoencoder, save_part


def test_the_shipped_autoencoder_keeps_right_answers_and_a_broken_one_does_not():
    model = load_autoencoder(find_autoencoder("toy"), torch.device("cpu"))
    cases = [sample_case(i, 4, "dev") for i in range(8)]
    good = ceiling.measure(model, cases, (64, 64))
    assert (good.cases, good.width, good.height) == (8, 64, 64)
    assert good.oracle >= 75 and good.psnr > 28
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(0.3)
    bad = ceiling.measure(model, cases, (64, 64))
    assert bad.oracle < good.oracle and bad.reader < good.reader and bad.psnr < good.psnr - 5


def test_the_command_measures_each_size_and_keeps_the_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    alone = tmp_path / "alone"  # as the stages of the lineage have it: no editor lies beside it
    save_part(load_autoencoder(find_autoencoder("toy"), torch.device("cpu")), "autoencoder", alone)
    rows = ceiling.main(["--weights", str(alone), "--cases", "2", "--sizes", "64x64,64x96"])
    stored = json.loads(
        (tmp_path / "runs" / "bench" / "few-cases-some-sizes" / "ceiling.json").read_text()
    )
    assert [(r["width"], r["height"]) for r in stored["rows"]] == [(64, 64), (64, 96)]
    assert "| 64 × 96 | 2 |" in capsys.readouterr().out and len(rows) == 2


@pytest.mark.parametrize("part", [["--cases", "2"], ["--sizes", "64x64"], ["--level", "2"]])
def test_a_part_is_not_stored_as_the_whole(part):
    with pytest.raises(ConfigError, match="--store keeps results of all cases"):
        ceiling.main([*part, "--store"])


def test_a_name_that_stands_for_no_autoencoder_is_told_before_any_work():
    for main in (ceiling.main, autoencoder_bench.main):
        with pytest.raises(ConfigError, match="nobody holds no trained autoencoder"):
            main(["--weights", "nobody"])
