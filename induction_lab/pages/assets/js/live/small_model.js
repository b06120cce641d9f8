// A small model that the page runs itself: asked what `LiveModel` of pages/live/answers.py is asked, it gives the same
// answers, or refuses with the same words. Lists and limits come packed from pages/live/in_page.py.

const SMALL_RUNS = 4; // are kept: of the text with and without changed heads, and of what was there before

class SmallModel {
  constructor(data) {
    Object.assign(this, { facts: data.facts, rules: data.rules, found: data.kinds, texts: data.texts });
    this.network = new SmallNetwork(data);
    this.runs = [];
  }

  answer(what, given) {
    const { asked } = this.rules;
    if (what === "facts") return this.facts;
    if (!asked.includes(what)) throw new Error(`A page asks for ${asked.join(", ")}, got ${smallRepr(what)}.`);
    return this[what](this.scene(given), given);
  }

  // The questions, by their names.

  predict(scene) {
    const ids = this.ids(scene), tokens = ids.map((id, place) => (place ? this.text(id) : "BOS"));
    const run = this.run(ids, []), whole = (run.likeliest ??= this.likeliest(run));
    if (!scene.changes.length) return { tokens, ids, whole };
    const other = this.run(ids, scene.changes), changed = (other.likeliest ??= this.likeliest(other));
    const p = (of, likely) => likely.map((row, place) => row.map((id) => smallDigits(Math.exp(this.logP(of, place)[id]))));
    return { tokens, ids, whole, changed: { ...changed, p_of_whole: p(other, whole.ids), whole_p: p(run, changed.ids) } };
  }

  map(scene, given) {
    const { modes } = this.rules, { mode } = given;
    if (!modes.includes(mode)) throw new Error(`Heads are coloured by ${modes.join(", ")}, got ${smallRepr(mode)}.`);
    const ids = this.ids(scene), n = ids.length, said = (x) => x !== null && x !== undefined;
    const at = mode !== "copying" || said(given.position) ? this.place(given.position, n) : null;
    if (mode === "adds") {
      const parts = this.attributed(scene, ids, at, this.token(given.token));
      return this.values((layer, head) => parts.get(smallName(layer, head)));
    }
    if (mode === "looks_at") {
      const queries = said(given.query) ? [this.place(given.query, n, at)] : smallRange(at + 1, n);
      return this.attention(scene, ids, queries, () => [at]);
    }
    const earlier = smallEarlier(ids), queries = at === null ? smallRange(0, n).filter((query) => earlier[query].length) : [at];
    return this.attention(scene, ids, queries, (query) => earlier[query].map((place) => place + 1));
  }

  head(scene, given) {
    const [layer, head] = this.headOf(given.head), ids = this.ids(scene), n = ids.length, run = this.run(ids, scene.changes);
    const at = this.place(given.position, n);
    const written = ids.map((_, place) => smallDigits(Math.hypot(...this.network.written(layer, head, run.v[layer], place))));
    const logits = this.network.logits(run, this.network.written(layer, head, run.z[layer], at), at);
    const some = (sign) => smallLargest(logits, this.rules.likeliest, sign).map((id) => [this.text(id), smallDigits(logits[id])]);
    return { pattern: smallPack(ids.flatMap((_, query) => [...this.network.row(run, layer, head, query)])), written, writes: { for: some(1), against: some(-1) } };
  }

  why_weight(scene, given) {
    const [layer, head] = this.headOf(given.head), ids = this.ids(scene), n = ids.length, { network } = this, { d_head } = network;
    const query = this.place(given.query, n), key = this.place(given.key, n), run = this.run(ids, scene.changes);
    this.refuseShort(n);
    if (!(key > 0 && key <= query)) throw new Error(`A pair is (query, key), 0 < key <= query < ${n}, got (${query}, ${key}).`);
    if (query < 2) throw new Error(`No pair lies in the window that ${smallName(layer, head)} sees, with another key but the first beside it.`);
    const vector = (rows, place) => Float64Array.from({ length: d_head }, (_, i) => rows[layer][place * network.width + head * d_head + i]);
    const asks = vector(run.q, query).map((x) => x / Math.sqrt(d_head)), above = new Float64Array(d_head), readers = [];
    for (let place = 1; place <= query; place++) { // the key, less the mean of the others
      const weight = place === key ? 1 : -1 / (query - 1);
      vector(run.k, place).forEach((x, i) => { above[i] += weight * x; });
      readers.push([place, asks.map((x) => weight * x)]);
    }
    const score = smallDot(asks, 0, above, 0, d_head), asked = [[query, above.map((x) => x / Math.sqrt(d_head))]];
    return { k: this.shares(run, layer, head, "W_k", readers, score), q: this.shares(run, layer, head, "W_q", asked, score) };
  }

