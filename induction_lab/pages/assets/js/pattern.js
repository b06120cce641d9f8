// A head's pattern on a canvas: queries down, keys across, the chosen query's row framed. `first` is the first position
// that is shown; without the earlier ones, the others' weights are shown as shares of what is left.

function paintPattern(canvas, { n, first, row, at, root }) {
  const shown = n - first, cell = Math.max(2, Math.floor(640 / shown)), paper = canvas.getContext("2d"), colours = getComputedStyle(root);
  canvas.width = canvas.height = shown * cell;
  paper.clearRect(0, 0, canvas.width, canvas.height);
  paper.fillStyle = colours.getPropertyValue("--shade").trim() || "#3b82f6";
  for (let query = first; query < n; query++) {
    const weights = row(query);
    if (!weights) return;
    let sum = 0;
    for (let key = first; key <= query; key++) sum += weights[key];
    for (let key = first; key <= query; key++) {
      paper.globalAlpha = Math.min(1, weights[key] / (first ? sum || 1 : 1));
      paper.fillRect((key - first) * cell, (query - first) * cell, cell, cell);
    }
  }
  paper.globalAlpha = 1;
  paper.strokeStyle = colours.getPropertyValue("--warm").trim() || "#a8430b";
  paper.lineWidth = Math.max(1, cell / 8);
  if (at >= first) paper.strokeRect(0.5, (at - first) * cell + 0.5, (at - first + 1) * cell - 1, cell - 1);
}

// Query and key of the cell under the pointer.
function cellUnder(event, canvas, { n, first }) {
  const box = canvas.getBoundingClientRect(), place = (share) => Math.floor(share * (n - first)) + first;
  return [place((event.clientY - box.top) / box.height), place((event.clientX - box.left) / box.width)];
}
