"""What the discriminator tells apart: pairs are counted where they lie, and by whose they are."""

from dataclasses import replace

import pytest
import torch

from benchmarks import ladd_lab, told_apart
from benchmarks.told_apart import JUDGED, Pairs
from minikontext import flow
from minikontext.errors import TrainingError
from minikontext.training.runs import alone

pytestmark = pytest.mark.filterwarnings("ignore:Unknown word", "ignore:The prompt has")
TINY = ladd_lab.Plan(steps=2, answers=1, tokens=1400, batches=1, head_start=1)


@pytest.fixture(scope="module")
def trained(tiny_pipe, tmp_path_factory):
    """The work folder of a tiny laboratory, its editor, and the pairs of one batch."""
    work, pipe = tmp_path_factory.mktemp("work"), tiny_pipe
    return work, pipe, told_apart.run(TINY, pipe, work, 1)


def test_all_pairs_of_a_batch_are_told_by_start_noise_and_distance(trained):
    _, _, pairs = trained
    assert {one.judged for one in pairs} == set(JUDGED) and len({one.start for one in pairs}) == 4
    for case in {one.case for one in pairs}:
        for start in {one.start for one in pairs}:
            counts = [one.places for one in pairs
                      if (one.case, one.start, one.judged) == (case, start, 0.5)]  # fmt: skip
            assert sum(counts) == 16 and 1 <= len(counts) <= 2  # each place of 64 x 64 once
    assert all(0 <= one.above <= 1 and 0 <= one.signs <= 1 for one in pairs)
    text = told_apart.page(pairs, "A plan.")
    assert text.count("| 1.00 (") == 2 and "judged at 0.9" in text


def test_what_is_trained_is_opened_and_one_who_trains_is_not_disturbed(trained, monkeypatch):
    work, pipe, pairs = trained
    def again(step, microbatch=None):
        pytest.fail("a step was done twice")

    monkeypatch.setattr(ladd_lab, "clocked", lambda loss: again)
    assert told_apart.run(TINY, pipe, work, 1) == pairs
    folder = work / ladd_lab.folder_of(ladd_lab.sized(pipe)) / "ladd/0"
    with alone(folder), pytest.raises(TrainingError, match="Another training works in"):
        told_apart.run(TINY, pipe, work, 1)


def test_heads_that_know_the_answers_put_them_above_everywhere(trained, monkeypatch):
    work, pipe, _ = trained
    pipe = ladd_lab.sized(pipe)
    stream = work / ladd_lab.folder_of(pipe) / "unseen"
    given = ladd_lab.gather(TINY, ladd_lab.ARMS["ladd"], pipe, stream, seed=1)
    model, _ = ladd_lab.build_loss(TINY, ladd_lab.ARMS["ladd"], 0, given)
    x = given.inputs().inputs(0, torch.Generator().manual_seed(31))[0]

    def knows(model, teacher, y, t, inputs):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        near = (flow.interpolate(y, noise, torch.full((len(y),), t)) - y).abs().mean()
        knows.calls += 1
        sign = 1.0 if knows.calls % 2 else -1.0  # real is asked first
        return sign * near.expand(3, len(y), 16)

    knows.calls = 0
    monkeypatch.setattr(told_apart, "logits", knows)
    found = told_apart.examine(model, given, 1)
    assert all(one.above == 1 and one.signs == 1 for one in found)
    assert told_apart.share(found).startswith("100.0")
    assert told_apart.share([]) == "–"
    half = [replace(found[0], above=0.0), replace(found[1], above=1.0)]
    assert told_apart.share(half).startswith("50.0") and isinstance(half[0], Pairs)
