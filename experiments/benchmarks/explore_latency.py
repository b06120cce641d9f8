"""How long does the live page take from a key press to new predictions, in a real browser?

    python -m experiments explore_latency [--models induction-2l smollm2-135m]

Serves the page, types one token more at the end of a text of a given length in headless Chromium, and measures on the
page's own clock until the predictions of the new text are on it: the median of 30, with quartiles. Beside it, in turn,
the plain forward pass over the same tokens in the same process, so that the ratio says what the page adds. Also the
time from opening the page to its first paint, the model being loaded. Writes explore.csv. About 3 minutes on 2 CPU
cores.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.harness import show_files
from experiments.showcase.report_picture import ARGUMENTS
from induction_lab import explore, load_model
from induction_lab.pages.live.scene import read_text

HERE = Path(__file__).parent
LENGTHS = {"induction-2l": 64, "smollm2-135m": 64}
WORDS = "river stone window yellow engine paper mountain seven doctor garden silver winter bottle music"
PRESSED = """([text]) => new Promise((done) => {
  const area = document.querySelector("textarea.typed"), panel = document.querySelector("[data-panel=predictions]");
  const start = performance.now();
  const watch = new MutationObserver(() => {
    if (panel.dataset.of !== text) return;
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - start));
  });
  watch.observe(panel, { attributes: true, subtree: true, childList: true });
  area.value = text;
  area.dispatchEvent(new Event("input"));
})"""


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    rows = [latency(name, args) for name in args.models]
    path = args.out / "explore.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    show_files([path])


def latency(name: str, args: argparse.Namespace) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    model = load_model(name)
    texts = list(growing(model, LENGTHS.get(name, 64), args.repeats + 1))
    served = explore(model, texts[0], browser=False, wait=False)
    pressed, plain = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=ARGUMENTS)
        tab = browser.new_page()
        tab.set_default_timeout(600_000)
        tab.goto(served.address)
        tab.wait_for_selector("#live[data-state=ready]")
        paint = tab.evaluate("() => performance.getEntriesByType('paint').map((each) => each.startTime).at(-1)")
        for text in texts[1:]:
            pressed.append(tab.evaluate(PRESSED, [text]))
            tab.wait_for_selector("#live[data-state=ready]")
            plain.append(plain_pass(model, text))
        browser.close()
    served.close()
    time_of, of_pass = pd.Series(pressed), pd.Series(plain)
    row = {
        "model": name,
        "tokens": LENGTHS.get(name, 64),
        "repeats": args.repeats,
        "median_ms": time_of.median(),
        "lower_quartile_ms": time_of.quantile(0.25),
        "upper_quartile_ms": time_of.quantile(0.75),
        "plain_pass_ms": of_pass.median(),
        "ratio": (time_of / of_pass).median(),
        "first_paint_ms": paint,
    }
    print(", ".join(f"{key} {value if isinstance(value, str) else round(value, 2)}" for key, value in row.items()))
    return row


def growing(model: Any, n_tokens: int, n_texts: int) -> Any:
    """Texts of about so many tokens, each with another last word: the one before them is typed on."""
    words = (WORDS if model.tokenizer is not None else " ".join(map(str, range(1, 15)))).split()
    start = [words[i % len(words)] for i in range(n_tokens - 2)]
    for i in range(n_texts):
        yield " ".join([*start, words[i % len(words)], *([words[i // len(words) % len(words)]] * (i >= len(words)))])


def plain_pass(model: Any, text: str) -> float:
    """Milliseconds of one forward pass over the same text."""
    prompt = read_text(model, text)
    start = time.perf_counter()
    with torch.inference_mode():
        model.logits(prompt.tokens)
    return 1000 * (time.perf_counter() - start)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
