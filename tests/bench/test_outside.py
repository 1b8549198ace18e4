"""The tries outside of the world: what they are, and that a warning is what counts."""

import json
from dataclasses import replace

import pytest

from benchmarks import outside
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline


def test_wishes_and_pictures_outside_are_told_and_those_inside_are_not(tmp_path, capsys):
    tries = outside.main(["--count", "4", "--output", str(tmp_path)])
    by_kind = {}
    for one in tries:
        by_kind.setdefault(one.kind, []).append(one)
    assert {kind: len(some) for kind, some in by_kind.items()} == {
        "absent word": 4, "not in the picture": 4, "wish that can be granted": 8,
        "part of a photograph": 2, "noise": 2, "sixteen drawings in one": 2,
        "colours turned round": 2, "picture of the world": 8,
    }  # fmt: skip
    for kind in ("absent word", "not in the picture", "noise", "sixteen drawings in one"):
        assert all(one.warned and one.outside for one in by_kind[kind])
    assert not any(one.warned for one in by_kind["picture of the world"])
    stored = json.loads((tmp_path / "outside.json").read_text())
    assert len(stored) == len(tries) and "| noise | 2 | 2 | all |" in capsys.readouterr().out


def test_a_pipeline_that_says_nothing_is_found_out():
    pipe = KontextPipeline.from_pretrained("toy", device="cpu")
    pipe.defaults = replace(pipe.defaults, least_psnr=None)
    tries = [*outside.picture_tries(pipe, 1, outside.sample_photo())]
    assert not any(one.warned for one in tries)
    text = outside.page(tries, "toy")
    assert "- noise: number 1" in text and "| noise | 1 | 0 | all |" in text


def test_another_photograph_is_not_stored_as_the_usual_one(tmp_path):
    with pytest.raises(ConfigError, match="this is a part: own photo"):
        outside.main(["--photo", str(tmp_path / "x.jpg"), "--store"])
