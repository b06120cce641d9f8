"""The page docs/kinds.md, from the tables that `kinds_of_heads` and others left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmarks.results import as_markdown
from experiments.harness import ROOT
from induction_lab.circuits.kinds import SHARE, find_kinds
from induction_lab.scores.registry import words

PAGE = ROOT / "docs" / "kinds.md"
SHOWN = 5
FEWEST = 5  # sets of bystanders, for kinds to be compared
CAN = 1.0  # nats that a first list must tell of the second, for a model to be said to copy concepts


def write_page(figures: Path) -> Path:
    """Write the page anew."""
    PAGE.write_text(page(figures))
    return PAGE


def page(figures: Path) -> str:
    """The page; parts whose table is not there are left out."""
    ends = {"": "", "ablated": "_ablated", "shared": "_overlaps", "surviving": "_surviving"}
    table, ablated, shared, left = (_read(figures / f"kinds_of_heads{end}.csv") for end in ends.values())
    assert table is not None and ablated is not None and shared is not None
    ablated = ablated.reindex(columns=[*dict.fromkeys([*ablated, "others_sd", "farthest", "nothing_to_copy"])])
    parts = [
        "# Kinds of heads\n",
        "Induction heads are one kind of head. `classify_heads(model)` and `induction-lab heads MODEL` score every "
        "head by the definitions of the others that the literature names, and say which heads are of which kinds: "
        "those whose score is as large as people ask and above chance, at a false-discovery rate of 5 % over heads. "
        f"Where nobody has published a value, it is the highest {SHARE:.0%} of all heads that are above chance, or, of "
        "copy suppression, half of the tokens "
        "([scores.md](scores.md) has the scores that are measured by default). Each is a score that "
        "`score_heads(model, scores=[...])` takes by name. `surviving_kinds(model, found)` says how much of each kind "
        "is left where the heads of another are ablated.\n",
        definitions(),
        "\nMany at once: the measurement `kinds` of a [sweep](sweeps.md), `induction-lab follow RUN --kinds all` for "
        "the order in which kinds appear in [training](training.md), and a panel of the [report](report.md).",
        "\n## On a text\n\n`induction-lab activity MODEL --text FILE --html PAGE.html`, or `write_activity` of what "
        "`induction_activity` found, writes a page that stands alone: each token shaded by the share of its "
        "probability that is lost without the heads, and on a tap which heads had a part in it, where they looked and "
        "what they added; in words, what as many random heads of the same layers carry.\n\n"
        "![Heads on a text](../figures/activity_page.png)\n\n## On two models",
        "\nWhat follows was written by `python -m experiments kinds_of_heads`.\n",
    ]
    for model in table["model"].unique():
        parts += [f"### {model}\n", f"![Kinds of heads of {model}](../figures/kinds_of_heads_{model}.png)\n"]
        parts += [best_heads(table[table["model"] == model]), ""]
        parts += ["Ablated together, change of the loss in nats, beside as many heads of no kind:\n"]
        parts += [losses(ablated[ablated["model"] == model]), ""]
        if left is not None and (left["model"] == model).any():
            parts += ["How much of the row's kind is left in later layers without the column's, in per cent:\n"]
            parts += [survival(left[left["model"] == model]), ""]
        both = shared[(shared["model"] == model) & (shared["n_shared"] > 0)]
        parts += ["Kinds that share heads:\n", overlaps(both) if len(both) else "None.", ""]
    return "\n".join([*parts, how(ablated, left), predictions(ablated, shared), *others(figures)])


def _read(path: Path) -> Any:
    return pd.read_csv(path) if path.is_file() else None


def definitions() -> str:
    rows = []
    for kind in find_kinds():
        said = words(kind.score)
        least = f"highest {SHARE:.0%}" if kind.least is None else f"{kind.least:g}"
        rows.append((kind.name, f"`{kind.score}`", said.definition, said.source, least))
    return as_markdown(pd.DataFrame(rows, columns=["kind", "score", "what", "source", "from"]))


def best_heads(table: Any) -> str:
    rows = []
    for kind, some in table.groupby("kind", sort=False):
        best: Any = some.sort_values("value", ascending=False).head(SHOWN)
        digits = 3 if best["value"].max() > 0.05 else 4
        named = ", ".join(
            f"{'**' if row.is_kind else ''}{row.label}{'**' if row.is_kind else ''} {row.value:.{digits}f}"
            + (f" ± {row.standard_error:.{digits}f}" if row.standard_error > 0 else "")
            for row in best.itertuples()
        )
        chance = "–" if some["chance"].isna().all() else f"{some['chance'].mean():.3f}"
        rows.append((kind, chance, int(some["is_kind"].sum()), named))
    return as_markdown(pd.DataFrame(rows, columns=["kind", "chance", "heads", "highest (bold: of the kind)"]))


def losses(ablated: Any) -> str:
    """A row a kind; of each behaviour what is lost without its heads, and without as many others."""
    rows = []
    for kind, some in ablated.groupby("kind", sort=False):
        row: dict[str, Any] = {"kind": kind, "heads": int(some["n_heads"].iloc[0])}
        for found in some.itertuples():
            said = f"**{found.effect:+.2f}**" if found.effect > found.others_most else f"{found.effect:+.2f}"
            beside = f"{found.others:+.2f}, at most {found.others_most:+.2f}" if found.n_sets else "–"
            row[str(found.behaviour)] = f"{said} ± {found.standard_error:.2f} ({beside})"
        least = some[["n_sets", "farthest"]].iloc[0]
        row["sets"] = f"{int(least['n_sets'])}" + (f", {int(least['farthest'])} away" if least["farthest"] > 0 else "")
        rows.append(row)
    return as_markdown(pd.DataFrame(rows))


def survival(left: Any) -> str:
    """A row a kind, a column an ablated kind: what is left, and with bystanders ablated."""
    ablated = list(left["ablated"].unique())
    rows = []
    for kind, some in left.groupby("kind", sort=False):
        known = {row.ablated: row for row in some.itertuples()}
        cells = [_left(known[name]) if name in known else "" for name in ablated]
        rows.append((f"{kind} (of {int(some['n_heads'].max())})", *cells))
    return as_markdown(pd.DataFrame(rows, columns=["kind", *(f"− {name}" for name in ablated)]))


def _left(row: Any) -> str:
    said = f"{100 * row.left:.0f}"
    said = f"**{said}**" if row.left < row.others_least else said
    spread = "" if pd.isna(row.others_sd) else f" ± {100 * row.others_sd:.0f}"
    return f"{said} ({100 * row.others:.0f}{spread})" if row.n_draws else said


def overlaps(shared: Any) -> str:
    rows = [
        (f"{row.kind}, {row.other_kind}", f"{row.n_heads}, {row.n_other_heads}", row.n_shared)
        + (f"{row.expected:.2f}", f"{row.p_value:.1g}")
        for row in shared.sort_values("p_value").itertuples()
    ]
    return as_markdown(pd.DataFrame(rows, columns=["kinds", "heads", "shared", "by chance", "p"]))


def how(ablated: Any, left: Any) -> str:
    """What the tables hold, and what each model can do at all."""
    lists = set(ablated["behaviour"]) & {"words", "translation", "opposites"}
    known = ablated["farthest"].notna().all()  # else which layers the others are from is not known
    where = ", from the same layers where there are enough" if known else ""
    away = ", and how many layers a head may be *away* from the one for which it stands" if known else ""
    tasks = (
        "*tasks*: the right answer's first token after ten examples. " if "tasks" in set(ablated["behaviour"]) else ""
    )
    said = [
        "In the tables of losses each set of heads is replaced by its mean over random tokens, position by position. "
        f"In brackets the same with as many heads of no kind{where}: the mean over different sets (*sets*: how "
        f"many{away}), and the largest. Bold: more than any of them. *copying*: the second copy of random tokens. "
        + tasks
        + (
            "*words*, *translation*, *opposites*: the second of two lists of ten words, which are the same, their "
            "translations (English with French or Spanish, either way), or opposites. "
            if lists
            else ""
        )
        + "Effects of whole sets say what heads do together, and nothing of what one of them does.\n",
    ]
    if left is not None:
        said.append(
            "In the table of what is left, heads put out one vector at all positions, their mean over random tokens, "
            "because scores have prompts of many lengths. Counted are the heads behind the first ablated one that are "
            "not ablated; 100 is their score above chance with nothing ablated. In brackets with as many heads of no "
            "kind, mean and standard deviation over sets; bold: less than with any of them. Kinds known by changing "
            "heads one at a time are ablated, but not measured so: that costs a forward pass a head, prompt and set. "
            "Kinds known by weights alone cannot change. Retrieval is not measured either: such a head scores where "
            "the model predicts the right token, so it loses its score whenever the model fails.\n"
        )
    if lists:
        known = ablated.dropna(subset=["nothing_to_copy"]).drop_duplicates(["model", "behaviour"])
        rows = [
            (row.model, row.behaviour, f"{row.clean:.2f}", f"{row.nothing_to_copy:.2f}")
            + ("yes" if row.nothing_to_copy - row.clean >= CAN else "no: not decided by this model",)
            for row in known.itertuples()
        ]
        names = ["model", "list", "loss in nats", "if the first list has other words", f"copies (by {CAN:g} nat)"]
        said += ["What the models can do, with nothing ablated:\n", as_markdown(pd.DataFrame(rows, columns=names)), ""]
    return "\n".join(said)


def predictions(ablated: Any, shared: Any) -> str:
    """What papers predict, and what came out of each model."""
    effects = ablated.set_index(["model", "behaviour", "kind"])

    def lost(model: str, behaviour: str, kind: str) -> str:
        if (model, behaviour, kind) not in effects.index:
            return f"{kind}: no such head"
        row: Any = effects.loc[(model, behaviour, kind)]
        return f"{kind} {row['effect']:+.2f} (others at most {row['others_most']:+.2f})"

    def above(model: str, behaviour: str, kind: str) -> tuple[float, float] | None:
        """What is lost beyond what is lost without bystanders, and its variance; None if that cannot be said."""
        if (model, behaviour, kind) not in effects.index:
            return None
        row: Any = effects.loc[(model, behaviour, kind)]
        copies = row["nothing_to_copy"] - row["clean"]  # NaN where that is not asked
        if copies < CAN or row["n_sets"] < FEWEST:
            return None
        variance = row["standard_error"] ** 2 + row["others_sd"] ** 2 / row["n_sets"]  # of prompts and of sets
        return float(row["effect"] - row["others"]), float(variance)

    def compared(model: str, behaviour: str, more: str, less: str) -> tuple[str, str]:
        a, b = above(model, behaviour, more), above(model, behaviour, less)
        verdict = "not decided"
        if a is not None and b is not None:
            ahead, error = a[0] - max(b[0], 0.0), (a[1] + b[1]) ** 0.5  # NaN in tables that do not hold it
            verdict = "yes" if ahead > 2 * error else "no" if ahead < -2 * error else verdict
        return f"{lost(model, behaviour, more)}, {lost(model, behaviour, less)}", verdict

    rows = []
    for model in ablated["model"].unique():
        pairs = shared[(shared["model"] == model)].set_index(["kind", "other_kind"])
        key = (model, "copying", "induction")
        if key in effects.index:
            row: Any = effects.loc[key]
            verdict = "yes" if row["effect"] > row["others_most"] else "no"
            verdict = "not decided" if row["n_sets"] < FEWEST else verdict
            rows.append((model, "induction heads carry verbatim copying", lost(*key), verdict))
        said = compared(model, "tasks", "function-vector", "induction")
        rows.append((model, "function-vector heads carry the tasks more than induction heads", *said))
        if ("induction", "function-vector") in pairs.index:
            both: Any = pairs.loc[("induction", "function-vector")]
            n = f"{int(both['n_shared'])} of {int(both['n_heads'])} and {int(both['n_other_heads'])}"
            smaller = min(both["n_heads"], both["n_other_heads"])  # of 2 heads nothing but both shared would be many
            few = "not decided" if smaller <= 2 else "yes" if both["n_shared"] <= smaller / 2 else "no"
            rows.append((model, "few heads are both induction and function-vector heads", n, few))
        for behaviour, more, less in (
            ("copying", "token", "concept"), ("words", "token", "concept"), ("translation", "concept", "token"),
            ("opposites", "concept", "token"),
        ):  # fmt: skip
            claim = f"{behaviour} goes with {more} heads more than with {less} heads"
            for by in ("matching", "copying") if behaviour in set(ablated["behaviour"]) else ():
                rows.append((model, claim, *compared(model, behaviour, f"{more}-{by}", f"{less}-{by}")))
    table = as_markdown(pd.DataFrame(rows, columns=["model", "predicted", "came out (nats)", "as predicted"]))
    return (
        "## What papers predict of larger models\n\nOf two kinds it is compared what is lost beyond the mean of as "
        "many others; one is more if the difference is above twice its standard error, of prompts and of sets. Few "
        "are both if at most half of the smaller kind is shared. *Not decided*: a kind has no head or fewer "
        f"than {FEWEST} sets of bystanders, the difference is within that or its error is not known, two kinds are "
        "compared of which one has 2 heads or fewer, or the model does not do what is measured.\n\n" + table + "\n"
    )


def others(figures: Path) -> list[str]:
    """What other experiments left."""
    from experiments.showcase import context_lengths, score_costs

    sections = {"context_lengths": context_lengths.section, "score_costs": score_costs.section}
    tables = {name: _read(figures / f"{name}.csv") for name in sections}
    return [sections[name](table) for name, table in tables.items() if table is not None]
