"""MiniKontextBench 2: what its sets hold, and that outcomes are kept by case."""

import json

import pytest

from benchmarks import suite
from minikontext.bench.mini import CATEGORIES
from minikontext.editing.codec import Codec
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld.sizes import TRAINED, UNSEEN
from minikontext.toyworld.split import pairs_of


@pytest.mark.parametrize("name", suite.SETS)
def test_each_set_holds_what_it_says_and_nothing_of_another_split(name):
    rows = suite.cases_of(name, "dev", 8 / suite.SETS[name].cases)
    assert len({key for key, *_ in rows}) == len(rows) == 8
    assert rows == suite.cases_of(name, "dev", 8 / suite.SETS[name].cases)
    for _, case, size in rows:
        assert case.split == "dev" and suite.SETS[name].suits(case) and case.prompt
        assert size in (UNSEEN if name == "unseen sizes" else TRAINED)
        assert bool(case.wishes) == (name == "two wishes")
    shown = [scene for _, case, _ in rows for scene in (*case.contexts, case.target)]
    assert name != "pairs held out" or sum(bool(pairs_of(scene)) for scene in shown) >= 8


def test_the_main_sets_are_as_large_as_kontext_benchs():
    sizes = {name: suite.SETS[name].cases for name in suite.MAIN}
    assert sizes == {task: cases for task, _, cases in CATEGORIES} and sum(sizes.values()) == 1026


def test_a_part_is_scored_by_both_judges_and_kept_by_case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = suite.main(["--share", "0.02", "--sets", "text", "two images", "--steps", "1"])
    stored = json.loads(
        (tmp_path / "runs" / "bench" / "suite-dev-0.02" / "suite_toy_dev.json").read_text()
    )
    assert (
        {name: len(rows) for name, rows in stored["outcomes"].items()}
        == {name: len(rows) for name, rows in found.items()}
        == {"text": 2, "two images": 2}
    )
    assert stored["split"] == "dev" and stored["steps"] == 1
    assert stored["weights"] == KontextPipeline.from_pretrained("toy").weights_fingerprint
    text = (tmp_path / "runs" / "bench" / "suite-dev-0.02" / "suite_toy_dev.md").read_text()
    assert "KontextBench's five together** | 2 |" in text and "two images | 2 |" in text


def test_contexts_of_other_sizes_are_seen_as_they_are_or_as_an_edit_brings_them(monkeypatch):
    rows = suite.cases_of("local", "dev", 4 / suite.SETS["local"].cases)
    cases = [case for _, case, _ in rows]
    assert suite.context_sizes(cases[0], 0, (96, 64), (64, 64)) == ((64, 64),)
    assert suite.context_sizes(cases[0], 0, (96, 64), False) == ((96, 64),)
    assert suite.context_sizes(cases[0], 0, (96, 64), True)[0] in {*TRAINED} - {(96, 64)}
    pipe, seen = KontextPipeline.from_pretrained("toy-any"), []
    encode = Codec.encode

    def noted(self, pictures):
        seen.extend(picture.size for picture in pictures)
        return encode(self, pictures)

    monkeypatch.setattr(Codec, "encode", noted)
    for resize, size in (("none", (64, 64)), ("kontext", (80, 80))):
        seen.clear()
        suite.edit_all(pipe, cases[:1], (80, 80), (64, 64), resize=resize, num_inference_steps=1)
        assert seen == [size]


def test_shares_are_of_the_outcomes():
    made = [
        suite.Outcome(f"x-{i}", (64, 64), "add_sign", i < 3, True, i < 1, 30.0) for i in range(4)
    ]
    label, cases, oracle, span, reader, agreed, psnr = suite.line("x", made)
    assert (label, cases, oracle, reader, agreed, psnr) == ("x", 4, 75.0, 25.0, 50.0, 30.0)
    assert span.endswith("to 100.0")


@pytest.mark.parametrize("share", ["0", "-1", "2"])
def test_a_share_is_a_part_of_the_whole(share):
    with pytest.raises(ConfigError, match=f"--share {share}"):
        suite.main(["--share", share, "--store"])
