"""A live training without a browser, and the plane of rectified flow."""

import time

import pytest
import torch

from minikontext.course import flow_pictures as plane
from minikontext.course import live, plots
from minikontext.sampler import schedule
from minikontext.toyworld import sample_edit
from minikontext.transformer import TransformerConfig

CASES = [sample_edit(i, 1, split="test") for i in range(2)]


def least():
    base = live.small()
    sizes = {**vars(base), "hidden_size": 32, "num_heads": 2, "axes_dim": (4, 6, 6), "depth": 1}
    words = {"vec_in_dim": 16, "context_in_dim": 16, "in_channels": 16, "out_channels": 16}
    return TransformerConfig(**{**sizes, **words, "depth_single_blocks": 1})


@pytest.fixture
def lesson(tiny_pipe):
    model = live.new_editor(0, least())
    pairs = live.encode_pairs(tiny_pipe.autoencoder, model.text, count=12)
    return live.LiveTraining(model, pairs, tiny_pipe.autoencoder, CASES, batch=4, every=0.1)


def test_pairs_are_the_training_stream(tiny_pipe):
    model = live.new_editor(0, least())
    pairs = live.encode_pairs(tiny_pipe.autoencoder, model.text, count=6)
    case = sample_edit(4, 1)
    expected = tiny_pipe.encode(case.context_images()[0])
    assert torch.allclose(pairs.contexts[4], expected, atol=1e-4)
    assert torch.allclose(pairs.target[4:5], tiny_pipe.encode(case.target_image()), atol=1e-4)
    assert torch.equal(pairs.tokens[4][:1], model.text.tokenize([case.prompt])) and len(pairs) == 6


def test_training_here_and_now(lesson, monkeypatch):
    before = {k: v.clone() for k, v in lesson.model.state_dict().items()}
    assert lesson.train(40) is lesson
    assert "Done: 40 of 40 steps" in lesson.status.value and len(lesson.losses) == 40
    assert [steps for steps, _ in lesson.snapshots] == [0, 6, 18, 40]
    assert any(not torch.equal(before[k], v) for k, v in lesson.model.state_dict().items())
    assert lesson.curve.value and lesson.edits.value and not lesson.run.disabled
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    lesson.show_tries("Tries")
    assert shown[0].alt.startswith(f"Tries; {CASES[0].prompt}; after 0 steps; after 6 steps")


def test_it_starts_from_nothing_every_time(lesson):
    first = lesson.train(20).losses
    assert lesson.train(20).losses == first


def test_the_button_trains_and_stop_stops(lesson):
    lesson.steps.value = 1000
    lesson.run.click()
    lesson.run.click()  # a second click starts nothing
    until = time.monotonic() + 30
    while not lesson.losses and time.monotonic() < until:
        time.sleep(0.01)
    assert lesson.run.disabled and lesson.working.layout.visibility == "visible"
    seen = len(lesson.losses)
    lesson.cancel.click()
    lesson.wait()
    assert len(lesson.losses) <= seen + 2  # the running step, and one that had just begun
    assert "Stopped" in lesson.status.value and not lesson.run.disabled
    assert lesson.working.layout.visibility == "hidden" and lesson.losses


def test_errors_show_in_the_status_line(lesson):
    lesson.rate.value = 10**-1.5
    lesson.model.transformer.img_in.bias.data.fill_(float("nan"))
    lesson._start_weights = lesson.model.state_dict()
    lesson.train(20)
    assert "mk-error" in lesson.status.value and not lesson.run.disabled


def test_success_is_a_share(tiny_pipe):
    assert 0 <= live.success(live.new_editor(0, least()), tiny_pipe.autoencoder, CASES) <= 1


def test_a_running_mean():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0])
    assert live.averaged(values, 2).tolist() == [1.0, 2.0, 4.0, 6.0]
    assert len(live.averaged(torch.tensor([]))) == 0


# ---- the plane


def test_with_one_point_the_field_is_straight():
    x = torch.tensor([[1.0, 2.0]])
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    t = torch.full((5,), 0.4)
    z = 0.6 * x + 0.4 * noise
    assert torch.allclose(plane.average_velocity(x)(z, t), noise - x, atol=1e-5)


def test_the_field_is_the_mean_over_pairs():
    """Against brute force: of many random pairs, those that pass close by."""
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(400_000, 2, generator=draw)
    pick = x[torch.randint(2, (len(noise),), generator=draw)]
    t, here = 0.6, torch.tensor([0.15, 0.2])
    near = ((1 - t) * pick + t * noise - here).norm(dim=1) < 0.05
    expected = (noise - pick)[near].mean(dim=0)
    got = plane.average_velocity(x)(here[None], torch.tensor([t]))[0]
    assert torch.allclose(got, expected, atol=0.05)


@pytest.mark.parametrize("name", plane.ANSWERS)
def test_many_steps_end_on_the_data(name):
    x = plane.answers(name)
    noise = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    stops = plane.walk(plane.average_velocity(x), noise, schedule(40, shifted=False))
    assert stops.shape == (41, 50, 2)
    assert torch.cdist(stops[-1], x).min(dim=1).values.max() < 0.6


def test_between_stops():
    times, stops = (
        torch.tensor([1.0, 0.5, 0.0]),
        torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[2.0, 4.0]]]),
    )
    at = [plane.between(times, stops, t)[0].tolist() for t in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert at == [[0, 0], [1, 0], [2, 0], [2, 2], [2, 4]]


def test_the_flow_widget_follows_its_dials():
    demo = plane.FlowWidget(points=20)
    seen, side = {demo.image.png}, demo.side.png
    for part, value in ((demo.t, 0.1), (demo.steps, 1), (demo.answers, "six"), (demo.seed, 3)):
        part.value = value
        seen.add(demo.image.png)
    assert len(seen) == 5 and "One step" in demo.status.value
    assert demo.side.value != side
    demo.answers.value, demo.steps.value = "one", 1
    assert "0 of 20" in demo.status.value
