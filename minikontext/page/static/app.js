// What the page shows. All of the arithmetic is in model.js.
import * as ort from "./ort/ort.wasm.min.mjs";
import { Editor, beside, longSigns, psnr, readFacts, toldChange, tokenize, trainedSize } from "./model.js";

const $ = (id) => document.getElementById(id);
const state = { editor: null, facts: null, ready: null, input: Promise.resolve(), context: null, steps: [], z: null, patch: 5, busy: false };

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const say = (text) => ($("status").textContent = text);

// ---- pictures -----------------------------------------------------------------------------------

function toPixels(canvas) {
  const { width, height } = canvas, data = rgba(canvas);
  const out = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) out[c * width * height + i] = data[4 * i + c] / 127.5 - 1;
  return out;
}

function drawPixels(canvas, tensor) {
  const [, , height, width] = tensor.dims, image = new ImageData(width, height), n = width * height;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round((tensor.data[c * n + i] + 1) * 127.5);
    image.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const rgba = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;

/** A canvas with the same picture. */
function copied(from, to = document.createElement("canvas")) {
  [to.width, to.height] = [from.width, from.height];
  to.getContext("2d").drawImage(from, 0, 0);
  return to;
}

/** Say which picture is edited: in words, and by the sample that is pressed, if it is one. */
function called(label, pressed) {
  $("before").setAttribute("aria-label", `The picture to edit: ${label}`);
  for (const button of $("samples").querySelectorAll("button")) button.ariaPressed = String(button === pressed);
}

/** Show a picture that `load` brings, and encode it, after those before; `state.input` is the last. */
function setInput(load, label, pressed = null) {
  const done = state.input.then(load).then((source) => encodeInput(source, label, pressed));
  state.input = done.catch(() => {}); // the next one, and an edit, need not care
  return done;
}

async function encodeInput(source, label, pressed) {
  const [width, height] = trainedSize(source.width, source.height, state.facts.sizes), canvas = $("before");
  [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white"; // under what is transparent
  pen.fillRect(0, 0, width, height);
  pen.drawImage(source, 0, 0, width, height);
  called(label, pressed);
  const editor = await state.ready; // the picture is seen while the net is still on its way
  const pixels = toPixels(canvas);
  state.context = await editor.encode(pixels, width, height);
  await tellStranger(editor, pixels, state.context);
  const changed = width !== source.width || height !== source.height;
  say(changed ? `${source.width}×${source.height} pixels became ${width}×${height}, a size that the net knows.` : "Ready.");
}

/** Say of a picture that the autoencoder cannot give back that it is none of the net's world. */
async function tellStranger(editor, pixels, latents) {
  const least = editor.facts.least_psnr;
  const near = least === null ? Infinity : psnr(pixels, (await editor.decode(latents.data, latents.dims)).data);
  $("stranger").textContent = near >= least ? "" :
    `This picture is unlike what the net knows: its autoencoder gives it back with ${near.toFixed(1)} dB, ` +
    `pictures of its world with ${least} and more. Expect a smear; a photograph needs FLUX weights.`;
}

/** Latents of a picture that is brought to another size first. */
async function encodeAt(picture, [width, height]) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, width, height);
  return state.editor.encode(toPixels(canvas), width, height);
}

async function useFile(file) {
  const unreadable = new Error(`${file.name} cannot be read as a picture. Use PNG, JPEG or WebP.`);
  const load = () => createImageBitmap(file).catch(() => Promise.reject(unreadable));
  await setInput(load, file.name).catch((error) => say(error.message)); // or the net is not to be had
}

// ---- an edit ------------------------------------------------------------------------------------

/** While an edit runs, its button does nothing; one that is `disabled` would lose the focus. */
function setBusy(busy) {
  state.busy = busy;
  $("run").ariaDisabled = String(busy);
}

