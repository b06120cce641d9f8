// A part of somebody else's page, such as a notebook: in a shadow root, so that neither styles the other; dark where the
// page around it is.

function framed(host, style) {
  const root = element("div");
  host.attachShadow({ mode: "open" }).append(element("style", {}, style), root);
  host.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's: keys that are pressed in here mean nothing there
  host.addEventListener("keydown", (event) => { if (!event.ctrlKey && !event.metaKey) event.stopPropagation(); });
  new ResizeObserver(() => follow(host)).observe(host); // notebooks fill elements before they show them
  return root;
}

// Whether text around it is light, which every notebook can be asked for, whatever it calls its themes.
function follow(host) {
  if (!host.isConnected || host.dataset.theme) return;
  const ink = /^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)/.exec(getComputedStyle(host.parentElement).color);
  if (ink) host.dataset.theme = 0.3 * ink[1] + 0.6 * ink[2] + 0.1 * ink[3] > 127 ? "dark" : "light";
}
