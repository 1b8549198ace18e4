"""Widgets without a browser: set traits, click buttons, look at the parts."""

import asyncio
import io
import json
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from ipywidgets import Button, SelectionSlider
from ipywidgets.widgets.widget import _instances  # what kernel and page keep
from PIL import ExifTags, Image

from minikontext.course import session
from minikontext.course.browser import PAUSE
from minikontext.course.editing import EditingWidget, difference
from minikontext.course.latents import LatentWidget
from minikontext.course.samples import EXAMPLES, Example, pictures
from minikontext.course.session import MARKS, Mark, drawn, replay
from minikontext.course.style import STATIC
from minikontext.course.trajectory import TrajectoryWidget, trajectory
from minikontext.errors import PromptWarning, WeightsWarning, warn
from minikontext.images import png_bytes, provenance, read
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import vocabulary

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (48, 64), "blue")}


@pytest.fixture
def demo(tiny):
    return EditingWidget(tiny(), PICTURES, ["make the hat red", "a sign"])


def shown(box):
    return Image.open(io.BytesIO(box.png))


def edit(demo, prompt="make the hat red"):
    demo.prompt.value = prompt
    demo.run.click()
    return demo.wait()


def test_an_edit_changes_the_picture(demo):
    before = demo.image.value
    edit(demo)
    assert "Done: 3 steps" in demo.status.value and "mk-done" in demo.status.value
    assert "of the picture changed" in demo.status.value
    assert demo.image.value != before and shown(demo.before).size == (64, 64)
    assert demo.progress.value == demo.progress.max == 3
    assert not demo.run.disabled and demo.working.layout.visibility == "hidden"


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
    assert demo.undo.disabled and demo.current == PICTURES["grey"]
    demo.undo.click()  # nothing left to take back: nothing happens
    assert demo.head == -1 and len(demo.history.children) == 3


def test_any_result_of_the_history_can_be_gone_on_from(demo):
    first = edit(demo).current
    second = edit(demo, "the hat").current
    demo.history.children[1].children[1].click()  # start, first, second
    assert demo.current.tobytes() == first.tobytes() and shown(demo.before).size == (64, 64)
    demo.seed.value = 7
    third = edit(demo, "a sign").current
    assert third.tobytes() != second.tobytes() and demo.path() == [0, 2]
    assert [turn.parent for turn in demo.turns] == [-1, 0, 0]
    faded = ["mk-faded" in thumb.children[0]._dom_classes for thumb in demo.history.children]
    assert faded == [False, False, True, False]
    demo.history.children[1].children[1].click()
    demo.seed.value = 8
    edit(demo, "a sign")  # the same wish with another seed: beside it, not behind it
    faded = ["mk-faded" in thumb.children[0]._dom_classes for thumb in demo.history.children]
    assert faded == [False, False, True, False, False]
    demo.history.children[0].children[1].click()
    assert demo.current == PICTURES["grey"] and demo.undo.disabled


def test_parts_that_go_are_let_go_and_those_that_stay_are_the_same(tiny):
    """What is not closed stays for good; what is made anew hears no click that comes late."""
    pipe = tiny()
    pipe.defaults = replace(pipe.defaults, max_contexts=3)
    demo = EditingWidget(pipe, PICTURES | {"red": Image.new("RGB", (64, 64), "red")},
                         ["a sign", Example("the hat", "other")])  # fmt: skip
    edit(edit(demo, "a sign"), "the hat")

    def work():
        for words in ("make the haat red", "the zzzz ha", ""):
            demo.prompt.value = words
        for i in (0, 2, 1):
            demo.history.children[i].children[1].click()
        for name in ("blue", "red"):
            demo.second.value = name
        kept = demo.chips.children[1]
        demo.chips.children[0].children[1].click()
        assert demo.chips.children == (kept,)
        kept.children[1].click()
        for task in ("other", "examples"):
            demo.tasks.value = task

    work()
    before = len(_instances)
    work()
    assert len(_instances) == before
    tiles = demo.history.children
    demo.history.children[0].children[1].click()
    demo.seed.value = 5
    edit(demo, "a sign")  # now there are two of these words, told apart by their seeds
    assert demo.history.children[:3] == tiles and len(demo.history.children) == 4
    assert tiles[1].children[1].description == "1. seed 0: a sign"
    assert 'alt="1. seed 0: a sign"' in tiles[1].children[0].value
    demo.picture.value = "blue"
    assert len(_instances) < before and not demo.history.children