async function run(event) {
  event.preventDefault();
  if (state.busy) return;
  setBusy(true);
  const began = performance.now(), steps = Number($("steps").value), prompt = $("prompt").value;
  const seed = Number($("seed").value) >>> 0; // what is said in the end is what was asked for now
  let end = "";
  try {
    await state.input; // a picture that was chosen just now is the one that is meant
    const { context } = state;
    if (!context) throw new Error("there is no picture. Choose one, or bring your own.");
    const [, , h, w] = context.dims, before = rgba($("before")), input = copied($("before"));
    const [width, height] = $("size").value ? $("size").value.split("x").map(Number) : [8 * w, 8 * h];
    const seen = beside([8 * w, 8 * h], [width, height], state.facts.sizes);
    const asked = seen[0] === 8 * w && seen[1] === 8 * h ? context : await encodeAt(input, seen);
    state.steps = [];
    const done = await state.editor.edit(prompt, asked, {
      seed, steps, width, height,
      onStep: async (info) => {
        state.steps.push({ ...info, input, grid: [seen[1] / 16, seen[0] / 16] }); // another picture may be chosen meanwhile
        $("bar").value = info.step / steps;
        say(`Step ${info.step} of ${steps}`);
        await new Promise((resolve) => setTimeout(resolve)); // let the page draw
      },
    });
    state.z = new ort.Tensor("float32", done.z, done.dims);
    drawPixels($("after"), await state.editor.decode(done.z, done.dims));
    $("after").setAttribute("aria-label", `The result of: ${prompt}`);
    $("save").href = $("after").toDataURL("image/png");
    $("save").hidden = false;
    const same = width === 8 * w && height === 8 * h; // of another size there is nothing to compare
    const change = same ? toldChange(before, rgba($("after")), width, height, state.editor.facts.change) : "";
    const verb = change.startsWith("Nothing") ? "Finished" : "Done";
    end = `${verb} in ${((performance.now() - began) / 1000).toFixed(1)} s: ${steps} steps, seed ${seed}. ${change}`.trim();
    [$("t").max, $("t").value, $("t").disabled] = [steps, steps, false];
    await showStep();
  } catch (error) {
    end = `Stopped: ${error.message}`;
    console.error(error);
  } finally {
    setBusy(false);
    say(end); // not before: an Enter from now on counts
  }
}

function goOn() {
  if (state.busy) return; // the status says how far it is
  if (!state.z) return say("There is no finished result yet.");
  const { z } = state, from = copied($("after"));
  state.input = state.input.then(() => { // behind a picture that is still being encoded
    copied(from, $("before"));
    called("the result before", null);
    $("stranger").textContent = "";
    state.context = z; // latents, not pixels: no loss of a round trip
    say("The result is the input now, in latents: nothing was lost on the way.");
  });
}

function readPrompt() {
  const { unknown, dropped } = tokenize($("prompt").value, state.facts), note = $("words");
  const lost = dropped.length ? ` Too long: “${dropped.join(" ")}” is left out.` : "";
  const long = longSigns($("prompt").value, state.facts), { max_sign } = state.facts;
  const signs = long.length ? ` A sign holds ${max_sign} letters at most, and no space: not “${long.join("”, “")}”.` : "";
  note.textContent = (unknown.length ? `The net was never taught: ${unknown.join(", ")}.` : "") + lost + signs;
  note.classList.toggle("warn", Boolean(note.textContent));
}

// ---- looking inside -----------------------------------------------------------------------------

const shown = () => state.steps[Math.max(0, Number($("t").value) - 1)];

async function showStep() {
  const info = shown();
  if (!info) return;
  $("t-value").textContent = `${info.step} of ${info.steps}, from t = ${info.t.toFixed(2)}`;
  drawPixels($("noisy"), await state.editor.decode(info.z, info.dims));
  drawPixels($("clean"), await state.editor.decode(info.clean, info.dims));
  showLatents(info);
  showAttention();
}

