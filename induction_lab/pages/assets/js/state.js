// What is chosen (model, score, head), its address, and what follows when another is chosen.

const state = {
  model: 0, score: "prefix_matching", head: 0, kept: null, prompt: "repeated", weighted: false, hideFirst: false,
  view: "one", step: null, token: null, sort: null, ascending: false,
};

// `#L18H6`, or `#L18H6+L4H7` where that is kept beside it; of several models `#gpt2/L18H6`.
function address(head, of = model()) {
  const name = state.kept === null ? of.names[head] : `${of.names[head]}+${keptName()}`;
  return models.length > 1 ? `#${encodeURIComponent(of.label)}/${name}` : `#${name}`;
}

// From an address to [model, head, kept head]; null for addresses that are of something else.
function addressed(hash) {
  let text = hash.slice(1);
  try { text = decodeURIComponent(text); } catch { /* as it stands */ }
  const cut = text.lastIndexOf("/"), name = text.slice(cut + 1).toUpperCase(), label = text.slice(0, Math.max(cut, 0));
  const which = cut < 0 ? state.model : models.findIndex((of) => of.label === label);
  const [head, kept] = name.split("+").map((one) => (which < 0 ? -1 : indexOf(one, models[which])));
  return head < 0 || kept < 0 ? null : [which, head, kept ?? null];
}

let ours = "", first = [0, 0, null]; // the address that we gave last; what is shown where there is none

function choose(head, how = "push") {
  state.head = head;
  ours = address(head);
  if (how === "push" && location.hash !== ours) location.hash = ours;
  else if (how === "replace") history.replaceState(null, "", ours);
  state.token = null;
  say();
  markRow();
  markKind();
  moveCursor();
  drawHead();
  if (how !== "replace") bring(how === "follow" ? "instant" : "auto");
}

function say() {
  const of = model(), score = shown(state.score, of), value = score.values[state.head];
  const error = score.errors && score.errors[state.head];
  byId("map-live").textContent = `${of.names[state.head]}: ${score.title} ${withError(value, error)}${score.chance === null || score.chance === undefined ? "" : `, chance ${number(score.chance)}`}`;
  byId("map-chart").setAttribute("aria-label", `Layers down, heads across; ${byId("map-live").textContent}. Arrow keys move.`);
}

function setScore(name) {
  state.score = name;
  byId("score").value = name;
  const score = model().scores[name];
  byId("definition").textContent = score.definition;
  say();
  later("map", drawMap);
  later("sort", () => sortBy(name, false));
  later("training", drawTraining);
  later("comparison", drawComparison);
}

function setModel(which, head = null) {
  state.model = which;
  state.step = null;
  state.prompt = "repeated";
  state.kept = null;
  const of = model(), names = Object.keys(of.scores);
  if (byId("model")) byId("model").value = String(which);
  byId("score").replaceChildren(...names.map((name) => element("option", { value: name }, of.scores[name].title)));
  if (!of.scores[state.score]) state.score = names[0];
  state.head = head ?? Math.max(0, indexOf(Object.keys(of.views)[0] || "L0H0"));
  const prompts = { repeated: "Repeated tokens", text: "Text" };
  byId("prompt").replaceChildren(byId("prompt").firstElementChild, ...Object.keys(of.prompts).map((name) => {
    const input = element("input", { type: "radio", name: "prompt", value: name });
    input.checked = name === state.prompt;
    return element("label", {}, input, element("span", {}, prompts[name] || name));
  }));
  const training = of.training;
  byId("checkpoints").hidden = byId("training").hidden = !training;
  document.querySelectorAll('[data-for="training"]').forEach((item) => { item.hidden = !training; });
  if (training) { byId("step").max = training.steps.length - 1; setStep(null); }
  fillTable();
  fillDownloads();
  setScore(state.score);
  later("kinds", drawKinds);
  later("circuit", drawCircuit);
  markRow();
  drawHead();
}

function go([which, head, kept], how = "push") {
  if (which !== state.model) setModel(which, head);
  if (kept !== undefined) state.kept = kept;
  choose(head, how);
}
