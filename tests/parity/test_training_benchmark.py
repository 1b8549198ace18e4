"""The benchmark of the toy's recipe is fair: both sides train the same weights the same way."""

import argparse

import pytest

from benchmarks import speed


def test_both_sides_do_the_same_step():
    args = argparse.Namespace(device="cpu", dtype="float32", batch=4)
    ours, theirs = speed.recipe(args), speed.recipe(args, theirs=True)
    loops = [side.func.__self__ for side in (ours, theirs)]
    muon, all_of_it = (
        [sum(p.numel() for p in part(loop).values()) for loop in loops]
        for part in (lambda loop: loop.optimizer.views, lambda loop: loop.optimizer.names)
    )
    assert muon[0] == muon[1] > 0 and all_of_it[0] == all_of_it[1]
    first, later = ([side()[name] for side in (ours, theirs)] for name in ("norm", "loss"))
    assert first[0] == pytest.approx(first[1], rel=1e-4)
    assert later[0] == pytest.approx(later[1], rel=1e-4)  # after a step: both have learned
