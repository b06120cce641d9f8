"""The report in a real browser: `make test-browser`. Skipped where there is no Chromium or no Playwright."""

import csv
import io
import re

import pytest
from browsers import CHROMIUM, click_cell, settled
from pages import HOSTILE, hostile_model

from induction_lab import (
    classify_heads,
    induction_activity,
    repeated_tokens,
    score_heads,
    write_activity,
    write_report,
)
from induction_lab.pages.live.answers import LiveModel
from induction_lab.pages.panel_measurements import QUICK_KINDS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")


PANELS = """() => Object.fromEntries(["pattern", "lag", "eigen", "position"].map((id) => {
  const chart = document.getElementById(id);
  return [id, JSON.stringify(chart.data.map((trace) => [trace.x, trace.y, trace.z]))];
}).concat(["chips", "feeds", "fed", "effects", "head-says"].map((id) =>
  [id, document.getElementById(id).textContent])))"""


def test_it_opens_from_disk_with_the_best_induction_head_and_asks_nothing_of_the_network(open_page, single, bundled):
    tab = open_page(single)
    best = score_heads(bundled, repeated_tokens(bundled, period=20, n_prompts=6)).top("prefix_matching", 1)[0][0]
    assert tab.inner_text("#head-title") == str(best)
    assert tab.inner_text("h1") == "Induction heads in induction-2l"
    assert tab.locator("#table tbody tr").count() == 8


def test_a_click_on_a_head_changes_every_panel(open_page, single):
    tab = open_page(single, fragment="#L1H3")
    before = tab.evaluate(PANELS)
    click_cell(tab, 0, 3)
    after = tab.evaluate(PANELS)
    assert tab.inner_text("#head-title") == "L0H3" and tab.url.endswith("#L0H3")
    assert [name for name in before if before[name] == after[name]] == []
    assert "L0H3: Prefix matching" in tab.inner_text("#map-live")
    assert tab.locator("#table tr[aria-current=true] td").first.inner_text() == "L0H3"


def test_addresses_lead_to_heads_and_back_goes_back(open_page, single):
    tab = open_page(single, fragment="#L0H1")
    assert tab.inner_text("#head-title") == "L0H1"
    click_cell(tab, 1, 2)
    click_cell(tab, 1, 0)
    for expected in ("L1H2", "L0H1"):
        tab.go_back()
        tab.wait_for_function("(name) => document.getElementById('head-title').textContent === name", arg=expected)
    tab.evaluate("() => { location.hash = '#L9H9'; }")
    tab.wait_for_timeout(100)
    assert tab.inner_text("#head-title") == "L0H1"


def test_arrow_keys_move_over_the_map_and_say_where_they_are(open_page, single):
    tab = open_page(single, fragment="#L0H0")
    tab.focus("#map-chart")
    keys = "ArrowRight L0H1 ArrowDown L1H1 End L1H3 ArrowRight L1H3 ArrowUp L0H3 Home L0H0 ArrowUp L0H0".split()
    for key, expected in zip(keys[::2], keys[1::2], strict=True):
        tab.keyboard.press(key)
        assert tab.inner_text("#head-title") == expected and tab.inner_text("#map-live").startswith(expected)
        assert expected in tab.get_attribute("#map-chart", "aria-label")
    assert tab.evaluate("() => history.length") <= 2


def test_the_table_is_sorted_and_filtered(open_page, single):
    tab = open_page(single)

    def column(number):
        cells = tab.locator(f"#table tbody td:nth-child({number})").all_inner_texts()
        return [float(cell.replace("−", "-")) for cell in cells]

    assert column(2) == sorted(column(2), reverse=True)
    tab.click("#table th[data-name=previous_token] button")
    assert column(4) == sorted(column(4), reverse=True)
    assert tab.get_attribute("#table th[data-name=previous_token]", "aria-sort") == "descending"
    tab.click("#table th[data-name=previous_token] button")
    assert column(4) == sorted(column(4))
    tab.fill("#find", "l1")
    assert set(tab.locator("#table tbody td:first-child").all_inner_texts()) == {f"L1H{i}" for i in range(4)}
    tab.fill("#least", "2")
    assert tab.locator("#table tbody tr").count() == 0 and tab.inner_text("#count") == "0 of 8 heads"


