"""What results show in notebooks: words and numbers that are those of the result, everything escaped."""

import json
import re

import pytest
import torch

from induction_lab import (
    FoldedWeights,
    Head,
    HookedModel,
    ablation_sweep,
    attribute_logits,
    capture,
    classify_heads,
    expand_paths,
    explain,
    parse_heads,
    repeated_tokens,
    score_heads,
    text_prompts,
)
from induction_lab.data.prompts import Prompts
from induction_lab.results.cards import html_card


def cells(card: str) -> list[list[str]]:
    """The table's rows as text, those of its head left out."""
    rows = re.findall(r"<tr>(.*?)</tr>", card, re.S)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in rows if "<td" in row]


@pytest.fixture(scope="module")
def prompts(bundled) -> Prompts:
    return repeated_tokens(bundled, n_prompts=3, period=8)


def test_a_model_shows_its_shape_and_what_it_reads(bundled, smollm2):
    shown = dict(cells(smollm2._repr_html_()))
    assert shown["layers"] == "30 of 9 heads each, which share 3 of keys and values"
    assert shown["heads"] == "L0H0 to L29H8" and shown["vocabulary"] == "49,152 tokens"
    assert shown["positions"] == "rotary; prompts up to 8,192 tokens" and shown["reads"].startswith("text and token")
    card = bundled._repr_html_()
    assert dict(cells(card))["reads"] == "token numbers: it has no tokenizer; prompts begin with BOS (token 0)"
    assert f"{sum(p.numel() for p in bundled.network.parameters()):,} parameters" in card and "<th" not in card
    assert "&lt;b&gt;" in HookedModel(bundled.network, name="<b>")._repr_html_()


def test_logit_attributions_show_the_heads_that_add_most(bundled, prompts):
    found = attribute_logits(bundled, prompts)
    rows, heads = cells(found._repr_html_()), found.heads()
    best = Head(*divmod(int(heads.argmax()), 4))
    assert rows[0][:2] == [str(best), f"{heads.max():.3f}"] and len(rows) == 10
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    nothing_copied = attribute_logits(bundled, [[0, 5, 9, 7]])
    assert "none of which is copied" in nothing_copied._repr_html_() and "nan" not in nothing_copied._repr_html_()


def test_activations_show_names_layers_shapes_and_bytes(bundled, prompts):
    acts = capture(bundled, prompts, ["pattern", "logits"])
    assert cells(acts._repr_html_()) == [
        ["logits", "–", "3 × 17 × 256", f"{3 * 17 * 256 * 4:,}"],
        ["pattern", "0, 1", "3 × 4 × 17 × 17", f"{2 * 3 * 4 * 17 * 17 * 4:,}"],
    ]
    assert "of L1H2, L1H0" in capture(bundled, prompts, "z", heads=["L1H2", "L1H0"])._repr_html_()


def test_path_terms_show_the_paths_that_add_most(bundled, prompts):
    terms = expand_paths(bundled, prompts)
    assert repr(terms) == "PathTerms(25 paths on 3 x 17 tokens: direct, 8 through 1 head, 16 through 2 heads)"
    best = terms.attribution().iloc[0]
    assert cells(terms._repr_html_())[0][:2] == [best["path"].replace(">", "&gt;"), f"{best['logits']:.3f}"]
    nothing_copied = expand_paths(bundled, [[0, 5, 9, 7]])._repr_html_()
    assert "25 paths" in nothing_copied and not cells(nothing_copied)


def test_lists_of_heads_show_themselves_and_stay_lists(bundled, prompts):
    scores = score_heads(bundled, prompts)
    best = scores.top("prefix_matching", 2)
    assert isinstance(best, list) and best == list(best)
    assert cells(best._repr_html_()) == [[str(head), f"{value:.3f}"] for head, value in best]
    every = [
        scores.above("prefix_matching"),
        parse_heads("L1H3 L0H1"),
        explain(bundled, prompts, n_random=0).circuit,
        classify_heads(bundled, kinds="induction").of("induction"),
    ]
    for heads in every:
        assert isinstance(heads, list) and json.loads(json.dumps(heads)) == [list(head) for head in heads]
        assert "  ".join(map(str, heads)) in heads._repr_html_() and repr(heads) == repr(list(heads))
    effects = ablation_sweep(bundled, prompts, heads=["L0H3", "L1H3"]).top(1)
    assert cells(effects._repr_html_()) == [[effects[0][0], f"{effects[0][1]:.3f}"]]
    assert "0 heads" in scores.above("prefix_matching", 2.0)._repr_html_()


def test_kinds_show_how_many_heads_and_which(bundled):
    found = classify_heads(bundled, kinds=["induction", "previous-token", "retrieval"])
    rows = {kind: (n, heads) for kind, n, heads in cells(found._repr_html_())}
    assert rows["induction"] == ("4", "  ".join(map(str, found.of("induction")))) and "retrieval" not in rows
    assert "Not to be had of this model: retrieval" in found._repr_html_()


def test_prompts_are_words_where_there_are_words(smollm2, bundled):
    words = text_prompts(smollm2, "one two three")
    assert repr(words) == "Prompts(1 x 4 tokens; text: 'BOS│one│ two│ three')"
    numbers = repeated_tokens(bundled, n_prompts=2, period=3)
    listed = "│".join(map(str, numbers.tokens[0, 1:].tolist()))
    assert repr(numbers) == f"Prompts(2 x 7 tokens; repeated, period 3, 2 copies: 'BOS│{listed}')"
    assert repr(numbers[:0]) == "Prompts(0 x 7 tokens; repeated, period 3, 2 copies)"
    padded = Prompts(torch.tensor([[0, 5, 6, 0]]), torch.tensor([3]))
    assert repr(padded).endswith("'BOS│5│6')")  # padding is no text


def test_weights_and_cards_say_no_more_than_there_is(bundled):
    folded = FoldedWeights(bundled)
    assert repr(folded).startswith("FoldedWeights('induction-2l', 0 of ")
    assert "<p" not in html_card("title", "", (), ())