  why_token(scene, given) {
    const ids = this.ids(scene), at = this.place(given.position, ids.length);
    return smallLargestParts(this.attributed(scene, ids, at, this.token(given.token)), this.rules.parts);
  }

  costs(scene, given) {
    const { groups } = given, list = (x) => Array.isArray(x) && x.length > 0;
    if (!list(groups) || groups.length > this.rules.most_groups || !groups.every(list)) throw new Error(`Groups are lists of heads, 1 to ${this.rules.most_groups} of them.`);
    const named = groups.map((group) => group.map((name) => this.headOf(name))), sets = named.map((heads) => this.inOrder(heads.map(([layer, head]) => ({ layer, head, how: "mean" }))));
    const ids = this.ids(scene), n = ids.length;
    this.refuseShort(n);
    const whole = this.run(ids, []), loss = (run) => -smallSum(ids.slice(1).map((id, place) => this.logP(run, place)[id])) / (n - 1);
    return { values: sets.map((changes) => smallDigits(loss(this.network.again(whole, changes)) - loss(whole))) };
  }

  kinds() {
    if (this.found.refused) throw new Error(this.found.refused);
    return this.found;
  }

  // What they are made of.

  // A kept run with the same changes is gone on with from where the texts differ: a key press costs one place.
  run(ids, changes) {
    const name = JSON.stringify(changes), differs = (run) => ids.findIndex((id, place) => id !== run.ids[place]);
    const shared = (run) => (differs(run) < 0 ? ids.length : differs(run));
    const [other] = this.runs.filter((run) => run.name === name).sort((a, b) => shared(b) - shared(a)), known = other ? shared(other) : 0;
    const same = other && known === ids.length && known === other.n, run = same ? other : this.network.run(ids, changes, known, other);
    this.runs = [...this.runs.filter((one) => one !== run), Object.assign(run, { name })].slice(-SMALL_RUNS);
    return run;
  }

  logP(run, place) {
    const n = this.facts.d_vocab;
    return run.logP[0].subarray(place * n, (place + 1) * n);
  }

  likeliest(run) {
    const rows = run.ids.map((_, place) => this.logP(run, place)), ids = rows.map((row) => smallLargest(row, this.rules.likeliest));
    return {
      likeliest: ids.map((row) => row.map((id) => this.text(id))),
      ids,
      p: ids.map((row, place) => row.map((id) => smallDigits(Math.exp(rows[place][id])))),
      nats: run.ids.slice(1).map((id, place) => smallDigits(rows[place][id])),
    };
  }

  // Attention of every head from some places to the places that belong to each, its mean over queries.
  attention(scene, ids, queries, keys) {
    const run = this.run(ids, scene.changes), from = (row, query) => smallSum(keys(query).map((key) => row[key]));
    return this.values((layer, head) => smallSum(queries.map((query) => from(this.network.row(run, layer, head, query), query))) / queries.length);
  }

  values(of) {
    const { n_layers, n_heads } = this.facts;
    return { values: smallRange(0, n_layers).map((layer) => smallRange(0, n_heads).map((head) => smallDigits(of(layer, head)))) };
  }

  attributed(scene, ids, at, token) {
    const run = this.run(ids, scene.changes);
    this.refuseShort(ids.length);
    return this.network.attributed(run, at, token);
  }

  // Who wrote what makes a score, given what reads the stream at which places.
  shares(run, layer, head, W, readers, score) {
    const { network } = this, parts = new Map([["embed", 0]]);
    for (const [place, reader] of readers) {
      const direction = network.direction(run, layer, W, head, reader, place), d = direction.length;
      parts.set("embed", parts.get("embed") + smallDot(run.before[0], place * d, direction, 0, d));
      for (let below = 0; below < layer; below++) network.headsAlong(parts, run, below, place, direction);
    }
    return smallLargestParts(parts.set("bias", score - smallSum([...parts.values()])), this.rules.parts);
  }

  // What is asked, checked in the order and with the words of pages/live/scene.py and values.py.

  scene(given) {
    const { most_characters, methods, most_factor } = this.rules, { text = "" } = given;
    const heads = !given.heads || given.heads.length === 0 ? {} : given.heads;
    if (typeof text !== "string" || typeof heads !== "object" || Array.isArray(heads)) throw new Error("A scene is a text, and heads with what is done to each.");
    const length = text.length > most_characters ? [...text].length : 0, written = (n) => n.toLocaleString("en");
    if (length > most_characters) throw new Error(`The text has ${written(length)} characters; ${written(most_characters)} are read at most.`);
    const changes = Object.entries(heads).map(([name, how]) => {
      const [layer, head] = this.headOf(name);
      if (typeof how === "number" && !(Math.abs(how) <= most_factor)) throw new Error(`Heads are scaled by a number from -${most_factor} to ${most_factor}, got ${how}.`);
      if (typeof how !== "number" && !methods.includes(how)) throw new Error(`A head is changed by a factor or by ${methods.join(", ")}, got ${smallRepr(how, 30)}.`);
      return { layer, head, how };
    });
    return { text, changes: this.inOrder(changes) };
  }

