"""Paths of training runs through the space of per-token losses, seen in one plane.

A checkpoint is the vector of its losses on one fixed random token of each of many texts (`token_loss` in a
`Trajectory`): what a model can predict, whatever its weights look like. One PCA over all checkpoints of all runs; runs
that learn induction heads turn where they form. Source: Olsson et al. (2022), "Per-token loss PCA",
https://arxiv.org/abs/2209.11895.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from induction_lab.development.trajectory import Trajectory

_FINEST, _COARSEST, _NOISES = 1 / 40, 1 / 8, 8  # of a path's extent; standard deviations of its noise


def loss_paths(trajectories: Trajectory | Sequence[Trajectory], n: int = 2) -> pd.DataFrame:
    """Project the per-token losses of every checkpoint onto the principal components of all of them.

    Never fit a run of its own: paths compare in one basis only. A checkpoint counts as much as any other, so a run
    measured more often weighs more. Each component's sign is such that its largest loading is positive.

    Args:
        trajectories: Runs that were followed on the same texts with the same seed.
        n: How many components.

    Returns:
        Columns `run`, `step`, `pc1`, `pc2`, …, in nats (distances are those of the loss vectors);
        `attrs["explained_variance"]`: the share of each component.

    Raises:
        ValueError: If no per-token losses were measured, on different tokens, or at too few checkpoints.
    """
    given = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    runs = [trajectory.run(name) for trajectory in given for name in trajectory.runs]
    _check_comparable(runs)
    vectors = pd.concat([_vectors(run) for run in runs])
    centred = vectors.to_numpy(dtype=np.float64)
    centred = centred - centred.mean(0)
    if not 1 <= n <= min(len(centred) - 1, centred.shape[1]):
        raise ValueError(
            f"`n` must lie in 1 … {min(len(centred) - 1, centred.shape[1])} "
            f"({len(centred)} checkpoints of {centred.shape[1]} losses), got {n}."
        )
    _, sizes, components = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(components[np.arange(len(components)), np.abs(components).argmax(1)])
    projected = (centred @ (components * signs[:, None]).T)[:, :n]
    paths = vectors.index.to_frame(index=False)
    for i in range(n):
        paths[f"pc{i + 1}"] = projected[:, i]
    variance = sizes**2
    paths.attrs["explained_variance"] = (variance[:n] / max(variance.sum(), np.finfo(float).tiny)).tolist()
    return paths


class Pivot(NamedTuple):
    """The sharpest turn of a path: its angle in degrees (0: straight on, 180: back), and the step nearest to it."""

    angle: float
    step: int


def pivot(path: pd.DataFrame, *, window: float = 0.2) -> Pivot:
    """How sharply a path turns: the largest angle between the directions before and after any point of it.

    The path is first walked with a ruler, from each point to the next one that far away, so that evaluations that
    hardly move (the end of training) count as little as they move, whatever their noise. The ruler is 1/40 of the
    path's extent or, where that is more, 8 standard deviations of the noise that second differences show, up to 1/8.
    At each point walked to, the directions are those of the least-squares lines through the stretches of `window` of
    the walk before and after it. A right-angled turn gives about 90, a straight path about 0, an arc of angle `a` about
    `window * a`. Turns in the first or last `window` of the walk are not seen.

    Args:
        path: One run's rows of `loss_paths`.
        window: Length of the stretches, as a part of the walk; above 0, at most 0.5.

    Raises:
        ValueError: If there are several runs, or the path has fewer than three points or does not move.
    """
    names: Any = path.get("run", [])
    runs = list(dict.fromkeys(names))
    if len(runs) > 1:
        raise ValueError(f"One run is wanted, got {', '.join(map(str, runs))}.")
    if not 0 < window <= 0.5:
        raise ValueError(f"`window` must lie above 0 and not above 0.5, got {window}.")
    axes = [name for name in path.columns if str(name).startswith("pc")]
    ordered = path.sort_values("step")
    points, steps = ordered[axes].to_numpy(dtype=np.float64), ordered["step"].to_numpy()
    extent = float(np.linalg.norm(points[:, None] - points[None], axis=-1).max()) if len(points) > 2 else 0.0
    if extent == 0:
        raise ValueError(f"A path that moves, of three points or more, is wanted; got {len(points)} points.")
    ruler = min(max(extent * _FINEST, _NOISES * _noise(points)), extent * _COARSEST)
    walked, nearest = _walk(points, ruler)
    reach = max(1, round(window * (len(walked) - 1)))
    angles = [
        _angle(_direction(walked[i - reach : i + 1]), _direction(walked[i : i + reach + 1]))
        for i in range(reach, len(walked) - reach)
    ]
    sharpest = int(np.argmax(angles))
    return Pivot(angles[sharpest], int(steps[nearest[sharpest + reach]]))


def _walk(
    points: Float[ndarray, "point axis"], ruler: float
) -> tuple[Float[ndarray, "walked axis"], Int[ndarray, " walked"]]:
    """Points on the path, each the first one `ruler` away from the last; and the given point nearest along the path."""
    at, walked, nearest = points[0], [points[0]], [0]
    for i in range(1, len(points)):
        start = points[i - 1]
        while np.linalg.norm(points[i] - at) >= ruler:
            # Where the segment leaves the circle of this radius around the last point.
            along, away = points[i] - start, start - at
            a, b, c = along @ along, along @ away, away @ away - ruler**2
            share = (-b + np.sqrt(max(b * b - a * c, 0.0))) / a
            at = start = start + min(share, 1.0) * along
            walked.append(at)
            nearer = np.linalg.norm(at - points[i - 1]) < np.linalg.norm(points[i] - at)
            nearest.append(i - 1 if nearer else i)
    return np.stack(walked), np.array(nearest)


def _noise(points: Float[ndarray, "point axis"]) -> float:
    """Standard deviation on each axis of what is no line through three successive points; few turns do not count."""
    bends = np.square(np.diff(points, n=2, axis=0)).sum(1)
    return float(np.sqrt(np.median(bends) / (6 * points.shape[1])))


def _direction(points: Float[ndarray, "point axis"]) -> Float[ndarray, " axis"]:
    """Of the least-squares line through points at equal distances."""
    place = np.arange(len(points)) - (len(points) - 1) / 2
    return place @ points


def _angle(before: Float[ndarray, " axis"], after: Float[ndarray, " axis"]) -> float:
    size = np.linalg.norm(before) * np.linalg.norm(after)
    return float(np.degrees(np.arccos(np.clip(before @ after / size, -1, 1)))) if size else 0.0


def _vectors(run: Trajectory) -> pd.DataFrame:
    """Losses `[(run, step), text]`, of the steps that have them all."""
    rows: Any = run.table.loc[run.table["metric"] == "token_loss"]
    if rows.empty:
        raise ValueError(f"{run.runs[0]} has no per-token losses: follow_training(…, texts=…) measures them.")
    return rows.pivot(index=["run", "step"], columns="index", values="value").dropna()


def _check_comparable(runs: list[Trajectory]) -> None:
    """The losses must be of the same tokens of the same texts."""
    if not runs:
        raise ValueError("One trajectory or more is wanted, got none.")
    names = [run.runs[0] for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"Runs of different names are wanted, got {', '.join(names)}.")
    texts = [run.provenance.get("texts") or {} for run in runs]
    asked = ("tokens_sha256", "lengths_sha256", "n_token_losses", "seed")
    different = [
        name for name, text in zip(names, texts, strict=True) if any(text.get(a) != texts[0].get(a) for a in asked)
    ]
    if different:
        raise ValueError(
            f"{', '.join(different)} and {names[0]} were measured on different tokens, so their losses do not compare. "
            "Follow all runs on the same texts with the same seed."
        )
