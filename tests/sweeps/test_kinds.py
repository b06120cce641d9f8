"""Kinds of heads as a measurement of sweeps: what `classify_heads` says, in cells like all others."""

import math

import pandas as pd
import pytest

from induction_lab import classify_heads, kind_counts, load_sweep, load_sweep_plan, repeated_tokens, sweep
from induction_lab.circuits.kinds import KINDS
from induction_lab.sweeps import plan as plan_module
from induction_lab.sweeps.measurements import KindsSettings
from induction_lab.sweeps.summaries import head_map, induction_counts

ASKED = {
    "models": ["induction-2l"],
    "prompts": {"short": {"period": 8, "n_prompts": 4}},
    "measurements": {"kinds": {"causal": False}},
    "seeds": [3],
    "device": "cpu",
}
BEFORE = {  # keys that cells had before kinds could be asked for, at version 1 of the definitions
    "head_scores": "a21cdf40137ecfb0264273c1853cf134",
    "losses": "c9579a44c92ab2fe3a3bfedee845c416",
    "circuit": "fe227812554572a7d9645c9bc5885974",
    "ablation": "013fd50a4147e7d8dafe26c473bfc9b2",
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return sweep(ASKED, folder), load_sweep(folder), folder


@pytest.fixture(scope="module")
def direct(bundled):
    return classify_heads(bundled, repeated_tokens(bundled, period=8, n_prompts=4, seed=3), causal=False)


def test_a_cell_holds_what_classify_heads_says(swept, direct):
    done, frame, _ = swept
    assert done.computed == 1 and done.failed == {}
    heads = frame[frame["layer"] >= 0].set_index(["metric", "label"])
    assert len(heads) == len(direct.table)
    for row in direct.table.to_dict("records"):
        there = heads.loc[(f"kind_{row['kind']}", row["label"])]
        assert there["value"] == pytest.approx(row["value"], abs=1e-7)
        assert there["standard_error"] == pytest.approx(row["standard_error"], abs=1e-7)
        assert there["uniform"] == pytest.approx(row["chance"], nan_ok=True)
        assert (there["index"] > 0) == row["is_kind"]
    for kind in direct.kinds:
        members = heads.loc[f"kind_{kind}"]
        members = members[members["index"] > 0].sort_values("index")
        assert members.index.tolist() == [str(head) for head in direct.of(kind)]
        assert members["index"].tolist() == list(range(1, len(members) + 1))


def test_kinds_that_cannot_be_had_say_why(swept, direct):
    said = swept[1][swept[1]["metric"] == "kind_left_out"]
    assert said["label"].tolist() == [f"{kind}: {why}" for kind, why in direct.left_out.items()]
    assert "retrieval" in direct.left_out and said["label"].str.contains("no tokenizer").any()
    assert said["value"].isna().all()


def test_the_counts_are_those_of_the_table(swept, direct):
    counts = kind_counts(swept[1])
    assert counts["kind"].tolist() == list(direct.kinds) and set(counts["seed"]) == {3}
    for row in counts.to_dict("records"):
        rows = direct.table[direct.table["kind"] == row["kind"]]
        assert row["n_heads"] == len(direct.of(row["kind"]))
        rows = rows[rows["is_kind"]] if rows["is_kind"].any() else rows  # as in `kinds_over_training`
        assert row["best"] == rows.loc[rows["value"].idxmax(), "label"]
        assert row["value"] == pytest.approx(rows["value"].max()) and math.isfinite(row["standard_error"])
        assert row["chance"] == pytest.approx(rows["chance"].iloc[0], nan_ok=True)


def test_cells_of_several_draws_are_counted_by_themselves(tmp_path):
    asked = {**ASKED, "seeds": [0, 1], "measurements": {"kinds": {"kinds": ["induction", "previous-token"]}}}
    sweep(asked, tmp_path)
    counts = kind_counts(load_sweep(tmp_path))
    assert list(zip(counts["seed"], counts["kind"], strict=True)) == [
        (seed, kind) for seed in (0, 1) for kind in ("induction", "previous-token")
    ]
    assert counts["value"].nunique() == 4


def test_finished_cells_are_found_and_other_settings_are_other_cells(swept):
    folder = swept[2]
    again = sweep(ASKED, folder)
    assert (again.found, again.computed) == (1, 0)
    other = load_sweep_plan({**ASKED, "measurements": {"kinds": {"kinds": ["induction"]}}})
    assert other.cells()[0].key != load_sweep_plan(ASKED).cells()[0].key


def test_cells_of_other_measurements_keep_their_keys(monkeypatch):
    monkeypatch.setattr(plan_module, "DEFINITIONS_VERSION", 1)
    asked = {"models": ["no/such-model"], "prompts": {"short": {"period": 5}}, "measurements": list(BEFORE)}
    assert {cell.name: cell.key for cell in load_sweep_plan(asked).cells()} == BEFORE


def test_what_it_costs_is_known_before():
    assert KindsSettings(("induction",)).forwards < KindsSettings(causal=False).forwards < KindsSettings().forwards


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["x"]}, r"Unknown kinds \['x'\]; there are induction"),
        ({"kinds": "induction"}, "must be a list"),
        ({"causal": "no"}, "must be true or false"),
        ({"scores": ["copying"]}, r"\[measurements.kinds\] has no scores; it has kinds, causal"),
        ({"kinds": ["function-vector"], "causal": False}, "function-vector: known only by what changing a head does"),
    ],
)
def test_a_mistake_is_one_clear_error(settings, message):
    with pytest.raises(ValueError, match=message):
        load_sweep_plan({**ASKED, "measurements": {"kinds": settings}})


