"""The report as a place: the chosen head is in sight, is linked to, is compared; in a real browser."""

import re

import pytest
from browsers import CHROMIUM, click_cell, in_sight, serious, settled

from induction_lab import capture, classify_heads, repeated_tokens, score_heads
from induction_lab.pages.panel_measurements import QUICK_KINDS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")
PHONE = 390


def test_a_click_on_any_map_brings_the_head_into_sight_beside_it(open_page, single):
    tab = open_page(single)
    click_cell(tab, 0, 3)
    assert tab.inner_text("#head-title") == "L0H3" and in_sight(tab, "#head-title")
    sides = [tab.locator(place).bounding_box() for place in ("#map-chart", "#head")]
    assert sides[0]["x"] + sides[0]["width"] < sides[1]["x"]
    tab.locator("#kinds-map b[title^=L1H1]").click()
    assert tab.inner_text("#head-title") == "L1H1" and in_sight(tab, "#head-title")
    tab.locator("#circuit summary").click()
    tab.locator("#edges a").last.click()
    assert in_sight(tab, "#head-title")
    tab.evaluate("() => scrollTo({ top: 0, behavior: 'instant' })")
    tab.click("#headline .to-head >> nth=0")
    tab.wait_for_function("() => document.getElementById('head-title').getBoundingClientRect().bottom < innerHeight")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_head_is_a_sheet_that_opens_and_closes(open_page, single, scheme):
    tab = open_page(single, width=PHONE, scheme=scheme)
    assert tab.locator("#head-title").is_hidden()
    click_cell(tab, 0, 3)
    tab.wait_for_timeout(300)
    assert in_sight(tab, "#head-title") and in_sight(tab, "#close")
    assert serious(tab) == {} and tab.evaluate("() => document.documentElement.scrollWidth") <= PHONE
    tab.click("#close")
    tab.wait_for_selector("#head", state="hidden")
    tab.locator("#kinds-map b[title^=L1H1]").click()
    tab.wait_for_selector("#head", state="visible")
    assert tab.inner_text("#head-title") == "L1H1"
    for expected in ("L0H3", None):
        tab.go_back()
        if expected:
            tab.wait_for_function("(name) => document.getElementById('head-title').textContent === name", arg=expected)
    tab.wait_for_selector("#head", state="hidden")  # where no head is linked to


def test_by_keys_alone_the_sheet_opens_and_gives_the_focus_back(open_page, single):
    tab = open_page(single, width=PHONE)
    tab.focus("#map-chart")
    tab.keyboard.press("Home")
    assert tab.locator("#head").is_hidden()
    tab.keyboard.press("Enter")
    assert tab.evaluate("() => document.activeElement.id") == "head-title"
    tab.keyboard.press("Tab")
    assert tab.evaluate("() => document.activeElement.id") == "keep"
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#head", state="hidden")
    assert tab.evaluate("() => document.activeElement.id") == "map-chart"
    tab.locator("nav a[href='#head']").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#head", state="visible")


@pytest.mark.parametrize("width", [1440, PHONE])
def test_a_link_to_a_head_opens_with_it_in_sight(open_page, single, width):
    tab = open_page(single, fragment="#L0H2", width=width)
    tab.wait_for_timeout(300)
    assert tab.inner_text("#head-title") == "L0H2" and in_sight(tab, "#head-title")


