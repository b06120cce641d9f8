import math

import pandas as pd
import pytest
import torch

from induction_lab.development.rows import COLUMNS, Rows, empty_table
from induction_lab.development.trajectory import Trajectory


def checkpoint(run, step, *, scale=1.0):
    rows = Rows(run, step)
    heads = torch.arange(6.0).reshape(2, 3) * scale
    rows.add_heads("gap 9", "prefix_matching", heads, heads / 10)
    rows.add_heads("period 20", "prefix_matching", heads + 100, torch.full((2, 3), math.nan))
    rows.add_heads("weights", "composition_K", torch.tensor([[math.nan] * 3, [0.1, 0.2, 0.3]]), 0.0)
    rows.add_indexed("texts", "loss", torch.arange(1, 4), torch.tensor([4.0, 3.0, 2.0]) * scale)
    rows.add_one("texts", "icl_score", -0.4 * scale, 0.1)
    return rows


def example(run="a", steps=(0, 100, 50)):
    return Trajectory(
        pd.concat([checkpoint(run, step, scale=1 + step).table() for step in steps], ignore_index=True), {"seed": 3}
    )


def test_rows_are_tidy_and_typed():
    table = checkpoint("a", 7).table()
    assert tuple(table.columns) == COLUMNS and len(table) == 6 + 6 + 3 + 3 + 1
    assert table.dtypes.astype(str).to_dict() == empty_table().dtypes.astype(str).to_dict()
    row = table.loc[(table["prompts"] == "gap 9") & (table["layer"] == 1) & (table["head"] == 2)].iloc[0]
    assert (row["run"], row["step"], row["value"]) == ("a", 7, 5.0) and row["standard_error"] == pytest.approx(0.5)
    assert row["index"] is pd.NA
    assert table.loc[table["metric"] == "loss", ["layer", "head"]].isna().all(axis=None)


def test_numbers_that_are_not_finite_become_no_row_and_are_named_where_none_is_left():
    rows = checkpoint("a", 7)
    assert rows.left_out == {}
    rows.add_one("texts", "mean_loss", math.nan)
    rows.add_heads("gap 9", "resting", torch.full((2, 3), math.inf))
    assert rows.left_out == {"mean_loss on texts": "no finite number", "resting on gap 9": "no finite number"}
    assert len(rows.table()) == 19 and Rows("a", 7).table().empty


def test_series_are_one_number_by_step_in_order():
    trajectory = example()
    assert trajectory.series("icl_score").to_dict() == pytest.approx({0: -0.4, 50: -20.4, 100: -40.4})
    assert trajectory.series("icl_score", column="standard_error").tolist() == [0.1] * 3
    assert trajectory.series("loss", index=2).to_dict() == {0: 3.0, 50: 153.0, 100: 303.0}
    # of several prompts the first in the table, unless others are asked for
    assert trajectory.series("prefix_matching", head="L1H0").tolist() == [3.0, 153.0, 303.0]
    assert trajectory.series("prefix_matching", prompts="period 20", head=(1, 0)).tolist() == [103.0, 253.0, 403.0]


def test_best_and_heads_agree_with_a_look_at_every_row():
    trajectory = example()
    heads = trajectory.heads("prefix_matching", "period 20")
    for row in trajectory.table.to_dict("records"):
        if row["metric"] == "prefix_matching" and row["prompts"] == "period 20":
            assert heads[[0, 50, 100].index(row["step"]), row["layer"], row["head"]] == row["value"]
    best = trajectory.best("prefix_matching", prompts="period 20")
    assert best.tolist() == heads.flatten(1).amax(1).tolist() and best.name == "prefix_matching"
    composition = trajectory.heads("composition_K")
    assert composition[:, 0].isnan().all() and composition[0, 1].tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda t: t.series("nothing"),
            "Nothing of the name 'nothing' was measured; there are prefix_matching, com",
        ),
        (lambda t: t.series("loss", prompts="gap 9", index=1), "loss was not measured on 'gap 9'; it was on 'texts'"),
        (lambda t: t.series("prefix_matching"), r"number for each head: head=L0H0 … L1H2, or .*best\('prefix_m"),
        (lambda t: t.series("loss"), "loss has a number for each index: index=1 … 3"),
        (lambda t: t.series("loss", index=4), "index=1 … 3"),
        (lambda t: t.series("loss", head="L0H0", index=1), "loss has no number for each head"),
        (lambda t: t.series("icl_score", index=1), "icl_score has no number for each index"),
        (lambda t: t.series("prefix_matching", head="L5H0"), "L5H0"),
        (lambda t: t.best("loss"), "loss has no number for each head"),
        (lambda t: t.heads("icl_score"), "icl_score has no number for each head"),
        (lambda t: t.run("b"), "There is no run 'b' here; there are a"),
        (lambda t: Trajectory.join([t, t]), "Runs of different names are wanted, got a, a"),
        (lambda t: Trajectory.join([]), "got none"),
    ],
)
def test_questions_without_one_answer_say_what_there_is(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(example())


def test_joined_runs_come_apart_again():
    a, b = example("a"), example("b", steps=(10,))
    both = Trajectory.join([a, b])
    assert both.runs == ["a", "b"] and both.steps == [0, 10, 50, 100]
    for one in (a, b):
        apart = both.run(one.runs[0])
        pd.testing.assert_frame_equal(apart.table, one.table)
        assert apart.provenance == one.provenance
    with pytest.raises(ValueError, match=r"Choose one of the runs a, b first: trajectory.run\(name\)"):
        both.best("prefix_matching")
    assert Trajectory.join([both, example("c")]).runs == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_what_is_saved_is_what_is_loaded(tmp_path, suffix):
    trajectory = Trajectory.join([example("a"), example("b")])
    loaded = Trajectory.load(trajectory.save(tmp_path / f"t{suffix}"))
    pd.testing.assert_frame_equal(loaded.table, trajectory.table)
    assert loaded.provenance == trajectory.provenance


def test_files_that_hold_no_trajectory_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        Trajectory.load(tmp_path / "t.csv")
    example().table.drop(columns="metric").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="lacks the columns"):
        Trajectory.load(tmp_path / "t.csv")
    example().table.assign(layer="first").to_csv(tmp_path / "u.csv", index=False)
    with pytest.raises(ValueError, match="u.csv holds no readable trajectory"):
        Trajectory.load(tmp_path / "u.csv")


def test_the_repr_says_what_is_inside():
    assert repr(example()) == "Trajectory(a: 3 steps 0 … 100, 4 metrics)"
    assert repr(Trajectory(empty_table())) == "Trajectory(nothing measured)"