def test_a_second_picture_is_a_second_context(demo):
    demo.second.value = "blue"
    edit(demo)
    out = demo.pipe("make the hat red", image=[PICTURES["grey"], PICTURES["blue"]], seed=0,
                    num_inference_steps=3, progress=False)  # fmt: skip
    assert demo.current.tobytes() == out.images[0].tobytes()


def test_without_a_picture_words_alone_paint(demo):
    demo.picture.value = "no picture"
    assert demo.current is None and "paint" in demo.status.value
    edit(demo)
    alone = demo.pipe("make the hat red", seed=0, num_inference_steps=3, progress=False)
    assert demo.current.tobytes() == alone.images[0].tobytes()
    edit(demo, "a sign")
    assert demo.path() == [0, 1] and "no edit" not in demo.after_caption.value


def test_the_difference_shows_what_changed(demo):
    edit(demo)
    result = demo.image.value
    demo.view.value = "Difference"
    changed = difference(PICTURES["grey"], demo.current)
    assert shown(demo.image).tobytes() == changed.tobytes() and demo.image.value != result
    demo.view.value = "Result"
    assert demo.image.value == result
    assert not any(difference(demo.current, demo.current).tobytes())


def test_random_pictures_come_from_a_seed(tiny):
    demo = EditingWidget(tiny())
    demo.random.click()
    one = demo.current.tobytes()
    demo.random.click()
    assert demo.picture.value == "random 2" and demo.current.tobytes() != one
    demo.picture.value = "random 1"
    assert demo.current.tobytes() == one and "random 2" in demo.second.options


def test_unfinished_words_are_offered_endings(demo):
    demo.prompt.value = "make the ha"
    chip = next(c for c in demo.suggestions.children if c.description == "hat")
    assert "Unknown" not in demo.status.value
    chip.click()
    assert demo.prompt.value == "make the hat" and not demo.suggestions.children


def test_the_toy_knows_every_word_of_the_shipped_examples():
    encoder = ToyTextEncoder(ToyTextConfig(vocabulary=vocabulary()))
    assert not [note for example in EXAMPLES for note in encoder.report(example.prompt)]


def test_every_shipped_example_opens_its_pictures_and_knows_its_words(tiny):
    demo = EditingWidget(tiny())
    seen = 0
    for task in demo.tasks.options:
        demo.tasks.value = task
        for chip in demo.presets.children:
            chip.click()
            seen += 1
            assert demo.prompt.value == chip.description
    assert seen == len(EXAMPLES) and (demo.picture.value, demo.others) == ("no picture", [])


def test_another_seed_draws_the_last_edit_anew(demo):
    edit(demo)
    demo.steps.value, demo.guidance.value, demo.size.value = 2, 3, demo.size.options[1]
    edit(demo, "a sign")
    seed, wish = demo.seed.value, demo.turns[-1].wish
    demo.steps.value, demo.guidance.value, demo.size.value = 4, 5, demo.size.options[-1]
    demo.again.click()
    demo.wait()
    assert len(demo.turns) == 3 and demo.turns[-1].prompt == "a sign"
    assert demo.turns[-1].parent == demo.turns[-2].parent == 0
    assert demo.seed.value != seed and demo.turns[-1].output.seeds == [demo.seed.value]
    # All but the seed as it was, whatever the dials have said since; and they say it again.
    assert replace(demo.turns[-1].wish, seed=wish.seed, pixels=wish.pixels) == wish
    assert (demo.steps.value, demo.guidance.value) == (2, 3)
    assert demo.size.value == demo.size.options[1] != demo.size.options[-1]


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
    assert demo.run.disabled and demo.working.layout.visibility == "visible"
    begun = len(steps)
    demo.cancel.click()
    demo.wait()
    assert len(steps) <= begun + 1  # the running step ends, or one that had just begun
    assert "Cancelled" in demo.status.value and not demo.turns
    assert shown(demo.image).tobytes() == PICTURES["grey"].tobytes()


def test_a_second_click_while_running_starts_nothing(demo):
    demo.run.click()
    demo.run.click()
    demo.wait()
    assert len(demo.turns) == 1


