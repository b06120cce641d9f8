"""What soft_addressing.py concludes from its table, and its figure."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.judging import by_construction
from experiments.verdicts import Verdict, outcome
from induction_lab import HookedModel

EXACT, WRONG = 1e-5, 0.1  # relative error of the formula at most, and of wrong formulas (median of layers) at least
MORE_THAN, OF_UNIFORM, MOST = 2, 0.5, 0.5  # addresses; of what even attention reads; of all heads
SMALL = 0.25  # of what flattening costs, hardening must cost at most
MATTERS = 0.5  # nats by which hard addressing everywhere must raise the loss on text
N, BACK, BELOW, SPARED = 16, 0.5, 0.5, 0.8  # pairs; share that comes back; left without induction heads; without others
COLOURS = {"induction": "#d1495b", "previous token": "#2a6f97", "random": "#8d99ae", "all": "#222222"}


def verdicts(model: HookedModel, table: Any, groups: dict[str, list[Any]]) -> list[Verdict]:
    """Every claim of the essay's first section, tested."""
    size = len(groups["induction"])
    return [_formula(model, table), _soft(model, table), _close_to_one(model, table, size), _mixture(model, table),
            _table(model, table, groups)]  # fmt: skip


def _formula(model: HookedModel, table: Any) -> Verdict:
    errors: Any = table[table["part"] == "formula"].groupby("what", sort=False)["value"].agg(["max", "median"])
    own = errors.loc["the formula"]
    wrong = errors.drop("the formula")["median"]
    kinds = f"{model.n_heads} query heads on {model.n_kv_heads} key heads"
    return Verdict(
        claim="Attention is softmax(Q Kᵀ / √d_k) V: scores by similarity, then a weighted sum of the values",
        source="essay §1",
        measured=f"the formula written out in float32 on captured Q, K, V against what each layer's own heads put out "
        f"({model.name}, {model.n_layers} layers, {kinds}); |difference| / |output| of the worst head",
        criterion=f"at most {EXACT:g} in every layer, and every wrong formula at least {WRONG} in the median layer",
        numbers={"the formula": f"at most {own['max']:.1e}, median layer {own['median']:.1e}"},
        control="median layer " + ", ".join(f"{name} {value:.2f}" for name, value in wrong.items()),
        **by_construction({model.name: bool(own["max"] <= EXACT and wrong.min() >= WRONG)}),
    )


def _soft(model: HookedModel, table: Any) -> Verdict:
    numbers, passed, hard = {}, {}, []
    spread = table[table["part"] == "spread"]
    for name, rows in spread.groupby("prompts", sort=False):
        wide = rows.pivot(index="what", columns="quantity", values="value")
        addresses = wide["addresses"]
        uniform = float(rows[rows["quantity"] == "addresses"]["uniform"].iloc[0])
        within = float(((addresses > MORE_THAN) & (addresses < OF_UNIFORM * uniform)).mean())
        q = addresses.quantile([0.1, 0.5, 0.9]).tolist()
        numbers[str(name)] = (
            f"{within:.0%} of heads; median head {q[1]:.1f} addresses (10 – 90 %: {q[0]:.1f} – {q[2]:.1f}), even "
            f"attention {uniform:.1f}; {(addresses <= MORE_THAN).mean():.0%} of heads read from at most {MORE_THAN}"
        )
        passed[str(name)] = within > MOST
        hard.append(f"{name}: largest weight of the median head {wide['largest'].median():.2f}")
    return Verdict(
        claim="Addressing is soft: a head reads from several addresses, though far from all of them",
        source="essay §1",
        measured=f"effective addresses exp(H) of every head of {model.name}, mean over queries and prompts",
        criterion=f"more than {MOST:.0%} of heads read from more than {MORE_THAN} addresses and fewer than "
        f"{OF_UNIFORM:.0%} of even attention's",
        numbers=numbers,
        control="hard addressing would read from 1, with weight 1; " + "; ".join(hard),
        **outcome(passed),
    )


def _close_to_one(model: HookedModel, table: Any, size: int) -> Verdict:
    wide = _rise(table, "repeated")
    numbers, passed = {}, {}
    for group in ("induction", "previous token"):
        flat, hard = wide.loc[group, 0], wide.loc[group, math.inf]
        numbers[group] = f"flattened {_nats(flat)}, argmax {_nats(hard)}"
        passed[group] = bool(hard["value"] + 2 * hard["standard_error"] < SMALL * flat["value"])
    others = [name for name in wide.index.get_level_values(0).unique() if str(name).startswith("random")]
    control = [f"flattened {_nats(wide.loc[name, 0])}, argmax {_nats(wide.loc[name, math.inf])}" for name in others]
    return Verdict(
        claim="Where Q and K match the weight is close to 1, elsewhere close to 0: heads that look for matches could "
        "as well take the one best address",
        source="essay §1",
        measured=f"rise of the second copy's loss when {size} heads of each kind attend evenly (β = 0) or to the "
        f"largest score alone (β = ∞), {model.name}",
        criterion=f"argmax costs less than {SMALL:.0%} of what flattening costs, two standard errors included",
        numbers=numbers,
        control=f"as many random heads: {'; '.join(control) or 'there are not as many'}",
        **outcome(passed),
    )


