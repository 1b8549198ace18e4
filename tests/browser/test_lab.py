"""Real JupyterLab in a real browser: notebook 00 runs, and its widget obeys mouse and keyboard."""

import numpy as np
import pytest
from lab_page import (
    ATTENTION,
    HANDS,
    SAFETY,
    START,
    at,
    draw,
    marked,
    open_and_run,
    picture,
    red,
    settled,
    status,
    until,
    view,
    with_a,
)

from minikontext.images import provenance

pytestmark = pytest.mark.browser


def test_notebook_runs_and_its_widget_edits(page, lab, tmp_path):
    open_and_run(page, lab(START))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-picture")
    widget.scroll_into_view_if_needed()
    start = picture(widget)

    # Keyboard: a word that is not known, its suggestion, Enter.
    prompt = widget.locator(".mk-prompt input")
    prompt.click()
    page.keyboard.type("make the haat red")
    status(widget, "Unknown word")
    widget.locator(".mk-chip", has_text="haat → hat").click()
    until(lambda: prompt.input_value() == "make the hat red")
    prompt.press("Enter")
    status(widget, "Done")
    red = settled(widget)
    assert red != start

    # Mouse: a preset, then the button; the edit goes on from the result.
    widget.locator(".mk-chip", has_text="make it night").click()
    widget.locator(".mk-run").click()
    widget.locator(".mk-thumb").nth(2).wait_for()
    status(widget, "Done")
    night = settled(widget)
    assert night not in (start, red)

    # Cancel: a long edit, stopped; nothing has changed.
    for slider in (0, 1):
        widget.locator(".noUi-handle").nth(slider).press("End")
    widget.locator(".mk-run").click()
    status(widget, "Step")
    widget.locator("button", has_text="Cancel").click()
    status(widget, "Cancelled after step")
    until(lambda: picture(widget) == night)
    assert widget.locator(".mk-thumb").count() == 3

    # Download: the file knows how it was made.
    with page.expect_download() as download:
        widget.locator("a.mk-save", has_text="PNG").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "make-it-night.png" and provenance.read(file).prompt == "make it night"

    # Undo: back to the red hat.
    widget.locator("button", has_text="Undo").click()
    status(widget, "Took back")
    until(lambda: picture(widget) == red and prompt.input_value() == "make it night")

    # The keyboard alone: to a result of the history, back to the words, another edit.
    widget.locator("button", has_text="start").focus()
    page.keyboard.press("Enter")
    status(widget, "Go on from the start")
    until(lambda: picture(widget) == start)
    prompt.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("make the cat striped")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    status(widget, "Done")
    widget.locator(
        ".mk-caption", has_text="“make the cat striped”"
    ).wait_for()  # to the last letter
    assert settled(widget) not in (start, red, night)
    assert widget.locator(".mk-thumb").count() == 4


def test_the_attention_widget_answers_a_click(page, lab):
    open_and_run(page, lab(ATTENTION))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-patch")
    before = widget.locator(".mk-status").inner_text()
    widget.locator(".mk-stack").nth(0).locator(".mk-patch").nth(6).click()  # row 2, column 3
    status(widget, "row 2, column 3 looks")
    for key, place in (("ArrowRight", "row 2, column 4"), ("ArrowDown", "row 3, column 4")):
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        status(widget, f"{place} looks")
    # All patches of a picture together are one stop for Tab.
    patches = "e => [...e.querySelectorAll('.mk-patch')].filter(x => x.tabIndex === 0).length"
    assert widget.locator(".mk-stack").nth(0).evaluate(patches) == 1
    assert widget.locator(".mk-status").inner_text() != before
    widget.locator(".mk-stack").nth(-1).locator(".mk-patch").nth(20).click()
    status(widget, "block 6, head 1")

    # Words that are not known are named before and after; Enter takes the last letter, too.
    widget.locator(".mk-prompt input").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("make the haat red")
    page.keyboard.press("Enter")
    widget.locator(".mk-words", has_text="<unk>").wait_for()
    status(widget, "Unknown word 'haat'")


