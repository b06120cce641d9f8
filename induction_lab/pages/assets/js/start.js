// Connects every control to what it changes, reads Plotly and draws the page.

function listen() {
  byId("score").addEventListener("change", (event) => setScore(event.target.value));
  byId("view").addEventListener("change", (event) => { state.view = event.target.value; byId("map").querySelector(".map-grid").classList.toggle("all", state.view === "all"); later("map", drawMap); });
  if (byId("model")) byId("model").addEventListener("change", (event) => { setModel(Number(event.target.value)); location.hash = ours = address(state.head); });
  byId("map-chart").addEventListener("keydown", move);
  byId("table").parentElement.addEventListener("scroll", moreRows, { passive: true });
  byId("find").addEventListener("input", filterTable);
  byId("least").addEventListener("input", filterTable);
  byId("prompt").addEventListener("change", (event) => { state.prompt = event.target.value; state.token = null; drawAttention(); });
  byId("weighted").addEventListener("change", (event) => { state.weighted = event.target.checked; look(state.token); later("pattern", drawPattern); });
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
    go(Number(anchor.dataset.model), indexOf(anchor.dataset.head, models[Number(anchor.dataset.model)]));
    byId("head").scrollIntoView();
  }));
  window.addEventListener("hashchange", () => {
    const found = location.hash === ours ? null : location.hash ? addressed(location.hash) : first;
    if (found) { ours = location.hash; go(found[0], found[1], "follow"); }
  });
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar comes and goes
    width = innerWidth;
    if (state.token !== null && !byId("attention").hidden) look(state.token);
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
  first = [0, state.head];
  if (found) go(found[0], found[1], "follow");
  ours = location.hash;
  drawAll();
  say();
}

// Two frames: what stands in the page is seen before Plotly is even read.
requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(start, 0)));
