"""The live page in a real browser: `make test-browser`. Skipped where there is no Chromium or no Playwright."""

import json

import pytest
import torch
from browsers import CHROMIUM
from live_pages import TEXT, opened, prompt_of, settled, written

from induction_lab import (
    HookedModel,
    ablate,
    distinct_tokens,
    explore,
    induction_circuit,
    mean_outputs,
)
from induction_lab.data.occurrences import copyable
from induction_lab.pages.live.answers import LiveModel
from induction_lab.pages.live.page import tours
from induction_lab.training.checkpoints import Checkpoints

pytest.importorskip("starlette")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")
FOUND_BY_AXE = ("serious", "critical")


class Short(Checkpoints):
    """A run of two checkpoints, the second of which copies."""

    name, steps = "short", (0, 10)

    def model(self, step):
        network = induction_circuit()
        if step == 0:
            with torch.no_grad():
                network.blocks[0].attn.W_O.zero_()
        return HookedModel(network, name=f"short-{step}")


@pytest.fixture(scope="module")
def served(bundled):
    page = explore([bundled, Short()], TEXT, browser=False, wait=False)
    yield page
    page.close()


@pytest.fixture
def tab(browser, served):
    yield from opened(browser, served.address)


def probabilities(page):
    found = {}
    for row in page.locator("[data-panel=predictions] li").all():
        token = int(row.get_attribute("data-id"))
        found[token] = float(row.get_attribute("data-p")), row.get_attribute("data-changed")
    return found


def test_what_is_typed_is_predicted_as_python_predicts_it(tab, bundled):
    for text in (TEXT, "200 7 200", "1"):
        written(tab, text)
        p = bundled.logits(prompt_of(bundled, text).tokens)[0, -1].softmax(-1)
        found = probabilities(tab)
        assert set(found) == set(p.topk(6).indices.tolist())
        for token, (value, changed) in found.items():
            assert value == pytest.approx(float(p[token]), rel=1e-4) and changed is None
        assert tab.locator("[data-panel=text] .tokens span").all_inner_texts() == ["BOS", *text.split()]


def test_a_head_that_is_knocked_out_is_ablated_and_both_stand_side_by_side(tab, bundled):
    written(tab, TEXT)
    tab.dblclick("b[data-head=L0H3]")
    settled(tab)
    prompt = prompt_of(bundled, TEXT)
    means = mean_outputs(bundled, distinct_tokens(bundled, n_prompts=16, length=9))
    whole = bundled.logits(prompt.tokens)[0].log_softmax(-1)
    with ablate(bundled, "L0H3", reference=means):
        changed = bundled.logits(prompt.tokens)[0].log_softmax(-1)
    for token, (value, other) in probabilities(tab).items():
        assert value == pytest.approx(float(whole[-1, token].exp()), rel=1e-4)
        assert float(other) == pytest.approx(float(changed[-1, token].exp()), rel=1e-3)
    loss = tab.locator("[data-panel=text] .loss")
    right = prompt.tokens[0, 1:, None]
    known = -float(whole[:-1].gather(1, right).mean())
    assert float(loss.get_attribute("data-whole")) == pytest.approx(known, abs=1e-4)
    lost = -float(changed[:-1].gather(1, right).mean())
    assert float(loss.get_attribute("data-changed")) == pytest.approx(lost, abs=1e-3)
    tab.select_option("[data-panel=text] select", "difference")
    titles = [span.get_attribute("title") for span in tab.locator(".tokens span").all()]
    nats = (whole - changed)[:-1].gather(1, right)[:, 0]
    assert titles[-1] == f"{float(nats[-1]):.2f} nats".replace("-", "\u2212")