def test_without_the_first_token_numbers_stay_and_colours_are_shares_of_the_rest(open_page, single, bundled):
    tab = open_page(single, fragment="#L1H3")
    tab.hover("#token-12")
    assert "“BOS” (0)" in tab.inner_text("#token-live")
    tab.check("#hide-first")
    settled(tab)
    assert tab.locator("#token-0").is_hidden() and "BOS" not in tab.inner_text("#token-live")
    shown = tab.evaluate(
        "() => { const [of] = document.getElementById('pattern').data; return [of.x, of.z, of.customdata]; }"
    )
    short = repeated_tokens(bundled, n_prompts=1, period=20, seed=1)
    pattern = capture(bundled, short, "pattern", heads="L1H3")["pattern", 1][0, 0]
    assert len(shown[0]) == 40 and not shown[0][0].startswith("BOS")
    for query in (25, 30, 40):
        row = pattern[query, 1 : query + 1]
        assert shown[2][query - 1][:query] == pytest.approx(row.tolist(), abs=1 / 500)
        assert sum(shown[1][query - 1][:query]) == pytest.approx(1)
    tab.uncheck("#hide-first")
    assert "“BOS” (0)" in tab.inner_text("#token-live")


def test_two_heads_are_compared_and_the_address_says_which(open_page, single, bundled):
    tab = open_page(single, fragment="#L0H3")
    alone = tab.locator("#pattern").evaluate("(chart) => chart.data[0].z.flat()")
    tab.focus("#keep")
    tab.keyboard.press("Enter")
    assert tab.inner_text("#keep") == "Choose another head, or none"
    click_cell(tab, 1, 3)
    assert tab.inner_text("#head-title") == "L1H3 beside L0H3" and tab.url.endswith("#L1H3+L0H3")
    scores = score_heads(bundled, repeated_tokens(bundled, period=20, n_prompts=6))
    said = tab.locator("#chips li").filter(has_text=re.compile("^Prefix matching")).inner_text()
    assert f"{float(scores['prefix_matching'][1, 3]):.3f}" in said
    assert re.search(rf"L0H3\s+{float(scores['prefix_matching'][0, 3]):.3f}", said)
    assert tab.locator("#kept-pattern").evaluate("(chart) => chart.data[0].z.flat()") == alone
    assert tab.locator("#lag").evaluate("(chart) => chart.data.map((trace) => trace.name)") == ["L1H3", "L0H3"]
    tab.hover("#token-30")
    assert re.search(r"\(11\) [\d.]+.*; L0H3: .*\(29\) 0\.[89]", tab.inner_text("#token-live"))
    assert tab.locator("#kept-arcs path").count() >= 1 and tab.locator("#map-frame .cursor.kept").count() == 1
    assert tab.locator("#effects .of-head").all_inner_texts() == ["L1H3", "L0H3"]
    assert serious(tab) == {}
    again = open_page(single, fragment="#L1H3+L0H3")
    assert again.inner_text("#head-title") == "L1H3 beside L0H3"
    tab.click("#keep")
    assert tab.inner_text("#head-title") == "L1H3" and tab.url.endswith("#L1H3")
    assert tab.locator("#kept-pattern-frame").is_hidden() and tab.locator("#map-frame .kept").count() == 0


def test_find_takes_kinds_layers_and_lists_and_says_what_is_none(open_page, single, bundled):
    tab = open_page(single)
    kinds = classify_heads(bundled, repeated_tokens(bundled, period=20, n_prompts=6), kinds=QUICK_KINDS)

    def found(text):
        tab.fill("#find", text)
        return set(tab.locator("#table tbody td:first-child").all_inner_texts())

    induction, previous = ({str(head) for head in kinds.of(kind)} for kind in ("induction", "previous-token"))
    assert found("induction") == found("Induction heads") == induction
    assert found("previous token") == found("prev") == previous
    assert found("L1H0, l0h2") == found("L1H0 L0H2") == {"L1H0", "L0H2"}
    assert found("L0, induction") == induction | {f"L0H{i}" for i in range(4)}
    assert len(found("")) == 8 and tab.inner_text("#count") == "8 of 8 heads"
    assert found("L1H0, L7H7, sausage") == {"L1H0"}
    said = tab.inner_text("#count")
    assert said.startswith("1 of 8 heads; “L7H7”, “sausage” is no head, layer or kind (induction, previous-token,")
    assert found("L0H") == {f"L0H{i}" for i in range(4)}
