// Connects every control to what it changes, reads Plotly and draws the page.

function listen() {
  byId("score").addEventListener("change", (event) => setScore(event.target.value));
  byId("view").addEventListener("change", (event) => { state.view = event.target.value; later("map", drawMap); });
  if (byId("model")) byId("model").addEventListener("change", (event) => { setModel(Number(event.target.value)); location.hash = ours = address(state.head); });
  byId("map-chart").addEventListener("keydown", move);
  byId("table").parentElement.addEventListener("scroll", moreRows, { passive: true });
  byId("find").addEventListener("input", filterTable);
  byId("least").addEventListener("input", filterTable);
  byId("prompt").addEventListener("change", (event) => { state.prompt = event.target.value; state.token = null; drawAttention(); });
  for (const [id, name] of [["weighted", "weighted"], ["hide-first", "hideFirst"]]) byId(id).addEventListener("change", (event) => { state[name] = event.target.checked; drawAttention(); });
  byId("keep").addEventListener("click", keepHead);
  byId("close").addEventListener("click", closeHead);
  byId("head").addEventListener("keydown", (event) => { if (event.key === "Escape") closeHead(); });
  document.querySelector('nav a[href="#head"]').addEventListener("click", (event) => { event.preventDefault(); bring(); });
  const list = byId("tokens");
  list.addEventListener("keydown", moveToken);
  list.addEventListener("mouseover", (event) => { const at = event.target.dataset.token; if (at !== undefined) look(Number(at)); });
  list.addEventListener("click", (event) => { const at = event.target.dataset.token; if (at !== undefined) look(Number(at)); });
  byId("step").addEventListener("input", (event) => setStep(Number(event.target.value)));
  byId("final").addEventListener("click", () => setStep(null));
  byId("play").addEventListener("click", play);
  byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; drawAll(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.querySelectorAll(".to-head").forEach((anchor) => anchor.addEventListener("click", (event) => {
    event.preventDefault();
    const which = Number(anchor.dataset.model);
    go([which, indexOf(anchor.dataset.head, models[which])]);
  }));
  window.addEventListener("hashchange", () => {
    const found = location.hash === ours ? null : location.hash ? addressed(location.hash) : first;
    if (!found) return;
    ours = location.hash;
    go(found, "follow");
    if (!location.hash) closeHead(); // back to where none was chosen
  });
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar comes and goes
    width = innerWidth;
    drawAll();
  });
}

function start() {
  const code = document.createElement("script");
  code.textContent = byId("plotly").textContent;
  document.head.append(code);
  byId("plotly").remove();
  paint();
  listen();
  const found = addressed(location.hash);
  setModel(0);
  first = [0, state.head, null];
  if (found) go(found, "follow");
  ours = location.hash;
  drawAll();
  say();
}

// Two frames: what stands in the page is seen before Plotly is even read.
requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(start, 0)));
