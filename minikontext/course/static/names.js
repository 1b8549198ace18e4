// The front end names a slider's number, not its handle, and no field or button without a label.
// It has no word for a live region, either: that is the status line's box, which stays.
// JupyterLab takes arrows and letters from what is no text field, to go to other cells: not here.
const root = this.closest(".mk");
const ARROWS = "select, [type=radio], .noUi-handle, .mk-board, .mk-range, .mk-patch";
const set = (e, name, value) => { if (e.getAttribute(name) !== value) e.setAttribute(name, value); };
const name = () => {
  for (const { lastChild: word } of root.querySelectorAll(".widget-upload"))  // no "(0)" of files
    if (word?.textContent.endsWith(" (0)")) word.textContent = word.textContent.slice(0, -4);
  for (const handle of root.querySelectorAll(".noUi-handle")) {
    const label = handle.closest(".widget-slider")?.querySelector(".widget-label");
    if (label) handle.setAttribute("aria-label", label.textContent);
    const number = handle.closest(".widget-slider")?.querySelector(".widget-readout");
    // Where the stops have names, the number of a stop says nothing, and nothing can be typed:
    // the front end lets one, and then hears nothing of it.
    if (number?.closest(".mk-stops")) {
      set(number, "contenteditable", "false");
      set(handle, "aria-valuetext", number.textContent);
    } else if (label && number) {
      number.setAttribute("role", "textbox");
      number.setAttribute("aria-label", `${label.textContent}, as a number`);
    }
  }
  for (const field of root.querySelectorAll(".mk-prompt input"))
    field.setAttribute("aria-label", "Prompt");
  for (const box of root.querySelectorAll(".mk-live")) box.setAttribute("role", "status");
  for (const icon of root.querySelectorAll(".widget-play button > .fa"))
    icon.parentElement.setAttribute(
      "aria-label", icon.classList.contains("fa-stop") ? "Stop" : "Play or pause");
  for (const part of root.querySelectorAll(ARROWS)) part.dataset.lmSuppressShortcuts = "true";
};
// Letters wait in the browser until the kernel has answered for earlier ones, an Enter or a click
// does not: before these, a field of its own says all that is written. The time makes it differ.
const put = (field, words) => {
  field.value = words;
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
};
const ask = () => {
  const field = root.querySelector(".mk-asked input");
  if (field) put(field, `${Date.now()} ${root.querySelector(".mk-prompt input").value}`);
};
// The words of a chip stand in the field at once: an Edit right after it means these, and letters
// that are still on their way do not come out on top.
const fill = (chip) => {
  const field = root.querySelector(".mk-prompt input"), text = chip.textContent.trim();
  const [old, known] = text.split(" → ");
  const words = field.value.split(/([\p{L}\p{N}_]+)/u);
  put(field, known ? words.map((x) => (x.toLowerCase() === old.toLowerCase() ? known : x)).join("")
    : chip.matches(".mk-ending") ? field.value.replace(/[^ ]*$/, () => text) : text);
};
root.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.closest(".mk-prompt")) ask(); }, true);
root.addEventListener("click", (event) => {
  const chip = event.target.closest("button.mk-fill"); // the desk of safety has bars of that name
  if (chip) fill(chip);
  else if (event.target.closest(".mk-asks")) ask(); }, true);
// A button loses the focus while work goes on, or when its row is made anew: it gets it back. One
// that its own press takes away or hides leaves it to the part before, until a key says otherwise.
// The document listens once for all widgets: else it would keep each, also when its cell runs anew.
const listen = () => {
  const focus = { root: null, last: null, order: [], standin: null };
  document.addEventListener("focusin", ({ target }) => {
    const root = target.closest(".mk");
    Object.assign(focus, { root, last: root && target, standin: null });
    focus.order = [...(root?.querySelectorAll("button, select, input, a, [tabindex='0']") ?? [])];
  });
  document.addEventListener("pointerdown", () => { focus.last = focus.standin = null; });
  document.addEventListener("keydown", () => {
    if (focus.standin) [focus.last, focus.standin] = [focus.standin, null]; }, true);
  return focus;
};
const focus = (document.mkFocus ??= listen());
const here = (e) => e.isConnected && !e.disabled && e.checkVisibility({ visibilityProperty: true });
const restore = () => {
  const { last: lost, order, standin } = focus;
  if (focus.root !== root || !lost || ![document.body, standin].includes(document.activeElement))
    return;
  const words = lost.textContent;
  const gone = !lost.isConnected || !lost.checkVisibility();
  const one = !gone ? lost
    : [...root.querySelectorAll("button")].find((e) => words && e.textContent === words && here(e));
  if (one && !one.disabled) one.focus({ preventScroll: true });
  if (one || standin) return;
  const before = order.slice(0, order.indexOf(lost)).reverse().find(here);
  before?.focus({ preventScroll: true });
  if (before) [focus.last, focus.standin] = [lost, before];
};
name();
// A part that is hidden loses the focus when the page is drawn, after what is told here.
const later = () => requestAnimationFrame(() => requestAnimationFrame(restore));
new MutationObserver(() => { name(); restore(); later(); }).observe(
  root, { childList: true, subtree: true, attributeFilter: ["disabled", "aria-valuetext", "contenteditable"] });
