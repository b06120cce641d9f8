"""What kinds of heads a model has, when they appear, and what they do on a text, on a terminal."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from induction_lab.attribution.one_text import TextActivity
from induction_lab.circuits.kinds import BY_NAME, RATE, SHARE, HeadKinds
from induction_lab.development.kinds import order_of_kinds
from induction_lab.development.trajectory import Trajectory

SHOWN = 6  # heads of a kind in one line


def show_kinds(found: HeadKinds) -> None:
    """How many heads of each kind, the best with their values, and the kinds that share more heads than by chance."""
    out = Console(highlight=False)
    n_heads, n_kinds = found.table["label"].nunique(), len(found.heads())
    out.print(f"[bold]{escape(found.model)}[/bold]: {n_kinds} of {n_heads} heads are of a kind.\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("kind", no_wrap=True)
    for column in ("from", "chance", "heads"):
        table.add_column(column, justify="right")
    table.add_column("best")
    every: Any = found.table
    values = every.set_index(["kind", "label"])
    for kind in found.kinds:
        members, rows = found.of(kind), every[every["kind"] == kind]
        named = members or []
        best = [f"{head} {_with_error(values.loc[(kind, str(head))])}" for head in named[:SHOWN]]
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        if not named:
            top = rows.loc[rows["value"].idxmax()]
            best = [f"[dim]none; the highest is {top['label']} {_with_error(top)}[/dim]"]
        least = BY_NAME[kind].least
        chance = rows["chance"].mean()
        said = "–" if math.isnan(chance) else f"{chance:.3f}"
        table.add_row(
            kind, f"top {SHARE:.0%}" if least is None else f"{least:g}", said, str(len(named)), ", ".join(best) + more
        )
    out.print(table)
    shared: Any = found.overlaps()
    shared = shared[(shared["n_shared"] > 0) & (shared["p_value"] < 0.05)]
    if len(shared):
        out.print()
        for row in shared.sort_values("p_value").to_dict("records"):
            out.print(
                f"{row['kind']} and {row['other_kind']} share {row['n_shared']} heads "
                f"(of {row['n_heads']} and {row['n_other_heads']}; {row['expected']:.1f} by chance)"
            )
    for name, reason in found.provenance.get("left_out", {}).items():
        out.print(f"[dim]left out: {name}: {escape(reason)}[/dim]")


def show_order(trajectory: Trajectory) -> None:
    """In which order kinds of heads appear over training."""
    out = Console(highlight=False)
    steps = trajectory.steps
    out.print(f"[bold]{escape(trajectory.runs[0])}[/bold], kinds of heads in the order in which they appear:\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", justify="right")
    table.add_column("kind", no_wrap=True)
    for column in ("after step", "by step", "head", f"heads at {steps[-1]:,}"):
        table.add_column(column, justify="left" if column == "head" else "right")
    for row in order_of_kinds(trajectory).to_dict("records"):
        after, step, first = (None if pd.isna(row[name]) else f"{row[name]:,}" for name in ("after", "step", "first"))
        head = "–" if first is None else f"– (at step {first} alone)"
        if step is not None:
            head = f"{row['head']} {_with_error(row)}"
        place = "" if pd.isna(row["order"]) else str(row["order"])
        table.add_row(place, row["kind"], after or "–", step or "–", head, str(row["n_heads"]))
    out.print(table)
    out.print(
        "\n[dim]Those with one number appear between the same checkpoints. By chance a kind without heads has one at "
        f"up to {RATE:.0%} of checkpoints: it counts from the first of two in a row.[/dim]"
    )
    for what, at in trajectory.provenance.get("left_out", {}).items():
        out.print(f"[dim]left out at {len(at)} of {len(steps)} checkpoints: {escape(what)}[/dim]")
    out.print()


def show_activity(found: TextActivity) -> None:
    """The text, tokens that come from context underlined, and a row for each of them."""
    out = Console(highlight=False)
    known: Any = found.tokens
    copied: Any = found.is_from_context
    text = Text()
    for token, here in zip(known["token"], copied.shift(1, fill_value=False), strict=True):
        text.append(token, style="bold underline" if here else "")
    out.print(f"[bold]{escape(found.model)}[/bold]: {int(copied.sum())} of {len(known) - 1} tokens come from context")
    out.print("[dim](underlined: 1 % or more with the heads, at most half of that without)[/dim]\n")
    out.print(text)
    out.print(f"\n[dim]{found.chance}[/dim]")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("position", "token", "next"):
        table.add_column(column, no_wrap=True)
    numbers = ("p", "without", "nats", "others", "most")
    for column in numbers if len(found.control) else numbers[:3]:
        table.add_column(column, justify="right", no_wrap=True, min_width=6 if column != "p" else 5)
    table.add_column("awake", no_wrap=True)
    for row in known[copied].to_dict("records"):
        chances = (f"{math.exp(row[name]):.3f}" for name in ("log_p", "log_p_without"))
        names = ("from_context", "others", "others_most")
        nats = [f"{row[name]:+.2f}" for name in names if not math.isnan(row[name])]
        words = (escape(row[name]) for name in ("token", "next_token"))
        table.add_row(str(row["position"]), *words, *chances, *nats, _first(row["awake"].split()))
    if copied.any():
        out.print()
        out.print(table)
        if len(found.control):
            out.print(
                "[dim]others, most: nats lost without as many random heads of the same layers, mean and highest[/dim]"
            )


def _first(heads: list[str], n: int = 2) -> str:
    """Names of the first heads, and how many more."""
    return " ".join([*heads[:n], *([f"+{len(heads) - n}"] if len(heads) > n else [])])


def show_predictions(model: str, found: pd.DataFrame, heads: str) -> None:
    """A block of rows for each position: the likeliest next tokens, with all heads and without those named."""
    out = Console(highlight=False)
    ablated = f", with all heads and without {heads}" if heads else ""
    out.print(f"[bold]{escape(model)}[/bold]: the likeliest next tokens{ablated}")
    if heads:
        out.print("[dim](nats: what the heads add to the logarithm of the probability)[/dim]")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("position", "token", "next"):
        table.add_column(column, no_wrap=True)
    numbers = [name for name in ("probability", "without", "nats") if name in found]
    for column in numbers:
        table.add_column(column, justify="right")
    last = None
    for row in found.to_dict("records"):
        new, last = row["position"] != last, row["position"]
        where = (str(row["position"]), escape(row["token"])) if new else ("", "")
        shown = [f"{round(row[name], 2) + 0.0:+.2f}" if name == "nats" else f"{row[name]:.3f}" for name in numbers]
        table.add_row(*where, escape(row["next_token"]), *shown)
    out.print(table)


def _with_error(row: Any) -> str:
    error = row["standard_error"]
    return f"{row['value']:.2f}" + (f"±{error:.2f}" if not math.isnan(error) and error > 0 else "")
