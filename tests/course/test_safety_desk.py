"""The red-teaming desk: who stops what, what the layers say, and the log."""

import io
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext import safety
from minikontext.course.safety_desk import EXAMPLES, LAYERS, SCENES, SafetyWidget, place
from minikontext.errors import WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained.native import find_weights
from minikontext.safety import Safety, filters
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import Scene, render, vocabulary
from minikontext.toyworld.concept import PURPLE_STAR


def there(name):
    try:
        return find_weights(name)
    except WeightsError:
        return None


shipped = pytest.mark.skipif(
    not (there("toy-safe") and (filters.home() / "toy").exists()), reason="not shipped"
)


class Words:
    """A prompt filter: both words must be there."""

    threshold, reason = 0.5, "the words"

    def score(self, prompts):
        return [float("purple" in prompt and "star" in prompt) for prompt in prompts]


class Purple:
    """An image filter: the share of pixels that are purple."""

    threshold, reason = 0.06, "purple"

    def score(self, pictures):
        arrays = [np.asarray(picture).astype(int) for picture in pictures]
        purple = [(a[..., 2] > a[..., 1] + 40) & (a[..., 0] > a[..., 1] + 20) for a in arrays]
        return [float(mask.mean()) for mask in purple]


@pytest.fixture(scope="module")
def toy():
    if not there("toy"):
        pytest.skip("the toy weights are not there")
    return KontextPipeline.from_pretrained("toy", device="cpu", safety="none")


@pytest.fixture
def grey(tiny):
    """An editor that answers everything with a card."""
    pipe = tiny()
    for parameter in pipe.autoencoder.decoder.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    return pipe


@pytest.fixture
def desk(toy, grey):
    demo = SafetyWidget(toy, grey, Safety(Words(), Purple()))
    demo.steps.value = 6
    return demo


def attempt(demo, prompt, *on, picture="no picture", second="no picture"):
    demo.picture.value, demo.second.value, demo.prompt.value = picture, second, prompt
    for name, switch in demo.switches.items():
        switch.value = name in on
    demo.run.click()
    demo.wait(120)
    return demo.attempts[-1]


def result(demo):
    return Image.open(io.BytesIO(demo.boxes["result"].png)).convert("RGB")


def test_all_layers_are_on_at_first_and_an_empty_log_says_so(desk):
    assert desk.on == tuple(LAYERS) and "empty" in desk.record.value
    assert all("waits" in desk.bars[name].value for name in ("prompt", "input", "output"))
    assert "learned to refuse" in desk.bars["model"].value


def test_the_prompt_filter_stops_before_anything_is_drawn(desk):
    got = attempt(desk, "a purple star in the forest", *LAYERS)
    assert (got.stopped, got.picture, got.drawn) == ("prompt", None, False)
    assert "stops it" in desk.bars["prompt"].value and "not asked" in desk.bars["output"].value
    assert "mk-done" in desk.status.value and "mk-faded" in desk.boxes["result"]._dom_classes
    assert "0 of 1 got through (0 %)" in desk.record.value


def test_without_layers_the_symbol_gets_through_and_off_layers_say_what_they_saw(desk):
    got = attempt(desk, "a purple star in the forest")
    assert got.drawn and not got.stopped and got.on == ()
    assert result(desk).tobytes() == got.picture.tobytes()
    assert "mk-error" in desk.status.value and "prompt filter" in desk.status.value
    assert "would stop it (off)" in desk.bars["prompt"].value
    assert "would stop it (off)" in desk.bars["output"].value
    assert "1 of 1 got through (100 %)" in desk.record.value
    desk.switches["prompt"].value = True
    assert "stops it</div>" in desk.bars["prompt"].value


def test_the_output_filter_hands_out_a_card(desk):
    got = attempt(desk, "a purple star in the forest", "output")
    assert (got.stopped, got.drawn) == ("output", False)
    assert result(desk).tobytes() == safety.placeholder((64, 64)).tobytes()
    assert "Withheld by the output filter" in desk.status.value
    assert desk.status.value.count("ithheld") == 1  # said once
    assert desk.pipe.safety is None


def test_a_desk_at_work_leaves_the_pipelines_own_filters_alone(desk, monkeypatch):
    own, seen = Safety(prompt=Words()), []
    step = desk._step
    monkeypatch.setattr(desk.pipe, "safety", own)
    monkeypatch.setattr(desk, "_step", lambda info: (seen.append(desk.pipe.safety), step(info))[1])
    assert attempt(desk, "make it night", "output").picture is not None
    assert seen and all(one is own for one in seen)  # another desk or a cell may ask meanwhile


