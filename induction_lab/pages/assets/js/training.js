// Over training: losses and the chosen head's score by step, and the slider that moves the map to a checkpoint.

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
    listenOnce(byId(id), "plotly_click", (point) => setStep(point.pointIndex));
  }
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
