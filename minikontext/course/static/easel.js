// What the editing widget does in the browser alone: compare, draw, drop. It runs once for each
// view, as the handler of a hidden picture (`this`), so a notebook needs no extension for it.
const root = this.closest(".mk"), stage = this.closest(".mk-stage");
if (root.dataset.easel) return;
root.dataset.easel = "on";
const board = stage.querySelector(".mk-board"), shape = board.querySelector("path");
const range = stage.querySelector(".mk-range");
let points = [], cursor = [0.5, 0.5], radius = [0.15, 0.2], said = 0;

// A hidden text field brings messages to the kernel; the number makes each one new.
const say = (message) => {
  const field = root.querySelector(".mk-said input");
  field.value = JSON.stringify({ ...message, number: (said += 1) });
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
};
const view = () => root.querySelector(".mk-view .mod-active")?.textContent.trim();
const kind = () => (view() === "Ellipse" ? "ellipse" : "brush");

range.addEventListener("input", () => stage.style.setProperty("--at", `${range.value}%`));

// ---- drawing: all points are shares of the picture, which lies in the middle of the board
const frame = () => {
  const picture = stage.querySelector(".mk-top img"), box = board.getBoundingClientRect();
  const scale = Math.min(box.width / picture.naturalWidth, box.height / picture.naturalHeight);
  const [width, height] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
  return { left: (box.width - width) / 2, top: (box.height - height) / 2, width, height, box };
};
const share = (event) => {
  const f = frame(), inside = (x) => Math.min(1, Math.max(0, x));
  return [inside((event.clientX - f.box.left - f.left) / f.width),
          inside((event.clientY - f.box.top - f.top) / f.height)];
};
const preview = () => {
  const f = frame(), at = points.map(([x, y]) => [f.left + x * f.width, f.top + y * f.height]);
  const side = Math.max(f.width, f.height), round = kind() === "ellipse";
  shape.setAttribute("stroke-width", side / (round ? 32 : 16));
  if (!at.length) return shape.setAttribute("d", "");
  if (!round) return shape.setAttribute("d", `M${at.join("L")}${at.length < 2 ? "h.01" : ""}`);
  const [[x, y], [u, v]] = [at[0], at.at(-1)], rx = Math.abs(u - x) / 2, ry = Math.abs(v - y) / 2;
  const arc = `a${rx} ${ry} 0 1 0 `;
  shape.setAttribute("d", `M${Math.min(x, u)} ${(y + v) / 2}${arc}${2 * rx} 0${arc}${-2 * rx} 0`);
};
const finish = () => {
  const ends = kind() === "ellipse" ? [points[0], points.at(-1)] : points;
  const wide = Math.max(...[0, 1].map((i) => Math.abs(ends[0]?.[i] - ends.at(-1)?.[i])));
  if (points.length && (kind() === "brush" || wide > 0.02))
    say({ mark: { kind: kind(), points: ends } });
  points = [];
  preview();
};
board.addEventListener("pointerdown", (event) => {
  board.setPointerCapture(event.pointerId);
  points = [share(event)];
  preview();
});
board.addEventListener("pointermove", (event) => {
  if (!points.length || !event.buttons) return;
  points.push(share(event));
  preview();
});
board.addEventListener("pointerup", finish);
board.addEventListener("pointercancel", () => { points = []; preview(); });

// By keyboard: arrows move, with Shift they widen, Enter draws, Escape takes all marks away.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const held = () => kind() === "brush" ? [cursor]
  : [-1, 1].map((s) => cursor.map((x, i) => Math.min(1, Math.max(0, x + s * radius[i]))));
board.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey)
    radius = radius.map((r, i) => Math.min(0.5, Math.max(0.03, r + 0.02 * arrow[i])));
  else if (arrow) cursor = cursor.map((x, i) => Math.min(1, Math.max(0, x + 0.04 * arrow[i])));
  else if (event.key === "Escape") say({ clear: true });
  else if (event.key !== "Enter") return;
  event.preventDefault();
  event.stopPropagation();
  points = event.key === "Escape" ? [] : held();
  event.key === "Enter" ? finish() : preview();
});
board.addEventListener("blur", () => { points = []; preview(); });

// ---- dropping: files, or pictures of this widget by their name
const OURS = "text/x-minikontext";
// Small pictures lie above their buttons, which would not be dragged: a click goes on to those.
root.addEventListener("click", (event) => {
  if (event.target.matches(".mk-tile img"))
    event.target.closest(".mk-tile").querySelector("button").click();
});
root.addEventListener("dragstart", (event) => {
  if (event.target.matches(".mk-shown img")) event.dataTransfer.setData(OURS, event.target.alt);
});
for (const [name, on] of [["dragover", true], ["dragleave", false], ["drop", false]])
  root.addEventListener(name, (event) => {
    if (![OURS, "Files"].some((type) => event.dataTransfer.types.includes(type))) return;
    event.preventDefault();
    root.classList.toggle("mk-over", on);
  });
root.addEventListener("drop", (event) => {
  const add = event.target.closest(".mk-tray") !== null, { files } = event.dataTransfer;
  const name = event.dataTransfer.getData(OURS);
  if (name || !files.length) return name && say({ drop: name, add });
  say({ drop: "", add });
  // The upload button reads the files: its own field is in no page, but its click reaches it.
  const { click } = HTMLInputElement.prototype;
  HTMLInputElement.prototype.click = function () {
    this.files = files;
    this.dispatchEvent(new Event("change"));
  };
  try { root.querySelector(".widget-upload").click(); }
  finally { HTMLInputElement.prototype.click = click; }
});
