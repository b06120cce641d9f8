"""The experiment on kinds of heads: whole on the bundled model, and its parts against counting."""

import math

import pandas as pd
import pytest
import torch

from experiments.showcase import behaviours, kinds_of_heads, kinds_page


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    kinds = ["induction", "previous-token"]
    how = ["--models", "induction-2l", "--kinds", *kinds, "--prompts", "4", "--out", str(folder), "--kept"]
    kinds_of_heads.main([*how, str(folder / "kept")])
    kinds_of_heads.main([*how, str(folder / "kept"), "--resume"])
    return folder


def test_tables_maps_and_the_page(written):
    ends = ("", "_ablated", "_overlaps", "_surviving")
    table, ablated, _, left = (pd.read_csv(written / f"kinds_of_heads{end}.csv") for end in ends)
    assert set(table["kind"]) == {"induction", "previous-token"} and len(table) == 16  # once, though run twice
    assert set(ablated["behaviour"]) == {"copying"}  # no tokenizer, no words
    lost = ablated.set_index("kind")["effect"]
    assert lost["induction"] > 3 and lost["previous-token"] > 3  # of ln 100 nats
    assert left.set_index(["ablated", "kind"]).loc[("previous-token", "induction"), "left"] < 0.1
    assert (written / "kinds_of_heads_induction-2l.png").read_bytes()[:4] == b"\x89PNG"
    page = kinds_page.page(written)
    assert "**L1H3** 0.989" in page and "## What papers predict" in page and "nan" not in page and "not decided" in page
    assert "− previous-token" in page


def test_a_run_that_was_cut_off_is_taken_up(written, monkeypatch):
    monkeypatch.setattr(kinds_of_heads, "classify_heads", None)
    monkeypatch.setattr(kinds_of_heads, "ablation_sweep", None)
    (written / "kept" / "induction-2l_surviving.csv").unlink()
    folder = written / "again"
    how = ["--models", "induction-2l", "--prompts", "4", "--out", str(folder), "--kept", str(written / "kept")]
    kinds_of_heads.main([*how, "--resume"])
    for end in ("", "_ablated", "_surviving"):
        one, other = (pd.read_csv(place / f"kinds_of_heads{end}.csv") for place in (written, folder))
        pd.testing.assert_frame_equal(one, other, atol=1e-6)


def test_rows_of_other_models_stay(tmp_path):
    path = tmp_path / "t.csv"
    kinds_of_heads.replaced(path, pd.DataFrame({"model": ["a", "b"], "x": [1, 2]}))
    kinds_of_heads.replaced(path, pd.DataFrame({"model": ["a"], "x": [3]}))
    assert pd.read_csv(path).to_dict("list") == {"model": ["b", "a"], "x": [2, 3]}


def test_task_prompts_end_where_the_answer_is_next(smollm2):
    prompts, metric = behaviours.task_prompts(smollm2, 8)
    assert len(prompts) == 8
    row = prompts.tokens[0, : int(prompts.lengths[0])]
    assert smollm2.tokenizer.decode(row).endswith("A:")
    with torch.no_grad():
        padded = torch.cat([row, row[-1:]])[None]  # the answer's place is in front of what would follow
        logits = smollm2.logits(padded)[0, : len(row)]
    assert metric(logits, row) == pytest.approx(metric(logits + 3, row), abs=1e-3)
    assert 0 < metric(logits, row) < 12


@pytest.mark.parametrize("kind", behaviours.LISTS)
def test_lists_of_words_are_read_where_each_word_begins(kind, smollm2):
    prompts, metric = behaviours.word_lists(smollm2, kind, 4)
    for row, n in zip(prompts.tokens, prompts.real_lengths.tolist(), strict=True):
        text = smollm2.tokenizer.decode(row[1:n])
        first, second = (part.split(": ")[1].split(", ") for part in text.split("\n"))
        assert len(first) == len(second) == behaviours.N_WORDS and (first == second) == (kind == "words")
        logits = torch.zeros(n, smollm2.d_vocab)
        behind = smollm2.tokenizer.decode(row[1:n]).split("\n")[1].split(": ")[1]
        starts, text = [], text[: -len(behind) - 1]
        for i, word in enumerate(second):
            starts.append(1 + len(smollm2.tokenizer(text)["input_ids"]))
            text += f" {word}" if i == len(second) - 1 else f" {word},"
        for place in starts[behaviours.SHOWN_FIRST :]:
            logits[place - 1, row[place]] = 50.0
        assert metric(logits, row[:n]) < 1e-6  # all that is asked, and at no other place
        logits[starts[-1] - 1] = 0.0
        assert metric(logits, row[:n]) > 1
    unrelated, _ = behaviours.word_lists(smollm2, kind, 4, related=False)
    assert not torch.equal(unrelated.tokens[:, :8], prompts.tokens[:, :8])


def ablations(**changes):
    """Two kinds ablated on copying, as `kinds_of_heads` would write it."""
    row = {"model": "m", "behaviour": "copying", "n_heads": 5, "clean": 1.0, "standard_error": 0.1, "others": 0.2}
    row |= {"others_sd": 0.1, "others_most": 0.4, "n_sets": 10, "farthest": 0, "nothing_to_copy": math.nan}
    kinds = {"induction": 3.0, "token-matching": 2.0, "concept-matching": 1.0}
    return pd.DataFrame([row | {"kind": kind, "effect": effect} | changes for kind, effect in kinds.items()])


def shared(n_heads, n_other, n_shared):
    names = ["model", "kind", "other_kind", "n_heads", "n_other_heads", "n_shared"]
    return pd.DataFrame([("m", "induction", "function-vector", n_heads, n_other, n_shared)], columns=names)


def verdicts(ablated, both):
    """What came out of each prediction."""
    page = kinds_page.predictions(ablated, both)
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in page.splitlines() if line.startswith("| m |")]
    return {(said, came.split()[0]): verdict for said, came, verdict in rows}


def test_no_more_is_said_than_was_decided():
    carry = ("induction heads carry verbatim copying", "induction")
    more = ("copying goes with token heads more than with concept heads", "token-matching")
    for changes, expected in (
        ({}, ("yes", "yes")),
        ({"n_sets": 4}, ("not decided", "not decided")),
        ({"standard_error": 0.6}, ("yes", "not decided")),  # the difference is 1
        ({"others_sd": 2.0}, ("yes", "not decided")),
        ({"others_sd": math.nan}, ("yes", "not decided")),  # of a table that does not hold it
        ({"effect": 0.1}, ("no", "not decided")),
    ):
        found = verdicts(ablations(**changes), shared(8, 8, 0))
        assert (found[carry], found[more]) == expected, changes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((8, 8, 4), "yes"), ((8, 8, 5), "no"), ((3, 8, 3), "no"), ((8, 2, 0), "not decided"), ((1, 6, 1), "not decided")],
)
def test_few_are_both_only_where_it_could_be_otherwise(sizes, expected):
    found = verdicts(ablations(), shared(*sizes))
    assert [v for (said, _), v in found.items() if said.startswith("few heads are both")] == [expected]


def test_what_a_table_does_not_hold_is_not_described():
    old = ablations().assign(farthest=math.nan)
    assert "away" not in kinds_page.how(old, None) and "same layers" not in kinds_page.how(old, None)
    assert "tasks" not in kinds_page.how(old, None) and "table of what is left" not in kinds_page.how(old, None)
    assert "away" in kinds_page.how(ablations(), None)
    assert "away" not in kinds_page.losses(old) and "2 away" in kinds_page.losses(ablations(farthest=2))
