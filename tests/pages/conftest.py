"""Reports that are opened in a real Chromium."""

import pytest
from browsers import ARGUMENTS, CHROMIUM, settled
from live_pages import TEXT
from pages import hostile_model, trajectory

from induction_lab import explore, write_report


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def served(bundled):
    page = explore(bundled, TEXT, browser=False, wait=False)
    yield page
    page.close()


@pytest.fixture(scope="module")
def single(bundled, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "single.html"
    return write_report(bundled, path, period=20, n_prompts=6, trajectories={bundled.name: trajectory(bundled.name)})


@pytest.fixture(scope="module")
def several(bundled, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "several.html"
    return write_report([bundled, hostile_model()], path, period=20, n_prompts=3, ablate=False)


@pytest.fixture
def open_page(browser):
    """Open a file; afterwards nothing may have been fetched and nothing complained about."""
    contexts, faults = [], []

    def opened(path, *, fragment="", width=1440, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(90_000)
        tab.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", fetched)
        tab.goto(path.as_uri() + fragment)
        return settled(tab)

    def fetched(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            faults.append(request.url)

    yield opened
    for context in contexts:
        context.close()
    assert not faults