def _mixture(model: HookedModel, table: Any) -> Verdict:
    claim = "The weighted sum matters: read from one address each, the heads no longer do their work"
    where = "text" if "text" in set(table["prompts"].dropna()) else "repeated"
    wide = _rise(table, where)
    numbers = {f"all heads, β = {_beta(beta)}": _nats(wide.loc["all", beta]) for beta in wide.loc["all"].index}
    hard = wide.loc["all", math.inf]
    others = [wide.loc[name, math.inf] for name in wide.index.get_level_values(0).unique() if "random" in str(name)]
    return Verdict(
        claim=claim,
        source="essay §1",
        measured=f"rise of the loss on {where} when every head of {model.name} attends with softmax(β · scores)",
        criterion=f"β = ∞ raises the loss by at least {MATTERS} nats a token, two standard errors taken off",
        numbers=numbers,
        control="β = 1 changes nothing; random heads alone at β = ∞: " + (", ".join(map(_nats, others)) or "none"),
        **outcome({where: bool(hard["value"] - 2 * hard["standard_error"] >= MATTERS)}),
    )


def _table(model: HookedModel, table: Any, groups: dict[str, list[Any]]) -> Verdict:
    rows = table[table["part"] == "table"].set_index(["what", "x", "quantity"])["value"]
    sizes = sorted({int(x) for what, x, _ in rows.index if what == "as it is"})
    n = N if N in sizes else sizes[-1]
    best, size = groups["induction"][0], len(groups["induction"])
    numbers = {
        f"{x} pairs": f"value comes back {rows['as it is', x, 'value']:.0%}, likeliest of the values "
        f"{rows['as it is', x, 'among']:.0%} (chance {1 / x:.1%}); {best} puts {rows['as it is', x, 'attention']:.2f} "
        f"on the right address, more than on any other {rows['as it is', x, 'address']:.0%}"
        for x in sizes
    }
    back, others = rows["as it is", n, "value"], [what for what in groups if what.startswith("random")]
    left, spared = rows["without induction", n, "value"], [rows[f"without {what}", n, "value"] for what in others]
    parts = {
        "the value coming back": back >= BACK,
        "the address being found": rows["as it is", n, "address"] >= BACK,
        "induction heads being needed": left < BELOW * back,
        "other heads not being needed": all(x > SPARED * back for x in spared),
    }
    failed = [part for part, ok in parts.items() if not ok]
    found = outcome({f"{n} pairs": not failed})
    if failed:
        found["caveat"] = f"Fails for {' and '.join(failed)}; not for {', '.join(x for x in parts if x not in failed)}."
    absent = f"for a key that is not there {best} rests {rows['as it is', n, 'rest_absent']:.2f} on BOS"
    return Verdict(
        claim="Keys are addresses by content: given a key again, its value comes back",
        source="essay §1",
        measured=f"pairs of random tokens in the context, up to 8 keys of each prompt asked for again; {model.name}",
        criterion=f"of {N} pairs (or as many as fit) the value is the likeliest token for at least {BACK:.0%} of keys, "
        f"{best} looks most at the right address as often, less than {BELOW:.0%} of that is left without {size} "
        f"induction heads and more than {SPARED:.0%} without as many others",
        numbers=numbers,
        control=f"{n} pairs: without {size} induction heads {left:.0%}; without {size} random heads "
        f"{', '.join(f'{x:.0%}' for x in spared) or 'none'}; {absent} "
        f"(present: {rows['as it is', n, 'rest']:.2f}), at most {rows['as it is', n, 'stray']:.2f} on one address",
        **found,
    )


def _rise(table: Any, prompts: str) -> Any:
    rows = table[(table["part"] == "temper") & (table["prompts"] == prompts)]
    return rows.set_index(["what", "x"])[["value", "standard_error"]]


def _nats(row: Any) -> str:
    return f"{row['value']:+.2f} ± {row['standard_error']:.2f} nats"


def _beta(beta: float) -> str:
    return "∞" if beta == math.inf else f"{beta:g}"


def draw(model: HookedModel, table: Any) -> Figure:
    """The formula, the spread, the temperature and the table."""
    figure, axes = plt.subplots(3, 2, figsize=(10, 11), layout="constrained")
    _draw_formula(axes[0, 0], table[table["part"] == "formula"])
    where = "text" if "text" in set(table["prompts"].dropna()) else "repeated"
    _draw_spread(axes[0, 1], table[(table["prompts"] == where)], where)
    _draw_reach(axes[1, 0], table[(table["prompts"] == where) & (table["part"] == "spread")], where)
    _draw_table(axes[1, 1], table[table["part"] == "table"])
    for ax, name in zip(axes[2], ("repeated", "text"), strict=True):
        _draw_tempered(ax, _rise(table, name), name)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{model.name}: soft addressing", fontsize=12)
    return figure


