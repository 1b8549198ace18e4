// The editor in JavaScript: words, positions, noise, schedule and Euler's method, in the order of
// the Python package. Transformer, text encoder and autoencoder are ONNX files (see page/export.py).

// ---- noise: PyTorch's CPU generator, so that a seed means the same picture as in Python ---------

/** Mersenne Twister (Matsumoto & Nishimura, 1998), seeded as torch.Generator().manual_seed. */
class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed >>> 0;
    for (let i = 1; i < 624; i++) {
      const s = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, s) + i;
    }
    this.next = 624;
  }

  word() {
    if (this.next === 624) this.#turn();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #turn() {
    const s = this.state;
    for (let i = 0; i < 624; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
      s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }
}

/** torch.randn(count) of a seed. Box and Muller in blocks of 16: cosines first, then sines. */
export function randn(seed, count) {
  if (count % 16) throw new Error(`randn: ${count} numbers; torch draws these another way`);
  const twister = new Twister(seed), x = new Float32Array(count);
  for (let i = 0; i < count; i++) x[i] = (twister.word() & 0xffffff) / 0x1000000;
  for (let block = 0; block < count; block += 16) {
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - x[i])), angle = 2 * Math.PI * x[i + 8];
      [x[i], x[i + 8]] = [radius * Math.cos(angle), radius * Math.sin(angle)];
    }
  }
  return x;
}

// ---- words ------------------------------------------------------------------------------------

const QUOTES = { "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'" };
const SPLIT =
  /"([^"]*)"|(?<![\p{L}\p{N}_])'([^']*)'(?![\p{L}\p{N}_])|([\p{L}\p{N}_]+(?:[-'][\p{L}\p{N}_]+)*)|(\S)/gu;

/** A prompt in tokens: [{token, source}], as `text.split_prompt`. */
export function splitPrompt(prompt, known) {
  const text = prompt.replace(/[“”„«»‘’]/g, (c) => QUOTES[c]).normalize("NFKD").replace(/\p{M}/gu, "");
  const shouting = isUpper(text) && text.trim().split(/\s+/).length > 1;
  const pieces = [];
  for (const [, double, single, word, other] of text.matchAll(SPLIT)) {
    if (double || single) pieces.push(...spell(double || single));
    else if (word && [...word].length > 1 && /^\p{L}+$/u.test(word) && isUpper(word) && !shouting) pieces.push(...spell(word));
    else if (word) pieces.push(...wordPieces(word.toLowerCase(), known));
    else if (other && (known.has(other) || other.charCodeAt(0) > 127))
      pieces.push({ token: known.has(other) ? other : "<unk>", source: other });
  }
  return pieces;
}

/** As Python's `isupper`: letters of scripts without capitals do not matter. */
const isUpper = (text) => /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);

function spell(word) {
  const letters = [...word.toLowerCase()].filter((c) => c.trim());
  return letters.map((c) => ({ token: /^[a-z]$/.test(c) ? `<${c}>` : "<unk>", source: c.toUpperCase() }));
}

