import math

import pandas as pd
import pytest
import torch

from induction_lab.interventions.effects import COLUMNS, Effects, effect_row, effects_table
from induction_lab.results.heads import Head


def example(values=((1.0, 3.0), (2.0, 2.5), (4.0, 4.0))):
    before = torch.tensor([0.5, 1.5])
    labels = ["L0H1", "both", "embed"]
    groups = [(Head(0, 1),), (Head(0, 0), Head(1, 1)), ()]
    rows = {
        label: effect_row("m", label, group, "zero ablation", "loss", before, torch.tensor(after))
        for label, group, after in zip(labels, groups, values, strict=True)
    }
    return Effects(effects_table(rows, labels), {"seed": 3})


def test_a_row_holds_means_and_the_standard_error_of_paired_differences():
    before, after = torch.tensor([1.0, 2.0, 4.0, torch.nan]), torch.tensor([2.0, 2.5, 7.0, 99.0])
    row = effect_row("m", "L2H3", (Head(2, 3),), "mean ablation", "copy_loss", before, after)
    differences = [1.0, 0.5, 3.0]  # the last prompt has no value
    mean = sum(differences) / 3
    spread = math.sqrt(sum((x - mean) ** 2 for x in differences) / 2)
    assert tuple(row) == COLUMNS
    assert (row["layer"], row["head"], row["n_heads"], row["n_prompts"]) == (2, 3, 1, 3)
    assert row["clean"] == pytest.approx(7 / 3) and row["changed"] == pytest.approx(11.5 / 3)
    assert row["effect"] == pytest.approx(mean) and row["standard_error"] == pytest.approx(spread / math.sqrt(3))


def test_one_prompt_has_no_standard_error_and_many_heads_no_place():
    one = effect_row("m", "x", (Head(0, 0), Head(1, 0)), "zero", "loss", torch.ones(1), torch.ones(1))
    assert math.isnan(one["standard_error"]) and (one["layer"], one["head"], one["n_heads"]) == (-1, -1, 2)


def test_rows_stand_in_the_order_asked_and_those_not_there_are_left_out():
    rows = {str(i): effect_row("m", str(i), (), "zero", "loss", torch.ones(2), torch.ones(2)) for i in range(3)}
    assert effects_table(rows, ["2", "5", "0"])["label"].tolist() == ["2", "0"]


def test_top_of_matrix_and_repr_read_the_table():
    effects = example()
    assert effects.top(2) == [("embed", 3.0), ("both", 1.25)]
    assert effects.of("both")["changed"] == 2.25
    with pytest.raises(ValueError, match="no row 'L9H9'; there are L0H1, both, embed"):
        effects.of("L9H9")
    matrix = effects.matrix(2, 2)
    assert float(matrix[0, 1]) == 1.0 and matrix.isnan().sum() == 3
    assert float(effects.matrix(2, 2, "changed")[0, 1]) == 2.0
    assert repr(effects) == "Effects('m', 3 rows of zero ablation, loss: embed +3.00)"


def test_correlation_is_one_with_itself_and_minus_one_with_its_opposite():
    effects = example()
    for kind in ("pearson", "spearman"):
        assert effects.correlation(effects, kind=kind) == pytest.approx(1.0)
        opposite = Effects(effects.table.assign(effect=-effects.table["effect"]))
        assert effects.correlation(opposite, kind=kind) == pytest.approx(-1.0)


def test_correlation_pairs_labels_whatever_their_order_and_leaves_out_the_rest():
    effects = example()
    shuffled = pd.concat([effects.table.iloc[::-1], effects.table.iloc[:1].assign(label="other", effect=99.0)])
    assert effects.correlation(Effects(shuffled)) == pytest.approx(1.0)
    bent = Effects(effects.table.assign(effect=effects.table["effect"] ** 5))
    assert effects.correlation(bent, kind="spearman") == pytest.approx(1.0)
    assert effects.correlation(bent) < 0.999


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_what_is_saved_is_read_again(tmp_path, suffix):
    effects = example()
    effects.table.loc[0, "standard_error"] = math.nan  # as of a single prompt
    path = effects.save(tmp_path / f"effects{suffix}")
    again = Effects.load(path)
    pd.testing.assert_frame_equal(again.table, effects.table, rtol=1e-12)
    assert again.provenance == effects.provenance


def test_refuses_what_holds_no_effects(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        Effects.load(tmp_path / "nothing.csv")
    pd.DataFrame({"label": ["L0H0"]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ValueError, match="no readable table of effects.*lacks the columns"):
        Effects.load(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="kept as .parquet, .csv, .json, got 'effects.txt'"):
        example().save(tmp_path / "effects.txt")
