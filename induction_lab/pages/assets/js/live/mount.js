// The page put together: a head line, panels in two columns, words in the chosen language.

function mountLive(root, data, host) {
  const app = new Explorer(data, host);
  app.root = root;
  root.classList.add("live");
  root.dataset.state = "loading";
  const restored = data.follows_address ? unpackState(location.hash, data) : null;
  if (restored) Object.assign(app.state, restored);

  const model = element("select", { "aria-label": "Model", onchange: () => app.set({ model: model.value, heads: {}, head: null, position: null, token: null, key: null, text: "" }) }, ...data.models.map((name) => element("option", { value: name }, name)));
  const language = element("button", { type: "button", class: "word language", "data-word": "language", onclick: () => app.set({ language: app.state.language === "en" ? "zh" : "en" }) });
  const theme = element("button", { type: "button", class: "word", "data-word": "theme", onclick: toggleTheme });
  const runs = Object.entries(data.checkpoints || {}), slider = checkpointSlider(runs);
  const fault = element("p", { class: "note fault", role: "alert", hidden: "" });
  const text = textPanel(app);
  app.texts = text;
  const left = [text, predictionsPanel(app), oneHeadPanel(app), whyPanel(app)], right = [headsPanel(app), changesPanel(app), toursPanel(app), keepPanel(app)];
  root.replaceChildren(
    element("header", { class: "live-top" }, element("p", { class: "brand" }, "induction", element("span", {}, "_lab")), element("label", {}, element("span", { class: "word", "data-word": "model" }), model), slider, element("span", { class: "busy", "aria-hidden": "true" }), language, theme),
    fault,
    element("div", { class: "live-columns" }, element("div", { class: "column" }, ...left.map((panel) => app.listen(panel))), element("div", { class: "column" }, ...right.map((panel) => app.listen(panel)))));

  function toggleTheme() {
    const themed = root.getRootNode().host || document.documentElement; // where the style says `:host` or `:root`
    const dark = themed.dataset.theme ? themed.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    themed.dataset.theme = dark ? "light" : "dark";
    theme.setAttribute("aria-pressed", String(!dark));
    app.tell("head");
  }

  function checkpointSlider(runs) {
    if (!runs.length) return "";
    const [, steps] = runs[0], says = element("output"), label = element("label", { class: "checkpoints" }), range = element("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, oninput: () => app.set({ model: steps[Number(range.value)][1] }) });
    label.append(element("span", { class: "word", "data-word": "checkpoint" }), range, says);
    app.panels.push({ element: null, update(what) {
      const at = steps.findIndex(([, name]) => name === app.state.model);
      if (what === "state" || what === "facts") { label.hidden = at < 0; if (at >= 0) range.value = at; says.textContent = at >= 0 ? app.say("step", { n: steps[at][0].toLocaleString("en") }) : "–"; }
    } });
    return label;
  }

  let shown = "";
  app.panels.push({ element: null, update(what) {
    model.value = app.state.model;
    if (app.state.language === shown || (what !== "state" && what !== "facts")) return;
    shown = app.state.language;
    root.lang = shown === "zh" ? "zh-CN" : "en";
    root.querySelectorAll(".word").forEach((each) => { each.textContent = app.say(each.dataset.word); });
    for (const answer of Object.keys(app.found)) for (const panel of app.panels) if (panel.element) panel.update(answer);
  } });

  if (data.follows_address) {
    let ours = "";
    app.keep = () => { ours = `#${packState(app.state)}`; history.replaceState(null, "", ours); };
    addEventListener("hashchange", () => {
      const given = location.hash === ours ? null : unpackState(location.hash, data);
      if (given) { text.set(given.text); app.set(given); }
    });
  }
  app.tell("state");
  app.begin();
  return app;
}
