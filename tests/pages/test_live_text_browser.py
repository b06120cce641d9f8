"""How much text the live page takes, in a real browser: said beside the box, and refused beyond."""

import pytest
from browsers import CHROMIUM
from live_pages import TEXT, opened, written

pytest.importorskip("starlette")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")


@pytest.fixture
def tab(browser, served):
    yield from opened(browser, served.address)


def test_how_much_text_there_may_be_is_said_and_more_is_refused(tab, bundled):
    most = min(256, bundled.n_ctx) - 1
    written(tab, TEXT)
    said = tab.locator("#live-range")
    assert tab.locator("textarea.typed").get_attribute("aria-describedby") == "live-range"
    rule = f"at most {most} tokens, each a number from 0 to {bundled.d_vocab - 1}; a longer text is refused."
    assert said.inner_text() == f"9 of {rule}"
    written(tab, " ".join(["7"] * most))
    assert said.inner_text() == f"{most} of {rule}" and tab.locator(".fault").is_hidden()
    tab.fill("textarea.typed", " ".join(["7"] * (most + 1)))
    tab.wait_for_selector(".fault:not([hidden])")
    assert f"The text has more than the {most} tokens that fit here: shorten it." in tab.locator(".fault").inner_text()
    written(tab, "")
    assert said.inner_text() == f"0 of {rule}"


def test_of_a_model_that_reads_text_tokens_are_counted_in_either_language(browser, served_text):
    for tab in opened(browser, served_text.address):
        written(tab, "one two three")
        assert tab.locator("#live-range").inner_text() == "3 of at most 255 tokens; a longer text is refused."
        tab.click("button:has-text('中文')")
        assert tab.locator("#live-range").inner_text() == "3 个词元，至多 255 个；更长的文本不予接受。"


@pytest.fixture
def served_text(smollm2):
    from induction_lab import explore

    page = explore(smollm2, "one two", browser=False, wait=False)
    yield page
    page.close()