function showLatents({ z, dims: [, channels, h, w] }) {
  const box = $("channels");
  while (box.children.length < channels) box.append(document.createElement("canvas"));
  [...box.children].forEach((canvas, k) => {
    const image = new ImageData(w, h);
    for (let i = 0; i < h * w; i++) {
      const x = Math.max(-1, Math.min(1, z[k * h * w + i] / 2.5)); // red above zero, blue below
      const [r, g, b] = x > 0 ? [255, 255 * (1 - x), 255 * (1 - x)] : [255 * (1 + x), 255 * (1 + x), 255];
      image.data.set([r, g, b, 255], 4 * i);
    }
    [canvas.width, canvas.height] = [w, h];
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
}

/** One row of one block's attention: from the chosen patch to words, target and context. */
function attentionRow(info) {
  const [, all] = info.attention.dims, m = state.editor.facts.max_length, block = Number($("block").value);
  const [h, w] = [info.dims[2] / 2, info.dims[3] / 2];
  const start = (block * all + m + Math.min(state.patch, h * w - 1)) * all;
  const row = info.attention.data.subarray(start, start + all);
  return { row, m, h, w };
}

function drawMap(canvas, picture, weights, h, w, mark) {
  [canvas.width, canvas.height] = [w * 32, h * 32];
  const pen = canvas.getContext("2d"), most = Math.max(...weights);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  weights.forEach((x, i) => {
    pen.fillStyle = `rgba(10, 12, 20, ${0.7 * (1 - x / most)})`;
    pen.fillRect((i % w) * 32, Math.floor(i / w) * 32, 32, 32);
  });
  if (mark === undefined) return;
  pen.strokeStyle = "#ffd54a";
  pen.lineWidth = 4;
  pen.strokeRect((mark % w) * 32 + 2, Math.floor(mark / w) * 32 + 2, 28, 28);
}

function showAttention() {
  const info = shown();
  if (!info) return;
  const { row, m, h, w } = attentionRow(info), n = h * w;
  state.patch = Math.min(state.patch, n - 1);
  drawMap($("target"), $("after"), row.slice(m, m + n), h, w, state.patch);
  if (row.length > m + n) drawMap($("context"), info.input, row.slice(m + n), ...info.grid);
  const sum = (from, to) => row.slice(from, to).reduce((a, b) => a + b, 0);
  const percent = (x) => `${Math.round(100 * x)} %`;
  const count = info.words.labels.length, spoken = $("spoken");
  const top = info.words.labels.map((word, i) => ({ word, x: row[i] })).sort((a, b) => b.x - a.x).slice(0, 5);
  spoken.textContent = `Words ${percent(sum(0, count))}, padding ${percent(sum(count, m))}, result ${percent(sum(m, m + n))}, input ${percent(sum(m + n))}. Most of the words: `;
  for (const { word, x } of top) {
    const chip = document.createElement("span");
    chip.textContent = `${word} ${(100 * x).toFixed(1)} %`;
    spoken.append(chip);
  }
}

function choosePatch(event) {
  const info = shown();
  if (!info) return;
  const [h, w] = [info.dims[2] / 2, info.dims[3] / 2], box = $("target").getBoundingClientRect();
  if (event.type === "click") {
    const column = Math.floor(((event.clientX - box.left) / box.width) * w);
    state.patch = Math.floor(((event.clientY - box.top) / box.height) * h) * w + column;
  } else {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -w, ArrowDown: w }[event.key];
    if (!step) return;
    event.preventDefault();
    state.patch = (state.patch + step + h * w) % (h * w);
  }
  showAttention();
}

// ---- start --------------------------------------------------------------------------------------

function addSamples(samples) {
  for (const { file, label, prompt } of samples) {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    button.ariaPressed = "false";
    Object.assign(image, { src: file, alt: label });
    button.append(image);
    const missing = (error) => {
      say(`The picture “${label}” is not to be had. Choose another.`);
      throw error;
    };
    button.addEventListener("click", () => {
      $("prompt").value = prompt;
      readPrompt();
      setInput(() => image.decode().then(() => image, missing), label, button).catch(() => {}); // `start` tells of the net
    });
    $("samples").append(button);
  }
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

async function start() {
  const facts = (state.facts = await readFacts("."));
  state.ready = Editor.load(ort, ".", facts, (here, all) => {
    $("bar").value = here / all;
    say(here < all ? `Loading the net: ${megabytes(here)} of ${megabytes(all)} MB …` : "Starting the net …");
  });
  $("facts").textContent = `Weights ${facts.name}, ${facts.parameters.toLocaleString("en")} parameters; minikontext ${facts.version}.`;
  for (let i = 0; i < facts.blocks; i++) $("block").add(new Option(`${i + 1}`, i, false, i === facts.blocks - 2));
  $("steps").value = String(facts.steps);
  if (!$("steps").value) $("steps").add(new Option(facts.steps, facts.steps, true, true)); // of weights for 3, say
  for (const [w, h] of facts.sizes) $("size").add(new Option(`${w} × ${h}`, `${w}x${h}`));
  $("size-label").hidden = facts.sizes.length < 2;
  $("form").addEventListener("submit", run);
  $("prompt").addEventListener("input", readPrompt);
  $("again").addEventListener("click", goOn);
  $("t").addEventListener("input", showStep);
  $("block").addEventListener("change", showAttention);
  $("target").addEventListener("click", choosePatch);
  $("target").addEventListener("keydown", choosePatch);
  $("file").addEventListener("click", ({ target }) => (target.value = "")); // the same file may be meant again
  $("file").addEventListener("change", ({ target }) => target.files[0] && useFile(target.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) useFile(event.dataTransfer.files[0]);
  });
  addSamples(facts.samples);
  $("samples").querySelector("button").click();
  state.editor = await state.ready;
  window.minikontext = { editor: state.editor, state, ort }; // to play with from the console
  $("run").disabled = false;
  await state.input;
  if (!state.context) say("The net is ready. Choose a picture.");
}

start().catch((error) => {
  say(`The editor cannot start: ${error.message}. Load the page anew; if that does not help, it is to be built again.`);
  console.error(error);
});
