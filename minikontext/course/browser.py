"""What a widget does in the browser by itself, without an extension of the notebook; and words
that come from there late."""

from __future__ import annotations

import asyncio
import html
import warnings
from collections.abc import Callable

import ipywidgets as W

# A picture that loads at once, whenever it comes into a page: its handler is the script.
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
PAUSE = 0.3  # seconds


def script(code: str) -> str:
    """HTML that runs JavaScript as soon as it stands in a page; `this` is an element of it.

    The front end sets HTML without running its scripts, but handlers of elements are kept. It may
    fill an element before that has its place: then the script waits, ten seconds at most.
    """
    waits = (
        "let tries = 0; const run = () => { if (this.isConnected) start.call(this); "
        "else if ((tries += 1) < 200) setTimeout(run, 50); };"
    )
    whole = f"const start = function () {{\n{code}\n}}; {waits} run();"
    return f'<img hidden alt="" src="{DOT}" onload="{html.escape(whole, quote=True)}">'


# The front end names a slider's number, not its handle, and no field or button without a label.
# JupyterLab takes arrows and letters from what is no text field, to go to other cells: not here.
NAMES = """
const root = this.closest(".mk");
const ARROWS = "select, [type=radio], .noUi-handle, .mk-board, .mk-range, .mk-patch";
const name = () => {
  for (const handle of root.querySelectorAll(".noUi-handle")) {
    const label = handle.closest(".widget-slider")?.querySelector(".widget-label");
    if (label) handle.setAttribute("aria-label", label.textContent);
    const number = handle.closest(".widget-slider")?.querySelector(".widget-readout");
    if (label && number) {
      number.setAttribute("role", "textbox");
      number.setAttribute("aria-label", `${label.textContent}, as a number`);
    }
  }
  for (const field of root.querySelectorAll(".mk-prompt input"))
    field.setAttribute("aria-label", "Prompt");
  for (const icon of root.querySelectorAll(".widget-play button > .fa"))
    icon.parentElement.setAttribute(
      "aria-label", icon.classList.contains("fa-stop") ? "Stop" : "Play or pause");
  for (const part of root.querySelectorAll(ARROWS)) part.dataset.lmSuppressShortcuts = "true";
};
// Letters wait in the browser until the kernel has answered for earlier ones, an Enter or a click
// does not: before these, a field of its own says all that is written. The time makes it differ.
const ask = () => {
  const field = root.querySelector(".mk-asked input");
  if (!field) return;
  field.value = `${Date.now()} ${root.querySelector(".mk-prompt input").value}`;
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
};
root.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.closest(".mk-prompt")) ask(); }, true);
root.addEventListener("click", (event) => { if (event.target.closest(".mk-run")) ask(); }, true);
// A button loses the focus while work goes on, or when its row is made anew: it gets it back.
let last = null;
document.addEventListener("focusin", (event) => {
  last = root.contains(event.target) ? event.target : null; });
document.addEventListener("pointerdown", () => { last = null; });
const restore = () => {
  if (!last || document.activeElement !== document.body) return;
  const words = last.textContent;
  const one = last.isConnected ? last
    : [...root.querySelectorAll("button")].find((e) => words && e.textContent === words);
  if (one && !one.disabled) one.focus({ preventScroll: true });
};
name();
new MutationObserver(() => { name(); restore(); }).observe(
  root, { childList: true, subtree: true, attributeFilter: ["disabled"] });"""


def on_run(field: W.Text, run: W.Button, act: Callable[[], None]) -> None:
    """Call `act` when Enter is pressed in a text field or its button is clicked.

    The browser holds letters back until the kernel has answered for the earlier ones, but never an
    Enter or a click: these arrive first. So `act` waits until no letter has come for `PAUSE`.
    """
    waiting: list[asyncio.TimerHandle] = []

    def later() -> None:
        for handle in waiting:
            handle.cancel()
        try:
            waiting[:] = [asyncio.get_running_loop().call_later(PAUSE, now)]
        except RuntimeError:  # a script: nothing is on its way
            now()

    def now() -> None:
        waiting.clear()
        act()

    run.on_click(lambda _: later())
    field.observe(lambda _: later() if waiting else None, "value")
    with warnings.catch_warnings():
        # The replacement ipywidgets advises also fires when the field only loses focus.
        warnings.simplefilter("ignore", DeprecationWarning)
        field.on_submit(lambda _: later())
