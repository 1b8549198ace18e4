"""Real JupyterLab in a real browser: notebook 00 runs, and its widget obeys mouse and keyboard."""

import numpy as np
import pytest
from lab_page import (
    DESK,
    HANDS,
    LATE,
    LOOK,
    START,
    answered,
    at,
    draw,
    keys,
    marked,
    open_and_run,
    picture,
    red,
    settled,
    status,
    until,
    view,
    with_a,
    write,
)

from minikontext.images import provenance

pytestmark = pytest.mark.browser


def test_notebook_runs_and_its_widget_edits(page, lab, tmp_path):
    open_and_run(page, lab(START))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-picture")
    widget.scroll_into_view_if_needed()
    start = settled(widget)

    # Keyboard: a word that is not known, its suggestion, Enter.
    prompt = widget.locator(".mk-prompt input")
    write(prompt, "make the haat red")
    status(widget, "Unknown word")
    widget.locator(".mk-chip", has_text="haat → hat").click()
    until(lambda: prompt.input_value() == "make the hat red")
    keys(prompt, "Enter")
    status(widget, "Done")
    red = settled(widget)
    assert red != start

    # Mouse: a preset and at once the button; the edit goes on from the result.
    answered(page)
    widget.locator(".mk-chip", has_text="make it night").click()
    widget.locator(".mk-run").click()
    widget.locator(".mk-thumb").nth(2).wait_for()
    status(widget, "Done")
    night = settled(widget)
    assert night not in (start, red)

    # Download: the file knows how it was made.
    answered(page)
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
    keys(widget.locator("button", has_text="start"), "Enter")
    status(widget, "Go on from the start")
    until(lambda: picture(widget) == start)
    keys(prompt, "Control+a")
    page.keyboard.type("make the cat striped")  # at once Enter: the kernel may be letters behind
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    status(widget, "Done")
    widget.locator(
        ".mk-caption", has_text="“make the cat striped”"
    ).wait_for()  # to the last letter
    assert settled(widget) not in (start, red, night)
    until(lambda: widget.locator(".mk-thumb").count() == 4)

    # A result of the history answers a click on its picture, not only on its label.
    answered(page)
    widget.locator(".mk-tile img[alt^='1. ']").click()
    status(widget, "Go on from 1")
    until(lambda: picture(widget) == red)


def test_the_attention_widget_answers_a_click(page, lab):
    open_and_run(page, lab(LOOK))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-patch")
    before = widget.locator(".mk-status").inner_text()
    patch = widget.locator(".mk-stack").nth(0).locator(".mk-patch").nth
    patch(6).click()  # row 2, column 3
    status(widget, "row 2, column 3 looks")
    for number, key, place in ((6, "ArrowRight", "row 2, column 4"),
                               (7, "ArrowDown", "row 3, column 4")):  # fmt: skip
        keys(patch(number), key, "Enter")
        status(widget, f"{place} looks")
    # All patches of a picture together are one stop for Tab.
    patches = "e => [...e.querySelectorAll('.mk-patch')].filter(x => x.tabIndex === 0).length"
    assert widget.locator(".mk-stack").nth(0).evaluate(patches) == 1
    assert widget.locator(".mk-status").inner_text() != before
    widget.locator(".mk-stack").nth(-1).locator(".mk-patch").nth(20).click()
    status(widget, "block 6, head 1")

    # Words that are not known are named before and after; Enter takes the last letter, too.
    keys(widget.locator(".mk-prompt input"), "Control+a")
    page.keyboard.type("make the haat red")
    page.keyboard.press("Enter")
    widget.locator(".mk-words", has_text="<unk>").wait_for()
    status(widget, "Unknown word 'haat'")


