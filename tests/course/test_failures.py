"""The failures' widget: filters, turning pages, and the reason below each answer."""

from minikontext.course.failures import Answer, FailuresWidget, balanced, describe
from minikontext.toyworld import sample_edit, score


def answers():
    """The right answer and the untouched input, to six local cases and six text-to-image ones."""
    made = []
    for task in ("local", "text to image"):
        cases = (sample_edit(i, 4, split="test") for i in range(2000))
        for case in [c for c, _ in zip((c for c in cases if c.task == task), range(6))]:
            wrong = case.context_images() or [sample_edit(7, 4).target_image()]
            for picture in (case.target_image(), wrong[0]):
                made.append(Answer(case, picture, score(picture, case)))
    return made


ANSWERS = answers()


def test_failures_come_first_and_filters_choose():
    demo = FailuresWidget(ANSWERS)
    assert len(demo.chosen) == 12 and not demo.shown.score.success
    demo.kind.value = True
    assert len(demo.chosen) == 12 and demo.shown.score.success and "mk-done" in demo.status.value
    demo.category.value = "local"
    demo.kind.value = None
    assert len(demo.chosen) == 12 and {a.case.task for a in demo.chosen} == {"local"}
    assert "local: 6 of 12 fail" in [label for label, _ in demo.category.options]


def test_pages_turn_and_stop_at_both_ends():
    demo = FailuresWidget(ANSWERS)
    assert demo.back.disabled and not demo.forward.disabled
    first = demo.boxes["answer"].value
    for _ in range(30):
        demo.forward.click()
    assert demo.place.value == 11 and demo.forward.disabled and demo.boxes["answer"].value != first
    demo.back.click()
    assert demo.place.value == 10 and "11 of 12" in demo.prompt.value


def test_the_reason_names_what_is_wrong():
    lazy = next(a for a in ANSWERS if a.case.contexts and not a.score.success)
    assert "instruction" in describe(lazy) and ", not " in describe(lazy) and lazy.misread
    demo = FailuresWidget(ANSWERS)
    demo.category.value = "text to image"
    assert demo.columns.children[0].layout.display == "none"  # there is none
    layout = demo.columns.layout  # the browser's tests say what comes of it
    assert layout.grid_template_columns == balanced(3)
    demo = FailuresWidget([a for a in ANSWERS if a.score.success])
    assert demo.shown is None and "choose another" in demo.status.value
