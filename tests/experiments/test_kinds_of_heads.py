"""The experiment on kinds of heads: whole on the bundled model, and its parts against counting."""

import pandas as pd
import pytest
import torch

from experiments.showcase import kinds_of_heads
from induction_lab import HeadKinds
from induction_lab.circuits.kinds import COLUMNS


def test_tables_maps_and_the_page(tmp_path):
    kinds = ["induction", "previous-token"]
    kinds_of_heads.main(["--models", "induction-2l", "--kinds", *kinds, "--prompts", "4", "--out", str(tmp_path)])
    table, ablated, shared = (
        pd.read_csv(tmp_path / f"kinds_of_heads{end}.csv") for end in ("", "_ablated", "_overlaps")
    )
    assert set(table["kind"]) == set(kinds) and len(table) == 16
    assert set(ablated["behaviour"]) == {"copying"}  # no tokenizer, no tasks
    lost = ablated.set_index("kind")["effect"]
    assert lost["induction"] > 3 and lost["previous-token"] > 3  # of ln 100 nats
    assert (tmp_path / "kinds_of_heads_induction-2l.png").read_bytes()[:4] == b"\x89PNG"
    page = kinds_of_heads.page(table, ablated, shared)
    assert "**L1H3** 0.989" in page and "## What papers predict" in page and "nan" not in page and "not decided" in page


def test_bystanders_are_of_no_kind_and_of_the_same_layers_where_there_are_enough():
    rows = [
        (f"L{layer}H{h}", layer, h, "a", "s", 1.0, 0.0, 0.0, 0.0, (layer, h) in {(0, 0), (1, 0), (1, 1), (1, 2)})
        for layer in range(2)
        for h in range(4)
    ]
    found = HeadKinds("m", pd.DataFrame(rows, columns=COLUMNS))
    for seed in range(20):
        chosen = kinds_of_heads.bystanders(found, found.of("a"), seed)
        assert len(set(chosen)) == 4 == len(chosen)
        assert not set(chosen) & set(found.of("a"))
    assert {head.layer for head in chosen} == {0, 1}


def test_task_prompts_end_where_the_answer_is_next(smollm2):
    prompts, metric = kinds_of_heads.task_prompts(smollm2, 8)
    assert len(prompts) == 8
    row = prompts.tokens[0, : int(prompts.lengths[0])]
    assert smollm2.tokenizer.decode(row).endswith("A:")
    with torch.no_grad():
        logits = smollm2.logits(row[None])[0]
    assert metric(logits, row) == pytest.approx(metric(logits + 3, row), abs=1e-3)
    assert 0 < metric(logits, row) < 12
