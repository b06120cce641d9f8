"""Kinds of heads over training: what `classify_heads` says at each checkpoint, and in which order kinds appear."""

import math

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, JambaConfig

from induction_lab import (
    HookedModel,
    Trajectory,
    classify_heads,
    follow_training,
    induction_circuit,
    kinds_over_training,
    order_of_kinds,
    plot_kinds_over_training,
    score_heads,
)
from induction_lab.development.kinds import measure_kinds
from induction_lab.development.rows import Rows, empty_table, typed
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.pages.panel_data import _head_kinds
from induction_lab.results.heads import Head

KINDS = ["induction", "previous-token", "duplicate-token", "retrieval"]
ALONE = {"prompts": {}, "scores": (), "probes": ()}


class Made:
    """A run that is untrained at first and then has heads by hand; it counts how often a model is asked for."""

    name, steps = "made", [0, 5, 10, 20]

    def __init__(self):
        self.asked = []

    def model(self, step):
        self.asked.append(step)
        network = induction_circuit(d_vocab=128)
        if step < 10:
            network = AttentionOnlyTransformer(network.cfg, seed=step)
        return HookedModel(network, name=f"made at {step}")


@pytest.fixture(scope="module")
def followed():
    return follow_training(Made(), **ALONE, kinds=KINDS)


def table(**heads: list[list[int]]) -> Trajectory:
    """A trajectory of kinds: by name, at each of the steps 0, 10, 20, … the heads of layer 0 that are of it."""
    rows = []
    for kind, by_step in heads.items():
        for step, members in enumerate(by_step):
            for head in range(4):
                here = {"run": "r", "step": 10 * step, "prompts": "kinds", "layer": 0, "head": head, "index": None}
                name = kind.replace("_", "-")
                value = 0.9 - 0.1 * head
                rows.append(here | {"metric": f"kind_{name}", "value": value, "standard_error": 0.01})
                rows.append(here | {"metric": f"is_{name}", "value": float(head in members), "standard_error": None})
    return Trajectory(typed(pd.DataFrame(rows)[list(empty_table().columns)]))


def test_every_checkpoint_is_classified_as_by_itself(followed):
    every = kinds_over_training(followed).set_index(["kind", "step"])
    assert set(every.index.get_level_values("kind")) == set(KINDS) - {"retrieval"}
    for step in Made.steps:
        alone = classify_heads(Made().model(step), kinds=KINDS)
        for kind in alone.kinds:
            row, of = every.loc[(kind, step)], alone.table[alone.table["kind"] == kind]
            assert row["n_heads"] == len(alone.of(kind))
            of = of[of["is_kind"]] if of["is_kind"].any() else of
            best = of.loc[of["value"].idxmax()]
            assert row["best"] == best["label"] and row["value"] == pytest.approx(best["value"], abs=1e-6)
            assert row["standard_error"] == pytest.approx(best["standard_error"], abs=1e-6)
            assert row["chance"] == pytest.approx(best["chance"], abs=1e-6)


def test_kinds_that_want_words_are_left_out_with_their_reason(followed):
    (what,) = [what for what in followed.provenance["left_out"] if what.startswith("retrieval")]
    assert "no tokenizer" in what and followed.provenance["left_out"][what] == Made.steps


def test_heads_by_hand_appear_where_they_were_put(followed):
    order = order_of_kinds(followed).set_index("kind")
    for kind, head in (("induction", "L1H0"), ("previous-token", "L0H0")):
        row = order.loc[kind]
        assert (row["order"], row["after"], row["step"], row["first"]) == (1, 5, 10, 10)
        assert row["head"] == head and row["value"] > 0.99 and row["n_heads"] == 1
    never = order.loc["duplicate-token"]
    assert never[["order", "step", "after", "head", "first"]].isna().all() and never["n_heads"] == 0


