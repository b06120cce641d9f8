"""A real Chromium for the tests of pages, where there is one."""

import os
import shutil

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]


def settled(tab):
    """All of a report that was to be drawn is drawn."""
    tab.wait_for_selector("body[data-state=ready]")
    return tab


def click_cell(tab, layer, head, *, shape=(2, 4)):
    """A click in the middle of a head's cell."""
    tab.locator("#map-chart").scroll_into_view_if_needed()
    box = tab.locator("#map-chart .nsewdrag").first.bounding_box()
    tab.mouse.click(
        box["x"] + (head + 0.5) / shape[1] * box["width"], box["y"] + (layer + 0.5) / shape[0] * box["height"]
    )
    return settled(tab)


def in_sight(tab, place):
    """Whether something lies inside the window, and not under something else."""
    return tab.locator(place).evaluate("""(place) => {
      const box = place.getBoundingClientRect();
      const top = document.elementFromPoint(box.left + Math.min(20, box.width / 2), box.top + box.height / 2);
      return box.top >= 0 && box.bottom <= innerHeight && top !== null && (place === top || place.contains(top));
    }""")


def serious(tab):
    """What axe-core finds that is serious; skips where it is not installed."""
    import pytest

    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    tab.evaluate(axe.AXE_SCRIPT)
    found = tab.evaluate("() => axe.run().then((result) => result.violations)")
    return {
        each["id"]: [node["html"][:160] for node in each["nodes"][:4]]
        for each in found
        if each["impact"] in ("serious", "critical")
    }
