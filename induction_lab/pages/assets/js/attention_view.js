// Where heads look on one text, from numbers that stand in the page: of each head its tokens with arcs, and its pattern.
// All heads show the same token; which, and which heads, is chosen here.

const SIDE_BY_SIDE = 4; // heads that are shown at first

function mountAttention(host, data) {
  const root = framed(host, STYLE), n = data.tokens.length;
  const heads = data.heads.map(({ name, pattern }) => ({ name, values: unpack(pattern), shown: false }));
  heads.slice(0, SIDE_BY_SIDE).forEach((head) => { head.shown = true; });
  const state = { at: busiest((query) => rowOf(heads[0], query), n), hide: false };
  const hide = element("input", { type: "checkbox", onchange: () => { state.hide = hide.checked; update(); } });
  const chosen = heads.map((head) => element("button", { type: "button", "data-head": head.name, onclick: () => { head.shown = !head.shown; update(); } }, head.name));
  const cards = heads.map((head) => attentionCard(head, data, state, root, choose));
  root.classList.add("live", "attention-view");
  root.append(element("header", { class: "controls" }, element("strong", {}, data.title), ...(heads.length > 1 ? chosen : []), element("label", {}, hide, "hide the first token")),
    element("div", { class: "attention-heads" }, ...cards.map((card) => card.element)),
    element("details", {}, element("summary", {}, "As a table"), element("slot")));

  function choose(at) {
    if (at < 0 || at >= n || at === state.at) return;
    state.at = at;
    update();
  }

  function update() {
    heads.forEach((head, i) => {
      chosen[i].setAttribute("aria-pressed", String(head.shown));
      cards[i].element.hidden = !head.shown;
      if (head.shown) cards[i].update();
    });
  }

  new ResizeObserver(update).observe(root);
  new MutationObserver(update).observe(host, { attributeFilter: ["data-theme"] }); // a canvas keeps its colours
}

const rowOf = (head, query) => head.values.subarray((query * (query + 1)) / 2, (query * (query + 1)) / 2 + query + 1);

function attentionCard(head, data, state, root, choose) {
  const { tokens } = data, n = tokens.length, frame = arcsFrame(), says = element("p", { class: "quiet looks", "aria-live": "polite" });
  const spans = tokens.map((word, i) => element("span", { role: "option", id: `${head.name}-${i}`, "data-i": i, class: i === 0 ? "first" : null }, word));
  const strip = element("div", { class: "tokens", role: "listbox", tabindex: 0, "aria-label": `Tokens, ${head.name}`, onpointerover: pointed, onclick: pointed, onkeydown: moved }, ...spans);
  const canvas = element("canvas", { class: "pattern", role: "img", onpointermove: spotted, onclick: (event) => choose(cellUnder(event, canvas, size())[0]) });
  const spot = element("p", { class: "quiet spot" }), quoted = (i) => `“${short(tokens[i].trim() || "␣")}” (${i})`;
  const card = element("section", { class: "card", "data-head": head.name }, element("h3", {}, head.name), element("div", { class: "tokens-frame" }, frame, strip), says, canvas, spot);

  const size = () => ({ n, first: state.hide && n > 2 ? 1 : 0 });

  function pointed(event) {
    const token = event.target.closest("[data-i]");
    if (token) choose(Number(token.dataset.i));
  }

  function moved(event) {
    const to = { ArrowLeft: state.at - 1, ArrowUp: state.at - 1, ArrowRight: state.at + 1, ArrowDown: state.at + 1, Home: 0, End: n - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to);
  }

  function spotted(event) {
    const [query, key] = cellUnder(event, canvas, size());
    spot.textContent = query < n && key >= 0 && key <= query ? `${quoted(query)} → ${quoted(key)}: ${number(rowOf(head, query)[key], 3)}` : "";
  }

  function update() {
    const { at } = state, row = rowOf(head, at), { first } = size(), best = strongest(row, { from: first });
    card.classList.toggle("no-first", first > 0);
    spans.forEach((span, i) => {
      span.style.setProperty("--w", i <= at ? `${(60 * row[i]).toFixed(1)}%` : "0%");
      span.title = i <= at ? `${number(row[i], 4)} from ${quoted(at)}` : "";
      span.classList.toggle("active", i === at);
      span.setAttribute("aria-selected", String(i === at));
    });
    strip.setAttribute("aria-activedescendant", `${head.name}-${at}`);
    says.textContent = `From ${quoted(at)} it looks at ${best.map(([weight, i]) => `${i === at ? "itself" : quoted(i)} ${number(weight, 2)}`).join(", ") || "many, thinly"}.`;
    drawArcsOver(frame, spans, at, best);
    paintPattern(canvas, { ...size(), row: (query) => rowOf(head, query), at, root });
    canvas.setAttribute("aria-label", `Pattern of ${head.name}: queries down, keys across. ${says.textContent}`);
  }

  return { element: card, update };
}
