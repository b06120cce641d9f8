// Where the head looks on a prompt: tokens with arcs to what the chosen one attends to, and the whole pattern.

function drawAttention() {
  const of = model(), name = of.names[state.head];
  const view = of.views[name] && of.views[name][state.prompt];
  byId("attention").hidden = byId("attention-controls").hidden = byId("pattern-card").hidden = !view;
  byId("not-shown").hidden = Boolean(view);
  if (!view) byId("not-shown").textContent = `This file holds the patterns of ${Object.keys(of.views).length} of ${of.count} heads, and ${name} is not among them. Its scores, profiles, eigenvalues and composition are below. For the patterns of every head, write the report with --all-heads.`;
  else { fillTokens(); later("pattern", drawPattern); }
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
    list.replaceChildren(...words.map((word, i) => element("span", { role: "option", id: `token-${i}`, "data-token": i, class: i > half ? "copy" : null, "aria-selected": "false" }, word)));
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
  const name = (i) => `“${short(words[i].trim() || "␣")}” (${i})`;
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
  const named = words.map((word, i) => `${plain(short(word.trim() || "␣"))} (${i})`);
  const target = byId("pattern");
  const step = Math.ceil(n / 22), ticks = words.map((_, i) => i).filter((i) => i % step === 0);
  const axis = { type: "category", showgrid: false, zeroline: false, fixedrange: true, tickvals: ticks, ticktext: ticks.map((i) => plain(short(words[i].trim() || "␣", 9))), tickfont: { size: 9 } };
  draw(target, [{ type: "heatmap", z: rows, x: named, y: named, colorscale: "Cividis", zmin: 0, zmax: 1, showscale: false, hoverongaps: false, hovertemplate: "from %{y}<br>to %{x}<br>%{z:.3f}<extra></extra>" }],
    { height: 380, margin: { l: 84, r: 4, t: 6, b: 84 }, xaxis: { ...axis, tickangle: -90, title: { text: "looks at" } }, yaxis: { ...axis, autorange: "reversed", title: { text: "from" } } });
  listenOnce(target, "plotly_hover", (point) => look(point.pointIndex[0]));
}

function moveToken(event) {
  const last = tokens().length - 1, at = state.token ?? last;
  const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (to >= 0 && to <= last) look(to);
}
