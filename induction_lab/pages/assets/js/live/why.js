// Why a head looks where it looks, by who wrote what it matches; and why a token is predicted, by what carries it.

function whyPanel(app) {
  const weight = element("div", { class: "why-weight" }), token = element("div", { class: "why-token" });
  const panel = element("section", { class: "card", "data-panel": "why" }, element("h2", { class: "word", "data-word": "why" }), element("div", { class: "two" }, weight, token));

  function bars(found, kind) {
    const shown = found.parts.slice(0, 8), n = found.parts.length - shown.length + found.others[0];
    const others = found.sum - shown.reduce((sum, [, x]) => sum + x, 0);
    const most = Math.max(1e-9, ...shown.map(([, x]) => Math.abs(x)), n ? Math.abs(others) : 0);
    const line = ([name, value]) => {
      const isHead = /^L\d+H\d+$/.test(name);
      const says = isHead ? element("a", { href: "#", onclick: (event) => { event.preventDefault(); app.set({ head: name }); } }, name) : name;
      return element("li", { "data-part": name, "data-value": value, class: value < 0 ? "negative" : null }, element("span", {}, says),
        element("span", { class: "bars" }, element("i", { style: `width:${((100 * Math.abs(value)) / most).toFixed(1)}%` })), element("span", { class: "numbers" }, signed(value, 2)));
    };
    const rest = n ? [line([app.say("rest", { n }), others])] : [];
    return element("ol", { class: "parts", "data-kind": kind }, ...shown.map(line), ...rest);
  }

  function fillWeight() {
    const { predict, why_weight: found } = app.found, query = app.position, key = app.key;
    if (!predict || key === null) return weight.replaceChildren();
    const title = element("h3", {}, app.say("whyWeight", { h: app.state.head, x: named(predict.tokens[query], query), y: named(predict.tokens[key], key) }));
    if (!found) return weight.replaceChildren(title);
    if (found.error) return weight.replaceChildren(title, element("p", { class: "quiet" }, found.error));
    weight.replaceChildren(title, element("p", { class: "quiet" }, app.say("whyWeightSays", { s: signed(found.k.sum, 2) })), element("h4", {}, app.say("inKey")), bars(found.k, "k"), element("h4", {}, app.say("inQuery")), bars(found.q, "q"));
  }

  function fillToken() {
    const { predict, why_token: found } = app.found;
    if (!predict) return;
    const title = element("h3", {}, app.say("whyToken", { x: named(app.tokenText), i: app.position }));
    if (!found) return token.replaceChildren(title);
    if (found.error) return token.replaceChildren(title, element("p", { class: "quiet" }, found.error));
    token.replaceChildren(title, element("p", { class: "quiet" }, app.say("whyTokenSays", { s: signed(found.sum, 2) })), bars(found, "token"));
  }

  return { element: panel, update(what) { if (["why_weight", "head"].includes(what)) fillWeight(); if (what === "why_token") fillToken(); } };
}
