"""What heads cost, on the live page in a real browser: each alone, and as many random ones as are changed."""

import threading

import pytest
from browsers import CHROMIUM
from live_pages import TEXT, opened, prompt_of, settled, written

from induction_lab import Run, ablation_sweep
from induction_lab.pages.live.answers import LiveModel

pytest.importorskip("starlette")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")


@pytest.fixture
def tab(browser, served):
    yield from opened(browser, served.address)


def costs_on(tab, n_layers=2, n_heads=4):
    names = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
    return {name: tab.locator(f".head-map b[data-head={name}]").get_attribute("data-value") for name in names}


def test_what_each_head_alone_costs_stands_on_the_map_and_the_ten_that_cost_most_beside_it(tab, bundled):
    written(tab, TEXT)
    tab.dblclick("b[data-head=L0H3]")  # which changes nothing of what each alone costs
    tab.check("input[name=live-mode][value=costs]", force=True)
    settled(tab)
    effects = ablation_sweep(bundled, prompt_of(bundled, TEXT), metric="loss").table.set_index("label")["effect"]
    found = {name: float(value) for name, value in costs_on(tab).items()}
    assert found == pytest.approx(effects.to_dict(), abs=1e-5)
    ranked = tab.locator(".ranks li").evaluate_all("(all) => all.map((each) => each.dataset.head)")
    assert ranked == list(effects.sort_values(ascending=False).index[:10])
    tab.click(f".ranks a:text-is('{ranked[0]}')")
    settled(tab)
    assert tab.locator("[data-panel=head] h2").inner_text().startswith(ranked[0])
    tab.check("input[name=live-mode][value=copying]", force=True)
    settled(tab)
    assert tab.locator(".ranks").is_hidden() and max(map(float, costs_on(tab).values())) <= 1


def test_costs_come_layer_by_layer_and_are_dropped_when_the_text_changes(tab, served, bundled, monkeypatch):
    live = served._live.shelf.get(None)
    ask, asked, gate = live.asked["costs"], [], threading.Event()

    def slowly(scene, given):
        asked.append((scene.text, given["groups"][0][0]))
        if scene.text == TEXT and len(given["groups"]) == 4 and given["groups"][0][0] == "L0H0":
            gate.wait(20)
        return ask(scene, given)

    monkeypatch.setitem(live.asked, "costs", slowly)
    written(tab, TEXT)
    tab.check("input[name=live-mode][value=costs]", force=True)
    tab.wait_for_selector("[data-panel=heads][data-left='1']")
    assert "1 of 2 layers so far" in tab.locator("[data-panel=heads]").inner_text()
    there = costs_on(tab)
    assert all(there[f"L1H{i}"] and not there[f"L0H{i}"] for i in range(4))
    tab.fill("textarea.typed", "7 8 7 8 7")
    tab.wait_for_selector("[data-panel=heads][data-left='2']")
    assert not any(costs_on(tab).values())
    gate.set()
    settled(tab)
    effects = ablation_sweep(bundled, prompt_of(bundled, "7 8 7 8 7"), metric="loss").table.set_index("label")["effect"]
    assert {name: float(value) for name, value in costs_on(tab).items()} == pytest.approx(effects.to_dict(), abs=1e-5)
    assert asked == [(TEXT, "L1H0"), (TEXT, "L0H0"), ("7 8 7 8 7", "L1H0"), ("7 8 7 8 7", "L0H0")]


def test_random_heads_are_drawn_several_times_and_each_draw_costs_what_python_says(tab, bundled):
    written(tab, TEXT)
    for head in ("L0H3", "L1H0"):
        tab.dblclick(f"b[data-head={head}]")
    settled(tab)
    tab.click("button.draw-random")
    tab.wait_for_selector(".spread .dots")
    dots = tab.locator(".spread .dots i").all()
    draws = {dot.get_attribute("data-heads"): float(dot.get_attribute("data-value")) for dot in dots}
    groups = [name.split() for name in draws]
    assert 5 < len(draws) <= 9  # of the 3 × 3 that there are
    assert all(a[:2] == "L0" and b[:2] == "L1" and not {a, b} & {"L0H3", "L1H0"} for a, b in groups)
    wanted = ablation_sweep(bundled, prompt_of(bundled, TEXT), heads=groups, metric="loss").table["effect"]
    assert list(draws.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    own = float(tab.locator(".spread .dots b").get_attribute("data-value"))
    both = ablation_sweep(bundled, prompt_of(bundled, TEXT), heads=[["L0H3", "L1H0"]], metric="loss").table["effect"]
    assert own == pytest.approx(both.item(), abs=1e-4)
    tab.click("li[data-head=L1H0] button")
    settled(tab)
    assert tab.locator(".spread .dots").count() == 0


def test_the_tour_of_a_run_works_without_one_and_its_lines_of_python_run(tab):
    assert tab.locator(".checkpoints").is_hidden()
    tab.click("[data-tour=form]")
    settled(tab)
    run = Run("forming")
    for step, click in ((0, ".tour .next"), (800, "button.python")):
        assert tab.locator("header select").input_value() == f"forming, step {step}"
        text = tab.input_value("textarea.typed")
        values = LiveModel(run.model(step)).answer("map", {"text": text, "mode": "copying", "position": 13})["values"]
        found = [float(value) for value in costs_on(tab).values()]
        assert found == pytest.approx([value for row in values for value in row], abs=1e-5)
        assert (max(found) > 0.8) == (step == 800)
        tab.click(click)
        settled(tab)
    assert tab.locator(".checkpoints").is_visible()
    names = {}
    exec(tab.locator(".python-lines").inner_text(), names)
    for row in tab.locator("[data-panel=predictions] li").all():
        token = int(row.get_attribute("data-id"))
        assert float(names["whole"][token]) == pytest.approx(float(row.get_attribute("data-p")), rel=1e-3)
