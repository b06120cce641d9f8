// The table of every head's scores beside the map, sorted and filtered.

// Rows are made and put in as they come into sight: hundreds of heads sort as fast as a few.
const AT_A_TIME = 40;
let rowsOf = [], ordered = [];

function fillTable() {
  const of = model(), names = Object.keys(of.scores), table = byId("table");
  const heads = [["head", "Head"], ...names.map((name) => [name, of.scores[name].title])];
  table.tHead.replaceChildren(element("tr", {}, ...heads.map(([name, title]) =>
    element("th", { scope: "col", "data-name": name }, element("button", { type: "button", onclick: () => sortBy(name) }, title)))));
  rowsOf = [];
  table.tBodies[0].onclick = (event) => {
    const line = event.target.closest("tr");
    if (line) choose(Number(line.dataset.head));
  };
  sortBy(state.score, false);
}

function rowOf(i) {
  const of = model();
  return (rowsOf[i] ??= element("tr", { "data-head": i, "aria-current": i === state.head ? "true" : null },
    element("td", {}, of.names[i]), ...Object.values(of.scores).map((score) => element("td", {}, number(score.values[i])))));
}

function sortBy(name, ascending) {
  state.ascending = ascending ?? (state.sort === name ? !state.ascending : name === "head");
  state.sort = name;
  for (const head of byId("table").tHead.rows[0].cells) {
    if (head.dataset.name === name) head.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  filterTable();
}

const kinds = (of = model()) => (of.kinds ? of.kinds.kinds : []);

// Heads that are asked for, null where all are: by name or part of it, by layer, by kind, or a list of those; and what is none.
function asked(text, of = model()) {
  const found = new Set(), unknown = [];
  const named = (word) => of.names.map((_, i) => i).filter((i) => (/^L\d+$/i.test(word) ? of.names[i].startsWith(`${word.toUpperCase()}H`) : of.names[i].includes(word.toUpperCase())));
  const ofKind = (words) => kinds(of).filter((kind) => kind.name.startsWith(words.toLowerCase().replace(/ heads?$/, "").replace(/\s+/g, "-")));
  const add = (word) => {
    const some = ofKind(word), heads = named(word);
    if (!some.length && !heads.length) unknown.push(word);
    for (const head of [...heads, ...some.flatMap((kind) => kind.heads)]) found.add(head);
  };
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  for (const part of parts) for (const word of ofKind(part).length ? [part] : part.split(/\s+/)) add(word);
  return [parts.length ? found : null, unknown];
}

function filterTable() {
  const of = model(), [wanted, unknown] = asked(byId("find").value), least = parseFloat(byId("least").value);
  const values = of.scores[state.score].values, sign = state.ascending ? 1 : -1, last = state.ascending ? Infinity : -Infinity;
  const key = state.sort === "head" ? (i) => i : (i) => of.scores[state.sort].values[i] ?? last;
  ordered = of.names.map((_, i) => i).filter((i) => (!wanted || wanted.has(i)) && (Number.isNaN(least) || values[i] >= least));
  ordered.sort((a, b) => sign * (key(a) - key(b)) || a - b);
  byId("count").textContent = `${ordered.length} of ${of.count} heads${unknown.length ? `; “${unknown.join("”, “")}” is no head, layer or kind${kinds().length ? ` (${kinds().map((kind) => kind.name).join(", ")})` : ""}` : ""}`;
  byId("table").tBodies[0].replaceChildren(...ordered.slice(0, AT_A_TIME).map(rowOf));
  byId("table").parentElement.scrollTop = 0;
}

function moreRows() {
  const body = byId("table").tBodies[0], frame = byId("table").parentElement;
  if (frame.scrollTop + 2 * frame.clientHeight > frame.scrollHeight) body.append(...ordered.slice(body.rows.length, body.rows.length + AT_A_TIME).map(rowOf));
}

function markRow() {
  rowsOf.forEach((line, i) => { if (i === state.head) line.setAttribute("aria-current", "true"); else line.removeAttribute("aria-current"); });
}
