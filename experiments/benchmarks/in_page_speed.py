"""How fast does the bundled model predict inside a page, with no server, in headless Chromium?

    python -m experiments in_page_speed --chromium /usr/bin/chromium

Prints milliseconds of `predict` on 128 tokens, median and greatest of 30: a token typed at the end, where the places
before it are known from the call before, and one changed at the start, where nothing is; without and with changed
heads, which is a run each of the model as it is and as it is changed. Under 1 minute.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import pandas as pd

from induction_lab import load_model
from induction_lab.pages.html import FOLDER
from induction_lab.pages.live.answers import LiveModel
from induction_lab.pages.live.in_page import packed_model

TOKENS = 128
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
TIMED = """([data, texts, heads]) => {
  const small = new SmallModel(data);
  return texts.map((text) => {
    const start = performance.now();
    small.answer("predict", { text, heads });
    return performance.now() - start;
  });
}"""


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model = load_model()
    data, scripts = packed_model(LiveModel(model)), ("live/small_network", "live/small_model")
    code = "\n".join((FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8") for name in scripts)
    rows = []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=ARGUMENTS)
        tab = browser.new_page()
        tab.evaluate(f"(() => {{ {code}\nglobalThis.SmallModel = SmallModel; }})()")
        for where, place in (("typed at the end", TOKENS - 2), ("changed at the start", 0)):
            for what, heads in (("no head", {}), ("three heads", dict.fromkeys(["L0H2", "L0H3", "L1H0"], "mean"))):
                took = tab.evaluate(TIMED, [data, texts(place, args.turns + 1, model.d_vocab), heads])[1:]
                rows.append((where, what, statistics.median(took), max(took)))
        browser.close()
    table = pd.DataFrame(rows, columns=["token", "changed", "median, ms", "greatest, ms"])
    print(table.round(1).to_string(index=False))


def texts(place: int, n: int, d_vocab: int) -> list[str]:
    """Texts of 127 tokens, BOS to come, that differ in the token at one place."""
    tokens = [1 + i * 37 % (d_vocab - 1) for i in range(TOKENS - 1)]
    return [" ".join(map(str, [*tokens[:place], 1 + i, *tokens[place + 1 :]])) for i in range(n)]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
