"""A session of the editing widget: one file, from which the same pixels are made again."""

import json
import warnings
from dataclasses import replace

import pytest
from PIL import Image

import minikontext as mk
from minikontext.course import session
from minikontext.course.editing import EditingWidget
from minikontext.course.session import replay
from minikontext.errors import ConfigError, WeightsWarning

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (48, 64), "blue")}
RING = {"kind": "ellipse", "points": [[0.2, 0.3], [0.8, 0.7]]}


def do(demo, prompt):
    demo.prompt.value = prompt
    demo.run.click()
    demo.wait()


@pytest.fixture
def demo(tiny):
    """Every kind of step: from latents, a branch, marks, a second picture, a size, seeds."""
    demo = EditingWidget(tiny(), PICTURES, ["a sign"])
    do(demo, "make the hat red")
    do(demo, "a sign")
    demo._go(0)
    demo._heard({"mark": RING})
    do(demo, "make the circled tree pink")
    demo.second.value, demo.size.value = "blue", "80 × 48"
    demo.steps.value, demo.guidance.value = 2, 1.5
    do(demo, "two")
    demo.strip.click()
    demo.wait()
    assert [turn.parent for turn in demo.turns] == [-1, 0, 0, 2, 3, 3, 3, 3], demo.status.value
    return demo


def test_a_session_replays_to_the_same_pixels(demo, tmp_path):
    path = demo.save_session(tmp_path / "session.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        made = mk.replay(path, demo.pipe)
    assert len(made) == 8
    for out, turn in zip(made, demo.turns, strict=True):
        assert out.images[0].tobytes() == turn.output.images[0].tobytes()
        assert out.seeds == turn.output.seeds
    assert len({out.images[0].tobytes() for out in made}) == 8


def test_the_browser_gets_the_same_file(demo, tmp_path):
    (tmp_path / "a.json").write_bytes(demo.session.encode(demo.pipe))
    assert demo.save_session(tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    assert 'download="session.json"' in demo.download.value


def test_other_weights_are_told(demo, tiny, tmp_path):
    path = demo.save_session(tmp_path / "session.json")
    demo.pipe.transformer.final_layer.linear.bias.data += 0.5
    with pytest.warns(WeightsWarning, match=r"Not the pixels of the session: edit 1, 2, .* of 8"):
        replay(path, demo.pipe)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"fingerprint": "0" * 64}))
    with pytest.warns(WeightsWarning, match="made with other weights"):
        replay(path, demo.pipe)


def test_a_session_that_asks_for_days_of_work_is_told_beforehand(demo, tmp_path):
    path = demo.save_session(tmp_path / "session.json")
    steps = sum(turn.wish.steps or demo.pipe.defaults.num_inference_steps for turn in demo.turns)
    with pytest.raises(ConfigError, match=rf"asks for {steps} steps in 8 edits.*most={steps}"):
        replay(path, demo.pipe, most=steps - 1)
    assert len(replay(path, demo.pipe, most=steps)) == 8


def test_a_session_of_large_pictures_is_days_of_work_too(tiny, tmp_path, monkeypatch):
    pipe = tiny()
    edit = {"prompt": "a hat", "steps": 1, "width": 2**14, "height": 2**14}
    told = {"weights": "x", "fingerprint": "", "start": None, "pictures": {}, "edits": [edit]}
    path = tmp_path / "session.json"
    path.write_text(json.dumps({"format": session.FORMAT, **told}))
    with pytest.raises(ConfigError, match="asks for 65,536 steps in 1 edits"):
        replay(path, pipe)
    picture = session._text(Image.new("RGB", (64, 64)))
    path.write_text(json.dumps({"format": session.FORMAT, **told, "start": picture, "edits": [],
                                "pictures": {"a": picture, "b": picture}}))  # fmt: skip
    monkeypatch.setattr(session, "MOST_PIXELS", 3 * 64 * 64)
    assert replay(path, pipe) == []
    monkeypatch.setattr(session, "MOST_PIXELS", 3 * 64 * 64 - 1)
    with pytest.raises(ConfigError, match="pictures have more than"):
        replay(path, pipe)


def test_a_session_without_a_picture_starts_from_words(tiny, tmp_path):
    demo = EditingWidget(tiny(), PICTURES, ["a sign"])
    demo.picture.value = "no picture"
    do(demo, "a sign")
    made = replay(demo.save_session(tmp_path / "s.json"), demo.pipe)
    assert made[0].images[0].tobytes() == demo.current.tobytes()


def first(values, **changes):
    return values | {"edits": [values["edits"][0] | changes, *values["edits"][1:]]}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda v: v | {"format": "other"}, "no session"),
        (lambda v: v | {"more": 1}, "more"),
        (lambda v: v | {"start": "§"}, "cannot be read"),
        (lambda v: v | {"start": "aGVsbG8="}, "picture"),
        (lambda v: v | {"weights": "../elsewhere"}, "replay\\(path, pipe\\)"),
        (lambda v: first(v, parent=0), "edit 1 starts from edit 1"),
        (lambda v: first(v, others=["gone"]), "needs a picture 'gone'"),
        (lambda v: first(v, steps=10**9), "steps"),
        (lambda v: first(v, marks=[RING | {"points": [[0, 9]]}]), "points"),
    ],
)
def test_a_file_that_is_no_session_is_refused(spoil, said, tiny, tmp_path):
    demo = EditingWidget(tiny(), PICTURES, ["a sign"])
    do(demo, "a sign")
    path = demo.save_session(tmp_path / "s.json")
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    pipe = None if "pipe" in said else demo.pipe
    with pytest.raises((ConfigError, mk.MinikontextError), match=said):
        replay(path, pipe)


def test_a_file_that_is_not_there_is_told(tiny, tmp_path):
    with pytest.raises(ConfigError, match="Cannot read"):
        replay(tmp_path / "none.json")


@pytest.mark.weights
def test_the_file_names_its_shipped_weights(tmp_path):
    pipe = mk.KontextPipeline.from_pretrained("toy-max", device="cpu", dtype="float32")
    demo = EditingWidget(pipe)
    demo.steps.value = 1
    do(demo, "make the hat red")
    made = replay(demo.save_session(tmp_path / "s.json"))
    assert made[0].images[0].tobytes() == demo.current.tobytes()
    assert replace(made[0].provenance[0], pixels="").weights == "toy-max"
