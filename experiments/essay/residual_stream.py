"""Is a layer's input the sum of all that was written before it, do queries, keys and values come from it, and whose?

    python -m experiments residual_stream

1. The input of every layer against the embedding plus all earlier outputs. 2. Queries, keys and values recomputed from
it through the layer's own norm and weights, rotation included; and a run on one prompt that is given the stream of
another in one layer, which must go on as the other's. 3. Whose writing the strongest induction head's keys, queries and
values are made of, and what its attention score at the induction targets is made of. Writes to
figures/: residual_stream.csv (errors by layer; shares of every component), residual_stream.json (verdicts),
residual_stream.png, residual_stream_shares.png. About 4 minutes on one CPU core.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.of_models import Least, on_models
from experiments.essay.passages import MODELS
from experiments.judging import Effect, by_construction, judge
from experiments.subjects.induction_models import LOOKS, Subject, subject
from experiments.verdicts import Verdict
from induction_lab import Head, HookedModel, Prompts, capture, input_shares, score_shares
from induction_lab.runtime.progress import progress_bar
from induction_lab.weights.queries_keys import read_from_stream
from induction_lab.weights.rotary import relative_rotations

ERRORS, SHARES = "errors", "shares"  # parts of the table
INDUCTION, CONTROL = "induction head", "control"  # whose keys, queries and values
PROMPTS = 8  # of repeated random tokens
EXACT = 1e-4  # the largest relative error that rounding to float32 is allowed
WRONG = 1e-2  # the least that a wrong stream must be off by
NO_INDUCTION = 0.1  # prefix matching of a head that is called no induction head
CONTROLS = 4  # heads that are no induction heads
PARTS = {"k": "keys", "q": "queries", "v": "values", "score": "attention score at its targets"}
COLOURS = {"k": "#d1495b", "q": "#2a6f97", "v": "#8d99ae", "score": "#e09f3e"}
LINES = {
    "sum": ("the sum of all before it", "#d1495b", "o"),
    "qkv": ("Q, K, V recomputed from it", "#2a6f97", "s"),
    "swapped": ("the rest of a run given it", "#e09f3e", "^"),
    "least left out": ("control: least output left out", "#8d99ae", "v"),
    "layer before": ("control: Q, K, V from a layer before", "#5c677d", "<"),
    "layer after": ("control: Q, K, V from a layer after", "#33415c", ">"),
}


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "residual_stream",
        lambda model, most, seed: measured(model, most or PROMPTS, seed),
        lambda table: [verdict_sum(of(table, ERRORS)), verdict_read(of(table, ERRORS)), verdict_shares(table)],
        lambda table: {"": draw_errors(of(table, ERRORS)), "_shares": draw_shares(of(table, SHARES))},
        least=Least("prompts", 2, "for a standard error"),
        seed="which heads are the controls",
        reads=False,
        models=("induction-2l", *MODELS),
    )


def measured(model: HookedModel, n_prompts: int, seed: int) -> list[dict[str, Any]]:
    """A row for each layer and error, and for each component and part of a receiving head.

    Raises:
        ValueError: If the model has no induction head.
    """
    one = subject(model, n_prompts=n_prompts)
    if not one.induction:
        best = one.scores.top("prefix_matching", 1)[0]
        raise ValueError(f"{model.name} has no induction head (best {best[0]}: {best[1]:.2f}): give another model.")
    tables = {ERRORS: errors_by_layer(model, one.prompts[:2]), SHARES: shares_of(one, seed)}
    parts = [table.assign(model=model.name, part=part) for part, table in tables.items()]
    return [{str(name): value for name, value in row.items()} for each in parts for row in each.to_dict("records")]


def of(table: pd.DataFrame, part: str) -> Any:
    """The rows and columns of one part of the table."""
    return table[table["part"] == part].dropna(axis=1, how="all")


def errors_by_layer(model: HookedModel, prompts: Prompts) -> pd.DataFrame:
    """For every layer: relative errors, the greatest over positions; of controls the median over positions."""
    learned = ["pos_embed"] if "hook_pos_embed" in model.hooked.hook_dict and not model.anatomy.is_rotary else []
    outputs = ["attn_out"] + ["mlp_out"] * (not model.hooked.cfg.attn_only)
    rotary = model.anatomy.is_rotary
    turned = ["rot_q", "rot_k", "v"] if rotary else ["q", "k", "v"]
    acts = capture(model, prompts, ["embed", *learned, "resid_pre", "resid_post", *outputs, *turned])
    R = relative_rotations(model, range(prompts.tokens.shape[1])) if rotary else None
    written = acts["embed"] + (acts["pos_embed"] if learned else 0)
    earlier, rows, last, own = [], [], model.n_layers - 1, model.logits(prompts.tokens)
    with progress_bar(model.n_layers, "layers", shown=sys.stderr.isatty()) as tick:
        for layer in range(model.n_layers):
            stream = acts["resid_pre", layer]
            row: dict[str, Any] = {"sum": relative(written, stream).max()}
            if earlier:
                row["least left out"] = min(relative(written - one, stream).median() for one in earlier)
            around = {"qkv": stream}
            around |= {"layer before": acts["resid_pre", layer - 1]} if layer else {}
            around["layer after"] = acts["resid_pre", layer + 1] if layer < last else acts["resid_post", last]
            for label, x in around.items():
                off = [
                    relative(made_of(model, layer, part, x, R), acts[name, layer])
                    for part, name in zip(("q", "k", "v"), turned, strict=True)
                ]
                row[label] = max(x.max() for x in off) if label == "qkv" else min(x.median() for x in off)
            row["swapped"] = swapped(model, prompts, layer, stream, own)
            rows += [{"layer": layer, "measure": name, "error": float(error)} for name, error in row.items()]
            earlier += [acts[name, layer] for name in outputs]
            written = written + sum(earlier[-len(outputs) :])
            tick(1)
    return pd.DataFrame(rows)


def made_of(model: HookedModel, layer: int, part: Any, stream: Tensor, R: Tensor | None) -> Tensor:
    """A layer's queries, keys or values, were this its input: `[prompt, pos, head, d_head]`."""
    heads = read_from_stream(model, layer, part, stream.flatten(0, 1))
    heads = heads.unflatten(1, stream.shape[:2]).movedim(0, 2)
    return heads if R is None or part == "v" else torch.einsum("bphd,pde->bphe", heads, R[layer])