def test_another_score_and_all_of_them_side_by_side(open_page, single):
    tab = open_page(single)
    tab.select_option("#score", "previous_token")
    settled(tab)
    assert tab.evaluate("() => document.getElementById('map-chart').data[0].z[0][3]") > 0.5
    assert "token before" in tab.inner_text("#definition")
    tab.locator("#view input[value=all]").check(force=True)
    settled(tab)
    n_scores = tab.locator("#score option").count()
    assert tab.evaluate("() => document.getElementById('map-chart').data.length") == n_scores
    assert tab.locator("#map-frame .cursor").count() == n_scores


def test_the_slider_moves_every_heatmap(open_page, single):
    tab = open_page(single)
    tab.locator("#view input[value=all]").check(force=True)
    tab.focus("#step")
    tab.keyboard.press("ArrowLeft")
    settled(tab)
    maps = tab.evaluate("() => document.getElementById('map-chart').data.map((trace) => trace.z.flat())")
    assert maps[0] == pytest.approx([i / 16 for i in range(8)], abs=0.003)
    assert maps[-1] == pytest.approx([-i / 16 for i in range(8)], abs=0.006)
    assert all(value is None for value in maps[2])  # was not measured while it was trained
    assert tab.inner_text("#step-name") == "step 10"
    tab.click("#final")
    settled(tab)
    assert tab.evaluate("() => document.getElementById('map-chart').data[0].z[1][3]") > 0.9


def test_a_token_shows_where_the_head_looks(open_page, single, bundled):
    tab = open_page(single, fragment="#L1H3")
    tab.hover("#token-30")
    assert tab.inner_text("#token-live").startswith("From “") and "(30): " in tab.inner_text("#token-live")
    assert re.search(r"\(11\) 0\.[89]", tab.inner_text("#token-live"))  # the token after the first occurrence
    assert tab.locator("#arcs path").count() >= 1
    tab.focus("#tokens")
    tab.keyboard.press("ArrowLeft")
    assert "(29): " in tab.inner_text("#token-live")
    assert tab.get_attribute("#tokens", "aria-activedescendant") == "token-29"
    tab.check("#weighted")
    assert "weighed by" in tab.inner_text("#token-live")


def test_kinds_have_colours_and_lead_to_their_heads(open_page, single, bundled):
    tab = open_page(single, fragment="#L0H0")
    found = classify_heads(bundled, repeated_tokens(bundled, period=20, n_prompts=6), kinds=QUICK_KINDS)
    rows = tab.locator("#kinds-table tbody tr")
    assert [text.strip() for text in rows.locator("td:first-child").all_inner_texts()] == list(found.kinds)
    coloured = tab.locator("#kinds-map b[style]").evaluate_all("(all) => all.map((cell) => cell.title.split(':')[0])")
    assert set(coloured) == set(found.heads()["label"])
    for i, kind in enumerate(found.kinds):
        links = rows.nth(i).locator("a").all_inner_texts()
        assert links[: len(found.of(kind))] == [str(head) for head in found.of(kind)]
    head = str(found.of("induction")[0])
    rows.first.locator("a").first.click()
    assert tab.inner_text("#head-title") == head and tab.url.endswith(f"#{head}")
    assert tab.get_attribute("#kinds-map b.chosen", "title").startswith(f"{head}: induction 0.")
    tab.locator("#kinds-map b[title^=L0H3]").click()
    assert tab.inner_text("#head-title") == "L0H3"
    assert "successor: it reads words" in tab.inner_text("#kinds-without")


def test_tables_are_saved_as_csv(open_page, single, bundled):
    tab = open_page(single)
    with tab.expect_download() as waiting:
        tab.click("#downloads button[data-table=scores]")
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text())))
    scores = score_heads(bundled, repeated_tokens(bundled, period=20, n_prompts=6))
    assert waiting.value.suggested_filename == "induction-2l_scores.csv" and len(rows) == 8 * len(scores.scores)
    found = {(row["label"], row["score"]): float(row["value"]) for row in rows}
    for name in scores.scores:
        assert found["L1H3", name] == pytest.approx(float(scores[name][1, 3]), rel=1e-4, abs=1e-7)
    assert {"lags", "composition", "kinds", "circuit", "ablation", "training"} <= set(
        tab.locator("#downloads button").evaluate_all("(all) => all.map((each) => each.dataset.table)")
    )


