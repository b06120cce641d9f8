// Where the head looks on a prompt: tokens with arcs to what the chosen one attends to, and the whole pattern.

function drawAttention() {
  const of = model(), name = of.names[state.head], view = viewOf(state.head), other = compared() && viewOf(state.kept);
  byId("attention").hidden = byId("attention-controls").hidden = byId("pattern-card").hidden = !view;
  byId("not-shown").hidden = Boolean(view);
  if (!view) byId("not-shown").textContent = `This file holds the patterns of ${Object.keys(of.views).length} of ${of.count} heads, and ${name} is not among them. Its scores, profiles, eigenvalues and composition are below. For the patterns of every head, write the report with --all-heads.`;
  byId("kept-pattern-frame").hidden = !other || !view;
  if (!view) return;
  fillTokens();
  later("pattern", () => drawPattern("pattern", state.head));
  if (!other) return;
  byId("kept-pattern-frame").firstElementChild.textContent = keptName();
  later("kept-pattern", () => drawPattern("kept-pattern", state.kept));
}

function viewOf(head) {
  const views = model().views[model().names[head]];
  return views && views[state.prompt];
}

function weights(query, head = state.head) {
  const of = model(), view = viewOf(head), start = (query * (query + 1)) / 2;
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
    list.replaceChildren(...words.map((word, i) => element("span", { role: "option", id: `token-${i}`, "data-token": i, class: i === 0 ? "first" : i > half ? "copy" : null, "aria-selected": "false" }, word)));
    state.token = null;
  }
  if (state.token === null || state.token >= words.length) state.token = busiest(weights, words.length);
  look(state.token);
}

function look(query) {
  const list = byId("tokens"), words = tokens(), found = weights(query), spans = list.children, from = state.hideFirst ? 1 : 0;
  list.classList.toggle("no-first", state.hideFirst);
  state.token = query;
  for (let i = 0; i < spans.length; i++) {
    spans[i].style.setProperty("--w", i <= query ? `${(48 * Math.min(1, found[i])).toFixed(1)}%` : "0%");
    spans[i].classList.toggle("active", i === query);
    if (spans[i].getAttribute("aria-selected") === "true") spans[i].setAttribute("aria-selected", "false");
  }
  spans[query].setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", `token-${query}`);
  const other = compared() && viewOf(state.kept), most = { from, most: 6, least: 0.03 };
  const best = strongest(found, most), kept = other ? strongest(weights(query, state.kept), most) : [];
  drawArcsOver(byId("arcs"), spans, query, best);
  drawArcsOver(byId("kept-arcs"), spans, query, kept);
  const name = (i) => `“${short(words[i].trim() || "␣")}” (${i})`;
  const listed = (some) => some.map(([weight, i]) => `${i === query ? "itself" : name(i)} ${number(weight, 2)}`).join(", ") || "spread thinly over many";
  byId("token-live").textContent = `From ${name(query)}: ${listed(best)}${other ? `; ${keptName()}: ${listed(kept)}` : ""}${state.weighted ? ", weighed by what each could write" : ""}.`;
}

// Without the first token, colours are shares of what is left; the numbers are what they were.
function drawPattern(id, head) {
  const first = state.hideFirst ? 1 : 0, words = tokens().slice(first), n = words.length, sum = (some) => some.reduce((a, b) => a + b, 0);
  const found = words.map((_, query) => weights(query + first, head).slice(first)), cells = (value) => found.map((line) => words.map((_, key) => (key < line.length ? value(line, key) : null)));
  const rows = cells((line, key) => line[key] / (first ? sum(line) || 1 : 1)), said = cells((line, key) => line[key]);
  const named = words.map((word, i) => `${plain(short(word.trim() || "␣"))} (${i + first})`);
  const target = byId(id);
  const step = Math.ceil(n / 22), ticks = words.map((_, i) => i).filter((i) => i % step === 0);
  const axis = { type: "category", showgrid: false, zeroline: false, fixedrange: true, tickvals: ticks, ticktext: ticks.map((i) => plain(short(words[i].trim() || "␣", 9))), tickfont: { size: 9 } };
  draw(target, [{ type: "heatmap", z: rows, customdata: said, x: named, y: named, colorscale: "Cividis", zmin: 0, zmax: 1, showscale: false, hoverongaps: false, hovertemplate: "from %{y}<br>to %{x}<br>%{customdata:.3f}<extra></extra>" }],
    { height: 380, margin: { l: 84, r: 4, t: 6, b: 84 }, xaxis: { ...axis, tickangle: -90, title: { text: "looks at" } }, yaxis: { ...axis, autorange: "reversed", title: { text: "from" } } });
  listenOnce(target, "plotly_hover", (point) => look(point.pointIndex[0] + (state.hideFirst ? 1 : 0)));
}

function moveToken(event) {
  const last = tokens().length - 1, at = state.token ?? last;
  const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (to >= 0 && to <= last) look(to);
}
