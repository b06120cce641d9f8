// Several models: maps of the same score side by side, and the best head of each layer by relative depth.

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
