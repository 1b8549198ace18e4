"""The speed benchmarks: each runs once in small, and compares what it says it does."""

import json

import pytest
import torch

from benchmarks import speed

SMALL = ["--batch", "2", "--rounds", "1", "--dtype", "float32", "--device", "cpu"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["edit", "--rounds", "1"], ["toy, 10 steps"]),
        (["sampling", "--steps", "2"], ["minikontext", "diffusers", "minikontext / diffusers"]),
        (["training_step"], ["minikontext", "diffusers", "minikontext / diffusers"]),
        (["attention"], ["fused", "plain", "formula", "fused / plain", "fused / formula"]),
    ],
)
def test_it_measures_its_sides_in_turn(tmp_path, words, names):
    out = tmp_path / "out.json"
    threads = torch.get_num_threads()
    found = speed.main([*words, *SMALL, "--json", str(out)])
    torch.set_num_threads(threads)
    assert list(found) == names or words[0] == "edit"
    assert all(row["min"] <= row["median"] <= row["max"] for row in found.values())
    kept = json.loads(out.read_text())
    assert kept["results"] == found and kept["setting"]["batch"] == "2"


def test_sizes_are_really_those_of_the_edits():
    """An edit that the pipeline brought back to a known size would cost the same at all of them."""
    sides = speed.sizes(speed.options().parse_args(["sizes", "--weights", "toy-pro"]))
    assert len(sides) == 9
    for name in ("64 x 64, 1 steps", "96 x 96, 4 steps", "128 x 128, 1 steps"):
        out, side = sides[name](), int(name.split()[0])
        assert out.images[0].size == (side, side) and out.latents.shape[-1] == side // 8


def test_both_loops_sample_the_same(monkeypatch):
    args = speed.options().parse_args(["sampling", *SMALL, "--steps", "3"])
    torch.manual_seed(0)
    ours, theirs = (side() for side in speed.sampling(args).values())
    shift = abs(ours - theirs).max()
    assert ours.shape == theirs.shape and shift < 0.5 * abs(ours).max()


def test_the_start_is_measured_beyond_a_bare_python(capfd):
    found = speed.main(["start", "--rounds", "1"])
    assert list(found) == ["python", "import minikontext", "--help"]
    assert found["python"]["more"] == 0 and found["python"]["seconds"] > 0
    assert "usage: minikontext" not in capfd.readouterr().out
