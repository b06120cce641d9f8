// How charts look and when they are drawn: colours, axes, and a queue that draws what is in sight first.

const byId = (id) => document.getElementById(id);
const RDBU = [[0, "#67001f"], [0.125, "#b2182b"], [0.25, "#d6604d"], [0.375, "#f4a582"], [0.5, "#f7f7f7"],
  [0.625, "#92c5de"], [0.75, "#4393c3"], [0.875, "#2166ac"], [1, "#053061"]];
const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // Okabe and Ito: told apart by all
const ON_DARK = ["#56b4e9", "#f08a4b", "#2bbf95", "#dd9cc3", "#f0c24b", "#8fb8ff"];
let LINES = ON_LIGHT;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let palette = {};

function layout(extra = {}) {
  // "allow": measuring whether labels stick out takes as long as all the rest of drawing an axis, and none here does.
  const axis = { ticklabeloverflow: "allow", gridcolor: palette.line, zerolinecolor: palette.line, linecolor: palette.line, tickcolor: palette.line };
  const { xaxis = {}, yaxis = {}, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, showlegend: false,
    font: { family: "system-ui, sans-serif", size: 12, color: palette.ink },
    margin: { l: 46, r: 12, t: 10, b: 38 },
    hoverlabel: { bgcolor: palette.surface, bordercolor: palette.quiet, font: { color: palette.ink, size: 13 }, align: "left" },
    hoverdistance: 30, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const CONFIG = { displayModeBar: false, doubleClick: false, showTips: false };

function draw(target, traces, extra) {
  const place = typeof target === "string" ? byId(target) : target;
  place.style.height = `${extra.height}px`;
  return window.Plotly.react(place, traces, layout({ width: place.clientWidth, ...extra }), CONFIG);
}

// A chart listens once however often it is drawn anew; `react` is given the point.
function listenOnce(target, event, react) {
  if (target.dataset.listens) return;
  target.dataset.listens = "yes";
  target.on(event, (happened) => react(happened.points[0]));
}

// Charts are drawn a few milliseconds a frame, the latest wish for each place only, those in sight first; the others
// one by one afterwards. `data-state`: busy, then seen (all in sight is drawn), then ready (all is).
const PLACES = { map: "map-chart", circuit: "circuit-chart", losses: "headline", sort: "table" };
const waiting = new Map();
let frame = 0;

// Idle callbacks can be kept waiting for seconds and timers for milliseconds; a message lets frames and clicks pass.
const channel = new MessageChannel();
const afterwards = () => channel.port2.postMessage(null);
channel.port1.onmessage = drawRest;

function later(name, work) {
  waiting.set(name, work);
  document.body.dataset.state = "busy";
  if (!frame) frame = requestAnimationFrame(drawSeen);
}

function inSight(name) {
  const place = byId(PLACES[name] || name), box = place && place.getBoundingClientRect();
  return box && box.bottom > -40 && box.top < innerHeight + 40;
}

function take(name) {
  const work = waiting.get(name);
  waiting.delete(name);
  work();
}

function drawSeen() {
  const until = performance.now() + 25, names = [...waiting.keys()].filter(inSight);
  frame = 0;
  while (names.length && performance.now() < until) take(names.shift());
  if (names.length) { frame = requestAnimationFrame(drawSeen); return; }
  document.body.dataset.state = waiting.size ? "seen" : "ready";
  if (waiting.size) afterwards();
}

function drawRest() {
  if (frame || !waiting.size) return; // something in sight comes first, and calls again
  const until = performance.now() + 25;
  while (waiting.size && performance.now() < until) take(waiting.keys().next().value);
  if (waiting.size) afterwards();
  else document.body.dataset.state = "ready";
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function paint() {
  palette = Object.fromEntries(["ink", "quiet", "line", "soft", "surface", "accent", "warm"].map((name) => [name, colour(`--${name}`)]));
  LINES = dark() ? ON_DARK : ON_LIGHT;
  byId("theme").setAttribute("aria-pressed", String(dark()));
}

function drawAll() {
  paint();
  const work = { map: drawMap, position: drawPosition, lag: drawLag, eigen: drawEigen, circuit: drawCircuit, training: drawTraining, comparison: drawComparison, losses: drawLosses };
  for (const [name, one] of Object.entries(work)) later(name, one);
  drawAttention();
}