def test_when_the_status_says_how_it_went_the_next_click_counts(demo):
    seen = []
    demo.status.observe(
        lambda change: seen.append((change["new"], demo.at_work or demo.run.disabled)), "value"
    )
    edit(demo)
    assert "Done" in seen[-1][0]
    assert not any(dropped for text, dropped in seen if "mk-busy" not in text)


@pytest.mark.parametrize("how", ["click", "enter"])
def test_letters_that_come_after_the_click_or_enter_count(demo, how):
    async def browser():
        demo.prompt.value = "make the"
        if how == "click":
            demo.run.click()
        else:
            demo.prompt._handle_string_msg(demo.prompt, {"event": "submit"}, [])
        await asyncio.sleep(0.1)
        demo.prompt.value = "make the hat red"
        await asyncio.sleep(PAUSE + 0.1)

    asyncio.run(browser())
    demo.wait()
    assert [turn.prompt for turn in demo.turns] == ["make the hat red"]


def test_the_words_at_the_click_count_though_the_last_letters_are_on_their_way(demo):
    """What the browser does where the kernel is slow: the field's letters come after the Enter."""

    async def browser():
        demo.prompt.value = "make the"
        demo.asked.value = "17 make the hat red"
        demo.prompt._handle_string_msg(demo.prompt, {"event": "submit"}, [])
        await asyncio.sleep(PAUSE + 0.1)

    asyncio.run(browser())
    demo.wait()
    assert [turn.prompt for turn in demo.turns] == ["make the hat red"]


def test_unknown_words_are_shown_with_suggestions(demo):
    demo.prompt.value = "make the haat red"
    assert "haat" in demo.status.value and "mk-note" in demo.status.value
    chip = next(c for c in demo.suggestions.children if c.description == "haat → hat")
    chip.click()
    assert demo.prompt.value == "make the hat red" and not demo.suggestions.children
    edit(demo, "the zzzz hat")
    assert "Finished" in demo.status.value and "zzzz" in demo.status.value


def test_two_widgets_at_work_at_once_keep_their_notes_and_nobody_elses_warnings(tiny):
    """`catch_warnings` is for all threads: left in another order, it hides warnings for ever."""
    first, second = (EditingWidget(tiny(), PICTURES, ["make the hat red"]) for _ in range(2))
    begun, go_on = threading.Event(), threading.Event()

    def held(info):
        begun.set()
        go_on.wait()
        return EditingWidget._step(first, info)

    first._step = held
    before = list(warnings.filters), warnings.showwarning
    first.prompt.value = "make the hat xyzzy"
    first.run.click()
    begun.wait()
    with pytest.warns(PromptWarning, match="here"):
        warn(PromptWarning("here"))  # of no widget
    edit(second, "make the hat plugh")
    second.wait()
    go_on.set()
    first.wait()
    assert "xyzzy" in first.status.value and "plugh" not in first.status.value
    assert "plugh" in second.status.value and "xyzzy" not in second.status.value
    assert (list(warnings.filters), warnings.showwarning) == before


def test_html_in_a_prompt_is_only_text(demo):
    edit(demo, "<img src=x onerror=alert(1)>\u202e")
    for part in (demo.status, demo.after_caption):
        assert "<img" not in part.value and "\u202e" not in part.value
    tile, name = demo.history.children[1].children
    assert isinstance(name, Button)  # shows text as it is
    assert "\u202e" not in name.description + name.tooltip + tile.value


def test_errors_show_in_the_status_line(demo):
    demo.pipe.transformer.final_layer.linear.bias.data.fill_(float("nan"))
    edit(demo)
    assert "mk-error" in demo.status.value and "step 1 of 3" in demo.status.value
    assert not demo.turns and not demo.run.disabled


def test_presets_fill_the_prompt_and_open_what_they_need(tiny):
    examples = ["a sign", Example("this style", "styles", "blue", "grey")]
    demo = EditingWidget(tiny(), PICTURES, examples)
    demo.presets.children[0].click()
    assert demo.prompt.value == "a sign" and not demo.turns and demo.picture.value == "grey"
    demo.tasks.value = "styles"
    demo.presets.children[0].click()
    assert (demo.picture.value, demo.others) == ("blue", ["grey"])
    assert demo.random.layout.display == "none"


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


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("content", [png_bytes(Image.new("RGB", (64, 64), "red")), b"no picture"])
def test_reading_an_upload_is_said_before_and_is_over_after(tiny, add, content):
    demo, said = EditingWidget(tiny(), PICTURES, ["a sign"]), []
    demo.status.observe(lambda change: said.append(change["new"]), "value")
    demo.adding = add
    demo._open_upload([{"name": "mine.png", "content": content}])
    assert "mk-busy" in said[0] and "Reading mine.png" in said[0]
    assert "mk-busy" not in demo.status.value
    assert ("mine.png" in demo.others) == (add and content != b"no picture")
    before = len(said)
    demo._open_upload(())
    assert len(said) == before


