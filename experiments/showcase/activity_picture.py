"""What does the page of heads on a text look like? A picture of it for the docs.

    python -m experiments activity_picture [--model smollm2-135m]

Measures a short text, writes the page, opens it in headless Chromium, holds a token that is copied, and saves what is
seen to figures/activity_page.png. About 1 minute on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from experiments.harness import begin, common_arguments, show_files
from experiments.showcase.report_picture import ARGUMENTS
from induction_lab import induction_activity, load_model, write_activity

TEXT = (
    "The lighthouse at Marlow Point was kept by Agnes Tolliver and her brother Edwin. Every evening Agnes Tolliver "
    "climbed the hundred and twelve steps, and every evening Edwin wrote in the green ledger what the wind had done."
    "\n\nOne winter the wind took the roof of the boathouse. Edwin wrote in the green ledger: the wind took the roof. "
    "Agnes climbed the hundred and twelve steps, lit the lamp of Marlow Point, and said nothing. Agnes Tolliver and "
    "her brother Edwin slept badly; the lighthouse did not."
)
HELD = "liver"  # its last occurrence


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    with tempfile.TemporaryDirectory() as folder:
        page = write_activity(induction_activity(load_model(args.model), TEXT), Path(folder) / "text.html")
        show_files([photograph(page, args.out / "activity_page.png", args.chromium)])


def photograph(page: Path, path: Path, chromium: str) -> Path:
    """The page with one token held."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1200, "height": 620}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("body[data-state=ready]")
        tab.locator(".token", has_text=HELD).last.click()
        tab.mouse.move(0, 0)
        tab.screenshot(path=path)
        browser.close()
    return path


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="name, id or folder")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