def relative(ours: Tensor, theirs: Tensor) -> Float[Tensor, "prompt pos"]:
    """Length of the difference over the length of what it should be, all heads of a position together."""
    return (ours - theirs).flatten(2).norm(dim=-1) / theirs.flatten(2).norm(dim=-1)


def swapped(model: HookedModel, prompts: Prompts, layer: int, stream: Tensor, own: Tensor) -> float:
    """A run on other prompts that is given these prompts' stream: how far its logits are from these prompts' `own`.

    In units of how far the others' logits are, so 1 if the stream decided nothing and 0 if it decides all.
    """
    others = prompts.tokens.roll(1, 0)
    with torch.inference_mode():
        hooks: Any = [(f"blocks.{layer}.hook_resid_pre", lambda x, hook: stream)]
        logits = model.hooked.run_with_hooks(others.to(model.device), fwd_hooks=hooks)
    return float((logits - own).norm() / (own.roll(1, 0) - own).norm())


def shares_of(one: Subject, seed: int) -> pd.DataFrame:
    """Every component's share of the strongest induction head's keys, queries, values and score; of others' keys."""
    head, reference = one.induction[0], one.reference
    tables = [
        input_shares(one.model, one.prompts, head, part, reference=reference).assign(of=part)
        for part in ("k", "q", "v")
    ]
    previous = previous_token_head(one, head, tables[0])
    tables.append(score_shares(one.model, one.prompts, head).assign(of="score"))
    tables = [table.assign(receiver=str(head), role=INDUCTION) for table in tables]
    for other in no_induction_heads(one, previous, seed):
        table = input_shares(one.model, one.prompts, other, "k", reference=reference)
        tables.append(table.assign(of="k", receiver=str(other), role=CONTROL))
    return pd.concat(tables, ignore_index=True).assign(previous=str(previous), prompts=len(one.prompts))


def previous_token_head(one: Subject, receiver: Head, keys: pd.DataFrame) -> Head:
    """Of the previous-token heads below the receiver (the best, where none passes) the one whose writing it reads most.

    That with the best score was the first choice. In gemma3-270m it is another than the one that tells the induction
    heads, as cutting its path says too.
    """
    shares = keys.set_index("sender")["share"]
    heads = [head for head in one.scores.above("previous_token", LOOKS) if head.layer < receiver.layer]
    return max(heads or [one.previous], key=lambda head: shares[str(head)])