def _draw_formula(ax: Any, rows: Any) -> None:
    colours = ("#2a6f97", "#d1495b", "#e09f3e", "#8d99ae")
    for colour, (name, own) in zip(colours, rows.groupby("what", sort=False), strict=False):
        ax.plot(own["x"], own["value"], color=colour, label=name)
    ax.axhline(EXACT, color="0.8", lw=0.8)
    ax.set(yscale="log", xlabel="layer", ylabel="relative error, worst head")
    most = rows[rows["what"] == "the formula"]["value"].max()
    ax.set_title(f"The formula is what the heads do (error ≤ {most:.0e})", fontsize=10)
    ax.legend(frameon=False, fontsize=8)


def _draw_spread(ax: Any, rows: Any, where: str) -> None:
    at = rows[rows["part"] == "position"].pivot(index="x", columns="what", values="value")
    ax.fill_between(at.index, at["10%"], at["90%"], color="#2a6f97", alpha=0.25, lw=0, label="10 – 90 % of heads")
    ax.plot(at.index, at["50%"], color="#2a6f97", label="median head")
    ax.plot(at.index, at.index + 1, color="#8d99ae", ls="--", label="even attention")
    ax.axhline(1, color="#d1495b", lw=1, label="hard addressing")
    ax.set(yscale="log", xlabel="position of the query", ylabel="effective addresses exp(H)")
    last = at.iloc[-1]
    ax.set_title(
        f"On {where} the median head reads from {last['50%']:.0f} of {int(at.index[-1]) + 1} addresses", fontsize=10
    )
    ax.legend(frameon=False, fontsize=8)


def _draw_reach(ax: Any, rows: Any, where: str) -> None:
    wide = rows.pivot(index=["what", "x"], columns="quantity", values="value").reset_index()
    shown = ax.scatter(wide["distance_past_first"], wide["addresses"], c=wide["x"], cmap="viridis", s=12)
    ax.figure.colorbar(shown, ax=ax, label="layer")
    rho = wide["distance_past_first"].corr(wide["addresses"], method="spearman")
    ax.set(yscale="log", xlabel="mean distance of what is read past BOS, tokens", ylabel="effective addresses exp(H)")
    ax.set_title(f"How far and how many, a dot a head ({where}): rank correlation {rho:.2f}", fontsize=10)


def _draw_table(ax: Any, rows: Any) -> None:
    lines = {
        ("as it is", "among"): ("value is the likeliest of the table's", "#3b8b5d", "-"),
        ("as it is", "value"): ("value is the likeliest token: it comes back", "#222222", "-"),
        ("as it is", "address"): ("best head looks at its address", "#d1495b", "-"),
        ("as it is", "attention"): ("its weight there", "#e09f3e", "-"),
        ("without random 0", "value"): ("comes back without random heads", "#8d99ae", "--"),
        ("without induction", "value"): ("comes back without induction heads", "#2a6f97", "--"),
    }
    for (what, quantity), (label, colour, style) in lines.items():
        own = rows[(rows["what"] == what) & (rows["quantity"] == quantity)]
        ax.errorbar(
            own["x"], own["value"], own["standard_error"], color=colour, ls=style, marker="o", ms=3, lw=1.2, label=label
        )
    own = rows[rows["what"] == "as it is"].pivot(index="x", columns="quantity", values="value")
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(own.index), [f"{x:g}" for x in own.index])
    ax.set(xlabel="pairs of key and value in the context", ylabel="share of keys, or weight", ylim=(-0.03, 1.5))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    last = own.iloc[-1]
    found = f"address found {last['address']:.0%}, value back {last['value']:.0%}"
    ax.set_title(f"Of {int(own.index[-1])} pairs: {found}", fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_tempered(ax: Any, rise: Any, name: str) -> None:
    if not len(rise):
        ax.axis("off")
        return
    labelled, places = set(), sorted(set(rise.index.get_level_values(1)))
    ax.set_xticks(range(len(places)), [_beta(beta) for beta in places])
    for group, rows in rise.groupby(level=0, sort=False):
        own, kind = rows.droplevel(0), str(group).split(" ")[0] if str(group).startswith("random") else str(group)
        label = None if kind in labelled else f"{kind} heads"
        labelled.add(kind)
        x = [places.index(beta) for beta in own.index]
        ax.errorbar(x, own["value"], own["standard_error"], color=COLOURS[kind], marker="o", ms=3, lw=1.2, label=label)
    ax.set_yscale("symlog", linthresh=0.1)
    ax.axhline(0, color="0.8", lw=0.8)
    what = "repeated tokens, second copy" if name == "repeated" else "text"
    hard = rise.loc["all", math.inf]["value"]
    ax.set(xlabel="β: flat (0) … as it is (1) … argmax (∞)", ylabel="rise of the loss, nats")
    ax.set_title(f"{what}: all heads at argmax cost {hard:.1f} nats", fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="lower left" if name == "repeated" else "upper center")
