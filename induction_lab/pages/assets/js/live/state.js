// What is on the page (text, changed heads, what is chosen), what was asked, and what came back. Panels listen.

const FRESH = { heads: {}, position: null, token: null, head: null, key: null, mode: "copying" };

class Explorer {
  constructor(data, host) {
    this.data = data;
    this.host = host;
    this.state = { model: data.first, text: "", language: "en", hideBos: false, shade: null, tour: null, ...FRESH, ...data.scene };
    this.facts = null;
    this.found = {};
    this.asked = {}; // the question that each answer is to
    this.panels = [];
    this.running = null;
    this.costs = null; // of each head alone, of which text
  }

  say(name, given) { return fill(WORDS[this.state.language][name], given); }

  async begin() {
    await this.load(this.state.model);
    this.refresh();
  }

  async load(model) {
    try {
      this.facts = { ...(await this.host.ask("facts", { model })), model };
      this.fault(null);
    } catch (error) { this.fault(error); return; }
    if (this.state.head === null) this.state.head = this.label(Math.min(1, this.facts.n_layers - 1), 0);
    if (!this.state.text) this.state.text = firstText(this.facts);
    this.found = {};
    this.asked = {};
    this.tell("facts");
  }

  label(layer, head) { return `L${layer}H${head}`; }

  // What changes, and what has to be asked again because of that.
  async set(changes) {
    const before = { ...this.state };
    Object.assign(this.state, changes);
    if ("text" in changes && !("position" in changes)) this.state.position = null;
    if ("text" in changes && !("token" in changes)) this.state.token = null;
    if (("position" in changes || "text" in changes) && !("key" in changes)) this.state.key = null;
    if ("position" in changes && !("token" in changes)) this.state.token = null;
    if ("head" in changes && !("key" in changes)) this.state.key = null;
    this.tell("state", before);
    if (this.state.model !== before.model) {
      if (this.running) this.running.abort();
      this.root.dataset.state = "busy";
      await this.load(this.state.model);
    }
    this.refresh();
  }

  change(head, how) {
    const heads = { ...this.state.heads };
    if (how === null) delete heads[head];
    else heads[head] = how;
    return this.set({ heads });
  }

  toggle(head) { return this.change(head, head in this.state.heads ? null : this.facts.methods[0]); }

  get n() { return this.found.predict ? this.found.predict.tokens.length : 0; }

  get position() {
    const { position } = this.state;
    return position === null || position >= this.n ? this.n - 1 : position;
  }

  // The next token that is asked about: the chosen one, or the one that comes, or the likeliest.
  get token() {
    const { predict } = this.found;
    if (this.state.token !== null || !predict) return this.state.token;
    const comes = predict.ids[this.position + 1];
    return comes === undefined ? predict.whole.ids[this.position][0] : comes;
  }

  get tokenText() {
    const { predict } = this.found, token = this.token;
    if (!predict || token === null) return "";
    const at = predict.ids.indexOf(token);
    if (at > 0) return predict.tokens[at];
    for (const side of [predict.whole, predict.changed]) {
      if (!side) continue;
      for (let row = 0; row < side.ids.length; row++) {
        const i = side.ids[row].indexOf(token);
        if (i >= 0) return side.likeliest[row][i];
      }
    }
    return String(token);
  }

  // By what tokens are shaded: as was chosen, or by what the changes cost where there are some.
  get shade() { return this.state.shade || (this.found.predict && this.found.predict.changed ? "difference" : "surprise"); }

  // Everything that the panels show, in the order in which a person waits for it; a newer wish drops what is under way.
  async refresh() {
    if (this.running) this.running.abort();
    const mine = new AbortController();
    this.running = mine;
    if (!this.facts) return;
    const { model, text, heads } = this.state, scene = { model, text, heads };
    if (this.state.mode === "costs") this.showCosts(model, text);
    try {
      await this.ask("predict", scene, mine);
      this.fault(null);
      const position = this.position, token = this.token, { head, mode } = this.state;
      if (mode !== "costs") await this.ask("map", { ...scene, mode, ...this.mapWants(position, token) }, mine);
      await this.ask("head", { ...scene, head, position }, mine);
      if (this.key !== null) await this.ask("why_weight", { ...scene, head, query: position, key: this.key }, mine, true);
      await this.ask("why_token", { ...scene, position, token }, mine, true);
      await this.ask("kinds", { model, text: "" }, mine);
      if (mode === "costs") await this.sweep(model, text, mine);
      this.root.dataset.state = "ready";
    } catch (error) {
      if (error.name !== "AbortError" && mine === this.running) this.fault(error);
    }
  }

