// Which heads are of which kinds: a map with a colour a kind, and a table of the kinds, their heads and what they share.

const KINDS = {
  "induction": "#d55e00", "previous-token": "#0072b2", "duplicate-token": "#009e73", "token-matching": "#e69f00",
  "concept-matching": "#cc79a7", "token-copying": "#a6611a", "concept-copying": "#b3388a", "function-vector": "#8c6bd1",
  "retrieval": "#56b4e9", "copy-suppression": "#a3a300", "successor": "#2bb8ac", "context-matching": "#7fb93e",
};
const SHOWN_OF_A_KIND = 8;

const headers = (...titles) => element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
const fewDigits = (value) => (value !== null && Math.abs(value) < 0.01 && value !== 0 ? 4 : 3);

function drawKinds() {
  const of = model(), found = of.kinds;
  byId("kinds-grid").hidden = !found;
  byId("kinds-says").textContent = found
    ? `A head is of a kind where its score is as large as people ask (or, where nobody has said, among the highest ${100 * found.share}% of heads) and above chance, at a false-discovery rate of ${100 * found.rate}% over heads; scores of weights alone are not tested. A head of several kinds has a stripe of each.`
    : of.left_out["kinds of heads"] || "Kinds of heads were not looked for.";
  if (!found) return;
  const kindsOf = Array.from({ length: of.count }, () => []);
  found.kinds.forEach((kind) => kind.heads.forEach((head) => kindsOf[head].push(kind)));
  drawKindsMap(of, kindsOf);
  const table = byId("kinds-table");
  table.tHead.replaceChildren(headers("Kind", "From", "Chance", "Heads", "Highest"));
  table.tBodies[0].replaceChildren(...found.kinds.map((kind) => kindRow(of, kind, found.share)));
  const shared = byId("overlaps");
  byId("kinds-shared").hidden = !found.overlaps.length;
  shared.tHead.replaceChildren(headers("Kinds", "Heads", "Shared", "By chance", "p"));
  shared.tBodies[0].replaceChildren(...found.overlaps.map((both) => element("tr", {},
    ...[`${both.kind}, ${both.other_kind}`, `${both.n_heads}, ${both.n_other_heads}`, both.n_shared, number(both.expected, 2), both.p_value < 0.001 ? both.p_value.toExponential(0).replace("-", MINUS) : number(both.p_value)].map((cell) => element("td", {}, String(cell))))));
  const without = Object.entries(found.left_out).map(([name, why]) => `Left out: ${name}: ${why}`);
  if (found.not_asked.length) without.push(`Not looked for, as they take long (induction-lab report --all-kinds): ${found.not_asked.join(", ")}`);
  byId("kinds-without").replaceChildren(...without.map((each) => element("li", {}, each)));
}

function kindRow(of, kind, share) {
  const named = kind.heads.slice(0, SHOWN_OF_A_KIND), highest = element("td", { class: "heads" });
  const value = (head) => ` ${withError(kind.values[head], kind.errors[head], fewDigits(kind.values[head]))}`.replace(/ /g, "\u00a0");
  named.forEach((head, i) => highest.append(i ? ", " : "", link(head), value(head)));
  if (kind.heads.length > named.length) highest.append(`, and ${kind.heads.length - named.length} more`);
  const best = kind.values.reduce((at, x, i) => (x !== null && (at < 0 || x > kind.values[at]) ? i : at), -1);
  if (!named.length && best >= 0) highest.append("none; the highest is ", link(best), value(best));
  return element("tr", {},
    element("td", { title: kind.definition }, element("i", { class: "swatch", style: `background:${KINDS[kind.name]}` }), kind.name),
    element("td", {}, kind.least === null ? `top ${100 * share}%` : String(kind.least)),
    element("td", {}, number(kind.chance)), element("td", {}, String(kind.heads.length)), highest);
}

// Cells, not a chart: a stripe of each kind, a click leads to the head.
function drawKindsMap(of, kindsOf) {
  const map = byId("kinds-map"), every = Math.max(1, Math.ceil(of.nHeads / 16));
  const n = kindsOf.filter((kinds) => kinds.length).length;
  map.setAttribute("aria-label", `Layers down, heads across: ${n} of ${of.count} heads are of a kind; the table beside says which`);
  map.style.gridTemplateColumns = `auto repeat(${of.nHeads}, minmax(0, 1fr))`;
  const cells = [];
  for (let layer = 0; layer < of.shape.n_layers; layer++) {
    cells.push(element("span", { class: "axis" }, String(layer)));
    for (let head = layer * of.nHeads; head < (layer + 1) * of.nHeads; head++) cells.push(kindCell(of, head, kindsOf[head]));
  }
  cells.push(element("span", { class: "axis" }));
  for (let head = 0; head < of.nHeads; head++) cells.push(element("span", { class: "axis" }, head % every ? "" : String(head)));
  map.replaceChildren(...cells);
  map.onclick = (event) => { if (event.target.dataset.head !== undefined) choose(Number(event.target.dataset.head)); };
  markKind();
}

function kindCell(of, head, kinds) {
  const stripes = kinds.map((kind, i) => `${KINDS[kind.name]} ${(100 * i) / kinds.length}% ${(100 * (i + 1)) / kinds.length}%`);
  const said = kinds.map((kind) => `${kind.name} ${withError(kind.values[head], kind.errors[head], fewDigits(kind.values[head]))}`);
  return element("b", { "data-head": head, title: `${of.names[head]}: ${said.join(", ") || "of no kind"}`, style: kinds.length ? `background:linear-gradient(90deg, ${stripes.join(", ")})` : null });
}

function markKind() {
  byId("kinds-map").querySelectorAll("b").forEach((cell) => cell.classList.toggle("chosen", Number(cell.dataset.head) === state.head));
}
