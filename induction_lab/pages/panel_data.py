"""A `Subject` as what a page can hold: JSON with numbers rounded to what is read, large arrays packed.

Heads are numbered through: head `h` of layer `l` is `l * n_heads + h`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from induction_lab.circuits.explanation import Explanation
from induction_lab.circuits.kinds import BY_NAME, RATE, SHARE, HeadKinds, every_head
from induction_lab.circuits.verdicts import LEAST_WRITTEN, VERDICTS
from induction_lab.development.trajectory import Trajectory
from induction_lab.pages.encoding import lower_triangle, pack
from induction_lab.pages.panel_measurements import Subject, partners
from induction_lab.results.heads import LOOKS, Head
from induction_lab.scores.profiles import PLACES
from induction_lab.scores.registry import words
from induction_lab.scores.results import HeadScores

DIGITS = 5
_KINDS = (
    ("induction heads", "prefix_matching", "attend to what followed the current token before"),
    ("previous-token heads", "previous_token", "attend to the token before"),
    ("duplicate-token heads", "duplicate_token", "attend to the current token's earlier occurrence"),
)


def page_data(subject: Subject) -> dict[str, Any]:
    """What the page's script reads of one model, as JSON values."""
    scores = subject.scores
    reads = {kind: partners(matrix) for kind, matrix in subject.composition.items()}
    return {
        "label": subject.label,
        "shape": subject.shape,
        "scores": {name: _score(scores, name) for name in scores.scores},
        "loss": numbers(scores.loss),
        "loss_by_copy": numbers(scores.loss_by_copy),
        "period": scores.provenance["prompts"]["period"],
        "expected": _rows(subject.expected, ["lag", "probability", "standard_error"]),
        "places": PLACES,
        "by_position": {
            name: pack(value.flatten(0, 1), low=0.0, high=1.0) for name, value in subject.profiles.by_position.items()
        },
        "lags": list(subject.profiles.lags),
        "by_lag": pack(subject.profiles.by_lag.flatten(0, 1), bits=16, low=0.0, high=1.0),
        "prompts": {name: tokens for name, (_, tokens) in subject.prompts.items()},
        "views": {str(head): _view(views) for head, views in subject.views.items()},
        "eigenvalues": _eigenvalues(subject.eigenvalues),
        "reads": {kind: [_pairs(row) for row in both[0]] for kind, both in reads.items()},
        "read_by": {kind: [_pairs(row) for row in both[1]] for kind, both in reads.items()},
        "baseline": rounded(subject.baseline),
        "circuit": None if subject.circuit is None else _rows(subject.circuit.edges),
        "likely_edges": [] if subject.circuit is None else _rows(subject.circuit.likely, ["previous", "induction"]),
        "kinds": _head_kinds(subject.kinds, subject.scores),
        "ablation": _effects(subject),
        "explanation": _explanation(subject.explanation),
        "training": _training(subject.trajectory),
        "left_out": subject.left_out,
    }


def kinds_of_heads(scores: HeadScores) -> list[dict[str, Any]]:
    """The heads of each kind (induction, previous-token, …) with the kind's meaning, and their number in each layer."""
    found = []
    for title, score, meaning in _KINDS:
        if score in scores.scores:
            heads = scores.above(score, LOOKS)
            found.append(
                _kind(title, f"{meaning}: {scores.about(score).in_text()} above {LOOKS}", heads, scores.n_layers)
            )
    if "logit_attribution" in scores.scores:
        values = scores["logit_attribution"].nan_to_num(0.0)
        written = float(values.clamp(min=0).sum())
        for title, sign, which in (
            ("answer-writing heads", 1, "the right"),
            ("opposing heads", -1, "against the right"),
        ):
            order = (sign * values).flatten().argsort(descending=True).tolist()
            heads = [Head(*divmod(int(i), scores.n_heads)) for i in order]
            heads = [head for head in heads if written > 0 and sign * float(values[head]) >= LEAST_WRITTEN * written]
            meaning = f"write {which} next token with at least {LEAST_WRITTEN:.0%} of all that heads write for it"
            found.append(_kind(title, meaning, heads, scores.n_layers))
    return found