def test_the_desk_of_safety_obeys_its_switches(page, lab):
    open_and_run(page, lab(DESK))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    widget = with_a(page, ".mk-layer")
    widget.scroll_into_view_if_needed()
    switch = {name: widget.locator("button.mk-layer", has_text=name) for name in
              ("prompt filter", "input filter", "trained model", "output filter")}  # fmt: skip
    widget.locator("select").first.select_option("no picture")
    keys(widget.locator(".mk-prompt input"), "Control+a")
    page.keyboard.type("a purple star in the forest")
    page.keyboard.press("Enter")
    status(widget, "Stopped by the prompt filter")
    for one in switch.values():
        answered(page)
        one.click()
    answered(page)
    widget.locator(".mk-run").click()
    status(widget, "It got through")
    switch["output filter"].click()
    answered(page)
    widget.locator(".mk-run").click()
    status(widget, "Withheld by the output filter")
    until(lambda: widget.locator(".mk-log tr").count() == 4)  # a head and three attempts
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
    places = at(board, (0.2, 0.8), (0.5, 0.8), (0.8, 0.8))
    for kind, place in zip(("touchStart", "touchMove", "touchMove"), places, strict=True):
        points = [dict(zip("xy", place, strict=True))]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    marked(widget, lambda rows, columns: abs(rows - 0.8).max() < 0.06 and np.ptp(columns) > 0.5)

    view(widget, "Ellipse")
    keys(board, *["ArrowLeft"] * 5, *["Shift+ArrowUp"] * 3, "Enter")
    marked(widget, lambda rows, columns: abs(columns.mean() - 0.3) < 0.05)
    keys(board, "Enter")
    until(lambda: len(red(widget)[0]))
    keys(board, "Escape")
    until(lambda: not len(red(widget)[0]))


def test_with_a_late_kernel_the_slider_compares_cancel_stops_and_a_file_is_dropped(page, lab):
    open_and_run(page, lab(LATE))
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
    # A chip's words are those that are meant, however late the kernel hears of them.
    widget.locator(".mk-chip", has_text="make it night").click()
    keys(widget.locator(".mk-prompt input"), "Enter")
    widget.locator(".mk-thumb").nth(1).wait_for()
    status(widget, "seed 0")

    # The slider, by keyboard and by mouse: what is left of it is the picture before.
    view(widget, "Compare")
    cut = "e => getComputedStyle(e.querySelector('.mk-under')).clipPath"
    stage, slider = widget.locator(".mk-stage"), widget.locator(".mk-range")
    assert slider.is_visible()  # at once: who presses Tab now must come to it
    keys(slider, "Home")
    until(lambda: stage.evaluate(cut) == "inset(0px 100% 0px 0px)")
    page.mouse.click(*at(slider, (0.75, 0.5))[0])
    until(lambda: slider.input_value() not in ("0", "50"))
    assert abs(int(slider.input_value()) - 75) <= 3

    # Cancel: a long edit, stopped; nothing has changed.
    view(widget, "Result")
    night = settled(widget)
    for number in (0, 1):
        keys(widget.locator(".noUi-handle").nth(number), "End")
    widget.locator(".mk-run").click()
    status(widget, "of 50")
    widget.locator("button", has_text="Cancel").click()
    status(widget, "Cancelled after step")
    until(lambda: picture(widget) == night)
    assert widget.locator(".mk-thumb").count() == 2

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


def test_where_the_kernel_is_gone_the_widgets_place_says_what_to_do(page, lab):
    open_and_run(page, lab(LATE))
    widget, word = page.locator(".mk").first, page.locator(".mk-fallback", has_text="run the cell")
    assert not word.is_visible()
    keys(widget.locator(".noUi-handle[aria-label=Steps]"), "End")
    widget.locator(".mk-run").click()
    status(widget, "of 50")

    # It starts anew while an edit runs: no frozen step, no broken links, the outputs above stay.
    page.evaluate("() => { jupyterapp.commands.execute('notebook:restart-kernel'); }")
    page.locator(".jp-Dialog button", has_text="Restart").click()
    word.wait_for()
    assert not page.locator(".mk-status:visible, .jupyter-widgets-disconnected:visible").count()
    assert page.locator("table", has_text="KontextTransformer").is_visible()

    # Saved, and opened where no kernel knows the widget: no word of a model that is not found.
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.goto(lab(LATE))
    word.wait_for()
    page.get_by_text("| Idle").wait_for()
    answer = "Error displaying widget"
    page.locator(".jp-OutputArea-child", has_text=answer).wait_for(state="attached")
    assert not page.get_by_text(answer).filter(visible=True).count()
    assert word.is_visible() and page.locator("table", has_text="KontextTransformer").is_visible()
