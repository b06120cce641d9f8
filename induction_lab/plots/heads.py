"""One function a figure: data in, Axes out. None shows, saves or sets a global style.

Scores are drawn on their own range, so that figures compare: probabilities from 0 to 1, signed scores around 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from induction_lab.attribution.predictions import single_text
from induction_lab.data.prompts import PromptsLike
from induction_lab.internals.activations import capture
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import as_model
from induction_lab.plots.style import ACCENT, INK, QUIET, apart, bare, broken, families, new_axes, printable, subplots
from induction_lab.results.heads import Head, HeadLike, parse_head
from induction_lab.results.token_labels import check_labels
from induction_lab.scores.results import HeadScores

FEWEST, MOST = 3, 24  # heads that are framed where none is said


def plot_head_scores(
    scores: HeadScores | Tensor | ArrayLike,
    score: str | None = None,
    *,
    ax: Axes | None = None,
    mark: int | None = None,
) -> Axes:
    """Heatmap of one score, heads across and layers down, layer 0 on top; the best heads are framed, with their values.

    >>> plot_head_scores(scores, "previous_token")                                          # doctest: +SKIP
    >>> plot_head_scores(composition.sum(0), "K-composition with L0H3")                     # doctest: +SKIP

    Args:
        scores: Of every head; or any numbers `[layer, head]`, a tensor, an array or lists.
        score: Which; by default prefix matching, or the first there is. Of numbers, what the figure calls them.
        ax: Where to draw.
        mark: How many heads are framed at most; by default all above 0.4 of scores that are shares of attention, unless
            that is more than an eighth of many heads, and at least three. Heads that are hardly above chance are not.

    Raises:
        ValueError: If there is no such score, or the numbers are not `[layer, head]`.
    """
    if not isinstance(scores, HeadScores):
        scores, score = _as_scores(scores, score)
    score = score or scores.default_score
    values = scores[score].numpy()
    ax = ax or new_axes(figsize=_heatmap_size(*values.shape), layout="constrained")
    low, high = scores.about(score).axis(values)
    image = ax.imshow(
        values,
        vmin=low,
        vmax=high,
        cmap="RdBu" if low < 0 else "viridis",
        aspect="auto",
        interpolation="nearest",
    )
    chance = scores.uniform.get(score, np.nan)
    for head, value in _standing_out(scores, score, mark, high - low):
        ax.add_patch(Rectangle((head.head - 0.5, head.layer - 0.5), 1, 1, fill=False, ec=ACCENT, lw=1.5))
        bright = (value - low) / (high - low) > 0.6 if low == 0 else abs(value) < 0.6 * high
        ink = INK if bright else "white"
        ax.text(head.head, head.layer, f"{value:.2f}", ha="center", va="center", fontsize=6, color=ink)
    ax.set(xlabel="head", ylabel="layer")
    ax.set_title(broken("\n".join(filter(None, (scores.model, _titled(scores, score)))), ax, 9), fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    bar = ax.figure.colorbar(image, ax=ax, label=scores.about(score).unit)
    if low <= chance <= high:
        bar.ax.axhline(chance, color=ACCENT, lw=1.5)
    return ax


def plot_all_scores(scores: HeadScores, *, columns: int = 5) -> Figure:
    """All scores of a model on one sheet."""
    names = scores.scores
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    width, height = _heatmap_size(scores.n_layers, scores.n_heads)
    figure, axes = subplots(
        rows,
        columns,
        figsize=(columns * width * 0.8, rows * height * 0.8),
        layout="constrained",
        squeeze=False,
    )
    for ax, name in zip(axes.flat, names, strict=False):
        plot_head_scores(scores, name, ax=ax)
        ax.set_title(_titled(scores, name).replace(" (", "\n("), fontsize=9)
        ax.label_outer()
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    figure.suptitle(scores.model)
    return figure


def plot_score_by_layer(scores: HeadScores, score: str | None = None, *, ax: Axes | None = None, mark: int = 5) -> Axes:
    """Each head a dot at its layer, with its standard error; the best `mark` named, chance as a line."""
    score = score or scores.default_score
    ax = ax or new_axes(figsize=(7, 3.5), layout="constrained")
    values, errors = scores[score].numpy(), np.nan_to_num(scores.standard_errors[score].numpy())
    layer, head = np.indices(values.shape)
    aside = (head - (values.shape[1] - 1) / 2) / max(values.shape[1], 2) * 0.6
    x = layer + aside
    ax.errorbar(x.ravel(), values.ravel(), errors.ravel(), fmt="o", ms=3, lw=0.8, color=QUIET, zorder=1)
    low, high = scores.about(score).axis(values)
    best = _standing_out(scores, score, mark, high - low)
    for (head_, value), height in zip(best, apart([v for _, v in best], 0.055 * (high - low)), strict=True):
        ax.plot(x[head_], value, "o", ms=4, color=ACCENT, zorder=2)
        ax.annotate(str(head_), (x[head_], height), xytext=(7, -2.5), textcoords="offset points", fontsize=7, color=INK)
    if score in scores.uniform_by_layer:  # windows: every layer has a chance of its own
        chance = scores.uniform_by_layer[score].numpy()
        edges = np.arange(len(chance) + 1) - 0.5
        ax.stairs(chance, edges, baseline=None, color=INK, lw=0.8, ls="--", label="chance, layer by layer")
        ax.legend(frameon=False, fontsize=8, loc="best")
    elif not np.isnan(scores.uniform[score]):
        ax.axhline(scores.uniform[score], color=INK, lw=0.8, ls="--", label=f"chance {scores.uniform[score]:.3f}")
        ax.legend(frameon=False, fontsize=8, loc="best")
    margin = 0.05 * (high - low)
    ax.set(
        xlabel="layer",
        ylabel=score,
        title=broken(f"{scores.model}: {score} by layer", ax),
        ylim=(low - margin, high + margin),
    )
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    bare(ax)
    return ax


def plot_loss(scores: HeadScores, *, ax: Axes | None = None) -> Axes:
    """Mean loss at each predicted position; copies of a repeated block shaded in turn, with their mean.

    Raises:
        ValueError: If the loss was not measured.
    """
    if not scores.loss:
        raise ValueError("The loss was not measured: score_heads(..., loss=True).")
    ax = ax or new_axes(figsize=(7, 3), layout="constrained")
    position = np.arange(1, len(scores.loss) + 1)
    ax.plot(position, scores.loss, color=INK, lw=1.2)
    facts = scores.provenance.get("prompts", {})
    period, gap, top = facts.get("period"), facts.get("gap") or 0, 1.15 * max(scores.loss)
    for copy, mean in enumerate(scores.loss_by_copy if period else []):
        start = copy * (period + gap) + int(facts.get("has_bos", True))
        ax.axvspan(start - 0.5, start + period - 0.5, color=QUIET, alpha=0.25 if copy % 2 else 0.1, lw=0)
        ax.hlines(mean, start + 1, start + period - 1, color=ACCENT, lw=1.5)
        label = f"copy {copy + 1}: {mean:.2f} nats"
        ax.text(start - 0.5 + period / 2, 0.97 * top, label, ha="center", va="top", fontsize=8, color=ACCENT)
    ax.set(
        xlabel="position of the predicted token", ylabel="loss (nats)", ylim=(0, top),
        xlim=(0.5, len(position) + 0.5), title=broken(f"{scores.model}: loss by position", ax),
    )  # fmt: skip
    bare(ax)
    return ax


def plot_pattern(
    pattern: Float[Tensor, "query key"] | Float[np.ndarray, "query key"] | HookedModel | str | Path,
    text: PromptsLike | None = None,
    head: HeadLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Attention of one head: from each query (down) to each key (across), darker for more.

    >>> plot_pattern(load_model("smollm2-135m"), "one two three one two", "L18H6")             # doctest: +SKIP
    >>> plot_pattern(acts["pattern", 18][0, 6], head="L18H6")                                  # doctest: +SKIP

    Characters that no font here has are drawn as codes: install one that has them, such as Noto Sans CJK.

    Args:
        pattern: Probabilities; or a model, or its name, which reads the text.
        text: What the model reads: one text, or one prompt.
        head: Of the model; for the title, where probabilities are given.
        labels: What the tokens look like, drawn where there are at most 40; by default the text's tokens.
        ax: Where to draw.

    Raises:
        ValueError: If there are not as many labels as keys, more than one head, or a model without a text or a head.
    """
    if isinstance(pattern, np.ndarray):
        pattern = torch.as_tensor(pattern)
    if not isinstance(pattern, Tensor):
        model = as_model(pattern)
        if text is None or head is None:
            raise ValueError("Of a model a text and a head are drawn: plot_pattern(model, 'one two one', 'L18H6').")
        prompt = single_text(model, text)
        pattern = capture(model, prompt, "pattern", heads=[head])["pattern"][0, 0]
        labels = model.token_labels(prompt) if labels is None else labels
    if pattern.ndim != 2:
        raise ValueError(
            f"One head's [query, key] is drawn, got {tuple(pattern.shape)}; e.g. acts['pattern', 5][0, 1]."
        )
    n_queries, n_keys = pattern.shape
    if labels is not None:
        labels = check_labels(labels, n_keys)
    side = min(8.0, 2.0 + 0.16 * n_keys)
    ax = ax or new_axes(figsize=(side, side), layout="constrained")
    ax.imshow(pattern.float().cpu().numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    ax.set(xlabel="attends to", ylabel="from", title="" if head is None else str(parse_head(head)))
    if labels is not None and n_keys <= 40:
        shown = [printable(label) for label in labels]
        ax.set_xticks(range(n_keys), shown, rotation=90, fontsize=6, fontfamily=families())
        ax.set_yticks(range(n_queries), shown[n_keys - n_queries :], fontsize=6, fontfamily=families())
    return ax


def plot_patterns(
    patterns: Float[Tensor, "head query key"], heads: Sequence[Head], *, labels: Sequence[str] | None = None
) -> Figure:
    """Patterns of several heads side by side.

    Raises:
        ValueError: If there are not as many heads as patterns.
    """
    if len(heads) != len(patterns) or not len(heads):
        raise ValueError(f"{len(patterns)} patterns want as many heads, got {len(heads)}.")
    side = min(6.0, 2.0 + 0.12 * patterns.shape[-1])
    figure, axes = subplots(
        1, len(heads), figsize=(side * len(heads), side * 1.15), layout="constrained", squeeze=False
    )
    for ax, pattern, head in zip(axes[0], patterns, heads, strict=True):
        plot_pattern(pattern, labels=labels, head=head, ax=ax)
        ax.label_outer()
    return figure


def _heatmap_size(n_layers: int, n_heads: int) -> tuple[float, float]:
    return min(9.0, max(3.2, 1.8 + 0.3 * n_heads)), min(8.0, max(2.4, 1.0 + 0.19 * n_layers))


def _titled(scores: HeadScores, score: str) -> str:
    chance = scores.uniform.get(score, np.nan)
    return score if np.isnan(chance) else f"{score} (chance {chance:.3g})"


def _as_scores(values: Any, name: str | None) -> tuple[HeadScores, str]:
    """Numbers of every head as `HeadScores`, and what they are called."""
    table = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values)).detach().cpu().float()
    if table.ndim != 2 or not table.numel():
        raise ValueError(f"One number a head is drawn, [layer, head]; got shape {tuple(table.shape)}.")
    name = name or ""
    return HeadScores("", {name: table}, {name: torch.full_like(table, torch.nan)}, {}), name


def _standing_out(scores: HeadScores, score: str, n: int | None, span: float) -> list[tuple[Head, float]]:
    """The best heads, as far as they are clearly above chance: the best of nothing needs no mark."""
    chance = scores.uniform.get(score, np.nan)
    if n is None:
        above = len(scores.above(score)) if scores.threshold(score) is not None else 0
        n = max(FEWEST, above) if above <= max(MOST, scores[score].numel() // 8) else FEWEST
    return [(head, value) for head, value in scores.top(score, n) if not value < chance + 0.1 * span]
