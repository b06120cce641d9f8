(() => {
"use strict";
const { looks, tokens } = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text"), panel = document.getElementById("panel");
const spans = [...text.querySelectorAll(".token")];
let held = null, shown = null;

const made = (tag, words, name) => {
  const element = document.createElement(tag);
  element.textContent = words;
  if (name) element.className = name;
  return element;
};
const visible = (words) => words.replace(/^ /, "␣") || "∅";
const per_cent = (value) => value === null ? "–" : value > 0 && value < 0.001 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`;
const signed = (value) => value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function how(token) {
  if (token.nats === null) return "The first token: nothing predicts it.";
  const p = per_cent(Math.exp(token.log_p)), without = per_cent(Math.exp(token.without));
  const chance = token.others === null ? "" : ` As many random heads: ${signed(token.others)} on average, ${signed(token.most)} at most.`;
  return `Probability ${p}; without these heads ${without}: ${signed(token.nats)} nats by them.${chance}`;
}

function row(head) {
  const line = document.createElement("tr");
  if (head.attention >= looks) line.className = "awake";
  const where = head.at === null ? "–" : `${visible(tokens[head.at].text)} (${head.at})`;
  line.append(made("td", head.label), made("td", per_cent(head.attention)), made("td", where, "where"));
  line.append(made("td", signed(head.logit)));
  return line;
}

function show(i) {
  if (i === shown) return;
  shown = i;
  const token = tokens[i], heads = [...token.heads].sort((a, b) => b.attention - a.attention);
  for (const span of spans) span.classList.remove("shown", "source");
  spans[i].classList.add("shown");
  for (const head of heads) if (head.at !== null && head.attention >= looks) spans[head.at].classList.add("source");
  const parts = [made("h2", visible(token.text)), made("p", how(token))];
  if (heads.length) {
    const rows = made("div", "", "rows"), table = document.createElement("table"), top = document.createElement("tr");
    for (const [words, name] of [["head", ""], ["attention", ""], ["to", "where"], ["logit", ""]]) top.append(made("th", words, name));
    table.append(top, ...heads.map(row));
    rows.append(table);
    parts.push(rows, made("p", `Attention to what followed earlier occurrences of the token before, and the position attended to most; bold from ${looks} on. What the head adds to this token's logit.`, "quiet"));
  }
  panel.replaceChildren(...parts);
}

const index = (event) => {
  const span = event.target.closest?.(".token");
  return span ? Number(span.dataset.i) : null;
};
text.addEventListener("pointerover", (event) => {
  const i = index(event);
  if (i !== null && held === null) show(i);
});
text.addEventListener("click", (event) => {
  const i = index(event);
  if (i === null) return;
  held = held === i ? null : i;
  show(i);
});
text.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  held = Math.min(spans.length - 1, Math.max(0, (shown ?? -step) + step));
  show(held);
  spans[held].scrollIntoView({ block: "nearest" });
});
document.body.dataset.state = "ready";
})();