def test_a_kind_counts_from_the_first_of_two_checkpoints_in_a_row():
    order = order_of_kinds(
        table(
            duplicate_token=[[3], [], [1, 2], [1], []],  # one alone first, and gone at the end
            induction=[[], [0], [0], [0, 1], [0]],
            previous_token=[[], [1], [2], [], [2]],
            successor=[[], [], [], [], [0]],  # the last alone
            retrieval=[[], [], [], [], []],
            concept_matching=[[0], [0], [], [], []],  # from the beginning
        )
    ).set_index("kind")
    numbers = ["order", "step", "after", "first", "n_heads"]
    rows = {kind: [None if pd.isna(x) else int(x) for x in row] for kind, row in order[numbers].iterrows()}
    assert rows == {
        "concept-matching": [1, 0, None, 0, 0],
        "induction": [2, 10, 0, 10, 1],
        "previous-token": [2, 10, 0, 10, 1],
        "duplicate-token": [4, 20, 10, 0, 0],
        "successor": [None, None, None, 40, 1],
        "retrieval": [None, None, None, None, 0],
    }
    assert list(order.index)[0] == "concept-matching" and list(order.index)[-1] == "retrieval"
    assert order.loc["duplicate-token", "head"] == "L0H1"  # the highest that is of the kind, not of all
    assert order.loc["duplicate-token", "value"] == pytest.approx(0.8)
    assert math.isnan(order.loc["retrieval", "value"])


def test_what_is_kept_is_not_measured_again(tmp_path):
    path, run = tmp_path / "kinds.parquet", Made()
    follow_training(run, **ALONE, kinds=KINDS[:2], steps=[0, 10], path=path)
    run.asked.clear()
    whole = follow_training(run, **ALONE, kinds=KINDS[:2], path=path)
    assert sorted(set(run.asked) - {0}) == [5, 20]  # one that is kept is asked for its weights
    pd.testing.assert_frame_equal(
        kinds_over_training(whole), kinds_over_training(follow_training(Made(), **ALONE, kinds=KINDS[:2]))
    )
    pd.testing.assert_frame_equal(order_of_kinds(Trajectory.load(path)), order_of_kinds(whole))


def test_tables_with_kinds_and_without_are_not_mixed(tmp_path):
    with_kinds, without = tmp_path / "with.parquet", tmp_path / "without.parquet"
    how = {"probes": (), "scores": ["prefix_matching"]}
    follow_training(Made(), **how, kinds="induction", steps=[0], path=with_kinds)
    follow_training(Made(), **how, steps=[0], path=without)
    for path, kinds in ((with_kinds, ()), (without, "induction"), (with_kinds, ["induction", "previous-token"])):
        with pytest.raises(ValueError, match="was made with other kinds"):
            follow_training(Made(), **how, kinds=kinds, path=path)
    old = Trajectory.load(without)  # as it was written before there were kinds
    del old.provenance["kinds"]
    old.save(without)
    assert follow_training(Made(), **how, path=without).steps == Made.steps


def test_mistakes_are_refused_before_a_model_is_loaded(followed):
    run = Made()
    with pytest.raises(ValueError, match=r"Unknown kinds \['x'\]; there are induction"):
        follow_training(run, kinds=["induction", "x"])
    assert run.asked == []
    for how in (ALONE, {}):
        with pytest.raises(ValueError, match="retrieval: .*no tokenizer"):
            follow_training(run, **how, kinds=["retrieval", "successor"])
    assert run.asked == [0, 0]
    with pytest.raises(ValueError, match=r"follow_training\(…, kinds="):
        order_of_kinds(Trajectory(empty_table()))
    other = Trajectory(followed.table.assign(run="other"), followed.provenance)
    with pytest.raises(ValueError, match="Choose one of the runs made, other first"):
        kinds_over_training(Trajectory.join([followed, other]))


