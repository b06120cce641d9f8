// The tables as CSV, each behind a button.

function csv(columns, lines) {
  const cell = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    if (typeof value === "number" || typeof value === "boolean") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value); // no formula for a spreadsheet to run
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return [columns, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

function tables(of) {
  const found = {}, label = of.label;
  found.scores = () => csv(["model", "layer", "head", "label", "score", "value", "standard_error", "q_value", "uniform"],
    Object.entries(of.scores).flatMap(([name, score]) => of.names.map((head, i) => [label, layerOf(i, of), i % of.nHeads, head, name, score.values[i], score.errors[i], score.q ? score.q[i] : null, score.chance])));
  found.lags = () => csv(["model", "label", "lag", "attention"], of.names.flatMap((head, i) => Array.from(row(of.by_lag, i, of), (x, at) => [label, head, of.lags[at], Number.isNaN(x) ? null : Number(x.toPrecision(5))])));
  if (Object.keys(of.reads).length) found.composition = () => csv(["model", "kind", "writes", "reads", "value"], Object.entries(of.reads).flatMap(([kind, all]) => all.flatMap((some, i) => some.map(([head, value]) => [label, kind, of.names[head], of.names[i], value]))));
  const records = (name, all) => { if (all && all.length) found[name] = () => csv(Object.keys(all[0]), all.map((one) => Object.values(one))); };
  records("circuit", of.circuit);
  if (of.kinds) found.kinds = () => csv(["model", "label", "kind", "score", "value", "standard_error", "chance", "q_value", "is_kind"], of.kinds.kinds.flatMap((kind) => of.names.map((head, i) => [label, head, kind.name, kind.score, kind.values[i], kind.errors[i], kind.chance, kind.q[i], kind.heads.includes(i)])));
  if (of.ablation) found.ablation = () => csv(["model", "label", "effect", "standard_error"], Object.entries(of.ablation.effects).map(([head, [effect, error]]) => [label, head, effect, error]));
  if (of.explanation) { records("verdicts", Object.values(of.explanation.heads)); records("paths", of.explanation.edges); }
  if (of.training) found.training = () => csv(["model", "step", "label", "score", "value"], Object.entries(of.training.heads).flatMap(([name, heads]) => of.training.steps.flatMap((step, at) => Array.from(row(heads.values, at, of), (x, i) => [label, step, of.names[i], name, Number.isNaN(x) ? null : Number(x.toPrecision(4))]))));
  return found;
}

function fillDownloads() {
  const of = model();
  byId("downloads").replaceChildren(...Object.entries(tables(of)).map(([name, make]) => element("button", { type: "button", "data-table": name, onclick: () => save(`${of.label.replace(/[^\w.-]+/g, "_")}_${name}.csv`, make()) }, `${name}.csv`)));
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const anchor = element("a", { href: url, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
