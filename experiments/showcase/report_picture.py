"""What does the report look like? A picture of it for the README.

    python -m experiments report_picture --model smollm2-135m --head L18H6

Writes the report of the model, opens it in headless Chromium at 1440 pixels' width, chooses a head, and saves what is
seen to figures/report.png: headline, map and the head's page. About 2 minutes on 2 CPU cores for smollm2-135m.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from experiments.harness import show_files
from induction_lab import Explanation, load_model, write_report

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
TOKEN = 35


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        page = args.page or write_report(
            load_model(args.model),
            Path(folder) / "report.html",
            explanations={args.model: Explanation.load(args.explanation)} if args.explanation else None,
        )
        show_files([photograph(page, args.head, args.out / "report.png", args.chromium)])


def photograph(page: Path, head: str, path: Path, chromium: str) -> Path:
    """The map and one head's page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1440, "height": 1800}, color_scheme="light")
        tab.set_default_timeout(300_000)  # milliseconds, for a slow machine
        tab.goto(f"{page.resolve().as_uri()}#{head}")
        tab.wait_for_selector("body[data-state=ready]")
        tab.hover(f"#token-{TOKEN}")
        tab.evaluate("() => scrollTo({ top: 0, behavior: 'instant' })")
        tab.wait_for_timeout(300)
        last = tab.locator("#pattern-card").bounding_box()
        assert last is not None
        bottom = last["y"] + last["height"] + 12
        clip = {"x": 0, "y": 0, "width": 1440, "height": bottom}
        tab.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]
        browser.close()
    return path


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--head", default="L18H6")
    parser.add_argument("--explanation", type=Path, default=Path("figures/smollm2-135m_explained.json"))
    parser.add_argument("--page", type=Path, help="a report that is there already")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
