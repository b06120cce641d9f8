"""The attention view: the table it is without scripts, and in a real browser what the model's patterns are."""

import re

import pytest
import torch
from browsers import ARGUMENTS, CHROMIUM
from pages import HOSTILE, hostile_model

from induction_lab import capture, plot_pattern, repeated_tokens, show_attention

TEXT = torch.tensor([[0, 5, 9, 17, 33, 21, 5, 9, 17]])
HEADS = ["L1H0", "L0H3", "L1H2", "L0H0", "L1H1"]


@pytest.fixture(scope="module")
def view(bundled):
    return show_attention(bundled, TEXT, HEADS)


def test_it_holds_the_patterns_that_capture_gives_in_the_order_of_the_heads(view, bundled):
    assert list(map(str, view.patterns)) == HEADS and view.tokens[1:] == [str(i) for i in TEXT[0, 1:].tolist()]
    for head, pattern in view.patterns.items():
        expected = capture(bundled, TEXT, "pattern", layers=head.layer)["pattern", head.layer][0, head.head]
        torch.testing.assert_close(pattern, expected, atol=1e-5, rtol=0)
    assert repr(view) == "AttentionView('induction-2l', 9 tokens, L1H0, L0H3, L1H2, L0H0, L1H1)"


def test_without_a_script_it_is_a_table_of_where_each_token_looks(view):
    table, script = view._repr_html_().split("<script>")
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)][1:]
    assert [row[:2] for row in cells] == [[str(i), f"“{token}”"] for i, token in enumerate(view.tokens)]
    for query, row in enumerate(cells):
        for text, pattern in zip(row[2:], view.patterns.values(), strict=True):
            first = re.match(r"“(.*?)” \((\d+)\) ([\d.]+)", text)
            assert first and first[1] == view.tokens[int(first[2])]
            assert float(first[3]) == pytest.approx(float(pattern[query].max()), abs=0.00501)
            assert float(pattern[query, int(first[2])]) == float(pattern[query].max())
    assert script.count("</script>") == 1


def test_it_is_the_same_text_every_time_and_asks_nobody(view, bundled):
    shown = view._repr_html_()
    assert shown == show_attention(bundled, TEXT, HEADS)._repr_html_()
    assert "https://" not in shown and "fetch(" not in shown and "import(" not in shown


def test_padding_is_not_shown_and_one_prompt_is(bundled):
    prompts = repeated_tokens(bundled, period=6, n_prompts=1)
    assert len(show_attention(bundled, prompts, "L1H0").tokens) == prompts.tokens.shape[1]


@pytest.mark.parametrize(
    ("text", "heads", "said"),
    [
        (TEXT, [], "1 to 24 heads, got 0"),
        (TEXT, "L7H0", "L7H0"),
        (TEXT.repeat(2, 1), "L1H0", "one text of at most 256 tokens, got 2 prompts"),
        ("words", "L1H0", "no tokenizer"),
    ],
)
def test_what_cannot_be_shown_is_refused(bundled, text, heads, said):
    with pytest.raises(ValueError, match=said):
        show_attention(bundled, text, heads)


def test_too_many_tokens_or_heads_are_refused(llama, smollm2):
    with pytest.raises(ValueError, match="at most 256 tokens, got 300 tokens"):
        show_attention(smollm2, torch.full((1, 300), 7), "L0H0")
    with pytest.raises(ValueError, match="1 to 24 heads, got 30"):
        show_attention(smollm2, "one two", [(layer, 0) for layer in range(30)])


