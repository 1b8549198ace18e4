"""What a widget does in the browser by itself, without an extension of the notebook."""

import html

# A picture that loads at once, whenever it comes into a page: its handler is the script.
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


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
name();
new MutationObserver(name).observe(root, { childList: true, subtree: true });"""
