// What was measured: the page's JSON, its packed arrays opened; and how numbers, names and elements get into the page.
// Names and tokens come from models and users: they are written with textContent, or through `plain` where Plotly would
// read them as markup.

const data = JSON.parse(document.getElementById("data").textContent), models = data.models.map(opened);
const MINUS = "\u2212";

function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const codes = packed.bits === 8 ? bytes : new Uint16Array(bytes.buffer);
  const step = (packed.high - packed.low) / (2 ** packed.bits - 2);
  return Float32Array.from(codes, (code) => (code ? packed.low + (code - 1) * step : NaN));
}

function opened(model) {
  const kept = new Map();
  model.read = (packed) => {
    if (!kept.has(packed)) kept.set(packed, unpack(packed));
    return kept.get(packed);
  };
  model.nHeads = model.shape.n_heads;
  model.count = model.shape.n_layers * model.nHeads;
  model.names = Array.from({ length: model.count }, (_, i) => `L${Math.floor(i / model.nHeads)}H${i % model.nHeads}`);
  return model;
}

const model = () => models[state.model];
const indexOf = (name, of = model()) => of.names.indexOf(name);
const layerOf = (head, of = model()) => Math.floor(head / of.nHeads);
const row = (packed, i, of = model()) => {
  const width = packed.shape.slice(1).reduce((a, b) => a * b, 1);
  return of.read(packed).subarray(i * width, (i + 1) * width);
};

// What the map shows of a score: as measured, or at a checkpoint.
function shown(name, of = model()) {
  const training = of === model() && state.step !== null ? of.training : null;
  const score = of.scores[name];
  if (!training || !training.heads[name]) return score && { ...score, values: training ? score.values.map(() => null) : score.values };
  const heads = training.heads[name];
  return { ...heads, chance: score && score.chance, values: Array.from(row(heads.values, state.step, of)), errors: null };
}

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toFixed(digits).replace("-", MINUS);
}

const signed = (value, digits = 3) => (value > 0 ? "+" : "") + number(value, digits);
const withError = (value, error, digits = 3) => number(value, digits) + (error ? ` ± ${number(error, digits)}` : "");
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most = 22) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