def test_markup_in_names_and_tokens_is_text(open_page, several):
    tab = open_page(several, fragment="#induction-2l/L0H1")
    assert tab.inner_text("#head-title") == "L0H1 of induction-2l"
    tab.select_option("#model", "1")
    settled(tab)
    assert tab.inner_text("#head-title").endswith(f"of {HOSTILE}")
    tab.locator("#prompt input").last.check(force=True)
    settled(tab)
    tab.hover("#token-3")
    tab.locator("#pattern .nsewdrag").hover()
    click_cell(tab, 2, 1, shape=(3, 2))
    assert "onerror" in tab.inner_text("#tokens") and tab.locator("#tokens img, #pattern img, #pattern a").count() == 0
    assert tab.title().startswith("Induction heads in") and tab.locator("script").count() == 5
    assert "<script>" in tab.inner_text("#comparison-maps")
    address = tab.evaluate("() => location.hash")
    assert "<" not in address and address.endswith("/L2H1")
    again = open_page(several, fragment=address)
    assert again.inner_text("#head-title") == tab.inner_text("#head-title")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark"), (1440, "light")])
def test_nothing_sticks_out_and_axe_finds_nothing_serious(open_page, browser, several, single, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    for path in (single, several):
        tab = open_page(path, width=width, scheme=scheme)
        assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
        tab.evaluate(axe.AXE_SCRIPT)
        found, passed = tab.evaluate("() => axe.run().then((result) => [result.violations, result.passes.length])")
        assert passed > 20
        serious = {
            each["id"]: [node["html"][:160] for node in each["nodes"][:4]]
            for each in found
            if each["impact"] in ("serious", "critical")
        }
        assert serious == {}


def test_the_button_turns_dark_into_light(open_page, single):
    tab = open_page(single, scheme="dark")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(paper)
    tab.click("#theme")
    settled(tab)
    assert tab.evaluate(paper) != dark and tab.get_attribute("#theme", "aria-pressed") == "false"


def test_the_real_model_s_best_head_fills_every_panel(open_page, smollm2, tmp_path):
    path = write_report(smollm2, tmp_path / "smollm2.html", n_prompts=2, ablate=False)
    assert path.stat().st_size < 8_000_000
    tab = open_page(path, fragment="#L16H0")
    before = tab.evaluate(PANELS)
    click_cell(tab, 18, 6, shape=(30, 9))
    after = tab.evaluate(PANELS)
    assert tab.inner_text("#head-title") == "L18H6"
    assert [name for name in before if before[name] == after[name] and name != "effects"] == []
    tab.locator("#prompt input[value=text]").check(force=True)
    settled(tab)
    assert "Tol" in tab.inner_text("#tokens")


def test_tokens_of_a_text_are_explored_by_mouse_tap_and_keys(open_page, tmp_path):
    model = hostile_model()
    found = induction_activity(model, "one two one two one two", ["L2H0", "L1H1"])
    tab = open_page(write_activity(found, tmp_path / "text.html"))
    tokens = tab.locator(".token")
    assert tokens.all_text_contents() == found.tokens["token"].tolist()
    tokens.nth(5).hover()
    assert tab.locator(".token.shown").count() == 1 and "nats by them" in tab.inner_text("#panel")
    assert tab.locator("#panel table tr").count() == 3  # the heading and two heads
    tokens.nth(4).click()
    tokens.nth(6).hover()
    assert tab.evaluate("() => [...document.querySelectorAll('.token')].findIndex(t => t.matches('.shown'))") == 4
    tab.focus("#text")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        tab.keyboard.press(key)
    assert tab.evaluate("() => [...document.querySelectorAll('.token')].findIndex(t => t.matches('.shown'))") == 5
    assert tab.title() == f"Heads on a text: {HOSTILE}"  # no markup has run


def test_a_small_model_answers_in_the_report_itself(bundled, open_page, single):
    tab = open_page(single)
    tab.click("nav >> text=Try it")
    tab.wait_for_selector("#live[data-state=ready]")
    tab.fill("textarea.typed", "5 9 17 33 21 5 9 17 33")
    tab.dblclick("#try b[data-head=L0H3]")
    tab.wait_for_timeout(50)
    tab.wait_for_selector("#live[data-state=ready]")
    answer = LiveModel(bundled).answer("predict", {"text": "5 9 17 33 21 5 9 17 33", "heads": {"L0H3": "mean"}})
    rows = {int(row.get_attribute("data-id")): row for row in tab.locator("[data-panel=predictions] li").all()}
    for at, token in enumerate(answer["whole"]["ids"][-1]):
        row = rows[token]
        assert float(row.get_attribute("data-p")) == pytest.approx(answer["whole"]["p"][-1][at], rel=1e-3)
        changed = answer["changed"]["p_of_whole"][-1][at]
        assert float(row.get_attribute("data-changed")) == pytest.approx(changed, rel=1e-2)
    assert tab.locator("#try .fault").is_hidden()