def test_of_several_uploads_the_first_is_edited_and_the_rest_are_seen(tiny):
    pipe = tiny()
    pipe.defaults = replace(pipe.defaults, max_contexts=3)
    demo = EditingWidget(pipe, PICTURES, ["a sign"])
    colours = ["red", "green", "yellow"]
    uploads = [{"name": f"{c}.png", "content": png_bytes(Image.new("RGB", (64, 64), c))}
               for c in colours]  # fmt: skip
    demo._open_upload(uploads)
    assert demo.picture.value == "red.png" and demo.others == ["green.png", "yellow.png"]
    edit(demo)
    squares = [Image.new("RGB", (64, 64), c) for c in colours]
    out = pipe("make the hat red", squares, seed=0, num_inference_steps=3, progress=False)
    assert demo.current.tobytes() == out.images[0].tobytes()
    # Dropped on the tray they join; the oldest goes where the weights see no more.
    demo._heard({"drop": "", "add": True})
    demo._open_upload([{"name": "blue.png", "content": png_bytes(PICTURES["blue"])}])
    assert demo.picture.value == "red.png" and len(demo.turns) == 1
    assert demo.others == ["yellow.png", "blue.png"] and "green.png was left" in demo.status.value
    demo.chips.children[0].children[1].click()
    assert demo.others == ["blue.png"]


def test_a_result_dropped_on_the_tray_is_a_context(demo):
    first = edit(demo).current
    demo._heard({"drop": "1. make the hat red", "add": True})
    assert demo.others == ["1. make the hat red"] and len(demo.turns) == 1
    demo._go(-1)
    edit(demo, "a sign")
    both = [PICTURES["grey"], first]
    out = demo.pipe("a sign", both, seed=0, num_inference_steps=3, progress=False)
    assert demo.current.tobytes() == out.images[0].tobytes()
    demo._heard({"drop": "blue", "add": False})
    assert demo.picture.value == "blue" and not demo.turns
    for nonsense in ({"drop": "nothing", "add": True}, {"drop": ["x"]}, {"mark": 3}, {}):
        demo._heard(nonsense)
    demo.easel.said.value = "[1, 2"
    assert demo.others == ["1. make the hat red"] and not demo.marks


ELLIPSE = {"kind": "ellipse", "points": [[0.25, 0.25], [0.75, 0.75]]}
STROKE = {"kind": "brush", "points": [[0.1, 0.9], [0.9, 0.9]]}


def test_marks_are_drawn_on_what_the_next_edit_sees(demo):
    demo.easel.said.value = json.dumps({"mark": ELLIPSE})
    demo.easel.said.value = json.dumps({"mark": STROKE})
    seen = np.asarray(shown(demo.image)).astype(int)
    red = (seen[..., 0] > 200) & (seen[..., 1] < 90)
    assert red[32, 16] and red[16, 32] and red[57, 32] and not red[32, 32] and not red[5, 5]
    edit(demo)
    marked = Image.fromarray(seen.astype(np.uint8))
    assert demo.turns[0].before.tobytes() == marked.tobytes() and not demo.marks
    out = demo.pipe("make the hat red", marked, seed=0, num_inference_steps=3, progress=False)
    assert demo.current.tobytes() == out.images[0].tobytes()
    demo.easel.said.value = json.dumps({"mark": STROKE, "number": 3})
    assert demo.clear.layout.display is None
    demo.clear.click()
    assert not demo.marks and demo.clear.layout.display == "none"


NO_MARKS = [{"kind": "cross", "points": [[0, 0]]}, {"kind": "brush"},
            {**STROKE, "points": [[0, 2]]}, {**STROKE, "points": []}]  # fmt: skip


@pytest.mark.parametrize("bad", NO_MARKS)
def test_what_is_no_mark_is_refused(demo, bad):
    demo._heard({"mark": bad})
    assert "mk-error" in demo.status.value and not demo.marks