def test_one_prompt_is_no_test_and_kinds_that_are_not_there_no_cell(tmp_path):
    one = {**ASKED, "prompts": {**ASKED["prompts"], "one": {"period": 8, "n_prompts": 1}}}
    with pytest.raises(
        ValueError, match="kinds on one: it is tested over prompts, so `n_prompts` must be at least 2, got 1"
    ):
        load_sweep_plan(one)
    load_sweep_plan({**one, "measurements": {"kinds": {"kinds": ["retrieval", "successor"]}}})  # has prompts of its own
    load_sweep_plan({**one, "measurements": ["head_scores"]})
    done = sweep({**ASKED, "measurements": {"kinds": {"kinds": ["retrieval"]}}}, tmp_path / "words")
    (error,) = done.failed.values()
    assert error.startswith("retrieval: ") and "no tokenizer" in error


def test_a_sweep_without_kinds_says_how_to_have_them(swept):
    other = swept[1][~swept[1]["metric"].isin([kind.metric for kind in KINDS])]
    with pytest.raises(ValueError, match="ask for the measurement `kinds`"):
        kind_counts(other)


def test_the_best_is_the_highest_of_the_kind_and_nothing_where_no_head_has_a_number(swept):
    frame = swept[1].copy()
    of = frame["metric"] == "kind_induction"
    low = frame[of & (frame["label"] == "L0H0")].index
    frame.loc[low, "value"] = 2.0  # the highest of all, and of no kind
    frame.loc[frame["metric"] == "kind_duplicate-token", ["value", "index"]] = [math.nan, 0]
    counts = kind_counts(frame).set_index("kind")
    members = frame[of & (frame["index"] > 0)]
    assert counts.loc["induction", "best"] == members.loc[members["value"].idxmax(), "label"] != "L0H0"
    row = counts.loc["duplicate-token"]
    assert row["n_heads"] == 0 and pd.isna(row["best"]) and math.isnan(row["value"])


def test_what_is_no_frame_of_a_sweep_is_refused(swept, direct, unchecked):
    lacking = swept[1].drop(columns=["metric"])
    for function in (kind_counts, head_map, induction_counts):
        with pytest.raises(ValueError, match="from `load_sweep`; got one without metric"):
            function(lacking)
        with pytest.raises(ValueError, match="from `load_sweep`; got HeadKinds"):
            function(direct)
