"""The race of teacher and students: every picture, its clock, and a Cancel that works."""

import pytest
from PIL import Image

from minikontext.course.few_steps import FewStepsWidget
from minikontext.pipeline import KontextPipeline

PICTURES = {"cat": Image.new("RGB", (64, 64), "blue")}


@pytest.fixture(scope="module")
def pipe():
    return KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")


def test_every_weights_and_step_count_gives_a_picture_and_a_clock(pipe):
    race = FewStepsWidget({"one": pipe, "two": pipe}, PICTURES, steps=(1, 3))
    race.run.click()
    race.wait()
    assert set(race.seconds) == {("one", 1), ("one", 3), ("two", 1), ("two", 3)}
    assert race.boxes["one", 3].png == race.boxes["two", 3].png != race.boxes["one", 1].png
    assert all(" s<" in clock.value for clock in race.clocks.values())
    race.prompt.value = "make it night"
    race.prompt.value = "make the cat red"
    assert not race.seconds and "Press Race" in race.status.value


def test_what_the_work_warns_of_is_said_with_the_clocks(pipe):
    race = FewStepsWidget({"one": pipe, "two": pipe}, PICTURES, steps=(1,))
    race.prompt.value = "make the zorgblatt red"
    race.run.click()
    race.wait()
    assert "mk-note" in race.status.value and "Which is the first" in race.status.value
    assert race.status.value.count("zorgblatt") == 1  # once for all passes


def test_cancel_stops_within_a_step_and_an_error_is_shown(pipe):
    race = FewStepsWidget({"one": pipe}, PICTURES, steps=(28,))
    race._step = lambda info: race._stop.set() or info.step < 3  # Cancel while the third step runs
    race.run.click()
    race.wait()
    assert "Cancelled after 0 of 1" in race.status.value and not race.run.disabled
    race = FewStepsWidget({"one": pipe}, PICTURES, steps=(1,))
    race.seed.value = 0
    race._edit = lambda *_: 1 / 0
    race.run.click()
    race.wait()
    assert "ZeroDivisionError" in race.status.value
