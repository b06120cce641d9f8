// The text, and its tokens: shaded, one of them chosen, arcs to where the chosen head looks from there.

function textPanel(app) {
  const area = element("textarea", { rows: 2, spellcheck: "false", class: "typed", "aria-describedby": "live-range", oninput: () => app.set({ text: area.value }) });
  const label = element("label", {}, element("span", { class: "word", "data-word": "text" }), area);
  const range = element("p", { class: "quiet range", id: "live-range" });
  const random = element("button", { type: "button", class: "word random", "data-word": "random", onclick: () => { area.value = randomTokens(app.facts, 10); app.set({ text: area.value }); } });
  const hide = element("input", { type: "checkbox", onchange: () => app.set({ hideBos: hide.checked }) });
  const shade = element("select", { onchange: () => app.set({ shade: shade.value }) },
    element("option", { value: "surprise", class: "word", "data-word": "surprise" }), element("option", { value: "difference", class: "word", "data-word": "difference" }));
  const arcs = arcsFrame();
  const strip = element("div", { class: "tokens", role: "listbox", tabindex: 0, "aria-label": "Tokens", onclick: clicked, onkeydown: moved });
  const says = element("p", { class: "quiet loss" }), copies = element("p", { class: "copies", "aria-live": "polite" });
  const panel = element("section", { class: "card text-card", "data-panel": "text" }, label, range,
    element("div", { class: "controls" }, random,
      element("label", { class: "check" }, hide, element("span", { class: "word", "data-word": "hideBos" })),
      element("label", {}, element("span", { class: "word", "data-word": "shade" }), shade)),
    element("div", { class: "tokens-frame" }, arcs, strip), copies, says);

  // How much text the model takes, and how much of that this one is.
  function fillRange() {
    const { facts, found } = app, n = facts.most_tokens - 1, given = { k: Math.max(0, (found.predict ? app.n : 1) - 1), n, v: facts.d_vocab - 1 };
    range.textContent = app.say(facts.reads_text ? "range" : "rangeOfNumbers", given);
  }

  function clicked(event) {
    const token = event.target.closest("[data-i]");
    if (token) app.set({ position: Number(token.dataset.i) });
  }

  function moved(event) {
    const at = app.position, last = app.n - 1;
    const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) app.set({ position: to });
  }

  function fillTokens() {
    const { tokens, ids } = app.found.predict;
    strip.replaceChildren(...tokens.map((word, i) => element("span", { role: "option", id: `live-token-${i}`, "data-i": i, "data-id": ids[i], class: i === 0 ? "first" : null, "aria-selected": "false" }, word)));
    shadeTokens();
    mark();
  }

  // Nats of each token by the model as it is; or how many more they are with the heads changed.
  function shadeTokens() {
    const { predict } = app.found, { whole, changed } = predict, spans = strip.children;
    const by = app.shade === "difference" && changed ? changed.nats.map((x, i) => whole.nats[i] - x) : whole.nats.map((x) => -x);
    for (let i = 0; i < spans.length; i++) {
      const nats = i ? by[i - 1] : 0;
      spans[i].style.setProperty("--w", `${Math.min(60, 9 * Math.abs(nats)).toFixed(1)}%`);
      spans[i].classList.toggle("better", nats < 0);
      spans[i].title = i ? `${number(nats, 2)} ${app.say("nats")}` : app.say("bosTitle");
    }
    const a = lossOf(whole), b = changed && lossOf(changed);
    says.textContent = !whole.nats.length ? "" : changed ? app.say("meanBoth", { a: number(a, 2), b: number(b, 2), c: signed(b - a, 2) }) : app.say("mean", { a: number(a, 2) });
    says.title = app.say("natsTitle");
    shade.value = app.shade;
    fillCopies(predict);
    says.dataset.whole = a;
    says.dataset.changed = changed ? b : "";
  }

  // Of the tokens that copying would predict, how many are the best guess, and their loss; nothing where there are none.
  function fillCopies({ ids, whole, changed }) {
    const places = copyable(ids), n = places.length;
    const right = (side) => places.filter((t) => side.ids[t][0] === ids[t + 1]).length;
    const loss = (side) => number(-places.reduce((sum, t) => sum + side.nats[t], 0) / n, 2);
    copies.hidden = !n;
    copies.textContent = !n ? "" : changed ? app.say("repeatsBoth", { k: right(whole), l: right(changed), n, a: loss(whole), b: loss(changed) }) : app.say("repeats", { k: right(whole), n, a: loss(whole) });
    copies.dataset.of = n;
    copies.dataset.right = right(whole);
    copies.dataset.changed = changed ? right(changed) : "";
  }

  function mark() {
    const at = app.position, row = app.patternRow(), spans = strip.children;
    panel.classList.toggle("no-first", app.state.hideBos);
    for (let i = 0; i < spans.length; i++) {
      spans[i].classList.toggle("active", i === at);
      spans[i].classList.toggle("key", i === app.key && i !== at);
      spans[i].setAttribute("aria-selected", String(i === at));
    }
    strip.setAttribute("aria-activedescendant", `live-token-${at}`);
    const from = app.state.hideBos ? 1 : 0;
    drawArcsOver(arcs, spans, at, row ? strongest(row, { from }) : []);
  }

  new ResizeObserver(() => app.found.predict && mark()).observe(strip); // also when it comes into sight
  return {
    element: panel,
    update(what) {
      if (what === "facts" || what === "state") {
        if (area.value !== app.state.text && !area.matches(":focus")) area.value = app.state.text;
        hide.checked = app.state.hideBos;
        shade.value = app.shade;
      }
      if (app.facts && ["facts", "state", "predict"].includes(what)) fillRange();
      if (what === "predict") fillTokens();
      if (what === "head" || (what === "state" && app.found.predict)) { shadeTokens(); mark(); }
    },
    set(text) { area.value = text; },
  };
}

// Positions whose next token is the one that followed the latest earlier occurrence of their own; the first is no token.
function copyable(ids) {
  const latest = new Map(), found = [];
  for (let t = 1; t < ids.length - 1; t++) {
    const before = latest.get(ids[t]);
    if (before !== undefined && ids[before + 1] === ids[t + 1]) found.push(t);
    latest.set(ids[t], t);
  }
  return found;
}
