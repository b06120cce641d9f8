// One head: its pattern on the text, and what it writes at the chosen token.

function oneHeadPanel(app) {
  const title = element("h2"), off = element("button", { type: "button", class: "off", onclick: () => app.toggle(app.state.head) });
  const says = element("p", { class: "quiet looks" }), canvas = element("canvas", { class: "pattern", width: 320, height: 320, role: "img", onclick: clicked, onpointermove: pointed });
  const spot = element("p", { class: "quiet spot" }), writes = element("div", { class: "writes" });
  const panel = element("section", { class: "card", "data-panel": "head" }, element("div", { class: "controls" }, title, off), says,
    element("div", { class: "two" }, element("div", {}, element("p", { class: "quiet word", "data-word": "pattern" }), canvas, spot), writes));

  const first = () => (app.state.hideBos && app.n > 2 ? 1 : 0);

  function place(event) {
    const box = canvas.getBoundingClientRect(), n = app.n - first();
    return [Math.floor(((event.clientY - box.top) / box.height) * n) + first(), Math.floor(((event.clientX - box.left) / box.width) * n) + first()];
  }

  function clicked(event) {
    const [query, key] = place(event);
    if (key > 0 && key <= query) app.set({ position: query, key });
  }

  function pointed(event) {
    const [query, key] = place(event), row = app.patternRow(query), { tokens } = app.found.predict || {};
    spot.textContent = row && tokens && key <= query && key >= 0 ? `${named(tokens[query], query)} → ${named(tokens[key], key)}: ${number(row[key], 3)}` : "";
  }

  function draw() {
    const n = app.n - first(), cell = Math.max(2, Math.floor(640 / n)), paper = canvas.getContext("2d");
    canvas.width = canvas.height = n * cell;
    const ink = getComputedStyle(app.root).getPropertyValue("--shade").trim() || "#3b82f6", at = app.position;
    paper.clearRect(0, 0, canvas.width, canvas.height);
    for (let query = first(); query < app.n; query++) {
      const row = app.patternRow(query);
      if (!row) return;
      let sum = 0;
      for (let key = first(); key <= query; key++) sum += row[key];
      for (let key = first(); key <= query; key++) {
        paper.globalAlpha = Math.min(1, row[key] / (first() ? sum || 1 : 1));
        paper.fillStyle = ink;
        paper.fillRect((key - first()) * cell, (query - first()) * cell, cell, cell);
      }
    }
    paper.globalAlpha = 1;
    paper.strokeStyle = getComputedStyle(app.root).getPropertyValue("--warm").trim() || "#a8430b";
    paper.lineWidth = Math.max(1, cell / 8);
    if (at >= first()) paper.strokeRect(0.5, (at - first()) * cell + 0.5, (at - first() + 1) * cell - 1, cell - 1);
    canvas.setAttribute("aria-label", `${app.state.head}. ${says.textContent}`);
  }

  function look() {
    const row = app.patternRow(), { tokens } = app.found.predict;
    if (!row) return;
    const best = Array.from(row, (weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([weight]) => weight >= 0.02);
    says.textContent = app.say("looksFrom", { x: named(tokens[app.position], app.position), list: best.map(([weight, i]) => `${named(tokens[i], i)} ${number(weight, 2)}`).join(", ") });
    says.dataset.top = best.length ? best[0][1] : "";
    says.dataset.weight = best.length ? best[0][0] : "";
  }

  function fillWrites() {
    const found = app.found.head.writes, line = ([text, value]) => element("li", { "data-value": value }, element("span", {}, text || "␣"), element("span", {}, signed(value, 2)));
    writes.replaceChildren(element("p", { class: "quiet" }, app.say("writes", { i: app.position })), ...(found ? ["for", "against"].map((side) => element("div", {},
      element("p", { class: "quiet" }, app.say(side === "for" ? "writesFor" : "writesAgainst")), element("ol", { class: side }, ...found[side].map(line)))) : [element("p", { class: "quiet" }, app.say("cannotWrite"))]));
  }

  function name() {
    const { head, heads } = app.state, kinds = app.found.kinds;
    const of = kinds ? Object.entries(KIND_WORDS).filter(([score]) => kinds[score].includes(head)).map(([, kind]) => app.say(kind)) : [];
    title.textContent = `${head || ""}${of.length ? ` · ${of.join(", ")}` : ""}`;
    off.textContent = app.say(head in heads ? "back" : "knock");
    off.setAttribute("aria-pressed", String(head in heads));
  }

  return { element: panel, update(what) { if (["state", "facts", "kinds"].includes(what)) name(); if (what === "head" || (what === "state" && app.found.head && app.found.predict)) { look(); draw(); if (what === "head") fillWrites(); } } };
}
