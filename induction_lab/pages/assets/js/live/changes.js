// Heads that are changed: how each is, a slider for a factor, whole kinds at one click, and as many random ones.

const DRAWS = 10; // of random heads, to see how much as many cost
const KIND_WORDS = { prefix_matching: "induction", previous_token: "previous", duplicate_token: "duplicate" };

function changesPanel(app) {
  let drawn = null;
  const list = element("ul", { class: "changes" }), kinds = element("div", { class: "controls" }), spread = element("div", { class: "spread", "aria-live": "polite" });
  const back = element("button", { type: "button", class: "all-back", onclick: () => app.set({ heads: {} }) });
  const panel = element("section", { class: "card", "data-panel": "changes" }, element("h2", { class: "word", "data-word": "changes" }), kinds, list, spread);

  function row(head, change) {
    const factor = typeof change === "number";
    const choices = app.facts.methods.map((method) => element("option", { value: method, ...((factor ? "scale" : change) === method ? { selected: "" } : {}) }, app.say(`${method}How`)));
    const select = element("select", { "aria-label": head, title: app.say("meanTitle", { n: app.facts.reference }), onchange: () => app.change(head, select.value === "scale" ? 0.5 : select.value) }, ...choices);
    const says = element("output", {}, factor ? String(change) : "");
    const slider = element("input", { type: "range", min: -1, max: 2, step: 0.05, value: factor ? change : 1, "aria-label": `${head} ×`, oninput: () => { says.textContent = slider.value; app.change(head, Number(slider.value)); } });
    return element("li", { "data-head": head }, element("a", { href: "#", onclick: (event) => { event.preventDefault(); app.set({ head }); } }, head), select, ...(factor ? [slider, says] : []),
      element("button", { type: "button", "aria-label": `${app.say("back")} ${head}`, onclick: () => app.change(head, null) }, "×"));
  }

  function fillList() {
    const entries = Object.entries(app.state.heads).sort((a, b) => order(a[0]) - order(b[0]));
    const sliding = list.querySelector("[type=range]:focus");
    if (sliding && sliding.closest("li").dataset.head in app.state.heads && list.children.length === entries.length) return; // under somebody's finger
    list.replaceChildren(...(entries.length ? entries.map(([head, change]) => row(head, change)) : [element("li", { class: "quiet" }, app.say("none"))]));
  }

  function fillKinds() {
    const found = app.found.kinds, made = [];
    for (const [score, kind] of Object.entries(KIND_WORDS)) {
      const heads = (found && found[score]) || [];
      if (heads.length) made.push(element("button", { type: "button", title: found.definitions[score], "data-kind": kind, onclick: () => app.set({ heads: Object.fromEntries(heads.map((head) => [head, app.facts.methods[0]])) }) }, app.say("kindOff", { n: heads.length, kind: app.say(kind) })));
    }
    const off = Object.keys(app.state.heads);
    if (off.length && off.length < app.facts.n_layers * app.facts.n_heads) made.push(element("button", { type: "button", class: "random-heads", onclick: () => app.set({ heads: Object.fromEntries(randomHeads(off).map((head) => [head, app.facts.methods[0]])) }) }, app.say(off.length === 1 ? "randomOne" : "randomOff", { n: off.length })));
    back.textContent = app.say("allBack");
    if (off.length) made.push(back);
    kinds.replaceChildren(...made);
  }

  // What as many random heads cost, several times drawn: a control for what the changed ones do.
  async function draw() {
    const { model, text, heads } = app.state, off = Object.keys(heads), draws = new Map(), of = JSON.stringify([model, text, heads]);
    for (let i = 0; i < 4 * DRAWS && draws.size < DRAWS; i++) { const some = randomHeads(off).sort((a, b) => order(a) - order(b)); draws.set(some.join(" "), some); }
    spread.replaceChildren(element("p", { class: "quiet" }, app.say("busy")));
    try {
      const { values } = await app.host.ask("costs", { model, text, groups: [...draws.values()] });
      drawn = { of, values, names: [...draws.keys()] };
    } catch (error) { drawn = { of, error: error.message }; }
    showDrawn();
  }

  function showDrawn() {
    const { model, text, heads } = app.state, off = Object.keys(heads), { predict } = app.found, there = predict && predict.changed;
    if (!drawn || drawn.of !== JSON.stringify([model, text, heads]) || drawn.error || !there) {
      const button = element("button", { type: "button", class: "draw-random", onclick: draw }, app.say("drawRandom", { k: DRAWS }));
      spread.replaceChildren(...(drawn && drawn.error ? [element("p", { class: "quiet" }, drawn.error)] : []), ...(off.length && off.length < app.facts.n_layers * app.facts.n_heads ? [button] : []));
      drawn = null;
      return;
    }
    const { values, names } = drawn, own = lossOf(predict.changed) - lossOf(predict.whole), all = [...values, own, 0];
    const low = Math.min(...all), wide = Math.max(...all) - low || 1, mean = values.reduce((a, b) => a + b, 0) / values.length;
    const dot = (tag, value, name) => element(tag, { style: `left:${((100 * (value - low)) / wide).toFixed(1)}%`, title: `${name}: ${signed(value)}`, "data-heads": name, "data-value": value });
    spread.replaceChildren(element("p", {}, app.say("spread", { k: values.length, n: names[0].split(" ").length, low: signed(Math.min(...values)), high: signed(Math.max(...values)), mean: signed(mean), own: signed(own) })),
      element("div", { class: "dots", "aria-hidden": "true" }, ...values.map((value, i) => dot("i", value, names[i])), dot("b", own, off.join(" "))));
  }

  // As many others, of the same layers where there are enough, so that depth makes no difference.
  function randomHeads(heads) {
    const taken = new Set(heads), { n_layers, n_heads } = app.facts;
    for (const head of heads) {
      const layer = Number(head.slice(1).split("H")[0]);
      const free = (layers) => layers.flatMap((l) => Array.from({ length: n_heads }, (_, h) => app.label(l, h))).filter((label) => !taken.has(label));
      const here = free([layer]), some = here.length ? here : free(Array.from({ length: n_layers }, (_, l) => l));
      if (some.length) taken.add(some[Math.floor(Math.random() * some.length)]);
    }
    const fresh = [...taken].filter((label) => !heads.includes(label));
    return fresh.length ? fresh : heads;
  }

  return { element: panel, update(what) {
    if (!app.facts) return;
    if (["facts", "state"].includes(what)) fillList();
    if (["facts", "state", "kinds"].includes(what)) fillKinds();
    if (["facts", "state", "predict"].includes(what)) showDrawn();
  } };
}

const lossOf = ({ nats }) => -nats.reduce((a, b) => a + b, 0) / (nats.length || 1);
const order = (label) => { const [layer, head] = label.slice(1).split("H").map(Number); return 1000 * layer + head; };