def rounded(value: float) -> float | None:
    """A number to five significant digits; None if it is not finite."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def numbers(values: Any) -> list[float | None]:
    """The values of a tensor of any shape, flattened, or of a list, `rounded` one by one."""
    flat = values.flatten().tolist() if isinstance(values, Tensor) else values
    return [rounded(float(value)) for value in flat]


def _kind(title: str, meaning: str, heads: list[Head], n_layers: int) -> dict[str, Any]:
    by_layer = [0] * n_layers
    for head in heads:
        by_layer[head.layer] += 1
    layers = sorted(head.layer for head in heads)
    return {"title": title, "meaning": meaning, "heads": [str(head) for head in heads], "by_layer": by_layer} | {
        "where": f"layers {layers[0]} – {layers[-1]}"
        if layers and layers[0] < layers[-1]
        else f"layer {layers[0]}"
        if layers
        else "none"
    }


def _score(scores: HeadScores, name: str) -> dict[str, Any]:
    about, values = scores.about(name), scores[name]
    low, high = about.axis(values.numpy())
    q = scores.q_values.get(name)
    return {
        "title": about.title,
        "definition": about.definition,
        "low": low,
        "high": high,
        "chance": rounded(scores.uniform[name]),
        "values": numbers(values),
        "errors": numbers(scores.standard_errors[name]),
        "q": None if q is None else numbers(q),
    }


def _view(views: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "pattern": pack(lower_triangle(view.pattern.numpy()), low=0.0, high=1.0),
            "written": pack(view.written, bits=16, low=0.0),
        }
        for name, view in views.items()
    }


def _eigenvalues(values: Tensor | None) -> dict[str, Any] | None:
    """Eigenvalues of every head's OV circuit, divided by the head's largest modulus; and that modulus."""
    if values is None:
        return None
    flat = values.flatten(0, 1)
    largest = flat.abs().amax(-1)
    shares = flat / largest.clamp(min=1e-30)[:, None]
    plane = torch.stack([shares.real, shares.imag], -1)
    return {"plane": pack(plane, bits=16, low=-1.0, high=1.0), "largest": numbers(largest)}


def _pairs(row: list[tuple[int, float]]) -> list[list[Any]]:
    return [[place, rounded(value)] for place, value in row]


def _head_kinds(found: HeadKinds | None, scores: HeadScores) -> dict[str, Any] | None:
    """Of each kind what it is, every head's value, and the heads that are of it; the kinds that share heads."""
    if found is None:
        return None
    kinds = []
    for name in found.kinds:
        kind = BY_NAME[name]
        of: Any = found.table[found.table["kind"] == name]
        rows: Any = every_head(of, scores.n_layers, scores.n_heads).reset_index()  # numbered through, as on the page
        heads: Any = rows[rows["is_kind"].eq(True)].sort_values("value", ascending=False)
        kinds.append(
            {
                "name": name,
                "score": kind.score,
                "definition": words(kind.score).definition,
                "least": kind.least,
                "chance": rounded(float(rows["chance"].max())),
                "heads": heads.index.tolist(),
                "values": numbers(rows["value"].tolist()),
                "errors": numbers(rows["standard_error"].tolist()),
                "q": numbers(rows["q_value"].tolist()),
            }
        )
    shared: Any = found.overlaps()
    shared = shared[shared["n_shared"] > 0].sort_values("p_value")
    not_asked = [name for name in BY_NAME if name not in found.kinds and name not in found.left_out]
    return {
        "share": SHARE, "rate": RATE, "kinds": kinds, "overlaps": _rows(shared), "left_out": found.left_out,
        "not_asked": not_asked,
    }  # fmt: skip


def _effects(subject: Subject) -> dict[str, Any] | None:
    if subject.ablation is None:
        return None
    table = subject.ablation.table
    rows: Any = table.to_dict("records")
    effects = {row["label"]: [rounded(row["effect"]), rounded(row["standard_error"])] for row in rows}
    return {"clean": rounded(rows[0]["clean"]), "n_prompts": int(rows[0]["n_prompts"]), "effects": effects}


def _explanation(explanation: Explanation | None) -> dict[str, Any] | None:
    if explanation is None:
        return None
    columns = ["label", "verdict", "effect", "effect_error", "to_keys", "to_keys_error"]
    return {
        "behaviour": {name: rounded(value) for name, value in explanation.behaviour.items()},
        "heads": {row["label"]: row for row in _rows(explanation.heads, columns)},
        "edges": _rows(explanation.edges),
        "tests": _rows(explanation.tests),
        "verdicts": VERDICTS,
    }


def _training(trajectory: Trajectory | None) -> dict[str, Any] | None:
    """Every score of heads at every checkpoint, and the losses."""
    if trajectory is None or not trajectory.steps:
        return None
    table: Any = trajectory.table
    of_heads = table.loc[table["layer"].notna(), "metric"].unique().tolist()
    series = {}
    for name in ("mean_loss", "icl_score"):
        if name in trajectory.metrics:
            series[name] = _by_step(trajectory, trajectory.series(name))
    if "loss_by_copy" in trajectory.metrics:
        for copy in (1, 2):
            series[f"copy {copy}"] = _by_step(trajectory, trajectory.series("loss_by_copy", index=copy))
    heads = {}
    for name in of_heads:
        values = trajectory.heads(name).flatten(1)
        about = trajectory.about(name)
        low, high = about.axis(values.numpy())
        heads[name] = {"title": about.title, "low": low, "high": high, "values": pack(values, low=low, high=high)}
    return {"steps": trajectory.steps, "series": series, "heads": heads}


def _by_step(trajectory: Trajectory, series: Any) -> list[float | None]:
    return [rounded(float(series.get(step, math.nan))) for step in trajectory.steps]


def _rows(table: Any, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """A data frame as JSON records of all or some columns, numbers `rounded`; no record if it is None."""
    if table is None:
        return []
    records: Any = (table if columns is None else table[columns]).to_dict("records")
    return [{name: _plain(value) for name, value in row.items()} for row in records]


def _plain(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    number = float(value)
    return rounded(number) if number != round(number, 0) or not math.isfinite(number) else int(number)