def test_below_the_result_lies_the_picture_before(demo):
    edit(demo)
    demo.view.value = "Compare"
    assert shown(demo.easel.under).tobytes() == PICTURES["grey"].tobytes()


def meanwhile(demo, act):
    """Do something in the middle of the next edit, once."""
    real = demo.pipe.transformer.forward

    def forward(*args, **kwargs):
        demo.pipe.transformer.forward = real
        act()
        return real(*args, **kwargs)

    demo.pipe.transformer.forward = forward


def test_what_is_typed_or_taken_away_meanwhile_is_for_the_next_edit(demo):
    demo.second.value, demo.prompt.value = "blue", "make the hat red"

    def act():
        demo.prompt.value = "a si"
        demo.chips.children[0].children[1].click()

    meanwhile(demo, act)
    demo.strip.click()
    demo.wait()
    asked = {(turn.prompt, turn.wish.others, turn.verdict.scene) for turn in demo.turns}
    assert asked == {("make the hat red", ("blue",), None)} and len(demo.turns) == 4
    assert demo.prompt.value == "a si" and demo.others == ["blue"]


@pytest.mark.parametrize("stop", [False, True])
def test_marks_drawn_while_an_edit_runs_are_on_what_comes_of_it(demo, stop):
    seen = []

    def act():
        demo._heard({"mark": STROKE})
        if stop:
            demo.cancel.click()

    def red(image):
        pixels = np.asarray(image).astype(int)
        return pixels[57, 32, 0] > 200 and pixels[57, 32, 1] < 90

    demo.image.observe(lambda _: seen.append(red(shown(demo.image))), "value")
    meanwhile(demo, act)
    edit(demo)
    assert demo.marks == [Mark("brush", ((0.1, 0.9), (0.9, 0.9)))]
    assert red(shown(demo.image)) and (stop or any(seen[:-1]))  # already while it goes on
    assert len(demo.turns) == (not stop) and demo.clear.layout.display is None
    edit(demo)
    assert demo.turns[-1].wish.marks and not demo.marks
    meanwhile(demo, lambda: (demo._heard({"mark": STROKE}), demo._heard({"clear": True})))
    edit(demo)
    assert not demo.marks


def test_what_is_dropped_while_an_edit_runs_is_in_the_menus_and_told(demo):
    def act():
        assert not demo.upload.disabled  # the page hands files over by this button
        demo._heard({"drop": "the result", "add": True})
        png = png_bytes(Image.new("RGB", (64, 64), "green"))
        files = {"broken.png": b"no picture", "green.png": png}
        demo._open_upload([{"name": name, "content": files[name]} for name in files])

    edit(demo)
    meanwhile(demo, act)
    edit(demo, "a sign")
    assert {"1. make the hat red", "green.png"} <= set(demo.second.options)
    told = demo.status.value
    assert "Done: 3 steps" in told and "1. make the hat red is in the menus" in told
    assert "green.png is in the menus" in told and "broken.png: " in told
    assert demo.picture.value == "grey" and len(demo.turns) == 2
    edit(demo)
    assert "menus" not in demo.status.value


@pytest.mark.parametrize("how", ["chip", "menu", "upload"])
def test_no_other_picture_is_opened_while_an_edit_runs(tiny, how):
    examples = ["make the hat red", Example("a sign", "examples", "blue")]
    demo, png = EditingWidget(tiny(), PICTURES, examples), png_bytes(PICTURES["blue"])
    acts = {
        "chip": demo.presets.children[1].click,
        "menu": lambda: setattr(demo.picture, "value", "blue"),
        "upload": lambda: demo._open_upload([{"name": "x.png", "content": png}]),
    }
    meanwhile(demo, acts[how])
    edit(demo)
    assert "Done" in demo.status.value and len(demo.turns) == 1
    assert demo.picture.value == "grey" and demo.session.start == PICTURES["grey"]
    assert ("x.png" in demo.picture.options) == (how == "upload")
    assert not demo.presets.children[1].disabled
    demo.picture.value = "blue"
    assert not demo.turns and demo.session.start == PICTURES["blue"]


def test_another_seed_that_is_cancelled_leaves_no_marks_behind(demo):
    demo._heard({"mark": STROKE})
    edit(demo)
    meanwhile(demo, demo.cancel.click)
    demo.again.click()
    demo.wait()
    assert "Cancelled" in demo.status.value and len(demo.turns) == 1
    assert not demo.marks and demo.clear.layout.display == "none"


