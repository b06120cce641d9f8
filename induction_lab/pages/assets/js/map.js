// The map of heads: layers down, heads across, one score or all of them side by side; arrow keys move the chosen head.

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
  listenOnce(target, "plotly_click", (point) => choose(point.pointIndex[0] * model().nHeads + point.pointIndex[1]));
  done.then(moveCursor);
}

// Frames around the chosen head, over the charts: moving them costs nothing, redrawing a chart does.
function moveCursor() {
  const of = model(), frame = byId("map-frame"), origin = frame.getBoundingClientRect();
  const plots = [...byId("map-chart").querySelectorAll(".nsewdrag")].map((plot) => plot.getBoundingClientRect());
  const wanted = plots.flatMap((plot) => [["cursor", state.head], ...(compared() ? [["cursor kept", state.kept]] : [])].map(([name, head]) => [plot, name, head]));
  const there = frame.querySelectorAll(".cursor");
  there.forEach((old, i) => { if (i >= wanted.length) old.remove(); });
  wanted.forEach(([plot, name, head], i) => {
    const box = there[i] || frame.appendChild(element("div")), width = plot.width / of.nHeads, height = plot.height / of.shape.n_layers;
    box.className = name;
    box.style.transform = `translate(${plot.left - origin.left + (head % of.nHeads) * width}px, ${plot.top - origin.top + layerOf(head, of) * height}px)`;
    box.style.width = `${width}px`;
    box.style.height = `${height}px`;
  });
}

function move(event) {
  const of = model(), n = of.nHeads, last = of.count - 1, at = state.head;
  const to = { ArrowLeft: at % n ? at - 1 : at, ArrowRight: at % n < n - 1 ? at + 1 : at, ArrowUp: at - n, ArrowDown: at + n, Home: at - (at % n), End: at - (at % n) + n - 1, PageUp: at % n, PageDown: last - (n - 1) + (at % n) }[event.key];
  if (event.key === "Enter") bring();
  if (to === undefined) return;
  event.preventDefault();
  if (to >= 0 && to <= last && to !== at) choose(to, "replace");
}
