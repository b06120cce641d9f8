// The induction circuit: which previous-token head feeds which induction head's keys, as arrows and as a table.

function drawCircuit() {
  const of = model(), edges = of.circuit ? of.circuit.filter((edge) => edge.strength > 0).slice(0, 16) : [];
  const first = of.likely_edges[0] || edges[0], verdict = of.likely_edges.length ? "Most likely" : "No induction circuit shows: the nearest to one is";
  byId("circuit-card").hidden = !edges.length;
  byId("circuit-says").textContent = edges.length
    ? `Which previous-token head feeds which induction head's keys: arrows as thick as previous-token score × prefix matching × K-composition. ${verdict} ${first.previous} → ${first.induction}. Where heads look and what their weights say, not proof of cause. Choose a head to see it above.`
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
  listenOnce(target, "plotly_click", (point) => choose(point.customdata));
  const table = byId("edges");
  table.tHead.replaceChildren(element("tr", {}, ...["Writes", "Reads", "Strength", "Previous token", "Prefix matching", "K", "Q", "V"].map((title) => element("th", { scope: "col" }, title))));
  table.tBodies[0].replaceChildren(...edges.map((edge) => element("tr", {}, element("td", {}, link(indexOf(edge.previous))), element("td", {}, link(indexOf(edge.induction))), ...["strength", "previous_token", "prefix_matching", "K", "Q", "V"].map((name) => element("td", {}, number(edge[name]))))));
}