def test_a_name_stands_for_one_picture_for_good(demo, tmp_path):
    """What an edit saw under a name is what its session's file has, whatever came after it."""
    first = edit(demo).current
    demo._heard({"drop": "the result", "add": True})
    second = edit(demo, "a sign").current
    demo._heard({"drop": "the result", "add": True})
    assert demo.pictures["1. make the hat red"].tobytes() == first.tobytes()
    assert demo.pictures["2. a sign"].tobytes() == second.tobytes()
    for colour in ("red", "green"):
        demo._heard({"drop": "", "add": True})
        png = png_bytes(Image.new("RGB", (64, 64), colour))
        demo._open_upload([{"name": "x.png", "content": png}])
        edit(demo)
    assert [turn.wish.others for turn in demo.turns[2:]] == [("x.png",), ("x.png (2)",)]
    again = replay(demo.save_session(tmp_path / "session.json"), demo.pipe)
    made = [turn.output.images[0].tobytes() for turn in demo.turns]
    assert [out.images[0].tobytes() for out in again] == made
    demo.picture.value = "blue"  # another session: its first result is another one
    third = edit(demo).current
    demo._heard({"drop": "1. make the hat red", "add": True})
    assert demo.others == ["1. make the hat red (2)"]
    assert demo.pictures[demo.others[0]].tobytes() == third.tobytes()


def test_another_picture_of_a_known_ones_name_is_not_known(tiny):
    demo = EditingWidget(tiny(), PICTURES, ["a sign"])
    for picture, known in ((pictures()["cat"], True), (PICTURES["grey"], False)):
        demo._open_upload([{"name": "c.png", "content": png_bytes(picture)}])
        assert (demo._scene(-1) is not None) == known


def test_an_unlocked_seed_is_drawn_anew_and_a_locked_one_stays(demo):
    edit(demo)
    edit(demo)
    assert [turn.wish.seed for turn in demo.turns] == [0, 0]
    demo.lock.value = False
    edit(demo)
    assert demo.turns[-1].wish.seed == demo.seed.value != 0


def test_a_strip_of_seeds_gives_what_each_gives_alone(demo):
    demo.prompt.value, demo.seed.value = "a sign", 5
    demo.strip.click()
    demo.wait()
    assert [turn.output.seeds for turn in demo.turns] == [[5], [6], [7], [8]]
    assert {turn.parent for turn in demo.turns} == {-1} and demo.head == 0
    out = demo.pipe("a sign", PICTURES["grey"], seed=7, num_inference_steps=3, progress=False)
    assert demo.turns[2].output.images[0].tobytes() == out.images[0].tobytes()
    names = [tile.children[1].description for tile in demo.history.children]
    assert names[3] == "3. seed 7: a sign"


def test_a_size_is_offered_and_used(tiny):
    pipe = tiny()
    demo = EditingWidget(pipe, PICTURES, ["a sign"])
    offered = [f"{width} × {height}" for width, height in pipe.defaults.sizes]
    assert list(demo.size.options) == ["as the picture", *offered]
    assert isinstance(demo.size, SelectionSlider)
    demo.size.value = sorted(offered)[0]
    edit(demo)
    assert demo.current.size == tuple(map(int, demo.size.value.split(" × ")))


def test_download_and_save_keep_how_it_was_made(demo, tmp_path):
    assert demo.download.value == ""
    edit(demo)
    assert 'download="make-the-hat-red.png"' in demo.download.value
    made = provenance.read(demo.save(tmp_path / "x.png"))
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
    assert knobs.image.value != plain and "Channel 2" in knobs.status.value
    pushed = knobs.image.value
    knobs.noise.value = 1.0
    assert knobs.image.value != pushed
    knobs.reset.click()
    assert knobs.image.value == plain


def turned():
    """A picture whose camera lay on its side: 48 × 64 to look at."""
    picture = Image.new("RGB", (64, 48), "blue")
    picture.paste("yellow", (0, 0, 20, 48))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


def see_through():
    """Half transparent, and black below."""
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste("blue", (0, 0, 32, 64))
    return picture


