"""Widgets without a browser: set traits, click buttons, look at the parts."""

import io
import time

import pytest
from PIL import Image

from minikontext.course.widgets import EditingWidget, LatentWidget
from minikontext.images import read_provenance

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (48, 64), "blue")}


@pytest.fixture
def demo(tiny):
    return EditingWidget(tiny(), PICTURES, ["make the hat red", "a sign"])


def shown(box):
    return Image.open(io.BytesIO(box.value))


def edit(demo, prompt="make the hat red"):
    demo.prompt.value = prompt
    demo.run.click()
    return demo.wait()


def test_an_edit_changes_the_picture(demo):
    before = demo.image.value
    edit(demo)
    assert "Done: 3 steps" in demo.status.value and "mk-done" in demo.status.value
    assert demo.image.value != before and shown(demo.before).size == (64, 64)
    assert demo.progress.value == demo.progress.max == 3
    assert not demo.run.disabled and demo.working.layout.display == "none"


def test_the_same_settings_give_the_pipelines_own_picture(demo):
    demo.seed.value, demo.steps.value = 5, 2
    edit(demo)
    out = demo.pipe("make the hat red", image=PICTURES["grey"], seed=5, num_inference_steps=2,
                    progress=False)  # fmt: skip
    assert demo.current.tobytes() == out.images[0].tobytes()


def test_edits_go_on_from_the_result_and_can_be_taken_back(demo):
    first = edit(demo).current
    second = edit(demo, "a sign").current
    assert len(demo.history.children) == 3 and first.tobytes() != second.tobytes()
    chained = demo.pipe("a sign", image=demo.turns[0].output, seed=0, num_inference_steps=3,
                        progress=False)  # fmt: skip
    assert second.tobytes() == chained.images[0].tobytes()
    demo.undo.click()
    assert demo.current.tobytes() == first.tobytes() and demo.prompt.value == "a sign"
    demo.undo.click()
    assert demo.undo.disabled and demo.current is PICTURES["grey"] and not demo.history.children
    demo.undo.click()  # nothing left to take back: nothing happens


def test_another_seed_draws_the_last_edit_anew(demo):
    edit(demo)
    edit(demo, "a sign")
    seed = demo.seed.value
    demo.again.click()
    demo.wait()
    assert len(demo.turns) == 2 and demo.turns[-1].prompt == "a sign"
    assert demo.seed.value != seed and demo.turns[-1].output.seeds == [demo.seed.value]


def test_cancel_stops_and_changes_nothing(demo):
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
    assert demo.run.disabled and demo.working.layout.display == "flex"
    demo.cancel.click()
    demo.wait()
    assert "Cancelled" in demo.status.value and not demo.turns and len(steps) < 50
    assert shown(demo.image).tobytes() == PICTURES["grey"].tobytes()


def test_a_second_click_while_running_starts_nothing(demo):
    demo.run.click()
    demo.run.click()
    demo.wait()
    assert len(demo.turns) == 1


def test_unknown_words_are_shown_with_suggestions(demo):
    demo.prompt.value = "make the haat red"
    assert "haat" in demo.status.value and "mk-note" in demo.status.value
    chip = next(c for c in demo.suggestions.children if c.description == "haat → hat")
    chip.click()
    assert demo.prompt.value == "make the hat red" and not demo.suggestions.children
    edit(demo, "the zzzz hat")
    assert "Done" in demo.status.value and "zzzz" in demo.status.value


def test_html_in_a_prompt_is_only_text(demo):
    edit(demo, "<img src=x onerror=alert(1)>")
    for part in (demo.status, demo.after_caption, *[t.children[1] for t in demo.history.children]):
        assert "<img" not in part.value


def test_errors_show_in_the_status_line(demo):
    demo.pipe.transformer.final_layer.linear.bias.data.fill_(float("nan"))
    edit(demo)
    assert "mk-error" in demo.status.value and "step 1 of 3" in demo.status.value
    assert not demo.turns and not demo.run.disabled


def test_presets_fill_the_prompt(demo):
    demo.presets.children[1].click()
    assert demo.prompt.value == "a sign" and not demo.turns


def test_choosing_a_picture_starts_over(demo):
    edit(demo)
    demo.picture.value = "blue"
    assert not demo.turns and shown(demo.image).size == (48, 64)


def test_uploads_are_opened_and_bad_ones_reported(demo):
    png = io.BytesIO()
    Image.new("RGB", (80, 40), "red").save(png, "PNG")
    upload = {"name": "mine.png", "type": "image/png", "size": 1, "last_modified": None}
    demo._open_upload([{**upload, "content": memoryview(png.getvalue())}])
    assert demo.picture.value == "mine.png" and shown(demo.before).size == (80, 40)
    edit(demo)
    assert demo.current.size == (80, 40) and "resized" in demo.status.value
    demo._open_upload([{**upload, "content": memoryview(b"no picture")}])
    assert "mk-error" in demo.status.value and demo.picture.value == "mine.png"


def test_download_and_save_keep_how_it_was_made(demo, tmp_path):
    assert demo.download.value == ""
    edit(demo)
    assert 'download="make-the-hat-red.png"' in demo.download.value
    made = read_provenance(demo.save(tmp_path / "x.png"))
    assert (made.prompt, made.seed, made.steps) == ("make the hat red", "0", "3")


def test_wait_gives_up_in_time(demo):
    real = demo.pipe.transformer.forward
    demo.pipe.transformer.forward = lambda *a, **k: (time.sleep(0.2), real(*a, **k))[1]
    demo.run.click()
    with pytest.raises(TimeoutError):
        demo.wait(0.01)
    demo.wait()


def test_latents_can_be_pushed_and_reset(tiny_pipe):
    knobs = LatentWidget(tiny_pipe.autoencoder, PICTURES)
    plain = knobs.image.value
    knobs.channel.value, knobs.push.value = 2, 3.0
    assert knobs.image.value != plain and "channel 2" in knobs.status.value
    pushed = knobs.image.value
    knobs.noise.value = 1.0
    assert knobs.image.value != pushed
    knobs.reset.click()
    assert knobs.image.value == plain
