"""The figure of the experiment detective."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.essay.detective.conclusions import turned

COLOURS = {"fingerprint": "#2a6f97", "motive": "#d1495b"}
STYLES = {"clue": "-o", "end": "--s"}
TOLD = {"clue": "at the word", "end": "at the end"}


def draw(table: Any) -> Figure:
    """By depth, the share of the answer that turns with the stream at the word, or at the end; a panel a model."""
    models = list(dict.fromkeys(map(str, table["model"])))
    figure, axes = plt.subplots(
        1, len(models), figsize=(5.4 * len(models) + 0.5, 3.6), layout="constrained", sharey=True, squeeze=False
    )
    for ax, model in zip(axes[0], models, strict=True):
        for kind, colour in COLOURS.items():
            for place, style in STYLES.items():
                rows = table[(table["model"] == model) & (table["kind"] == kind) & (table["place"] == place)]
                shares = turned(rows)
                ax.plot(shares.index, shares, style, ms=4, color=colour, label=f"{kind}, {TOLD[place]}")
        ax.axhline(0, color="0.6", lw=1)
        ax.axhline(1, color="0.6", lw=1)
        leads = [f"{kind} {_lead(table, model, kind):+.2f}" for kind in COLOURS]
        ax.set(xlabel="depth (share of the layers)")
        ax.set_title(f"{model} (lead of the right name: {', '.join(leads)})", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share of the answer that turns")
    axes[0][0].legend(frameon=False, fontsize=8, loc="center left")
    return figure


def _lead(table: Any, model: str, kind: str) -> float:
    rows = table[(table["model"] == model) & (table["kind"] == kind)]
    return float(rows.groupby("story")["lead"].first().mean())