def test_how_many_repeats_are_guessed_right_is_said_with_and_without(tab, bundled):
    text = " ".join(["7 19 3 250 88 41 160 12"] * 2)
    written(tab, text)
    prompt = prompt_of(bundled, text)
    where = copyable(prompt.tokens)[0].nonzero()[:, 0]
    assert len(where) == 7
    copies = tab.locator(".copies")

    def right():
        best = bundled.logits(prompt.tokens)[0].argmax(-1)
        return int((best[where] == prompt.tokens[0, where + 1]).sum())

    assert (copies.get_attribute("data-of"), copies.get_attribute("data-right")) == ("7", str(right()))
    tab.click("[data-kind=previous]")
    settled(tab)
    with ablate(bundled, ["L0H2", "L0H3"], reference=distinct_tokens(bundled, n_prompts=16, length=16)):
        assert copies.get_attribute("data-changed") == str(right()) != copies.get_attribute("data-right")
    assert tab.locator("[data-panel=text] select").input_value() == "difference"  # by itself
    written(tab, "1 2 3")
    assert copies.is_hidden()


def test_a_slider_scales_and_a_menu_takes_an_ideal_head(tab, bundled):
    written(tab, TEXT)
    tab.click("b[data-head=L1H3]")
    tab.click("[data-panel=head] button.off")
    tab.select_option("li[data-head=L1H3] select", "scale")
    settled(tab)
    tab.locator("li[data-head=L1H3] input[type=range]").fill("-0.5")
    settled(tab)
    live = LiveModel(bundled)
    wanted = live.answer("predict", {"text": TEXT, "heads": {"L1H3": -0.5}})["changed"]
    found = probabilities(tab)
    for token, p in zip(wanted["ids"][-1][:4], wanted["p"][-1][:4], strict=True):
        assert float(found[token][1]) == pytest.approx(p, rel=1e-4)
    tab.select_option("li[data-head=L1H3] select", "ideal_induction")
    settled(tab)
    assert tab.locator("[data-panel=head] .looks").get_attribute("data-weight") == "1"
    tab.click("text=All back")
    settled(tab)
    assert all(changed is None for _, changed in probabilities(tab).values())


@pytest.mark.parametrize("mode", ["copying", "looks_at", "adds"])
def test_the_map_shows_the_numbers_that_python_gives(tab, bundled, mode):
    written(tab, TEXT)
    tab.click("[data-panel=text] .tokens [data-i='7']")
    tab.check(f"input[name=live-mode][value={mode}]", force=True)
    settled(tab)
    asked = {"position": 7, "token": 17} if mode == "adds" else {"position": 7}
    values = LiveModel(bundled).answer("map", {"text": TEXT, "mode": mode} | asked)["values"]
    for layer, row in enumerate(values):
        for head, value in enumerate(row):
            cell = tab.locator(f"b[data-head=L{layer}H{head}]")
            assert float(cell.get_attribute("data-value")) == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_a_head_that_is_off_has_no_colour_and_its_number_no_stroke_and_what_is_meant_is_said(tab):
    written(tab, TEXT)
    cell = tab.locator("b[data-head=L1H2]")
    style = "(cell) => ['', '::after'].map((part) => getComputedStyle(cell, part || null).backgroundColor)"
    coloured = cell.evaluate(style)[0]
    tab.dblclick("b[data-head=L1H2]")
    settled(tab)
    off, number = cell.evaluate(style)
    assert off == tab.evaluate("() => getComputedStyle(document.body).backgroundColor") != coloured
    assert number == off and "linear-gradient" in cell.evaluate("(cell) => getComputedStyle(cell).backgroundImage")
    assert "half as likely" in (tab.locator("[data-panel=text] .loss").get_attribute("title") or "")
    assert "before every text" in (tab.locator(".tokens .first").get_attribute("title") or "")
    adds = tab.locator("[data-mode=adds]").get_attribute("title") or ""
    assert "adds to the logit of" in adds and "mean logit" in adds


