"""What a widget does in the browser by itself, without an extension of the notebook; and words
that come from there late."""

from __future__ import annotations

import asyncio
import html
import warnings
from collections.abc import Callable

import ipywidgets as W

from minikontext.course import style

# A picture that loads at once, whenever it comes into a page: its handler is the script.
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
PAUSE = 0.3  # seconds


def script(name: str) -> str:
    """HTML that runs `static/NAME.js` as soon as it stands in a page; `this` is an element of it.

    The front end sets HTML without running its scripts, but handlers of elements are kept. It may
    fill an element before that has its place: then the script waits, ten seconds at most.
    """
    code = (style.STATIC / f"{name}.js").read_text(encoding="utf-8")
    waits = (
        "let tries = 0; const run = () => { if (this.isConnected) start.call(this); "
        "else if ((tries += 1) < 200) setTimeout(run, 50); };"
    )
    whole = f"const start = function () {{\n{code}\n}}; {waits} run();"
    return f'<img hidden alt="" src="{DOT}" onload="{html.escape(whole, quote=True)}">'


def on_run(field: W.Text, run: W.Button, act: Callable[[], None]) -> None:
    """Call `act` when Enter is pressed in a text field or its button is clicked, as `on_click`."""
    later = on_click(field, run, act)
    with warnings.catch_warnings():
        # The replacement ipywidgets advises also fires when the field only loses focus.
        warnings.simplefilter("ignore", DeprecationWarning)
        field.on_submit(lambda _: later())


def on_click(field: W.Text, part: W.Button, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` when a button is clicked that means the words in a field; returns what waits.

    The browser holds letters back until the kernel has answered for the earlier ones, but never an
    Enter or a click: these arrive first. So `act` waits until no letter has come for `PAUSE`.
    """
    waiting: list[asyncio.TimerHandle] = []
    part.add_class("mk-asks")  # `names.js` tells the field's words before the click

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

    part.on_click(lambda _: later())
    field.observe(lambda _: later() if waiting else None, "value")
    return later