def test_a_file_that_is_no_page_is_refused_and_a_page_is_written(view, tmp_path):
    with pytest.raises(ValueError, match=r"\.html file"):
        view.save(tmp_path / "view.png")
    path = view.save(tmp_path / "view.html")
    assert path.read_text().startswith("<!doctype html>") and "connect-src" not in path.read_text()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the view's browser tests need playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: make test-browser")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Open a file; afterwards nothing may have been fetched and nothing complained about."""
    contexts, faults = [], []

    def go(path, *, strict=True, **how):
        context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | how))
        contexts.append(context)
        context.route(re.compile("^https?:"), lambda route: route.abort())
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        if strict:
            tab.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
            tab.on("request", lambda asked: faults.append(asked.url) if asked.url.startswith("http") else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(path.as_uri())
        return tab

    yield go
    for context in contexts:
        context.close()
    assert not faults


def row_of(tab, head):
    """The chosen token, and the weights that the page says of it."""
    titles = tab.locator(f"[data-head={head}] .tokens span").evaluate_all("(all) => all.map((span) => span.title)")
    at = tab.locator(f"[data-head={head}] .tokens .active").get_attribute("data-i")
    return int(at), [float(title.split()[0]) for title in titles if title]


def test_every_weight_on_the_page_is_the_model_s(opened, view, tmp_path):
    tab = opened(view.save(tmp_path / "view.html"))
    cards = tab.locator("section.card:visible")
    assert cards.locator("h3").all_inner_texts() == HEADS[:4] and tab.locator("table").is_hidden()
    tab.focus("section[data-head=L0H3] .tokens")
    tab.keyboard.press("Home")
    for query in range(len(view.tokens)):
        for head, pattern in list(view.patterns.items())[:4]:
            at, found = row_of(tab, head)
            assert at == query and found == pytest.approx(pattern[query, : query + 1].tolist(), abs=6e-5)
        tab.keyboard.press("ArrowRight")
    tab.hover("section[data-head=L1H0] [data-i='4']")
    assert row_of(tab, "L0H3")[0] == 4 and "From “33” (4)" in tab.inner_text("section[data-head=L0H3] .looks")


def test_heads_are_chosen_and_the_first_token_is_hidden(opened, view, tmp_path):
    tab = opened(view.save(tmp_path / "view.html"))
    tab.click("button[data-head=L1H1]")
    tab.click("button[data-head=L1H0]")
    shown = tab.locator("section.card:visible h3").all_inner_texts()
    assert shown == HEADS[1:] and tab.get_attribute("button[data-head=L1H0]", "aria-pressed") == "false"
    tab.get_by_label("hide the first token").check()
    assert tab.locator(".tokens .first:visible").count() == 0
    tab.click("summary")
    assert tab.locator("table").is_visible()


def test_without_scripts_the_table_is_there(opened, view, tmp_path):
    tab = opened(view.save(tmp_path / "view.html"), java_script_enabled=False)
    assert tab.locator("table").is_visible() and tab.locator("tr").count() == 1 + len(view.tokens)


def test_markup_in_names_and_tokens_is_text(opened, tmp_path):
    view = show_attention(hostile_model(), "one </script><script>", "L1H0")
    tab = opened(view.save(tmp_path / "view.html"))
    assert tab.title() == f"Where heads of {HOSTILE} look" and tab.locator("img").count() == 0
    assert "onerror" in tab.inner_text(".tokens")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1440, "dark"), (1440, "light")])
def test_it_fits_and_axe_finds_nothing_serious(opened, view, tmp_path, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    size = {"width": width, "height": 900}
    tab = opened(view.save(tmp_path / "view.html"), viewport=size, color_scheme=scheme, bypass_csp=True)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
    paper = tab.locator(".attention-view").evaluate("(root) => getComputedStyle(root).backgroundColor")
    assert paper == ("rgb(18, 21, 27)" if scheme == "dark" else "rgb(246, 246, 243)")
    tab.evaluate(axe.AXE_SCRIPT)
    found = tab.evaluate("() => axe.run().then((result) => result.violations)")
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []


CELL = """
from induction_lab import load_model, show_attention
show_attention(load_model(), [[0, 5, 9, 17, 33, 21, 5, 9, 17]], ["L1H0", "L0H3"])
"""


def test_it_survives_a_notebook_s_export_to_html(opened, view, tmp_path, request):
    nbclient, nbconvert = pytest.importorskip("nbclient"), pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    from nbformat.v4 import new_code_cell, new_notebook

    notebook = new_notebook(cells=[new_code_cell(CELL) for _ in range(2)])
    here = {"metadata": {"path": str(request.config.rootpath)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=here).execute()
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    path = tmp_path / "notebook.html"
    path.write_text(page, "utf-8")
    tab = opened(path, strict=False)  # nbconvert's own page asks for MathJax
    tab.wait_for_selector(".attention-view >> nth=1")
    assert tab.locator(".attention-view").count() == 2
    at = int(tab.locator(".attention-view").first.locator("[data-head=L1H0] .tokens .active").get_attribute("data-i"))
    titles = tab.locator(".attention-view").first.locator("section[data-head=L1H0] .tokens span").all()
    found = [float(span.get_attribute("title").split()[0]) for span in titles[: at + 1]]
    expected = next(iter(view.patterns.values()))[at, : at + 1].tolist()
    assert found == pytest.approx(expected, abs=6e-5)


def test_labels_of_one_s_own_stand_for_the_tokens(bundled):
    words = [f"w{i}" for i in range(8)] + ["<b>\n"]
    view = show_attention(bundled, TEXT, "L1H0", labels=words)
    assert view.tokens == [*words[:8], "<b>⏎"] and "“w5”" in view._repr_html_()
    for wrong, got in ((words[1:], "8"), ("words", "'words'")):
        with pytest.raises(ValueError, match=f"9 keys want as many labels, got {got}: a list of one a token"):
            show_attention(bundled, TEXT, "L1H0", labels=wrong)
        with pytest.raises(ValueError, match=f"9 keys want as many labels, got {got}"):
            plot_pattern(torch.eye(9), labels=wrong)
