"""All widgets of the course for eyes and hands: axe, contrast, narrow windows, the keyboard."""

import io
from pathlib import Path

import numpy as np
import pytest
from lab_page import (
    HANDS,
    LATE,
    PATIENCE,
    UNRUN,
    WIDGETS,
    answered,
    keys,
    open_and_run,
    status,
    until,
)
from PIL import Image

from minikontext import images
from minikontext.course import browser, failures, plots, style
from minikontext.course.safety_desk import layer_bar
from minikontext.images import provenance
from minikontext.safety.filters import Verdict

CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
IDLE = """() => ![...document.querySelectorAll(".mk .mk-bar")].some(
    (e) => getComputedStyle(e).visibility === "visible")"""
# A plot's letters are of 8 points, 72 to the inch: so wide, they have 8 pixels of the page's.
CHARTS = [f".mk img[alt='{alt}']" for alt in ("what each GPU holds", "what each plan holds")]
CUT = """() => [...document.querySelectorAll(".mk")].filter(
    (e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText.slice(0, 60))"""

pytestmark = [pytest.mark.browser, pytest.mark.weights]


def turn(page, theme):
    page.evaluate(
        f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
    )
    light = str(theme == "Light").lower()
    page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
    # The theme's colours come with its style sheet, a moment later.
    page.wait_for_function(f"""getComputedStyle(document.body).getPropertyValue(
        "--jp-layout-color1").trim().match(/white|#fff/i) !== null === {light}""")


# Widths and colours no longer change: one size at two frames, and no transition runs.
SETTLED = """() => new Promise((done) => {
  const box = () => JSON.stringify([...document.querySelectorAll(".mk, .mk *")].map(
    (e) => e.getBoundingClientRect().width));
  const moves = () => document.getAnimations().some((one) => one.playState === "running");
  const wait = (old, left) => setTimeout(() => requestAnimationFrame(() => (
    left && (box() !== old || moves()) ? wait(box(), left - 1) : done())), 100);
  wait("", 300); })"""


def settle(page):
    """Wait until a new size or theme has reached every part."""
    page.evaluate(SETTLED)


