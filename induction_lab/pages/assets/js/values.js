// How numbers, names and elements get into a page, and packed arrays out of it. Names and tokens come from models and
// users: they are written with textContent, or through `plain` where Plotly would read them as markup.

const MINUS = "\u2212";

function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const codes = packed.bits === 8 ? bytes : new Uint16Array(bytes.buffer);
  const step = (packed.high - packed.low) / (2 ** packed.bits - 2);
  return Float32Array.from(codes, (code) => (code ? packed.low + (code - 1) * step : NaN));
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