def test_the_figure_has_a_panel_a_kind_and_a_line_where_it_appears(followed, tmp_path, recwarn):
    figure = plot_kinds_over_training(followed)
    figure.savefig(tmp_path / "kinds.png")
    panels = [ax for ax in figure.axes if ax.get_visible()]
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles[0] == "1. induction, 1 head at most\nafter 5, by 10: L1H0"
    assert titles[2] == "duplicate-token, 0 heads at most\ndoes not appear"
    upright = [line.get_xdata() for line in panels[0].lines if len(set(line.get_xdata())) == 1]
    assert [10, 10] in [list(each) for each in upright] and not recwarn.list


def test_the_command_follows_kinds_beside_all_else(command, tmp_path):
    (tmp_path / "tiny.toml").write_text(
        "[model]\nn_layers = 2\nn_heads = 2\nd_model = 16\nd_head = 8\nn_ctx = 32\n[data]\nkind = 'tiled'\n"
        "d_vocab = 32\nshortest = 3\nlongest = 8\n[training]\nsteps = 6\nbatch = 4\nwarm_up = 2\nevery = 3\n"
    )
    assert command("train", "tiny.toml", "--device", "cpu")[0] == 0
    quick = ("follow", "runs/tiny", "--texts", "4", "--no-probes", "--no-animation")
    assert command(*quick)[0] == 0
    code, out, _ = command(*quick, "--kinds", "induction, previous-token,successor")  # after all else, too
    assert code == 0 and "in the order in which they appear" in out and "successor: it reads words" in out
    kept = tmp_path / "results" / "tiny_kinds.parquet"
    assert set(kinds_over_training(Trajectory.load(kept))["kind"]) == {"induction", "previous-token"}
    assert kept.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    for kinds, message in (
        (("--kinds", "x"), "Unknown kinds"),
        (("--kinds", "function-vector", "--no-causal"), "known only by what changing a head does"),
        (("--kinds", ","), "--kinds wants names separated by commas, or all"),
        (("--kinds", "induction"), "was made with other kinds"),
    ):
        code, _, err = command(*quick, *kinds)
        assert code == 2 and message in err and "Traceback" not in err
    code, _, err = command(*quick, "--kinds", "retrieval", "--out", "fresh")
    assert code == 2 and "no tokenizer" in err and not (tmp_path / "fresh").exists()  # before anything is measured


def test_heads_of_hybrids_keep_their_layers():
    """Layers 1 and 3 of 4 attend: `classify_heads` has rows of these alone."""
    torch.manual_seed(0)
    config = JambaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, num_experts=2,
        mamba_d_state=8,
    )  # fmt: skip
    model = HookedModel(AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval(), name="jamba")
    rows = Rows("jamba", 0)
    measure_kinds(model, ["previous-token", "copy-suppression"], rows)
    table, found = rows.table(), classify_heads(model, kinds=["previous-token", "copy-suppression"])
    for kind in found.kinds:
        for column, metric in (("value", f"kind_{kind}"), ("is_kind", f"is_{kind}")):
            there = table[table["metric"] == metric].set_index(["layer", "head"])["value"].to_dict()
            of = found.table[found.table["kind"] == kind].set_index(["layer", "head"])[column].astype(float).to_dict()
            assert there == pytest.approx(of, abs=1e-6) and {layer for layer, _ in there} == {1, 3}
    shown = _head_kinds(found, score_heads(model, scores="previous_token"))  # the report numbers heads through
    for kind in shown["kinds"]:
        assert [i for i, value in enumerate(kind["values"]) if value is not None] == [4, 5, 6, 7, 12, 13, 14, 15]
        assert [str(Head(*divmod(i, 4))) for i in kind["heads"]] == [str(head) for head in found.of(kind["name"])]


def test_what_is_no_trajectory_is_refused(bundled, unchecked):
    found = classify_heads(bundled, kinds="previous-token")
    for function in (kinds_over_training, order_of_kinds, plot_kinds_over_training):
        with pytest.raises(ValueError, match="`trajectory` must be Trajectory, from `follow_training`; got HeadKinds"):
            function(found)