def test_the_desk_of_safety_obeys_its_switches(page, lab):
    open_and_run(page, lab(SAFETY))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-layer")
    widget.scroll_into_view_if_needed()
    switch = {name: widget.locator("button.mk-layer", has_text=name) for name in
              ("prompt filter", "input filter", "trained model", "output filter")}  # fmt: skip
    widget.locator("select").first.select_option("no picture")
    widget.locator(".mk-prompt input").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("a purple star in the forest")
    page.keyboard.press("Enter")
    status(widget, "Stopped by the prompt filter")
    for one in switch.values():
        one.click()
    widget.locator(".mk-run").click()
    status(widget, "It got through")
    switch["output filter"].click()
    widget.locator(".mk-run").click()
    status(widget, "Withheld by the output filter")
    assert widget.locator(".mk-log tr").count() == 4  # a head and three attempts
    widget.locator("button", has_text="Clear the log").click()
    widget.locator(".mk-log", has_text="The log is empty").wait_for()


def test_a_cue_is_drawn_by_mouse_finger_and_keyboard(page, lab):
    open_and_run(page, lab(HANDS))
    widget = page.locator(".mk").first
    widget.scroll_into_view_if_needed()
    board = widget.locator(".mk-board")
    assert not board.is_visible() and not len(red(widget)[0])

    view(widget, "Ellipse")
    draw(page, board, (0.25, 0.25), (0.5, 0.5), (0.75, 0.75))
    status(widget, "sees these marks")

    def ring(rows, columns):
        far = np.hypot(rows - 0.5, columns - 0.5)
        return far.min() > 0.2 and far.max() < 0.3

    marked(widget, ring)

    view(widget, "Brush")
    finger = page.context.new_cdp_session(page)
    for kind, place in (("touchStart", (0.2, 0.8)), ("touchMove", (0.5, 0.8)),
                        ("touchMove", (0.8, 0.8)), ("touchEnd", None)):  # fmt: skip
        points = [dict(zip("xy", at(board, *place), strict=True))] if place else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    marked(widget, lambda rows, columns: abs(rows - 0.8).max() < 0.06 and np.ptp(columns) > 0.5)

    view(widget, "Ellipse")
    board.focus()
    for key in (*["ArrowLeft"] * 5, *["Shift+ArrowUp"] * 3, "Enter"):
        page.keyboard.press(key)
    marked(widget, lambda rows, columns: abs(columns.mean() - 0.3) < 0.05)
    board.focus()
    page.keyboard.press("Enter")
    until(lambda: len(red(widget)[0]))
    page.keyboard.press("Escape")
    until(lambda: not len(red(widget)[0]))


def test_the_slider_compares_and_a_dropped_file_is_one_more_picture(page, lab):
    open_and_run(page, lab(HANDS))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    # The pipeline is a table of its parts, an output its picture.
    table = page.locator("table", has_text="KontextTransformer")
    assert table.locator("tbody tr").count() == 3
    assert page.locator("figure img[alt='make the hat red']").count() == 1

    widget = page.locator(".mk").first
    widget.scroll_into_view_if_needed()
    board = widget.locator(".mk-board")
    view(widget, "Ellipse")
    draw(page, board, (0.2, 0.2), (0.8, 0.8))
    status(widget, "sees these marks")
    widget.locator(".mk-prompt input").fill("make it night")
    widget.locator(".mk-prompt input").press("Enter")
    widget.locator(".mk-thumb").nth(1).wait_for()

    # The slider, by keyboard and by mouse: what is left of it is the picture before.
    view(widget, "Compare")
    cut = "e => getComputedStyle(e.querySelector('.mk-under')).clipPath"
    stage, slider = widget.locator(".mk-stage"), widget.locator(".mk-range")
    slider.focus()
    page.keyboard.press("Home")
    until(lambda: stage.evaluate(cut) == "inset(0px 100% 0px 0px)")
    page.mouse.click(*at(board, 0.75, 0.5))
    until(lambda: slider.input_value() not in ("0", "50"))
    assert abs(int(slider.input_value()) - 75) <= 3

    # A file on the tray is one more picture.
    file = page.evaluate_handle("""async () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [64, 64];
        const blob = await new Promise((done) => canvas.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([blob], "black.png", { type: "image/png" }));
        return data; }""")
    tray = widget.locator(".mk-tray")
    tray.dispatch_event("dragover", {"dataTransfer": file})
    tray.dispatch_event("drop", {"dataTransfer": file})
    tray.locator("button", has_text="black.png").wait_for()