def no_induction_heads(one: Subject, previous: Head, seed: int) -> list[Head]:
    """Random heads above the previous-token head whose keys no induction head shares."""
    scores, group = one.scores["prefix_matching"], one.model.n_heads // one.model.n_kv_heads
    keys: dict[tuple[int, int], list[Head]] = {}
    for layer in range(previous.layer + 1, one.model.n_layers):
        for head in range(one.model.n_heads):
            keys.setdefault((layer, head // group), []).append(Head(layer, head))
    quiet = [heads[0] for heads in keys.values() if all(scores[head] < NO_INDUCTION for head in heads)]
    return random.Random(seed).sample(quiet, min(CONTROLS, len(quiet)))


def verdict_sum(errors: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for name, rows in errors.groupby("model", sort=False):
        by = rows.pivot(index="layer", columns="measure", values="error")
        numbers[name] = f"at most {by['sum'].max():.1e} (layer {by['sum'].idxmax()}), {len(by)} layers"
        passed[name] = bool(by["sum"].max() < EXACT < by["least left out"].min())
        control.append(f"{name}: {by['least left out'].min():.1e} to {by['least left out'].max():.1e}")
    return Verdict(
        claim="The input of layer N is the embedding plus the sum of what all earlier layers wrote",
        source="essay §5",
        measured="The input of every layer, and the embedding plus all attention and MLP outputs below it, captured in "
        "one run on repeated random tokens; length of the difference over the length of the input, float32.",
        criterion=f"below {EXACT} at every position of every layer, and above it with any one earlier output left out",
        numbers=numbers,
        control="with the one earlier output left out that matters least there, median over positions, least and "
        "greatest of the layers: " + "; ".join(control),
        **by_construction(passed),
    )


def verdict_read(errors: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for name, rows in errors.groupby("model", sort=False):
        by = rows.pivot(index="layer", columns="measure", values="error")
        wrong = by[["layer before", "layer after"]].min()
        numbers[name] = f"Q, K, V at most {by['qkv'].max():.1e}; logits of the run given it {by['swapped'].max():.1e}"
        passed[name] = bool(by[["qkv", "swapped"]].max().max() < EXACT and wrong.min() > WRONG)
        control.append(f"{name}: {wrong['layer before']:.2f} and {wrong['layer after']:.2f}")
    return Verdict(
        claim="Queries, keys and values of layer N come from the residual stream before it, and from nothing else",
        source="essay §5",
        measured="Q, K and V made of each layer's captured input by its norm, weights and rotation, against those the "
        "model attended with (relative error); and logits of a run on one prompt whose stream is replaced, in that "
        "layer, by another prompt's, against that other prompt's logits (1: nothing changed).",
        criterion=f"both below {EXACT} in every layer, and from the stream one layer before or after the error of the "
        f"best of Q, K and V is above {WRONG}",
        numbers=numbers,
        control="from the stream of the layer before and after, the least error of all layers: " + "; ".join(control),
        **by_construction(passed),
    )


def verdict_shares(table: pd.DataFrame) -> Verdict:
    numbers, effects, control = {}, {}, []
    for name, rows in of(table, SHARES).groupby("model", sort=False):
        previous, n_prompts = str(rows["previous"].iloc[0]), int(rows["prompts"].iloc[0])
        received = rows[rows["role"] == INDUCTION]
        head, own = str(received["receiver"].iloc[0]), {part: received[received["of"] == part] for part in PARTS}
        at = {part: table.set_index("sender").loc[previous] for part, table in own.items()}
        ranks = {part: rank(table, previous) for part, table in own.items()}
        others = rows[(rows["role"] == CONTROL) & (rows["sender"] == previous)]
        others = others.dropna(subset=["share"])  # keys that read nothing at all
        less = [at["q"], at["v"], *(row for _, row in others.iterrows())]
        rivals = [table[(table["head"] >= 0) & (table["sender"] != previous)] for table in (own["k"], own["score"])]
        pairs = [(at["k"], row) for row in less]
        pairs += [
            (at[part], rows.loc[rows["share"].idxmax()])
            for part, rows in zip(("k", "score"), rivals, strict=True)
            if len(rows)
        ]
        margins = [margin(more, other, n_prompts) for more, other in pairs]
        effects[str(name)] = min(margins, key=lambda each: each.value)
        told = ", ".join(f"{PARTS[part]} {said(row)} (head {ranks[part]})" for part, row in at.items())
        first = {part: table[table["head"] >= 0].nlargest(1, "share").iloc[0] for part, table in own.items()}
        more = ", ".join(f"{PARTS[part]} {row['sender']} {said(row)}" for part, row in first.items() if ranks[part] > 1)
        numbers[str(name)] = (
            f"{previous} in {head}: {told} of {(own['k']['head'] >= 0).sum()} heads; first: {more or 'it'}"
        )
        quiet = ", ".join(f"{row['receiver']} {row['share']:.3f}" for _, row in others.iterrows())
        control.append(f"{name}, {previous} in keys of heads that match no prefix: {quiet or 'there is no such head'}")
    return Verdict(
        claim="The keys of an induction head read what the previous-token head wrote; its queries and values do not",
        source="essay §5",
        measured="Shares of every embedding, head and MLP in the change of the strongest induction head's key, query "
        "and value when all are replaced by their mean over other prompts, and in its score at the induction targets "
        "above its other keys; repeated random tokens, standard errors over prompts.",
        criterion="of all earlier attention heads the previous-token head that the keys read most has the largest "
        "share of the keys and of the score, and its share of the keys is greater than that of the queries, of the "
        "values, and of the keys of each control head: the least of these margins is above 0",
        numbers=numbers,
        control="; ".join(control),
        **judge(effects, 0.0, unit="of the change"),
    )


def margin(more: Any, less: Any, n_prompts: int) -> Effect:
    error = float(np.hypot(more["standard_error"], less["standard_error"]))
    return Effect(float(more["share"] - less["share"]), error, n_prompts)


def rank(table: Any, sender: str) -> int:
    """Among attention heads, from 1."""
    heads = table[table["head"] >= 0].sort_values("share", ascending=False)
    return heads["sender"].tolist().index(sender) + 1


def said(row: Any) -> str:
    return f"{row['share']:.3f} ± {row['standard_error']:.3f}"


def draw_errors(errors: Any) -> Figure:
    names = list(dict.fromkeys(errors["model"]))
    widths = [max(4, errors[errors["model"] == name]["layer"].nunique() ** 0.7) for name in names]
    figure, axes = plt.subplots(
        1, len(names), figsize=(10, 4.2), width_ratios=widths, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[0], names, strict=True):
        rows = errors[errors["model"] == name]
        for measure, (label, colour, marker) in LINES.items():
            line = rows[rows["measure"] == measure]
            ax.plot(line["layer"], line["error"].clip(lower=1e-9), color=colour, marker=marker, ms=4, lw=1, label=label)
        exact = rows[rows["measure"].isin(["sum", "qkv", "swapped"])]["error"].max()
        ax.set(yscale="log", ylim=(5e-10, 5), xlabel="layer", title=f"{name}: ≤ {exact:.0e}")
        ax.title.set_fontsize(10)
        ax.axhline(EXACT, color="#222222", lw=0.8, ls=":")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("relative error (0 is drawn at 1e-9)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_shares(shares: Any, most: int = 8) -> Figure:
    models = list(shares.groupby("model", sort=False))
    figure, axes = plt.subplots(1, len(models), figsize=(4 * len(models), 4.8), squeeze=False, layout="constrained")
    for ax, (name, rows) in zip(axes[0], models, strict=True):
        own = rows[rows["role"] == INDUCTION]
        draw_bars(ax, own, most)
        top = own[(own["of"] == "k") & (own["head"] >= 0)].nlargest(1, "share").iloc[0]
        keys = f"keys of {own['receiver'].iloc[0]} read {top['sender']} most"
        ax.set_title(f"{name}:\n{keys} ({top['share']:.0%})", fontsize=10)
    axes[0, -1].legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def draw_bars(ax: Axes, rows: Any, most: int) -> None:
    wide = rows.pivot(index="sender", columns="of", values="share")
    errors = rows.pivot(index="sender", columns="of", values="standard_error")
    shown = wide.drop(index="bias", errors="ignore").abs().max(axis=1).nlargest(most).index
    place = np.arange(len(shown))
    for i, (part, label) in enumerate(PARTS.items()):
        x, error = wide.loc[shown, part], errors.loc[shown, part]
        ax.barh(place + (i - 1.5) * 0.2, x, 0.19, xerr=error, color=COLOURS[part], label=label, error_kw={"lw": 0.8})
    ax.set_yticks(place, list(shown))
    ax.invert_yaxis()
    ax.axvline(0, color="#222222", lw=0.8)
    ax.set_xlabel("share of what is read")
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(sys.argv[1:])
