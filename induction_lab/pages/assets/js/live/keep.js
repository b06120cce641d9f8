// What is on the page as an address that brings it back, as lines of Python that do the same, and as a static report.

const KEPT_STATE = ["model", "text", "heads", "position", "token", "head", "key", "mode", "language", "hideBos", "shade"];

function keepPanel(app) {
  const says = element("p", { class: "quiet kept", "aria-live": "polite" });
  const button = (word, act) => element("button", { type: "button", class: `word ${word}`, "data-word": word, onclick: act });
  const lines = element("pre", { class: "python-lines", tabindex: 0, role: "region", "aria-label": "Python", hidden: "" }, element("code"));
  const report = button("report", save);
  const panel = element("section", { class: "card", "data-panel": "keep" }, element("h2", { class: "word", "data-word": "keep" }),
    element("div", { class: "controls" }, app.data.follows_address ? button("link", () => copy(location.href)) : "", button("python", () => { const text = pythonOf(app); lines.hidden = false; lines.firstChild.textContent = text; copy(text); }), app.data.can_report ? report : ""), says, lines);

  async function copy(text) {
    try { await navigator.clipboard.writeText(text); says.textContent = app.say("copied"); } catch { says.textContent = text; }
  }

  async function save() {
    report.disabled = true;
    says.textContent = app.say("busy");
    try {
      const { html } = await app.host.ask("report", { model: app.state.model, text: app.state.text });
      const link = element("a", { href: URL.createObjectURL(new Blob([html], { type: "text/html" })), download: "report.html" });
      link.click();
      says.textContent = "";
    } catch (error) { says.textContent = error.message; }
    report.disabled = false;
  }

  return { element: panel, update() {} };
}

function packState(state) {
  const kept = Object.fromEntries(KEPT_STATE.map((name) => [name, state[name]]));
  const bytes = new TextEncoder().encode(JSON.stringify(kept));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

// The state that an address holds; null where it holds none. Whatever it says goes through the same checks as a click.
function unpackState(hash, data) {
  try {
    const bytes = Uint8Array.from(atob(hash.replace(/^#/, "").replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const given = JSON.parse(new TextDecoder().decode(bytes)), found = {};
    for (const name of KEPT_STATE) if (name in given) found[name] = given[name];
    if (!data.models.includes(found.model)) delete found.model;
    if (!(found.language in WORDS)) delete found.language;
    return typeof found.text === "string" && found.heads && typeof found.heads === "object" ? found : null;
  } catch { return null; }
}

const quoted = (text) => JSON.stringify(text);

function pythonOf(app) {
  const { heads, text } = app.state, groups = new Map(), { predict } = app.found;
  for (const head of Object.keys(heads).sort((a, b) => order(a) - order(b))) groups.set(String(heads[head]), [...(groups.get(String(heads[head])) || []), head]);
  const names = new Set(["Prompts", ...app.facts.load.replace(/'[^']*'|"[^"]*"/g, "").matchAll(/(?<!\.)\b\w+(?=\()/g)].map(String)), inside = [], before = [];
  for (const [how, several] of groups) {
    const list = `[${several.map(quoted).join(", ")}]`;
    if (Number.isFinite(Number(how))) { names.add("scale_heads"); inside.push(`scale_heads(model, ${list}, ${how})`); continue; }
    names.add("ablate");
    if (how === "mean") {
      ["distinct_tokens", "mean_outputs"].forEach((name) => names.add(name));
      before.push(`means = mean_outputs(model, distinct_tokens(model, n_prompts=${app.facts.reference}, length=${app.n - 1}))`);
    }
    inside.push(`ablate(model, ${list}, method=${quoted(how)}${how === "mean" ? ", reference=means" : ""})`);
  }
  const after = `model.logits(prompt.tokens)[0, ${app.position}].softmax(-1)`;
  const lines = ["import torch", `from induction_lab import ${[...names].sort().join(", ")}`, "", `model = ${app.facts.load}`,
    `prompt = Prompts(torch.tensor([${JSON.stringify(predict.ids)}]))  # ${quoted(text)}`, ...before, `whole = ${after}`];
  if (inside.length) lines.push(`with ${inside.join(", ")}:`, `    changed = ${after}`);
  lines.push(`print(${inside.length ? "changed" : "whole"}.topk(6))`);
  return lines.join("\n");
}