def test_why_names_who_made_the_weight_and_a_click_follows_the_arrow(tab, bundled):
    written(tab, TEXT)
    tab.click("[data-panel=text] .tokens [data-i='7']")
    tab.click("b[data-head=L1H2]")
    settled(tab)
    answer = LiveModel(bundled).answer("why_weight", {"text": TEXT, "head": "L1H2", "query": 7, "key": 3})
    for component in ("k", "q"):
        parts = tab.locator(f".why-weight ol[data-kind={component}] li").all()
        found = {part.get_attribute("data-part"): float(part.get_attribute("data-value")) for part in parts}
        assert found == pytest.approx(dict(answer[component]["parts"]), abs=1e-4)
    best = answer["k"]["parts"][0][0]
    tab.click(f".why-weight ol[data-kind=k] a:text-is('{best}')")
    settled(tab)
    assert tab.locator("[data-panel=head] h2").inner_text().startswith(best)


def test_whole_kinds_at_one_click_and_as_many_random_heads_of_the_same_layers(tab):
    written(tab, TEXT)
    tab.click("[data-kind=previous]")
    settled(tab)
    heads = {li.get_attribute("data-head") for li in tab.locator(".changes li").all()}
    assert heads == {"L0H2", "L0H3"}
    tab.click("button.random-heads")
    settled(tab)
    others = {li.get_attribute("data-head") for li in tab.locator(".changes li").all()}
    assert others == {"L0H0", "L0H1"}


def test_a_link_brings_back_text_heads_and_changes(tab, browser):
    written(tab, "7 8 9 7 8")
    tab.dblclick("b[data-head=L1H1]")
    tab.click("[data-panel=text] .tokens [data-i='4']")
    settled(tab)
    before = probabilities(tab)
    for other in opened(browser, tab.url):
        assert other.input_value("textarea.typed") == "7 8 9 7 8"
        assert probabilities(other) == before
        assert other.locator("b[data-head=L1H1].off.chosen").count() == 1


UNKNOWN_CHANGE = "#eyJ0ZXh0IjoiMSIsImhlYWRzIjp7IkwwSDAiOiJ4In19"  # {"text":"1","heads":{"L0H0":"x"}}


@pytest.mark.parametrize("fragment", ["#nonsense", "#e30", "#eyJ0ZXh0IjoxfQ", "#%F0%9F", UNKNOWN_CHANGE])
def test_an_address_that_says_nonsense_is_no_harm(browser, served, fragment):
    for page in opened(browser, served.address + fragment, ready=False):
        page.wait_for_selector("#live[data-state=ready], #live[data-state=fault]")
        if fragment == UNKNOWN_CHANGE:
            page.click("text=All back")
        written(page, TEXT)
        assert page.locator(".tokens span").all_inner_texts() == ["BOS", *TEXT.split()]
        assert page.locator(".fault").is_hidden() and all(
            changed is None for _, changed in probabilities(page).values()
        )


def test_the_lines_of_python_do_what_the_page_does(tab):
    written(tab, TEXT)
    for head in ("L0H3", "L1H0"):
        tab.dblclick(f"b[data-head={head}]")
    tab.select_option("li[data-head=L1H0] select", "scale")
    settled(tab)
    tab.click("button.python")
    lines, names = tab.locator(".python-lines").inner_text(), {}
    exec(lines, names)
    for token, (value, changed) in probabilities(tab).items():
        assert float(names["whole"][token]) == pytest.approx(value, rel=1e-3)
        assert float(names["changed"][token]) == pytest.approx(float(changed), rel=1e-3)


def test_a_mistake_is_a_message_and_typing_goes_on(tab):
    tab.fill("textarea.typed", "5 9 999999")
    tab.wait_for_selector(".fault:not([hidden])")
    assert "numbers from 0 to 255" in tab.locator(".fault").inner_text()
    written(tab, TEXT)
    assert tab.locator(".fault").is_hidden()


def test_fast_typing_ends_at_what_was_typed_last(tab, bundled):
    tab.fill("textarea.typed", "")
    tab.locator("textarea.typed").press_sequentially("12 34 12 34 12", delay=5)
    tab.wait_for_selector(".tokens [data-i='5']")
    settled(tab)
    p = bundled.logits(prompt_of(bundled, "12 34 12 34 12").tokens)[0, -1].softmax(-1)
    assert {token: value for token, (value, _) in probabilities(tab).items()} == pytest.approx(
        {int(i): float(p[i]) for i in p.topk(6).indices}, rel=1e-4
    )


