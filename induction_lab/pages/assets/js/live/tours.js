// Guided tours: a few steps, each a sentence and a state of the page. What a tour needs is said where it is not there.

function toursPanel(app) {
  const menu = element("div", { class: "controls tour-menu" }), stage = element("div", { class: "tour", hidden: "", "aria-live": "polite" });
  const panel = element("section", { class: "card tours", "data-panel": "tours" }, element("h2", { class: "word", "data-word": "tours" }), menu, stage);

  const modelOf = (tour) => {
    const { data, state, facts } = app;
    if (tour.needs === "text") return facts && facts.reads_text ? state.model : data.models.find((name) => data.reads_text.includes(name));
    if (tour.needs === "run") return Object.keys(data.checkpoints).length ? Object.values(data.checkpoints)[0].at(-1)[1] : undefined;
    return data.models.includes(tour.needs) ? tour.needs : undefined;
  };

  function fillMenu() {
    const lang = app.state.language;
    menu.replaceChildren(...app.data.tours.map((tour) => {
      const there = modelOf(tour) !== undefined;
      const word = { run: "needsRun", text: "needsText" }[tour.needs] || "needsModel";
      const why = there ? null : `${app.say(word)} ${tour.start}`;
      return element("button", { type: "button", "data-tour": tour.id, class: there ? "" : "quiet", title: why, onclick: () => (there ? go(tour, 0) : tell(tour, why)) }, tour.title[lang]);
    }));
  }

  function tell(tour, why) {
    stage.hidden = false;
    stage.replaceChildren(element("p", {}, `${tour.title[app.state.language]}: ${why}`));
  }

  async function go(tour, at) {
    const step = tour.step[at], fresh = at === 0 ? { ...FRESH, model: modelOf(tour) } : {};
    const changes = { ...fresh, ...step.set, tour: [tour.id, at] };
    if (step.last) changes.model = Object.values(app.data.checkpoints)[0].at(-1)[1];
    if (step.first) changes.model = Object.values(app.data.checkpoints)[0][0][1];
    if ("text" in changes) app.texts.set(changes.text);
    await app.set(changes);
    if (step.show) {
      const place = app.root.querySelector(`[data-panel=${step.show}]`);
      app.root.querySelectorAll(".shown").forEach((each) => each.classList.remove("shown"));
      place.classList.add("shown");
      place.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
  }

  function fillStage() {
    const now = app.state.tour;
    stage.hidden = !now;
    if (!now) { app.root.querySelectorAll(".shown").forEach((each) => each.classList.remove("shown")); return; }
    const tour = app.data.tours.find((each) => each.id === now[0]), at = now[1];
    if (!tour || !tour.step[at]) { stage.hidden = true; return; }
    const button = (word, act, hidden) => (hidden ? "" : element("button", { type: "button", class: word, onclick: act }, app.say(word)));
    stage.replaceChildren(element("p", { class: "quiet" }, `${tour.title[app.state.language]} · ${at + 1} / ${tour.step.length}`), element("p", { class: "lead" }, tour.step[at].say[app.state.language]),
      element("div", { class: "controls" }, button("previousStep", () => go(tour, at - 1), at === 0), button("next", () => go(tour, at + 1), at === tour.step.length - 1), button("end", () => app.set({ tour: null }))));
  }

  return { element: panel, update(what) { if (["facts", "state"].includes(what)) { fillMenu(); fillStage(); } } };
}
