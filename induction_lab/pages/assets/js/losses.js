// The loss at each position of the repeated tokens, with its mean over each copy: the chart under a model's headline.

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
