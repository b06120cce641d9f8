// The forward pass of a small model, and what is linear in it while every norm is held at its scale: which parts of the
// stream make up a number that is read off it. Arrays hold a row for each place of the text; the heads of a layer lie
// side by side in a row. Weights come packed from pages/live/in_page.py.

// Where an ideal head looks from each place; where that is nowhere, it rests on the first.
const SMALL_IDEALS = {
  ideal_previous_token: (ids) => ids.map((_, place) => (place ? [place - 1] : [])),
  ideal_induction: (ids) => smallEarlier(ids).map((found) => found.map((place) => place + 1)),
};

// What was computed of a text, by layer: what stands before it (`before`; last, before the unembedding), by what its
// norm divides each row of that (`scales`), queries, keys, values, patterns, what heads put out (`z`); log-probabilities.
// Nothing reaches a place from behind it, so the first `known` places may be those of `other`, a run that begins alike.
class SmallRun {
  constructor(ids, known, other) {
    Object.assign(this, { ids, n: ids.length, known, other, before: [], scales: [], q: [], k: [], v: [], patterns: [], z: [], logP: [] });
  }

  // The next layer's array of that name; `size` says how many numbers so many places have.
  begin(name, size) {
    const made = new Float64Array(size(this.n));
    if (this.known) made.set(this.other[name][this[name].length].subarray(0, size(this.known)));
    this[name].push(made);
    return made;
  }
}

class SmallNetwork {
  constructor({ config, weights }) {
    Object.assign(this, config);
    this.width = this.n_heads * this.d_head;
    this.weights = smallArrays(weights);
    const half = this.rotary ? this.d_head / 2 : 0; // angles in float32, as the network has them
    this.frequencies = smallRange(0, half).map((i) => Math.fround(10_000 ** -(i / half)));
    const { W_U, b_U } = this.weights;
    this.meanReader = Float64Array.from({ length: this.d_model }, (_, i) => smallMean(W_U, i * this.d_vocab, this.n_tokens));
    this.meanBias = b_U ? smallMean(b_U, 0, this.n_tokens) : 0;
  }

  // A change is `{ layer, head, how }`; `other` is a run with the same changes.
  run(ids, changes, known = 0, other = null) {
    const run = new SmallRun(ids, known, other);
    this.embed(run);
    this.finish(run, 0, changes);
    run.other = null; // which is not to be kept for this one's sake
    return run;
  }

  // A run on the same text with other changes: what is below the first of them is as it was.
  again(run, changes) {
    const again = new SmallRun(run.ids, 0, null), first = changes[0].layer;
    for (const name of ["scales", "q", "k", "v", "patterns", "z"]) again[name] = run[name].slice(0, first);
    again.before = run.before.slice(0, first + 1);
    this.finish(again, first, changes);
    return again;
  }

  finish(run, first, changes) {
    const { W_U, b_U } = this.weights, d = this.d_vocab, { known } = run;
    for (let layer = first; layer < this.n_layers; layer++) this.attend(run, layer, changes.filter((change) => change.layer === layer));
    const logP = run.begin("logP", (n) => n * d);
    smallTimes(logP, this.normalised(run, this.n_layers), known, W_U, b_U, d);
    for (let s = known; s < run.n; s++) smallLogSoftmax(logP, s * d, d);
  }

  embed(run) {
    const { W_E, W_pos } = this.weights, d = this.d_model, stream = run.begin("before", (n) => n * d);
    for (let s = run.known; s < run.n; s++) for (let i = 0; i < d; i++) stream[s * d + i] = W_E[run.ids[s] * d + i] + (W_pos ? W_pos[s * d + i] : 0);
  }

  attend(run, layer, changes) {
    const read = this.normalised(run, layer), { n, known } = run, { d_model: d, d_head, width } = this, of = (name) => this.weights[`${layer} ${name}`];
    for (const name of ["q", "k", "v"]) {
      const made = run.begin(name, (places) => places * width);
      smallTimes(made, read, known, of(`W_${name}`), of(`b_${name}`), width);
      if (name !== "v") for (let s = known; s < n; s++) for (let at = s * width; at < (s + 1) * width; at += d_head) this.turn(made, at, s);
    }
    this.look(run, layer, changes);
    this.mix(run, layer);
    for (const change of changes) this.change(run, change);
    const stream = run.begin("before", (places) => places * d);
    smallTimes(stream, run.z[layer], known, of("W_o"), of("b_o"), d);
    for (let i = known * d; i < n * d; i++) stream[i] += run.before[layer][i];
  }

  // The stream as the norm before a layer, or the last one, leaves it.
  normalised(run, layer) {
    const norm = this.norms[layer], d = this.d_model, stream = run.before[layer], scales = run.begin("scales", (n) => n);
    if (!norm) {
      scales.fill(1);
      return stream;
    }
    const { gain, bias } = this.norm(layer), out = new Float64Array(stream.length);
    for (let s = run.known, at = s * d; s < run.n; s++, at += d) {
      const mean = norm.centred ? smallMean(stream, at, d) : 0;
      let size = 0;
      for (let i = at; i < at + d; i++) size += (stream[i] - mean) ** 2;
      const scale = Math.sqrt(size / d + norm.eps);
      for (let i = 0; i < d; i++) out[at + i] = ((stream[at + i] - mean) / scale) * gain[i] + bias[i];
      scales[s] = size ? scale : 1;
    }
    return out;
  }

