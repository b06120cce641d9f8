"""Kinds of heads over training: how many heads are of each kind at every checkpoint, and in which order kinds appear.

Rows of a trajectory, all on the prompts called `kinds` (those of `classify_heads` and of its scores):

    kind_induction      every head's value, with its standard error; likewise of the other kinds
    is_induction        1 where the head is of the kind, else 0
    chance_induction    what chance gives, where the score states it

A kind that has no heads is said to have one at no more than about 5 % of checkpoints, the rate of false discoveries at
each of them; and among many checkpoints that happens. So a kind counts as there from the first checkpoint on at which
it has a head and at the next one too. Checkpoints close to each other resemble each other: what is noise in one may
be in the next. Kinds that are known from the weights alone are not tested; there the value decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.circuits.kinds import BY_NAME, Kind, classify_heads, every_head
from induction_lab.development.rows import Rows
from induction_lab.development.trajectory import Trajectory
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import Head
from induction_lab.results.saved import check_result

ON = "kinds"  # what the column `prompts` holds


def measure_kinds(model: HookedModel, kinds: Sequence[str], rows: Rows) -> None:
    """Add the kinds of a model's heads; those that it does not allow go to `rows.left_out`."""
    found = classify_heads(model, kinds=kinds)
    rows.left_out |= found.left_out
    for name in found.kinds:
        kind = BY_NAME[name]
        rows_of: Any = found.table[found.table["kind"] == name]
        of: Any = every_head(rows_of, model.n_layers, model.n_heads)
        rows.add_heads(ON, kind.metric, _by_head(of, "value", model), _by_head(of, "standard_error", model))
        rows.add_heads(ON, _member(kind), _by_head(of, "is_kind", model))
        if (chance := float(of["chance"].max())) == chance:
            rows.add_one(ON, _chance(kind), chance)


def kinds_over_training(trajectory: Trajectory) -> pd.DataFrame:
    """How many heads are of each kind at every checkpoint, and the highest: one row a kind and checkpoint.

    Columns: `kind`, `step`, `n_heads`; `best`, the highest head of the kind, or of all where none is of it, with its
    `value`, `standard_error` and `chance` (NaN where the score states none).

    Raises:
        ValueError: If kinds were not measured, or there are several runs.
    """
    check_result(trajectory, Trajectory, "trajectory", "follow_training")
    if len(trajectory.runs) > 1:
        raise ValueError(f"Choose one of the runs {', '.join(trajectory.runs)} first: trajectory.run(name).")
    found = []
    for kind in BY_NAME.values():
        parts = (kind.metric, _member(kind), _chance(kind))
        place: Any = ["step", "layer", "head"]
        every: Any = trajectory.table
        values, members, chance = (every[every["metric"] == name] for name in parts)
        heads: Any = values.merge(members[[*place, "value"]].rename(columns={"value": "is_kind"}), on=place)
        heads = heads.sort_values(["step", "is_kind", "value"], ascending=[True, False, False], kind="stable")
        best: Any = heads.drop_duplicates("step").assign(kind=kind.name)
        best["best"] = [
            str(Head(int(layer), int(head))) for layer, head in zip(best["layer"], best["head"], strict=True)
        ]
        counts: Any = heads.groupby("step")["is_kind"].sum()
        best["n_heads"] = counts.to_numpy().astype(int)
        best["chance"] = best["step"].map(chance.set_index("step")["value"])
        found.append(best[["kind", "step", "n_heads", "best", "value", "standard_error", "chance"]])
    if not any(map(len, found)):
        raise ValueError("Kinds of heads were not measured: follow_training(…, kinds=[…]).")
    return pd.concat([each for each in found if len(each)], ignore_index=True)


def order_of_kinds(trajectory: Trajectory) -> pd.DataFrame:
    """In which order kinds appear: one row a kind, the first to appear first, those that never do last.

    Columns: `kind`; `order`, 1 the first, the same where kinds appear at the same checkpoint; `step`, the first
    checkpoint at which the kind has a head and at the next one too; `after`, the checkpoint before that, so that it
    appears somewhere between the two; `head`, the highest of the kind at `step`, with `value` and `standard_error`;
    `first`, the first checkpoint at which it has a head at all; `n_heads`, how many at the last checkpoint. What there
    is not is missing (<NA>, NaN).

    Raises:
        ValueError: If kinds were not measured, or there are several runs.
    """
    found = []
    for name, rows in kinds_over_training(trajectory).groupby("kind", sort=False):
        steps, there = rows["step"].tolist(), (rows["n_heads"] > 0).tolist()
        row: dict[str, Any] = {
            "kind": name,
            "first": next((at for at, has in zip(steps, there, strict=True) if has), None),
        }
        stays = next((i for i in range(len(there) - 1) if there[i] and there[i + 1]), None)
        if stays is not None:
            highest: Any = rows.iloc[stays]
            row |= {"step": steps[stays], "after": steps[stays - 1] if stays else None, "head": highest["best"]}
            row |= {"value": highest["value"], "standard_error": highest["standard_error"]}
        found.append(row | {"n_heads": int(rows["n_heads"].iloc[-1])})
    columns = ["kind", "step", "after", "head", "value", "standard_error", "first", "n_heads"]
    table: Any = pd.DataFrame(found).reindex(columns=columns)
    whole: Any = dict.fromkeys(("step", "after", "first", "n_heads"), "Int64")
    table = table.astype(whole | {"value": float, "standard_error": float})
    table.insert(1, "order", table["step"].astype(float).rank(method="min").astype("Int64"))
    return table.sort_values(["step", "first"], na_position="last", kind="stable", ignore_index=True)


def _by_head(of: pd.DataFrame, column: str, model: HookedModel) -> Float[Tensor, "layer head"]:
    """A column of one kind's rows of every head as `[layer, head]`, NaN where a layer does not attend."""
    values = torch.tensor(of[column].to_numpy(dtype=float), dtype=torch.float32)
    return values.reshape(model.n_layers, model.n_heads)


def _member(kind: Kind) -> str:
    return f"is_{kind.name}"


def _chance(kind: Kind) -> str:
    return f"chance_{kind.name}"
