// The atlas: figures as dark as the page, and a click on a head that opens its model's report there.
(() => {
"use strict";

const figures = document.querySelectorAll(".js-plotly-plot"), root = document.documentElement, button = document.getElementById("theme");
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);

function paint() {
  const of = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  button.setAttribute("aria-pressed", String(dark()));
  for (const figure of figures) {
    const change = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": of("ink") };
    for (const axis of Object.keys(figure.layout).filter((name) => /^[xy]axis/.test(name))) {
      for (const line of ["gridcolor", "zerolinecolor", "linecolor"]) change[`${axis}.${line}`] = of("line");
    }
    window.Plotly.relayout(figure, change);
  }
}

// `meta` of a trace is the report's address, of a point `customdata` its head.
for (const figure of figures) {
  figure.on("plotly_click", ({ points: [point] }) => {
    if (point.data.meta) location.href = `${point.data.meta}#${point.customdata}`;
  });
}
button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; paint(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paint();
})();
