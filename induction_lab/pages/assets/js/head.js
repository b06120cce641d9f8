// One head: its scores in words and numbers, attention by position and by distance, OV eigenvalues, the heads that
// it reads from and is read by, and what its ablation changes.

function link(head) {
  return element("a", { href: address(head), onclick: (event) => { event.preventDefault(); choose(head); } }, model().names[head]);
}

function drawHead() {
  const of = model();
  nameHead();
  byId("head-says").textContent = inWords(of, state.head);
  byId("chips").replaceChildren(...Object.values(of.scores).map((score) => {
    const value = score.values[state.head], error = score.errors[state.head];
    const share = value === null ? 0 : Math.min(1, Math.abs(value) / Math.max(Math.abs(score.low), score.high));
    return element("li", { title: score.definition },
      element("p", { class: "quiet" }, element("span", {}, score.title), element("span", {}, score.chance === null ? "" : `chance ${number(score.chance)}`)),
      element("b", {}, number(value)), element("span", { class: "quiet" }, error ? ` ± ${number(error)}` : ""),
      compared() ? element("p", { class: "kept" }, element("span", {}, keptName()), element("span", {}, withError(score.values[state.kept], score.errors[state.kept]))) : "",
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

// The chosen head, then the one that is kept beside it.
const both = () => (compared() ? [state.head, state.kept] : [state.head]);
const numbersOf = (packed, head) => Array.from(row(packed, head), (x) => (Number.isNaN(x) ? null : x));

function drawPosition() {
  const of = model(), names = Object.keys(of.places), lines = both().map((head) => names.map((name) => numbersOf(of.by_position[name], head)));
  draw("position", both().flatMap((head, j) => names.map((name, i) => ({ type: "scatter", mode: "lines", name: plain(of.places[name]), x: lines[j][i].map((_, p) => p), y: lines[j][i], line: { color: LINES[i], width: 1.8, dash: j ? "dot" : "solid" }, hovertemplate: `${of.names[head]}: %{y:.2f} at %{x}: ${plain(of.places[name])}<extra></extra>` }))),
    { height: 250, margin: { l: 44, r: 8, t: 6, b: 38 }, xaxis: { title: { text: "position" }, showgrid: false, fixedrange: true }, yaxis: { range: [0, 1.02], fixedrange: true, title: { text: "attention" } },
      shapes: [{ type: "rect", x0: of.period + 0.5, x1: 2 * of.period + 0.5, y0: 0, y1: 1, yref: "paper", fillcolor: palette.soft, line: { width: 0 }, layer: "below" }] });
  const mean = (line, copy) => {
    const some = line.slice(1 + copy * of.period, 1 + (copy + 1) * of.period).filter((x) => x !== null);
    return some.length ? some.reduce((a, b) => a + b, 0) / some.length : null;
  };
  const table = byId("copies");
  table.tHead.replaceChildren(element("tr", {}, ...["Attention to", ...both().flatMap((head) => [1, 2].map((copy) => `${compared() ? `${of.names[head]}, ` : ""}copy ${copy}`))].map((title) => element("th", { scope: "col" }, title))));
  table.tBodies[0].replaceChildren(...names.map((name, i) => {
    const key = element("span", { "aria-hidden": "true", style: `color:${LINES[i]}` }, "■ ");
    return element("tr", {}, element("td", { style: "white-space:normal" }, key, of.places[name]), ...lines.flatMap((line) => [0, 1].map((copy) => element("td", {}, number(mean(line[i], copy), 2)))));
  }));
}

function drawLag() {
  const of = model(), values = both().map((head) => numbersOf(of.by_lag, head));
  draw("lag", both().map((head, j) => ({ type: "bar", name: of.names[head], x: of.lags, y: values[j], marker: { color: j ? palette.quiet : of.lags.map((lag) => (lag === 1 ? palette.warm : palette.accent)) }, hovertemplate: `${of.names[head]}, %{x:+d}: %{y:.3f}<extra></extra>` })),
    { height: 350, margin: { l: 44, r: 8, t: 6, b: 38 }, bargap: 0.25, xaxis: { title: { text: "distance from it, tokens" }, dtick: 1, tickformat: "+d", showgrid: false, fixedrange: true }, yaxis: { title: { text: "attention" }, range: [0, Math.max(0.1, ...values.flat().map((x) => x || 0)) * 1.08], fixedrange: true } });
}

function drawEigen() {
  const of = model();
  if (!of.eigenvalues) { byId("eigen-says").textContent = of.left_out["OV eigenvalues"] || "Not measured."; return; }
  const [[x, y, size], ...kept] = both().map((head) => {
    const plane = row(of.eigenvalues.plane, head), size = of.eigenvalues.largest[head] || 1, part = (k) => Array.from(plane.filter((_, i) => i % 2 === k), (value) => value * size);
    return [part(0), part(1), size];
  });
  const sizes = x.map((value, i) => Math.hypot(value, y[i])).sort((a, b) => a - b), usual = 4 * sizes[Math.floor(0.9 * (sizes.length - 1))];
  const within = sizes.filter((value) => value <= usual), beyond = sizes.length - within.length, edge = 1.12 * (within[within.length - 1] || size);
  draw("eigen", [{ type: "scatter", mode: "markers", x, y, marker: { size: 7, color: x.map((value) => (value >= 0 ? LINES[0] : LINES[1])), opacity: 0.75, line: { width: 0 } }, hovertemplate: "%{x:.3~g} + %{y:.3~g} i<extra></extra>" },
    ...kept.map(([x, y]) => ({ type: "scatter", mode: "markers", x, y, marker: { size: 8, symbol: "circle-open", color: palette.quiet }, hovertemplate: `${keptName()}: %{x:.3~g} + %{y:.3~g} i<extra></extra>` }))],
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
  const named = (head) => (compared() ? [element("dt", { class: "of-head" }, link(head))] : []);
  byId("effects").replaceChildren(...both().flatMap((head) => [...named(head), ...effectsOf(head)]));
}

function effectsOf(head) {
  const of = model(), name = of.names[head], list = [], add = (what, ...says) => list.push(element("dt", {}, what), element("dd", {}, ...says));
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
  if (attributed) add("What it writes", `${signed(attributed.values[head])} ± ${number(attributed.errors[head])} logits for the right next token on the second copy (not causal).`);
  else if (of.left_out.logit_attribution) add("What it writes", of.left_out.logit_attribution);
  return list;
}
