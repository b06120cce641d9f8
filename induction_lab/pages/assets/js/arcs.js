// Arcs over a row of tokens, from one of them to those that a head looks at from there.

function arcsFrame() {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("aria-hidden", "true");
  made.classList.add("arcs");
  return made;
}

// The greatest weights of a row as [weight, position], greatest first.
function strongest(row, { from = 0, most = 5, least = 0.04 } = {}) {
  return Array.from(row, (weight, i) => [weight, i]).slice(from).sort((a, b) => b[0] - a[0]).slice(0, most).filter(([weight]) => weight >= least);
}

// The token from which a head looks most clearly at something other than the first position or the token itself.
function busiest(row, n) {
  let best = -1, at = n - 1;
  for (let query = 1; query < n; query++) {
    const most = Math.max(0, ...row(query).slice(1, query));
    if (most >= best) { best = most; at = query; }
  }
  return at;
}

function drawArcsOver(frame, spans, query, best) {
  const box = frame.getBoundingClientRect();
  const middle = (i) => { const at = spans[i].getBoundingClientRect(); return [at.left + at.width / 2 - box.left, at.top - box.top]; };
  if (!spans[query]) return frame.replaceChildren();
  const [x0, y0] = middle(query);
  frame.replaceChildren(...best.filter(([, i]) => i !== query && spans[i]).map(([weight, i]) => {
    const [x1, y1] = middle(i), rise = Math.abs(y1 - y0) < 4 ? Math.min(30, 9 + Math.abs(x1 - x0) / 14) : 14;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${x0},${y0} C${x0},${y0 - rise} ${x1},${y1 - rise} ${x1},${y1}`);
    path.setAttribute("stroke-width", (0.8 + 4 * weight).toFixed(2));
    return path;
  }));
}
