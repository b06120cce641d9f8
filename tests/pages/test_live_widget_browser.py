"""The widget in a real browser, in a page that does what a notebook does: `make test-browser`."""

import json

import pytest
from browsers import ARGUMENTS, CHROMIUM
from live_pages import TEXT
from notebooks import notebook
from pages import HOSTILE, hostile_model

from induction_lab.pages.live.answers import LiveModel
from induction_lab.pages.live.page import tours
from induction_lab.pages.live.shelf import Shelf
from induction_lab.pages.live.widget import Messages, widget_script

sync_api = pytest.importorskip("playwright.sync_api", reason="the page's browser tests need playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")
SECOND = """() => {
  const el = document.createElement("div");
  el.id = "second";
  document.body.append(el);
  show(el);
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def show(browser):
    """A widget in a notebook; afterwards nothing may have been fetched and nothing complained about."""
    contexts, faults, ends = [], [], []

    def shown(*models, text=TEXT, width=1440, ready=True, scene=None, script=None, **how):
        context = browser.new_context(viewport={"width": width, "height": 900})
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        tab.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(("data:", "blob:")) else 0)
        shelf = Shelf(models)
        messages = Messages(shelf, lambda _: None)
        contexts.append(context)
        ends.append(messages)
        data = shelf.at_start(text) | {"tours": tours()}
        notebook(tab, messages, script or widget_script(), data, scene or {"text": text}, **how)
        return settled(tab) if ready else tab

    yield shown
    for context in contexts:
        context.close()
    for messages in ends:
        messages.close()
    assert not faults


def settled(tab):
    tab.wait_for_selector(".live[data-state=ready]")
    tab.wait_for_timeout(40)
    tab.wait_for_selector(".live[data-state=ready]")
    return tab


def styled(tab, css, name):
    return tab.locator(css).first.evaluate("(found, name) => getComputedStyle(found)[name]", name)


def paper_of(tab):
    return styled(tab, ".live", "backgroundColor")


def test_its_numbers_are_the_model_s_also_when_heads_are_knocked_out(show, bundled):
    tab, live = show(bundled), LiveModel(bundled)
    tab.locator("[data-head=L0H3]").first.dblclick()
    settled(tab)
    scene = {"text": TEXT, "heads": {"L0H3": "mean"}}
    expected = live.answer("predict", scene)
    whole, changed = expected["whole"], expected["changed"]
    known = dict(zip(changed["ids"][-1], zip(changed["whole_p"][-1], changed["p"][-1], strict=True), strict=True))
    known |= dict(zip(whole["ids"][-1], zip(whole["p"][-1], changed["p_of_whole"][-1], strict=True), strict=True))
    for row in tab.locator(".next li").all():
        shown = float(row.get_attribute("data-p")), float(row.get_attribute("data-changed"))
        assert shown == known[int(row.get_attribute("data-id"))]
    cells = tab.locator(".head-map b").evaluate_all("(all) => all.map((cell) => Number(cell.dataset.value))")
    assert cells == sum(live.answer("map", scene | {"mode": "copying", "position": 9})["values"], [])
    kept = tab.evaluate("() => widget.traits.scene")
    assert kept["heads"] == {"L0H3": "mean"} and kept["text"] == TEXT and tab.evaluate("() => widget.saved") > 0


def test_who_types_on_takes_back_what_was_asked(show, bundled):
    tab = show(bundled)
    tab.evaluate("() => { widget.sent.length = widget.seen.length = 0; }")
    tab.focus("textarea.typed")
    tab.locator("textarea.typed").press_sequentially(" 21 5 9 17 33", delay=4)
    settled(tab)
    assert tab.input_value("textarea.typed") == f"{TEXT} 21 5 9 17 33"
    sent, seen = tab.evaluate("() => [widget.sent, widget.seen]")
    dropped = {message["drop"] for message in sent if "drop" in message}
    answered = {message["id"] for message in seen if "found" in message}
    assert dropped  # how many of them in time is a matter of the machine
    last = [message for message in sent if message.get("what") == "predict"][-1]
    assert last["given"]["text"] == f"{TEXT} 21 5 9 17 33" and last["id"] in answered
    assert {message["id"] for message in sent if "id" in message} == dropped | answered


def test_an_error_is_a_message_on_the_widget(show, bundled):
    tab = show(bundled)
    tab.fill("textarea.typed", "5 wrong")
    tab.wait_for_selector(".live[data-state=fault]")
    assert "numbers from 0" in tab.inner_text(".fault")
    tab.fill("textarea.typed", TEXT)
    settled(tab)
    assert not tab.is_visible(".fault")


def test_a_kernel_that_says_nothing_is_said_to_and_heard_when_it_is_back(show, bundled):
    tab = show(bundled, script=widget_script().replace("PATIENCE = 5000", "PATIENCE = 300"))
    tab.evaluate("() => { window.held = listeners.splice(0); }")
    tab.fill("textarea.typed", "5 9 5")
    tab.wait_for_selector(".live[data-state=fault]")
    assert "The kernel does not answer" in tab.inner_text(".fault")
    tab.evaluate("() => { listeners.push(...held); widget.seen.forEach((message) => held[0](message)); }")
    settled(tab)
    assert not tab.is_visible(".fault") and tab.locator(".tokens [data-i]").count() == 4


def test_neither_page_styles_the_other(show, bundled):
    tab = show(bundled)
    assert (styled(tab, "#own", "color"), styled(tab, "#own", "fontFamily")) == ("rgb(204, 0, 0)", "serif")
    assert styled(tab, "body", "margin") == "8px"
    assert (styled(tab, ".live h2", "color"), styled(tab, ".live h2", "textTransform")) == ("rgb(27, 31, 39)", "none")
    assert styled(tab, ".live label", "letterSpacing") == "normal"
    assert styled(tab, ".live-top", "position") == "static"


@pytest.mark.parametrize(("ink", "paper", "shown"), [("black", "white", 246), ("#ddd", "#111", 18)])
def test_it_is_dark_where_the_notebook_is_and_the_button_turns_it_alone(show, bundled, ink, paper, shown):
    tab = show(bundled, ink=ink, paper=paper)
    assert paper_of(tab).startswith(f"rgb({shown},")
    before = styled(tab, "body", "backgroundColor")
    tab.click("[data-word=theme]")
    assert paper_of(tab).startswith(f"rgb({264 - shown},")
    assert styled(tab, "body", "backgroundColor") == before


def test_keys_pressed_in_it_are_not_the_notebook_s_and_a_slider_can_be_drawn(show, bundled):
    tab = show(bundled, scene={"text": TEXT, "heads": {"L1H2": 0.5}})
    tab.evaluate("() => { window.keys = []; addEventListener('keydown', (event) => keys.push(event.key)); }")
    tab.focus(".head-map")
    tab.keyboard.press("x")
    settled(tab)
    assert "off" in tab.get_attribute("[data-panel=heads] b.chosen", "class")
    tab.focus(".changes [type=range]")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    settled(tab)
    assert tab.locator(".changes [type=range]").evaluate("(range) => range.matches(':focus') && range.value") == "0.65"
    assert tab.evaluate("() => widget.traits.scene.heads.L1H2") == 0.65 and tab.evaluate("() => keys") == []
    assert tab.locator("[data-lm-suppress-shortcuts]").count() == 1


def test_shown_twice_each_gets_its_own_answers_and_one_that_goes_is_quiet(show, bundled):
    tab = show(bundled)
    tab.evaluate(SECOND)
    tab.wait_for_selector("#second .live[data-state=ready]")
    tab.fill("#second textarea.typed", "7 8 7")
    tab.wait_for_selector("#second .tokens [data-i='4']", state="detached")
    assert tab.locator("#second .tokens [data-i]").count() == 4
    assert tab.locator("#cell .tokens [data-i]").count() == 10
    tab.evaluate("() => { unshow(); document.getElementById('cell').replaceChildren(); }")
    assert tab.evaluate("() => listeners.length") == 1
    tab.fill("#second textarea.typed", "7 8 7 8")
    tab.wait_for_selector("#second .tokens [data-i='4']")


def test_markup_in_names_and_tokens_is_text(show):
    tab = show(hostile_model(), text="one two one </script>")
    assert tab.title() == "A notebook" and tab.locator(".live img, .live script").count() == 0
    assert "onerror" in tab.inner_text(".tokens") and HOSTILE in tab.inner_text(".live-top select")


@pytest.mark.parametrize(
    ("width", "ink", "paper", "columns"),
    [(390, "black", "white", 1), (1440, "#ddd", "#111", 2), (820, "black", "white", 1)],
)
def test_it_fits_its_cell_and_axe_finds_nothing_serious(show, bundled, width, ink, paper, columns):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    tab = show(bundled, width=width, ink=ink, paper=paper)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
    assert len(styled(tab, ".live-columns", "gridTemplateColumns").split()) == columns
    tab.evaluate(axe.AXE_SCRIPT)
    found = tab.evaluate("() => axe.run('#cell').then((result) => result.violations)")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps(serious)[:3000]
