"""The atlas in a real browser: in the report's look, and a click on a head opens its report there."""

import pytest
from browsers import CHROMIUM, in_sight, serious

from induction_lab import load_sweep, sweep, write_atlas, write_report
from induction_lab.pages.atlas import reports_in

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "all"
    models = ["induction-2l", {"name": "induction-2l", "label": "<b>another</b>"}]
    plan = {"models": models, "prompts": {"short": {"period": 12, "n_prompts": 2}}, "device": "cpu"}
    sweep({**plan, "measurements": {"head_scores": {"scores": ["prefix_matching"]}}}, folder)
    return load_sweep(folder)


@pytest.fixture(scope="module")
def atlas(frame, bundled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    (folder / "all of them").mkdir()
    write_report(bundled, folder / "all of them" / "of 2l.html", period=12, n_prompts=2, ablate=False)
    found = reports_in(folder / "all of them", set(frame["model"]))
    return write_atlas(frame, folder / "atlas.html", reports=found)


def click_head(tab, model, layer, head):
    """In the map of a model, counted from 0."""
    box = tab.locator("#figure-0 .nsewdrag").nth(model).bounding_box()
    tab.mouse.click(box["x"] + (head + 0.5) / 4 * box["width"], box["y"] + (layer + 0.5) / 2 * box["height"])


def opened(browser, path, **how):
    faults = []
    tab = browser.new_context(**how).new_page()
    tab.set_default_timeout(120_000)
    tab.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else faults.append(asked.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#theme[aria-pressed]")
    return tab, faults


def test_a_click_on_a_head_opens_its_report_there_and_the_table_links_too(browser, atlas):
    tab, faults = opened(browser, atlas, viewport={"width": 1440, "height": 900})
    assert tab.locator("#figure-0 .annotation-text").all_text_contents() == ["<b>another</b>", "induction-2l"]
    assert tab.locator("#numbers a").all_inner_texts() == ["induction-2l"]
    click_head(tab, 0, 1, 2)  # this one has no report
    click_head(tab, 1, 1, 2)
    tab.wait_for_url("**/of%202l.html#L1H2")
    tab.wait_for_selector("body[data-state=ready]")
    assert tab.inner_text("#head-title") == "L1H2" and in_sight(tab, "#head-title")
    tab.go_back()
    tab.click("#numbers a")
    tab.wait_for_url("**/of%202l.html")
    assert not faults


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light"), (1440, "dark")])
def test_it_is_as_dark_as_the_system_and_axe_finds_nothing_serious(browser, atlas, width, scheme):
    tab, faults = opened(browser, atlas, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
    assert serious(tab) == {}
    colours = "() => [document.body, document.querySelector('.xtick text')].map((one) => [getComputedStyle(one).backgroundColor, getComputedStyle(one).fill])"  # noqa: E501
    before = tab.evaluate(colours)
    tab.click("#theme")
    tab.wait_for_function("() => document.documentElement.dataset.theme")
    after = tab.evaluate(colours)
    assert before[0][0] != after[0][0] and before[1][1] != after[1][1]
    assert not faults


def test_reports_of_other_models_are_refused(frame, tmp_path):
    with pytest.raises(ValueError, match="holds no report of <b>another</b>, induction-2l: induction-lab report"):
        reports_in(tmp_path, set(frame["model"]))
    with pytest.raises(ValueError, match="There is a report of gpt2; the sweep is of <b>another</b>, induction-2l"):
        write_atlas(frame, tmp_path / "atlas.html", reports={"gpt2": "x.html"})
    assert not list(tmp_path.iterdir())
