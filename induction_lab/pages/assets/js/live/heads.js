// The map: every head a cell, coloured by what it does on this text.

const MAP_MODES = ["copying", "looks_at", "adds", "costs"];
const MOST_COSTLY = 10; // heads that are listed

function headsPanel(app) {
  const modes = element("fieldset", { class: "segments" }, element("legend", { class: "hidden" }, "Colour"), ...MAP_MODES.map((mode) => element("label", {},
    element("input", { type: "radio", name: "live-mode", value: mode, onchange: () => app.set({ mode }) }), element("span", { "data-mode": mode }))));
  const title = element("h2", { class: "word", "data-word": "heads" }), says = element("p", { class: "quiet" });
  const grid = element("div", { class: "head-map", role: "application", "aria-roledescription": "map of heads", tabindex: 0, onclick: clicked, ondblclick: (event) => act(event, (head) => app.toggle(head)), onkeydown: moved });
  const live = element("p", { class: "live", "aria-live": "polite" });
  const ranks = element("ol", { class: "ranks" }), costliest = element("div", { hidden: "" }, element("h3", { class: "word", "data-word": "costliest" }), ranks);
  const panel = element("section", { class: "card", "data-panel": "heads" }, title, modes, says, grid, live, costliest, element("p", { class: "quiet word", "data-word": "mapHelp" }));
  let cells = {};

  function act(event, what) {
    const cell = event.target.closest("[data-head]");
    if (cell) what(cell.dataset.head);
  }

  function clicked(event) { act(event, (head) => app.set({ head })); }

  function moved(event) {
    const [layer, head] = app.state.head.slice(1).split("H").map(Number), { n_layers, n_heads } = app.facts;
    const to = { ArrowLeft: [layer, head - 1], ArrowRight: [layer, head + 1], ArrowUp: [layer - 1, head], ArrowDown: [layer + 1, head] }[event.key];
    if (to) {
      event.preventDefault();
      if (to[0] >= 0 && to[0] < n_layers && to[1] >= 0 && to[1] < n_heads) app.set({ head: app.label(...to) });
    } else if (["x", "X", "Enter", " "].includes(event.key)) {
      event.preventDefault();
      app.toggle(app.state.head);
    }
  }

  function build() {
    const { n_layers, n_heads } = app.facts, made = [];
    grid.style.gridTemplateColumns = `auto repeat(${n_heads}, minmax(0, 1fr))`;
    grid.classList.toggle("few", n_layers <= 4);
    cells = {};
    for (let layer = 0; layer < n_layers; layer++) {
      made.push(element("span", { class: "axis" }, String(layer)));
      for (let head = 0; head < n_heads; head++) {
        const label = app.label(layer, head);
        made.push((cells[label] = element("b", { "data-head": label })));
      }
    }
    made.push(element("span", { class: "axis" }));
    for (let head = 0; head < n_heads; head++) made.push(element("span", { class: "axis" }, head % Math.max(1, Math.ceil(n_heads / 16)) ? "" : String(head)));
    grid.replaceChildren(...made);
  }

  function colour() {
    const values = app.found.map.values, { mode } = app.state, flat = values.flat().filter((x) => x !== null);
    const most = ["adds", "costs"].includes(mode) ? Math.max(1e-6, ...flat.map(Math.abs)) : 1, unit = mode === "costs" ? ` ${app.say("nats")}` : "";
    values.forEach((row, layer) => row.forEach((value, head) => {
      const cell = cells[app.label(layer, head)], share = value === null ? 0 : Math.min(1, Math.abs(value) / most);
      cell.dataset.value = value === null ? "" : value;
      cell.dataset.said = number(value, 2);
      cell.classList.toggle("negative", value < 0);
      cell.style.setProperty("--w", `${(100 * share).toFixed(1)}%`);
      cell.title = `${app.label(layer, head)}: ${number(value, 3)}${unit}`;
    }));
    rank(values);
    mark();
  }

  // The heads that cost most, of those that are known so far.
  function rank(values) {
    costliest.hidden = app.state.mode !== "costs";
    grid.classList.toggle("alone", !costliest.hidden); // there a head that is knocked out keeps its colour
    const known = values.flatMap((row, layer) => row.map((value, head) => [value, app.label(layer, head)])).filter(([value]) => value !== null);
    ranks.replaceChildren(...known.sort((a, b) => b[0] - a[0]).slice(0, costliest.hidden ? 0 : MOST_COSTLY).map(([value, label]) => element("li", { "data-head": label, "data-value": value },
      element("a", { href: "#", onclick: (event) => { event.preventDefault(); app.set({ head: label }); } }, label), element("span", { class: "numbers" }, `${signed(value)} ${app.say("nats")}`))));
  }

  function mark() {
    const { head, heads } = app.state;
    for (const [label, cell] of Object.entries(cells)) {
      cell.classList.toggle("chosen", label === head);
      cell.classList.toggle("off", label in heads);
    }
    const cell = cells[head], value = cell && cell.dataset.value;
    live.textContent = cell ? `${head}: ${value === "" || value === undefined ? "–" : number(Number(value), 3)}${head in heads ? ` · ${how(app, heads[head])}` : ""}` : "";
    grid.setAttribute("aria-label", `${app.say("heads")}. ${live.textContent}`);
  }

  function write() {
    const { predict } = app.found, at = app.position, x = predict ? named(predict.tokens[at]) : "", y = named(app.tokenText);
    modes.querySelectorAll("[data-mode]").forEach((span) => {
      const { mode } = span.dataset, at = { i: app.position, x: mode === "adds" ? y : x };
      span.textContent = app.say(mode, at);
      span.title = app.say(`${mode}Says`, at);
    });
    modes.querySelectorAll("input").forEach((input) => { input.checked = input.value === app.state.mode; });
    const { mode } = app.state, whole = mode === "copying" && predict && !("position" in app.mapWants(at, app.token));
    says.textContent = app.say(whole ? "copyingAll" : `${mode}Says`, { i: at, x: mode === "adds" ? y : x }) + progress();
  }

  function progress() {
    const { costs } = app, n = app.facts ? app.facts.layers.length : 0;
    panel.dataset.left = app.state.mode === "costs" && costs ? costs.left.length : "";
    return app.state.mode === "costs" && costs && costs.left.length ? ` ${app.say("layersDone", { k: n - costs.left.length, n })}` : "";
  }

  return {
    element: panel,
    update(what) {
      if (what === "facts") { build(); mark(); }
      if (what === "map") { colour(); write(); }
      if (what === "state") mark();
      if (["predict", "state", "facts"].includes(what)) write();
    },
  };
}

const how = (app, change) => (typeof change === "number" ? `× ${change}` : app.say(`${change}How`));
