"""What a cheaper sweep costs in error: the columns against a plain loop over heads; and what a cut prompt says."""

import math
import re
import statistics

import pandas as pd
import pytest
import torch

from experiments.benchmarks import below_the_floor
from experiments.harness import ROOT
from induction_lab import Effects, ablation_sweep, repeated_tokens
from induction_lab.behaviour.metrics import Metric
from induction_lab.interventions.effects import COLUMNS

HEADS = [(1, head) for head in range(4)]


def effects(numbers):
    rows = [
        {"label": f"L0H{i}", "effect": effect, "standard_error": error} for i, (effect, error) in enumerate(numbers)
    ]
    return Effects(pd.DataFrame(rows, columns=list(COLUMNS)))


def by_hand(exact, other, ratio):
    """Plain Python, a head at a time."""

    def sign(effect, error):
        return 0 if abs(effect) <= 2 * error else math.copysign(1, effect)

    pairs = list(zip(exact, other, strict=True))
    apart = [abs(b[0] - a[0]) for a, b in pairs]
    times = statistics.median(b[1] / a[1] for a, b in pairs)
    ranks = [torch.tensor([effect for effect, _ in one]).argsort().argsort().double() for one in (exact, other)]
    return {
        "heads": len(pairs),
        "median_difference": statistics.median(apart),
        "largest_difference": max(apart),
        "of": f"L0H{apart.index(max(apart))}",
        "median_error": statistics.median(error for _, error in exact),
        "beyond_error": sum(distance > a[1] for distance, (a, _) in zip(apart, pairs, strict=True)),
        "rank_correlation": float(torch.corrcoef(torch.stack(ranks))[0, 1]),
        "above_0.1": sum(abs(effect) > 0.1 for effect, _ in exact),
        "change_sides": sum((abs(a[0]) > 0.1) != (abs(b[0]) > 0.1) for a, b in pairs),
        "beyond_2_errors": sum(sign(*a) != 0 for a in exact),
        "verdicts_change": sum(sign(*a) != sign(*b) for a, b in pairs),
        "error_ratio": times,
        "error_same_time": times * math.sqrt(ratio),
    }


@pytest.mark.parametrize("seed", range(5))
def test_error_columns_are_those_of_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    exact = torch.stack([0.2 * torch.randn(40, generator=generator), 0.1 * torch.rand(40, generator=generator)], 1)
    other = exact * (1 + 0.4 * torch.randn(exact.shape, generator=generator)).clamp(min=0.1)
    exact, other = exact.double().tolist(), other.double().tolist()
    found = below_the_floor.error_row(effects(exact), effects(other), 0.49)
    expected = by_hand(exact, other, 0.49)
    assert expected["change_sides"] and expected["verdicts_change"] and expected["beyond_error"]
    assert found.pop("of") == expected.pop("of")
    assert found == pytest.approx(expected, abs=1e-3)


def test_nothing_changes_where_nothing_differs_and_a_flipped_head_is_counted():
    exact = [(0.5, 0.01), (-0.3, 0.02), (0.02, 0.03), (0.0, 0.05)]
    same = below_the_floor.error_row(effects(exact), effects(exact), 1.0)
    assert same["largest_difference"] == same["beyond_error"] == same["change_sides"] == same["verdicts_change"] == 0
    assert same["rank_correlation"] == same["error_ratio"] == same["error_same_time"] == 1
    flipped = below_the_floor.error_row(effects(exact), effects([(-0.5, 0.01), *exact[1:]]), 1.0)
    assert flipped["verdicts_change"] == 1 and flipped["beyond_error"] == 1 and flipped["of"] == "L0H0"
    assert flipped["change_sides"] == 0  # as far from 0 as before


def test_a_cut_second_copy_says_what_its_tokens_say_in_the_whole_one(bundled):
    prompts = repeated_tokens(bundled, n_prompts=3)

    def first_ten(some):
        weights = torch.zeros(some.tokens.shape)
        weights[:, 51:60] = 1 / 9  # queries whose next token is one of the first 10 but the first
        return weights

    way = below_the_floor.cut(10)(below_the_floor.Way(bundled, prompts), HEADS)
    found = way.sweep(HEADS).table
    expected = ablation_sweep(bundled, prompts, heads=HEADS, metric=Metric("first_ten", first_ten)).table
    whole = ablation_sweep(bundled, prompts, heads=HEADS).table
    for column in ("clean", "effect", "standard_error"):
        assert found[column].to_numpy() == pytest.approx(expected[column].to_numpy(), abs=1e-4)
    assert (found["effect"] - whole["effect"]).abs().max() > 0.01  # control: another quantity


def test_ways_say_why_they_cannot_be_had(bundled, monkeypatch):
    exact = below_the_floor.Way(bundled, repeated_tokens(bundled, n_prompts=2))
    with pytest.raises(below_the_floor.NotHereError, match="refused: Autocast is on"):
        below_the_floor.autocast(exact, HEADS)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(below_the_floor.NotHereError, match="this processor has none of avx512_bf16"):
        below_the_floor.bfloat16(exact, HEADS)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # control
    assert below_the_floor.bfloat16(exact, HEADS).model.dtype == torch.bfloat16


def test_what_is_in_force_during_a_way_is_not_afterwards(bundled):
    exact = below_the_floor.Way(bundled, repeated_tokens(bundled, n_prompts=2))
    way = below_the_floor.medium(exact, HEADS)
    with way.inside():
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_comes_once_pays_for_itself_after_what_it_saves():
    way = below_the_floor.Way(None, None, once=30.0)
    row = below_the_floor.time_row([(0.5, 0.6, 10.0), (0.4, 0.6, 10.0), (0.7, 0.5, 20.0)], way)
    assert (row["cpu_ratio"], row["lowest"], row["highest"], row["wall_ratio"]) == (0.5, 0.4, 0.7, 0.6)
    assert row["pays_after_sweeps"] == 6.0  # half of 10 seconds a sweep
    assert below_the_floor.time_row([(1.2, 1.2, 10.0)], way)["pays_after_sweeps"] == "never"


def test_the_tables_are_of_the_ways_that_were_asked_for(tmp_path):
    out = tmp_path / "below.csv"
    short = ["--model", "induction-2l", "--prompts", "2", "--every", "1", "--rounds", "1", "--out", str(out)]
    below_the_floor.main([*short, "--way", "autocast", "second-copy-25"])
    times, errors = pd.read_csv(out), pd.read_csv(tmp_path / "below_error.csv")
    assert times["way"].tolist() == ["autocast", "second-copy-25"] and errors["way"].tolist() == ["second-copy-25"]
    assert times["rounds"].isna().tolist() == [True, False] and errors["heads"].tolist() == [8]


def test_the_page_on_causes_says_what_the_tables_say():
    page = (ROOT / "docs" / "causes.md").read_text()
    said = page.partition("## How a sweep of ablations saves time")[2].partition("\n## ")[0]
    numbers = set(re.findall(r"\d+\.\d+", said.replace("screen=0.1", "").replace("0.1 nats", "").replace("± 0.1", "")))
    tables = [pd.read_csv(below_the_floor.HERE / f"below_the_floor{which}.csv") for which in ("", "_error")]
    known = [value for table in tables for value in table.select_dtypes("number").to_numpy().ravel().tolist()]
    assert len(numbers) >= 6
    stale = [x for x in numbers if all(f"{value:.{len(x.partition('.')[2])}f}" != x for value in known)]
    assert not stale, f"{stale} are in neither table"
