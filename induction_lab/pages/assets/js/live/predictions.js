// What comes after the chosen token: the likeliest next ones, with and without the changes; a click asks why.

function predictionsPanel(app) {
  const title = element("h2"), list = element("ol", { class: "next", role: "listbox", "aria-label": "Next tokens", tabindex: 0 });
  const live = element("p", { class: "hidden", "aria-live": "polite" });
  const panel = element("section", { class: "card", "data-panel": "predictions" }, title, list, live);

  function update() {
    const { predict } = app.found, at = app.position;
    if (!predict || !predict.whole.p[at]) return;
    title.textContent = app.say("after", { x: named(predict.tokens[at]), i: at });
    const comes = predict.ids[at + 1], rows = candidates(predict, at);
    list.replaceChildren(...rows.map((row) => option(row, comes)));
    live.textContent = rows.slice(0, 3).map((row) => `${named(row.text)} ${percent(row.p)}${row.changed === null ? "" : ` → ${percent(row.changed)}`}`).join(", ");
  }

  function option(row, comes) {
    const bars = element("span", { class: "bars" }, bar(row.p, "whole"), row.changed === null ? "" : bar(row.changed, "changed"));
    const numbers = element("span", { class: "numbers" }, percent(row.p), row.changed === null ? "" : ` → ${percent(row.changed)}`);
    const chosen = row.id === app.token;
    return element("li", { role: "option", "aria-selected": String(chosen), "data-id": row.id, "data-p": row.p, "data-changed": row.changed, class: chosen ? "chosen" : null, onclick: () => app.set({ token: row.id }) },
      element("span", { class: "what" }, row.text || "␣", row.id === comes ? element("i", { title: app.say("comes") }, " ✓") : ""), bars, numbers);
  }

  list.addEventListener("keydown", (event) => {
    const ids = [...list.children].map((each) => Number(each.dataset.id)), at = ids.indexOf(app.token);
    const to = { ArrowUp: at - 1, ArrowDown: at + 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (ids[to] !== undefined) app.set({ token: ids[to] });
  });
  return { element: panel, update(what) {
    if (what === "predict") panel.dataset.of = app.state.text;
    if (["predict", "state"].includes(what)) update();
  } };
}

const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)}%` : p >= 0.0005 ? `${(100 * p).toFixed(1)}%` : "< 0.1%");
const bar = (p, name) => element("i", { class: name, style: `width:${(100 * p).toFixed(2)}%` });

// The likeliest tokens of both, each with both probabilities.
function candidates(predict, at) {
  const { whole, changed } = predict;
  const rows = whole.ids[at].map((id, i) => ({ id, text: whole.likeliest[at][i], p: whole.p[at][i], changed: changed ? changed.p_of_whole[at][i] : null }));
  if (changed) changed.ids[at].slice(0, 4).forEach((id, i) => {
    if (!whole.ids[at].includes(id)) rows.push({ id, text: changed.likeliest[at][i], p: changed.whole_p[at][i], changed: changed.p[at][i] });
  });
  return rows.sort((a, b) => Math.max(b.p, b.changed || 0) - Math.max(a.p, a.changed || 0));
}
