// One head: its pattern on the text, and what it writes at the chosen token.

function oneHeadPanel(app) {
  const title = element("h2"), off = element("button", { type: "button", class: "off", onclick: () => app.toggle(app.state.head) });
  const says = element("p", { class: "quiet looks" }), canvas = element("canvas", { class: "pattern", width: 320, height: 320, role: "img", onclick: clicked, onpointermove: pointed });
  const spot = element("p", { class: "quiet spot" }), writes = element("div", { class: "writes" });
  const panel = element("section", { class: "card", "data-panel": "head" }, element("div", { class: "controls" }, title, off), says,
    element("div", { class: "two" }, element("div", {}, element("p", { class: "quiet word", "data-word": "pattern" }), canvas, spot), writes));

  const first = () => (app.state.hideBos && app.n > 2 ? 1 : 0);

  const place = (event) => cellUnder(event, canvas, { n: app.n, first: first() });

  function clicked(event) {
    const [query, key] = place(event);
    if (key > 0 && key <= query) app.set({ position: query, key });
  }

  function pointed(event) {
    const [query, key] = place(event), row = app.patternRow(query), { tokens } = app.found.predict || {};
    spot.textContent = row && tokens && key <= query && key >= 0 ? `${named(tokens[query], query)} → ${named(tokens[key], key)}: ${number(row[key], 3)}` : "";
  }

  function draw() {
    paintPattern(canvas, { n: app.n, first: first(), row: (query) => app.patternRow(query), at: app.position, root: app.root });
    canvas.setAttribute("aria-label", `${app.state.head}. ${says.textContent}`);
  }

  function look() {
    const row = app.patternRow(), { tokens } = app.found.predict;
    if (!row) return;
    const best = strongest(row, { most: 3, least: 0.02 });
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