def test_every_widget_can_be_read_in_either_theme_at_either_width(page, lab, npm):
    open_and_run(page, lab(WIDGETS))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    page.wait_for_function(IDLE, timeout=PATIENCE)
    until(lambda: page.locator(".mk").count() == 14)
    answered(page)
    buttons = page.locator(".mk .widget-play button")  # named, whether they are shown yet or not
    nameless = page.locator(".mk .widget-play button:not([aria-label])")
    until(lambda: buttons.count() and not nameless.count())
    # A plot has two pixels for each of the page's; in the dark theme it is dark.
    plot = page.locator(".jp-RenderedImage img").first
    sizes = plot.evaluate(
        "async e => { await e.decode(); return [e.naturalWidth, Number(e.getAttribute('width'))]; }"
    )
    assert sizes[0] // 2 == sizes[1]
    page.evaluate((npm / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    for theme in ("Dark", "Light"):
        turn(page, theme)
        for width in (800, 1280):
            page.set_viewport_size({"width": width, "height": 1000})
            settle(page)
            found = page.evaluate("axe.run('.mk')")
            assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []
            assert page.evaluate(CONTRAST) == []
            assert page.evaluate(CUT) == []
            for chart in CHARTS:
                assert page.locator(chart).bounding_box()["width"] >= 72 * style.PLOT
        arrow = page.locator(".mk select").first.evaluate(
            "e => getComputedStyle(e).backgroundImage"
        )
        assert (style.ARROW in arrow) == (theme == "Dark")  # else it is black on black
        filtered = plot.evaluate("e => getComputedStyle(e).filter")
        assert ("invert" in filtered) == (theme == "Dark")


def test_stored_plots_of_a_delivered_notebook_are_dark_before_any_cell_has_run(page, lab):
    page.goto(lab(UNRUN))
    page.wait_for_selector(".jp-RenderedImage img")
    turn(page, "Dark")
    filtered = page.locator(".jp-RenderedImage img").evaluate_all(
        "all => all.map(e => getComputedStyle(e).filter)"
    )
    assert len(filtered) > 3 and "none" not in filtered
    turn(page, "Light")


@pytest.mark.parametrize("count", [3, 4, 5])
def test_no_answer_of_the_failures_widget_stands_alone_in_its_row(page, count):
    cells = "<div>x</div>" * count
    for width in (290, 330, 420, 500, 559, 561, 664, 900):
        page.set_content(
            f'<div style="display: grid; grid-gap: {failures.GAP}px; width: {width}px; '
            f'grid-template-columns: {failures.balanced(count)}">{cells}</div>'
        )
        tops = page.evaluate(
            "[...document.querySelectorAll('div > div')].map(e => e.getBoundingClientRect().top)"
        )
        rows = [tops.count(top) for top in sorted(set(tops))]
        assert min(rows) > 1 and len(rows) <= 1 + (width < failures.NARROW and count > 3)


@pytest.mark.parametrize("light", ["true", "false"])
def test_a_sheet_is_dark_in_the_dark_theme_and_its_pictures_stay(page, monkeypatch, light):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    colours = [(255, 255, 255), (0, 0, 0), (201, 69, 33)]
    plots.show_images([Image.new("RGB", (64, 64), colour) for colour in colours], title="Title")
    address = images.data_url(Image.open(io.BytesIO(shown[0].data)))
    ground = "#fff" if light == "true" else "#111"
    page.set_content(
        f'<body data-jp-theme-light="{light}" style="background: {ground}">'
        f'<div class="jp-RenderedImage"><img src="{address}"></div>{style.PLOTS}</body>'
    )
    shot = page.locator("img").screenshot()
    seen = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    top = plots.GAP + plots.LINE + plots.GAP
    for i, colour in enumerate(colours):
        x = plots.GAP + i * (plots.TILE + plots.GAP)
        tile = seen[top + 2 : top + plots.TILE - 2, x + 2 : x + plots.TILE - 2]
        assert np.abs(tile - colour).max() <= 1
    ground, title = seen[2:4].mean(), seen[:top].sum(-1)
    if light == "true":
        assert ground > 250 and title.min() < 200
    else:
        assert ground < 40 and title.max() > 500


def test_a_cell_that_runs_anew_leaves_nothing_at_the_document_and_the_focus_comes_back(page):
    html = (
        '<div class="mk"><div class="mk-prompt"><input></div><button>one</button>'
        f"<button>two</button>{browser.script('names')}</div>"
    )
    session, counts = page.context.new_cdp_session(page), []
    page.set_content("<button id=outside>outside</button><div id=place></div><div id=other></div>")
    for place in ("other", "place", "place", "place"):
        page.evaluate("([id, html]) => { document.getElementById(id).innerHTML = html; }",
                      [place, html])  # fmt: skip
        page.wait_for_selector(f"#{place} input[aria-label]")
        found = session.send("Runtime.evaluate", {"expression": "document"})["result"]["objectId"]
        listeners = session.send("DOMDebugger.getEventListeners", {"objectId": found})["listeners"]
        counts.append(len(listeners))
    assert len(set(counts)) == 1 and counts[0]

    one = page.locator("#place button", has_text="one")
    words = "document.activeElement.textContent || document.activeElement.ariaLabel"
    for end in (
        "e => { e.disabled = true; setTimeout(() => { e.disabled = false; }, 100); }",
        "e => { e.replaceWith(Object.assign(document.createElement('button'), "
        "{ textContent: 'one' })); }",
    ):
        one.focus()
        one.evaluate(end)
        page.wait_for_timeout(300)
        page.wait_for_function(f"{words} === 'one'")
    one.evaluate("e => e.remove()")
    page.wait_for_function(f"{words} === 'Prompt'")
    page.focus("#outside")  # what happens in a widget no longer moves the focus
    page.locator("#place button").evaluate("e => e.remove()")
    page.wait_for_timeout(300)
    assert page.evaluate(words) == "outside"


def test_a_click_on_a_bar_of_the_desk_leaves_the_words(page):
    bar = layer_bar("prompt", {"prompt": Verdict(True, 0.9, 0.5, "prompt", "x")}, True, "")
    page.set_content(
        f'<div class="mk"><div class="mk-prompt"><input value="a star"></div>{bar}'
        f'<button class="mk-fill">a hat</button>{browser.script("names")}</div>'
    )
    words = page.locator("input[aria-label]")
    page.locator("div.mk-fill").dispatch_event("click")
    assert words.input_value() == "a star"
    page.locator("button").click()
    assert words.input_value() == "a hat"


def test_a_slider_over_names_is_read_out_by_them_and_takes_no_letters(page):
    page.set_content(
        '<div class="mk"><div class="widget-slider mk-stops"><label class="widget-label">Size'
        '</label><div class="noUi-handle" aria-valuetext="0"></div><div class="widget-readout" '
        'contenteditable="true">as the picture</div></div><div class="widget-slider"><label '
        'class="widget-label">Steps</label><div class="noUi-handle" aria-valuetext="4"></div><div '
        'class="widget-readout" contenteditable="true">4</div></div><button class="widget-upload">'
        f"<i></i>Your own (0)</button>{browser.script('names')}</div>"
    )
    size = page.locator(".noUi-handle[aria-label=Size]")
    number = page.locator(".widget-readout").first
    assert size.get_attribute("aria-valuetext") == "as the picture"
    assert page.locator("button").inner_text() == "Your own"
    # What the front end does when the slider moves: the number of the stop, and its name.
    number.evaluate("e => { e.contentEditable = 'true'; e.textContent = '96 × 64'; }")
    size.evaluate("e => e.setAttribute('aria-valuetext', '1')")
    until(lambda: size.get_attribute("aria-valuetext") == "96 × 64")
    assert number.get_attribute("contenteditable") == "false" and not number.get_attribute("role")
    steps = page.locator(".noUi-handle[aria-label=Steps]")
    assert steps.get_attribute("aria-valuetext") == "4"
    assert page.locator(".widget-readout").last.get_attribute("role") == "textbox"


STOP = """() => {
  const e = document.activeElement, stage = e.closest(".mk-stage");
  const whole = (x) => {  // no part around it clips its ring
    const { outlineWidth, outlineOffset } = getComputedStyle(x), a = x.getBoundingClientRect();
    const out = parseFloat(outlineWidth) + parseFloat(outlineOffset) - 0.5;
    for (let p = x.parentElement; p && p.closest(".mk"); p = p.parentElement) {
      const b = p.getBoundingClientRect();
      if (getComputedStyle(p).overflow !== "visible" && (a.left - out < b.left
        || a.top - out < b.top || a.right + out > b.right || a.bottom + out > b.bottom))
        return false;
    }
    return true; };
  const ring = (x) => x && getComputedStyle(x).outlineStyle !== "none"
    && parseFloat(getComputedStyle(x).outlineWidth) >= 2 && whole(x);
  const name = e.ariaLabel || e.labels?.[0]?.textContent || e.innerText;
  return { name: name.trim(), seen: ring(e) || ring(stage), inside: !!e.closest(".mk") };
}"""


def tab_to(page, name, back=False):
    """Go there by Tab alone; wherever it stops on the way, one must see where it is."""
    passed = []
    for _ in range(60):
        stop = page.evaluate(STOP)
        passed.append(stop["name"])
        assert not stop["inside"] or stop["seen"], f"no focus is seen on {stop['name']!r}"
        if stop["inside"] and stop["name"].startswith(name):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    pytest.fail(f"Tab does not reach {name!r}, but {passed}")


def press(page, name, *names, back=False):
    """Go there and press keys. What the kernel has yet to answer might take a part away."""
    answered(page)
    tab_to(page, name, back)
    for key in names:
        page.keyboard.press(key)


def at_last(page, name):
    """Wait until the focus is on a part that was disabled or made anew, and has it back."""
    until(lambda: page.evaluate(STOP)["name"] == name)


@pytest.mark.parametrize("notebook", [HANDS, LATE])
def test_the_keyboard_reaches_and_works_all_of_the_editing_widget(page, lab, tmp_path, notebook):
    """No mouse at all: every part of the widget, in the order in which Tab meets it."""
    open_and_run(page, lab(notebook))
    widget = page.locator(".mk").first
    widget.scroll_into_view_if_needed()
    widget.locator("select[data-lm-suppress-shortcuts]").first.wait_for()  # keys are its own
    menu, prompt = widget.locator("select").first, widget.locator(".mk-prompt input")
    page.locator(".jp-InputArea-editor").first.click()  # a cell: where a reader comes from
    page.keyboard.press("Escape")

    # Pictures: the menu, a random one, one's own, one more beside it, and that away again.
    press(page, "Picture", "ArrowDown")
    until(lambda: menu.input_value() != "cat")
    press(page, "Random", "Enter")
    until(lambda: menu.input_value() == "random 1")
    with page.expect_file_chooser():
        press(page, "Your own", "Enter")
    press(page, "More pictures", "ArrowDown")
    status_of = widget.locator(".mk-tray .mk-chip")
    status_of.first.wait_for()
    press(page, "×", "Enter")
    until(lambda: status_of.count() == 0)
    at_last(page, "More pictures")  # what a press takes away leaves the focus to the part before

    # The board: an ellipse drawn and taken away; then the words, and Enter.
    press(page, "Ellipse", "Enter", back=True)
    press(page, "Draw on the picture", "ArrowLeft", "Shift+ArrowUp", "Enter", back=True)
    status(widget, "sees these marks")
    keys(widget.locator(".mk-board"), "Escape", "Enter")
    status(widget, "sees these marks")
    press(page, "Clear", "Enter")
    status(widget, "No marks")
    at_last(page, "Brush")
    press(page, "Prompt")
    page.keyboard.type("make the hut red")
    press(page, "hut → ", "Enter")
    until(lambda: "hut" not in prompt.input_value())
    at_last(page, "Edit")
    press(page, "Prompt", "Control+a", back=True)
    page.keyboard.type("make it night")
    page.keyboard.press("Enter")
    widget.locator(".mk-thumb").nth(1).wait_for()
    status(widget, "seed 0")

    # The slider between before and after.
    press(page, "Compare", "Enter", back=True)
    press(page, "Before and after", "Home", back=True)
    assert widget.locator(".mk-range").input_value() == "0"

    # Suggestions fill the words in; dials; the button.
    presets = widget.locator(".mk-chip")
    first = presets.all_inner_texts()
    press(page, "Try", "ArrowDown")
    until(lambda: presets.all_inner_texts() != first)
    press(page, "Try", "ArrowUp")
    until(lambda: presets.all_inner_texts() == first)
    press(page, "make the hat red", "Enter")
    until(lambda: prompt.input_value() == "make the hat red")
    press(page, "Seed", "Control+a", "7")
    press(page, "lock", "Space", "Space")
    size = widget.locator(".noUi-handle[aria-label=Size]")
    for key, name in (("ArrowRight", "64 × 64"), ("ArrowLeft", "as the picture")):
        press(page, "Size", key)
        until(lambda name=name: size.get_attribute("aria-valuetext") == name)
    press(page, "Steps", "ArrowLeft")
    press(page, "Guidance")
    press(page, "Edit", "Enter", back=True)
    status(widget, "3 steps")
    status(widget, "seed 7")
    widget.locator(".mk-thumb").nth(2).wait_for()
    at_last(page, "Edit")

    # The history and what goes on from it.
    press(page, "1. make it night", "Enter")
    status(widget, "Go on from 1")
    at_last(page, "1. make it night")
    press(page, "Undo", "Enter")
    status(widget, "Took back")
    press(page, "2. make the hat red", "Enter", back=True)
    status(widget, "Go on from 2")
    at_last(page, "2. make the hat red")
    press(page, "Another seed", "Enter")
    widget.locator(".mk-thumb").nth(3).wait_for()
    status(widget, "steps in")
    at_last(page, "Another seed")
    press(page, "4 seeds", "Enter")
    status(widget, "for 4 seeds")
    at_last(page, "4 seeds")
    with page.expect_download() as download:
        press(page, "Download PNG", "Enter")
    download.value.save_as(tmp_path / "made.png")
    assert provenance.read(tmp_path / "made.png").prompt == "make the hat red"
    with page.expect_download():
        press(page, "Export session", "Enter")

    # Past the last part Tab leaves the widget: nobody is caught in it.
    page.keyboard.press("Tab")
    assert not page.evaluate(STOP)["inside"]
