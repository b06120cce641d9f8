"""The map of heads, coloured by what kind each is."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from induction_lab.circuits.kinds import HeadKinds
from induction_lab.plots.style import INK

NOTHING = "#eeeeee"


def plot_head_kinds(kinds: HeadKinds, *, ax: Axes | None = None) -> Axes:
    """Heads across and layers down, layer 0 on top, a colour a kind; a head of several kinds has a stripe of each."""
    names = [kind for kind in kinds.kinds if kinds.of(kind)]
    palette = plt.get_cmap("tab20" if len(names) > 10 else "tab10")
    colours = {name: palette(i) for i, name in enumerate(names)}
    layers, heads = sorted(kinds.table["layer"].unique()), sorted(kinds.table["head"].unique())
    size = (max(4.5, 0.42 * len(heads) + 3.0), max(2.4, 0.24 * len(layers) + 1.2))
    ax = ax or plt.subplots(figsize=size, layout="constrained")[1]
    for layer, head in kinds.table[["layer", "head"]].drop_duplicates().itertuples(index=False):
        of = kinds.kinds_of((int(layer), int(head)))
        for i, colour in enumerate([colours[kind] for kind in of] or [NOTHING]):
            width = 0.9 / max(1, len(of))
            ax.add_patch(Rectangle((head - 0.45 + i * width, layer - 0.42), width, 0.84, color=colour, lw=0))
    ax.set(
        xlim=(heads[0] - 0.6, heads[-1] + 0.6),
        ylim=(layers[-1] + 0.6, layers[0] - 0.6),
        xlabel="head",
        ylabel="layer",
        title=f"{kinds.model}: kinds of heads",
    )
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    legend = [Patch(color=colours[name], label=f"{name} ({len(kinds.of(name))})") for name in names]
    if legend:
        ax.legend(
            handles=legend, frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
    return ax
