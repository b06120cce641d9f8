// Where the chosen head stands: beside the maps where there is room, else on a sheet over them; and a second one, kept
// to compare it with.

const narrow = matchMedia("(max-width: 1099px)");
let cameFrom = null; // what had the focus before the sheet was opened

function bring(behavior = "auto") {
  const head = byId("head"), title = byId("head-title").getBoundingClientRect();
  if (!narrow.matches) {
    if (title.top < 0 || title.bottom > innerHeight) head.scrollIntoView({ behavior });
    return;
  }
  if (behavior === "instant") byId("map-chart").scrollIntoView({ behavior });
  if (!head.classList.contains("open")) cameFrom = document.activeElement;
  head.classList.add("open");
  byId("head-title").focus({ preventScroll: true });
}

function closeHead() {
  if (!byId("head").classList.contains("open")) return;
  byId("head").classList.remove("open");
  if (cameFrom && byId("head").contains(document.activeElement)) cameFrom.focus({ preventScroll: true });
}

// The chosen head is kept to be compared with those that are chosen next, or the kept one is let go.
function keepHead() {
  state.kept = state.kept === null ? state.head : null;
  choose(state.head, "replace");
}

const keptName = () => model().names[state.kept];
const compared = () => state.kept !== null && state.kept !== state.head;

function nameHead() {
  const of = model(), name = compared() ? `${of.names[state.head]} beside ${keptName()}` : of.names[state.head];
  byId("head-title").textContent = models.length > 1 ? `${name} of ${of.label}` : name;
  byId("keep").setAttribute("aria-pressed", String(state.kept !== null));
  byId("keep").textContent = state.kept === null ? "Compare" : compared() ? `Without ${keptName()}` : "Choose another head, or none";
}
