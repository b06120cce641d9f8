"""What a sweep says across models: where heads score, how many are of which kind, when they form.

Each reads the frame of `load_sweep`. Prompts and seeds of one model are repetitions: their mean is given, and how far
they lie apart.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from induction_lab.circuits.kinds import KINDS
from induction_lab.development.phase_change import onset
from induction_lab.results.heads import LOOKS

_HEADS = ("model", "metric", "layer", "head", "value")


def head_rows(frame: pd.DataFrame, score: str = "prefix_matching") -> pd.DataFrame:
    """The rows of one head score.

    Raises:
        ValueError: If it was not measured.
    """
    _check_frame(frame)
    heads: Any = frame[(frame["layer"] >= 0) & (frame["head"] >= 0)]
    rows: Any = heads[heads["metric"] == score]
    if rows.empty:
        there = sorted(set(heads["metric"])) or ["none"]
        raise ValueError(f"There is no score {score!r} of heads in this sweep; there are {', '.join(there)}.")
    return rows


def head_map(frame: pd.DataFrame, score: str = "prefix_matching") -> pd.DataFrame:
    """Every head of each model's last snapshot: model, n_layers, n_heads, layer, head, depth (0 … 1), value."""
    rows = last_snapshots(head_rows(frame, score))
    keys = ["model", "n_layers", "n_heads", "layer", "head"]
    found: Any = rows.groupby(keys, as_index=False)["value"].mean()
    found["depth"] = found["layer"] / (found["n_layers"] - 1).clip(lower=1)
    return found


def kind_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each kind of heads, how many there are and which is the highest: one row a cell and kind.

    Columns: model, revision, step, prompts, seed, measurement; `kind`, `n_heads`; `best`, the highest head of the kind,
    or of all where none is of it, with its `value`, `standard_error` and `chance` (NaN where the score states none);
    missing where no head has a number. Kinds that a model does not allow have no row: their reasons are the labels of
    the frame's rows `kind_left_out`.

    Raises:
        ValueError: If it is no sweep's frame, or kinds were not measured.
    """
    cell = ["model", "revision", "step", "prompts", "seed", "measurement", "metric"]
    _check_frame(frame, *cell, "label", "index", "standard_error", "uniform")
    names = {kind.metric: kind.name for kind in KINDS}
    rows: Any = frame[frame["metric"].isin(names)]
    if rows.empty:
        raise ValueError("There are no kinds of heads in this sweep: ask for the measurement `kinds`.")
    rows = rows.assign(is_kind=rows["index"] > 0, place=rows.groupby(cell, dropna=False, sort=False).ngroup())
    in_order = rows.sort_values(["place", "is_kind", "value"], ascending=[True, False, False], kind="stable")
    highest = in_order.drop_duplicates("place").rename(columns={"label": "best", "uniform": "chance"})
    highest["best"] = highest["best"].where(highest["value"].notna())
    counts: Any = rows.groupby("place")["is_kind"].sum()
    found = highest.assign(n_heads=counts.to_numpy(), kind=highest["metric"].map(names))
    columns = [*cell[:-1], "kind", "n_heads", "best", "value", "standard_error", "chance"]
    return found[columns].reset_index(drop=True)


def last_snapshots(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each model the rows of the greatest step, or where there are no steps of the last revision by name."""
    snapshot = ["model", "step", "revision"]
    in_order = rows.sort_values(["step", "revision"], na_position="first", kind="stable")
    return rows.merge(in_order.drop_duplicates("model", keep="last").reindex(columns=snapshot), on=snapshot)


def induction_counts(frame: pd.DataFrame, score: str = "prefix_matching", *, threshold: float = LOOKS) -> pd.DataFrame:
    """How many heads reach the threshold, one row a snapshot.

    Columns: model, revision, step, n_parameters; `count`, its mean over prompts and seeds, `lowest` and `highest`;
    `best`, the best head's score (mean).
    """
    rows = head_rows(frame, score).assign(above=lambda table: table["value"] >= threshold)
    snapshot = ["model", "revision", "step", "n_parameters"]
    each: Any = rows.groupby([*snapshot, "prompts", "seed"], dropna=False)
    each = each.agg(count=("above", "sum"), best=("value", "max")).reset_index()
    found: Any = each.groupby(snapshot, dropna=False)
    found = found.agg(count=("count", "mean"), lowest=("count", "min"), highest=("count", "max"), best=("best", "mean"))
    return found.reset_index().sort_values(["model", "step", "revision"], na_position="first", ignore_index=True)


def formation(frame: pd.DataFrame, score: str = "prefix_matching", *, threshold: float = LOOKS) -> pd.DataFrame:
    """When induction heads form: the first measured step at which the best head reaches the threshold.

    One row a model that was measured at several steps: `seen` (prompts x seeds), `formed` (of those, how many ever
    reach it), `step` (the mean of these), `standard_error`, `lowest`, `highest`, and `after`: the last step measured
    before `lowest`. Heads form somewhere after that one; no finer than the steps measured.
    """
    rows: Any = head_rows(frame, score).dropna(subset=["step"])
    best: Any = rows.groupby(["model", "prompts", "seed", "step"])["value"].max()
    found = []
    for model, of_model in best.groupby(level="model"):
        if of_model.index.get_level_values("step").nunique() < 2:
            continue
        series = [each.droplevel(["model", "prompts", "seed"]) for _, each in of_model.groupby(level=[1, 2])]
        steps = pd.Series([onset(each, threshold) for each in series], dtype="float64")
        known = steps.dropna()
        measured = of_model.index.get_level_values("step").astype(float)
        after = measured[measured < known.min()].max()
        facts = (len(steps), len(known), known.mean(), known.sem(), known.min(), known.max(), after)
        found.append((model, *facts))
    columns = ["model", "seen", "formed", "step", "standard_error", "lowest", "highest", "after"]
    return pd.DataFrame(found, columns=columns)


def _check_frame(frame: Any, *also: str) -> None:
    """Refuse what is no frame of a sweep."""
    wanted = (*_HEADS, *also)
    lacks = [name for name in wanted if name not in frame] if isinstance(frame, pd.DataFrame) else wanted
    if lacks:
        got = f"one without {', '.join(lacks)}" if isinstance(frame, pd.DataFrame) else type(frame).__name__
        raise ValueError(f"A table of a sweep is wanted, from `load_sweep`; got {got}.")
