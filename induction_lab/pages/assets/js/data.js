// What was measured: the page's JSON, its packed arrays opened.

const data = JSON.parse(document.getElementById("data").textContent), models = data.models.map(opened);

function opened(model) {
  const kept = new Map();
  model.read = (packed) => {
    if (!kept.has(packed)) kept.set(packed, unpack(packed));
    return kept.get(packed);
  };
  model.nHeads = model.shape.n_heads;
  model.count = model.shape.n_layers * model.nHeads;
  model.names = Array.from({ length: model.count }, (_, i) => `L${Math.floor(i / model.nHeads)}H${i % model.nHeads}`);
  return model;
}

const model = () => models[state.model];
const indexOf = (name, of = model()) => of.names.indexOf(name);
const layerOf = (head, of = model()) => Math.floor(head / of.nHeads);
const row = (packed, i, of = model()) => {
  const width = packed.shape.slice(1).reduce((a, b) => a * b, 1);
  return of.read(packed).subarray(i * width, (i + 1) * width);
};

// What the map shows of a score: as measured, or at a checkpoint.
function shown(name, of = model()) {
  const training = of === model() && state.step !== null ? of.training : null;
  const score = of.scores[name];
  if (!training || !training.heads[name]) return score && { ...score, values: training ? score.values.map(() => null) : score.values };
  const heads = training.heads[name];
  return { ...heads, chance: score && score.chance, values: Array.from(row(heads.values, state.step, of)), errors: null };
}