function wordPieces(word, known) {
  if (known.has(word)) return [{ token: word, source: word }];
  const parts = word.replace(/'s$/, "").split("-").filter(Boolean);
  return parts.map((part) => ({ token: known.has(part) ? part : "<unk>", source: part }));
}

/** The checksum of zlib, of a text in UTF-8. */
function crc32(text) {
  let crc = -1;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** The table rows of a word's groups of 3 to 5 letters, padded with 0: `text.ngram_rows`. */
export function ngramRows(word, rows, count) {
  const letters = word ? ["<", ...word.toLowerCase(), ">"] : [], found = [];
  for (const n of [3, 4, 5])
    for (let i = 0; i + n <= letters.length; i++) found.push((crc32(letters.slice(i, i + n).join("")) % (rows - 1)) + 1);
  return Array.from({ length: count }, (_, i) => found[i] ?? 0);
}

/** How alike two words are, 0 to 1: twice the letters in matching blocks, as Python's difflib. */
export function alike(a, b) {
  const matching = (a0, a1, b0, b1) => {
    let best = 0, [x, y] = [0, 0];
    for (let i = a0; i < a1; i++)
      for (let j = b0; j < b1; j++) {
        let size = 0;
        while (i + size < a1 && j + size < b1 && a[i + size] === b[j + size]) size++;
        if (size > best) [best, x, y] = [size, i, j];
      }
    return best && best + matching(a0, x, b0, y) + matching(x + best, a1, y + best, b1);
  };
  return (2 * matching(0, a.length, 0, b.length)) / (a.length + b.length || 1);
}

/** Whether a word's letters make it clear, with a slip of the finger: `ToyTextEncoder.resembles`. */
export function resembles(word, known, facts) {
  const text = word.toLowerCase();
  if (!facts.ngrams || word.length < 4 || facts.absent.includes(text)) return false;
  const order = (one, other) => other.ratio - one.ratio || (one.near < other.near ? 1 : -1);
  const near = [...known].map((one) => ({ near: one, ratio: alike(one, text) })).filter((one) => one.ratio >= 0.75);
  return near.sort(order).slice(0, 3).some((one) => one.near[0] === text[0]);
}

/** The words that are spelled out and longer than a sign: `course.verdict.cannot`. */
export function longSigns(prompt, { words, max_sign }) {
  const known = new Set(words.filter((word) => !word.startsWith("<")));
  const letters = splitPrompt(prompt, known).map(({ token, source }) => (/^<[a-z]>$/.test(token) ? source : " "));
  return letters.join("").split(/\s+/).filter((word) => word.length > max_sign);
}

/** Token ids of a prompt: cut, closed by <end>, padded; and the words that mean nothing here. Of
 * words that are put together from their letters the rows of these follow, token by token. */
export function tokenize(prompt, facts) {
  const index = new Map(facts.words.map((word, i) => [word, i]));
  const known = new Set(facts.words.filter((word) => !word.startsWith("<")));
  const pieces = splitPrompt(prompt, known);
  const used = pieces.slice(0, facts.max_length - 1);
  const tokens = [...used.map((piece) => piece.token), "<end>"];
  while (tokens.length < facts.max_length) tokens.push("<pad>");
  const ids = tokens.map((token) => index.get(token));
  if (facts.ngrams)
    for (let i = 0; i < facts.max_length; i++) {
      const spelled = !used[i] || (used[i].token !== "<unk>" && facts.special.includes(used[i].token));
      ids.push(...ngramRows(spelled ? "" : used[i].source, facts.ngrams, facts.groups));
    }
  const strange = new Set(used.filter((piece) => piece.token === "<unk>").map((piece) => piece.source));
  return {
    ids: BigInt64Array.from(ids, BigInt),
    labels: [...used.map((piece) => piece.source), "end"],
    unknown: [...strange].filter((word) => !resembles(word, known, facts)),
    dropped: pieces.slice(facts.max_length - 1).map((piece) => piece.source),
  };
}

// ---- tokens and positions ---------------------------------------------------------------------

/** Latents (c, h, w) to tokens (h/2 · w/2, 4c), channel-major inside a token: `tokens.pack`. */
export function pack(z, c, h, w) {
  const out = new Float32Array(z.length);
  let i = 0;
  for (let r = 0; r < h; r += 2)
    for (let q = 0; q < w; q += 2)
      for (let k = 0; k < c; k++)
        for (let a = 0; a < 2; a++) for (let b = 0; b < 2; b++) out[i++] = z[(k * h + r + a) * w + q + b];
  return out;
}

/** The inverse of `pack`. */
export function unpack(tokens, c, h, w) {
  const out = new Float32Array(c * h * w);
  let i = 0;
  for (let r = 0; r < h; r += 2)
    for (let q = 0; q < w; q += 2)
      for (let k = 0; k < c; k++)
        for (let a = 0; a < 2; a++) for (let b = 0; b < 2; b++) out[(k * h + r + a) * w + q + b] = tokens[i++];
  return out;
}

/** (index, row, column) of every token of a picture of rows × columns tokens. */
export function positionIds(rows, columns, index) {
  const ids = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) ids.push([index, r, c]);
  return ids;
}

/** Ids in shares of the picture, whose shorter side then spans `span`: `tokens.scaled_ids`. */
export function scaledIds(ids, span) {
  if (!span) return ids;
  const [, rows, columns] = ids[ids.length - 1], scale = span / (Math.min(rows, columns) + 1);
  return ids.map(([index, r, c]) => [index, scale * r + (scale - 1) / 2, scale * c + (scale - 1) / 2]);
}

/** The trained size for a picture: of those about as large the one of the nearest aspect ratio, then
 * of the nearest area, as `images.nearest`. */
export function trainedSize(width, height, sizes) {
  const apart = ([w, h]) => Math.max((w * h) / (width * height), (width * height) / (w * h));
  const off = ([w, h]) => Math.abs(w / h - width / height);
  const closest = Math.min(...sizes.map(apart));
  const better = (a, b) => off(a) - off(b) || apart(a) - apart(b);
  return sizes.filter((size) => apart(size) <= 1.7 * closest).reduce((best, size) => (better(size, best) < 0 ? size : best));
}

/** The size at which the net sees a picture for a result of size `target`, as `images.beside`: nets of
 * several areas copy from a picture of the result's size, and badly from any other. */
export function beside(size, target, sizes) {
  const areas = sizes.map(([w, h]) => w * h), ratio = (size[0] * target[1]) / (size[1] * target[0]);
  const several = Math.max(...areas) > 1.7 * Math.min(...areas);
  return several && Math.max(ratio, 1 / ratio) <= 1.3 ? target : trainedSize(...size, sizes);
}

/** cos and sin of every angle, (n, d/2, 2): pair j of an axis of d channels turns by id / θ^(2j/d). */
export function rotations(ids, axes, theta) {
  const half = axes.reduce((sum, d) => sum + d / 2, 0);
  const out = new Float32Array(ids.length * half * 2);
  let i = 0;
  for (const id of ids)
    axes.forEach((d, axis) => {
      for (let j = 0; j < d; j += 2) {
        const angle = id[axis] * Math.pow(theta, -j / d);
        out[i++] = Math.cos(angle);
        out[i++] = Math.sin(angle);
      }
    });
  return out;
}

// ---- the schedule -----------------------------------------------------------------------------

/** The times to visit, from 1 to 0; mu follows the target's tokens, never the context's. */
export function schedule(steps, tokens, { shifted, mu_16 }) {
  const line = 0.5 + ((tokens - 256) * (1.15 - 0.5)) / (4096 - 256);
  const mu = mu_16 === null ? line : mu_16 + Math.log(tokens / 16) / 2;
  const alpha = Math.exp(mu);
  const times = Array.from({ length: steps + 1 }, (_, i) => 1 - i / steps);
  return shifted ? times.map((t) => (alpha * t) / (1 + (alpha - 1) * t)) : times;
}

// ---- what changed -----------------------------------------------------------------------------

/** What `told_change` says of two pictures, RGBA of width × height, even and at most 512: the share
 * that changed visibly, and in which ninth most did. Pillow's box halves rows, then columns, and
 * rounds after each; Python's percent rounds a tie to the even number. */
export function toldChange(before, after, width, height, { visible, little }) {
  const [w, h] = [width / 2, height / 2], ninths = Array(9).fill(0);
  const half = (a, b) => (a + b + 1) >> 1;
  const mean = (data, x, y, c) => {
    const at = (row) => 4 * ((2 * y + row) * width + 2 * x) + c;
    return half(half(data[at(0)], data[at(0) + 4]), half(data[at(1)], data[at(1) + 4]));
  };
  const third = (i, n) => [0, 1, 2].findLast((k) => i >= k * Math.floor(n / 3) + Math.min(k, n % 3));
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++)
      if ([0, 1, 2].some((c) => Math.abs(mean(before, x, y, c) - mean(after, x, y, c)) > visible))
        ninths[3 * third(y, h) + third(x, w)]++;
  const share = ninths.reduce((a, b) => a + b) / (w * h), most = ninths.indexOf(Math.max(...ninths));
  if (share < little) return "Nothing that one could see has changed.";
  const percent = 100 * share, down = Math.floor(percent);
  const rounded = percent - down === 0.5 ? down + (down % 2) : Math.round(percent);
  const where = ["at the top", "in the middle", "at the bottom"][Math.floor(most / 3)];
  return `${rounded}% of the picture changed, most of it ${`${where} ${["left", "", "right"][most % 3]}`.trim()}.`;
}