def test_by_keys_alone_a_head_is_chosen_and_knocked_out_and_a_token_too(tab):
    written(tab, TEXT)
    tab.focus(".head-map")
    for _ in range(3):
        tab.keyboard.press("ArrowUp")
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
    tab.keyboard.press("x")
    settled(tab)
    assert tab.locator("b[data-head=L0H3].off.chosen").count() == 1
    tab.focus(".tokens")
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    settled(tab)
    assert tab.locator(".tokens [aria-selected=true]").inner_text() == "5"
    tab.focus(".next")
    tab.keyboard.press("ArrowDown")
    settled(tab)


def test_every_tour_goes_from_end_to_end_in_both_languages(tab):
    for language in ("en", "zh"):
        for tour in tours():
            button = tab.locator(f"[data-tour={tour['id']}]")
            assert button.inner_text() == tour["title"][language]
            if tour["needs"] == "text":  # no such model here: it says what to start
                button.click()
                assert tour["start"] in tab.locator(".tour").inner_text()
                continue
            button.click()
            settled(tab)
            for at, step in enumerate(tour["step"]):
                assert tab.locator(".tour .lead").inner_text() == step["say"][language]
                assert tab.locator(f"[data-panel={step['show']}].shown").count() == 1
                if at < len(tour["step"]) - 1:
                    tab.click(".tour .next")
                    settled(tab)
            tab.click(".tour .end")
            settled(tab)
        tab.click("button.language")


def test_the_slider_goes_through_a_runs_checkpoints(tab):
    tab.select_option("header select", "short, step 10")
    settled(tab)
    written(tab, "3 7 5 3")
    high = max(value for value, _ in probabilities(tab).values())
    tab.locator(".checkpoints input").fill("0")
    settled(tab)
    assert tab.locator("header select").input_value() == "short, step 0"
    assert tab.input_value("textarea.typed") == "3 7 5 3"
    assert max(value for value, _ in probabilities(tab).values()) < 0.5 < 0.99 < high


def test_without_the_first_token_rows_are_scaled_and_it_is_not_shown(tab):
    written(tab, TEXT)
    tab.check("text=hide the first token")
    assert tab.locator(".tokens .first").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(browser, served, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for page in opened(browser, served.address, width=width, scheme=scheme):
        page.dblclick("b[data-head=L0H3]")
        page.click("button.python")
        settled(page)
        found = axe.Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in FOUND_BY_AXE] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_markup_in_tokens_is_text(browser, served, monkeypatch):
    live = served._live.shelf.get(None)
    hostile = "<img src=x onerror=alert(1)>"

    monkeypatch.setattr("induction_lab.pages.live.answers.token_labels", lambda *_, **__: [hostile])
    monkeypatch.setattr(HookedModel, "token_labels", lambda self, prompts, row=0: [hostile] * prompts.tokens.shape[1])
    live._kept.clear()
    for page in opened(browser, served.address):
        assert page.locator(".tokens span").first.inner_text() == hostile
        assert page.locator("main img").count() == 0
    live._kept.clear()


def test_a_server_that_is_gone_is_said(browser, bundled):
    page = explore(bundled, TEXT, browser=False, wait=False)
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(page.address)
    settled(tab)
    page.close()
    tab.fill("textarea.typed", "7 8 7")
    tab.wait_for_selector(".fault:not([hidden])", timeout=30_000)
    assert "still running" in tab.locator(".fault").inner_text()
    context.close()


def test_the_static_report_of_what_is_shown_can_be_saved(tab):
    with tab.expect_download(timeout=120_000) as download:
        tab.click("button.report")
    text = open(download.value.path(), encoding="utf-8").read()
    assert text.startswith("<!doctype html>") and json.loads('"induction-2l"') in text