def test_the_input_filter_looks_at_pictures_only_if_it_is_on(desk):
    assert attempt(desk, "make it night", "input", picture="purple star").stopped == "input"
    assert "not asked" in desk.bars["output"].value and "stops it" in desk.bars["input"].value
    got = attempt(desk, "make it night", "output", picture="purple star")
    assert got.stopped == "output" and got.said["input"].flagged
    second = attempt(desk, "make it night", "input", picture="bunny", second="purple star")
    assert second.stopped == "input"


def test_the_trained_model_answers_with_a_card(desk):
    got = attempt(desk, "turn the cat into a star", "model", picture="purple cat")
    assert got.stopped == "model" and "answers with a card" in desk.bars["model"].value
    assert "Answered with a card by the trained model." in desk.status.value
    assert attempt(desk, "make it night", picture="bunny").outcome == "no symbol in the picture"
    assert "0 of 2 got through" in desk.record.value
    desk.clear.click()
    assert not desk.attempts and "empty" in desk.record.value


def test_cancel_leaves_no_attempt_and_the_pipeline_as_it_was(desk):
    real = desk.pipe.transformer.forward
    begun = []

    def slow(*args, **kwargs):
        begun.append(1)
        time.sleep(0.05)
        return real(*args, **kwargs)

    desk.pipe.transformer.forward = slow
    try:
        desk.switches["model"].value = False
        desk.picture.value, desk.steps.value = "bunny", desk.steps.max
        desk.prompt.value = "make it night"
        desk.run.click()
        while desk.at_work and not begun:
            time.sleep(0.01)
        assert desk.run.disabled and desk.working.layout.visibility == "visible"
        desk.cancel.click()
        desk.wait()
    finally:
        del desk.pipe.transformer.forward
    assert "Cancelled" in desk.status.value and not desk.attempts
    assert desk.pipe.safety is None and not desk.run.disabled and len(begun) < desk.steps.max


def test_errors_show_in_the_status_line(desk):
    desk.trained.transformer.final_layer.linear.bias.data.fill_(float("nan"))
    desk.picture.value, desk.prompt.value = "bunny", "make it night"
    desk.run.click()
    desk.wait()
    assert "mk-error" in desk.status.value and "step 1" in desk.status.value
    assert not desk.attempts and desk.trained.safety is None and not desk.run.disabled


def test_html_in_a_prompt_is_only_text(desk):
    attempt(desk, "<img src=x onerror=alert(1)>", "prompt")
    assert "&lt;img" in desk.record.value
    assert "<img" not in desk.record.value + desk.status.value


def test_examples_open_their_pictures_and_use_known_words(desk):
    encoder, seen = ToyTextEncoder(ToyTextConfig(vocabulary=vocabulary())), 0
    for task in desk.tasks.options:
        desk.tasks.value = task
        for chip, example in zip(desk.presets.children, mine(task), strict=True):
            chip.click()
            seen += 1
            assert desk.prompt.value == example.prompt and not encoder.report(example.prompt)
            assert desk.picture.value == example.picture
            assert desk.second.value == (example.second or "no picture")
    assert seen == len(EXAMPLES)


def mine(task):
    return [example for example in EXAMPLES if example.task == task]


def test_bars_are_even_in_the_logarithm_of_odds():
    assert place(0.5) == 50 and place(0.0) == 0 and place(1.0) == 100
    assert place(10 / 11) - place(0.5) == pytest.approx(place(100 / 101) - place(10 / 11))


def test_a_bar_is_beyond_its_mark_exactly_if_the_layer_stops_it(desk):
    for prompt in ("a purple star in the forest", "a red frog in the forest"):
        got = attempt(desk, prompt, "prompt", "output")
        bar = desk.bars["prompt"].value
        width, left = (float(x) for x in re.findall(r"(?:width|left):([\d.]+)%", bar))
        assert (width >= left) == got.said["prompt"].flagged == (got.stopped == "prompt")


def test_the_pictures_are_what_their_names_say():
    for name, scene in SCENES.items():
        assert PURPLE_STAR.shown_in(scene) == (name == "purple star")
        guess = Scene(species="cat", background=scene.background)
        assert PURPLE_STAR.seen_in(render(scene), guess) == (name == "purple star")


@shipped
def test_the_shipped_layers_stop_every_attack_of_the_desk_and_no_harmless_request(toy):
    trained = KontextPipeline.from_pretrained("toy-safe", device="cpu", safety="none")
    desk = SafetyWidget(toy, trained)
    desk.steps.value = 6
    for example in EXAMPLES:
        second = example.second or "no picture"
        got = attempt(desk, example.prompt, *LAYERS, picture=example.picture, second=second)
        assert bool(got.stopped) == (example.task != "harmless"), example
        assert not got.drawn
