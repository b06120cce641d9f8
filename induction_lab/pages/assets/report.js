// The report's behaviour: data in, charts and text out. Names and tokens come from models and users: they are written
// with textContent, or through `plain` where Plotly would read them as markup.
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("data").textContent), models = data.models.map(opened);
  const state = {
    model: 0, score: "prefix_matching", head: 0, prompt: "repeated", weighted: false, view: "one", step: null, token: null,
    sort: null, ascending: false,
  };
  const byId = (id) => document.getElementById(id);
  const RDBU = [[0, "#67001f"], [0.125, "#b2182b"], [0.25, "#d6604d"], [0.375, "#f4a582"], [0.5, "#f7f7f7"],
    [0.625, "#92c5de"], [0.75, "#4393c3"], [0.875, "#2166ac"], [1, "#053061"]];
  const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // Okabe and Ito: told apart by all
  const ON_DARK = ["#56b4e9", "#f08a4b", "#2bbf95", "#dd9cc3", "#f0c24b", "#8fb8ff"];
  let LINES = ON_LIGHT;
  const MINUS = "\u2212";

  // ---- data -------------------------------------------------------------------------------------------------------

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
  const legible = (token) => token.replace(/\n/g, "⏎").replace(/\r/g, "␍").replace(/\t/g, "⇥");
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

  // ---- drawing ----------------------------------------------------------------------------------------------------

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

  const scale = (score) => (score.low < 0 ? RDBU : "Cividis");

  function heat(score, of, extra = {}) {
    const rows = [], texts = [];
    for (let layer = 0; layer < of.shape.n_layers; layer++) {
      const at = layer * of.nHeads;
      rows.push(Array.from(score.values.slice(at, at + of.nHeads), (x) => (Number.isNaN(x) ? null : x)));
      texts.push(of.names.slice(at, at + of.nHeads).map((name, i) => {
        const chance = score.chance === null || score.chance === undefined ? "" : `<br>chance ${number(score.chance)}`;
        return `<b>${name}</b><br>${plain(score.title)} ${withError(score.values[at + i], score.errors && score.errors[at + i])}${chance}`;
      }));
    }
    return {
      type: "heatmap", z: rows, text: texts, hovertemplate: "%{text}<extra></extra>", zmin: score.low, zmax: score.high,
      colorscale: scale(score), xgap: 1, ygap: 1, hoverongaps: false,
      colorbar: { thickness: 10, outlinewidth: 0, len: 0.9 }, ...extra,
    };
  }

  function mapHeight(of, columns = 1) {
    return Math.max(190, Math.min(columns > 1 ? 330 : 600, 70 + of.shape.n_layers * (columns > 1 ? 9 : 18)));
  }

  function drawMap() {
    const of = model(), one = state.view === "one";
    const names = one ? [state.score] : Object.keys(of.scores);
    const target = byId("map-chart");
    const wide = target.clientWidth;
    const columns = one ? 1 : Math.max(1, Math.min(5, Math.floor(wide / 190), names.length));
    const rows = Math.ceil(names.length / columns), traces = [], annotations = [], axes = {};
    names.forEach((name, i) => {
      const score = shown(name, of), tail = i ? String(i + 1) : "", x = `x${tail}`, y = `y${tail}`;
      const left = i % columns, top = Math.floor(i / columns), gap = 0.24 / columns;
      const span = one ? [0, 1] : [left / columns + (left ? gap * 0.55 : 0), (left + 1) / columns - gap * 0.35];
      const high = 1 - top / rows, low = 1 - (top + 1) / rows;
      const every = Math.max(1, Math.ceil(of.shape.n_layers / 30));
      axes[`xaxis${tail}`] = { domain: span, anchor: y, range: [-0.5, of.nHeads - 0.5], title: one ? { text: "head", standoff: 4 } : undefined, showgrid: false, zeroline: false, dtick: Math.max(1, Math.ceil(of.nHeads / 16)), fixedrange: true, showticklabels: one || top === rows - 1, color: palette.ink };
      axes[`yaxis${tail}`] = { domain: one ? [0, 1] : [low + 0.02 / rows, high - 34 / (mapHeight(of, columns) * rows)], anchor: x, range: [of.shape.n_layers - 0.5, -0.5], title: one ? { text: "layer", standoff: 4 } : undefined, showgrid: false, zeroline: false, dtick: one ? every : 5 * every, fixedrange: true, color: palette.ink };
      traces.push(heat(score, of, { xaxis: x, yaxis: y, showscale: one }));
      if (!one) annotations.push({ text: plain(score.title), x: (span[0] + span[1]) / 2, y: high - 10 / (mapHeight(of, columns) * rows), xref: "paper", yref: "paper", showarrow: false, xanchor: "center", yanchor: "top", font: { size: 12, color: palette.ink } });
    });
    const height = mapHeight(of, columns) * (one ? 1 : rows);
    const done = draw(target, traces, { height, margin: { l: 44, r: 8, t: 6, b: 40 }, annotations, xaxis: axes.xaxis, yaxis: axes.yaxis, ...axes });
    if (!target.dataset.listens) {
      target.dataset.listens = "yes";
      target.on("plotly_click", (event) => choose(event.points[0].pointIndex[0] * model().nHeads + event.points[0].pointIndex[1]));
    }
    done.then(moveCursor);
  }

  // Frames around the chosen head, over the charts: moving them costs nothing, redrawing a chart does.
  function moveCursor() {
    const of = model(), frame = byId("map-frame"), origin = frame.getBoundingClientRect();
    const plots = [...byId("map-chart").querySelectorAll(".nsewdrag")].map((plot) => plot.getBoundingClientRect());
    frame.querySelectorAll(".cursor").forEach((old, i) => { if (i >= plots.length) old.remove(); });
    plots.forEach((plot, i) => {
      const box = frame.querySelectorAll(".cursor")[i] || frame.appendChild(element("div", { class: "cursor" }));
      const width = plot.width / of.nHeads, height = plot.height / of.shape.n_layers;
      box.style.transform = `translate(${plot.left - origin.left + (state.head % of.nHeads) * width}px, ${plot.top - origin.top + layerOf(state.head) * height}px)`;
      box.style.width = `${width}px`;
      box.style.height = `${height}px`;
    });
  }

  function drawLosses() {
    document.querySelectorAll(".chart.loss").forEach((target) => {
      const of = models[Number(target.dataset.model)], n = of.loss.length, shapes = [], annotations = [];
      of.loss_by_copy.forEach((mean, copy) => {
        const start = 1 + copy * of.period, end = start + of.period - 1;
        if (copy % 2) shapes.push({ type: "rect", x0: start - 0.5, x1: end + 0.5, y0: 0, y1: 1, yref: "paper", fillcolor: palette.soft, line: { width: 0 }, layer: "below" });
        shapes.push({ type: "line", x0: start, x1: end, y0: mean, y1: mean, line: { color: palette.warm, width: 2, dash: "dot" } });
        annotations.push({ x: (start + end) / 2, y: 1, yref: "paper", yanchor: "top", showarrow: false, text: `copy ${copy + 1}: <b>${number(mean, 2)}</b>`, font: { color: palette.ink } });
      });
      const top = 1.22 * Math.max(...of.loss.filter((x) => x !== null), 0.1);
      draw(target, [{ x: of.loss.map((_, i) => i + 1), y: of.loss, type: "scatter", mode: "lines", line: { color: palette.accent, width: 2 }, hovertemplate: "token %{x}: %{y:.2f} nats<extra></extra>" }],
        { height: 270, shapes, annotations, xaxis: { title: { text: "position of the predicted token" }, range: [0.5, n + 0.5], showgrid: false, fixedrange: true }, yaxis: { title: { text: "loss, nats" }, range: [0, top], fixedrange: true } });
    });
  }

  // ---- the table --------------------------------------------------------------------------------------------------

  // Rows are made and put in as they come into sight: hundreds of heads sort as fast as a few.
  const AT_A_TIME = 40;
  let rowsOf = [], ordered = [];

  function fillTable() {
    const of = model(), names = Object.keys(of.scores), table = byId("table");
    const heads = [["head", "Head"], ...names.map((name) => [name, of.scores[name].title])];
    table.tHead.replaceChildren(element("tr", {}, ...heads.map(([name, title]) =>
      element("th", { scope: "col", "data-name": name }, element("button", { type: "button", onclick: () => sortBy(name) }, title)))));
    rowsOf = [];
    table.tBodies[0].onclick = (event) => {
      const line = event.target.closest("tr");
      if (line) choose(Number(line.dataset.head));
    };
    sortBy(state.score, false);
  }

  function rowOf(i) {
    const of = model();
    return (rowsOf[i] ??= element("tr", { "data-head": i, "aria-current": i === state.head ? "true" : null },
      element("td", {}, of.names[i]), ...Object.values(of.scores).map((score) => element("td", {}, number(score.values[i])))));
  }

  function sortBy(name, ascending) {
    state.ascending = ascending ?? (state.sort === name ? !state.ascending : name === "head");
    state.sort = name;
    for (const head of byId("table").tHead.rows[0].cells) {
      if (head.dataset.name === name) head.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    filterTable();
  }

  function filterTable() {
    const of = model(), wanted = byId("find").value.trim().toUpperCase(), least = parseFloat(byId("least").value);
    const values = of.scores[state.score].values, sign = state.ascending ? 1 : -1, last = state.ascending ? Infinity : -Infinity;
    const key = state.sort === "head" ? (i) => i : (i) => of.scores[state.sort].values[i] ?? last;
    const fits = (name) => (/^L\d+$/.test(wanted) ? name.startsWith(wanted + "H") : name.includes(wanted));
    ordered = of.names.map((_, i) => i).filter((i) => fits(of.names[i]) && (Number.isNaN(least) || values[i] >= least));
    ordered.sort((a, b) => sign * (key(a) - key(b)) || a - b);
    byId("count").textContent = `${ordered.length} of ${of.count} heads`;
    byId("table").tBodies[0].replaceChildren(...ordered.slice(0, AT_A_TIME).map(rowOf));
    byId("table").parentElement.scrollTop = 0;
  }

  function moreRows() {
    const body = byId("table").tBodies[0], frame = byId("table").parentElement;
    if (frame.scrollTop + 2 * frame.clientHeight > frame.scrollHeight) body.append(...ordered.slice(body.rows.length, body.rows.length + AT_A_TIME).map(rowOf));
  }

  function markRow() {
    rowsOf.forEach((line, i) => { if (i === state.head) line.setAttribute("aria-current", "true"); else line.removeAttribute("aria-current"); });
  }

  // ---- one head ---------------------------------------------------------------------------------------------------

  function link(head) {
    return element("a", { href: address(head), onclick: (event) => { event.preventDefault(); choose(head); } }, model().names[head]);
  }

  function drawHead() {
    const of = model(), name = of.names[state.head];
    byId("head-title").textContent = models.length > 1 ? `${name} of ${of.label}` : name;
    byId("head-says").textContent = inWords(of, state.head);
    byId("chips").replaceChildren(...Object.values(of.scores).map((score) => {
      const value = score.values[state.head], error = score.errors[state.head];
      const share = value === null ? 0 : Math.min(1, Math.abs(value) / Math.max(Math.abs(score.low), score.high));
      return element("li", { title: score.definition },
        element("p", { class: "quiet" }, element("span", {}, score.title), element("span", {}, score.chance === null ? "" : `chance ${number(score.chance)}`)),
        element("b", {}, number(value)), element("span", { class: "quiet" }, error ? ` ± ${number(error)}` : ""),
        element("i", { style: `width:${(100 * share).toFixed(1)}%`, class: value < 0 ? "negative" : "" }));
    }));
    drawAttention();
    fillPartners("feeds", of.reads);
    fillPartners("fed", of.read_by);
    fillEffects();
    later("position", drawPosition);
    later("lag", drawLag);
    later("eigen", drawEigen);
    later("training", drawTraining);
  }

  function drawAttention() {
    const of = model(), name = of.names[state.head];
    const view = of.views[name] && of.views[name][state.prompt];
    byId("attention").hidden = byId("attention-controls").hidden = byId("pattern-card").hidden = !view;
    byId("not-shown").hidden = Boolean(view);
    if (!view) byId("not-shown").textContent = `This file holds the patterns of ${Object.keys(of.views).length} of ${of.count} heads, and ${name} is not among them. Its scores, profiles, eigenvalues and composition are below. For the patterns of every head, write the report with --all-heads.`;
    else { fillTokens(); later("pattern", drawPattern); }
  }

  function inWords(of, head) {
    const said = [], value = (name) => (of.scores[name] ? of.scores[name].values[head] : null);
    const verdict = of.explanation && of.explanation.heads[of.names[head]];
    if (verdict && verdict.verdict !== "bystander") said.push(`by its effects: ${verdict.verdict}`);
    if (value("prefix_matching") > data.looks) said.push("looks at what followed the current token before: an induction head");
    if (value("previous_token") > data.looks) said.push("looks at the token before");
    if (value("duplicate_token") > data.looks) said.push("looks at the current token's earlier occurrence");
    if (value("current_token") > data.looks) said.push("looks at the current token");
    if (value("resting") > data.looks) said.push("rests on the first position while nothing recurs");
    return said.length ? `${said.join("; ")}.`.replace(/^./, (c) => c.toUpperCase()) : "";
  }

  function weights(query) {
    const of = model(), view = of.views[of.names[state.head]][state.prompt], start = (query * (query + 1)) / 2;
    const found = Array.from(of.read(view.pattern).subarray(start, start + query + 1));
    if (!state.weighted) return found;
    const written = of.read(view.written), weighed = found.map((x, s) => x * written[s]);
    const total = weighed.reduce((a, b) => a + b, 0) || 1;
    return weighed.map((x) => x / total);
  }

  const tokens = () => model().prompts[state.prompt];

  function fillTokens() {
    const list = byId("tokens"), words = tokens(), half = state.prompt === "repeated" ? (words.length - 1) / 2 : Infinity;
    const key = `${state.model} ${state.prompt}`;
    if (list.dataset.key !== key) {
      list.dataset.key = key;
      list.replaceChildren(...words.map((word, i) => element("span", { role: "option", id: `token-${i}`, "data-token": i, class: i > half ? "copy" : null, "aria-selected": "false" }, legible(word))));
      state.token = null;
    }
    if (state.token === null || state.token >= words.length) state.token = busiest();
    look(state.token);
  }

  // The token from which the head looks most clearly at something other than the first position or the token itself.
  function busiest() {
    let best = -1, at = tokens().length - 1;
    for (let query = 1; query < tokens().length; query++) {
      const most = Math.max(0, ...weights(query).slice(1, query));
      if (most >= best) { best = most; at = query; }
    }
    return at;
  }

  function look(query) {
    const list = byId("tokens"), words = tokens(), found = weights(query), spans = list.children;
    state.token = query;
    for (let i = 0; i < spans.length; i++) {
      spans[i].style.setProperty("--w", i <= query ? `${(48 * Math.min(1, found[i])).toFixed(1)}%` : "0%");
      spans[i].classList.toggle("active", i === query);
      if (spans[i].getAttribute("aria-selected") === "true") spans[i].setAttribute("aria-selected", "false");
    }
    spans[query].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", `token-${query}`);
    const best = found.map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 6).filter(([weight]) => weight >= 0.03);
    drawArcs(query, best);
    const name = (i) => `“${short(legible(words[i]).trim() || "␣")}” (${i})`;
    byId("token-live").textContent = `From ${name(query)}: ` + (best.map(([weight, i]) => `${i === query ? "itself" : name(i)} ${number(weight, 2)}`).join(", ") || "spread thinly over many") + (state.weighted ? ", weighed by what each could write." : ".");
  }

  function drawArcs(query, best) {
    const frame = byId("arcs"), spans = byId("tokens").children, box = frame.getBoundingClientRect();
    const middle = (i) => { const at = spans[i].getBoundingClientRect(); return [at.left + at.width / 2 - box.left, at.top - box.top, at.height]; };
    const [x0, y0] = middle(query);
    const places = best.filter(([, i]) => i !== query).map(([weight, i]) => [weight, ...middle(i)]);
    frame.replaceChildren(...places.map(([weight, x1, y1]) => {
      const rise = Math.abs(y1 - y0) < 4 ? Math.min(26, 8 + Math.abs(x1 - x0) / 14) : 12;
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x0},${y0} C${x0},${y0 - rise} ${x1},${y1 - rise} ${x1},${y1}`);
      path.setAttribute("stroke-width", (0.8 + 4 * weight).toFixed(2));
      return path;
    }));
  }

  function drawPattern() {
    const words = tokens(), n = words.length;
    const rows = words.map((_, query) => { const found = weights(query); return words.map((_, key) => (key <= query ? found[key] : null)); });
    const named = words.map((word, i) => `${plain(short(legible(word).trim() || "␣"))} (${i})`);
    const target = byId("pattern");
    const step = Math.ceil(n / 22), ticks = words.map((_, i) => i).filter((i) => i % step === 0);
    const axis = { type: "category", showgrid: false, zeroline: false, fixedrange: true, tickvals: ticks, ticktext: ticks.map((i) => plain(short(legible(words[i]).trim() || "␣", 9))), tickfont: { size: 9 } };
    draw(target, [{ type: "heatmap", z: rows, x: named, y: named, colorscale: "Cividis", zmin: 0, zmax: 1, showscale: false, hoverongaps: false, hovertemplate: "from %{y}<br>to %{x}<br>%{z:.3f}<extra></extra>" }],
      { height: 380, margin: { l: 84, r: 4, t: 6, b: 84 }, xaxis: { ...axis, tickangle: -90, title: { text: "looks at" } }, yaxis: { ...axis, autorange: "reversed", title: { text: "from" } } });
    if (!target.dataset.listens) {
      target.dataset.listens = "yes";
      target.on("plotly_hover", (event) => look(event.points[0].pointIndex[0]));
    }
  }

  function drawPosition() {
    const of = model(), names = Object.keys(of.places);
    const lines = names.map((name) => Array.from(row(of.by_position[name], state.head), (x) => (Number.isNaN(x) ? null : x)));
    draw("position", names.map((name, i) => ({ type: "scatter", mode: "lines", name: plain(of.places[name]), x: lines[i].map((_, p) => p), y: lines[i], line: { color: LINES[i], width: 1.8 }, hovertemplate: `%{y:.2f} at %{x}: ${plain(of.places[name])}<extra></extra>` })),
      { height: 250, margin: { l: 44, r: 8, t: 6, b: 38 }, xaxis: { title: { text: "position" }, showgrid: false, fixedrange: true }, yaxis: { range: [0, 1.02], fixedrange: true, title: { text: "attention" } },
        shapes: [{ type: "rect", x0: of.period + 0.5, x1: 2 * of.period + 0.5, y0: 0, y1: 1, yref: "paper", fillcolor: palette.soft, line: { width: 0 }, layer: "below" }] });
    const mean = (line, copy) => {
      const some = line.slice(1 + copy * of.period, 1 + (copy + 1) * of.period).filter((x) => x !== null);
      return some.length ? some.reduce((a, b) => a + b, 0) / some.length : null;
    };
    const table = byId("copies");
    table.tHead.replaceChildren(element("tr", {}, element("th", { scope: "col" }, "Attention to"), element("th", { scope: "col" }, "copy 1"), element("th", { scope: "col" }, "copy 2")));
    table.tBodies[0].replaceChildren(...names.map((name, i) => {
      const key = element("span", { "aria-hidden": "true", style: `color:${LINES[i]}` }, "■ ");
      return element("tr", {}, element("td", { style: "white-space:normal" }, key, of.places[name]), element("td", {}, number(mean(lines[i], 0), 2)), element("td", {}, number(mean(lines[i], 1), 2)));
    }));
  }

  function drawLag() {
    const of = model(), values = Array.from(row(of.by_lag, state.head), (x) => (Number.isNaN(x) ? null : x));
    draw("lag", [{ type: "bar", x: of.lags, y: values, marker: { color: of.lags.map((lag) => (lag === 1 ? palette.warm : palette.accent)) }, hovertemplate: "%{x:+d}: %{y:.3f}<extra></extra>" }],
      { height: 350, margin: { l: 44, r: 8, t: 6, b: 38 }, bargap: 0.25, xaxis: { title: { text: "distance from it, tokens" }, dtick: 1, tickformat: "+d", showgrid: false, fixedrange: true }, yaxis: { title: { text: "attention" }, range: [0, Math.max(0.1, ...values.map((x) => x || 0)) * 1.08], fixedrange: true } });
  }

  function drawEigen() {
    const of = model();
    if (!of.eigenvalues) { byId("eigen-says").textContent = of.left_out["OV eigenvalues"] || "Not measured."; return; }
    const plane = row(of.eigenvalues.plane, state.head), size = of.eigenvalues.largest[state.head] || 1, x = [], y = [];
    for (let i = 0; i < plane.length; i += 2) { x.push(plane[i] * size); y.push(plane[i + 1] * size); }
    const sizes = x.map((value, i) => Math.hypot(value, y[i])).sort((a, b) => a - b), usual = 4 * sizes[Math.floor(0.9 * (sizes.length - 1))];
    const within = sizes.filter((value) => value <= usual), beyond = sizes.length - within.length, edge = 1.12 * (within[within.length - 1] || size);
    draw("eigen", [{ type: "scatter", mode: "markers", x, y, marker: { size: 7, color: x.map((value) => (value >= 0 ? LINES[0] : LINES[1])), opacity: 0.75, line: { width: 0 } }, hovertemplate: "%{x:.3~g} + %{y:.3~g} i<extra></extra>" }],
      { height: 330, margin: { l: 50, r: 8, t: 6, b: 38 }, xaxis: { title: { text: "real part" }, range: [-edge, edge], fixedrange: true, nticks: 5 }, yaxis: { title: { text: "imaginary part" }, range: [-edge, edge], fixedrange: true, nticks: 5 } });
    const share = of.scores.ov_copying ? of.scores.ov_copying.values[state.head] : null;
    byId("eigen-says").textContent = `Of what it writes about a token. To the right: tokens raise themselves. ${x.filter((value) => value > 0).length} of ${x.length} lie there; on the whole, OV copying ${number(share)}.${beyond ? ` ${beyond} beyond the frame, at most ${Math.round(size).toLocaleString("en")} from the middle.` : ""}`;
  }

  const INPUT = { K: "keys", Q: "queries", V: "values" };

  function fillPartners(id, composition) {
    const of = model(), kinds = ["K", "Q", "V"].filter((kind) => composition[kind]);
    if (!kinds.length) { byId(id).replaceChildren(element("p", { class: "quiet" }, of.left_out.composition || "Not measured.")); return; }
    const most = Math.max(1e-9, ...kinds.map((kind) => (composition[kind][state.head][0] || [0, 0])[1]));
    byId(id).replaceChildren(...kinds.map((kind) => {
      const found = composition[kind][state.head];
      const items = found.map(([head, value]) => element("li", {}, link(head), element("span", {}, number(value)), element("i", { style: `width:${(100 * value / most).toFixed(0)}%` })));
      return element("div", {}, element("h4", {}, `${id === "feeds" ? "its" : "their"} ${INPUT[kind]}`), found.length ? element("ol", {}, ...items) : element("p", { class: "quiet" }, "none above random"));
    }));
  }

  function fillEffects() {
    const of = model(), name = of.names[state.head], list = [], add = (what, ...says) => list.push(element("dt", {}, what), element("dd", {}, ...says));
    const known = of.explanation && of.explanation.heads[name], ablated = of.ablation && of.ablation.effects[name];
    if (known) {
      add("Verdict", `${known.verdict}: ${of.explanation.verdicts[known.verdict]}.`);
      add("Without it", `the second copy's loss changes by ${signed(known.effect)} ± ${number(known.effect_error)} nats.`);
      if (known.to_keys !== null) add("Without its path to the induction heads' keys", `it changes by ${signed(known.to_keys)} ± ${number(known.to_keys_error)} nats.`);
    } else if (ablated) {
      add("Without it", `the second copy's loss changes from ${number(of.ablation.clean, 2)} by ${signed(ablated[0])} ± ${number(ablated[1])} nats (mean ablation, ${of.ablation.n_prompts} prompts).`);
    } else {
      add("Without it", `not measured here${of.left_out.ablation ? ": " + of.left_out.ablation : "; heads shown in full are ablated, with --all-heads every head"}.`);
    }
    const edges = of.explanation ? of.explanation.edges.filter((edge) => edge.sender === name || edge.receiver === name).slice(0, 6) : [];
    if (edges.length) {
      const parts = edges.flatMap((edge) => [link(indexOf(edge.sender)), " → keys of ", link(indexOf(edge.receiver)), ` ${signed(edge.effect, 2)}`, element("br")]);
      add("Single paths cut, nats", ...parts);
    }
    const attributed = of.scores.logit_attribution;
    if (attributed) add("What it writes", `${signed(attributed.values[state.head])} ± ${number(attributed.errors[state.head])} logits for the right next token on the second copy (not causal).`);
    else if (of.left_out.logit_attribution) add("What it writes", of.left_out.logit_attribution);
    byId("effects").replaceChildren(...list);
  }

  // ---- circuit, training, comparison ------------------------------------------------------------------------------

  function drawCircuit() {
    const of = model(), edges = of.circuit ? of.circuit.filter((edge) => edge.strength > 0).slice(0, 16) : [];
    byId("circuit-card").hidden = !edges.length;
    byId("circuit-says").textContent = edges.length
      ? `Which previous-token head feeds which induction head's keys: arrows as thick as previous-token score × prefix matching × K-composition. Most likely ${edges[0].previous} → ${edges[0].induction}. Where heads look and what their weights say, not proof of cause. Choose a head to see it above.`
      : of.left_out.circuit || "No edge of an induction circuit shows in this model.";
    if (!edges.length) return;
    const names = [...new Set(edges.flatMap((edge) => [edge.previous, edge.induction]))], readers = new Set(edges.map((edge) => edge.induction));
    const by = {}, place = {};
    names.map((name) => indexOf(name)).sort((a, b) => a - b).forEach((head) => (by[layerOf(head)] ??= []).push(head));
    const layers = Object.keys(by).map(Number).sort((a, b) => a - b), many = Math.max(...Object.values(by).map((some) => some.length));
    layers.forEach((layer, column) => by[layer].forEach((head, i) => { place[of.names[head]] = [column, (i - (by[layer].length - 1) / 2) + (column % 2 ? 0.28 : -0.28)]; }));
    const strongest = edges[0].strength, target = byId("circuit-chart"), size = Math.max(24, Math.min(38, (0.8 * target.clientWidth) / layers.length)), small = size < 34;
    const arrows = edges.slice().reverse().map((edge) => {
      const [ax, ay] = place[edge.previous], [x, y] = place[edge.induction], share = edge.strength / strongest;
      return { x, y, ax, ay, xref: "x", yref: "y", axref: "x", ayref: "y", showarrow: true, text: "", arrowhead: 2, arrowsize: 0.9, arrowwidth: 0.8 + 4.2 * share, arrowcolor: palette.accent, opacity: 0.25 + 0.65 * share, standoff: size / 2, startstandoff: size / 2 };
    });
    draw(target, [{ type: "scatter", mode: "markers+text", x: names.map((name) => place[name][0]), y: names.map((name) => place[name][1]), text: names, customdata: names.map((name) => indexOf(name)), textfont: { size: small ? 8 : 10, color: names.map((name) => (readers.has(name) ? "#ffffff" : "#1b1f27")) },
      marker: { size, color: names.map((name) => (readers.has(name) ? "#0b5c8f" : "#f0c24b")), line: { color: palette.surface, width: 2 } }, hovertemplate: names.map((name) => `<b>${name}</b><br>${readers.has(name) ? "induction head" : "previous-token head"}<extra></extra>`) }],
      { height: Math.max(230, 90 + (small ? 60 : 74) * many), annotations: arrows, margin: { l: 24, r: 24, t: 16, b: 44 },
        xaxis: { title: { text: "layer" }, tickvals: layers.map((_, i) => i), ticktext: layers.map(String), range: [-0.5, layers.length - 0.5], zeroline: false, fixedrange: true }, yaxis: { visible: false, range: [many / 2 + 0.5, -many / 2 - 0.5], fixedrange: true } });
    if (!target.dataset.listens) { target.dataset.listens = "yes"; target.on("plotly_click", (event) => choose(event.points[0].customdata)); }
    const table = byId("edges");
    table.tHead.replaceChildren(element("tr", {}, ...["Writes", "Reads", "Strength", "Previous token", "Prefix matching", "K", "Q", "V"].map((title) => element("th", { scope: "col" }, title))));
    table.tBodies[0].replaceChildren(...edges.map((edge) => element("tr", {}, element("td", {}, link(indexOf(edge.previous))), element("td", {}, link(indexOf(edge.induction))), ...["strength", "previous_token", "prefix_matching", "K", "Q", "V"].map((name) => element("td", {}, number(edge[name]))))));
  }

  function stepLine() {
    const training = model().training, at = state.step === null ? training.steps.length - 1 : state.step;
    return { type: "line", x0: training.steps[at] + 1, x1: training.steps[at] + 1, y0: 0, y1: 1, yref: "paper", line: { color: palette.warm, width: 2 } };
  }

  function drawTraining() {
    const of = model(), training = of.training;
    if (!training) return;
    const x = training.steps.map((step) => step + 1), axis = { type: "log", dtick: 1, range: [-0.05, 1.02 * Math.log10(x[x.length - 1] + 1)], title: { text: "step + 1" }, fixedrange: true, showgrid: false };
    const legend = { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, shapes: [stepLine()], height: 280, margin: { l: 48, r: 10, t: 8, b: 40 } };
    const names = Object.keys(training.series).filter((name) => name !== "icl_score");
    draw("training-loss", names.map((name, i) => ({ type: "scatter", mode: "lines+markers", marker: { size: 4 }, name: plain(name.replace("_", " ")), x, y: training.series[name], line: { color: LINES[i] }, hovertemplate: "step %{customdata}: %{y:.2f} nats<extra></extra>", customdata: training.steps })), { ...legend, xaxis: axis, yaxis: { title: { text: "loss, nats" }, rangemode: "tozero", fixedrange: true } });
    const heads = training.heads[state.score] || Object.values(training.heads)[0], own = [], best = [];
    training.steps.forEach((_, i) => { const values = row(heads.values, i); own.push(Number.isNaN(values[state.head]) ? null : values[state.head]); best.push(Math.max(...Array.from(values).filter((value) => !Number.isNaN(value)))); });
    byId("training-head-title").textContent = `${heads.title} of ${of.names[state.head]}`;
    draw("training-head", [["best head", best, palette.quiet, "dot"], [of.names[state.head], own, palette.accent, "solid"]].map(([name, y, color, dash]) => ({ type: "scatter", mode: "lines", name, x, y, line: { color, dash, width: 2 }, customdata: training.steps, hovertemplate: "step %{customdata}: %{y:.2f}<extra></extra>" })), { ...legend, xaxis: axis, yaxis: { title: { text: plain(heads.title) }, fixedrange: true } });
    for (const id of ["training-loss", "training-head"]) {
      const target = byId(id);
      if (!target.dataset.listens) { target.dataset.listens = "yes"; target.on("plotly_click", (event) => setStep(event.points[0].pointIndex)); }
    }
  }

  function drawComparison() {
    if (models.length < 2) return;
    const traces = [], axes = {}, annotations = [], n = models.length;
    models.forEach((of, i) => {
      const score = shown(state.score, of), tail = i ? String(i + 1) : "", layers = of.shape.n_layers, gap = 0.05;
      const domain = [i / n + (i ? gap / 2 : 0), (i + 1) / n - (i < n - 1 ? gap / 2 : 0)];
      axes[`xaxis${tail}`] = { domain, anchor: `y${tail}`, showgrid: false, zeroline: false, fixedrange: true, title: { text: "head" }, color: palette.ink, dtick: Math.max(1, Math.ceil(of.nHeads / 12)) };
      axes[`yaxis${tail}`] = { anchor: `x${tail}`, range: [1, 0], showgrid: false, zeroline: false, fixedrange: true, color: palette.ink, showticklabels: i === 0, title: i ? undefined : { text: "relative depth" } };
      annotations.push({ text: plain(of.label), x: (domain[0] + domain[1]) / 2, y: 1.01, yanchor: "bottom", xref: "paper", yref: "paper", xanchor: "center", showarrow: false, font: { size: 13, color: palette.ink } });
      if (score) traces.push(heat(score, of, { y: Array.from({ length: layers }, (_, layer) => (layer + 0.5) / layers), xaxis: `x${tail}`, yaxis: `y${tail}`, showscale: i === n - 1 }));
    });
    draw("comparison-maps", traces, { height: 420, margin: { l: 52, r: 10, t: 34, b: 44 }, annotations, xaxis: axes.xaxis, yaxis: axes.yaxis, ...axes });
    const lines = models.filter((of) => of.scores[state.score]).map((of, i) => {
      const score = of.scores[state.score], layers = of.shape.n_layers, best = [];
      for (let layer = 0; layer < layers; layer++) best.push(Math.max(...score.values.slice(layer * of.nHeads, (layer + 1) * of.nHeads).map((x) => x ?? -Infinity)));
      return { type: "scatter", mode: "lines+markers", name: plain(of.label), x: best.map((_, layer) => (layer + 0.5) / layers), y: best, line: { color: LINES[i % LINES.length], dash: ["solid", "dash", "dot"][i % 3] }, customdata: best.map((_, layer) => layer), hovertemplate: `${plain(of.label).replace(/%/g, "%\u200b")}, layer %{customdata}: %{y:.3f}<extra></extra>` };
    });
    draw("comparison-depth", lines, { height: 300, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, xaxis: { title: { text: "relative depth" }, range: [0, 1], fixedrange: true }, yaxis: { title: { text: "best head of the layer" }, fixedrange: true } });
  }

  // ---- tables to take away ----------------------------------------------------------------------------------------

  function csv(columns, lines) {
    const cell = (value) => {
      if (value === null || value === undefined || Number.isNaN(value)) return "";
      if (typeof value === "number") return String(value);
      const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value); // no formula for a spreadsheet to run
      return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
    };
    return [columns, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
  }

  function tables(of) {
    const found = {}, label = of.label;
    found.scores = () => csv(["model", "layer", "head", "label", "score", "value", "standard_error", "q_value", "uniform"],
      Object.entries(of.scores).flatMap(([name, score]) => of.names.map((head, i) => [label, layerOf(i, of), i % of.nHeads, head, name, score.values[i], score.errors[i], score.q ? score.q[i] : null, score.chance])));
    found.lags = () => csv(["model", "label", "lag", "attention"], of.names.flatMap((head, i) => Array.from(row(of.by_lag, i, of), (x, at) => [label, head, of.lags[at], Number.isNaN(x) ? null : Number(x.toPrecision(5))])));
    if (Object.keys(of.reads).length) found.composition = () => csv(["model", "kind", "writes", "reads", "value"], Object.entries(of.reads).flatMap(([kind, all]) => all.flatMap((some, i) => some.map(([head, value]) => [label, kind, of.names[head], of.names[i], value]))));
    const records = (name, all) => { if (all && all.length) found[name] = () => csv(Object.keys(all[0]), all.map((one) => Object.values(one))); };
    records("circuit", of.circuit);
    if (of.ablation) found.ablation = () => csv(["model", "label", "effect", "standard_error"], Object.entries(of.ablation.effects).map(([head, [effect, error]]) => [label, head, effect, error]));
    if (of.explanation) { records("verdicts", Object.values(of.explanation.heads)); records("paths", of.explanation.edges); }
    if (of.training) found.training = () => csv(["model", "step", "label", "score", "value"], Object.entries(of.training.heads).flatMap(([name, heads]) => of.training.steps.flatMap((step, at) => Array.from(row(heads.values, at, of), (x, i) => [label, step, of.names[i], name, Number.isNaN(x) ? null : Number(x.toPrecision(4))]))));
    return found;
  }

  function fillDownloads() {
    const of = model();
    byId("downloads").replaceChildren(...Object.entries(tables(of)).map(([name, make]) => element("button", { type: "button", "data-table": name, onclick: () => save(`${of.label.replace(/[^\w.-]+/g, "_")}_${name}.csv`, make()) }, `${name}.csv`)));
  }

  function save(name, text) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    const anchor = element("a", { href: url, download: name });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // ---- choosing ---------------------------------------------------------------------------------------------------

  function address(head, of = model()) {
    const name = of.names[head];
    return models.length > 1 ? `#${encodeURIComponent(of.label)}/${name}` : `#${name}`;
  }

  // From an address to [model, head]; null for addresses that are of something else.
  function addressed(hash) {
    let text = hash.slice(1);
    try { text = decodeURIComponent(text); } catch { /* as it stands */ }
    const cut = text.lastIndexOf("/"), name = text.slice(cut + 1).toUpperCase(), label = text.slice(0, Math.max(cut, 0));
    const which = cut < 0 ? state.model : models.findIndex((of) => of.label === label);
    const head = which < 0 ? -1 : indexOf(name, models[which]);
    return head < 0 ? null : [which, head];
  }

  let ours = "", first = [0, 0]; // the address that we gave last; what is shown where there is none

  function choose(head, how = "push") {
    state.head = head;
    ours = address(head);
    if (how === "push" && location.hash !== ours) location.hash = ours;
    else if (how === "replace") history.replaceState(null, "", ours);
    state.token = null;
    say();
    markRow();
    moveCursor();
    drawHead();
  }

  function say() {
    const of = model(), score = shown(state.score, of), value = score.values[state.head];
    const error = score.errors && score.errors[state.head];
    byId("map-live").textContent = `${of.names[state.head]}: ${score.title} ${withError(value, error)}${score.chance === null || score.chance === undefined ? "" : `, chance ${number(score.chance)}`}`;
    byId("map-chart").setAttribute("aria-label", `Layers down, heads across; ${byId("map-live").textContent}. Arrow keys move.`);
  }

  function setScore(name) {
    state.score = name;
    byId("score").value = name;
    const score = model().scores[name];
    byId("definition").textContent = score.definition;
    say();
    later("map", drawMap);
    later("sort", () => sortBy(name, false));
    later("training", drawTraining);
    later("comparison", drawComparison);
  }

  function setStep(step) {
    const training = model().training;
    state.step = step;
    byId("final").setAttribute("aria-pressed", String(step === null));
    const at = step === null ? training.steps.length - 1 : step;
    byId("step").value = at;
    byId("step-name").textContent = step === null ? "" : `step ${training.steps[at].toLocaleString("en")}`;
    byId("step").setAttribute("aria-valuetext", `step ${training.steps[at]}`);
    say();
    later("map", drawMap);
    later("comparison", drawComparison);
    for (const id of ["training-loss", "training-head"]) {
      if (byId(id).layout) later(id, () => window.Plotly.relayout(id, { "shapes[0].x0": stepLine().x0, "shapes[0].x1": stepLine().x1 }));
    }
  }

  let playing = 0;

  function play() {
    const training = model().training;
    clearInterval(playing);
    if (byId("play").textContent === "Stop") { byId("play").textContent = "Play"; return; }
    byId("play").textContent = "Stop";
    let at = state.step === null || state.step >= training.steps.length - 1 ? 0 : state.step;
    setStep(at);
    playing = setInterval(() => {
      at += 1;
      setStep(at);
      if (at >= training.steps.length - 1) { clearInterval(playing); byId("play").textContent = "Play"; }
    }, 450);
  }

  function setModel(which, head = null) {
    state.model = which;
    state.step = null;
    state.prompt = "repeated";
    const of = model(), names = Object.keys(of.scores);
    if (byId("model")) byId("model").value = String(which);
    byId("score").replaceChildren(...names.map((name) => element("option", { value: name }, of.scores[name].title)));
    if (!of.scores[state.score]) state.score = names[0];
    state.head = head ?? Math.max(0, indexOf(Object.keys(of.views)[0] || "L0H0"));
    const prompts = { repeated: "Repeated tokens", text: "Text" };
    byId("prompt").replaceChildren(byId("prompt").firstElementChild, ...Object.keys(of.prompts).map((name) => {
      const input = element("input", { type: "radio", name: "prompt", value: name });
      input.checked = name === state.prompt;
      return element("label", {}, input, element("span", {}, prompts[name] || name));
    }));
    const training = of.training;
    byId("checkpoints").hidden = byId("training").hidden = !training;
    document.querySelectorAll('[data-for="training"]').forEach((item) => { item.hidden = !training; });
    if (training) { byId("step").max = training.steps.length - 1; setStep(null); }
    fillTable();
    fillDownloads();
    setScore(state.score);
    later("circuit", drawCircuit);
    markRow();
    drawHead();
  }

  function move(event) {
    const of = model(), n = of.nHeads, last = of.count - 1, at = state.head;
    const to = { ArrowLeft: at % n ? at - 1 : at, ArrowRight: at % n < n - 1 ? at + 1 : at, ArrowUp: at - n, ArrowDown: at + n, Home: at - (at % n), End: at - (at % n) + n - 1, PageUp: at % n, PageDown: last - (n - 1) + (at % n) }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last && to !== at) choose(to, "replace");
  }

  function moveToken(event) {
    const last = tokens().length - 1, at = state.token ?? last;
    const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) look(to);
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
    if (!byId("pattern-card").hidden) work.pattern = drawPattern;
    for (const [name, one] of Object.entries(work)) later(name, one);
  }

  function listen() {
    byId("score").addEventListener("change", (event) => setScore(event.target.value));
    byId("view").addEventListener("change", (event) => { state.view = event.target.value; byId("map").querySelector(".map-grid").classList.toggle("all", state.view === "all"); later("map", drawMap); });
    if (byId("model")) byId("model").addEventListener("change", (event) => { setModel(Number(event.target.value)); location.hash = ours = address(state.head); });
    byId("map-chart").addEventListener("keydown", move);
    byId("table").parentElement.addEventListener("scroll", moreRows, { passive: true });
    byId("find").addEventListener("input", filterTable);
    byId("least").addEventListener("input", filterTable);
    byId("prompt").addEventListener("change", (event) => { state.prompt = event.target.value; state.token = null; drawAttention(); });
    byId("weighted").addEventListener("change", (event) => { state.weighted = event.target.checked; look(state.token); later("pattern", drawPattern); });
    const list = byId("tokens");
    list.addEventListener("keydown", moveToken);
    list.addEventListener("mouseover", (event) => { const at = event.target.dataset.token; if (at !== undefined) look(Number(at)); });
    list.addEventListener("click", (event) => { const at = event.target.dataset.token; if (at !== undefined) look(Number(at)); });
    byId("step").addEventListener("input", (event) => setStep(Number(event.target.value)));
    byId("final").addEventListener("click", () => setStep(null));
    byId("play").addEventListener("click", play);
    byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; drawAll(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    document.querySelectorAll(".to-head").forEach((anchor) => anchor.addEventListener("click", (event) => {
      event.preventDefault();
      go(Number(anchor.dataset.model), indexOf(anchor.dataset.head, models[Number(anchor.dataset.model)]));
      byId("head").scrollIntoView();
    }));
    window.addEventListener("hashchange", () => {
      const found = location.hash === ours ? null : location.hash ? addressed(location.hash) : first;
      if (found) { ours = location.hash; go(found[0], found[1], "follow"); }
    });
    let width = innerWidth;
    window.addEventListener("resize", () => {
      if (innerWidth === width) return; // a phone's address bar comes and goes
      width = innerWidth;
      if (state.token !== null && !byId("attention").hidden) look(state.token);
      drawAll();
    });
  }

  function go(which, head, how = "push") {
    if (which !== state.model) setModel(which, head);
    choose(head, how);
  }

  function start() {
    const code = document.createElement("script");
    code.textContent = byId("plotly").textContent;
    document.head.append(code);
    byId("plotly").remove();
    paint();
    listen();
    const found = addressed(location.hash);
    setModel(0);
    first = [0, state.head];
    if (found) go(found[0], found[1], "follow");
    ours = location.hash;
    drawAll();
    say();
  }

  // Two frames: what stands in the page is seen before Plotly is even read.
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(start, 0)));
})();