/** How near pixels from -1 to 1 are to others, in dB; `after` is rounded as a picture is. */
export function psnr(before, after) {
  const rounded = (x) => Math.round((Math.min(1, Math.max(-1, x)) + 1) * 127.5) / 127.5 - 1;
  const error = before.reduce((sum, x, i) => sum + (x - rounded(after[i])) ** 2, 0) / before.length / 4;
  return -10 * Math.log10(error + 1e-12);
}

// ---- the editor -------------------------------------------------------------------------------

/** What is known of the weights: `editor.json`. It comes at once, and says what to show meanwhile. */
export const readFacts = async (base) => (await get(`${base}/editor.json`)).json();

async function get(address, signal) {
  const answer = await fetch(address, { signal });
  if (!answer.ok) throw new Error(`${address} is not to be had (${answer.status})`);
  return answer;
}

/** A file's bytes. `onBytes` gets the number of each piece; none where the page cannot read pieces. */
async function download(answer, onBytes) {
  if (!answer.body) return new Uint8Array(await answer.arrayBuffer());
  const pieces = [];
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(pieces).arrayBuffer());
    pieces.push(value);
    onBytes(value.length);
  }
}

/** The four ONNX files and what is known of them. `ort` is ONNX Runtime Web. */
export class Editor {
  /** `onProgress` gets bytes that are here and bytes of all files. */
  static async load(ort, base, facts, onProgress = () => {}) {
    const editor = new Editor();
    Object.assign(editor, { ort, facts, sessions: {} });
    let here = 0;
    const stop = new AbortController();
    const all = Object.values(facts.bytes).reduce((a, b) => a + b, 0);
    const bring = async (name) =>
      download(await get(`${base}/${name}.onnx`, stop.signal), (count) => onProgress((here += count), all));
    const files = await Promise.all(
      Object.keys(facts.bytes).map(async (name) => [name, await bring(name)]),
    ).finally(() => stop.abort()); // where one failed, the others are of no use
    for (const [name, bytes] of files) editor.sessions[name] = await ort.InferenceSession.create(bytes);
    return editor;
  }

