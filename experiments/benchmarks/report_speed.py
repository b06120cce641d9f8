"""How large is a report, what does writing it cost beside the measuring, and how fast is it in a browser?

    python -m experiments report_speed --model smollm2-135m --chromium /usr/bin/chromium

Writes experiments/benchmarks/report.csv: the file's size; seconds of the computations in it, one public call after
another, and of `write_report` as a whole, three rounds in turn; in headless Chromium the first paint, and for each
interaction the milliseconds from the event to the frame in which all in sight that it changes is drawn, and all that
it changes (median, greatest). About 5 minutes for smollm2-135m on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from induction_lab import (
    HookedModel,
    ablation_sweep,
    capture,
    composition_scores,
    find_circuit,
    lag_profile,
    load_model,
    ov_eigenvalues,
    repeated_tokens,
    score_heads,
    text_prompts,
    write_report,
)
from induction_lab.pages.head_views import worth_showing
from induction_lab.pages.panel_measurements import ABLATION_PROMPTS, REFERENCE_PROMPTS, SHORT_PERIOD, TEXT, TEXT_TOKENS
from induction_lab.scores.profiles import attention_profiles

ROUNDS = 3
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
# Each: what is done, as a function in the page; it returns when the last panel is drawn, in milliseconds.
TIMED = """async ([action, turn]) => {
  const byId = (id) => document.getElementById(id);
  const names = [...document.querySelectorAll("#table tbody tr")].map((row) => row.firstChild.textContent);
  const key = (place, name) => place.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const change = (place, value, event) => { place.value = value; place.dispatchEvent(new Event(event, { bubbles: true })); };
  const actions = {
    "click a head": () => document.querySelectorAll("#table tbody tr")[(turn * 7) % Math.min(20, names.length)].click(),
    "arrow key on the map": () => key(byId("map-chart"), turn % 2 ? "ArrowLeft" : "ArrowRight"),
    "change the score": () => change(byId("score"), byId("score").options[(turn + 1) % byId("score").options.length].value, "change"),
    "sort the table": () => document.querySelectorAll("#table th button")[1 + (turn % 5)].click(),
    "filter the table": () => change(byId("find"), turn % 2 ? "" : "L1", "input"),
    "text or repeated prompt": () => document.querySelectorAll("#prompt input")[(turn + 1) % document.querySelectorAll("#prompt input").length].click(),
    "weigh by values": () => byId("weighted").click(),
    "arrow key on a token": () => key(byId("tokens"), turn % 2 ? "ArrowRight" : "ArrowLeft"),
    "slider over checkpoints": () => change(byId("step"), (turn * 3) % (Number(byId("step").max) + 1), "input"),
  };
  const start = performance.now();
  actions[action]();
  let seen = null;
  return new Promise((resolve) => {
    const look = () => {
      const state = document.body.dataset.state;
      if (state !== "busy") seen ??= performance.now() - start;
      if (state === "ready") resolve([seen, performance.now() - start]);
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
}"""  # noqa: E501
ACTIONS = ["click a head", "arrow key on the map", "change the score", "sort the table", "filter the table"]
ON_HEAD = dict.fromkeys(["text or repeated prompt", "weigh by values", "arrow key on a token"], "#head")
ACTIONS += ["text or repeated prompt", "weigh by values", "arrow key on a token", "slider over checkpoints"]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        rows = [] if args.page else cost(load_model(args.model), path)
        page = args.page or path
        name = args.page.stem if args.page else args.model
        rows += [("file, MB", page.stat().st_size / 1e6, None)]
        rows += in_browser(page, args.chromium, args.turns)
    table = pd.DataFrame(rows, columns=["what", "median", "greatest"]).assign(report=name)
    print(table.round(3).to_string(index=False))
    before = pd.read_csv(args.out) if args.out.exists() else table.iloc[:0]
    kept: Any = before.loc[before["report"] != name]
    pd.concat([kept, table.round(4)] if len(kept) else [table.round(4)]).to_csv(args.out, index=False)


def cost(model: HookedModel, path: Path) -> list[tuple[str, float, float | None]]:
    """Seconds of the computations alone, call by call, and of the report with the same, in turn."""
    measure(model)  # once before: imports, caches
    alone, whole = zip(
        *[(timed(lambda: measure(model)), timed(lambda: write_report(model, path))) for _ in range(ROUNDS)], strict=True
    )
    ratios = [b / a for a, b in zip(alone, whole, strict=True)]
    named = {"computations, s": alone, "write_report, s": whole, "ratio": ratios}
    return [(what, statistics.median(values), max(values)) for what, values in named.items()]


def measure(model: HookedModel) -> None:
    """What a report shows, by the public calls."""
    prompts = repeated_tokens(model)
    scores = score_heads(model, prompts, chance_test=True)
    lag_profile(model, prompts)
    attention_profiles(model, prompts)
    ov_eigenvalues(model)
    for kind in "KQV":
        composition_scores(model, kind)
    find_circuit(model, prompts, scores=scores)
    heads = [str(head) for head in worth_showing(scores)]
    capture(model, repeated_tokens(model, n_prompts=1, period=SHORT_PERIOD), ["pattern", "v"], heads=heads)
    if model.tokenizer is not None:
        capture(model, text_prompts(model, TEXT, n_prompts=1, length=TEXT_TOKENS), ["pattern", "v"], heads=heads)
    others = repeated_tokens(model, n_prompts=REFERENCE_PROMPTS, seed=1)
    ablation_sweep(model, repeated_tokens(model, n_prompts=ABLATION_PROMPTS), heads=heads, reference=others)


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_browser(path: Path, chromium: Path, turns: int) -> list[tuple[str, float, float | None]]:
    """First paint, all drawn, and each interaction, in milliseconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        paints, drawn = [], []
        for _ in range(max(3, turns // 3)):
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            start = time.perf_counter()
            tab.goto(path.resolve().as_uri(), wait_until="commit")
            tab.wait_for_selector("body[data-state=ready]")
            drawn.append(1000 * (time.perf_counter() - start))
            entries = "() => performance.getEntriesByName('first-contentful-paint').map((x) => x.startTime)"
            paints += tab.evaluate(entries)
            tab.close()
        rows = [("first contentful paint, ms", statistics.median(paints), max(paints))]
        rows.append(("all drawn, ms", statistics.median(drawn), max(drawn)))
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(path.resolve().as_uri())
        tab.wait_for_selector("body[data-state=ready]")
        for action in ACTIONS:
            if action.startswith("slider") and tab.locator("#checkpoints").is_hidden():
                continue
            if action.startswith("text") and tab.locator("#prompt input").count() < 2:
                continue
            place = ON_HEAD.get(action, "#map")
            tab.evaluate("(place) => document.querySelector(place).scrollIntoView({ behavior: 'instant' })", place)
            took = [tab.evaluate(TIMED, [action, turn]) for turn in range(turns + 1)][1:]
            for what, times in zip(("in sight", "all"), zip(*took, strict=True), strict=True):
                rows.append((f"{action}: {what}, ms", statistics.median(times), max(times)))
        browser.close()
    return rows


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="induction-2l")
    parser.add_argument("--page", type=Path, help="a report that is there already: only the browser is timed")
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "report.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