  // Changes by the order of heads, of which none may be there twice.
  inOrder(changes) {
    const sorted = changes.sort((a, b) => a.layer - b.layer || a.head - b.head);
    const twice = sorted.find(({ layer, head }, i) => i && layer === sorted[i - 1].layer && head === sorted[i - 1].head);
    if (twice) throw new Error(`Each head may be given once, got ${smallName(twice.layer, twice.head)} more than once.`);
    return sorted;
  }

  ids(scene) {
    const { name, d_vocab, bos, most_tokens } = this.facts, words = smallDecimal(scene.text).replaceAll(",", " ").split(/[\s\x1c-\x1f\x85]+/).filter(Boolean);
    const wrong = words.find((word) => !/^\d+$/.test(word) || Number(word) >= d_vocab);
    if (wrong !== undefined) throw new Error(`${name} reads tokens: numbers from 0 to ${d_vocab - 1}, got ${smallRepr(wrong, 20)}.`);
    if (words.length >= most_tokens) throw new Error(`The text has more than the ${most_tokens - 1} tokens that fit here: shorten it.`);
    return [bos, ...words.map(Number)];
  }

  headOf(given) {
    const { n_layers, n_heads } = this.facts, written = typeof given === "string" ? given : smallRepr(given);
    const match = smallDecimal(written).match(/^\s*(?:L(\d+)H(\d+)|\(?\s*(\d+)\s*[.,:\- ]\s*(\d+)\s*\)?)\s*$/i);
    if (!match) throw new Error(`No head is written ${smallRepr(written)}. Write L5H1, 5.1 or (5, 1) for head 1 of layer 5.`);
    const [layer, head] = match.slice(1).filter((number) => number !== undefined).map(Number);
    if (layer >= n_layers) throw new Error(`${smallName(layer, head)} is not there: the model has layers 0 to ${n_layers - 1}.`);
    if (head >= n_heads) throw new Error(`${smallName(layer, head)} is not there: each layer has heads 0 to ${n_heads - 1}.`);
    return [layer, head];
  }

  place(given, n, least = 0) {
    if (!Number.isInteger(given) || given < least || given >= n) throw new Error(`A position is a whole number from ${least} to ${n - 1}, got ${smallRepr(given)}.`);
    return given;
  }

  token(given) {
    const { d_vocab } = this.facts;
    if (!Number.isInteger(given) || given < 0 || given >= d_vocab) throw new Error(`A token is a number from 0 to ${d_vocab - 1}, got ${smallRepr(given)}.`);
    return given;
  }

  refuseShort(n) {
    if (n < 2) throw new Error(`Prompts need at least one token after BOS, got shape (1, ${n}).`);
  }

  text(id) {
    return this.texts ? this.texts[id] : String(id);
  }
}

const smallDigits = (x) => (Number.isNaN(x) ? null : Number(x.toPrecision(6)));
const smallSum = (values) => values.reduce((a, b) => a + b, 0);

// Decimal digits of any script as 0 to 9: they stand in tens, zero first.
function smallDecimal(text) {
  return text.replace(/\p{Nd}/gu, (digit) => {
    let n = 0;
    while (/\p{Nd}/u.test(String.fromCodePoint(digit.codePointAt(0) - n - 1))) n++;
    return String(n % 10);
  });
}

// A value as messages quote it.
function smallRepr(x, most = Infinity) {
  if (typeof x === "string") return `'${x.slice(0, most)}'`;
  return x === undefined || x === null ? "None" : x === true ? "True" : x === false ? "False" : JSON.stringify(x);
}

// Places of the `k` largest values, or smallest, of equal ones the first.
function smallLargest(values, k, sign = 1) {
  const found = [];
  for (let i = 0; i < values.length; i++) {
    let at = found.length;
    if (at === k && !(sign * values[i] > sign * values[found[k - 1]])) continue;
    while (at > 0 && sign * values[i] > sign * values[found[at - 1]]) at--;
    found.splice(at, 0, i);
    if (found.length > k) found.pop();
  }
  return found;
}

function smallLargestParts(parts, most) {
  const order = [...parts].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])), rest = order.slice(most), rounded = (x) => Number(x.toFixed(6));
  return {
    parts: order.slice(0, most).map(([name, value]) => [name, rounded(value)]),
    others: [rest.length, rounded(smallSum(rest.map((part) => part[1])))],
    sum: rounded(smallSum([...parts.values()])),
  };
}

// Numbers from 0 to 1 as pages/encoding.py packs them in 16 bits.
function smallPack(values) {
  const bytes = new Uint8Array(Uint16Array.from(values, (x) => 1 + Math.round(x * 65_534)).buffer);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return { bits: 16, shape: [values.length], low: 0, high: 1, data: btoa(text) };
}
