"""What does the live page look like? A picture of it for the README.

    python -m experiments explore_picture --model smollm2-135m

Serves the page (`induction-lab explore`) on this machine, opens it in headless Chromium at 1440 pixels' width, knocks
the induction heads out, and saves what is seen to figures/explore.png. A minute on 2 CPU cores for smollm2-135m.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from experiments.harness import show_files
from experiments.showcase.report_picture import ARGUMENTS
from induction_lab import explore

TEXT = "Her friend Harry Zorbin met Hermione. Everybody at school knew Harry"
WAIT = 600_000  # milliseconds, for the first answers on a slow machine


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    served = explore(args.model, args.text, browser=False, wait=False)
    try:
        show_files([photograph(served.address, args.head, args.out / "explore.png", args.chromium)])
    finally:
        served.close()


def photograph(address: str, head: str, path: Path, chromium: str) -> Path:
    """The page with the induction heads knocked out, one of them looked at."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1440, "height": 1000}, color_scheme="light")
        tab.set_default_timeout(WAIT)
        tab.goto(address)
        tab.click("[data-kind=induction]")
        tab.click(f"b[data-head={head}]")
        tab.select_option("[data-panel=text] select", "difference")
        settled(tab)
        tab.locator("[data-panel=predictions] li", has_text="Z").click()
        settled(tab)
        tab.screenshot(path=path, full_page=True)
        browser.close()
    return path


def settled(tab: Any) -> None:
    """Wait for all answers to the last click."""
    tab.wait_for_timeout(300)
    tab.wait_for_selector("#live[data-state=ready]")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--head", default="L18H6")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