  tensor(data, dims, kind = "float32") {
    return new this.ort.Tensor(kind, data, dims);
  }

  async encode(pixels, width, height) {
    const feeds = { pixels: this.tensor(pixels, [1, 3, height, width]) };
    return (await this.sessions.encode.run(feeds)).latents;
  }

  async decode(z, dims) {
    return (await this.sessions.decode.run({ latents: this.tensor(z, dims) })).pixels;
  }

  /** One edit. context: latents of the input picture, or null; onStep gets each step's facts. */
  async edit(prompt, context, { seed = 0, steps, width, height, onStep = async () => {} }) {
    const { facts } = this, { channels, axes_dim: axes, theta } = facts;
    const words = tokenize(prompt, facts);
    const ids = this.tensor(words.ids, [1, words.ids.length], "int64");
    const text = await this.sessions.words.run({ ids });
    const [h, w] = [2 * Math.ceil(height / 16), 2 * Math.ceil(width / 16)], n = (h * w) / 4;
    const dims = [1, channels, h, w];
    const places = (rows, columns, index) => scaledIds(positionIds(rows, columns, index), facts.span);
    const positions = Array(facts.max_length).fill([0, 0, 0]).concat(places(h / 2, w / 2, 0));
    const given = context ? pack(context.data, channels, context.dims[2], context.dims[3]) : new Float32Array();
    if (context) positions.push(...places(context.dims[2] / 2, context.dims[3] / 2, 1));
    const rotary = this.tensor(rotations(positions, axes, theta), [positions.length, axes.reduce((a, b) => a + b) / 2, 2]);
    const times = schedule(steps, n, facts.schedule);
    let z = randn(seed, channels * h * w);
    for (let i = 0; i < steps; i++) {
      const img = new Float32Array(n * 4 * channels + given.length);
      img.set(pack(z, channels, h, w));
      img.set(given, n * 4 * channels); // the context is never noised
      const out = await this.sessions.net.run({
        img: this.tensor(img, [1, img.length / (4 * channels), 4 * channels]),
        txt: text.tokens,
        pooled: text.pooled,
        rotary,
        t: this.tensor(Float32Array.of(times[i]), [1]),
      });
      const v = unpack(out.velocity.data.subarray(0, n * 4 * channels), channels, h, w);
      const clean = z.map((x, k) => x - times[i] * v[k]);
      z = z.map((x, k) => x + (times[i + 1] - times[i]) * v[k]);
      await onStep({ step: i + 1, steps, t: times[i], z, clean, dims, words, attention: out.attention });
    }
    return { z, dims, words };
  }
}