  norm(layer) {
    return { gain: this.weights[`${layer} gain`], bias: this.weights[`${layer} bias`] };
  }

  // Rotates one head's query or key as at a place; back again as at the place's negative.
  turn(vector, at, place) {
    const half = this.frequencies.length;
    for (let i = at; i < at + half; i++) {
      const angle = Math.fround(place * this.frequencies[i - at]), cos = Math.cos(angle), sin = Math.sin(angle);
      const x = vector[i], y = vector[i + half];
      vector[i] = x * cos - y * sin;
      vector[i + half] = y * cos + x * sin;
    }
  }

  // Where a head's row of a pattern begins: rows of all heads lie side by side, as long as a query sees keys.
  rowAt(head, query) {
    return (this.n_heads * query * (query + 1)) / 2 + head * (query + 1);
  }

  row(run, layer, head, query) {
    return run.patterns[layer].subarray(this.rowAt(head, query), this.rowAt(head, query) + query + 1);
  }

  look(run, layer, changes) {
    const { n_heads, d_head, width } = this, patterns = run.begin("patterns", (n) => this.rowAt(0, n)), q = run.q[layer], k = run.k[layer];
    const ideals = Object.fromEntries(changes.filter(({ how }) => SMALL_IDEALS[how]).map(({ head, how }) => [head, SMALL_IDEALS[how](run.ids)]));
    for (let query = run.known; query < run.n; query++) {
      for (let head = 0; head < n_heads; head++) {
        const at = this.rowAt(head, query), from = head * d_head, keys = ideals[head]?.[query];
        if (keys) for (const key of keys.length ? keys : [0]) patterns[at + key] = 1 / (keys.length || 1);
        if (keys) continue;
        for (let key = 0; key <= query; key++) patterns[at + key] = smallDot(q, query * width + from, k, key * width + from, d_head) / Math.sqrt(d_head);
        smallLogSoftmax(patterns, at, query + 1);
        for (let i = at; i <= at + query; i++) patterns[i] = Math.exp(patterns[i]);
      }
    }
  }

  mix(run, layer) {
    const { n_heads, d_head, width } = this, z = run.begin("z", (n) => n * width), v = run.v[layer], patterns = run.patterns[layer];
    for (let query = run.known; query < run.n; query++) {
      for (let head = 0; head < n_heads; head++) {
        const from = head * d_head, to = query * width + from, at = this.rowAt(head, query);
        for (let key = 0; key <= query; key++) {
          const p = patterns[at + key], value = key * width + from;
          for (let i = 0; i < d_head; i++) z[to + i] += p * v[value + i];
        }
      }
    }
  }

  // What a changed head puts out instead.
  change(run, { layer, head, how }) {
    const means = this.weights[`${layer} means`], z = run.z[layer];
    for (let s = run.known; s < run.n; s++) {
      const from = s * this.width + head * this.d_head, to = from + this.d_head;
      if (how === "zero") z.fill(0, from, to);
      else if (how === "mean") z.set(means.subarray(from, to), from);
      else if (typeof how === "number") for (let i = from; i < to; i++) z[i] *= how;
    }
  }

  // What the last norm, or a layer's, makes of a vector but for its scale and bias.
  gained(layer, x) {
    const norm = this.norms[layer], { gain } = this.norm(layer), mean = norm?.centred ? smallMean(x, 0, x.length) : 0;
    return norm ? x.map((value, i) => (value - mean) * gain[i]) : x;
  }

  // The direction of the stream along which a reader behind that norm reads, times the norm's scale.
  folded(layer, reader) {
    const norm = this.norms[layer], { gain } = this.norm(layer), read = norm ? reader.map((x, i) => x * gain[i]) : reader;
    const mean = norm?.centred ? smallMean(read, 0, read.length) : 0;
    return read.map((x) => x - mean);
  }

  // Along which direction of the stream at a place a head's query or key (`W`) makes a score with the other of the two.
  direction(run, layer, W, head, other, place) {
    const back = other.slice(), weights = this.weights[`${layer} ${W}`];
    this.turn(back, 0, -place);
    const reader = Float64Array.from({ length: this.d_model }, (_, i) => smallDot(weights, i * this.width + head * this.d_head, back, 0, this.d_head));
    return this.folded(layer, reader).map((x) => x / run.scales[layer][place]);
  }

  // What each head of a layer wrote along a direction at a place, added to `parts`.
  headsAlong(parts, run, layer, place, direction) {
    const { d_model: d, d_head, width } = this, W_O = this.weights[`${layer} W_o`], z = run.z[layer];
    for (let head = 0; head < this.n_heads; head++) {
      let sum = 0;
      for (let i = head * d_head; i < (head + 1) * d_head; i++) sum += z[place * width + i] * smallDot(W_O, i * d, direction, 0, d);
      const name = smallName(layer, head);
      parts.set(name, (parts.get(name) ?? 0) + sum);
    }
  }