  // The map of what is known so far of what each head alone costs; of another text nothing is.
  showCosts(model, text) {
    const of = JSON.stringify([model, text]), { layers, n_layers, n_heads } = this.facts;
    if (!this.costs || this.costs.of !== of) this.costs = { of, left: [...layers], values: Array.from({ length: n_layers }, () => Array(n_heads).fill(null)) };
    this.found.map = this.costs;
    this.asked.map = null;
    this.tell("map");
  }

  // The rest of it, a layer at a time, the last one first: it takes least.
  async sweep(model, text, mine) {
    const { costs } = this;
    while (costs.left.length) {
      const layer = costs.left.at(-1), groups = costs.values[layer].map((_, head) => [this.label(layer, head)]);
      this.root.dataset.state = "busy";
      const { values } = await this.host.ask("costs", { model, text, groups }, mine.signal);
      if (mine !== this.running) throw new DOMException("dropped", "AbortError");
      costs.values[layer] = values;
      costs.left.pop();
      this.tell("map");
    }
  }

  mapWants(position, token) {
    const { predict } = this.found, { mode } = this.state;
    if (mode === "adds") return { position, token };
    if (mode === "looks_at") return { position: Math.min(position, this.n - 2 < 0 ? 0 : position) };
    return predict.ids.indexOf(predict.ids[position], 1) < position && position > 0 ? { position } : {};
  }

  async ask(what, given, mine, may = false) {
    const question = JSON.stringify(given);
    if (this.asked[what] === question) return;
    this.root.dataset.state = "busy";
    try {
      this.found[what] = await this.host.ask(what, given, mine.signal);
    } catch (error) {
      if (!may || error.name === "AbortError" || !(error instanceof Refused)) throw error;
      this.found[what] = { error: error.message }; // this model cannot say, others can
    }
    if (mine !== this.running) throw new DOMException("dropped", "AbortError");
    this.asked[what] = question;
    this.tell(what);
  }

  // The key that the chosen head looks at most from the chosen token, the first position left out, or the one that was clicked.
  get key() {
    const row = this.patternRow();
    if (!row || row.length < 3) return null;
    const { key } = this.state;
    if (key !== null && key > 0 && key < row.length) return key;
    let best = 1;
    for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i;
    return best;
  }

  patternRow(query = this.position) {
    const { head } = this.found;
    if (!head) return null;
    if (!head.values) head.values = unpack(head.pattern);
    const start = (query * (query + 1)) / 2;
    return start + query < head.values.length ? head.values.subarray(start, start + query + 1) : null;
  }

  fault(error) {
    const place = this.root.querySelector(".fault");
    place.hidden = !error;
    if (error) place.textContent = error instanceof Refused ? error.message : this.say(error instanceof TypeError ? "lost" : "fault", { e: error.message });
    this.root.dataset.state = error ? "fault" : this.root.dataset.state;
  }

  listen(panel) { this.panels.push(panel); return panel.element; }

  tell(what, before) {
    for (const panel of this.panels) panel.update(what, before);
    if (what === "state" && this.keep) this.keep();
  }
}

function firstText(facts) {
  if (facts.reads_text) return "Her friend Harry Potter met Hermione. Everybody at school knew Harry";
  return `${randomTokens(facts, 8)}`;
}

// So many distinct tokens, written twice; the same wherever the seed is.
function randomTokens(facts, n, seed = Math.floor(Math.random() * 1e6)) {
  let x = seed % 2147483647 || 1;
  const random = () => (x = (x * 48271) % 2147483647) / 2147483647;
  const drawn = new Set();
  n = Math.min(n, Math.floor((facts.most_tokens - 1) / 2), facts.d_vocab - 1);
  while (drawn.size < n) {
    const one = facts.reads_text ? RANDOM_WORDS[Math.floor(random() * RANDOM_WORDS.length)] : Math.floor(random() * facts.d_vocab);
    if (facts.reads_text || one !== facts.bos) drawn.add(one);
    if (facts.reads_text && drawn.size === RANDOM_WORDS.length) break;
  }
  return [...drawn, ...drawn].join(" ");
}

const RANDOM_WORDS = ("river stone window yellow engine paper mountain seven doctor garden silver winter bottle music " +
  "forest market letter glass hammer island pocket thunder apple castle dragon feather kitchen lantern mirror needle").split(" ");