DEEP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype("u2")
ODD = {"turned": turned, "see-through": see_through, "16 bit": lambda: Image.fromarray(DEEP),
       "ink": lambda: Image.new("CMYK", (64, 64), (0, 200, 200, 0))}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_a_picture_of_any_kind_is_shown_and_kept_as_it_is_edited(tiny, tmp_path, kind):
    seen = read(ODD[kind]())
    demo = EditingWidget(tiny(), {"odd": ODD[kind](), **PICTURES}, ["a sign"],
                         lambda seed: ODD[kind]())  # fmt: skip
    for opened in (demo, TrajectoryWidget(tiny(), {"odd": ODD[kind]()}, ["a sign"])):
        assert shown(opened.before).tobytes() == seen.tobytes()
    edit(demo)
    demo.undo.click()
    demo.easel.said.value = json.dumps({"mark": STROKE})
    edit(demo)
    assert demo.turns[1].before.tobytes() == drawn(seen, [Mark(**STROKE)]).tobytes()
    demo.random.click()
    demo.second.value = "odd"
    assert demo.current.tobytes() == seen.tobytes()
    edit(demo)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        replay(demo.save_session(tmp_path / "session.json"), demo.pipe)


def test_latents_and_paths_are_those_of_the_picture_as_it_is_shown(tiny_pipe):
    straight, lying = ({"odd": one} for one in (read(turned()), turned()))
    first, second = (LatentWidget(tiny_pipe.autoencoder, one) for one in (straight, lying))
    assert shown(first.image).tobytes() == shown(second.image).tobytes()
    first, second = (trajectory(tiny_pipe, "a sign", one["odd"], 1) for one in (straight, lying))
    assert first.steps[0].clean.equal(second.steps[0].clean)


def test_what_a_file_brings_is_told_and_a_broken_one_of_several_keeps_nobody_out(demo):
    moving, frames = io.BytesIO(), [Image.new("RGB", (64, 64), c) for c in ("red", "blue")]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    png = png_bytes(Image.new("RGB", (64, 64), "green"))
    files = {"broken.png": b"no picture", "moving.gif": moving.getvalue(), "green.png": png}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what only the log of a kernel says, nobody reads
        demo._open_upload([{"name": name, "content": files[name]} for name in files])
    assert demo.picture.value == "moving.gif" and demo.others == ["green.png"]
    assert "broken.png" in demo.status.value and "several pictures" in demo.status.value
    assert "mk-error" in demo.status.value


def test_more_marks_than_a_session_holds_are_refused(demo, tmp_path):
    for number in range(MARKS + 1):
        demo.easel.said.value = json.dumps({"mark": STROKE, "number": number})
    assert "100 marks" in demo.status.value and "mk-error" in demo.status.value
    edit(demo)
    assert len(demo.turns[0].wish.marks) == MARKS
    assert len(replay(demo.save_session(tmp_path / "session.json"), demo.pipe)) == 1


def test_more_edits_than_a_session_holds_are_refused(demo, monkeypatch):
    monkeypatch.setattr(session, "EDITS", 2)
    edit(edit(demo), "a sign")
    assert len(demo.turns) == 2 and "Done" in demo.status.value
    edit(demo)
    assert len(demo.turns) == 2 and "2 edits" in demo.status.value
    assert "mk-error" in demo.status.value


@pytest.mark.parametrize("bad", ["x" * 60_000, "a \ud800 hat"])
def test_words_that_no_encoder_takes_are_told_as_they_are_typed(demo, bad):
    for widget in (demo, TrajectoryWidget(demo.pipe, PICTURES, ["a sign"])):
        widget.prompt.value = bad
        assert "Got" in widget.status.value and "prompt" in widget.status.value
        assert "mk-note" in widget.status.value
        widget.prompt.value = "a sign"
        assert "mk-idle" in widget.status.value


def test_letters_that_come_after_a_click_on_several_seeds_count(demo):
    async def browser():
        demo.prompt.value = "make the"
        demo.strip.click()
        await asyncio.sleep(0.1)
        demo.prompt.value = "make the hat red"
        await asyncio.sleep(PAUSE + 0.1)

    asyncio.run(browser())
    demo.wait()
    assert [turn.prompt for turn in demo.turns] == ["make the hat red"] * 4
    # And the browser says what stands in the field at these clicks alone.
    asks = [part for part in (demo.run, demo.strip, demo.again) if "mk-asks" in part._dom_classes]
    script = (STATIC / "names.js").read_text(encoding="utf-8")
    assert asks == [demo.run, demo.strip] and 'closest(".mk-asks")) ask()' in script
