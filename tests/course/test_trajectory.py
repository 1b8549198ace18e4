"""The trajectory widget without a browser, and the path it shows."""

import io
import time

import pytest
import torch
from PIL import Image

from minikontext.course.trajectory import STRIP, TrajectoryWidget, strip, trajectory
from minikontext.errors import Cancelled

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (48, 64), "blue")}
PROMPT = "make the hat red"


@pytest.fixture
def demo(tiny):
    return TrajectoryWidget(tiny(), PICTURES, [PROMPT, ""])


def sample(demo):
    demo.run.click()
    return demo.wait()


def test_the_path_ends_where_the_pipeline_ends(tiny_pipe):
    path = trajectory(tiny_pipe, PROMPT, PICTURES["grey"], steps=3, seed=4, guidance=2.0)
    out = tiny_pipe(PROMPT, image=PICTURES["grey"], seed=4, num_inference_steps=3,
                    true_cfg_scale=2.0, progress=False)  # fmt: skip
    assert torch.allclose(path.steps[-1].latents, out.latents, atol=1e-5)
    assert len(path.steps) == 3 and len(path.times) == 4


def test_mu_moves_the_times(tiny_pipe):
    plain = trajectory(tiny_pipe, PROMPT, PICTURES["grey"], steps=2, mu=0.0)
    moved = trajectory(tiny_pipe, PROMPT, PICTURES["grey"], steps=2, mu=2.0)
    assert plain.times[1] == 0.5 and moved.times[1] > 0.8


def test_a_callback_stops_the_path(tiny_pipe):
    with pytest.raises(Cancelled):
        trajectory(tiny_pipe, PROMPT, PICTURES["grey"], steps=3, callback=lambda info: False)


def test_the_strip_lights_the_current_step():
    times = torch.linspace(1, 0, 5)
    assert strip(times).size == (2 * STRIP[0], 2 * STRIP[1])
    assert strip(times, 1).tobytes() != strip(times, 4).tobytes() != strip(times).tobytes()


def test_steps_can_be_scrubbed(demo):
    assert demo.scrub.layout.display == "none"
    sample(demo)
    assert demo.path and demo.step.value == demo.step.max == 3
    assert demo.scrub.layout.display == "flex" and "Step 3 of 3" in demo.status.value
    last = demo.image.value, demo.noisy.value, demo.line.value
    demo.step.value = 1
    assert "Step 1 of 3: from t = 1.000" in demo.status.value
    assert all(a != b for a, b in zip(last, (demo.image.value, demo.noisy.value, demo.line.value)))
    demo.step.value = 3
    assert (demo.image.value, demo.noisy.value, demo.line.value) == last


def test_at_the_end_the_latents_are_the_estimate(demo):
    sample(demo)
    assert demo.image.png == demo.noisy.png


@pytest.mark.parametrize("dial, value", [("steps", 5), ("shift", 3.0), ("guidance", 4.0),
                                         ("seed", 7), ("prompt", "a sign")])  # fmt: skip
def test_a_turned_dial_forgets_the_path_and_changes_the_next(demo, dial, value):
    sample(demo)
    before = demo.image.value
    getattr(demo, dial).value = value
    assert demo.path is None and "Press Sample" in demo.status.value
    sample(demo)
    assert demo.image.value != before


def test_the_times_move_before_any_run(demo):
    line = demo.line.value
    demo.shift.value = 3.0
    assert demo.line.value != line


def test_presets_and_pictures(demo):
    demo.presets.children[1].click()
    assert demo.prompt.value == "" and demo.presets.children[1].description == "(no words)"
    demo.picture.value = "blue"
    sample(demo)
    assert Image.open(io.BytesIO(demo.image.png)).size == (48, 64)


def test_cancel_stops(demo):
    steps = []
    real = demo.pipe.transformer.forward

    def slow(*args, **kwargs):
        steps.append(1)
        time.sleep(0.05)
        return real(*args, **kwargs)

    demo.pipe.transformer.forward = slow
    demo.steps.value = 50
    demo.run.click()
    while len(steps) < 2:
        time.sleep(0.01)
    assert demo.run.disabled and demo.working.layout.visibility == "visible"
    begun = len(steps)
    demo.cancel.click()
    demo.wait()
    assert len(steps) <= begun + 1  # the running step ends, or one that had just begun
    assert "Cancelled" in demo.status.value and demo.path is None
    assert not demo.run.disabled and demo.working.layout.visibility == "hidden"


def test_errors_show_in_the_status_line(demo):
    demo.pipe.transformer.final_layer.linear.bias.data.fill_(float("nan"))
    sample(demo)
    assert "mk-error" in demo.status.value and "step 1 of 3" in demo.status.value
    assert demo.path is None and not demo.run.disabled


def test_wait_gives_up_in_time(demo):
    real = demo.pipe.transformer.forward
    demo.pipe.transformer.forward = lambda *a, **k: (time.sleep(0.2), real(*a, **k))[1]
    demo.run.click()
    with pytest.raises(TimeoutError):
        demo.wait(0.01)
    demo.wait()


def test_unknown_words_are_said_before_and_after(demo):
    demo.prompt.value = "the zzzz hat"
    assert "zzzz" in demo.status.value and "mk-note" in demo.status.value
    demo.prompt._handle_string_msg(demo.prompt, {"event": "submit"}, [])  # as the browser sends it
    demo.wait()
    assert "zzzz" in demo.status.value and "Step 3 of 3: from t" in demo.status.value