  // What each component adds to the logit of `token` after a place, minus what it adds to the mean logit.
  attributed(run, place, token) {
    const last = this.n_layers, d = this.d_model, { W_E, W_pos, b_U } = this.weights, reader = this.reader(token);
    const direction = this.folded(last, reader).map((x) => x / run.scales[last][place]), { bias: norm } = this.norm(last);
    const parts = new Map([["embedding", smallDot(W_E, run.ids[place] * d, direction, 0, d)]]);
    if (W_pos && this.readsPositions(run.n, place, token)) parts.set("positions", smallDot(W_pos, place * d, direction, 0, d));
    let bias = (norm ? smallDot(norm, 0, reader, 0, d) : 0) + (b_U ? b_U[token] - this.meanBias : 0);
    for (let layer = 0; layer < last; layer++) {
      const b_O = this.weights[`${layer} b_o`];
      this.headsAlong(parts, run, layer, place, direction);
      if (b_O) bias += smallDot(b_O, 0, direction, 0, d);
    }
    return parts.set("bias", bias);
  }

  reader(token) {
    return this.meanReader.map((mean, i) => this.weights.W_U[i * this.d_vocab + token] - mean);
  }

  // Whether position vectors add anything to the logit of `token` after a place, or of token 0 after another.
  readsPositions(n, place, token) {
    const [asked, first] = [token, 0].map((id) => this.folded(this.n_layers, this.reader(id))), d = this.d_model;
    return smallRange(0, n).some((s) => smallDot(this.weights.W_pos, s * d, s === place ? asked : first, 0, d) !== 0);
  }

  // What a head writes into the stream of its values, or of what it put out, at a place.
  written(layer, head, rows, place) {
    const { d_model: d, d_head } = this, from = head * d_head, at = place * this.width + from;
    return smallTimes(new Float64Array(d), rows.subarray(at, at + d_head), 0, this.weights[`${layer} W_o`].subarray(from * d, (from + d_head) * d), null, d);
  }

  // The logits that a part of the stream at a place makes, minus their mean.
  logits(run, part, place) {
    const scale = run.scales[this.n_layers][place], read = this.gained(this.n_layers, part).map((x) => x / scale);
    const found = smallTimes(new Float64Array(this.d_vocab), read, 0, this.weights.W_U, null, this.d_vocab).subarray(0, this.n_tokens);
    const mean = smallMean(found, 0, found.length);
    return found.map((x) => x - mean);
  }
}

const smallName = (layer, head) => `L${layer}H${head}`;
const smallRange = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

function smallDot(a, at, b, from, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[at + i] * b[from + i];
  return sum;
}

function smallMean(values, from, n) {
  let sum = 0;
  for (let i = from; i < from + n; i++) sum += values[i];
  return sum / n;
}

// Writes rows · W + b into `out`, from row `first` on; a row of it has `width` numbers. Four numbers of a row at a time:
// what is added up is written less often.
function smallTimes(out, rows, first, W, b, width) {
  const inner = W.length / width;
  for (let to = first * width, from = first * inner; to < out.length; to += width, from += inner) {
    let i = 0, w = 0;
    if (b) out.set(b, to);
    for (; i + 3 < inner; i += 4, w += 4 * width) {
      const x0 = rows[from + i], x1 = rows[from + i + 1], x2 = rows[from + i + 2], x3 = rows[from + i + 3], w1 = w + width, w2 = w1 + width, w3 = w2 + width;
      for (let j = 0; j < width; j++) out[to + j] += x0 * W[w + j] + x1 * W[w1 + j] + x2 * W[w2 + j] + x3 * W[w3 + j];
    }
    for (; i < inner; i++, w += width) for (let j = 0; j < width; j++) out[to + j] += rows[from + i] * W[w + j];
  }
  return out;
}

function smallLogSoftmax(values, from, n) {
  let most = -Infinity, sum = 0;
  for (let i = from; i < from + n; i++) if (values[i] > most) most = values[i];
  for (let i = from; i < from + n; i++) sum += Math.exp(values[i] - most);
  const total = most + Math.log(sum);
  for (let i = from; i < from + n; i++) values[i] -= total;
}

// For each place, the earlier places of its token; the first place is none.
function smallEarlier(ids) {
  return ids.map((id, place) => smallRange(1, place).filter((earlier) => ids[earlier] === id));
}

// Arrays by name, one behind the other, float32 in base64; made wide, as every sum of them is.
function smallArrays({ sizes, data }) {
  const text = atob(data), bytes = new Uint8Array(text.length), found = {};
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const all = Float64Array.from(new Float32Array(bytes.buffer));
  let from = 0;
  for (const [name, size] of sizes) found[name] = all.subarray(from, (from += size));
  return found;
}
