"""Pictures of what speaks for the right next token, and of the layer from which on it is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from induction_lab.attribution.logits_by_component import LogitAttributions
from induction_lab.plots.style import ACCENT, INK, QUIET, bare, broken, new_axes

_COLOURS = {"head": ACCENT, "mlp": QUIET}
_PLACES = {"copied": ("where copying is right", ACCENT), "elsewhere": ("elsewhere", QUIET)}
_UNITS = {"log_probability": "log-probability (nats)", "probability": "probability", "rank": "rank (0: likeliest)"}


def plot_logit_attribution(attributions: LogitAttributions, *, top: int = 12, ax: Axes | None = None) -> Axes:
    """The `top` components that matter most, as bars with their standard errors, highest first.

    Bars say where copying is right (heads red, MLPs grey, others dark), rings what the same components add elsewhere.
    All heads on one heatmap: `plot_head_scores(attributions.head_scores(), "logit_attribution")`.

    Raises:
        ValueError: If `top` is less than 1 or nothing is copied in the prompts.
    """
    if top < 1:
        raise ValueError(f"`top` must be at least 1, got {top}.")
    table = attributions.to_dataframe()
    shown, other = table.query("where == 'copied'"), table.query("where == 'elsewhere'")
    if shown.empty:
        raise ValueError("Nothing is copied in these prompts: attribute_logits(model, repeated_tokens(model)).")
    shown = shown.sort_values("value", key=abs).tail(top).sort_values("value")
    elsewhere = other.set_index("component")["value"].reindex(shown["component"])
    ax = ax or new_axes(figsize=(5.2, 0.9 + 0.24 * len(shown)), layout="constrained")
    colours = [_COLOURS.get(kind, INK) for kind in shown["kind"]]
    errors = np.nan_to_num(shown["standard_error"])
    ax.barh(shown["component"], shown["value"], xerr=errors, color=colours, error_kw={"lw": 0.8, "ecolor": INK})
    ax.plot(elsewhere, shown["component"], "o", mfc="white", mec=INK, ms=4, lw=0, label="elsewhere")
    ax.axvline(0, color=INK, lw=0.8)
    ax.set(xlabel="logits for the right next token, minus their mean")
    ax.set_title(broken(f"{attributions.model}: where copying is right", ax, 10), fontsize=10)
    ax.tick_params(axis="y", labelsize=8, length=0)
    if len(other):
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    bare(ax, "left")
    return ax


def plot_logit_lens(table: pd.DataFrame, quantity: str = "log_probability", *, ax: Axes | None = None) -> Axes:
    """How well the right next token is known after each layer, where copying is right and elsewhere.

    Bands are one standard error over prompts to each side.

    Args:
        table: What `logit_lens` gave.
        quantity: `log_probability`, `probability` or `rank`.
        ax: Where to draw.

    Raises:
        ValueError: If the quantity is another one.
    """
    if quantity not in _UNITS:
        raise ValueError(f"`quantity` must be one of {', '.join(_UNITS)}, got {quantity!r}.")
    ax = ax or new_axes(figsize=(6, 3.2), layout="constrained")
    drawn = table.query("quantity == @quantity")
    for where, rows in drawn.sort_values("layer").groupby("where"):
        label, colour = _PLACES[str(where)]
        value, error = rows["value"].to_numpy(), np.nan_to_num(rows["standard_error"])
        ax.plot(rows["layer"], value, "o-", ms=3, lw=1.4, color=colour, label=label)
        ax.fill_between(rows["layer"], value - error, value + error, color=colour, alpha=0.2, lw=0)
    if quantity == "rank":
        ax.set_yscale("symlog", linthresh=1)
        ax.invert_yaxis()
    first, last = drawn["layer"].min(), drawn["layer"].max()
    ax.set(xlabel="after layer (−1: embedding)", ylabel=_UNITS[quantity], xlim=(first - 0.5, last + 0.5))
    said = f"{table['model'].iloc[0]}: the right next token, read off the stream"
    ax.set_title(broken(said, ax, 10), fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    ax.legend(frameon=False, fontsize=8, loc="best")
    bare(ax)
    return ax
